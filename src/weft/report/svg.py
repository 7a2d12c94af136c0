"""Line charts in SVG, drawn by hand for the width they have; each line carries its name at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from weft.report.formats import significant
from weft.report.markup import Markup, join, number, tag
from weft.report.scales import Point, Scale, decimate, fit, spread, tick_labels

# A wide picture for a screen of that width or for paper, a narrow one for telephones and for half a column.
WIDE, NARROW = 880, 400
FONT = 14
LINE = 18
PALETTE = ("blue", "vermillion", "green", "purple", "amber", "ink")

Style = Literal["line", "dots", "ring", "faint", "dashed"]


@dataclass(frozen=True)
class Series:
    """One line: where it is, what it is called (`short` in narrow pictures), its colour (a name from the palette).

    A `faint` line lies behind and has no label (single runs behind a mean, raw values behind a median); `dots` marks
    each measurement; `ring`s stand for single ones; `dashed` tells lines apart once the colours are used up.
    A line that is a mean has a `band` (x, low, high) around it, and behind it the `runs` that it is the mean of.
    """

    name: str
    points: Sequence[Point]
    color: str = PALETTE[0]
    style: Style = "line"
    short: str = ""
    band: Sequence[tuple[float, float, float]] = ()
    runs: Sequence[Sequence[Point]] = ()

    @property
    def last(self) -> Point | None:
        return next((point for point in reversed(self.points) if math.isfinite(point[1])), None)

    def told(self, point: Point, show: Callable[[float], str]) -> str:
        """The value there, with the ends of its band: 1.93 (1.90 to 1.96)."""
        ends = next((f" ({show(low)} to {show(high)})" for x, low, high in self.band if x == point[0]), "")
        return show(point[1]) + ends


@dataclass(frozen=True)
class Reference:
    """A grey level to compare with, such as a compressor's bits per byte."""

    name: str
    value: float


@dataclass(frozen=True)
class Event:
    """Something that happened at one place of the x axis."""

    x: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What a picture says (`title`), of what quantity (`subtitle`), and its lines.

    `ceiling` cuts the picture off above that value; the caption must say so. `y_range` is for pictures side by side.
    """

    title: str
    series: Sequence[Series]
    x_name: str
    y_name: str
    subtitle: str = ""
    caption: str = ""
    references: Sequence[Reference] = ()
    events: Sequence[Event] = ()
    y_log: bool = False
    x_log: bool = False
    x_ticks: Sequence[float] = ()
    """places to mark on the x axis, as far as there is room; round ones unless given"""
    y_zero: bool = False
    ceiling: float | None = None
    y_range: tuple[float, float] | None = None
    show: Callable[[float], str] = significant
    labels: bool = True

    @property
    def spoken(self) -> str:
        """The picture in words, for those who do not see it."""
        shown = [line for line in self.series if line.last and _named(line)]
        ends = [f"{line.name} ends at {line.told(line.last, self.show)}" for line in shown if line.last]
        levels = [f"{reference.name} is {self.show(reference.value)}" for reference in self.references]
        return f"{self.title}. {self.y_name} over {self.x_name}: {', '.join(ends + levels) or 'no values'}."


@dataclass(frozen=True)
class _Label:
    """A name at the right edge, `y` where its line ends."""

    x: float
    y: float
    name: str
    value: str
    color: str
    index: int | None


@dataclass
class _Frame:
    """The plotting area inside the picture, in pixels, with its two scales."""

    chart: Chart
    width: int
    height: int
    left: float = 0
    right: float = 12
    top: float = 30
    bottom: float = 48
    x: Scale = field(init=False)
    y: Scale = field(init=False)

    def __post_init__(self) -> None:
        points = [point for line in self.chart.series for part in (line.points, *line.runs) for point in part]
        levels = [y for _, y in points if self.chart.ceiling is None or y <= self.chart.ceiling]
        levels += [reference.value for reference in self.chart.references]
        levels = list(self.chart.y_range or levels)
        across = [x for x, _ in points]
        # Steps that begin at 1 are read more easily on an axis that begins at 0.
        near_zero = 0 < min(across, default=0.0) < 0.12 * max(across, default=0.0)
        self.x = fit(across, log=self.chart.x_log, zero=near_zero)
        self.y = fit(levels, log=self.chart.y_log, zero=self.chart.y_zero, pad=0.06)
        self.y_ticks = self.y.ticks(max(2, round(self.plot_height / 62)))
        self.y_labels = tick_labels(self.y_ticks)
        self.left = max((text_width(label) for label in self.y_labels), default=0) + 10

    @property
    def plot_width(self) -> float:
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> float:
        return self.height - self.top - self.bottom

    def at(self, point: Point) -> Point:
        """A point of the data in the plotting area's own pixels; far outside values stay drawable."""
        y = (1 - self.y.place(point[1])) * self.plot_height
        return self.x.place(point[0]) * self.plot_width, min(max(y, -4000.0), 4000.0)


def line_chart(chart: Chart, width: int = WIDE, height: int | None = None) -> Markup:
    """The chart as one `<svg>`, `width` pixels wide."""
    narrow = width < 600
    frame = _Frame(chart, width, height or (300 if narrow else 380))
    labels = _labels(frame, narrow) if chart.labels else []
    if labels:
        widest = max(text_width(f"{label.name} {label.value}") for label in labels)
        frame.right = min(widest + 22, width * 0.46)
    parts = [_grid(frame), _plot(frame), _place_labels(frame, labels)]
    return tag(
        "svg",
        join(parts),
        class_="narrow" if narrow else "wide",
        viewBox=f"0 0 {width} {frame.height}",
        width=width,
        height=frame.height,
        role="img",
        aria_label=chart.spoken,
        data_frame=json.dumps(
            {
                "box": [round(v, 2) for v in (frame.left, frame.top, frame.plot_width, frame.plot_height)],
                "x": [frame.x.low, frame.x.high],
                "y": [frame.y.low, frame.y.high],
                "log": frame.y.log,
                **({"x_log": True} if frame.x.log else {}),
            }
        ),
    )


def text_width(text: str, size: float = FONT) -> float:
    """About how wide a text is in a system font, in pixels: generous, so that nothing is cut."""
    narrow, wide = "iljtf.,:;'|!()[] ", "mwMW%@"
    return sum(size * (0.34 if c in narrow else 0.9 if c in wide else 0.6) for c in text)


def shorten(text: str, room: float) -> str:
    """The text, cut in the middle where it is wider than `room` pixels: module paths differ at both ends."""
    if text_width(text) <= room:
        return text
    kept = len(text)
    while kept > 2 and text_width(text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]) > room:
        kept -= 1
    return text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]


def path(points: Sequence[Point]) -> str:
    """An SVG path through the points, broken where a value is not finite."""
    steps: list[str] = []
    pen = "M"
    for x, y in points:
        if math.isfinite(y):
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _named(line: Series) -> bool:
    return line.style != "faint"


def _grid(frame: _Frame) -> Markup:
    """Horizontal lines at round values, their numbers, the x axis, and both axes' names."""
    chart, parts = frame.chart, []
    foot = frame.top + frame.plot_height
    for tick, label in zip(frame.y_ticks, frame.y_labels, strict=True):
        y = frame.top + (1 - frame.y.place(tick)) * frame.plot_height
        parts.append(tag("line", x1=frame.left, x2=float(frame.width) - frame.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", label, x=frame.left - 10, y=y + 5, class_="tick end"))
    ticks = list(chart.x_ticks) or frame.x.ticks(max(3, round(frame.plot_width / 110)))
    ticks = [tick for tick in ticks if tick == int(tick)]  # there is no half step
    free = -math.inf
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        x = frame.left + frame.x.place(tick) * frame.plot_width
        if chart.x_ticks and x - text_width(label) / 2 < free:
            continue
        free = x + text_width(label) / 2 + 10
        parts.append(tag("line", x1=x, x2=x, y1=foot, y2=foot + 5, class_="axis"))
        parts.append(tag("text", label, x=x, y=foot + 20, class_="tick middle"))
    parts.append(tag("line", x1=frame.left, x2=frame.left + frame.plot_width, y1=foot, y2=foot, class_="axis"))
    parts.append(tag("text", _axis_name(chart.y_name, frame.y), x=0, y=14, class_="axis-name"))
    middle = frame.left + frame.plot_width
    parts.append(tag("text", _axis_name(chart.x_name, frame.x), x=middle, y=foot + 40, class_="axis-name end"))
    return tag("g", join(parts), class_="scale")


def _axis_name(name: str, scale: Scale) -> str:
    return f"{name}, log scale" if scale.log else name


def _plot(frame: _Frame) -> Markup:
    """The lines themselves, in an inner picture that cuts off what lies outside."""
    chart, spare = frame.chart, 8.0
    parts: list[Markup] = []
    for event in chart.events:
        x = frame.x.place(event.x) * frame.plot_width
        turn = x > frame.plot_width - text_width(event.text) - 10
        parts.append(tag("line", x1=x, x2=x, y1=0.0, y2=frame.plot_height, class_="event"))
        parts.append(tag("text", event.text, x=x - 6 if turn else x + 6, y=12, class_=f"note{' end' if turn else ''}"))
    for reference in chart.references:
        y = frame.at((frame.x.low, reference.value))[1]
        parts.append(tag("line", x1=0.0, x2=frame.plot_width, y1=y, y2=y, class_="reference"))
    drawn = [(index, line) for index, line in enumerate(chart.series) if line.points]
    parts += [_behind(frame, index, line) for index, line in drawn if line.band or line.runs]
    for index, line in sorted(drawn, key=lambda pair: _named(pair[1])):
        parts.append(_line(frame, index, line))
    inner = tag("g", join(parts), transform=f"translate({number(spare)} {number(spare)})")
    return tag(
        "svg",
        inner,
        x=frame.left - spare,
        y=frame.top - spare,
        width=frame.plot_width + 2 * spare,
        height=frame.plot_height + 2 * spare,
        class_="plot",
    )


def _behind(frame: _Frame, index: int, line: Series) -> Markup:
    """The band around a mean, and the single runs."""
    parts: list[Markup] = []
    ends = [end for end in line.band if all(map(math.isfinite, end))]
    if len(ends) > 1:
        around = [frame.at((x, low)) for x, low, _ in ends] + [frame.at((x, high)) for x, _, high in reversed(ends)]
        parts.append(tag("path", d=f"{path(around)}Z", class_="around"))
    for run in line.runs:
        points = [frame.at(point) for point in decimate(run, max(40, round(frame.plot_width)))]
        parts.append(tag("path", d=path(points), class_="line faint"))
    return tag("g", join(parts), class_=f"c-{line.color}", data_line=index)


def _line(frame: _Frame, index: int, line: Series) -> Markup:
    points = [frame.at(point) for point in decimate(line.points, max(40, round(frame.plot_width)))]
    parts: list[Markup] = []
    if len(points) > 1 and line.style != "ring":
        parts.append(tag("path", d=path(points), class_=f"line {line.style}"))
    seen = [point for point in points if math.isfinite(point[1])]
    if line.style == "ring":
        parts += [tag("circle", cx=x, cy=y, r=5.5, class_="ring") for x, y in seen]
    elif (line.style == "dots" and len(seen) <= 60) or len(seen) == 1:
        parts += [tag("circle", cx=x, cy=y, r=3.2, class_="dot") for x, y in seen]
    return tag("g", join(parts), class_=f"c-{line.color}", data_line=index)


def _labels(frame: _Frame, narrow: bool) -> list[_Label]:
    labels = []
    for index, line in enumerate(frame.chart.series):
        if line.last and _named(line):
            name = (line.short or line.name) if narrow else line.name
            x, y = line.last
            labels.append(_Label(x, y, name, frame.chart.show(y), f"c-{line.color}", index))
    for reference in frame.chart.references:
        value = frame.chart.show(reference.value)
        labels.append(_Label(frame.x.high, reference.value, reference.name, value, "c-muted", None))
    return labels


def _place_labels(frame: _Frame, labels: Sequence[_Label]) -> Markup:
    """Names at the ends of their lines, pushed apart where they would touch, then joined by a short stroke."""
    edge = frame.left + frame.plot_width
    wanted = [frame.top + frame.at((label.x, label.y))[1] for label in labels]
    placed = spread(wanted, LINE, frame.top, frame.top + frame.plot_height)
    parts = []
    for label, true, y in zip(labels, wanted, placed, strict=True):
        end = frame.left + frame.at((label.x, label.y))[0]
        marks: list[Markup] = []
        if end < edge - 10:
            marks.append(tag("path", d=path([(end + 8, true), (edge + 4, true), (edge + 14, y)]), class_="leader"))
        elif abs(y - true) > 2:
            marks.append(tag("path", d=path([(edge + 6, true), (edge + 14, y)]), class_="leader"))
        room = frame.width - edge - 18 - text_width(label.value + " ")
        name = tag("tspan", shorten(label.name, room))
        marks.append(
            tag("text", name, " ", tag("tspan", label.value, class_="value"), x=edge + 18, y=y + 5, class_="label")
        )
        parts.append(tag("g", join(marks), class_=label.color, data_label=label.index))
    return join(parts)
