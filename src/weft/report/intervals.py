"""Differences as intervals against the zero line: a row each, the margin as a light band behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from weft.report.formats import significant
from weft.report.markup import Markup, join, tag
from weft.report.scales import Scale, tick_labels
from weft.report.svg import FONT, NARROW, WIDE, path, shorten, text_width

BOLD = 1.12
"""How much wider than others a name's letters may be."""
HEAD, FOOT = 46.0, 54.0
"""Pixels above the rows, for the directions, and below them, for the axis."""


@dataclass(frozen=True)
class Effect:
    """One difference: its estimate and interval (None where there is none), what is said of it, single measurements.

    `inner` is a second, narrower interval.
    """

    name: str
    color: str
    value: float | None
    ends: tuple[float, float] | None
    word: str
    detail: str = ""
    inner: tuple[float, float] | None = None
    points: Sequence[float] = ()


@dataclass(frozen=True)
class IntervalChart:
    """What the picture says, its rows, which direction is an improvement, and what difference does not matter."""

    title: str
    effects: Sequence[Effect]
    axis: str
    baseline: str
    better: Literal["lower", "higher"]
    margin: float | None = None
    show: Callable[[float], str] = significant

    @property
    def spoken(self) -> str:
        """The picture in words, for those who do not see it."""
        rows = "; ".join(f"{one.name}: {one.word} {one.detail}".strip() for one in self.effects)
        margin = f" Differences below {self.show(self.margin)} do not matter." if self.margin else ""
        return f"{self.title}. {self.axis}; {self.better} is better.{margin} {rows}."

    def reach(self) -> tuple[Scale, bool]:
        """The scale, with room on both sides of zero, and whether an interval goes beyond it.

        An interval much wider than most is cut, lest it flatten all others.
        """
        widths = [max(map(abs, one.ends)) for one in self.effects if one.ends]
        values = [abs(one.value) for one in self.effects if one.value is not None]
        most = max([4 * median(widths) if widths else 0.0, *(1.3 * value for value in values), self.margin or 0.0])
        ends = [end for one in self.effects for end in (one.ends or ())]
        ends += [sign * self.margin * 1.15 for sign in (-1, 1) if self.margin]
        low, high = (max(-most, min([0.0, *ends])), min(most, max([0.0, *ends])))
        if low == high:
            low, high = -1.0, 1.0
        span = high - low
        low, high = min(low - 0.04 * span, -0.3 * span), max(high + 0.04 * span, 0.3 * span)
        return Scale(low, high), any(end < low or end > high for end in ends)


@dataclass(frozen=True)
class _Frame:
    """Where things lie, in pixels."""

    width: int
    left: float
    right: float
    row: float
    narrow: bool
    x: Scale

    @property
    def span(self) -> float:
        return self.width - self.left - self.right

    def at(self, value: float) -> float:
        return self.left + self.x.place(value) * self.span


def interval_chart(chart: IntervalChart, width: int = WIDE) -> Markup:
    """The chart as one `<svg>`, `width` pixels wide; a narrow one has the names above the intervals."""
    narrow, scale = width < 600, chart.reach()[0]
    left = right = 10.0
    if not narrow:
        left = min(max(text_width(one.name) * BOLD for one in chart.effects) + 22, 0.26 * width)
        words = max(max(text_width(one.word) * 1.1, text_width(one.detail, 12)) for one in chart.effects)
        right = min(words + 24, 0.34 * width)
    frame = _Frame(width, left, right, 62.0 if narrow else 48.0, narrow, scale)
    height = HEAD + FOOT + frame.row * len(chart.effects)
    rows = [_row(frame, one, HEAD + i * frame.row) for i, one in enumerate(chart.effects)]
    return tag(
        "svg",
        join([_scale(frame, chart, height - FOOT), *rows]),
        class_="narrow" if narrow else "wide",
        viewBox=f"0 0 {width} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=chart.spoken,
    )


def _scale(frame: _Frame, chart: IntervalChart, foot: float) -> Markup:
    """The margin, the grid, the zero line with what lies on either side of it, and the axis."""
    parts, zero, top = [], frame.at(0.0), HEAD - 8
    if chart.margin:
        low, high = (min(max(frame.at(sign * chart.margin), frame.left), frame.left + frame.span) for sign in (-1, 1))
        parts.append(tag("rect", x=low, y=top, width=high - low, height=foot - top, class_="margin"))
    ticks = frame.x.ticks(max(3, round(frame.span / 110)))
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        x = frame.at(tick)
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=foot, class_="grid"))
        parts.append(tag("text", f"+{label}" if tick > 0 else label, x=x, y=foot + 20, class_="tick middle"))
    parts.append(tag("line", x1=frame.left, x2=frame.left + frame.span, y1=foot, y2=foot, class_="axis"))
    parts.append(tag("line", x1=zero, x2=zero, y1=top, y2=foot, class_="zero"))
    words = ("better", "worse") if chart.better == "lower" else ("worse", "better")
    name = shorten(f"as {chart.baseline}", min(zero, frame.width - zero) * 2 - 8)
    parts.append(tag("text", name, x=zero, y=14, class_="tick middle"))
    parts.append(tag("text", f"← {words[0]}", x=zero - 10, y=32, class_="tick end"))
    parts.append(tag("text", f"{words[1]} →", x=zero + 10, y=32, class_="tick"))
    room = frame.width - 20 if frame.narrow else frame.left + frame.span
    fits = text_width(chart.axis) <= room  # else its unit stands in the subtitle alone
    axis = chart.axis if fits else shorten(chart.axis.partition(",")[0], room)
    parts.append(tag("text", axis, x=float(frame.width) - (10 if frame.narrow else frame.right), y=foot + 42,
                     class_="axis-name end"))  # fmt: skip
    return tag("g", join(parts), class_="scale")


def _row(frame: _Frame, one: Effect, top: float) -> Markup:
    """One difference: name, interval, words."""
    middle = top + (36 if frame.narrow else frame.row / 2 - 4)
    edge = float(frame.width) - 8
    if frame.narrow:
        room = frame.width - 36 - text_width(one.word) * 1.1
        parts = [tag("text", shorten(one.name, room), x=10, y=top + 15, class_="strong")]
        parts.append(tag("text", one.word, x=edge, y=top + 15, class_="end said"))
    else:
        words = edge - frame.right + 28
        parts = [tag("text", shorten(one.name, (frame.left - 18) / BOLD), x=0, y=middle + FONT / 3, class_="strong")]
        parts.append(tag("text", one.word, x=words, y=middle + (-1 if one.detail else FONT / 3)))
        if one.detail:
            parts.append(tag("text", one.detail, x=words, y=middle + 15, class_="small row"))
    for value in one.points:
        if frame.x.low <= value <= frame.x.high:
            parts.append(tag("circle", cx=frame.at(value), cy=middle + 12, r=2.5, class_="seed"))
    if one.ends:
        parts += _whisker(frame, one.ends, middle)
    if one.inner:
        low, high = (min(max(frame.at(end), frame.left), frame.left + frame.span) for end in one.inner)
        parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker inner"))
    if one.value is not None and frame.x.low <= one.value <= frame.x.high:
        parts.append(tag("circle", cx=frame.at(one.value), cy=middle, r=5, class_="dot"))
    return tag("g", join(parts), class_=f"c-{one.color}")


def _whisker(frame: _Frame, ends: tuple[float, float], y: float) -> list[Markup]:
    """The interval; where it goes beyond the picture it ends in an arrow."""
    parts, places = [], []
    for end, edge, sign in zip(ends, (frame.left, frame.left + frame.span), (-1, 1), strict=True):
        beyond = math.copysign(1, sign) * (frame.at(end) - edge) > 0
        place = edge if beyond else frame.at(end)
        places.append(place)
        mark = [(place - 6 * sign, y - 5), (place, y), (place - 6 * sign, y + 5)] if beyond else [
            (place, y - 6), (place, y + 6)
        ]  # fmt: skip
        parts.append(tag("path", d=path(mark), class_="whisker"))
    return [tag("line", x1=places[0], x2=places[1], y1=y, y2=y, class_="whisker"), *parts]


def pictures(chart: IntervalChart, half: bool = False) -> list[Markup]:
    """The chart as a page needs it: wide and narrow, or narrow alone for half a column."""
    return [interval_chart(chart, width) for width in ((NARROW,) if half else (WIDE, NARROW))]
