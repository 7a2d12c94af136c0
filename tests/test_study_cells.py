"""Studies that run: nothing twice, kills and failures, reuse, what changes a cell's address and what does not."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from rich.console import Console

import weft
from weft.config import yaml
from weft.errors import WeftError
from weft.report.formats import significant
from weft.runs.folder import RunFolder
from weft.studies import running
from weft.studies.cells import Cell, State, score, state_of
from weft.studies.donors import stand_ins
from weft.studies.engine import study
from weft.studies.folder import Report
from weft.studies.reading import read_studies
from weft.studies.session import Session, open_studies
from weft.studies.watching import Watch

POSITIONS = "model.decoder.positions"
FUTURE = "from __future__ import annotations"


def declared(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two arms and two seeds of runs of 4 steps."""
    base = tiny.recipe(tiny.text(folder))
    base["train"] |= {"budget": "4 steps", "evaluate_every": 4, "checkpoint_every": 2, "sample_tokens": 0}
    base["model"]["decoder"]["n_layers"] = 1
    told = {
        "name": "positions",
        "base": base,
        "arms": {"learned": {POSITIONS: "learned"}, "rotary": {POSITIONS: "rotary"}},
        "seeds": 2,
        "metric": {"name": "validation/bits_per_byte", "better": "lower"},
    }
    return {**told, **changes}


def run(what: dict[str, Any], folder: Path, **options: Any) -> tuple[Report, str]:
    said = io.StringIO()
    report = study(
        what, studies=folder / "studies", isolated=False, console=Console(file=said, width=10_000), **options
    )
    return report, said.getvalue()


CLOCK = (
    re.compile(r"(?m)^## By the clock$.*", re.DOTALL),
    re.compile(r'<section class="clock">.*?</section>', re.DOTALL),
)
"""The section of a report in which no two runs of a study agree, as Markdown and as HTML."""


def without_clock(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What must not depend on how often a study was stopped: its results, both reports, both tables."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    pages = []
    for name, clock in (("report.md", CLOCK[0]), ("report.html", CLOCK[1])):
        text, found = clock.subn("", (folder / name).read_text(encoding="utf-8"))
        assert found == 1
        pages.append(text)
    pages += [(folder / name).read_text(encoding="utf-8") for name in ("results.csv", "results.tex")]
    return {key: value for key, value in results.items() if key != "clock"}, pages


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study that has run, and what that said."""
    folder = tmp_path_factory.mktemp("study")
    return folder, run(declared(folder), folder)[1]


@pytest.fixture
def copied(done: tuple[Path, str], tmp_path: Path) -> Path:
    """The same folder to change; the text stays where it was."""
    shutil.copytree(done[0] / "studies", tmp_path / "studies")
    return tmp_path


def test_a_study_ends_in_a_verdict_with_its_cost_beside_it(done: tuple[Path, str]) -> None:
    folder, said = done
    results = json.loads((folder / "studies/positions/results.json").read_text(encoding="utf-8"))
    assert "4 cells: 4 new" in said
    assert "learned, seed 0: " in said
    assert "(1 of 4" in said
    comparison = results["comparisons"][0]
    assert comparison["verdict"]["words"] in said
    scores = {arm: results["arms"][arm]["scores"] for arm in ("learned", "rotary")}
    assert comparison["effect"] == pytest.approx(sum(scores["rotary"]) / 2 - sum(scores["learned"]) / 2, rel=1e-12)
    for cell in results["cells"]:
        last = RunFolder(folder / "studies" / cell["folder"]).log.last("validation")
        assert last is not None
        assert last["values"]["final"]
        assert last["values"]["bits_per_byte"] == scores[cell["arm"]][cell["seed"]]
    assert [(cell["arm"], cell["seed"]) for cell in results["cells"]] == [
        ("learned", 0), ("rotary", 0), ("rotary", 1), ("learned", 1)
    ]  # fmt: skip
    page = (folder / "studies/positions/report.md").read_text(encoding="utf-8")
    assert comparison["verdict"]["words"] in page
    assert results["clock"]["rotary"]["seconds"] > 0
    assert all(results["arms"][arm]["flops"] > 0 for arm in scores)


def test_what_is_there_is_reused_and_a_new_seed_or_arm_runs_alone(
    done: tuple[Path, str], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    real = running.run_cell
    monkeypatch.setattr(running, "run_cell", lambda cell, *rest: (ran.append(cell.title), real(cell, *rest))[1])
    report, said = run(declared(done[0]), copied)
    assert "4 cells: 4 there already, reused" in said
    assert ran == []
    before = report.results["arms"]["rotary"]["scores"]
    report, said = run(declared(done[0], seeds=3), copied)
    assert "6 cells: 4 there already, reused, 2 new" in said
    assert sorted(ran) == ["learned, seed 2", "rotary, seed 2"]
    assert report.results["arms"]["rotary"]["scores"][:2] == before
    assert report.results["looks"] == [[0, 1], [0, 1, 2]]
    assert "seen more than once (2, then 3 seeds)" in (report.folder / "report.md").read_text(encoding="utf-8")
    arms = {**declared(done[0])["arms"], "none": {POSITIONS: "none"}}
    ran.clear()
    run(declared(done[0], seeds=3, arms=arms), copied)
    assert sorted(ran) == ["none, seed 0", "none, seed 1", "none, seed 2"]


def test_another_question_is_another_study(done: tuple[Path, str], copied: Path) -> None:
    for changes, what in (
        ({"metric": {"name": "validation/loss", "better": "lower"}}, "metric = "),
        ({"baseline": "rotary"}, "baseline = 'rotary': was declared as 'learned'"),
    ):
        with pytest.raises(WeftError, match=what):
            run(declared(done[0], **changes), copied)
    said = run(declared(done[0], name="other", baseline="rotary"), copied)[1]
    assert "4 cells: 4 there already, reused" in said


def opened(what: dict[str, Any], studies: Path, threads: int | None = None) -> Session:
    """A study that is ready to run."""
    sessions = open_studies(read_studies(what), studies, False, None, threads, Console(quiet=True), stand_ins(studies))
    assert sessions is not None
    return sessions[0]


def keys(what: dict[str, Any], folder: Path) -> dict[str, str]:
    """The address of each cell."""
    session = opened(what, folder / "studies")
    return {cell.title: cell.key for cell in session.cells()}


def edited(tree: Path, file: str, before: str, after: str) -> None:
    text = (tree / file).read_text(encoding="utf-8")
    assert before in text
    (tree / file).write_text(text.replace(before, after, 1), encoding="utf-8")


def test_an_edited_comment_repeats_nothing_while_an_edited_line_of_code_does(
    done: tuple[Path, str], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = copied / "weft"
    shutil.copytree(Path(weft.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(weft, "__file__", str(tree / "__init__.py"))
    edited(tree, "nn/rotary.py", FUTURE, f"{FUTURE}  # a comment")
    edited(tree, "nn/norms.py", '"""', '"""Another docstring. ')
    edited(tree, "report/svg.py", FUTURE, f"{FUTURE}\nimport sys")
    assert "4 there already, reused" in run(declared(done[0]), copied)[1]
    before = keys(declared(done[0]), copied)
    edited(tree, "nn/rotary.py", FUTURE, f"{FUTURE}\nimport sys")  # which the arm `learned` does not use
    now = keys(declared(done[0]), copied)
    assert {title for title, key in now.items() if key != before[title]} == {"rotary, seed 0", "rotary, seed 1"}
    edited(tree, "training/loop.py", "self.step += 1", "self.step += 2 - 1")
    assert not set(keys(declared(done[0]), copied).values()) & {*before.values(), *now.values()}


def test_a_cell_that_fails_stays_a_failure_with_its_reason(done: tuple[Path, str], copied: Path) -> None:
    arms = {**declared(done[0])["arms"], "wild": {"optimizer.learning_rate": 1e38}}
    report, said = run(declared(done[0], name="wild", arms=arms), copied)
    assert "wild, seed 0: failed: step " in said
    assert "2 of 6 cells failed" in said
    words = {one["arm"]: one["verdict"]["kind"] for one in report.table}
    assert words["wild"] == "untested"
    assert words["rotary"] != "untested"
    assert "the run diverged" in (report.folder / "report.md").read_text(encoding="utf-8")
    said = run(declared(done[0], name="wild", arms=arms), copied)[1]
    assert "6 cells: 4 there already, reused, 2 failed before" in said
    said = run(declared(done[0], name="wild", arms=arms), copied, retry=True)[1]
    assert "6 cells: 4 there already, reused, 2 new" in said


def test_threads_are_part_of_a_cell_and_cost_is_measured_alone(done: tuple[Path, str], copied: Path) -> None:
    base = declared(done[0])["base"]
    base["train"] |= {"threads": None}
    cost = {"name": "cost/seconds", "better": "lower"}
    session = opened(declared(done[0], base=base, metric=cost), copied / "studies")
    assert session.lanes.jobs == 1
    assert "one at a time: time is measured" in session.lanes.why
    keys = set()
    for threads in (1, 2):
        lanes = opened(declared(done[0], base=base), copied / "other", threads)
        keys |= {cell.key for cell in lanes.cells()}
    assert len(keys) == 8


def test_a_sweep_gives_each_arm_its_own_rate_with_seeds_of_its_own(done: tuple[Path, str], copied: Path) -> None:
    sweep = {"values": [1e-5, 5e-3]}
    report, said = run(declared(done[0], name="swept", sweep=sweep), copied)
    assert "learned: optimizer.learning_rate = 0.005; it is at the end of what was tried" in said
    assert report.results["arms"]["learned"]["swept"]["value"] == 5e-3
    assert [cell["seed"] for cell in report.results["cells"]] == [0, 0, 1, 1]
    assert "4 cells: 4 there already, reused" in said  # the study's own rate was 5e-3
    page = (report.folder / "report.md").read_text(encoding="utf-8")
    assert "chosen on the validation text with seeds of its own" in page


def test_killed_again_and_again_it_ends_in_the_report_of_the_undisturbed(
    done: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = done
    what = tmp_path / "study.yaml"
    what.write_text(yaml.dump(declared(folder)), encoding="utf-8")
    code = f"import weft, rich.console as r; weft.study({str(what)!r}, isolated=False, console=r.Console(quiet=True))"
    kills = 0
    for touches in (12, 30, 45, 20):  # changes of the disk that it lives through
        process = tiny.Process(tmp_path, "-c", code, within=tmp_path / "studies", touches=touches, cwd=tmp_path)
        kills += process.wait(100) == -9
    run(yaml.read(what), tmp_path)
    assert kills >= 3
    assert without_clock(tmp_path / "studies/positions") == without_clock(folder / "studies/positions")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX systems do")
def test_killed_ten_times_at_random_it_ends_in_the_report_of_the_undisturbed(tmp_path: Path) -> None:
    """Byte by byte: the page, the Markdown, both tables; but for what the clock says."""
    base = declared(tmp_path)["base"]
    base["train"] |= {"budget": "60 steps", "evaluate_every": 10, "checkpoint_every": 5}
    what = declared(tmp_path, base=base, seeds=3)
    began = time.monotonic()
    run(what, tmp_path / "undisturbed")
    seconds = time.monotonic() - began
    source, draw, kills, tries = tmp_path / "study.yaml", random.Random(0), 0, 0
    source.write_text(yaml.dump(what), encoding="utf-8")
    code = f"import weft, rich.console as r; weft.study({str(source)!r}, isolated=False, console=r.Console(quiet=True))"
    while kills < 10:
        folder = tmp_path / f"killed-{tries - kills}"
        folder.mkdir(exist_ok=True)
        tries += 1
        assert tries < 200
        process = tiny.Process(tmp_path, "-c", code, cwd=folder)
        ended = process.wait(draw.uniform(0, seconds / 4))
        ended = process.kill() if ended is None else ended
        assert ended in (0, -9), process.said
        kills = kills + 1 if ended else 0  # it came to its end: from the beginning, elsewhere
    run(what, folder)
    assert without_clock(folder / "studies/positions") == without_clock(tmp_path / "undisturbed/studies/positions")


def test_processes_end_with_their_study_and_the_command_goes_on(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user would: weft study run, killed while its cells run in processes of their own; then to the end."""
    folder, _ = done
    what = declared(folder)
    what["base"]["train"] |= {"budget": "2000 steps"}
    (tmp_path / "long.yaml").write_text(yaml.dump(what), encoding="utf-8")
    process = tiny.Process(tmp_path, "study", "run", "long.yaml", "--jobs", 2, cwd=tmp_path)
    store = tmp_path / "studies/cells"
    limit = time.monotonic() + 60
    while len(list(store.glob("*/metrics.jsonl"))) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    assert process.kill() == -9
    time.sleep(0.5)
    sizes = [path.stat().st_size for path in sorted(store.glob("*/metrics.jsonl"))]
    assert len(sizes) == 2
    time.sleep(0.5)
    assert sizes == [path.stat().st_size for path in sorted(store.glob("*/metrics.jsonl"))]
    (tmp_path / "study.yaml").write_text(yaml.dump(declared(folder)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, out, err = tiny.command(
        "study", "run", "study.yaml", "--studies", "short", "--jobs", 2, patch=monkeypatch, capture=capsys
    )
    assert code == 0, err
    assert "2 cells at a time, 1 thread each" in out
    results, pages = without_clock(tmp_path / "short/positions")
    assert (results, pages) == without_clock(folder / "studies/positions")
    told = json.loads((tmp_path / "short/positions/results.json").read_text(encoding="utf-8"))
    assert told["clock"]["rotary"]["peak_memory"] is None or told["clock"]["rotary"]["peak_memory"] > 1e6
    assert all(state_of(tmp_path / "short" / cell["folder"]) is State.finished for cell in told["cells"])
    code, out, _ = tiny.command("study", "list", "--studies", "short", patch=monkeypatch, capture=capsys)
    assert "4 of 4" in out
    assert results["comparisons"][0]["verdict"]["words"] in out
    code, out, err = tiny.command(
        "study", "plan", "study.yaml", "--studies", "new", "--json", patch=monkeypatch, capture=capsys
    )
    assert code == 0, err
    told = json.loads(out)
    assert (told["cells"], told["left"]) == (4, 4)
    assert all(arm["seconds"] > 0 and arm["bytes"] > 10_000 for arm in told["arms"].values())
    code, out, _ = tiny.command(
        "study", "plan", "study.yaml", "--studies", "short", "--no-probe", patch=monkeypatch, capture=capsys
    )
    assert "4 cells, 0 of them to run" in out
    assert "2 seeds find a difference of" in out


def test_a_donor_is_known_by_what_it_is_and_what_is_frozen_costs_less(tmp_path: Path) -> None:
    """Cells that copy are other cells once the model under that name is another; where it lies is nothing to them."""
    base = declared(tmp_path)["base"]
    donors = [tiny.trained(tmp_path / "runs", base, f"train.seed={seed}", name=f"donor-{seed}") for seed in (0, 1)]
    place = tmp_path / "donor"

    def cells(model: Path) -> list[Cell]:
        arms = {
            "alone": {},
            "copied": {"transfer.from": str(model), "transfer.freeze": ["decoder.blocks.*.feedforward"]},
        }
        what = declared(tmp_path, base=base, arms=arms)
        session = opened(what, tmp_path / "studies", 1)
        alone, copied = session.arms.arms
        assert copied.parameters == alone.parameters
        assert copied.flops_per_token < alone.flops_per_token
        return session.cells()

    keys = []
    for donor in donors:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(donor, place)
        keys.append([cell.key for cell in cells(place)])
        assert keys[-1] == [cell.key for cell in cells(donor)], "where it lies"
    changed = [first != second for first, second in zip(*keys, strict=True)]
    assert changed == [cell.arm == "copied" for cell in cells(place)]


def test_on_a_terminal_a_table_moves_while_cells_run(done: tuple[Path, str], tmp_path: Path) -> None:
    store = done[0] / "studies/cells"
    cells = opened(declared(done[0]), done[0] / "studies").cells()
    running = Cell("rotary", 7, "0" * 64, {}, "")
    half = tmp_path / running.name
    shutil.copytree(store / cells[0].name, half)
    RunFolder(half).update_manifest(status="running", budget={"steps": 8, "tokens": 8})
    for cell in cells:
        (tmp_path / cell.name).symlink_to(store / cell.name)
    said = io.StringIO()
    metric = "validation/bits_per_byte"
    with Watch(Console(file=said, force_terminal=True, width=100), [*cells, running], tmp_path, metric, 1) as watch:
        watch.update([running])
        watch.live.refresh()  # type: ignore[union-attr]
    shown = said.getvalue()
    assert metric in shown
    assert all(name in shown for name in ("learned", "rotary", "seed 0", "seed 7"))
    assert "50 %" in shown
    assert significant(score(store / cells[0].name, metric), 4) in shown


def test_time_can_be_the_metric(done: tuple[Path, str], copied: Path) -> None:
    cost = {"name": "cost/seconds", "better": "lower"}
    report, said = run(declared(done[0], name="cost", metric=cost), copied)
    assert "one at a time: time is measured" in said
    seconds = [value for arm in report.results["arms"].values() for value in arm["scores"]]
    assert all(value > 0 for value in seconds)
    assert report.table[0]["verdict"]["kind"] in ("better", "worse", "undecided")
