"""What each of several things cost and what it reached, and which of them nothing else beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from weft.report.formats import significant
from weft.report.markup import Markup, join, tag
from weft.report.scales import Point, Scale, fit, tick_labels
from weft.report.svg import NARROW, WIDE, path, shorten, text_width

LOG_FROM = 8.0
"""An axis is logarithmic when its largest value is so many times the smallest."""
TOP, BOTTOM = 30.0, 48.0
STRETCHES = 24
"""Pieces of a sloping line that names keep clear of."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """One thing: its place, the interval of its height where it has one."""

    name: str
    color: str
    x: float
    y: float
    ends: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class ScatterChart:
    """What the picture says; `front` are the places of what nothing beats in both, in the order of their cost.

    `law`: both ends of a power law through the things; with it both axes are logarithmic, and it is a straight line.
    """

    title: str
    spots: Sequence[Spot]
    x_name: str
    y_name: str
    front: Sequence[Point] = ()
    show_x: Callable[[float], str] = significant
    show_y: Callable[[float], str] = significant
    law: tuple[Point, Point] | None = None

    @property
    def spoken(self) -> str:
        """The picture in words, for those who do not see it."""
        each = "; ".join(f"{one.name}: {self.show_y(one.y)} for {self.show_x(one.x)}" for one in self.spots)
        return f"{self.title}. {self.y_name} against {self.x_name}: {each}."


def scatter(chart: ScatterChart, width: int = WIDE) -> Markup:
    """The chart as one `<svg>`, `width` pixels wide."""
    narrow = width < 600
    height = 300 if narrow else 340
    xs = [spot.x for spot in chart.spots]
    log = chart.law is not None or (min(xs) > 0 and max(xs) > LOG_FROM * min(xs))
    heights = [value for spot in chart.spots for value in (spot.y, *(spot.ends or ()))]
    y = fit([*heights, *(end for _, end in chart.law or ())], log=chart.law is not None, pad=0.08)
    x = fit(xs, log=log, pad=0.12)
    y_ticks = y.ticks(max(2, round((height - TOP - BOTTOM) / 62)))
    labels = tick_labels(y_ticks)
    left = max(map(text_width, labels), default=0.0) + 10
    plot = _Plot(left, width - left - 14, height - TOP - BOTTOM, x, y)
    foot, edge = TOP + plot.height, left + plot.width
    parts = []
    for tick, label in zip(y_ticks, labels, strict=True):
        at = plot.at((x.low, tick))[1]
        parts.append(tag("line", x1=left, x2=edge, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", label, x=left - 10, y=at + 5, class_="tick end"))
    x_ticks = x.ticks(max(3, round(plot.width / 130)))
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        at = plot.at((tick, y.low))[0]
        parts.append(tag("line", x1=at, x2=at, y1=foot, y2=foot + 5, class_="axis"))
        parts.append(tag("text", label, x=at, y=foot + 20, class_="tick middle"))
    parts.append(tag("line", x1=left, x2=edge, y1=foot, y2=foot, class_="axis"))
    parts.append(tag("text", f"{chart.y_name}{', log scale' * y.log}", x=0, y=14, class_="axis-name"))
    parts.append(tag("text", f"{chart.x_name}{', log scale' * log}", x=edge, y=foot + 40, class_="axis-name end"))
    if chart.law:
        parts.append(tag("path", d=path([plot.at(end) for end in chart.law]), class_="front"))
    parts += [_front(plot, chart.front), *_spots(plot, chart, width)]
    return tag(
        "svg",
        join(parts),
        class_="narrow" if narrow else "wide",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=chart.spoken,
    )


@dataclass(frozen=True)
class _Plot:
    """The plotting area, in the picture's own pixels."""

    left: float
    width: float
    height: float
    x: Scale
    y: Scale

    def at(self, point: Point) -> Point:
        return self.left + self.x.place(point[0]) * self.width, TOP + (1 - self.y.place(point[1])) * self.height


def _stair(plot: _Plot, points: Sequence[Point]) -> list[Point]:
    """The corners of a stair through what nothing beats."""
    stair: list[Point] = []
    for x, y in map(plot.at, points):
        stair += [(x, stair[-1][1]), (x, y)] if stair else [(x, y)]
    return stair


def _front(plot: _Plot, points: Sequence[Point]) -> Markup:
    stair = _stair(plot, points)
    return tag("path", d=path(stair), class_="front") if len(stair) > 1 else Markup("")


def _along(plot: _Plot, ends: tuple[Point, Point]) -> list[Box]:
    """Small boxes over a straight line."""
    (x, y), (right, below) = map(plot.at, ends)
    steps = [k / STRETCHES for k in range(STRETCHES + 1)]
    places = [(x + k * (right - x), y + k * (below - y)) for k in steps]
    return [(min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2) for (a, b), (c, d) in pairwise(places)]


def _spots(plot: _Plot, chart: ScatterChart, width: int) -> list[Markup]:
    """Each thing with its interval and its name, names where they touch nothing."""
    places = [plot.at((spot.x, spot.y)) for spot in chart.spots]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    stair = _stair(plot, chart.front)
    for (x, y), (right, below) in pairwise(stair):
        taken.append((min(x, right) - 2, min(y, below) - 2, max(x, right) + 2, max(y, below) + 2))
    taken += _along(plot, chart.law) if chart.law else []
    parts = []
    for spot, (x, y) in zip(chart.spots, places, strict=True):
        marks: list[Markup] = []
        if spot.ends:
            low, high = (plot.at((spot.x, end))[1] for end in spot.ends)
            marks.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_="whisker thin"))
        marks.append(tag("circle", cx=x, cy=y, r=5.5, class_="ring" if spot.hollow else "dot"))
        name = shorten(spot.name, 0.4 * width)
        box = _free(x, y, text_width(name), taken, plot)
        taken.append(box)
        down = (box[1] + box[3]) / 2
        if abs(down - y) > 16:
            side = box[0] - 2 if box[0] > x else box[2] + 2 if box[2] < x else x
            marks.append(tag("path", d=path([(x, y), (side, down)]), class_="leader"))
        marks.append(tag("text", name, x=box[0], y=down + 5, class_="label"))
        parts.append(tag("g", join(marks), class_=f"c-{spot.color}"))
    return parts


def _free(x: float, y: float, wide: float, taken: Sequence[Box], plot: _Plot) -> Box:
    """Where a name of that width stands near a point: the first place that touches nothing and lies inside."""
    right, foot = plot.left + plot.width + 12, TOP + plot.height

    def box(left: float, middle: float) -> Box:
        return left, middle - 9, left + wide, middle + 9

    def free(one: Box) -> bool:
        inside = one[0] >= plot.left and one[2] <= right and one[1] >= 0 and one[3] <= foot
        return inside and not any(
            one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3] for other in taken
        )

    tried = [
        box(left, y + shift)
        for far in range(0, 200, 18)
        for shift in ((0.0,) if not far else (-far, far))
        for left in (x + 12, x - 12 - wide)
    ]
    return next(filter(free, tried), tried[0])


def pictures(chart: ScatterChart) -> list[Markup]:
    """The chart as a page needs it: wide and narrow."""
    return [scatter(chart, width) for width in (WIDE, NARROW)]
