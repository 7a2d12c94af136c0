"""Unicode's classes of characters, and regular expressions that use them, in Python's `re`, which lacks them.

A class stands for those characters of the text at hand that are in it: for "Tiếng Việt 10", `\\p{L}` is [TVetginếiệ].
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
"""Unicode's White_Space; Python's own notion has four control characters more."""
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

_NOTHING = "\ud800"
"""Half a surrogate pair: no text holds it, so that a class in which no character of the text is still is a class."""
_ATOM = re.compile(r"\\[pP]\{\^?\w+\}|\\.|\[\^?|\]|.", re.DOTALL)
_LITERAL = frozenset("rntfv")
"""Letters which mean the same after a backslash in every dialect."""


class UnsupportedError(Exception):
    """A step that weft has no account of its own for."""


@dataclass(frozen=True)
class Match:
    """A run of a text."""

    text: str
    matched: bool


def is_punctuation(character: str) -> bool:
    """What BERT takes for punctuation: Unicode's, and every ASCII sign that is no letter, digit or space."""
    return character in ASCII_PUNCTUATION or unicodedata.category(character)[0] == "P"


def cut(pattern: str, text: str) -> list[Match]:
    """The matches of an Oniguruma pattern in a text, from left to right, and what stands between them.

    Raises UnsupportedError for what Python would read otherwise.
    """
    try:
        compiled = re.compile(translated(pattern, text))
    except re.error as error:
        raise UnsupportedError(f"Python cannot read the expression ({error})") from None
    found, end = [], 0
    for match in compiled.finditer(text):
        if match.start() > end:
            found.append(Match(text[end : match.start()], False))
        if match[0]:
            found.append(Match(match[0], True))
        end = match.end()
    return found + [Match(text[end:], False)] * (end < len(text))


def translated(pattern: str, text: str) -> str:
    """The pattern for this text in Python's dialect."""
    within, out = False, []
    for atom in _ATOM.findall(pattern):
        if atom.startswith("["):
            if within:
                raise UnsupportedError("a class within a class")
            within = True
            out.append(atom)
        elif atom == "]" and within:
            within = False
            out.append(atom)
        elif atom.startswith("\\") and atom[1].isalnum() and atom[1] not in _LITERAL:
            members = "".join(re.escape(c) for c in sorted(set(text)) if _class(atom)(c)) + _NOTHING
            out.append(members if within else f"[{members}]")
        else:
            out.append(atom)
    return "".join(out)


def _class(atom: str) -> Callable[[str], bool]:
    """Whether a character is in a class such as \\s or \\p{Lu}."""
    if atom[1] in "pP":
        name = atom[3:-1].removeprefix("^")
        negated = (atom[1] == "P") != (atom[3] == "^")
        if len(name) > 2 or name[0] not in "LMNPSZC":
            raise UnsupportedError(f"the class {atom}")
        return lambda c: unicodedata.category(c).startswith(name) != negated
    if atom[1] in "sS":
        return lambda c: (c in SPACES) == (atom[1] == "s")
    if atom[1] in "dD":
        return lambda c: (unicodedata.category(c) == "Nd") == (atom[1] == "d")
    raise UnsupportedError(f"the sign {atom}")
