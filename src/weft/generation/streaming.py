"""A decoder continues prompts, piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from weakref import WeakSet

from weft.errors import WeftError
from weft.generation.likelihood import check_logprobs
from weft.generation.rows import Rows
from weft.generation.sampling import Sampler, Sampling
from weft.generation.texts import Piece, RowText
from weft.models.transformer import Transformer
from weft.text.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

MAX_TOKENS = 256
"""New tokens unless told otherwise, where the trained length leaves as many."""


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling | None = None,
    *,
    use_cache: bool = True,
    logprobs: int | None = None,
) -> Iterator[Piece]:
    """Each row's new tokens as they come, a token of every unfinished row in turn; an empty prompt starts a document.

    Without the cache every step computes everything anew: slow, and the reference. With `logprobs` each piece tells how
    probable its token was, beside so many alternatives. Raises as `generate` does, at once.
    """
    sampling = sampling or Sampling()
    check_logprobs(logprobs)
    if answers_sources(model):
        raise WeftError("an encoder-decoder's answer is searched for and comes whole: use generate or answer")
    check(model, tokenizer)
    tokens = [tokenizer.encode(prompt) for prompt in prompts]
    fed = [row or [tokenizer.end_of_document] for row in tokens]
    budgets = budgets_of(model, [len(row) for row in fed], sampling.max_tokens)
    if use_cache and model.decoder is not None:
        model.decoder.check_cached(
            max((len(row) + budget for row, budget in zip(fed, budgets, strict=True)), default=0)
        )
    sampler = Sampler(sampling, tokens, tokenizer.vocab_size)
    rows = Rows(model, fed, sampler, use_cache=use_cache, logprobs=logprobs)
    texts = [RowText(row, tokenizer, tokens[row], sampling.stop, budget) for row, budget in enumerate(budgets)]
    return _run(rows, texts)


def _run(rows: Rows, texts: list[RowText]) -> Iterator[Piece]:
    while texts:
        new = zip(texts, rows.step(), strict=True)
        pieces = [replace(text.push(token), likelihood=likelihood) for text, (token, likelihood) in new]
        yield from pieces
        unfinished = [index for index, piece in enumerate(pieces) if piece.finish is None]
        if unfinished and len(unfinished) < len(texts):
            rows.select(unfinished)
        texts = [texts[index] for index in unfinished]


def answers_sources(model: Transformer) -> bool:
    """Whether the model reads a text and writes another, rather than going on with it.

    Raises WeftError for an encoder, which writes nothing.
    """
    if model.decoder is None:
        raise WeftError("this model is an encoder: it reads and writes nothing; weft predict tells what it finds")
    return model.encoder is not None


def check(model: Transformer, tokenizer: Tokenizer) -> None:
    """Raises WeftError when the model has no head that writes, or the tokenizer is another model's."""
    if "lm" not in model.heads:
        raise WeftError(f"this model has no language model head `lm` (heads: {', '.join(model.heads) or 'none'})")
    known = model.config.dims().vocab_size
    if tokenizer.vocab_size > known:
        raise WeftError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {known}: they do not belong together"
        )


_told: WeakSet[Transformer] = WeakSet()


def budgets_of(model: Transformer, lengths: Sequence[int], max_tokens: int | None) -> list[int]:
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
