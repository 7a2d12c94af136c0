"""A user's own files: texts and tables, plain, packed or in archives, one or a folder of them, in bounded memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from weft.config import EXECUTION
from weft.data.archives import members
from weft.data.columns import LeftOut, RowCorpus, Rows, Tabular, stamp_of
from weft.data.documents import Document, cut
from weft.data.reading import decoded, known_encoding, lines, missing
from weft.data.tables import Dialect, json_rows, parquet_rows, separated_rows
from weft.data.unpacking import MOST, Readable, opened, packing_of, unpacked
from weft.errors import WeftError

Format = Literal["txt", "jsonl", "csv", "tsv"]
TEXTS = (".txt", ".jsonl", ".csv", ".tsv")
_SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tzst": ".tar.zst"}
READABLE = (
    "a file or folder of .txt, .jsonl, .csv, .tsv (also as .gz, .xz, .zst, .bz2, or in .tar) or .parquet, and the"
    " sources that `weft list sources` names"
)
_UNPACKS_TO = 3
"""About how many times larger a packed text is unpacked; for a progress bar."""


class Files(Tabular, kind="files"):
    """A file or a folder: .txt, .jsonl, .csv, .tsv, also packed (.gz, .xz, .zst, .bz2) or in .tar; .parquet."""

    path: str
    """a file, or a folder that is read with all below it, sorted by name, hidden files left out"""
    format: Format | None = None
    """what the files are, where their endings do not say it, or not truly"""
    encoding: str = "utf-8"
    """how the files are encoded"""
    header: bool = True
    """whether the first row of a .csv or .tsv names its columns; without, they are called "1", "2", ..."""
    delimiter: str | None = Field(None, min_length=1, max_length=1, pattern=r'[^"\r\n]')
    """what stands between cells: a comma in .csv, a tab in .tsv unless given; only .csv may have cells in "..." """
    max_line: int = Field(16_000_000, ge=1_000, le=1_000_000_000)
    """characters; a longer row of a .jsonl, .csv or .tsv is a bad one, and never held whole"""
    max_unpacked: Annotated[int, EXECUTION] = Field(MOST, ge=1_000)
    """bytes that a packed file may hold, so that a small one cannot keep the machine busy for days"""

    _known = field_validator("encoding")(known_encoding)

    def elsewhere(self, path: str) -> Files:
        return self.model_copy(update={"path": path})

    def build(self) -> FileCorpus:
        return FileCorpus(self)


@dataclass(frozen=True)
class Ending:
    """What a file's name says of it."""

    format: str
    """txt, jsonl, csv, tsv, parquet or tar"""
    packing: str = ""

    @classmethod
    def of(cls, name: str, given: Format | None = None) -> Ending | None:
        """None for what cannot be read; `given` holds for texts of whatever ending."""
        name = name.lower()
        for short, long in _SHORT.items():
            name = name.removesuffix(short) + long if name.endswith(short) else name
        packing = packing_of(name)
        ending = Path(name.removesuffix(packing)).suffix
        if ending == ".tar" or (ending == ".parquet" and not packing):
            return cls(ending[1:], packing)
        return cls(given or ending[1:], packing) if ending in TEXTS else None


class FileCorpus(RowCorpus):
    """The documents of a file or folder. Ids: the path within the folder or archive, and `#line` for rows."""

    def __init__(self, config: Files) -> None:
        self.config: Files = config
        self.root = Path(config.path).expanduser()
        self.name = self.root.name or str(self.root)
        self.files = self._find()

    def read(self, rows: Rows, left_out: LeftOut) -> Iterator[Document]:
        for id, path, ending in self.files:
            yield from self._read(id, path, ending, rows, left_out)

    def stamp(self) -> Any:
        return stamp_of({id: path for id, path, _ in self.files}, self.root, self.needed)

    def size(self) -> int:
        packed = {True: _UNPACKS_TO, False: 1}
        return sum(path.stat().st_size * packed[bool(ending.packing)] for _, path, ending in self.files)

    def _read(self, id: str, path: Path, ending: Ending, rows: Rows, left_out: LeftOut) -> Iterator[Document]:
        name, most = str(path), self.config.max_unpacked
        if ending.format == "parquet":
            table = parquet_rows(path, name, most, lambda columns: rows.columns(columns, name))
            yield from rows.documents(table, id, name, "row")
            return
        with opened(path, name, ending.packing, most) as file:
            if ending.format != "tar":
                yield from self._stream(file, id, name, ending.format, rows)
                return
            alone = path == self.root
            for inside, member, content in members(file, name, left_out.other):
                inner = Ending.of(member, self.config.format)
                if inner is None or inner.format in ("tar", "parquet"):
                    left_out.other(Path(member).suffix or "without ending")
                    continue
                where = f"{name}: {member}"
                stream = unpacked(content, where, inner.packing, most)
                yield from self._stream(stream, inside if alone else f"{id}/{inside}", where, inner.format, rows)

    def _stream(self, file: Readable, id: str, name: str, format: str, rows: Rows) -> Iterator[Document]:
        """The documents of a text or a table."""
        config, longest = self.config, self.config.max_line
        texts = decoded(file, name, config.encoding)
        if format == "txt":
            if self.needed:
                raise WeftError(
                    f"{name}: plain text has no {self.needed[0]}, which this task needs; is it a table? then set"
                    " data.source.format; does it stand in a file beside this one? then use data.source.kind=aligned"
                )
            yield from self._text(texts, id)
        elif format == "jsonl":
            yield from rows.documents(json_rows(lines(texts, longest), longest), id, name, "line")
        else:
            delimiter = config.delimiter or ("\t" if format == "tsv" else ",")
            dialect = Dialect(delimiter, format == "csv", config.header, longest)
            table = separated_rows(lines(texts, longest), dialect, name, lambda columns: rows.columns(columns, name))
            yield from rows.documents(table, id, name, "line")

    def _text(self, texts: Iterable[str], id: str) -> Iterator[Document]:
        most = self.config.max_document
        waiting, number = "", 0
        for block in texts:
            waiting += block
            while len(waiting) > most or (len(waiting) * 4 > most and len(waiting.encode()) > most):
                stop = cut(waiting, most)
                yield Document(f"{id}:{number}", waiting[:stop], id, number)
                waiting, number = waiting[stop:], number + 1
        if number and waiting:
            yield Document(f"{id}:{number}", waiting, id, number)
        elif waiting.strip():
            yield Document(id, waiting)

    def _find(self) -> list[tuple[str, Path, Ending]]:
        """Each readable file with its id and what it is, sorted."""
        root, given = self.root, self.config.format
        if str(self.config.path).startswith("hf:"):
            raise WeftError(f"{self.config.path}: no file, but a source of its own: data.source={self.config.path}")
        if not root.exists():
            raise missing(root)
        if root.is_file():
            ending = Ending.of(root.name, given)
            if ending is None and given is None:
                raise WeftError(
                    f"{root}: cannot read {''.join(root.suffixes[-2:]) or 'a file without an ending'};"
                    f" readable are {READABLE}, or set data.source.format to what it is"
                )
            if root.stat().st_size == 0:
                raise WeftError(f"{root}: the file is empty")
            return [(root.name, root, ending or Ending(str(given), packing_of(root.name)))]
        if not root.is_dir():
            raise WeftError(f"{root}: neither a file nor a folder; readable are {READABLE}")
        every = sorted(_walk(root, root.resolve()), key=lambda path: path.relative_to(root).as_posix())
        endings = [(path, Ending.of(path.name, given)) for path in every]
        others = Counter(path.suffix or "without ending" for path, ending in endings if ending is None)
        listed = ", ".join(f"{count} {ending}" for ending, count in others.most_common(4))
        if len(endings) == others.total():
            raise WeftError(
                f"{root}: nothing to read in this folder ({listed or 'it is empty'}); readable are {READABLE}"
            )
        if others:
            self.notes = (f"source: not read in {self.name}, for their endings: {listed}",)
        return [(path.relative_to(root).as_posix(), path, ending) for path, ending in endings if ending is not None]


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
