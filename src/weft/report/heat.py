"""Heat maps: one row a thing, time to the right, an even colour scale with its legend; always logarithmic here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.report.formats import significant
from weft.report.markup import Markup, join, tag
from weft.report.scales import Point, Scale, fit, tick_labels
from weft.report.svg import NARROW, shorten, text_width

LEVELS = 11
COLUMNS = 48


@dataclass(frozen=True)
class HeatMap:
    """Positive values by row and time. With a `center`, colours diverge around it: below one hue, above another.

    `reach` is how many powers of ten lie between the center and the last colour.
    """

    title: str
    rows: Mapping[str, Sequence[Point]]
    x_name: str
    value_name: str
    subtitle: str = ""
    caption: str = ""
    center: float | None = None
    reach: float = 2.0

    def scale(self) -> Scale:
        """The logarithmic scale that the colours stand on."""
        if self.center is not None:
            return Scale(self.center * 10**-self.reach, self.center * 10**self.reach, log=True)
        return fit((y for points in self.rows.values() for _, y in points if y > 0), log=True)


def heat_map(chart: HeatMap, width: int = NARROW) -> Markup:
    """The map as one `<svg>`: a row for each name with its median at the right, and the legend below."""
    rows = len(chart.rows)
    step = 22.0 if rows <= 12 else 18.0
    medians = {name: median([y for _, y in points]) for name, points in chart.rows.items()}
    right = max((text_width(significant(value, 2)) for value in medians.values()), default=0) + 12
    names = _shared_prefix_removed(list(chart.rows))
    left = min(max((text_width(name) for name in names), default=0) + 12, width * 0.4)
    plot = width - left - right
    times = fit(x for points in chart.rows.values() for x, _ in points)
    scale = chart.scale()
    parts = [tag("text", "median", x=float(width), y=14, class_="axis-name end")]
    for i, (name, points) in enumerate(chart.rows.items()):
        top = 22 + i * step
        parts.append(tag("text", shorten(names[i], left - 10), tag("title", name), x=0, y=top + step - 7, class_="row"))
        cells = _cells(points, times, scale, (left, top, plot, step - 2))
        parts.append(tag("g", cells, class_="diverging" if chart.center is not None else "sequential"))
        value = significant(medians[name], 2)
        parts.append(tag("text", value, x=float(width), y=top + step - 7, class_="tick end"))
    foot = 22 + rows * step
    parts.append(_times(times, chart.x_name, left, plot, foot))
    parts.append(_legend(chart, scale, left, plot, foot + 54))
    height = round(foot + 92)
    return tag(
        "svg",
        join(parts),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{chart.title}. {chart.value_name}, median by row: "
        + ", ".join(f"{name} {significant(value, 2)}" for name, value in medians.items()),
    )


def median(values: Sequence[float]) -> float:
    """The middle of the finite values; NaN where there is none."""
    known = sorted(value for value in values if math.isfinite(value))
    return (known[len(known) // 2] + known[(len(known) - 1) // 2]) / 2 if known else math.nan


def _cells(points: Sequence[Point], times: Scale, scale: Scale, box: tuple[float, float, float, float]) -> Markup:
    """One rectangle for each stretch of time that has a value: the geometric mean of its values, as a colour."""
    left, top, width, height = box
    bins: dict[int, list[Point]] = {}
    columns = min(COLUMNS, max(1, len(points)))
    for x, y in points:
        bins.setdefault(min(columns - 1, max(0, int(times.place(x) * columns))), []).append((x, y))
    cells = []
    for column, inside in sorted(bins.items()):
        positive = [y for _, y in inside if y > 0 and math.isfinite(y)]
        mean = math.exp(math.fsum(map(math.log, positive)) / len(positive)) if positive else math.nan
        level = "none" if math.isnan(mean) else min(LEVELS - 1, max(0, int(scale.place(mean) * LEVELS)))
        shown = significant(mean, 2) if positive else " and ".join(sorted({significant(y) for _, y in inside}))
        cells.append(
            tag(
                "rect",
                tag("title", f"{inside[0][0]:,.0f}: {shown}"),
                x=left + column * width / columns,
                y=top,
                width=width / columns + 0.3,
                height=height,
                class_=f"q{level}",
            )
        )
    return join(cells)


def _times(times: Scale, name: str, left: float, width: float, foot: float) -> Markup:
    ticks = times.ticks(max(2, round(width / 90)))
    parts = []
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(tag("text", label, x=left + times.place(tick) * width, y=foot + 16, class_="tick middle"))
    parts.append(tag("text", name, x=left + width, y=foot + 36, class_="axis-name end"))
    return join(parts)


def _legend(chart: HeatMap, scale: Scale, left: float, width: float, top: float) -> Markup:
    """The colours in a row with round values under them."""
    parts = [
        tag("rect", x=left + i * width / LEVELS, y=top, width=width / LEVELS + 0.3, height=10, class_=f"q{i}")
        for i in range(LEVELS)
    ]
    ticks = scale.ticks(4)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(tag("text", label, x=left + scale.place(tick) * width, y=top + 26, class_="tick middle"))
    parts.append(tag("text", "log scale", x=0, y=top + 10, class_="axis-name"))
    return tag("g", join(parts), class_="diverging" if chart.center is not None else "sequential")


def _shared_prefix_removed(names: list[str]) -> list[str]:
    """Module paths without the leading part that all numbered ones share: decoder.blocks.3 -> blocks.3."""
    stacks = {name.split(".")[0] for name in names if ".blocks." in name}
    if len(stacks) != 1:
        return names
    prefix = f"{stacks.pop()}."
    short = [name.removeprefix(prefix) for name in names]
    return short if len(set(short)) == len(names) else names
