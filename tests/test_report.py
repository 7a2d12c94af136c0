"""Reports: pure, self-contained, escaped, well formed, honest in their sentences; and alive in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import HOSTILE, Outline, chromium, opened
from synthetic_runs import diverging, healthy, line, manifest, overfitting, write

from weft.errors import WeftError
from weft.training.report import write_report

VIETNAMESE = "Việt Nam là một quốc gia nằm ở cực Đông của bán đảo Đông Dương."


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


# in a browser


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
