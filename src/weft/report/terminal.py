"""What a terminal shows: sparklines, tables of at most 100 columns, and a console that is plain in a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from weft.report.formats import count, duration, percent, rate, significant, size

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["confusion", "console", "count", "duration", "percent", "rate", "significant", "size", "sparkline", "table"]

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 100
NAME = 32
"""Columns that the name of a class takes at most."""
LEAST = 12
"""Columns to which it is cut where many classes need the room."""


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in one line of at most `width` characters (means of equal stretches); × where no value is finite."""
    columns = min(width, len(values))
    if columns < 1:
        return ""
    edges = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [_mean(values[start:end]) for start, end in pairwise(edges)]
    finite = [mean for mean in means if mean is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if high == low:
        return "".join("×" if mean is None else BLOCKS[3] for mean in means)
    top = len(BLOCKS) - 1
    return "".join("×" if mean is None else BLOCKS[round((mean - low) / (high - low) * top)] for mean in means)


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], width: int = WIDTH) -> str:
    """Plain text in columns: numbers right-aligned, the widest text column cut where the lines would pass `width`."""
    from rich.cells import cell_len, set_cell_size

    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    numeric = [all(_is_number(row[i]) for row in rows) and bool(rows) for i in range(len(headers))]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(headers))]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    if excess > 0:
        widest = max(range(len(widths)), key=lambda i: (not numeric[i], widths[i]))
        widths[widest] = max(4, widths[widest] - excess)

    def fit(text: str, i: int) -> str:
        if cell_len(text) > widths[i]:
            return set_cell_size(text, widths[i] - 1) + "…"
        gap = " " * (widths[i] - cell_len(text))
        return gap + text if numeric[i] else text + gap

    return "\n".join("  ".join(fit(text, i) for i, text in enumerate(row)).rstrip() for row in cells)


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]], width: int = WIDTH) -> list[str]:
    """How many of each class (a line) were called each class (a column); nothing where that is wider than `width`.

    Columns go by number where their names do not fit.
    """
    from rich.cells import cell_len

    shown = [_short(name) for name in names]
    numbered = [f"({i}) {name}" for i, name in enumerate(shown, 1)]
    for lines, columns in ((shown, shown), (numbered, [str(i) for i in range(1, len(names) + 1)])):
        rows: list[list[object]] = []
        for name, row in zip(lines, counts, strict=True):
            right = row[len(rows)] / sum(row) if sum(row) else None
            rows.append([name, *(amount or None for amount in row), None if right is None else percent(right)])
        heads = ["is, called:", *columns, "right"]
        wide = max(map(cell_len, table(heads, rows, width=10_000).splitlines()))
        spare = max(map(cell_len, lines), default=0) - LEAST if lines is numbered else 0
        if wide - max(0, spare) <= width:
            return table(heads, rows, width).splitlines()
    return []


def _short(name: str) -> str:
    from rich.cells import cell_len, set_cell_size

    name = " ".join(name.split())
    return name if cell_len(name) <= NAME else set_cell_size(name, NAME - 1) + "…"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return significant(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(value: object) -> bool:
    """Numbers, and texts that begin as one ("124.4 M", "−4 %"), stand on the right."""
    return value is None or isinstance(value, int | float) or str(value).lstrip("+-−")[:1].isdigit()


def console(*, stderr: bool = False) -> Console:
    """A rich console: at most 100 columns in a terminal, plain and unwrapped in a pipe, colorless under NO_COLOR."""
    from rich.console import Console

    screen = Console(stderr=stderr, highlight=False)
    # In a pipe a line stays one line, however long: it is for grep, or for a log.
    screen.width = min(screen.width, WIDTH) if screen.is_terminal else 10_000
    return screen
