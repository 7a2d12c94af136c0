"""From rows with named columns to documents: which column is what, and what becomes of rows that are of no use."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from weft.data.documents import Corpus, Document, pieces
from weft.data.sources import Source
from weft.errors import WeftError

FIELDS = ("label", "target")
"""What may stand beside a text."""
_SHOWN = 3
"""Bad rows that a note names."""


_FRESH = 2.0
"""Seconds that a file system's clock may be coarse."""


class BadRowError(Exception):
    """A row is of no use; the message says why."""


class Row(NamedTuple):
    """A row of a table."""

    number: int
    """its line, or its place among the rows where there are no lines; from 1"""
    cells: Mapping[str, Any]
    """by column"""
    problem: str = ""
    """why it is of no use, if it is"""


class RowSource(Source):
    """A source of rows, each of them a document."""

    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """what to do with a row that is broken, or lacks what is needed: stop and say so, or leave it out and count it"""
    max_document: int = Field(1_000_000, ge=1_000, le=100_000_000)
    """bytes of UTF-8; a longer document is cut into pieces at white space, unless the task needs its label or target"""


class Tabular(RowSource):
    """A source whose texts stand in a named column of rows."""

    text: str = "text"
    """the column (in JSON: the field) that holds the text; `a.b` is field b of field a, `a.0` the first of list a"""
    label: str = "label"
    """the column that says what the text is, for tasks that need it"""
    target: str = "target"
    """the column that holds what is to be made of the text, for tasks that need it"""

    @field_validator("text", "label", "target", mode="before")
    @classmethod
    def _number_as_name(cls, value: Any) -> Any:
        """`text=1` is the column called 1."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class LeftOut:
    """What one reading of a corpus could not use."""

    def __init__(self, refuse: bool = True) -> None:
        self._refuse = refuse
        self._rows = 0
        self._first: list[str] = []
        self._others: dict[str, int] = {}

    def row(self, where: str, problem: str) -> None:
        """Count a bad row.

        Raises WeftError where such rows are refused.
        """
        if self._refuse:
            raise WeftError(f"{where}: {problem}; data.source.on_bad_row=skip leaves such rows out")
        self._rows += 1
        if self._rows <= _SHOWN:
            self._first.append(f"{where}: {problem}")

    def other(self, what: str) -> None:
        """Count something else, by what it is."""
        if what in self._others or len(self._others) < 100:
            self._others[what] = self._others.get(what, 0) + 1

    def notes(self) -> tuple[str, ...]:
        """What a person should hear."""
        found = []
        if self._rows:
            rows = "1 bad row was" if self._rows == 1 else f"{self._rows:,} bad rows were"
            first = "" if self._rows <= _SHOWN else "the first "
            found.append(f"source: {rows} left out: {first}{'; '.join(self._first)}")
        others = sorted(self._others.items(), key=lambda item: -item[1])
        if others:
            found.append(f"source: not read: {', '.join(f'{count:,} {what}' for what, count in others[:4])}")
        return tuple(found)


class Rows:
    """Makes documents of rows: knows which column is the text, and which others are needed."""

    def __init__(self, config: RowSource, needed: Sequence[str], left_out: LeftOut) -> None:
        self._most = None if needed else config.max_document
        self._needed, self._left_out = needed, left_out
        names = {name: getattr(config, name, None) for name in ("text", *FIELDS)}
        self._columns: dict[str, str] = {name: column for name, column in names.items() if column is not None}

    def columns(self, known: Iterable[str], where: str) -> list[str]:
        """Which of a table's columns there is a use for.

        Raises WeftError when one that is needed is not among them.
        """
        known = list(known)
        found = {name: _column_in(column, known) for name, column in self._columns.items()}
        for name in ("text", *self._needed):
            if found.get(name) is None:
                raise WeftError(f"{where}: {self._lacking(name, known)}")
        return list(dict.fromkeys(column for column in found.values() if column is not None))

    def documents(self, rows: Iterable[Row], id: str, name: str, unit: str) -> Iterator[Document]:
        """A document for each row that can be used, or its pieces; `name` and `unit` say where a bad one is."""
        for row in rows:
            try:
                if row.problem:
                    raise BadRowError(row.problem)
                text, fields = self._read(row.cells)
            except BadRowError as problem:
                self._left_out.row(f"{name} {unit} {row.number:,}", str(problem))
                continue
            if text.strip():
                yield from self._document(f"{id}#{row.number}", text, fields)

    def _document(self, id: str, text: str, fields: Mapping[str, str]) -> Iterator[Document]:
        group = text if "target" in fields else ""  # else one text with two targets could be on both sides of a split
        if self._most is None:
            yield Document(id, text, group, fields=fields)
        else:
            yield from pieces(id, text, self._most, group, fields)

    def _read(self, cells: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The row's text and fields.

        Raises BadRowError.
        """
        text = self._cell(cells, "text", _lookup(cells, self._columns["text"]))
        if self._needed and not text.strip():
            raise BadRowError(f"the text ({self._columns['text']!r}) is empty")
        fields = {}
        for name in FIELDS:
            value = _lookup(cells, self._columns[name]) if name in self._columns else _NOTHING
            if value is _NOTHING and name not in self._needed:
                continue
            try:
                fields[name] = self._cell(cells, name, value).strip()
                if not fields[name]:
                    raise BadRowError(f"the {name} ({self._columns[name]!r}) is empty")
            except BadRowError:
                fields.pop(name, None)
                if name in self._needed:
                    raise
        return text, fields

    def _cell(self, cells: Mapping[str, Any], name: str, value: Any) -> str:
        """A value as text.

        Raises BadRowError when it is none.
        """
        column = self._columns[name]
        if value is _NOTHING:
            raise BadRowError(self._lacking(name, cells))
        if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
            if name == "text":
                value = " ".join(value)  # sentences, or words
            elif len(value) == 1:
                value = value[0]
            else:
                raise BadRowError(f"{column!r} holds {len(value)} texts; data.source.{name}={column}.0 takes the first")
        if name == "label" and isinstance(value, bool | int | float):
            value = json.dumps(value)
        if not isinstance(value, str):
            raise BadRowError(f"{column!r} should be text, not {_shown(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRowError(f"{column!r} holds half a surrogate pair, no text") from None
        return value

    def _lacking(self, name: str, known: Iterable[str]) -> str:
        listed = ", ".join(str(column) for column in list(known)[:20]) or "none"
        return (
            f"no column {self._columns[name]!r}; there are: {listed} (set data.source.{name} to the one that holds the"
            f" {name})"
        )


class RowCorpus(Corpus):
    """A corpus of rows: what is needed is looked for at once, in the first of them."""

    config: RowSource

    def read(self, rows: Rows, left_out: LeftOut) -> Iterator[Document]:
        """All documents, once."""
        raise NotImplementedError

    def documents(self) -> Generator[Document, None, None]:
        found = False
        left_out = LeftOut(self.config.on_bad_row == "refuse")
        for document in self.read(Rows(self.config, self.needed, left_out), left_out):
            found = True
            yield document
        self.left_out = left_out.notes()
        if not found:
            why = "; ".join(self.left_out) or "only white space, or nothing"
            raise WeftError(f"{self.name}: holds no text ({why})")

    def need(self, fields: Iterable[str]) -> None:
        self.needed = tuple(fields)
        if self.needed:
            with closing(self.documents()) as documents:
                next(documents, None)


def stamp_of(files: Mapping[str, Path], root: Path, needed: Sequence[str]) -> Any:
    """Plain data that is other when one of these files is, or what is needed of them."""
    stats = [(id, path.stat()) for id, path in files.items()]
    if max(stat.st_mtime for _, stat in stats) > time.time() - _FRESH:
        return None  # another change could leave the same times
    times = [[id, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for id, stat in stats]
    return [str(root.resolve()), times, list(needed)]


_NOTHING = object()


def _column_in(column: str, known: Sequence[str]) -> str | None:
    """The column of a table that a name such as `a` or `a.b` begins with, if there is one."""
    return next((name for name in (column, column.split(".")[0]) if name in known), None)


def _lookup(cells: Mapping[str, Any], column: str) -> Any:
    if column in cells:
        return cells[column]
    value: Any = cells
    for step in column.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list | tuple) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _NOTHING
    return value


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:40]
    except (TypeError, ValueError):
        return type(value).__name__
