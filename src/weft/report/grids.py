"""Pictures made of tables: which class is taken for which, shares as bars, texts beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft.report.formats import percent
from weft.report.markup import Markup, join, tag
from weft.report.page import prose
from weft.report.svg import text_width

SHADES = (0, 1, 2, 3, 7, 8, 9, 10)
"""Levels of the even colour scale on which text of one of the two inks has a contrast of at least 4.5."""
ROOMY = 8
"""Classes up to which a cell has room for a share beside its count."""
ACROSS = 104.0
"""Pixels up to which the name of a column stands upright."""


@dataclass(frozen=True)
class Confusion:
    """How many of each class (rows) were called each class (columns); rows and columns have the same names."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]

    def cut(self, most: int) -> Confusion:
        """With the classes that have the fewest examples put together, where there are more than `most`."""
        if len(self.names) <= most:
            return self
        sizes = [
            sum(row) + sum(column) for row, column in zip(self.counts, zip(*self.counts, strict=True), strict=True)
        ]
        largest = sorted(range(len(self.names)), key=lambda i: (-sizes[i], i))[: most - 1]
        kept = sorted(largest)
        place = {i: at for at, i in enumerate(kept)}
        counts = [[0] * most for _ in range(most)]
        for i, row in enumerate(self.counts):
            for j, amount in enumerate(row):
                counts[place.get(i, most - 1)][place.get(j, most - 1)] += int(amount)
        return Confusion([*(self.names[i] for i in kept), f"{len(self.names) - len(kept):,} others"], counts)


def confusion_grid(confusion: Confusion) -> Markup:
    """The matrix as a table: counts, and the share of each row as the colour of its cell."""
    names, roomy = confusion.names, len(confusion.names) <= ROOMY
    upright = max((text_width(name) for name in names), default=0) <= ACROSS and roomy
    head = [
        tag("td", tag("span", "is"), " ", tag("span", "called"), class_="corner"),
        *(
            tag("th", tag("span", name, dir="auto"), scope="col", class_=None if upright else "turned")
            for name in names
        ),
        tag("th", tag("span", "in all"), scope="col", class_=None if upright else "turned"),
    ]
    rows = []
    for i, (name, row) in enumerate(zip(names, confusion.counts, strict=True)):
        total = sum(row)
        cells = [_cell(amount, total, f"{name}, called {names[j]}", roomy, i == j) for j, amount in enumerate(row)]
        rows.append(tag("tr", tag("th", name, scope="row", dir="auto"), join(cells), tag("td", f"{total:,}")))
    size = "roomy" if roomy else "tight" if len(names) > 16 else None
    grid = tag("table", tag("thead", tag("tr", join(head))), tag("tbody", join(rows, "\n")), class_=size)
    return tag("div", grid, class_="scroll whole confusion")


def _cell(amount: int, total: int, said: str, roomy: bool, diagonal: bool) -> Markup:
    if not amount:
        return tag("td", "·", class_="nothing right" if diagonal else "nothing")
    share = amount / total
    level = SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))]
    beside = tag("small", prose(percent(share))) if roomy else ""
    title = f"{said}: {amount:,} of {total:,} ({percent(share)})"
    return tag("td", f"{amount:,}", beside, class_=f"q{level}{' right' if diagonal else ''}", title=title)


def bars(names: Sequence[str], columns: Sequence[tuple[str, str, Sequence[int]]]) -> Markup:
    """Shares of each column's sum as bars from zero, a row a name; a column is its name, its colour and its counts."""
    totals = [max(1, sum(counts)) for _, _, counts in columns]
    largest = max((n / total for (_, _, counts), total in zip(columns, totals, strict=True) for n in counts), default=1)
    heads = [tag("th", "class", scope="col"), tag("th", class_="drawn")]
    heads += [tag("th", tag("span", name, class_=f"c-{color}"), scope="col") for name, color, _ in columns]
    rows = []
    for i, name in enumerate(names):
        lines, cells = [], []
        for (_, color, counts), total in zip(columns, totals, strict=True):
            share = counts[i] / total
            width = f"width: {100 * share / (largest or 1):.2f}%"
            lines.append(tag("div", class_=f"bar c-{color}", style=width))
            cells.append(tag("td", f"{counts[i]:,}", " ", tag("small", prose(percent(share)))))
        picture = tag("td", join(lines), class_="drawn", aria_hidden="true")
        rows.append(tag("tr", tag("th", name, scope="row", dir="auto"), picture, join(cells)))
    grid = tag("table", tag("thead", tag("tr", join(heads))), tag("tbody", join(rows, "\n")))
    return tag("div", grid, class_="scroll whole bars")


def captioned(title: str, subtitle: str, content: Markup, caption: str = "") -> Markup:
    """A figure around what is no chart."""
    note = tag("p", prose(caption), class_="caption") if caption else ""
    head = tag("figcaption", tag("h3", prose(title)), tag("p", prose(subtitle)) if subtitle else "")
    return tag("figure", join([head, content, note], "\n"))


def quotes(entries: Iterable[tuple[Markup, Sequence[tuple[str, str]]]], most: int) -> Markup:
    """Texts of a run, each entry a label and its named parts; parts are cut at `most` characters."""
    shown = []
    for label, parts in entries:
        lines = [
            tag("div", tag("dt", name), tag("dd", shortened(text, most), dir="auto")) if name
            else tag("div", tag("dd", shortened(text, most), dir="auto"), class_="alone")
            for name, text in parts
        ]  # fmt: skip
        shown.append(tag("article", tag("p", label, class_="about"), tag("dl", join(lines, "\n"))))
    return tag("div", join(shown, "\n"), class_="quotes")


def shortened(text: str, most: int) -> str | Markup:
    """The text, cut where it is longer than `most` characters; what is empty is said to be."""
    if not text.strip():
        return tag("span", "(empty)", class_="prompt")
    return text if len(text) <= most else text[:most] + "…"
