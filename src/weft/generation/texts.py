"""A row of new tokens as text: what is certain of it now, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

from weft.errors import WeftError
from weft.generation.likelihood import Likelihood
from weft.generation.stops import Stops
from weft.text.streaming import StreamDecoder
from weft.text.tokenizers import Tokenizer

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
    likelihood: Likelihood | None = None
    """how probable it was, where that was asked for"""


class RowText:
    """The text of one row's new tokens, and when it ends."""

    def __init__(self, row: int, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], left: int) -> None:
        self.row = row
        self.left = left
        self.stops = Stops(stop)
        self.end = end_of(tokenizer)
        self.decoder = StreamDecoder(tokenizer)
        for token in prompt:  # some tokenizers write a text's first token without the space before it
            self.decoder.push(token)
        self.decoder.finish()

    def branch(self) -> RowText:
        """One that has heard the same and goes on by itself."""
        other = copy(self)
        other.stops, other.decoder = copy(self.stops), self.decoder.branch()
        return other

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


def end_of(tokenizer: Tokenizer) -> int | None:
    """The token that ends a document, where the tokenizer has one."""
    try:
        return tokenizer.end_of_document
    except WeftError:  # a text then ends by a stop string or its number of tokens
        return None
