"""A model writes: a decoder continues prompts, piece by piece or whole; an encoder-decoder answers them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload
from weakref import WeakSet

from weft.config import load
from weft.errors import WeftError
from weft.generation.rows import Rows, pad
from weft.generation.sampling import Sampler, Sampling
from weft.generation.search import Hypothesis, Searching, search
from weft.generation.stops import Stops
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.text.streaming import StreamDecoder
from weft.text.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

MAX_TOKENS = 256
"""New tokens unless told otherwise, where the trained length leaves as many."""

Finish = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Piece:
    """One new token of one row."""

    row: int
    """which prompt it continues"""
    token: int
    text: str
    """what is certain now: empty after half a character, or where a stop string may have begun; the rest comes later"""
    finish: Finish | None
    """why the row ends with this token: the document's end, a stop string, the number of tokens"""


@overload
def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: str, *, use_cache: bool = True, **options: Any
) -> str: ...


@overload
def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[str], *, use_cache: bool = True, **options: Any
) -> list[str]: ...


def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: str | Sequence[str], *, use_cache: bool = True, **options: Any
) -> str | list[str]:
    """How the model continues a prompt, or each of a list of them; the prompt itself is not repeated.

    `options` are those of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed.
    An encoder-decoder answers the prompt; its options are those of `Searching`: beams, length_penalty, max_tokens.
    Raises WeftError for options that make no sense, for more tokens than the model's positions can number, and for an
    encoder, which writes nothing.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if answers_sources(model):
        if not use_cache:
            raise WeftError("use_cache = False: a search has no way without the cache")
        found = [text for text, _ in answer(model, tokenizer, prompts, load(Searching, options))]
        return found[0] if isinstance(prompt, str) else found
    texts = [""] * len(prompts)
    for piece in stream(model, tokenizer, prompts, load(Sampling, options), use_cache=use_cache):
        texts[piece.row] += piece.text
    return texts[0] if isinstance(prompt, str) else texts


def answers_sources(model: Transformer) -> bool:
    """Whether the model reads a text and writes another, rather than going on with it.

    Raises WeftError for an encoder, which writes nothing.
    """
    if model.decoder is None:
        raise WeftError("this model is an encoder: it reads and writes nothing; weft predict tells what it finds")
    return model.encoder is not None


def answer(
    model: Transformer, tokenizer: Tokenizer, sources: Sequence[str], options: Searching | None = None
) -> list[tuple[str, Hypothesis]]:
    """What an encoder-decoder writes after reading each of these texts, all of them at once, and how it was found.

    Raises WeftError for a model that is none, or cannot number as many tokens.
    """
    options = options or Searching()
    _check(model, tokenizer)
    if not sources:
        return []
    end = tokenizer.end_of_document
    tokens_BS, valid_BS, _ = pad([[*tokenizer.encode(text), end] for text in sources])
    found = search(
        model, Inputs(tokens_BT=tokens_BS, valid_BT=valid_BS), start=end, end=end, beams=options.beams,
        max_tokens=options.max_tokens or min(MAX_TOKENS, model.config.max_length),
        length_penalty=options.length_penalty, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return [(tokenizer.decode(each.tokens), each) for each in found]


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling | None = None,
    *,
    use_cache: bool = True,
) -> Iterator[Piece]:
    """Each row's new tokens as they come, a token of every unfinished row in turn; an empty prompt starts a document.

    Without the cache every step computes everything anew: slow, and the reference. Raises as `generate` does, at once.
    """
    sampling = sampling or Sampling()
    if answers_sources(model):
        raise WeftError("an encoder-decoder's answer is searched for and comes whole: use generate or answer")
    _check(model, tokenizer)
    tokens = [tokenizer.encode(prompt) for prompt in prompts]
    fed = [row or [tokenizer.end_of_document] for row in tokens]
    budgets = _budgets(model, [len(row) for row in fed], sampling.max_tokens)
    if use_cache and model.decoder is not None:
        model.decoder.check_cached(
            max((len(row) + budget for row, budget in zip(fed, budgets, strict=True)), default=0)
        )
    rows = Rows(model, fed, Sampler(sampling, tokens, tokenizer.vocab_size), use_cache=use_cache)
    texts = [_RowText(row, tokenizer, tokens[row], sampling.stop, budget) for row, budget in enumerate(budgets)]
    return _run(rows, texts)


def _run(rows: Rows, texts: list[_RowText]) -> Iterator[Piece]:
    while texts:
        pieces = [text.push(token) for text, token in zip(texts, rows.step(), strict=True)]
        yield from pieces
        unfinished = [index for index, piece in enumerate(pieces) if piece.finish is None]
        if unfinished and len(unfinished) < len(texts):
            rows.select(unfinished)
        texts = [texts[index] for index in unfinished]


class _RowText:
    """The text of one row's new tokens, and when it ends."""

    def __init__(self, row: int, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], left: int) -> None:
        self.row = row
        self.left = left
        self.stops = Stops(stop)
        self.end = _end(tokenizer)
        self.decoder = StreamDecoder(tokenizer)
        for token in prompt:  # some tokenizers write a text's first token without the space before it
            self.decoder.push(token)
        self.decoder.finish()

    def push(self, token: int) -> Piece:
        """The next token's piece."""
        self.left -= 1
        ended = token == self.end
        new = self.decoder.finish() if ended else self.decoder.push(token)
        text, stopped = self.stops.push(new)
        finish: Finish | None = "stop" if stopped else "end" if ended else None if self.left else "length"
        if finish in ("end", "length"):  # a character that the number of tokens cuts in two is left out
            text += self.stops.flush()
        return Piece(self.row, token, text, finish)


def _end(tokenizer: Tokenizer) -> int | None:
    try:
        return tokenizer.end_of_document
    except WeftError:  # a text then ends by a stop string or its number of tokens
        return None


def _check(model: Transformer, tokenizer: Tokenizer) -> None:
    if "lm" not in model.heads:
        raise WeftError(f"this model has no language model head `lm` (heads: {', '.join(model.heads) or 'none'})")
    known = model.config.dims().vocab_size
    if tokenizer.vocab_size > known:
        raise WeftError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {known}: they do not belong together"
        )


_told: WeakSet[Transformer] = WeakSet()


def _budgets(model: Transformer, lengths: Sequence[int], max_tokens: int | None) -> list[int]:
    """Most new tokens of each row, whose prompts have these lengths.

    Raises WeftError when the positions cannot number as many.
    """
    trained, limit = model.config.max_length, model.limit()
    rooms = [trained - length for length in lengths]
    budgets = [max_tokens or (min(MAX_TOKENS, room) if room > 0 else MAX_TOKENS) for room in rooms]
    longest = max(lengths, default=0)
    if limit is not None and longest >= limit:
        raise WeftError(f"a prompt of {longest} tokens: these positions end at {limit}; shorten the prompt")
    total = max((length + budget for length, budget in zip(lengths, budgets, strict=True)), default=0)
    if limit is not None and total > limit:
        raise WeftError(
            f"a prompt of {longest} tokens and max_tokens = {max_tokens} are {total}: these positions end at {limit};"
            f" max_tokens = {limit - longest} fits"
        )
    if total > trained and model not in _told:
        _told.add(model)
        logger.warning(
            "up to %d tokens, beyond the %d that this model was trained for: what it writes there may be worse",
            total, trained,
        )  # fmt: skip
    return budgets
