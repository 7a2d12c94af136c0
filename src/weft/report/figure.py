"""Pictures that are files of their own, for pages that are no report: panels side by side below what they show.

Panels are line charts, or cells whose colours tell how much; colours are those of the reports, light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby

from weft.report.boxes import wrapped
from weft.report.markup import Markup, join, number, tag
from weft.report.svg import Chart, line_chart, text_width

ROOM, GAP, EDGE = 720.0, 28.0, 20.0
"""Widths: of all panels in a row, between two of them, around everything."""
BOLD = 1.15
"""How much wider than others the title's letters may be."""
LEVELS = 11
"""Colours of a scale: q0 for the least to q10 for the most."""

Cell = str | None
"""The class of a cell (`q0` ... `q10`, `yes`, `no`), or None where there is none."""


@dataclass(frozen=True)
class Panel:
    """One picture, and a line above it."""

    caption: str
    width: float
    height: float
    content: Markup


def figure(title: str, subtitle: str, panels: Sequence[Panel], room: float = ROOM) -> str:
    """The whole picture as one SVG file; the same for the same arguments."""
    placed, bottom, widest = _placed(panels, room)
    width = min(max(widest, 440.0), room) + 2 * EDGE
    head = [(line, "title", 17.0) for line in wrapped(title, (width - 2 * EDGE) / BOLD, 17)]
    head += [(line, "muted", 14.0) for line in wrapped(subtitle, width - 2 * EDGE, 14)]
    parts, y = [], EDGE
    for line, kind, size in head:
        y += size + 5
        parts.append(tag("text", line, x=EDGE, y=y - 5, class_=kind, font_size=size))
    y += 14
    for x, below, panel in placed:
        at = f"translate({number(EDGE + x)} {number(y + below)})"
        lifted = 22.0 if panel.caption else 0.0
        inner = tag("g", panel.content, transform=f"translate(0 {number(lifted)})") if lifted else panel.content
        parts.append(tag("g", *([tag("text", panel.caption, x=0, y=13)] if lifted else []), inner, transform=at))
    height = y + bottom + EDGE
    drawn = join(parts, "\n")
    content = [tag("title", f"{title}. {subtitle}"), tag("style", Markup(style(drawn)))]
    content += [tag("rect", width=width, height=height, class_="paper"), drawn]
    whole = tag(
        "svg", join(content, "\n"), xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {number(width)} {number(height)}",
        width=width, height=height, class_="figure", role="img",
    )  # fmt: skip
    return f"{whole}\n"


def _placed(panels: Sequence[Panel], room: float) -> tuple[list[tuple[float, float, Panel]], float, float]:
    """Each panel's place, row after row; where the last row ends; how wide the widest is."""
    placed: list[tuple[float, float, Panel]] = []
    x, top, bottom, widest = 0.0, 0.0, 0.0, 0.0
    for panel in panels:
        wide = max(panel.width, text_width(panel.caption))
        if x and x + wide > room:
            x, top = 0.0, bottom + GAP
        placed.append((x, top, panel))
        bottom = max(bottom, top + panel.height + (22 if panel.caption else 0))
        widest = max(widest, x + wide)
        x += wide + GAP
    return placed, bottom, widest


def lines(chart: Chart, width: int = 720, height: int = 300, caption: str = "") -> Panel:
    """A line chart as a panel."""
    return Panel(caption, float(width), float(height), line_chart(chart, width, height))


def cells(
    rows: Sequence[Sequence[Cell]], size: float, caption: str = "", *, names: Sequence[str] = (),
    columns: Iterable[tuple[int, str]] = (), gap: float = 1.0,
) -> Panel:  # fmt: skip
    """A grid of squares: `names` at the left of the rows, `columns` (number and name) below."""
    left = max((text_width(name, 12) for name in names), default=0.0) + (8 if names else 0)
    steps: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        j = 0
        for level, run in groupby(row):
            n = len(list(run))
            # without a gap between them neighbours that are alike are one
            for start, wide in [(j + k, 1) for k in range(n)] if gap else [(j, n)]:
                if level is not None:
                    x, y, w = number(left + start * size), number(i * size), number(wide * size - gap)
                    steps.setdefault(level, []).append(f"M{x} {y}h{w}v{number(size - gap)}h-{w}z")
            j += n
    parts: list[Markup] = [tag("path", d="".join(drawn), class_=level) for level, drawn in sorted(steps.items())]
    for i, name in enumerate(names):
        parts.append(tag("text", name, x=left - 8, y=i * size + size / 2 + 4, class_="small end"))
    foot = len(rows) * size
    below = list(columns)
    for j, name in below:
        parts.append(tag("text", name, x=left + j * size + size / 2, y=foot + 13, class_="small middle"))
    total = left + size * max(map(len, rows))
    return Panel(caption, total, foot + (18 if below else 0), join(parts, "\n"))


def level(share: float) -> str:
    """The colour of a share of the largest, 0 to 1."""
    return f"q{min(LEVELS - 1, max(0, int(share * LEVELS)))}"


def bars(values: Sequence[float], unit: float, color: str, caption: str = "", marks: Mapping[str, float] = {}) -> Panel:
    """Bars from zero, `unit` pixels for 1; `marks` are levels with a name."""
    step, width = 18.0, 14.0
    top, foot = max(0.0, *values, *marks.values()) * unit + 8, -min(0.0, *values, *marks.values()) * unit + 8
    drawn = [
        f"M{number(i * step)} {number(top)}h{number(width)}v{number(-value * unit)}h-{number(width)}z"
        for i, value in enumerate(values)
    ]
    end = len(values) * step
    parts = [tag("path", d="".join(drawn), class_=f"fill c-{color}")]
    parts.append(tag("line", x1=0, x2=end, y1=top, y2=top, class_="axis"))
    for name, value in marks.items():
        y = top - value * unit
        parts.append(tag("line", x1=0, x2=end, y1=y, y2=y, class_="reference"))
        parts.append(tag("text", name, x=end + 6, y=y + 4, class_="small"))
    wide = end + max((text_width(name, 12) + 8 for name in marks), default=0.0)
    return Panel(caption, wide, top + foot, join(parts, "\n"))


def style(drawn: str) -> str:
    """The style of what is drawn: rules, and the reports' colours as far as they are used."""
    names = [name for name in COLORS if f"c-{name}" in drawn]
    rules = RULES + " ".join(f".c-{name} {{ color: var(--{name}); }}" for name in names)
    levels = [name for i in range(LEVELS) for name in (f"q{i}", f"d{i}") if f'class="{name}"' in drawn]
    rules += " ".join(f".{name} {{ fill: var(--{name}); }}" for name in levels)
    used = set(re.findall(r"var\(--(\w+)\)", rules))
    light, dark = (" ".join(f"--{name}: {value};" for name, value in held if name in used) for held in colors())
    return f"\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{rules}\n"


@cache
def colors() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The reports' colours by name, light and dark."""
    page = (files("weft.report") / "style.css").read_text(encoding="utf-8")
    light, dark, *_ = re.findall(r"^ *:root \{.*?\}\n", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"--(\w+): ([^;]+);", light), re.findall(r"--(\w+): ([^;]+);", dark)


COLORS = ("blue", "vermillion", "green", "purple", "amber", "ink", "muted")
RULES = """
.figure { font: 14px ui-sans-serif, system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.figure text { fill: var(--ink); font-variant-numeric: tabular-nums; } .paper { fill: var(--paper); }
.figure .title { font-weight: 650; } .figure .muted, .figure .tick, .figure .axis-name { fill: var(--muted); }
.figure .small { font-size: 12px; fill: var(--muted); }
svg svg { overflow: visible; } svg .plot { overflow: hidden; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--grid); } .axis { stroke: var(--axis); }
.line { fill: none; stroke: currentColor; stroke-width: 2.25; stroke-linejoin: round; }
.line.dashed { stroke-dasharray: 7 5; } .line.faint { stroke-width: 1; opacity: 0.3; }
.dot, .fill { fill: currentColor; }
.reference { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 2 4; }
.leader { fill: none; stroke: currentColor; opacity: 0.55; }
.figure .label { fill: currentColor; } .figure .value { font-weight: 650; }
.yes { fill: var(--blue); } .no { fill: var(--grid); }
.dial { fill: none; stroke: var(--axis); } .hand { stroke: currentColor; stroke-width: 2.25; stroke-linecap: round; }
"""
