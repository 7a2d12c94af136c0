"""Charts, tables and numbers: what is drawn stays inside its picture, is read as people read it, and is escaped."""

from __future__ import annotations

import io
import math
import random
import re
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Outline, luminance

from weft.report import formats, scales, terminal
from weft.report.heat import HeatMap, heat_map
from weft.report.markup import Markup, escape, tag
from weft.report.page import figure, prose
from weft.report.svg import NARROW, PALETTE, WIDE, Chart, Reference, Series, line_chart, shorten, text_width


def test_labels_never_touch_and_stay_inside_the_picture() -> None:
    ends = [1.0, 1.001, 1.002, 1.5, 1.501, 2.0, 0.99]
    names = ["a", "a-name-that-is-quite-long", *"bcdef"]
    lines = [Series(n, [(0, 3.0), (100, y)], PALETTE[i % 6]) for i, (n, y) in enumerate(zip(names, ends, strict=True))]
    for width in (WIDE, NARROW):
        svg = line_chart(Chart("t", lines, "steps", "loss", references=[Reference("xz", 1.0)]), width)
        found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label">(.*?)</text>', svg)
        assert len(found) == 8
        places = sorted(float(y) for _, y, _ in found)
        assert all(b - a > 17.9 for a, b in pairwise(places))
        assert all(float(x) + text_width(re.sub("<.*?>", "", text)) <= width + 1 for x, _, text in found)


@given(st.lists(st.floats(0, 300), max_size=14))
def test_spread_keeps_order_gap_and_bounds(wanted: list[float]) -> None:
    placed = scales.spread(wanted, 18, 0, 300)
    ordered = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [placed[b] - placed[a] for a, b in pairwise(ordered)]
    assert all(gap >= 17.999 for gap in gaps)
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in placed)
    if all(wanted[b] - wanted[a] >= 18 for a, b in pairwise(ordered)):
        assert placed == pytest.approx(wanted)


def test_spread_moves_a_crowd_evenly_to_both_sides() -> None:
    assert scales.spread([100, 100, 100], 20, 0, 300) == [80, 100, 120]
    assert scales.spread([0, 0], 20, 0, 300) == [0, 20]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_round_few_and_inside(low: float, span: float, most: int) -> None:
    scale = scales.Scale(low, low + span)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= 2 * most + 1
    assert all(
        low - 1e-6 * span - 1e-9 * abs(low) <= tick <= low + span * (1 + 1e-6) + 1e-9 * abs(low) for tick in ticks
    )


@pytest.mark.parametrize(
    ("scale", "labels"),
    [
        (scales.Scale(0, 450), ["0", "100", "200", "300", "400"]),
        (scales.Scale(0, 45_000), ["0", "10 k", "20 k", "30 k", "40 k"]),
        (scales.Scale(1.27, 3.1), ["1.5", "2.0", "2.5", "3.0"]),
        (scales.Scale(1e-5, 1e-1, log=True), ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]),
        (scales.Scale(0.04, 0.6, log=True), ["0.05", "0.10", "0.20", "0.50"]),
    ],
)
def test_tick_labels(scale: scales.Scale, labels: list[str]) -> None:
    assert scales.tick_labels(scale.ticks(5)) == labels


def test_decimation_keeps_spikes_ends_and_breaks() -> None:
    draw = random.Random(1)
    points = [(float(i), draw.random()) for i in range(100_000)]
    points[31_415] = (31_415.0, 50.0)
    points[27_182] = (27_182.0, -50.0)
    points[60_000] = (60_000.0, math.nan)
    thin = scales.decimate(points, 500)
    assert len(thin) <= 3 * 500
    assert {points[0], points[-1], points[31_415], points[27_182]} <= set(thin)
    assert any(math.isnan(y) for _, y in thin)
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)


@given(st.lists(st.one_of(st.floats(-5, 5), st.just(math.nan)), max_size=40), st.integers(1, 4))
def test_the_running_median_is_the_median_of_what_lies_around(values: list[float], half: int) -> None:
    smooth = scales.running_median(values, 2 * half + 1)
    for i, value in enumerate(values):
        around = sorted(v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v))
        if math.isfinite(value):
            middle = (around[len(around) // 2] + around[(len(around) - 1) // 2]) / 2
            assert smooth[i] == pytest.approx(middle)
        else:
            assert math.isnan(smooth[i])


@pytest.mark.parametrize(
    "points", [[(5.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, math.nan)], [], [(1.0, -3.0), (2.0, 4.0)]]
)
@pytest.mark.parametrize("log", [False, True])
def test_odd_curves_are_drawn(points: list[tuple[float, float]], log: bool) -> None:
    svg = figure(Chart("t", [Series("a", points)], "steps", "loss", y_log=log))
    Outline(svg)
    assert "nan" not in svg.split("<script")[0].lower().replace("nan</td>", "")


def test_a_heat_map_shows_each_layer_with_its_median_and_marks_what_is_no_number() -> None:
    rows = {f"decoder.blocks.{i}": [(float(s), 10.0 ** (i - 4)) for s in range(1, 60)] for i in range(3)}
    rows["decoder.norm"] = [(1.0, 0.0), (59.0, math.nan)]
    svg = heat_map(HeatMap("t", rows, "steps", "ratio", center=1e-3))
    page = Outline(svg)
    assert {"blocks.0", "blocks.2", "norm"} <= {text.strip() for text in page.texts["text"]}
    assert "0.0010" in page.text("text")
    classes = [attrs["class"] for name, attrs in page.seen if name == "rect"]
    assert {"q2", "q5", "q8", "qnone"} <= set(classes)


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert tag("p", "a < b & 'c'", Markup("<b>d</b>"), title='"') == (
        '<p title="&quot;">a &lt; b &amp; &#x27;c&#x27;<b>d</b></p>'
    )
    assert tag("meta", charset="utf-8", hidden=None) == '<meta charset="utf-8">'
    assert escape("a\x00b\r\nc") == "a�b\nc"
    assert prose("65 % of 2 kB in 2 min 05 s") == "65\xa0% of 2\xa0kB in 2\xa0min 05\xa0s"
    assert shorten("decoder.blocks.10.attention.query", 120).count("…") == 1


def test_text_stands_out_from_its_ground_in_light_dark_and_print() -> None:
    css = (files("weft.report") / "style.css").read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--(\w+): (#\w+)", body)) for body in re.findall(r":root \{(.*?)\n\s*\}", css, re.DOTALL)
    ]
    assert len(themes) == 3
    for theme in themes:
        for name in ("ink", "muted", *(color for color in PALETTE if color != "ink")):
            paper = theme["paper"] if len(theme["paper"]) == 7 else "#ffffff"
            color = theme[name] if len(theme[name]) == 7 else "#111111"
            light, dark = sorted((luminance(paper), luminance(color)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, theme[name])


# numbers, and the terminal


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.count(124_439_808), "124.4 M"),
        (formats.count(9_999), "9,999"),
        (formats.count(999_960), "1.0 M"),
        (formats.count(2.13), "2.13"),
        (formats.count(5e13), "50.0 T"),
        (formats.size(512), "512 B"),
        (formats.size(20_000), "20.0 kB"),
        (formats.size(1.2e9), "1.2 GB"),
        (formats.duration(125), "2 min 05 s"),
        (formats.duration(59.7), "1 min 00 s"),
        (formats.duration(3.21), "3.2 s"),
        (formats.duration(3_725), "1 h 02 min"),
        (formats.duration(3_599.6), "1 h 00 min"),
        (formats.duration(51 * 3600 + 100), "2 d 03 h"),
        (formats.duration(math.inf), "unknown"),
        (formats.rate(5_120.4), "5,120 tokens/s"),
        (formats.rate(0.5, "steps"), "0.500 steps/s"),
        (formats.percent(0.041), "4.1 %"),
        (formats.percent(-0.41), "−41 %"),
        (formats.percent(0.0996), "10 %"),
        (formats.significant(0.0012345), "0.00123"),
        (formats.significant(9.996), "10.0"),
        (formats.significant(12_345.6), "12,300"),
        (formats.significant(1.2e-5), "1.2e-5"),
        (formats.significant(math.nan), "NaN"),
        (formats.plain(0.002), "0.002"),
        (formats.plain(120.0), "120"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


def test_sparklines() -> None:
    assert terminal.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert terminal.sparkline([1.0, math.nan, 3.0]) == "▁×█"
    assert terminal.sparkline([2, 2]) == "▄▄"
    assert terminal.sparkline([]) == ""
    falling = terminal.sparkline([1000 - i for i in range(1000)], width=8)
    assert falling == "█▇▆▅▄▃▂▁"


def test_tables_align_and_fit_a_hundred_columns() -> None:
    text = terminal.table(
        ["run", "bits/byte", "tokens", "note"], [["a", 1.93, 921_600, "x" * 200], ["việt", 12.5, None, ""]]
    )
    lines = text.split("\n")
    assert all(len(row) <= 100 for row in lines)
    assert lines[1].startswith("a          1.93  921,600  xxx")
    assert lines[1].endswith("…")
    assert lines[2].startswith("việt       12.5")


def test_the_console_is_plain_and_unwrapped_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    screen = terminal.console()
    screen.file = io.StringIO()
    screen.print("[red]" + "word " * 60 + "[/red]")
    written = screen.file.getvalue()
    assert written.count("\n") == 1
    assert "\x1b" not in written
