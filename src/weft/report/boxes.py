"""Boxes over one another, joined by lines: how a model is drawn, from its input at the foot to its output at the top.

What is drawn is a tree of items, each placed upon the one before; texts are measured before their boxes are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from weft.report.markup import Markup, join, number, tag
from weft.report.scales import Point
from weft.report.svg import shorten, text_width

Tone = Literal["amber", "blue", "green", "purple", "vermillion", "grey"]

BOX, CELL, ASIDE, NUMBER = 300.0, 216.0, 176.0, 150.0
"""Widths: of a box, of one among several side by side, of one that stands beside the column, of the numbers' column."""
GAP, RADIUS, PAD, LANE = 18.0, 9.0, 18.0, 16.0
"""Between two boxes; of a sum's circle; from a group's border to what is inside; from a box to the line around it."""
TITLE, DETAIL, SMALL, HEAD = 14.0, 12.5, 12.5, 22.0
"""Font sizes: of a box's name, of its options, of numbers, of the picture's title."""
BOLD = 1.06
"""How much wider bold text is."""


@dataclass(frozen=True)
class Box:
    """One part: its name, its options, and what is counted of it. `aside` acts on it from the left."""

    title: str
    detail: str = ""
    count: str = ""
    tone: Tone = "grey"
    aside: Box | None = None
    reads_source: bool = False
    """a line comes in from the top of the column before"""


@dataclass(frozen=True)
class Sum:
    """Something that is added from the side."""

    aside: Box


@dataclass(frozen=True)
class Note:
    """Words beside the line."""

    text: str


@dataclass(frozen=True)
class Residual:
    """What comes in goes around the items as well, and is added."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Cells:
    """Columns side by side that read the same; what they give is added up, or goes out of each."""

    columns: tuple[tuple[Item, ...], ...]
    added: bool


@dataclass(frozen=True)
class Group:
    """Items that stand `times` over one another, drawn once."""

    title: str
    times: int
    items: tuple[Item, ...]
    count: str = ""


Item = Box | Sum | Note | Residual | Cells | Group


@dataclass(frozen=True)
class Column:
    """What is done to one input."""

    foot: tuple[str, ...]
    """lines below it: what comes in"""
    items: tuple[Item, ...]


@dataclass
class _Canvas:
    """Shapes so far, in layers; heights count from the foot of the picture until it is written."""

    groups: list[tuple[float, float, float, float]] = field(default_factory=list)
    wires: list[tuple[list[Point], bool]] = field(default_factory=list)
    circles: list[Point] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, Tone]] = field(default_factory=list)
    texts: list[tuple[float, float, str, str, float]] = field(default_factory=list)

    def wire(self, *points: Point, arrow: bool = False) -> None:
        """A line through the points, perhaps with an arrow at its end."""
        self.wires.append((list(points), arrow))

    def text(self, x: float, middle: float, text: str, style: str, size: float = DETAIL) -> None:
        """One line of text around the height `middle`."""
        self.texts.append((x, middle, text, style, size))

    def markup(self, height: float) -> Markup:
        """All shapes, the highest at the top."""
        parts: list[Markup] = []
        for x, y, w, h in sorted(self.groups, key=lambda group: -group[3]):
            parts.append(tag("rect", x=x, y=height - y - h, width=w, height=h, rx=14.0, class_="group"))
        for points, arrow in self.wires:
            flipped = [(x, height - y) for x, y in points]
            parts.append(tag("path", d=_path(flipped), class_="wire"))
            if arrow:
                parts.append(tag("path", d=_arrow(*flipped[-2:]), class_="tip"))
        for x, y in self.circles:
            parts.append(tag("circle", cx=x, cy=height - y, r=RADIUS, class_="sum"))
            cross = f"M{number(x - 5)} {number(height - y)}h10M{number(x)} {number(height - y - 5)}v10"
            parts.append(tag("path", d=cross, class_="wire"))
        for x, y, w, h, tone in self.boxes:
            parts.append(tag("rect", x=x, y=height - y - h, width=w, height=h, rx=6.0, class_=f"box {tone}"))
        for x, y, text, style, size in self.texts:
            shown = tag("text", text, x=x, y=height - y + 0.35 * size, font_size=size, class_=style)
            parts.append(shown)
        return join(parts, "\n")


def boxes(title: str, subtitle: Sequence[str], columns: Sequence[Column], spoken: str) -> str:
    """The whole picture as one SVG file; the same for the same arguments."""
    canvas, left, top, source = _Canvas(), 24.0, 0.0, None
    for column in columns:
        placed = _Column(canvas, column, left, source, read=column is not columns[-1])
        source, left, top = placed.end, placed.right, max(top, placed.top)
    title = shorten(title, 440)
    room = max(text_width(title, HEAD) * BOLD, *(text_width(line) for line in subtitle), 0.0) + 48
    width = max(left + 8, room)
    top += 24
    for index, line in enumerate(reversed(subtitle)):
        canvas.text(24, top + 10 + 20 * index, line, "muted", 14)
    canvas.text(24, top + 20 + 20 * len(subtitle), title, "bold", HEAD)
    height = top + 20 + 20 * len(subtitle) + 34
    content = [
        tag("title", spoken),
        tag("style", Markup(STYLE)),
        tag("rect", width=width, height=height, class_="paper"),
        canvas.markup(height),
    ]
    box = f"0 0 {number(width)} {number(height)}"
    whole = tag("svg", join(content, "\n"), xmlns="http://www.w3.org/2000/svg", viewBox=box, width=width, height=height,
                class_="boxes", role="img")  # fmt: skip
    return f"{whole}\n"


class _Column:
    """Places the items of one column, from its foot upwards."""

    def __init__(self, canvas: _Canvas, column: Column, left: float, source: Point | None, *, read: bool) -> None:
        self.canvas = canvas
        self.lane = left + 8
        self.half = max([BOX / 2, *(_wide(item) / 2 for item in _all(column.items))])
        self.border = PAD * max((_levels(item) for item in column.items), default=0)
        asides = any(_aside(item) is not None for item in _all(column.items))
        beside = (ASIDE + 24 if asides else 0.0) + (32 if source is not None else 0)
        self.aside = left + beside
        self.center = self.aside + self.border + self.half
        self.numbers = self.center + self.half + self.border + LANE + 20
        self.source = source
        height = 30.0
        for line in reversed(column.foot):
            canvas.text(self.center, height, line, "middle bold" if line is column.foot[-1] else "middle", TITLE)
            height += 20
        self.counts: list[float] = []
        top = self._stack(column.items, self.center, height - 6)
        self.end: Point = (self.center, top + 30)
        if read or not isinstance(column.items[-1], Cells):  # cells have ends of their own
            canvas.wire((self.center, top), self.end, arrow=not read)
        self.top = top + 34
        self.right = self.numbers
        if self.counts:
            canvas.text(self.numbers, max(self.counts) + 20, "parameters", "muted", SMALL)
            shown = [text for x, _, text, _, _ in canvas.texts if x == self.numbers]
            self.right += max(text_width(text, SMALL) for text in shown) + 24

    def _stack(self, items: Sequence[Item], x: float, height: float, width: float = BOX) -> float:
        """The items one upon the other around x, from the line that ends at `height`; where the line then ends."""
        for item in items:
            if isinstance(item, Box):
                height = self._box(item, x, height, width)
            elif isinstance(item, Sum):
                height = self._sum(item, x, height)
            elif isinstance(item, Note):
                self.canvas.wire((x, height), (x, height + 30))
                self.canvas.text(x + 10, height + 15, item.text, "muted")
                height += 30
            elif isinstance(item, Residual):
                height = self._residual(item, x, height)
            elif isinstance(item, Cells):
                height = self._cells(item, x, height)
            else:
                height = self._group(item, x, height)
        return height

    def _box(self, box: Box, x: float, height: float, width: float) -> float:
        counted_inside = width < BOX
        inner = replace(box, count=box.count if counted_inside else "")
        tall = max(_tall(inner, width), _tall(box.aside, ASIDE) if box.aside else 0.0)
        foot = height + GAP
        middle = foot + tall / 2
        self.canvas.wire((x, height), (x, foot), arrow=True)
        self._draw(inner, x - width / 2, foot, width, tall)
        if box.count and not counted_inside:
            self._count(middle, box.count)
        if box.aside is not None:
            self._beside(box.aside, middle, x - width / 2)
        if box.reads_source and self.source is not None:
            # among others side by side it comes in from below, so that it goes through none of them
            below = [(x - width / 4, foot - 12), (x - width / 4, foot)]
            way = below if counted_inside else [(x - width / 2, middle)]
            self.canvas.wire(self.source, (self.lane, self.source[1]), (self.lane, way[0][1]), *way, arrow=True)
        return foot + tall

    def _draw(self, box: Box, left: float, foot: float, width: float, tall: float) -> None:
        self.canvas.boxes.append((left, foot, width, tall, box.tone))
        lines = _lines(box, width)
        y = foot + tall / 2 + (len(lines) - 1) * 8.5
        for text, style, size in lines:
            self.canvas.text(left + width / 2, y, text, f"middle {style}", size)
            y -= 17

    def _beside(self, box: Box, middle: float, until: float) -> None:
        """A box to the left of the column, with a line to what it acts on."""
        left, tall = self.aside - ASIDE - 24, _tall(box, ASIDE)
        self._draw(box, left, middle - tall / 2, ASIDE, tall)
        self.canvas.wire((left + ASIDE, middle), (until, middle), arrow=True)

    def _sum(self, item: Sum, x: float, height: float) -> float:
        middle = height + max(GAP + RADIUS, _tall(item.aside, ASIDE) / 2 + 4)
        self.canvas.wire((x, height), (x, middle - RADIUS), arrow=True)
        self.canvas.circles.append((x, middle))
        self._beside(item.aside, middle, x - RADIUS)
        end = max(middle + RADIUS, middle + _tall(item.aside, ASIDE) / 2 - GAP + 4)
        self.canvas.wire((x, middle + RADIUS), (x, end))
        return end

    def _residual(self, item: Residual, x: float, height: float) -> float:
        fork, lane = height + 8, x + self.half + LANE
        self.canvas.wire((x, height), (x, fork))
        middle = self._stack(item.items, x, fork) + GAP + RADIUS
        self.canvas.wire((x, middle - GAP - RADIUS), (x, middle - RADIUS), arrow=True)
        self.canvas.wire((x, fork), (lane, fork), (lane, middle), (x + RADIUS, middle), arrow=True)
        self.canvas.circles.append((x, middle))
        return middle + RADIUS

    def _cells(self, item: Cells, x: float, height: float) -> float:
        n, fork = len(item.columns), height + 12
        centers = [x + (index - (n - 1) / 2) * (CELL + 20) for index in range(n)]
        self.canvas.wire((x, height), (x, fork))
        self.canvas.wire((centers[0], fork), (centers[-1], fork))
        tops = [self._stack(column, at, fork, CELL) for at, column in zip(centers, item.columns, strict=True)]
        top = max(tops)
        if not item.added:
            for at, end in zip(centers, tops, strict=True):
                self.canvas.wire((at, end), (at, top + 30), arrow=True)
            return top
        middle = top + GAP + RADIUS
        for at, end in zip(centers, tops, strict=True):
            if at == x:
                self.canvas.wire((at, end), (at, middle - RADIUS), arrow=True)
            else:
                self.canvas.wire((at, end), (at, middle), (x + (RADIUS if at > x else -RADIUS), middle), arrow=True)
        self.canvas.circles.append((x, middle))
        return middle + RADIUS

    def _group(self, item: Group, x: float, height: float) -> float:
        foot, border = height + 10, PAD * _levels(item)
        self.canvas.wire((x, height), (x, foot))
        top = self._stack(item.items, x, foot)
        name, high = top + 22, top + 38
        self.canvas.wire((x, top), (x, high))
        left, right = x - self.half - border, x + self.half + border + LANE
        self.canvas.groups.append((left, foot, right - left, high - foot))
        self.canvas.text(left + 14, name, shorten(item.title, x - left - 24), "muted")
        if item.times > 1:
            self.canvas.text(x + 14, name, f"× {item.times}", "bold", 17)
        if item.count:
            self._count(name, item.count)
        return high

    def _count(self, middle: float, text: str) -> None:
        self.counts.append(middle)
        self.canvas.text(self.numbers, middle, text, "count", SMALL)


def wrapped(text: str, room: float, size: float = DETAIL) -> list[str]:
    """The text in lines no wider than `room` pixels, broken at spaces; a word that is wider is shortened."""
    lines: list[str] = []
    for word in text.split(" ") if text else ():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(shorten(word, room * 14 / size))
    return lines


def _lines(box: Box, width: float) -> list[tuple[str, str, float]]:
    """What stands in a box: text, style, size."""
    room = width - 20
    title = [(line, "bold", TITLE) for line in wrapped(box.title, room / BOLD, TITLE)]
    detail = [(line, "muted", DETAIL) for line in wrapped(box.detail, room)]
    counted = [(line, "muted", DETAIL) for line in wrapped(f"{box.count} parameters", room)] if box.count else []
    return [*title, *detail, *counted]


def _tall(box: Box, width: float) -> float:
    return 17.0 * len(_lines(box, width)) + 13


def _all(items: Sequence[Item]) -> list[Item]:
    """The items and all that is inside them."""
    found: list[Item] = []
    for item in items:
        found.append(item)
        inside = item.items if isinstance(item, Residual | Group) else ()
        found += _all(inside)
        if isinstance(item, Cells):
            found += [one for column in item.columns for one in _all(column)]
    return found


def _aside(item: Item) -> Box | None:
    return item.aside if isinstance(item, Box | Sum) else None


def _wide(item: Item) -> float:
    return len(item.columns) * (CELL + 20) - 20 if isinstance(item, Cells) else BOX


def _levels(item: Item) -> int:
    """Groups inside one another."""
    inside = item.items if isinstance(item, Group | Residual) else ()
    return max(map(_levels, inside), default=0) + isinstance(item, Group)


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def _arrow(before: Point, end: Point) -> str:
    """The tip of a line that comes from `before`."""
    (x, y), back, side = end, 7.0, 4.0
    if before[0] == x:
        base = y + back if before[1] > y else y - back
        return f"{_path([(x, y), (x - side, base), (x + side, base)])}Z"
    base = x - back if before[0] < x else x + back
    return f"{_path([(x, y), (base, y - side), (base, y + side)])}Z"


STYLE = """
.boxes { font-family: ui-sans-serif, system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.boxes text { fill: #1b1c1e; } .boxes .muted { fill: #5f646b; } .boxes .count { fill: #1b1c1e; }
.boxes .middle { text-anchor: middle; } .boxes .bold { font-weight: 650; }
.boxes .paper { fill: #fcfcfb; } .boxes .group { fill: #f3f3f0; stroke: #c9cac6; }
.boxes .wire { fill: none; stroke: #5f646b; stroke-width: 1.5; stroke-linejoin: round; } .boxes .tip { fill: #5f646b; }
.boxes .sum { fill: #fcfcfb; stroke: #5f646b; stroke-width: 1.5; }
.boxes .amber { fill: #fbf1d9; stroke: #8a6100; } .boxes .blue { fill: #e0effa; stroke: #0067a5; }
.boxes .green { fill: #dcf2e9; stroke: #00775a; } .boxes .purple { fill: #f6e6ef; stroke: #9c4a78; }
.boxes .vermillion { fill: #fce8db; stroke: #b84a00; } .boxes .grey { fill: #fcfcfb; stroke: #8d9197; }
@media (prefers-color-scheme: dark) {
.boxes text { fill: #e7e7e4; } .boxes .muted { fill: #b4b9bf; } .boxes .count { fill: #e7e7e4; }
.boxes .paper { fill: #15171a; } .boxes .group { fill: #1d2024; stroke: #464a50; }
.boxes .wire { stroke: #a0a5ac; } .boxes .tip { fill: #a0a5ac; } .boxes .sum { fill: #15171a; stroke: #a0a5ac; }
.boxes .amber { fill: #362b10; stroke: #e3b341; } .boxes .blue { fill: #13304a; stroke: #5cb3f0; }
.boxes .green { fill: #10352b; stroke: #35c79c; } .boxes .purple { fill: #3a2232; stroke: #e39ac6; }
.boxes .vermillion { fill: #41230f; stroke: #f58a4b; } .boxes .grey { fill: #25292e; stroke: #80868d; }
}
"""
