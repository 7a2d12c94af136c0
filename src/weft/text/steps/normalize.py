"""Normalisation, step by step: the same text for a tokenizer, however it was written."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

from weft.text.alphabet import BYTE_TO_CHARACTER
from weft.text.steps.declared import Declared, opened
from weft.text.steps.unicode import SPACES, UnsupportedError, cut

IDEOGRAPHS = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Chinese characters, which BERT puts between spaces: each is a word."""


def stages(declared: Declared | None) -> Iterator[tuple[str, Callable[[str], str]]]:
    """What each step of a declared normaliser is, and does to a text.

    Raises UnsupportedError at a step that weft cannot tell.
    """
    for step in opened(declared, "normalizers"):
        yield from _stages(step)


def _stages(declared: Declared) -> Iterator[tuple[str, Callable[[str], str]]]:
    kind = declared["type"]
    if kind == "BertNormalizer":
        yield from _bert(declared)
    elif kind in ("NFC", "NFD", "NFKC", "NFKD"):
        what = "composed" if kind.endswith("C") else "decomposed"
        yield f"{kind}: letters and their accents {what}", lambda text: unicodedata.normalize(kind, text)
    elif kind in _SIMPLE:
        yield _SIMPLE[kind]
    elif kind == "Prepend":
        sign = declared["prepend"]
        yield f"{sign!r} before the text", lambda text: sign + text if text else text
    elif kind == "Replace":
        yield f"replace {_pattern(declared)} by {declared['content']!r}", lambda text: _replace(declared, text)
    elif kind == "Strip":
        yield "spaces at the ends dropped", lambda text: _strip(declared, text)
    else:
        raise UnsupportedError(f"the normaliser {kind}")


def _bert(declared: Declared) -> Iterator[tuple[str, Callable[[str], str]]]:
    strip = declared["lowercase"] if declared["strip_accents"] is None else declared["strip_accents"]
    if declared["clean_text"]:
        yield "control characters dropped, any white space a space", _clean
    if declared["handle_chinese_chars"]:
        yield "spaces around Chinese characters", _spaced
    if strip:
        yield "NFD: letters and their accents decomposed", lambda text: unicodedata.normalize("NFD", text)
        yield "accents dropped", lambda text: "".join(c for c in text if unicodedata.category(c) != "Mn")
    if declared["lowercase"]:
        yield _SIMPLE["Lowercase"]


def _clean(text: str) -> str:
    kept = (c for c in text if c in "\t\n\r" or (c not in "\0\ufffd" and unicodedata.category(c)[0] != "C"))
    return "".join(" " if c in SPACES else c for c in kept)


def _spaced(text: str) -> str:
    return "".join(f" {c} " if any(low <= ord(c) <= high for low, high in IDEOGRAPHS) else c for c in text)


def _lower(text: str) -> str:
    return "".join(c.lower() for c in text)  # each by itself: Greek's final sigma is not looked for


def _unmarked(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c)[0] != "M")


def _byte_level(text: str) -> str:
    return "".join(BYTE_TO_CHARACTER[byte] for byte in text.encode())


_SIMPLE: dict[str, tuple[str, Callable[[str], str]]] = {
    "Lowercase": ("capitals made small", _lower),
    "StripAccents": ("accents dropped", _unmarked),
    "ByteLevel": ("each byte by its character", _byte_level),
}


def _pattern(declared: Declared) -> str:
    return repr(next(iter(declared["pattern"].values())))


def _replace(declared: Declared, text: str) -> str:
    if "String" in declared["pattern"]:
        return text.replace(declared["pattern"]["String"], declared["content"])
    return "".join(
        declared["content"] if part.matched else part.text for part in cut(declared["pattern"]["Regex"], text)
    )


def _strip(declared: Declared, text: str) -> str:
    spaces = "".join(SPACES)
    text = text.lstrip(spaces) if declared["strip_left"] else text
    return text.rstrip(spaces) if declared["strip_right"] else text
