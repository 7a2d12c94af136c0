"""The reports in docs/studies of studies that have run: whole, without requests; what is said of them is in them."""

from __future__ import annotations

import csv
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from pages import Outline

from weft.studies import CorpusScores, selfcheck
from weft.studies.estimates import correlation, paired, welch
from weft.studies.reading import bundled

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "studies"
REPORTS = sorted(FOLDER.glob("*.html"))
MEASURED = re.compile(
    r"(?:better|worse) by [0-9.]+ \([^)]*\)|equivalent within [0-9.]+|[0-9.]+ times as fast[^(|]*\([^)]*\)"
)


def plain(text: str) -> str:
    """Without what only typesetting changes."""
    return " ".join(text.replace("\xa0", " ").replace("\u2212", "-").split())


def words_of(report: Path) -> str:
    outline = Outline(report.read_text(encoding="utf-8"))
    return plain(" ".join(" ".join(texts) for texts in outline.texts.values()))


def test_every_bundled_study_has_run() -> None:
    there = {report.stem for report in REPORTS}
    assert set(bundled()) <= there
    on_other_data = [stem for stem in there if stem not in bundled()]
    assert all(any(stem.startswith(f"{name}-") for name in bundled()) for stem in on_other_data)


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.stem)
def test_a_report_is_one_file_that_asks_for_nothing(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert len(html.encode()) < 1_000_000
    outline = Outline(html)
    links = [value for _, values in outline.seen for name in ("src", "href") if (value := values.get(name))]
    assert all(value.startswith(("#", "data:")) for value in links)
    assert "default-src 'none'" in unescape(html)
    assert not re.search(r"/(work|tmp|home|root)/", html), "a path of the machine that it ran on"


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.stem)
def test_what_is_said_of_a_report_stands_in_it(report: Path) -> None:
    page = plain(report.with_suffix(".md").read_text(encoding="utf-8"))
    said, known = set(MEASURED.findall(page)), words_of(report)
    assert said
    figures = [re.sub(r"^\D+", "", words) for words in said]  # a page of one arm has its words in another order
    assert not [words for words in figures if words not in known]


def test_what_the_readme_says_was_measured_stands_in_the_pages() -> None:
    readme = plain((ROOT / "README.md").read_text(encoding="utf-8")).partition("## What we measured")[2]
    said = set(MEASURED.findall(readme.partition(" ## ")[0]))
    known = plain(" ".join(page.with_suffix(".md").read_text(encoding="utf-8") for page in REPORTS))
    assert len(said) >= 5
    assert not [words for words in said if words not in known]


def thirty() -> CorpusScores:
    """The scores of thirty real runs of each of two recipes."""
    with (FOLDER / "noise.csv").open(encoding="utf-8", newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["seed"]]
    arms, seeds = (tuple(dict.fromkeys(cell[name] for cell in cells)) for name in ("arm", "seed"))
    value = {(cell["arm"], cell["seed"]): float(cell["score"]) for cell in cells}
    return CorpusScores(arms, tuple(map(int, seeds)), np.array([[value[arm, seed] for seed in seeds] for arm in arms]))


def test_real_runs_of_one_recipe_are_rarely_told_apart() -> None:
    scores = thirty()
    assert scores.values_AS.shape == (2, 30)
    found = selfcheck(scores)
    assert (found.splits, found.group) == (2000, 5)
    assert found.rate <= 0.07
    assert plain(found.words()) in plain((FOLDER / "noise.md").read_text(encoding="utf-8"))


def test_pairs_tell_more_than_two_groups_where_runs_correlate() -> None:
    base_S, arm_S = thirty().values_AS
    page = plain((FOLDER / "noise.md").read_text(encoding="utf-8"))
    by_pairs, by_groups = paired(arm_S - base_S), welch(base_S, arm_S)
    widths = [float(np.diff(one.interval(0.95))[0]) for one in (by_pairs, by_groups)]
    r = float(correlation(base_S, arm_S))
    assert (widths[0] < widths[1]) == (r > 0.05)
    assert f"correlation {r:.2f}" in page
    assert f"{widths[0]:.4f} wide in pairs, {widths[1]:.4f} without" in page
