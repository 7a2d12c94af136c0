"""A tokenizer's account of one text: normalisation, pre-splitting, the model's own steps; each beside the library's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from weft.errors import WeftError
from weft.text.steps import normalize, split
from weft.text.steps.bpe import Bpe, BpeWord
from weft.text.steps.unicode import UnsupportedError
from weft.text.steps.unigram import Unigram, UnigramWord
from weft.text.steps.wordpiece import WordPiece, WordPieceWord
from weft.text.tokenizers import Tokenizer, checked

LONGEST = 400
"""Characters of a text that are told step by step."""
Word = BpeWord | WordPieceWord | UnigramWord
MODELS: dict[str, Callable[[Any], Bpe | WordPiece | Unigram]] = {"BPE": Bpe, "WordPiece": WordPiece, "Unigram": Unigram}


@dataclass(frozen=True)
class Stage:
    """One step and what it leaves."""

    what: str
    pieces: tuple[str, ...]
    told: bool = True
    """by weft's own code; else by the library alone"""


@dataclass
class Account:
    """All steps from a text to its token ids."""

    text: str
    method: str
    """the model's name: BPE, WordPiece, Unigram"""
    normalized: list[Stage] = field(default_factory=list)
    split: list[Stage] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    """each distinct piece once, in the order in which they come"""
    tokens: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """where the library does something else"""


def account(tokenizer: Tokenizer, text: str) -> Account:
    """The steps from a text of at most LONGEST characters to its tokens; `problems` is empty where the library agrees.

    Raises WeftError for a model whose steps weft does not know.
    """
    if len(checked(text)) > LONGEST:
        raise WeftError(f"{len(text):,} characters are too many to be told step by step (at most {LONGEST})")
    declared = tokenizer.declaration
    _refuse_added(declared["added_tokens"], text)
    told = Account(text, declared["model"]["type"])
    normal = _normalize(told, tokenizer, text)
    pieces = _split(told, tokenizer, normal)
    try:
        model = MODELS[told.method](declared["model"])
    except (KeyError, UnsupportedError) as error:
        raise WeftError(f"no steps of {told.method} can be shown: weft does not know {error}") from None
    _cut(told, tokenizer, model, pieces)
    theirs = tokenizer.encode(text)
    if told.ids != theirs:
        told.problems.append(f"tokens: these steps give {told.ids}, tokenizers gives {theirs}")
    return told


def _refuse_added(added: Sequence[dict[str, Any]], text: str) -> None:
    for token in added:
        if not token["special"] and token["content"] in text:
            raise WeftError(
                f"the text holds {token['content']!r}, which this tokenizer takes out before any step (an added token);"
                " give another text"
            )


def _normalize(told: Account, tokenizer: Tokenizer, text: str) -> str:
    """The normalised text as the library has it; its steps are added to the account."""
    normalizer = tokenizer.inner.normalizer
    if normalizer is None:
        return text
    theirs: str = normalizer.normalize_str(text)
    try:
        ours = text
        for what, change in normalize.stages(tokenizer.declaration["normalizer"]):
            ours = change(ours)
            told.normalized.append(Stage(what, (ours,)))
    except UnsupportedError as error:
        told.normalized.append(Stage(f"{error}, by the library", (theirs,), told=False))
        return theirs
    if ours != theirs:
        odd = _odd(text, lambda c: normalizer.normalize_str(c) != _through(tokenizer, c))
        told.problems.append(f"normalisation: these steps give {ours!r}, tokenizers gives {theirs!r}{odd}")
    return theirs


def _through(tokenizer: Tokenizer, text: str) -> str:
    for _, change in normalize.stages(tokenizer.declaration["normalizer"]):
        text = change(text)
    return text


def _split(told: Account, tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces as the library has them; its steps are added to the account."""
    pre_tokenizer = tokenizer.inner.pre_tokenizer
    if pre_tokenizer is None:
        return [text] if text else []
    theirs = [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
    ours = [text] if text else []
    try:
        for what, change in split.stages(tokenizer.declaration["pre_tokenizer"]):
            ours = change(ours)
            told.split.append(Stage(what, tuple(ours)))
    except UnsupportedError as error:
        told.split.append(Stage(f"{error}, by the library", tuple(theirs), told=False))
        return theirs
    if ours != theirs:
        told.problems.append(f"pieces: these steps give {ours}, tokenizers gives {theirs}")
    return theirs


def _cut(told: Account, tokenizer: Tokenizer, model: Bpe | WordPiece | Unigram, pieces: Sequence[str]) -> None:
    """The model's steps for each distinct piece, and all tokens."""
    known: dict[str, Word] = {}
    for piece in pieces:
        if piece not in known:
            word = known[piece] = model.word(piece)
            told.words.append(word)
            theirs = [token.id for token in tokenizer.inner.model.tokenize(piece)]
            ours = [model.vocabulary[token] for token in word.tokens]
            if ours != theirs:
                names = [tokenizer.inner.id_to_token(id) for id in theirs]
                told.problems.append(f"{piece!r}: these steps give {list(word.tokens)}, tokenizers gives {names}")
        told.tokens += known[piece].tokens
    told.ids = [model.vocabulary[token] for token in told.tokens]


def _odd(text: str, differs: Callable[[str], bool]) -> str:
    """The characters that alone make the difference: they are newer than one of the two tables of Unicode."""
    odd = sorted({f"U+{ord(character):04X}" for character in text if differs(character)})
    return f" (Python and tokenizers know different versions of Unicode: {', '.join(odd)})" if odd else ""
