"""Files that belong together line by line: texts in one, their labels or what is to be made of them in another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from weft.data.columns import FIELDS, LeftOut, Row, RowCorpus, Rows, RowSource, stamp_of
from weft.data.documents import Document
from weft.data.files import Files
from weft.data.reading import blocks, known_encoding, lines, missing
from weft.errors import WeftError


class Aligned(RowSource, kind="aligned"):
    """Files whose lines belong together: line n of one is the label, or the target, of line n of the other."""

    path: str
    """the folder of the files, or what their names begin with: data/train for data/train.en and data/train.vi"""
    text: str
    """the file of the texts (sents.txt, .en)"""
    label: str | None = None
    """the file that says what each text is"""
    target: str | None = None
    """the file of what is to be made of each text, such as its translation"""
    encoding: str = "utf-8"
    """how the files are encoded"""
    max_line: int = Field(16_000_000, ge=1_000, le=1_000_000_000)
    """characters; a longer line is a bad row, and never held whole"""

    _known = field_validator("encoding")(known_encoding)

    def elsewhere(self, path: str) -> Aligned | Files:
        """Aligned files there; where one file is named, a table, with columns called after what they are."""
        if Path(path).expanduser().is_file():
            columns = {name: name for name in ("label", "target") if getattr(self, name) is not None}
            return Files(path=path, encoding=self.encoding, **columns)
        return self.model_copy(update={"path": path})

    def build(self) -> AlignedCorpus:
        return AlignedCorpus(self)


class AlignedCorpus(RowCorpus):
    """The lines of aligned files. Ids: the text file's name and `#line`."""

    def __init__(self, config: Aligned) -> None:
        self.config: Aligned = config
        self.root = Path(config.path).expanduser()
        self.name = self.root.name or str(self.root)
        self.fields = tuple(name for name in FIELDS if getattr(config, name) is not None)
        self.files: dict[str, Path] = {}
        for name in (config.text, config.label, config.target):
            if name is not None:
                path = self.root / name if self.root.is_dir() else Path(f"{self.root}{name}")
                if not path.is_file():
                    raise missing(path)
                self.files[name] = path

    def need(self, fields: Iterable[str]) -> None:
        fields = tuple(fields)
        for name in fields:
            if name not in self.fields:
                raise WeftError(
                    f"data.source = {self.name}: no {name}, which this task needs; set data.source.{name} to the file"
                    " that holds it"
                )
        super().need(fields)

    def read(self, rows: Rows, left_out: LeftOut) -> Iterator[Document]:
        yield from rows.documents(self._rows(), self.files[self.config.text].name, str(self.root), "line")

    def stamp(self) -> Any:
        return stamp_of(self.files, self.root, self.needed)

    def size(self) -> int:
        return self.files[self.config.text].stat().st_size

    def _rows(self) -> Iterator[Row]:
        """The lines side by side.

        Raises WeftError where one file ends before another.
        """
        longest = self.config.max_line
        counts = dict.fromkeys(self.files, 0)
        with ExitStack() as stack:
            open_files = []
            for path in self.files.values():
                texts = blocks(path, str(path), self.config.encoding)
                stack.callback(texts.close)
                open_files.append(lines(texts, longest))
            for number, cells in enumerate(zip_longest(*open_files, fillvalue=_END), start=1):
                row = dict(zip(self.files, cells, strict=True))
                for name, cell in row.items():
                    counts[name] += cell is not _END
                if len(set(counts.values())) > 1:
                    continue  # count on
                broken = next((name for name, cell in row.items() if cell is None), None)
                problem = f"a line of {broken} is longer than {longest:,} characters (data.source.max_line)"
                yield Row(number, row, problem if broken else "")
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            raise WeftError(f"{self.root}: files whose lines belong together have different numbers of them: {listed}")


_END = object()
