"""Reports: pure, self-contained, escaped, well formed, honest in their sentences; and alive in a real browser."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import diverging, healthy, line, manifest, overfitting, write

from weft.errors import WeftError
from weft.report import formats, scales, terminal
from weft.report.heat import HeatMap, heat_map
from weft.report.markup import Markup, escape, tag
from weft.report.page import figure, prose
from weft.report.svg import NARROW, PALETTE, WIDE, Chart, Reference, Series, line_chart, shorten, text_width
from weft.training.report import write_report

HOSTILE = "</script><script>document.documentElement.dataset.owned = 1</script><img src=x onerror=alert(1)>\x00\x1b[31m"
VIETNAMESE = "Việt Nam là một quốc gia nằm ở cực Đông của bán đảo Đông Dương."


class Outline(HTMLParser):
    """Checks that every element is closed where it should be, and collects what a test asks about."""

    void = frozenset({"meta", "link", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def text(self, tag: str) -> str:
        return " ".join(self.texts.get(tag, [])).replace("\xa0", " ")


def report(folder: Path, lines: list[dict[str, Any]], described: dict[str, Any] | None = None) -> tuple[str, Outline]:
    html = write_report([write(folder, lines, described)]).read_text(encoding="utf-8")
    return html, Outline(html)


def test_the_verdict_leads_with_the_number_its_comparison_and_the_trend(tmp_path: Path) -> None:
    _, page = report(tmp_path / "run", healthy())
    assert page.text("h1") == "1.38 bits per byte after 450 steps: 9.8 % below xz -9e's 1.53; still falling."
    assert "Validation passed below xz -9e by step 400" in page.text("h3")


@pytest.mark.parametrize(
    ("lines", "changes", "verdict"),
    [
        (
            overfitting(),
            {},
            "2.52 bits per byte after 450 steps: 65 % above xz -9e's 1.53; overfitting since step 200.",
        ),
        (diverging(), {"status": "failed"}, "The training loss became NaN at step 406; the last finite measure is 5.7"),
        (
            healthy()[:3],
            {"status": "interrupted"},
            "Interrupted at step 3 of 450: 6.62 nats per token in training after 3 steps; too few log lines to judge a "
            "trend; nothing was validated.",
        ),
        ([], {"status": "running"}, "Not finished: the log holds no loss."),
        (healthy()[:-1], {}, "1.39 bits per byte on part of the validation text after 450 steps: 9.3 % below"),
    ],
)
def test_verdicts(tmp_path: Path, lines: list[dict[str, Any]], changes: dict[str, Any], verdict: str) -> None:
    _, page = report(tmp_path / "run", lines, manifest(**changes))
    assert page.text("h1").startswith(verdict)


def test_the_same_files_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    first = write_report([write(tmp_path / "a", overfitting())]).read_bytes()
    elsewhere = tmp_path / "deep" / "b"
    assert write_report([write(elsewhere, overfitting())]).read_bytes() == first
    assert write_report([elsewhere]).read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert [path.name for path in elsewhere.iterdir() if "report" in path.name] == ["report.html"]


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    html, page = report(tmp_path / "run", healthy())
    outside = re.findall(r"https?://[^\s\"'<)]+", html)
    assert set(outside) == {"http://www.w3.org/2000/svg"}, "the namespace alone"
    addresses = [value for _, attrs in page.seen for name, value in attrs.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]
    assert "url(" not in html
    assert "@import" not in html
    policies = [attrs["content"] for _, attrs in page.seen if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert [str(policy).split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_what_a_run_wrote_cannot_become_markup(tmp_path: Path) -> None:
    lines = healthy()
    for entry in lines:
        if entry["split"] == "sample":
            entry["values"] = {"prompt": HOSTILE, "text": HOSTILE * 2}
        if "layers" in entry["values"]:
            entry["values"]["layers"][HOSTILE] = {"gradient_norm": 1.0, "update_ratio": 1e-3}
    lines.append(line(450, "event", {"what": HOSTILE, "message": HOSTILE}))
    described = manifest(HOSTILE, command=HOSTILE, status=HOSTILE, plugins={HOSTILE: HOSTILE})
    described["data"]["baselines"] = {HOSTILE: {"bits_per_byte": 1.5, "how": HOSTILE}}
    described["data"]["warnings"] = [HOSTILE]
    folder = write(tmp_path / "run", lines, described)
    (folder / "recipe.yaml").write_text(HOSTILE, encoding="utf-8")
    (folder / "resolved.yaml").write_text(f"name: '{HOSTILE}'", encoding="utf-8")
    other = write(tmp_path / "other", lines, {**described, "name": HOSTILE + "2"})
    for target in (write_report([folder]), write_report([folder, other])):
        html = target.read_text(encoding="utf-8")
        page = Outline(html)
        assert not [attrs for name, attrs in page.seen if name == "img"]
        assert not [name for _, attrs in page.seen for name in attrs if name.startswith("on")]
        kinds = [attrs.get("type") for name, attrs in page.seen if name == "script"]
        assert kinds.count(None) == 1
        assert set(kinds) == {None, "application/json"}
        assert "\x00" not in html
        for data in page.texts["script"][:-1]:
            assert json.loads(data)["lines"]


def test_vietnamese_stays_as_it_was(tmp_path: Path) -> None:
    lines = [*healthy(), line(450, "sample", {"prompt": "Việt Nam", "text": VIETNAMESE})]
    html, page = report(tmp_path / "run", lines, manifest("thử-nghiệm"))
    assert VIETNAMESE.removeprefix("Việt Nam") in html
    assert "thử-nghiệm" in page.text("title")


def test_the_picture_says_that_part_and_whole_of_validation_differ(tmp_path: Path) -> None:
    _, page = report(tmp_path / "run", healthy())
    assert "one fixed part of the validation text (65.0 kB, windows of 256 tokens every 256)" in page.text("p")
    assert "the whole of it (198.1 kB, windows of 256 tokens every 128), so not the same quantity" in page.text("p")
    assert "training text's 2.12 bytes per token" in page.text("p")
    assert page.text("tspan").count("validation, whole") == 1
    rings = [attrs for name, attrs in page.seen if name == "circle" and attrs["class"] == "ring"]
    assert len(rings) == 2, "one in the wide picture, one in the narrow one"


@pytest.mark.parametrize("how", ["xz -9e, with the text as its dictionary", "xz -9e with the text as its dictionary"])
def test_a_baseline_is_named_by_its_program_and_explained_below_the_picture(tmp_path: Path, how: str) -> None:
    described = manifest()
    described["data"]["baselines"] = {"xz": {"bits_per_byte": 1.53, "how": how}}
    _, page = report(tmp_path / "run", healthy(), described)
    assert "below xz -9e's 1.53;" in page.text("h1")
    assert "xz -9e: with the text as its dictionary." in page.text("p")


def test_a_small_text_measured_whole_each_time_still_differs_from_the_last_measure(tmp_path: Path) -> None:
    lines = healthy()
    for entry in lines[:-1]:
        if entry["split"] == "validation":
            entry["values"] |= {"whole": True, "bytes": 198_090}
    lines[-1]["values"]["bits_per_byte"] -= 0.3  # more context, so better: not one more point of the same curve
    _, page = report(tmp_path / "run", lines)
    assert "Dots: the whole validation text (198.1 kB, windows of 256 tokens every 256)" in page.text("p")
    assert page.text("h1").startswith("1.08 bits per byte after")
    rings = [attrs for name, attrs in page.seen if name == "circle" and attrs["class"] == "ring"]
    assert len(rings) == 2
    assert "of 9 validation measurements the best is the last" in page.text("span")


def test_without_bytes_the_curve_is_drawn_in_nats_and_without_xz(tmp_path: Path) -> None:
    lines = healthy()
    for entry in lines:
        for name in ("bits_per_byte", "bytes"):
            entry["values"].pop(name, None)
    _, page = report(tmp_path / "run", lines)
    assert page.text("h1").startswith("2.04 nats per token after 450 steps; still falling")
    assert "xz" not in page.text("tspan")


@pytest.mark.parametrize("described", [{}, {"data": 3, "machine": "x", "name": None, "model": []}, {"budget": None}])
def test_manifests_without_their_keys_still_make_a_page(tmp_path: Path, described: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", healthy(60), described or {"format": 1})
    for name in ("recipe.yaml", "resolved.yaml"):
        (folder / name).unlink()
    page = Outline(write_report([folder]).read_text(encoding="utf-8"))
    assert "bits per byte" in page.text("h1")
    (folder / "manifest.json").unlink()
    assert "bits per byte" in Outline(write_report([folder]).read_text(encoding="utf-8")).text("h1")


def test_a_half_written_last_line_is_ignored(tmp_path: Path) -> None:
    whole = write_report([write(tmp_path / "a", healthy())]).read_bytes()
    torn = write(tmp_path / "b", healthy(), tail='{"step": 451, "split": "train", "val')
    assert write_report([torn]).read_bytes() == whole


def test_resumes_are_marked_on_the_curve_and_listed(tmp_path: Path) -> None:
    event = line(220, "event", {"what": "resumed", "message": "from checkpoint step-00000200"})
    _, page = report(tmp_path / "run", [*healthy(), event])
    assert page.text("text").count("resumed") == 2
    assert "from checkpoint step-00000200" in page.text("dd")
    _, page = report(tmp_path / "again", healthy(), manifest(resumes=[{"step": 200, "differing": []}]))
    assert page.text("text").count("resumed") == 2


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = write(tmp_path / "run", healthy(20))
    for wrong, words in (
        ([], "at least one"),
        ([tmp_path / "none"], "there is no such folder"),
        ([run, tmp_path / "empty"], "neither manifest.json nor metrics.jsonl"),
    ):
        with pytest.raises(WeftError, match=words):
            write_report(wrong)
    with pytest.raises(WeftError, match="is a folder"):
        write_report([run], out=tmp_path)


def test_an_overlay_ranks_only_what_compares(tmp_path: Path) -> None:
    runs = [
        write(tmp_path / "a", healthy(), manifest("a")),
        write(tmp_path / "b", healthy(final=1.8, seed=1), manifest("b")),
        write(tmp_path / "c", healthy(final=2.2, seed=2), manifest("c")),
    ]
    resolved = runs[1] / "resolved.yaml"
    resolved.write_text(resolved.read_text(encoding="utf-8").replace("rotary", "alibi"), encoding="utf-8")
    target = write_report(runs)
    assert target == runs[0] / "report-overlay.html"
    page = Outline(target.read_text(encoding="utf-8"))
    assert page.text("h1") == "b came lowest: 1.25 bits per byte, 9.8 % below a's 1.38."
    assert "One run each" in page.text("p")
    assert "model.decoder.positions.kind" in page.text("th")
    assert page.texts["td"].count("alibi") == 1
    other = manifest("d")
    other["data"]["fingerprint"] = "another"
    foreign = write(tmp_path / "d", healthy(final=1.0), other)
    bytes_of = manifest("bytes", data={**manifest()["data"], "fingerprint": "f", "tokenizer": {"kind": "bytes"}})
    tokenized = write(tmp_path / "e", healthy(final=1.7), bytes_of)
    assert "bytes came lowest" in Outline(write_report([*runs, tokenized]).read_text(encoding="utf-8")).text("h1")
    elsewhere = write_report([*runs, foreign], out=tmp_path / "sub" / "overlay.html")
    assert "different texts" in Outline(elsewhere.read_text(encoding="utf-8")).text("h1")
    assert elsewhere.read_bytes() == write_report([*runs, foreign], out=elsewhere).read_bytes()


def test_an_overlay_counts_tokens_where_steps_differ_in_size(tmp_path: Path) -> None:
    larger = healthy(200, seed=5)
    for entry in larger:
        entry["tokens"] *= 4
    runs = [write(tmp_path / "a", healthy()), write(tmp_path / "b", larger), write(tmp_path / "c", [])]
    page = Outline(write_report(runs).read_text(encoding="utf-8"))
    assert page.texts["th"][:10].count("b") == 1, "runs of one name go by their folders"
    assert page.texts["text"].count("tokens") >= 2
    assert "steps" not in page.texts["text"]


# the drawing itself


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


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


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


# in a browser


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    found = next(filter(None, map(shutil.which, names)), None) or (mac if Path(mac).exists() else None)
    if not found:
        message = "NO CHROMIUM FOUND: the reports were not opened in a browser (looked for " + ", ".join(names) + ")"
        warnings.warn(message, stacklevel=2)
        pytest.skip(message)
    return found


def opened(browser: str, page: Path, profile: Path) -> tuple[str, str]:
    """The page's document after its script ran, and what the browser complained of."""
    quiet = ["background-networking", "component-update", "sync", "gpu", "quic"]
    command = [browser, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8", errors="replace")


def test_reports_live_in_a_browser(tmp_path: Path) -> None:
    browser = chromium()
    lines = [
        *healthy(),
        line(450, "sample", {"prompt": "", "text": HOSTILE}),
        line(450, "sample", {"text": VIETNAMESE}),
    ]
    run = write(tmp_path / "run", lines, manifest(HOSTILE))
    other = write(tmp_path / "other", overfitting(), manifest("other"))
    for i, page in enumerate((write_report([run]), write_report([run, other]))):
        document, complaints = opened(browser, page, tmp_path / f"profile-{i}")
        assert 'data-ready="yes"' in document.split(">", 2)[1], "the script ran to its end"
        assert "data-owned" not in document, "no text of the run became a script"
        pictures = re.findall(r'<svg class="(?:wide|narrow)"', document)
        assert document.count('class="cursor"') == len(pictures) >= 6, "every chart answers to the pointer"
        console = [text for text in complaints.splitlines() if "CONSOLE" in text]
        assert not console, "no error, no request that the page's own policy had to stop"
        assert (VIETNAMESE in document) == (i == 0)
