"""Decoding while tokens arrive: text as soon as it is certain, never half a character."""

from __future__ import annotations

import codecs
from copy import copy

from weft.text.tokenizers import Tokenizer

_LONGEST = 4
"""Bytes of the longest UTF-8 character, so tokens that may be waited for."""


class StreamDecoder:
    """Token ids in, text out; all that came out, joined, is `tokenizer.decode` of all that went in."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self.tokenizer = tokenizer
        self.skipped = frozenset(tokenizer.special.values()) if skip_special else frozenset()
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._context: list[int] = []  # tokens already shown, which what follows may depend on
        self._pending: list[int] = []

    def branch(self) -> StreamDecoder:
        """One that has heard the same and goes on by itself."""
        other = copy(self)
        other._bytes, other._pending = copy(self._bytes), list(self._pending)
        return other

    def push(self, id: int) -> str:
        """The text that `id` completes; empty while a character is incomplete."""
        if id in self.skipped:
            return ""
        if self.tokenizer.byte_level:
            return self._bytes.decode(self.tokenizer.token_bytes(id))
        self._pending.append(id)
        text = self._text()
        if text.endswith("\ufffd") and len(self._pending) < _LONGEST:
            return ""
        return self._shown(text)

    def finish(self) -> str:
        """What was held back: U+FFFD for a character that was never completed."""
        if self.tokenizer.byte_level:
            return self._bytes.decode(b"", final=True)
        return self._shown(self._text()) if self._pending else ""

    def _text(self) -> str:
        # a decoder may treat the first token of a text in its own way: keep one before the pending ones
        before = self.tokenizer.decode(self._context, skip_special=False)
        return self.tokenizer.decode(self._context + self._pending, skip_special=False)[len(before) :]

    def _shown(self, text: str) -> str:
        self._context, self._pending = self._pending, []
        return text
