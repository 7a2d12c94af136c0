"""The page around the pictures: one self-contained HTML file that asks the network for nothing.

Its content policy forbids every request and every script but its own, so that no text of a run can become one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from weft.report.formats import count, significant
from weft.report.heat import HeatMap, heat_map
from weft.report.markup import Markup, join, tag
from weft.report.scales import Point, decimate
from weft.report.svg import NARROW, WIDE, Chart, Series, line_chart

TABLE_ROWS = 40
HOVER_POINTS = 400
UNITS = re.compile(r"(?<=\d) (?=%|(?:[kMGT]?B|k|M|T|s|min|h|d)\b)")


def page(title: str, body: Iterable[object], footer: object = "") -> str:
    """A whole HTML document, the same for the same arguments."""
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content="weft"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    ]
    content = [tag("main", join(body, "\n")), tag("footer", footer), tag("script", Markup(script))]
    html = tag("html", tag("head", join(head, "\n")), "\n", tag("body", join(content, "\n")), lang="en")
    return f"<!doctype html>\n{html}\n"


def figure(chart: Chart, *, half: bool = False, low: bool = False) -> Markup:
    """A chart with its title, the values for hovering, and its table.

    `half` is drawn once, for half a column; `low` is less tall than the picture that a page is about.
    """
    height = 260 if half or low else None
    pictures = [line_chart(chart, width, height) for width in ((NARROW,) if half else (WIDE, NARROW))]
    shown = [line for line in chart.series if line.points]
    details = fold("Values", table([chart.x_name, *(line.name for line in shown)], _rows(chart, shown)))
    parts = [_caption(chart), tag("div", join(pictures), class_="canvas"), _note(chart.caption), _hover(chart), details]
    return tag("figure", join(parts, "\n"), class_="chart half" if half else "chart")


def drawing(
    title: str, subtitle: str, pictures: Sequence[object], caption: str = "", details: object = "", half: bool = False
) -> Markup:
    """Another picture with its title and what is below it: one for half a column, or a wide one and a narrow one."""
    parts = [_captioned(title, subtitle), tag("div", join(pictures), class_="canvas"), _note(caption), details]
    return tag("figure", join(parts, "\n"), class_="drawn half" if half else "drawn")


def heat_figure(chart: HeatMap) -> Markup:
    """A heat map with its title and its table, for half a column."""
    rows = []
    for name, points in chart.rows.items():
        values = [y for _, y in points if math.isfinite(y)]
        numbers = [min(values), max(values), values[-1]] if values else [math.nan] * 3
        rows.append([name, *(significant(value) for value in numbers)])
    details = fold("Values", table(["layer", "lowest", "highest", "last"], rows))
    parts = [_caption(chart), tag("div", heat_map(chart), class_="canvas"), _note(chart.caption), details]
    return tag("figure", join(parts, "\n"), class_="heat half")


def table(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table whose first column names the rows; the others are right-aligned."""
    head = tag("tr", join(tag("th", header, scope="col") for header in headers))
    lines = [
        tag("tr", tag("th", row[0], scope="row"), join(tag("td", cell) for cell in row[1:])) for row in rows if row
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", join(lines, "\n"))), class_="scroll")


def facts(pairs: Iterable[tuple[object, object]]) -> Markup:
    """Names and values, one pair a line."""
    return tag(
        "dl", join((tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), "\n"), class_="facts"
    )


def fold(summary: object, *content: object, raw: bool = False) -> Markup:
    """Something that opens when asked for; `raw` material stands as a line of its own."""
    return tag("details", tag("summary", summary), join(content, "\n"), class_="raw" if raw else None)


def section(title: str, *content: object) -> Markup:
    """A part of the page under its own heading; empty where it has no content."""
    present = [part for part in content if part]
    return tag("section", tag("h2", title), "\n", join(present, "\n")) if present else Markup("")


def prose(text: str) -> str:
    """The text with its numbers tied to their units, so that no line breaks between them."""
    return UNITS.sub("\u00a0", text)


def flatten(mapping: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Every leaf of nested mappings as (path, text), lists on one line."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", _leaf(value)))
    return pairs


def _leaf(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return significant(value, 4)
    return ", ".join(_leaf(item) for item in value) if isinstance(value, list) else str(value)


def _asset(name: str) -> str:
    return (files("weft.report") / name).read_text(encoding="utf-8")


def _caption(chart: Chart | HeatMap) -> Markup:
    return _captioned(chart.title, chart.subtitle)


def _captioned(title: str, subtitle: str) -> Markup:
    return tag("figcaption", tag("h3", prose(title)), tag("p", prose(subtitle)) if subtitle else "")


def _note(text: str) -> Markup:
    return tag("p", prose(text), class_="caption") if text else Markup("")


def _hover(chart: Chart) -> Markup:
    """What the script shows at a place: the drawn values, as JSON that no text can close."""
    lines = []
    for line in chart.series:
        points = decimate(line.points, HOVER_POINTS // 2)
        lines.append(
            {
                "name": line.name,
                "color": line.color,
                "x": [x for x, _ in points],
                "y": [float(f"{y:.6g}") if math.isfinite(y) else None for _, y in points],
                "text": [line.told(point, chart.show) for point in points],
            }
        )
    data = json.dumps({"x": chart.x_name, "lines": lines}, ensure_ascii=False, separators=(",", ":"))
    return tag("script", Markup(data.replace("<", "\\u003c")), type="application/json")


def _rows(chart: Chart, lines: Sequence[Series]) -> list[list[str]]:
    """The chart as a table: all places of its short lines, and an even choice of those of its long ones."""
    places: set[float] = set()
    for line in lines:
        xs = [x for x, _ in line.points]
        every = max(1, math.ceil(len(xs) / TABLE_ROWS))
        places.update(xs[::every], xs[-1:])
    columns: list[dict[float, Point]] = [{point[0]: point for point in line.points} for line in lines]
    return [
        [
            count(x) if x != int(x) else f"{x:,.0f}",
            *(line.told(at[x], chart.show) if x in at else "" for line, at in zip(lines, columns, strict=True)),
        ]
        for x in sorted(places)
    ]
