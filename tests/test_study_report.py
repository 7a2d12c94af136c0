"""A study's report: planted numbers on the page, in the tables; pictures drawn where they belong; pure; escaped."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
from pages import HOSTILE, Outline, chromium, opened
from synthetic_studies import made_up

from weft.errors import WeftError
from weft.report.intervals import Effect, IntervalChart, interval_chart
from weft.report.markup import Markup
from weft.report.scatter import ScatterChart, Spot, scatter
from weft.report.svg import Chart, Series, line_chart
from weft.studies.differences import Difference
from weft.studies.markdown import report, series_report
from weft.studies.outcome import merged, write_pages, write_results, write_series
from weft.studies.page import series_page, study_page
from weft.studies.pictures import Told, between, intervals, law_line, validation
from weft.studies.sentences import failed_cells, summary
from weft.studies.tables import escaped

SCORES: dict[str, list[float | None]] = {
    "learned": [2.40, 2.44, 2.38, 2.42],
    "rotary": [2.30, 2.35, 2.28, 2.31],
    "alibi": [2.41, 2.43, None, 2.43],
    "none": [2.52, 2.57, 2.50, 2.55],
}
FILES = ("report.html", "report.md", "results.csv", "results.tex")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study of four arms, one cell of which failed."""
    flops = {"learned": 1_000_000, "rotary": 1_100_000, "alibi": 1_200_000, "none": 900_000}
    return made_up(tmp_path_factory.mktemp("study"), SCORES, flops=flops, margin=0.05, reason="the loss is nan")


def page_of(folder: Path) -> tuple[str, Outline]:
    html = (folder / "report.html").read_text(encoding="utf-8")
    return html, Outline(html)


def test_the_page_leads_with_verdict_number_and_interval(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    html, page = page_of(folder)
    assert (
        page.text("h1")
        == "In validation bits per byte, rotary is better than learned, “none” is worse than learned and"
        " alibi is equivalent to learned."
    )
    rotary = next(one for one in results["comparisons"] if one["arm"] == "rotary")
    assert rotary["effect"] == pytest.approx(-0.1)
    low, high = (rotary["interval"][end] for end in ("low", "high"))
    assert page.texts["dd"][0] == "−0.100"
    assert f"−{-low:.3f} to −{-high:.3f}" in page.text("dd")
    assert "rotary is better" in summary(results)
    order = [html.index(part) for part in ("<h1>", 'class="headline"', 'class="drawn"', "How they learned",
                                           "What it cost", "The figures", "What differs", "How the statistics",
                                           "Cells, and", "By the clock", "What it was made from")]  # fmt: skip
    assert order == sorted(order)
    assert len(html) < 1_000_000


def test_the_page_holds_every_number_recipe_reason_and_command(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    html, page = page_of(folder)
    for arm in results["arms"].values():
        assert f"{arm['mean']:.3f}" in page.text("td")
    for cell in results["cells"]:
        assert f"weft train studies/{cell['folder']}/recipe.yaml" in page.text("code")
        assert (folder.parent / cell["folder"] / "recipe.yaml").is_file()
    assert "1 of its 4 cells failed: the loss is nan" in page.text("small")
    assert "alibi, seed 2" in page.text("b")
    assert ("alibi, seed 2", "the loss is nan") in failed_cells(results)
    assert "1 of 4 cells failed" not in html
    assert "1 of 16 cells failed" in page.text("p")
    assert [text for text in page.texts["span"] if text.startswith("+ ")] == ["+ rotary", "+ alibi", "+ none"]
    assert "p after Holm" in page.text("dt")
    assert "Paired t over seeds where" in page.text("li")
    assert "81.9 k" in page.text("td")
    assert "Xeon" in page.text("dd")
    assert "name: positions" in page.text("pre")


def test_it_is_written_anew_byte_by_byte(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results = done
    first = {name: (folder / name).read_bytes() for name in FILES}
    for name in FILES:
        (folder / name).unlink()
    code, out, _ = tiny.command("study", "report", folder, patch=monkeypatch, capture=capsys)
    assert code == 0
    assert out.strip() == str(folder / "report.html")
    assert {name: (folder / name).read_bytes() for name in FILES} == first
    assert study_page(results, folder.parent / "cells").encode() == first["report.html"]
    assert str(folder.parent).encode() not in b"".join(first.values())
    with pytest.raises(WeftError, match=r"there is no results\.json"):
        write_pages(folder.parent)


def test_it_asks_the_network_for_nothing(done: tuple[Path, dict[str, Any]]) -> None:
    html, page = page_of(done[0])
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) == {"http://www.w3.org/2000/svg"}
    addresses = [value for _, attrs in page.seen for name, value in attrs.items() if name in ("src", "href", "action")]
    assert addresses == ["data:,"]
    assert "url(" not in html
    assert [
        name for name, attrs in page.seen if name == "svg" and attrs.get("role") and not attrs.get("aria-label")
    ] == []


def test_no_name_or_reason_becomes_markup(tmp_path: Path) -> None:
    scores = {"base": [2.0, 2.1, 2.2], HOSTILE: [1.9, None, 2.15], "a & b | c": [1.8, 1.95, 2.0]}
    change = Difference("a.b", HOSTILE, HOSTILE)
    folder, _ = made_up(tmp_path, scores, reason=HOSTILE, changes={HOSTILE: [change], "a & b | c": []})
    html, page = page_of(folder)
    assert not [attrs for name, attrs in page.seen if name == "img"]
    assert not [name for _, attrs in page.seen for name in attrs if name.startswith("on")]
    kinds = [attrs.get("type") for name, attrs in page.seen if name == "script"]
    assert kinds.count(None) == 1
    assert "\x00" not in html
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table[:5]}) == 1, "no name makes a cell of its own"
    document, complaints = opened(chromium(), folder / "report.html", tmp_path / "profile")
    assert 'data-ready="yes"' in document.split(">", 2)[1], "the script ran to its end"
    assert "data-owned" not in document
    assert "CONSOLE" not in complaints


def test_the_csv_reads_back_as_it_was_measured(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 16
    found: dict[str, list[float | None]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(float(row["score"]) if row["score"] else None)
    assert found == SCORES
    failed = [row for row in rows if row["state"] == "failed"]
    assert [(row["arm"], row["seed"], row["reason"]) for row in failed] == [("alibi", "2", "the loss is nan")]
    effects = {one["arm"]: one["effect"] for one in results["comparisons"]}
    assert {row["arm"]: float(row["difference"]) for row in rows if row["difference"]} == effects


def test_the_latex_has_a_row_an_arm_and_escapes_names(done: tuple[Path, dict[str, Any]]) -> None:
    text = (done[0] / "results.tex").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(row) for row in rows} == {7}
    assert [row[0].strip() for row in rows[1:]] == list(SCORES)
    assert [row[-1].strip() for row in rows[1:]] == ["baseline", "better", "equivalent", "worse"]
    assert rows[2][2].strip() == "$-0.100$"
    assert re.fullmatch(r" \[\$-0\.1\d+\$, \$-0\.0\d+\$\] ", rows[2][3])
    assert text.count("{") == text.count("}")
    assert escaped("50% of a_b & {c}^~#$\\\n") == (
        r"50\% of a\_b \& \{c\}\textasciicircum{}\textasciitilde{}\#\$\textbackslash{}"
    )


def circles(svg: Markup, kind: str) -> list[float]:
    return [float(x) for x in re.findall(rf'<circle cx="([\d.]+)"[^>]*class="{kind}"', svg)]


def test_intervals_are_drawn_where_they_lie() -> None:
    effects = [
        Effect("better", "blue", -0.2, (-0.3, -0.1), "better by 0.2", points=[-0.25, -0.15]),
        Effect("worse", "green", 0.1, (-0.1, 0.3), "undecided"),
        Effect("failed", "amber", None, None, "untested"),
    ]
    chart = IntervalChart("t", effects, "difference", "base", "lower", margin=0.05)
    for width in (880, 400):
        svg = interval_chart(chart, width)
        (zero,) = map(float, re.findall(r'<line x1="([\d.]+)"[^>]*class="zero"', svg))
        left, right = circles(svg, "dot")
        assert left < zero < right
        unit = (right - left) / 0.3
        assert zero - left == pytest.approx(0.2 * unit, abs=0.1)
        ends = [tuple(map(float, pair)) for pair in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*whisker"', svg)]
        assert ends[0] == pytest.approx((zero - 0.3 * unit, zero - 0.1 * unit), abs=0.1)
        assert circles(svg, "seed") == pytest.approx([zero - 0.25 * unit, zero - 0.15 * unit], abs=0.1)
        ((start, wide),) = re.findall(r'<rect x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*class="margin"', svg)
        assert (float(start), float(wide)) == pytest.approx((zero - 0.05 * unit, 0.1 * unit), abs=0.1)
        words = dict(re.findall(r'<text x="([\d.]+)" y="32"[^>]*>([^<]+)<', svg))
        assert [words[place] for place in sorted(words, key=float)] == ["← better", "worse →"]
        assert "untested" in svg
    assert "← worse" in interval_chart(IntervalChart("t", effects, "difference", "base", "higher"))


def test_an_interval_that_dwarfs_all_others_is_cut_and_said_so() -> None:
    narrow = [Effect(f"{i}", "blue", 0.01, (-0.01, 0.03), "undecided") for i in range(4)]
    chart = IntervalChart("t", [*narrow, Effect("wide", "green", 0.0, (-5.0, 5.0), "undecided")], "d", "b", "lower")
    scale, cut = chart.reach()
    assert cut
    assert scale.high < 0.2
    assert not IntervalChart("t", narrow, "d", "b", "lower").reach()[1]


def test_a_band_is_students_interval_around_the_mean_of_runs(done: tuple[Path, dict[str, Any]]) -> None:
    assert between([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert between([1.0]) is None
    (chart,) = validation(Told(done[1], done[0].parent / "cells"))
    lines = {line.name: line for line in chart.series}
    assert lines["learned"].color == "muted"
    assert len({line.color for line in chart.series}) == 4
    assert [len(lines[name].runs) for name in ("rotary", "alibi")] == [4, 3]
    x, mean = lines["rotary"].points[-1]
    last = [run[-1][1] for run in lines["rotary"].runs]
    assert mean == pytest.approx(sum(last) / 4)
    assert lines["rotary"].band[-1] == pytest.approx((x, *(between(last) or ())))
    svg = line_chart(chart)
    assert svg.count('class="around"') == 4
    assert svg.count('class="line faint"') == 15
    labels = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)" class="label"', svg))
    assert min(high - low for low, high in pairwise(labels)) > 17


def test_a_title_says_when_bands_do_not_tell_the_first_from_the_next(tmp_path: Path) -> None:
    apart = {"a": [2.0, 2.01, 2.02], "b": [3.0, 3.01, 3.02]}
    near = {"a": [2.0, 2.1, 2.2], "b": [2.05, 2.15, 2.25]}
    titles = []
    for name, scores in (("apart", apart), ("near", near)):
        folder, results = made_up(tmp_path / name, scores)
        titles.append(validation(Told(results, folder.parent / "cells"))[0].title)
    assert titles == [
        "a ends lowest: 2.02 validation bits per byte, b follows at 3.02",
        "a ends lowest: 2.11 validation bits per byte, b follows at 2.16; their bands overlap",
    ]


def test_what_a_band_says_stands_in_words_too() -> None:
    line = Series("rotary", [(1.0, 2.0), (2.0, 1.5)], band=[(1.0, 1.9, 2.1), (2.0, 1.25, 1.75)])
    assert "rotary ends at 1.50 (1.25 to 1.75)" in Chart("t", [line], "steps", "loss").spoken


def test_names_beside_spots_touch_nothing() -> None:
    spots = [Spot(f"arm number {i}", "blue", 1e6 * (1 + i % 2), 2.0 + 0.001 * i) for i in range(9)]
    chart = ScatterChart("t", spots, "training FLOPs", "loss", front=[(1e6, 2.0), (2e6, 1.9)])
    svg = scatter(chart)
    boxes = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label"', svg)]
    assert len(boxes) == 9
    for i, (x, y) in enumerate(boxes):
        assert all(abs(y - other) >= 17.9 or abs(x - beside) > 80 for beside, other in boxes[:i])
    assert "log scale" not in svg
    assert "log scale" in scatter(
        ScatterChart("t", [Spot("a", "blue", 1e6, 1.0), Spot("b", "blue", 1e8, 2.0)], "x", "y")
    )


def test_many_arms_get_a_picture_each_with_one_scale(tmp_path: Path) -> None:
    scores: dict[str, list[float | None]] = {f"arm {i}": [2 + i / 50, 2.1 + i / 45, 2.05 + i / 50] for i in range(9)}
    folder, results = made_up(tmp_path, scores)
    charts = validation(Told(results, folder.parent / "cells"))
    assert len(charts) == 1 + 8
    assert len({chart.y_range for chart in charts[1:]}) == 1
    assert all([line.name for line in chart.series] == [f"arm {i + 1}", "arm 0"] for i, chart in enumerate(charts[1:]))
    picture = intervals(Told(results, folder.parent / "cells"))
    assert picture is not None
    assert picture.title == "8 of 8 arms are worse than “arm 0”"
    assert len((folder / "report.html").read_bytes()) < 1_000_000


def test_a_series_says_each_settings_finding_first(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    scores: dict[str, list[float | None]] = {"learned": [2.0, 2.3, 2.1], "rotary": [2.1, 2.2, 2.15]}
    other, results = made_up(tmp_path, scores, name="positions-length")
    parts = [("language", done[1], done[0].parent / "cells"), ("length", results, other.parent / "cells")]
    html = series_page("positions", "Rotary improves by 1-2 points", parts)
    page = Outline(html)
    assert page.text("h1") == "positions"
    assert page.texts["dt"][:2] == ["language", "length"]
    assert page.texts["dd"][1].startswith(
        "Whether rotary is better than learned in validation bits per byte is undecided"
    )
    assert page.texts["h2"] == ["language", "length"]
    assert html.count('<section class="clock">') == 2
    assert page.texts["td"][:2] == ["better by 0.100", "undecided"]
    assert html == series_page("positions", "Rotary improves by 1-2 points", parts)
    other_first = series_page("positions", "", parts[::-1])
    blue = [re.findall(r'<span class="c-(\w+)">rotary</span>', text) for text in (html, other_first)]
    assert set(blue[0]) == {"blue"} == set(blue[1])
    markdown = series_report("positions", "Rotary improves by 1-2 points", parts)
    assert markdown.index("- **length**: Whether rotary") < markdown.index("## language")
    assert markdown.count("### By the clock") == 2


def test_a_ladder_is_compared_step_by_step(done: tuple[Path, dict[str, Any]]) -> None:
    results = json.loads(json.dumps(done[1]))
    results["question"]["ladder"] = True
    results["comparisons"][1]["baseline"] = "rotary"
    page = Outline(study_page(results, done[0].parent / "cells"))
    assert "rotary is better than the arm before" in page.text("h1")
    picture = intervals(Told(results, done[0].parent / "cells"))
    assert picture is not None
    assert picture.effects[1].name == "alibi − rotary"
    assert picture.effects[1].points == pytest.approx([0.11, 0.08, 0.12])
    assert "What differs from the arm before" in page.text("h2")


def test_a_law_is_said(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    words = "goes as parameters to the power -0.08 (-0.1 to -0.06, 4 seeds)"
    results = {**done[1], "law": {"amount": "parameters", "words": words}}
    assert "to the power −0.08 (−0.1 to −0.06, 4 seeds)." in Outline(study_page(results, done[0].parent)).text("p")
    assert words in report(results)
    copied = shutil.copytree(done[0].parent, tmp_path / "studies")
    assert any(words in line for line in write_results(copied / done[0].name, results))


def test_a_law_is_a_straight_line_on_logarithmic_axes(done: tuple[Path, dict[str, Any]]) -> None:
    sizes = (1e4, 3e4, 2e5)
    spots = [Spot(f"{size:g}", "blue", size, 9 * size**-0.1) for size in sizes]
    svg = scatter(ScatterChart("t", spots, "parameters", "loss", law=((1e4, 9 * 1e4**-0.1), (2e5, 9 * 2e5**-0.1))))
    assert svg.count("log scale") == 2
    circles = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    [line] = re.findall(r'<path d="([^"]+)" class="front"', svg)
    (x, y), (right, below) = [(float(a), float(b)) for a, b in re.findall(r"([\d.]+)[ ,]([\d.]+)", line)]
    assert [y + (at - x) / (right - x) * (below - y) for at, _ in circles] == pytest.approx(
        [b for _, b in circles], abs=0.2
    )
    results = json.loads(json.dumps(done[1]))
    assert law_line(Told(results, done[0].parent / "cells")) is None
    results["law"] = {"amount": "parameters", "problem": "too few"}
    assert law_line(Told(results, done[0].parent / "cells")) is None
    for number, arm in enumerate(results["arms"].values()):
        arm["parameters"] *= 1 + number
    results["law"] = {
        "amount": "parameters", "exponent": -0.1, "low": -0.12, "high": -0.08, "constant": 7.0, "words": "goes as"
    }  # fmt: skip
    picture = law_line(Told(results, done[0].parent / "cells"))
    assert picture is not None
    assert picture.title == "validation bits per byte falls as parameters to the power −0.100 (−0.120 to −0.080)"
    assert picture.law is not None
    assert [end / size**-0.1 for size, end in picture.law] == pytest.approx([7.0, 7.0])
    page = study_page(results, done[0].parent / "cells")
    assert "Dotted: the fitted power law." in page
    results["law"]["p_fit"] = 0.001
    missed = law_line(Told(results, done[0].parent / "cells"))
    assert missed is not None
    assert missed.title.startswith("validation bits per byte follows no power law of parameters; the nearest has")


def test_a_series_is_written_anew_too(done: tuple[Path, dict[str, Any]]) -> None:
    place = done[0].parent / "series"
    said = write_series(place, "positions", None, {"language": done[0]})
    assert said == [f"report of all settings: {place / 'report.html'}"]
    first = [(place / name).read_bytes() for name in FILES[:2]]
    write_pages(place)
    assert [(place / name).read_bytes() for name in FILES[:2]] == first


def test_claim_and_setting_are_said(done: tuple[Path, dict[str, Any]]) -> None:
    results = {**done[1], "claim": "Rotary is better.", "setting": "language"}
    page = Outline(study_page(results, done[0].parent / "cells"))
    assert "Claim: Rotary is better." in page.text("p")
    assert "weft study · positions · language" in page.text("p")


def test_a_study_in_which_nothing_could_be_tested_still_has_a_page(tmp_path: Path) -> None:
    folder, results = made_up(tmp_path, {"learned": [2.0, None], "rotary": [None, None]}, reason="no memory")
    assert results["problem"]
    _, page = page_of(folder)
    assert page.text("h1").startswith("Nothing was tested")
    assert "3 of 4 cells failed" in page.text("p")


def test_machines_that_differ_are_all_named() -> None:
    cells = [{"cores": 2, "versions": {"torch": "2.1"}}, {"cores": 4, "versions": {"torch": "2.1"}}]
    assert merged(cells) == {"cores": ["2", "4"], "versions": {"torch": "2.1"}}


def test_results_say_what_was_reused(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    cells = [{**cell, "reused": cell["seed"] == 0} for cell in results["cells"]]
    page = Outline(study_page({**results, "cells": cells}, folder.parent / "cells"))
    assert "4 of 16 cells were there before this study and were reused" in page.text("p")
    assert page.texts["td"].count("reused") == 4
    assert json.loads((folder / "declared.json").read_text(encoding="utf-8"))["reused"] == []
