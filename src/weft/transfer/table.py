"""The table before training: parameters under the shortest paths that say the same of all that lies below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from weft.models.describe import ranges
from weft.report.terminal import significant, table

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
"""A layer's, in a path."""


@dataclass(frozen=True)
class Entry:
    """A parameter, or all below a path that fare alike."""

    path: str
    size: int
    learns: bool
    source: str | None = None
    """what it is copied from"""
    difference: float | None = None
    """its largest difference from that"""


def table_of(entries: Sequence[Entry]) -> list[str]:
    """Lines of text: path, parameters, what they are copied from, the largest difference, whether they learn."""
    rows: list[list[object]] = [
        [
            entry.path,
            entry.size,
            entry.source,
            None if entry.difference is None else significant(entry.difference),
            "learns" if entry.learns else "frozen",
        ]
        for entry in _layers_together(list(_shortest("", list(entries))))
    ]
    return table(["part", "parameters", "copied from", "largest difference", "training"], rows).splitlines()


def _shortest(above: str, entries: list[Entry]) -> Iterator[Entry]:
    """One entry for all, if they fare alike; else those of each part of the path below `above`."""
    sources = {_above(entry, above) for entry in entries}
    if above and len(sources) == 1 and len({entry.learns for entry in entries}) == 1:
        yield _joined(above, entries, sources.pop())
        return
    start = len(above) + 1 if above else 0

    def below(entry: Entry) -> str:
        return entry.path[start:].partition(".")[0]

    for name, group in groupby(entries, below):
        yield from _shortest(f"{above}.{name}" if above else name, list(group))


def _above(entry: Entry, path: str) -> str | None:
    """Where the source of `path` would lie, by that of an entry below it."""
    return entry.source and entry.source.removesuffix(entry.path.removeprefix(path))


def _joined(path: str, entries: Sequence[Entry], source: str | None) -> Entry:
    differences = [entry.difference for entry in entries if entry.difference is not None]
    return Entry(path, sum(entry.size for entry in entries), entries[0].learns, source, max(differences, default=None))


def _layers_together(entries: list[Entry]) -> Iterator[Entry]:
    """Layers that fare alike, as `decoder.blocks.0-3.attention`, where the first of them stood."""
    groups: dict[tuple[str, bool, str | None], list[Entry]] = {}
    for entry in entries:
        path, source, number = entry.path, entry.source, _NUMBER.search(entry.path)
        if number and (source is None or number[0] in source.split(".")):  # copied from the layer of the same number
            path, source = _starred(path), source and _starred(source)
        groups.setdefault((path, entry.learns, source), []).append(entry)
    for (path, _, source), group in groups.items():
        if len(group) == 1:
            yield group[0]
        else:
            layers = ranges(int(_NUMBER.findall(entry.path)[0]) for entry in group)
            yield _joined(path.replace("*", layers), group, source and source.replace("*", layers))


def _starred(path: str) -> str:
    return _NUMBER.sub("*", path, count=1)
