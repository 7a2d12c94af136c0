"""Ratios as a picture: each with its interval on a log axis, against the line of "no difference" at 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.report.formats import plain
from weft.report.markup import Markup, join, tag
from weft.report.page import fold, prose, table
from weft.report.scales import Scale
from weft.report.svg import NARROW, WIDE, shorten, text_width

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
ROW, HEAD, FOOT = 30.0, 34.0, 52.0
"""Heights: of a line, of what stands above them, of the axis below."""


@dataclass(frozen=True)
class Ratio:
    """One ratio with its interval, in which group of rows it stands, and its colour."""

    group: str
    name: str
    value: float
    low: float
    high: float
    color: str

    @property
    def text(self) -> str:
        """`2.31 (2.28 to 2.35)`."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Ratios:
    """What the picture says (`title`), of what (`subtitle`, `axis`); `margin`: ratios nearer to 1 do not matter."""

    title: str
    subtitle: str
    axis: str
    rows: Sequence[Ratio]
    margin: float | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""


def ratio_figure(chart: Ratios) -> Markup:
    """The picture with its title and its table."""
    pictures = [_drawn(chart, width) for width in (WIDE, NARROW)]
    lines = [
        [f"{row.group}: {row.name}", f"{row.value:.3f}", f"{row.low:.3f}", f"{row.high:.3f}"] for row in chart.rows
    ]
    caption = tag("figcaption", tag("h3", prose(chart.title)), tag("p", prose(chart.subtitle)))
    note = tag("p", prose(chart.caption), class_="caption") if chart.caption else ""
    nothing = tag("script", Markup('{"x":"","lines":[]}'), type="application/json")
    values = fold("Values", table(["", chart.axis, "low", "high"], lines))
    parts = [caption, tag("div", join(pictures), class_="canvas"), note, nothing, values]
    return tag("figure", join(parts, "\n"), class_="chart")


@dataclass(frozen=True)
class _Frame:
    """Where the axis lies, and which heights are whose."""

    left: float
    right: float
    foot: float
    scale: Scale

    def x(self, ratio: float) -> float:
        return self.left + self.scale.place(ratio) * (self.right - self.left)


def _drawn(chart: Ratios, width: int) -> Markup:
    """Names on the left and figures on the right of the axis; where it is narrow, above each interval."""
    narrow = width < 600
    ends = [end for row in chart.rows for end in (row.low, row.high)]
    ends += [1.0, *chart.marks.values(), *([chart.margin, 1 / chart.margin] if chart.margin else [])]
    scale = Scale(min(ends) / 1.08, max(ends) * 1.08, log=True)
    names = max(text_width(row.name) for row in chart.rows)
    texts = max(text_width(row.text) for row in chart.rows)
    groups = list(dict.fromkeys(row.group for row in chart.rows))
    tall = ROW * 1.4 if narrow else ROW
    height = HEAD + len(groups) * ROW + len(chart.rows) * tall + FOOT
    left, right = (8.0, width - 8.0) if narrow else (names + 22, width - texts - 22)
    frame = _Frame(left, right, height - FOOT, scale)
    parts, y = [_ground(chart, frame)], HEAD
    for group in groups:
        parts.append(tag("text", group, x=0, y=y + 18, class_="row"))
        y += ROW
        for row in [row for row in chart.rows if row.group == group]:
            parts.append(_row(row, frame, y, tall, width, narrow))
            y += tall
    said = "; ".join(f"{row.group}, {row.name}: {row.text}" for row in chart.rows)
    return tag(
        "svg",
        join(parts),
        class_="narrow" if narrow else "wide",
        viewBox=f"0 0 {width} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{chart.title}. {chart.axis}: {said}.",
    )


def _ground(chart: Ratios, frame: _Frame) -> Markup:
    """The margin, the line at 1, what else is marked, and the axis."""
    parts, top = [], HEAD - 8
    if chart.margin:
        x = frame.x(1 / chart.margin)
        parts.append(tag("rect", x=x, y=top, width=frame.x(chart.margin) - x, height=frame.foot - top, class_="band"))
    one = frame.x(1.0)
    parts.append(tag("line", x1=one, x2=one, y1=top, y2=frame.foot, class_="axis"))
    for name, value in chart.marks.items():
        x, half = frame.x(value), text_width(name) / 2
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=frame.foot, class_="reference"))
        x = min(max(x, half), frame.right - half)
        parts.append(tag("text", name, x=x, y=top - 8, class_="note middle"))
    free = 0.0
    parts.append(tag("line", x1=frame.left, x2=frame.right, y1=frame.foot, y2=frame.foot, class_="axis"))
    for tick in TICKS:
        x, label = frame.x(tick), plain(tick)
        if frame.scale.low <= tick <= frame.scale.high and x - text_width(label) / 2 > free:
            parts.append(tag("line", x1=x, x2=x, y1=frame.foot, y2=frame.foot + 5, class_="axis"))
            parts.append(tag("text", label, x=x, y=frame.foot + 20, class_="tick middle"))
            free = x + text_width(label) / 2 + 8
    parts.append(tag("text", f"{chart.axis}, log scale", x=frame.right, y=frame.foot + 42, class_="axis-name end"))
    return join(parts)


def _row(row: Ratio, frame: _Frame, y: float, tall: float, width: int, narrow: bool) -> Markup:
    """A name, an interval, its figures."""
    middle = y + (tall - 10 if narrow else tall / 2)
    text = y + 16 if narrow else middle + 5
    room = width - text_width(row.text) - 12 if narrow else frame.left - 14
    parts = [
        tag("text", shorten(row.name, room), x=0, y=text, class_="label"),
        tag("line", x1=frame.x(row.low), x2=frame.x(row.high), y1=middle, y2=middle, class_="span"),
        tag("circle", cx=frame.x(row.value), cy=middle, r=4.5, class_="dot"),
        tag("text", tag("tspan", row.text, class_="value"), x=width, y=text, class_="label end"),
    ]
    return tag("g", join(parts), class_=f"c-{row.color}")
