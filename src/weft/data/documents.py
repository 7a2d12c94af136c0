"""Documents and the corpora that they come from: the same ones in the same order each time, never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.errors import WeftError


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name that stays the same from one reading to the next."""

    id: str
    text: str
    group: str = ""
    """what must not be torn apart by a split into training and validation; the document alone unless said"""
    piece: int = 0
    """which piece of a longer document this is"""
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    """what stands beside the text: `label` (what it is), `target` (what is to be made of it)"""

    @property
    def together(self) -> str:
        """The group's name, which for a document alone is its own."""
        return self.group or self.id


class Corpus:
    """What a source opens: documents, read lazily, and what was left out on the way."""

    name: str = ""
    """how reports call it"""
    fields: tuple[str, ...] = ()
    """the fields that its documents have, as far as that is known before they are read"""
    needed: tuple[str, ...] = ()
    """the fields that each document must have, as `need` said; such documents are examples, and never cut"""
    duplicates_removed: int = 0
    """documents left out because an earlier one is nearly the same; known once all were read"""
    left_out: tuple[str, ...] = ()
    """what else could not be used, and why, for a person; known once all were read"""
    notes: tuple[str, ...] = ()
    """what a person should hear about it"""

    def need(self, fields: Iterable[str]) -> None:
        """Make these fields of each document a condition; to be called before anything is read.

        Raises WeftError when the source is known to have no such field.
        """
        self.needed = tuple(fields)
        for name in self.needed:
            if name not in self.fields:
                has = f"it has: {', '.join(self.fields)}" if self.fields else "it is text alone"
                raise WeftError(f"data.source = {self.name}: no {name}, which this task needs ({has})")

    def documents(self) -> Iterator[Document]:
        """All documents, in an order that stays.

        Raises WeftError where the text cannot be read.
        """
        raise NotImplementedError

    def stamp(self) -> Any:
        """Plain data that is other when the text is, had without reading it; None where there is no such thing."""
        return None

    def size(self) -> int:
        """About how many bytes there are to read, for a progress bar; 0 if unknown."""
        return 0


def cut(text: str, most: int) -> int:
    """How many characters of `text`, which is longer than `most` bytes of UTF-8, make a piece of at most that many.

    The piece ends with white space; where there is none it ends anywhere.
    """
    head = text[:most]
    if not head.isascii():
        head = head.encode()[:most].decode(errors="ignore")
    if head[-1].isspace():
        return len(head)
    kept = len(head) - len(head.rsplit(None, 1)[-1])
    return kept or len(head)


def pieces(
    id: str, text: str, most: int, group: str = "", fields: Mapping[str, str] | None = None
) -> Iterator[Document]:
    """The document, or where it is longer than `most` bytes its pieces, called `id:0`, `id:1` and so on.

    Each piece has all the fields.
    """
    fields = fields or {}
    if len(text) <= most and len(text.encode()) <= most:
        yield Document(id, text, group, fields=fields)
        return
    start = number = 0
    while start < len(text):
        rest = text[start : start + most + 1]
        stop = start + (cut(rest, most) if len(rest.encode()) > most else len(rest))
        yield Document(f"{id}:{number}", text[start:stop], group or id, number, fields)
        start, number = stop, number + 1
