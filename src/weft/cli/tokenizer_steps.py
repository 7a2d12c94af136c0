"""A tokenizer's account of a text as lines for a terminal: a heading for each stage, a line for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.text import Text

from weft.text.alphabet import to_bytes
from weft.text.show import readable
from weft.text.steps.bpe import BpeWord
from weft.text.steps.unigram import UnigramWord
from weft.text.steps.wordpiece import WordPieceWord

if TYPE_CHECKING:
    from weft.text import Tokenizer
    from weft.text.steps import Account, Stage

Show = Callable[[str], str]
MOST_TRIED = 12
"""Candidates of one place that are listed."""


def lines(name: str, told: Account, tokenizer: Tokenizer) -> Iterator[Text]:
    """All steps from the text to its ids."""
    show: Show = _of_bytes if tokenizer.byte_level else _plain
    yield Text(f"{name}: {_plain(told.text)}", style="bold")
    yield from _stages("Normalisation", told.normalized, _plain, "none: letters as they are")
    yield from _stages("Pre-splitting: no token crosses these borders", told.split, _plain, "none: all is one piece")
    yield Text(f"\n{told.method}, each distinct piece once", style="bold")
    for word in told.words:
        yield Text(f"  {show(word.word)}", style="cyan")
        yield from steps(word, show)
    yield Text("\nTokens", style="bold")
    yield Text("  " + " | ".join(map(show, told.tokens)))
    yield Text("  ids: " + " ".join(map(str, told.ids)))
    for problem in told.problems:
        yield Text(f"error: {problem}", style="red")
    if not told.problems:
        yield Text(f"  tokenizers {version('tokenizers')} finds the same pieces and ids")


def _stages(title: str, stages: Sequence[Stage], show: Show, none: str) -> Iterator[Text]:
    yield Text(f"\n{title}", style="bold")
    if not stages:
        yield Text(f"  {none}")
    for stage in stages:
        yield Text(f"  {stage.what}")
        yield Text("    " + " | ".join(map(show, stage.pieces)), style="cyan" if stage.told else "yellow")


@singledispatch
def steps(word: object, show: Show) -> Iterator[Text]:
    """The model's steps for one piece."""
    raise TypeError(f"no lines for a {type(word).__name__}")


@steps.register
def _(word: BpeWord, show: Show) -> Iterator[Text]:
    if word.whole:
        yield Text("    is a token itself")
        return
    yield Text(f"    {_joined(word.symbols, show)}")
    wide = max((len(_pair(merge.pair, show)) for merge in word.merges), default=0)
    for merge in word.merges:
        yield Text(f"    rank {merge.rank:>6,}  {_pair(merge.pair, show):{wide}}  {_joined(merge.symbols, show)}")
    if not word.merges:
        yield Text("    no pair of neighbours was ever merged" if len(word.symbols) > 1 else "    nothing to merge")


@steps.register
def _(word: WordPieceWord, show: Show) -> Iterator[Text]:
    if word.too_long:
        yield Text("    too long: unknown as a whole")
    for trial in word.trials:
        tried = [show(piece) for piece in trial.tried]
        if len(tried) > MOST_TRIED:
            tried = [*tried[: MOST_TRIED // 2], f"... ({len(tried) - MOST_TRIED} more)", *tried[-MOST_TRIED // 2 :]]
        end = "is there" if trial.found else f"is not there either: the whole word is {word.tokens[0]}"
        yield Text(f"    {' > '.join(tried)} {end}")


@steps.register
def _(word: UnigramWord, show: Show) -> Iterator[Text]:
    chosen = set(word.path)
    for start in sorted({edge.start for edge in word.lattice}):
        edges = [edge for edge in word.lattice if edge.start == start]
        told = (f"{show(edge.piece)}{'' if edge.known else ' (unknown)'} {_number(edge.score)}"
                f"{f' -> {_number(edge.best)} *' if edge in chosen else ''}" for edge in edges)  # fmt: skip
        yield Text(f"    at {start:>3}  {'   '.join(told)}")
    path = " + ".join(f"{show(edge.piece)} ({_number(edge.score)})" for edge in word.path)
    yield Text(f"    best path: {path} = {_number(word.score)}")
    if list(word.tokens) != [edge.piece for edge in word.path]:
        yield Text(f"    as tokens: {_joined(word.tokens, show)}")


def _pair(pair: tuple[str, str], show: Show) -> str:
    return f"{show(pair[0])} + {show(pair[1])}"


def _joined(symbols: Sequence[str], show: Show) -> str:
    return " ".join(map(show, symbols))


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _of_bytes(symbol: str) -> str:
    """A symbol of the byte-level alphabet as the text that it stands for."""
    return _plain(readable(to_bytes(symbol)))


def _plain(text: str) -> str:
    """A text in one line, its spaces visible."""
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c) or (f"<{ord(c):02X}>" if ord(c) < 32 or ord(c) == 127 else c) for c in text)
