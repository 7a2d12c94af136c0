"""What a tokenizer does to a text: its pieces, how many bytes a token carries, whether the text survives."""

from __future__ import annotations

from dataclasses import dataclass

from weft.text.alphabet import BYTE_TOKEN
from weft.text.tokenizers import Tokenizer, checked


@dataclass(frozen=True)
class Piece:
    """One token of a text."""

    id: int
    shown: str
    """the token as text; bytes that are no whole character as <F0><9F>"""
    start: int
    """first character of the text that it covers"""
    end: int
    """one beyond the last"""
    token: str
    """as the vocabulary writes it"""
    unknown: bool = False
    """it stands for what the tokenizer never saw"""


@dataclass(frozen=True)
class Fit:
    """How well a tokenizer suits a text."""

    characters: int
    bytes: int
    words: int
    tokens: int
    unknown: int
    """tokens that stand for what the tokenizer never saw"""
    exact: bool
    """the text survives encoding and decoding"""

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token carries, on average."""
        return self.bytes / max(self.tokens, 1)

    @property
    def unknown_rate(self) -> float:
        """Share of the tokens that stand for what the tokenizer never saw."""
        return self.unknown / max(self.tokens, 1)

    @property
    def pieces_per_word(self) -> float:
        """Tokens a word, a word being what stands between white space."""
        return self.tokens / max(self.words, 1)


def pieces(tokenizer: Tokenizer, text: str) -> list[Piece]:
    """The tokens of a text, each with the characters that it covers."""
    encoding = tokenizer.inner.encode(checked(text), add_special_tokens=False)
    found = []
    for id, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
        of_bytes = tokenizer.byte_level or BYTE_TOKEN.fullmatch(token)
        shown = readable(tokenizer.token_bytes(id)) if of_bytes else text[start:end]
        found.append(Piece(id, shown, start, end, token, id == tokenizer.unknown))
    return found


def read_on(tokenizer: Tokenizer, id: int) -> str:
    """One token as it reads after another, with the space before it; special tokens by name, bytes as <F0><9F>."""
    token = tokenizer.inner.id_to_token(id) or f"<{id}>"
    if token in tokenizer.special:
        return token
    if tokenizer.byte_level or BYTE_TOKEN.fullmatch(token):
        return readable(tokenizer.token_bytes(id))
    before = tokenizer.decode([id], skip_special=False)
    return tokenizer.decode([id, id], skip_special=False)[len(before) :]


def fit(tokenizer: Tokenizer, text: str) -> Fit:
    """How well the tokenizer suits the text."""
    ids = tokenizer.encode(text)
    unknown = ids.count(tokenizer.unknown) if tokenizer.unknown is not None else 0
    exact = tokenizer.decode(ids, skip_special=False) == text
    return Fit(len(text), len(text.encode()), len(text.split()), len(ids), unknown, exact)


def readable(data: bytes) -> str:
    """Bytes as text; those that are no whole character as <F0><9F>."""
    text = data.decode(errors="surrogateescape")
    return "".join(f"<{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
