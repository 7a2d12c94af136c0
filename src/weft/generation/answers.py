"""What a model writes, whole: drawn token by token, or searched for; and how probable each token of it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.errors import WeftError
from weft.generation.forward import pad
from weft.generation.likelihood import Likelihood, check_logprobs, read
from weft.generation.sampling import Sampling
from weft.generation.search import Hypothesis, Searching, search
from weft.generation.streaming import MAX_TOKENS, answers_sources, budgets_of, check, stream
from weft.generation.texts import Finish, Piece, RowText, end_of
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What a model wrote after a prompt."""

    text: str
    """without the prompt, and without a stop string"""
    tokens: tuple[int, ...]
    """all new ones: the document's end where it came, and those of a stop string"""
    finish: Finish
    likelihoods: tuple[Likelihood, ...] = ()
    """how probable each of the tokens was, where that was asked for"""
    found: Hypothesis | None = None
    """how a search found it"""


def answer(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Sampling | Searching | None = None,
    *,
    number: int = 1,
    logprobs: int | None = None,
    use_cache: bool = True,
) -> list[list[Answer]]:
    """`number` continuations of each prompt; an encoder-decoder's answers to each of these texts.

    Drawn with `Sampling`, the best of a beam with `Searching`, which is all that an encoder-decoder does. With
    `logprobs` it is told how probable each token was, beside so many alternatives.
    Raises WeftError as `generate` does.
    """
    options = options or (Searching() if answers_sources(model) else Sampling())
    check_logprobs(logprobs)
    if number < 1:
        raise WeftError(f"number = {number}: how many texts after each prompt; 1 or more")
    if isinstance(options, Searching):
        if not use_cache:
            raise WeftError("use_cache = False: a search has no way without the cache")
        return _searched(model, tokenizer, prompts, options, number, logprobs)
    repeated = [prompt for prompt in prompts for _ in range(number)]
    rows: list[list[Piece]] = [[] for _ in repeated]
    for piece in stream(model, tokenizer, repeated, options, use_cache=use_cache, logprobs=logprobs):
        rows[piece.row].append(piece)
    answers = [_answer(row, [piece.likelihood for piece in row if piece.likelihood is not None]) for row in rows]
    return [answers[start : start + number] for start in range(0, len(answers), number)]


def surprise(model: Transformer, tokenizer: Tokenizer, text: str, logprobs: int = 0) -> list[Likelihood]:
    """How probable a decoder finds each token of a text that begins a document.

    Raises WeftError for a model that is none, a tokenizer without a token that ends documents, a text that is too long.
    """
    if answers_sources(model):
        raise WeftError("an encoder-decoder finds a text probable after a source only: answer tells that (logprobs)")
    check(model, tokenizer)
    check_logprobs(logprobs)
    beginning = [tokenizer.end_of_document]
    return read(model, beginning, tokenizer.encode(text), logprobs, vocab_size=tokenizer.vocab_size)


def _searched(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Searching,
    number: int,
    logprobs: int | None,
) -> list[list[Answer]]:
    check(model, tokenizer)
    if not prompts:
        return []
    tokens, sources = [tokenizer.encode(prompt) for prompt in prompts], None
    if answers_sources(model):
        end = tokenizer.end_of_document
        tokens, sources = [[] for _ in prompts], [[*row, end] for row in tokens]
        budgets = [options.max_tokens or min(MAX_TOKENS, model.config.max_length)] * len(prompts)
    else:
        budgets = budgets_of(model, [max(1, len(row)) for row in tokens], options.max_tokens)
    beginnings = [row or [tokenizer.end_of_document] for row in tokens]
    texts = [
        RowText(row, tokenizer, heard, options.stop, budget)
        for row, (heard, budget) in enumerate(zip(tokens, budgets, strict=True))
    ]
    found = search(
        model, beginnings, source=_source(sources), end=end_of(tokenizer), max_tokens=budgets, beams=options.beams,
        length_penalty=options.length_penalty, number=number, vocab_size=tokenizer.vocab_size,
        texts=texts if options.stop else None,
    )  # fmt: skip
    answers = []
    for row, (text, each) in enumerate(zip(texts, found, strict=True)):
        own = _source(sources and [sources[row]])
        answers.append([_replayed(model, beginnings[row], own, text.branch(), one, logprobs) for one in each])
    return answers


def _replayed(
    model: Transformer,
    beginning: Sequence[int],
    source: Inputs | None,
    text: RowText,
    found: Hypothesis,
    logprobs: int | None,
) -> Answer:
    """A hypothesis as text, and read once more where it is asked how probable its tokens are."""
    pieces = [text.push(token) for token in found.tokens]
    if text.end is not None and found.finished and not (pieces and pieces[-1].finish == "stop"):
        pieces.append(text.push(text.end))
    tokens = [piece.token for piece in pieces]
    told = []
    if logprobs is not None:
        told = read(model, beginning, tokens, logprobs, vocab_size=text.decoder.tokenizer.vocab_size, source=source)
    return _answer(pieces, told, found)


def _source(sources: Sequence[Sequence[int]] | None) -> Inputs | None:
    if sources is None:
        return None
    tokens_BS, valid_BS, _ = pad(sources)
    return Inputs(tokens_BT=tokens_BS, valid_BT=valid_BS)


def _answer(pieces: Sequence[Piece], likelihoods: Sequence[Likelihood] = (), found: Hypothesis | None = None) -> Answer:
    finish = pieces[-1].finish
    assert finish is not None, "the last piece says why it is the last"
    text = "".join(piece.text for piece in pieces)
    return Answer(text, tuple(piece.token for piece in pieces), finish, tuple(likelihoods), found)
