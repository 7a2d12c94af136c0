"""Tables as rows, read one at a time: .csv and .tsv, .jsonl, .parquet; what is wrong with a row is said, not raised."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.data.columns import Row
from weft.data.unpacking import pyarrow, reading
from weft.errors import WeftError
from weft.report.formats import size

Choose = Callable[[Iterable[str]], list[str]]
"""From a table's columns to those that there is a use for; raises WeftError when a needed one is missing."""
_BATCH = 64
"""Rows of a .parquet file held at a time; each may be long."""
_BOMB = 1 << 28
_BOMB_RATIO = 100
"""A part of a .parquet file that unpacks to so many bytes, and so many times its size, is none that text makes."""


@dataclass(frozen=True)
class Dialect:
    """How a table's rows are written as lines."""

    delimiter: str
    quoted: bool
    """whether "..." may hold delimiters and line ends, as in .csv; else every character stands for itself"""
    header: bool
    """whether the first row names the columns; else they are called 1, 2, 3"""
    longest: int
    """characters of a row, beyond which it is bad"""


def json_rows(lines: Iterable[str | None], longest: int) -> Iterator[Row]:
    """The objects of a .jsonl file, one a line; blank lines are none."""
    for number, line in enumerate(lines, start=1):
        if line is None:
            yield Row(number, {}, _too_long("line", longest))
        elif line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> Row:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"not JSON ({error})")
    if not isinstance(data, dict):
        return Row(number, {}, f'should be an object such as {{"text": ...}}, not {line[:40]}')
    return Row(number, data)


def separated_rows(lines: Iterable[str | None], dialect: Dialect, name: str, choose: Choose) -> Iterator[Row]:
    """The rows of a .csv or .tsv file; empty lines are none.

    Raises WeftError when its header cannot be read.
    """
    columns: list[str] | None = None
    used: dict[str, int] = {}
    for number, cells in _quoted(lines, dialect) if dialect.quoted else _plain(lines, dialect):
        if columns is None:
            if isinstance(cells, str):
                raise WeftError(f"{name} line {number:,}: {cells}")
            columns = [cell.strip() for cell in cells] if dialect.header else [str(n + 1) for n in range(len(cells))]
            used = _used(columns, name, dialect, choose)
            if dialect.header:
                continue
        if isinstance(cells, str):
            yield Row(number, {}, cells)
        elif len(cells) != len(columns):
            yield Row(number, {}, f"{len(cells)} cells, where there are {len(columns)} columns")
        else:
            yield Row(number, {column: cells[index] for column, index in used.items()})


def _used(columns: list[str], name: str, dialect: Dialect, choose: Choose) -> dict[str, int]:
    """Where the columns stand that there is a use for."""
    try:
        used = choose(columns)
    except WeftError as error:
        if dialect.quoted and len(columns) == 1:
            raise WeftError(
                f"{error}; another delimiter than {dialect.delimiter!r}? set data.source.delimiter"
            ) from None
        raise
    twice = next((column for column in used if columns.count(column) > 1), None)
    if twice is not None:
        raise WeftError(f"{name}: two columns are called {twice!r}; rename one")
    return {column: columns.index(column) for column in used}


def _plain(lines: Iterable[str | None], dialect: Dialect) -> Iterator[tuple[int, list[str] | str]]:
    for number, line in enumerate(lines, start=1):
        if line is None:
            yield number, _too_long("line", dialect.longest)
        elif line:
            yield number, line.split(dialect.delimiter)


def _quoted(lines: Iterable[str | None], dialect: Dialect) -> Iterator[tuple[int, list[str] | str]]:
    csv.field_size_limit(max(csv.field_size_limit(), dialect.longest + 1))  # Python's own is 131,072 characters
    feed = _Feed(lines, dialect.longest)
    while not feed.over:
        reader = csv.reader(feed.records(), delimiter=dialect.delimiter)
        try:
            for cells in reader:
                if cells:
                    yield feed.first, cells
                feed.begin()
        except (_BadRecordError, csv.Error) as error:
            yield feed.first, str(error) if isinstance(error, _BadRecordError) else f"not CSV ({error})"
            feed.begin()


class _BadRecordError(Exception):
    """A record that is not read to its end; the message says why."""


class _Feed:
    """Lines for a csv reader, which takes as many as a record has; never more of one than is allowed."""

    def __init__(self, lines: Iterable[str | None], longest: int) -> None:
        self._lines, self._longest = iter(lines), longest
        self._number = self._taken = 0
        self.first = 1
        """the line where the record begins"""
        self.over = False

    def begin(self) -> None:
        """What follows is another record."""
        self._taken, self.first = 0, self._number + 1

    def records(self) -> Iterator[str]:
        """The lines that are left.

        Raises _BadRecordError when a record is too long, or the last one is not complete; the rest can be read then.
        """
        for line in self._lines:
            self._number += 1
            self._taken += len(line or "") + 1
            if line is None or self._taken > self._longest + 1:
                unclosed = ", a quotation mark that is not closed?" if self._number > self.first else ""
                raise _BadRecordError(_too_long("row", self._longest) + unclosed)
            yield line + "\n"
        self.over = True
        if self._number >= self.first:
            raise _BadRecordError('a quotation mark (") is opened here and never closed')


def parquet_rows(path: Path, name: str, most: int, choose: Choose) -> Iterator[Row]:
    """The rows of a .parquet file, some at a time.

    Raises WeftError when it cannot be read, or holds more than `most` bytes.
    """
    arrow, parquet = pyarrow(name), pyarrow(name, "pyarrow.parquet")
    number = 0
    try:
        with reading(name, ".parquet"), parquet.ParquetFile(path) as file:
            columns = choose(file.schema_arrow.names)
            flat = [name for name in columns if not arrow.types.is_nested(file.schema_arrow.field(name).type)]
            _check_sizes(file.metadata, name, most)
        # a column that stays a dictionary does not grow where one long text stands in many rows
        with reading(name, ".parquet"), parquet.ParquetFile(path, read_dictionary=flat, pre_buffer=False) as file:
            names = _class_names(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns, use_threads=False):
                parts = [batch.column(index) for index in range(batch.num_columns)]
                for index in range(batch.num_rows):
                    number += 1
                    cells = {c: part[index].as_py() for c, part in zip(batch.schema.names, parts, strict=True)}
                    yield Row(number, named(cells, names))
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise WeftError(f"{name}: a damaged .parquet file ({line[:200]}); get it again") from None


def _check_sizes(metadata: Any, name: str, most: int) -> None:
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        total += group.total_byte_size
        for index in range(group.num_columns):
            column = group.column(index)
            held, packed = column.total_uncompressed_size, column.total_compressed_size
            if held > _BOMB and held > _BOMB_RATIO * packed:  # one page, held whole, may be as large
                raise WeftError(f"{name}: {size(packed)} of {column.path_in_schema!r} unpack to {size(held)}: no text")
    if total > most:
        raise WeftError(
            f"{name}: holds {size(total)}, more than {size(most)}; if it is meant to be that large, set"
            " data.source.max_unpacked to more"
        )


def named(cells: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """A row with its classes by name where it has them by number."""
    for column, known in names.items():
        value = cells.get(column)
        if isinstance(value, int) and 0 <= value < len(known):
            cells[column] = known[value]
    return cells


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of classes that the `datasets` library writes into its files, by column."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {column: list(feature["names"]) for column, feature in features.items() if "names" in feature}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _too_long(what: str, longest: int) -> str:
    return f"the {what} is longer than {longest:,} characters (data.source.max_line)"
