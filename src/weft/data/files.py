"""A user's own text: .txt and .jsonl, plain or gzipped, one file or a folder of them, in constant memory."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from weft.data.documents import Corpus, Document, cut, pieces
from weft.data.reading import blocks, known_encoding, lines, missing
from weft.data.sources import Source
from weft.errors import WeftError

READABLE = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_FRESH = 2.0
"""Seconds that a file system's clock may be coarse."""


class Files(Source, kind="files"):
    """A file or a folder of text: .txt, .jsonl, and these as .gz."""

    path: str
    """a file, or a folder that is read with all below it, sorted by name, hidden files left out"""
    field: str = "text"
    """the field of each .jsonl line that holds its text"""
    encoding: str = "utf-8"
    """how the files are encoded"""
    max_document: int = Field(1_000_000, ge=1_000, le=100_000_000)
    """bytes of UTF-8; a longer document is cut into pieces at white space"""

    _known = field_validator("encoding")(known_encoding)

    def build(self) -> FileCorpus:
        return FileCorpus(self)


class FileCorpus(Corpus):
    """The documents of a file or folder. Ids: the path within the folder, and `#line` for .jsonl."""

    def __init__(self, config: Files) -> None:
        self.config = config
        self.root = Path(config.path).expanduser()
        self.name = self.root.name or str(self.root)
        self.files = self._find()

    def documents(self) -> Iterator[Document]:
        found = False
        for id, path in self.files:
            name = str(path)
            for document in self._lines(id, path, name) if _ending(path).startswith(".jsonl") else self._text(id, path):
                found = True
                yield document
        if not found:
            raise WeftError(f"{self.root}: holds no text (only white space, or nothing)")

    def stamp(self) -> Any:
        stats = [(id, path.stat()) for id, path in self.files]
        if max(stat.st_mtime for _, stat in stats) > time.time() - _FRESH:
            return None  # another change could leave the same times
        times = [[id, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for id, stat in stats]
        return [str(self.root.resolve()), times]

    def size(self) -> int:
        return sum(path.stat().st_size for _, path in self.files)

    def _text(self, id: str, path: Path) -> Iterator[Document]:
        most = self.config.max_document
        waiting, number = "", 0
        for block in blocks(path, str(path), self.config.encoding):
            waiting += block
            while len(waiting) > most or (len(waiting) * 4 > most and len(waiting.encode()) > most):
                stop = cut(waiting, most)
                yield Document(f"{id}:{number}", waiting[:stop], id, number)
                waiting, number = waiting[stop:], number + 1
        if number and waiting:
            yield Document(f"{id}:{number}", waiting, id, number)
        elif waiting.strip():
            yield Document(id, waiting)

    def _lines(self, id: str, path: Path, name: str) -> Iterator[Document]:
        for number, line in enumerate(lines(path, name, self.config.encoding), start=1):
            if line.strip():
                text = self._field(line, f"{name} line {number}")
                if text.strip():
                    yield from pieces(f"{id}#{number}", text, self.config.max_document)

    def _field(self, line: str, where: str) -> str:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WeftError(f"{where}: not JSON ({error})") from None
        if not isinstance(data, dict):
            raise WeftError(f'{where}: should be an object such as {{"{self.config.field}": ...}}, not {line[:40]}')
        if self.config.field not in data:
            names = ", ".join(map(str, data)) or "none"
            raise WeftError(
                f"{where}: no field {self.config.field!r}; its fields are: {names} (set data.source.field to the one"
                " that holds the text)"
            )
        text = data[self.config.field]
        if not isinstance(text, str):
            raise WeftError(f"{where}: the field {self.config.field!r} should be text, not {json.dumps(text)[:40]}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise WeftError(f"{where}: the field {self.config.field!r} holds half a surrogate pair, no text") from None
        return text

    def _find(self) -> list[tuple[str, Path]]:
        """Each readable file with its id, sorted."""
        root = self.root
        if str(self.config.path).startswith("hf:"):
            raise WeftError(f"{self.config.path}: hf: data sets cannot be read; readable are {_readable()}")
        if not root.exists():
            raise missing(root)
        if root.is_file():
            if not _ending(root):
                raise WeftError(
                    f"{root}: cannot read {''.join(root.suffixes[-2:]) or 'a file without an ending'};"
                    f" readable are {_readable()}"
                )
            if root.stat().st_size == 0:
                raise WeftError(f"{root}: the file is empty")
            return [(root.name, root)]
        if not root.is_dir():
            raise WeftError(f"{root}: neither a file nor a folder; readable are {_readable()}")
        every = sorted(_walk(root, root.resolve()), key=lambda path: path.relative_to(root).as_posix())
        kept = [path for path in every if _ending(path)]
        others = Counter(path.suffix or "without ending" for path in every if not _ending(path))
        listed = ", ".join(f"{count} {ending}" for ending, count in others.most_common(4))
        if not kept:
            raise WeftError(
                f"{root}: nothing to read in this folder ({listed or 'it is empty'}); readable are {_readable()}"
            )
        if others:
            self.notes = (f"source: not read in {self.name}, for their endings: {listed}",)
        return [(path.relative_to(root).as_posix(), path) for path in kept]


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden; a link within the folder would be read twice, and is left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise WeftError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            target = path.resolve()
            if not target.is_relative_to(root):
                raise WeftError(
                    f"{path}: a link that leaves the folder (to {target}); remove it, or name that place itself"
                )
        elif entry.is_dir():
            yield from _walk(path, root)
        elif entry.is_file():
            yield path


def _ending(path: Path) -> str:
    """The readable ending that the file has, or nothing."""
    name = path.name.lower()
    return next((ending for ending in READABLE if name.endswith(ending)), "")


def _readable() -> str:
    return "a file or folder of .txt or .jsonl, also as .gz, and the sources that `weft list sources` names"
