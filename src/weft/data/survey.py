"""What there is to know of a corpus before its text is used: its fingerprint, how much of it, on which side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.data.documents import Corpus, Document
from weft.data.progress import Progress


@dataclass(frozen=True)
class Survey:
    """Facts about a corpus, from one reading."""

    fingerprint: str
    """SHA-256 over every document's id, text and fields"""
    documents: int
    """before long ones were cut"""
    cut: int
    """documents that were cut into pieces"""
    characters: int
    bytes: int
    """of UTF-8"""
    held_out: int
    """bytes of the documents that the validation part asked for"""
    duplicates_removed: int
    left_out: Sequence[str] = ()
    """what could not be used, and why"""


def survey(corpus: Corpus, holds_out: Callable[[Document], bool], progress: Progress) -> Survey:
    """Read a corpus once, in constant memory."""
    digest = hashlib.sha256()
    documents = pieces_cut = characters = total = held_out = 0
    for document in progress.track(corpus.documents(), f"reading {corpus.name}", corpus.size()):
        id, text = document.id.encode(errors="surrogateescape"), document.text.encode()
        digest.update(b"%d %d\n" % (len(id), len(text)) + id)
        digest.update(text)
        for name, value in sorted(document.fields.items()):
            field = value.encode()
            digest.update(b"+%s %d\n" % (name.encode(), len(field)) + field)
        documents += document.piece == 0
        pieces_cut += document.piece == 1
        characters += len(document.text)
        total += len(text)
        held_out += len(text) * holds_out(document)
    return Survey(
        digest.hexdigest(),
        documents,
        pieces_cut,
        characters,
        total,
        held_out,
        corpus.duplicates_removed,
        corpus.left_out,
    )
