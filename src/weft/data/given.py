"""DATA as a command names it: a source, a file, a folder or `hf:name`, read for a model that exists already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from weft.config import load
from weft.data.files import Files
from weft.data.progress import Progress
from weft.data.shards import TokenSplit, read_split, write_split
from weft.data.sources import Source
from weft.text.tokenizers import Tokenizer


def open_source(name: str, like: Source | None = None, overrides: Sequence[str] = ()) -> Source:
    """The source that `name` stands for; a path is read as the source is that it is `like` (columns, format, encoding).

    `overrides` are options of the source, such as label=topic.
    Raises WeftError when there is no such source.
    """
    found = load(Source, name)
    if like is not None and isinstance(found, Files):
        found = like.elsewhere(found.path)
    return load(Source, found.dump(), overrides)


@contextmanager
def encoded(
    source: Source, tokenizer: Tokenizer, columns: Sequence[str], console: Console | None = None
) -> Iterator[tuple[TokenSplit, list[str]]]:
    """All of a source as one split, which lies in a folder that is removed after; and what a person should hear.

    Raises WeftError when it cannot be read or lacks a column.
    """
    corpus = source.build()
    corpus.need(columns)
    with tempfile.TemporaryDirectory(prefix="weft-") as folder, Progress(console) as progress:
        place = Path(folder) / "split"
        documents = progress.track(corpus.documents(), f"reading {corpus.name}", corpus.size())
        written = write_split(place, documents, tokenizer, verify=True, columns=columns)
        yield read_split(place, written.lossy is None), [*corpus.notes, *corpus.left_out]
