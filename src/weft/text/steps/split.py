"""Pre-splitting, step by step: no token reaches beyond one of these pieces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from weft.text.alphabet import BYTE_TO_CHARACTER
from weft.text.steps.declared import Declared, opened
from weft.text.steps.unicode import SPACES, Match, UnsupportedError, cut, is_punctuation

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's expression (Radford et al. 2019): English endings, letters, digits, other signs, each with a space before."""

Split = Callable[[list[str]], list[str]]


def stages(declared: Declared | None) -> Iterator[tuple[str, Split]]:
    """What each step of a declared pre-tokenizer is, and does to the pieces so far.

    Raises UnsupportedError at a step that weft cannot tell.
    """
    for step in opened(declared, "pretokenizers"):
        yield from _stages(step)


def _stages(declared: Declared) -> Iterator[tuple[str, Split]]:
    kind = declared["type"]
    if kind == "Split":
        yield _split(declared)
    elif kind == "ByteLevel":
        yield from _byte_level(declared)
    elif kind == "BertPreTokenizer":
        yield "cut at white space, which is dropped", _each(_words)
        yield "each sign of punctuation by itself", _each(_signs)
    elif kind == "WhitespaceSplit":
        yield "cut at white space, which is dropped", _each(_words)
    elif kind == "Digits":
        alone = declared["individual_digits"]
        yield f"{'each digit' if alone else 'digits'} by themselves", _each(lambda text: _digits(text, alone))
    elif kind == "Metaspace":
        yield from _metaspace(declared)
    else:
        raise UnsupportedError(f"the pre-tokenizer {kind}")


def _each(split: Callable[[str], list[str]]) -> Split:
    return lambda pieces: [part for piece in pieces for part in split(piece) if part]


def _split(declared: Declared) -> tuple[str, Split]:
    (form, pattern), behavior = next(iter(declared["pattern"].items())), declared["behavior"]
    if behavior not in ("Isolated", "Removed"):
        raise UnsupportedError(f"a split whose matches are {behavior}")
    expression = re.escape(pattern) if form == "String" else pattern
    dropped = behavior == "Removed"

    def one(text: str) -> list[str]:
        return [part.text for part in cut(expression, text) if not dropped or part.matched == declared["invert"]]

    return f"cut by {pattern}{', matches dropped' if dropped else ''}", _each(one)


def _byte_level(declared: Declared) -> Iterator[tuple[str, Split]]:
    if declared["add_prefix_space"]:
        yield "a space before the text", _each(lambda text: [text if text.startswith(" ") else f" {text}"])
    if declared["use_regex"]:
        yield f"cut by {GPT2}", _each(lambda text: [part.text for part in cut(GPT2, text)])
    yield (
        "each byte of UTF-8 by its character (a space is Ġ)",
        _each(lambda text: ["".join(BYTE_TO_CHARACTER[byte] for byte in text.encode())]),
    )


def _metaspace(declared: Declared) -> Iterator[tuple[str, Split]]:
    sign, scheme = declared["replacement"], declared["prepend_scheme"]
    if scheme not in ("always", "first", "never"):
        raise UnsupportedError(f"the prepend_scheme {scheme}")

    def replace(pieces: list[str]) -> list[str]:
        found = [piece.replace(" ", sign) for piece in pieces]
        led = {"always": len(found), "first": 1, "never": 0}[scheme]
        return [*(piece if piece.startswith(sign) else sign + piece for piece in found[:led]), *found[led:]]

    yield f"each space by {sign}{'' if scheme == 'never' else f', and {sign} before the text'}", replace
    if declared["split"]:
        expression = re.compile(f"{re.escape(sign)}[^{re.escape(sign)}]*|[^{re.escape(sign)}]+")
        yield f"cut before each {sign}", _each(expression.findall)


def _words(text: str) -> list[str]:
    return "".join(" " if c in SPACES else c for c in text).split(" ")


def _signs(text: str) -> list[str]:
    return [part.text for part in _runs(text, is_punctuation, alone=True)]


def _digits(text: str, alone: bool) -> list[str]:
    return [part.text for part in _runs(text, lambda c: unicodedata.category(c)[0] == "N", alone)]


def _runs(text: str, inside: Callable[[str], bool], alone: bool) -> list[Match]:
    """Runs of characters that are in a class, or are not; `alone` ones are not joined."""
    runs: list[Match] = []
    for character in text:
        matched = inside(character)
        if runs and runs[-1].matched == matched and not (matched and alone):
            runs[-1] = Match(runs[-1].text + character, matched)
        else:
            runs.append(Match(character, matched))
    return runs
