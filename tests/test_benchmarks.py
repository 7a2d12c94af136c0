"""Benchmarks on shapes so small that they take no time: systems agree, tables are filled in, pictures are drawn."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import all as runner  # noqa: E402
import common  # noqa: E402
import data  # noqa: E402
import picture  # noqa: E402
import time_to_quality as quality  # noqa: E402
import torch  # noqa: E402
import train  # noqa: E402

TINY = train.Workload(layers=2, width=16, heads=2, length=12, vocabulary=40, rows=3, steps=1)


def test_all_systems_compute_the_same_losses() -> None:
    plain = train.peer(TINY, "plain", False, False, False)
    steps = {"fused": train.peer(TINY, "plain", True, False, False), "weft": train.weft(TINY, "fp32")}
    with suppress(ImportError):  # an independent witness, not a dependency
        steps["hf"] = train.peer(TINY, "hf", True, False, False)
    true = [plain() for _ in range(3)]
    assert true[2] < true[0]
    for name, step in steps.items():
        assert [step() for _ in range(3)] == pytest.approx(true, rel=1e-5), name


def test_bf16_is_close_to_float32() -> None:
    near, true = train.weft(TINY, "bf16"), train.weft(TINY, "fp32")
    assert [near() for _ in range(3)] == pytest.approx([true() for _ in range(3)], rel=2e-3)


def test_products_are_those_of_the_step() -> None:
    """Counted: forward and twice that backward, of every matrix, and attention's squares."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        train.products(TINY, "fp32")()
    tokens, width = TINY.tokens, TINY.width
    matrices = TINY.layers * 12 * width * width + width * TINY.vocabulary
    attention = TINY.layers * 2 * tokens * TINY.length * width
    assert counter.get_total_flops() == 6 * tokens * matrices + 3 * 2 * attention


def _counting(start: float) -> common.Step:
    state = [start]

    def step() -> float:
        state[0] += 1
        time.sleep(0.001)
        return state[0]

    return step


def _dying() -> common.Step:
    def step() -> float:
        sys.exit(3)

    return step


def test_systems_take_turns_until_the_deadline() -> None:
    systems = [common.System(f"s{start}", 1, _counting, float(start)) for start in (0, 10)]
    try:
        assert [system.run(2) for system in systems] == [[1.0, 2.0], [11.0, 12.0]]
        assert common.alternate(systems, 3, rounds=4, deadline=time.monotonic() + 60) == 4
        assert common.alternate(systems, 1, rounds=9, deadline=time.monotonic() - 1) == 1
        assert [len(system.seconds) for system in systems] == [5, 5]
        assert all(system.median > 0.001 for system in systems)
        assert systems[0].peak > 1
    finally:
        for system in systems:
            system.close()
    assert not any(system.process.is_alive() for system in systems)


def test_a_system_that_dies_is_named() -> None:
    system = common.System("poor one", 1, _dying)
    with pytest.raises(RuntimeError, match=r"poor one: its process ended"):
        system.run(1)
    system.close()


def test_one_core_and_two_give_the_same_data(tmp_path: Path) -> None:
    data.write_text(tmp_path / "text.jsonl", 1)
    lines = (tmp_path / "text.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) > 100
    data.train_tokenizer(tmp_path / "text.jsonl")
    seconds, peak, digest, size = data.prepare(data._TOKENISE, tmp_path / "text.jsonl", {0})
    assert seconds > 0
    assert peak > 10
    assert len(digest) == 64
    assert 0.9e6 < size < 1.2e6


def test_the_peer_is_measured_on_each_token_once() -> None:
    """Windows one by one and by hand: each token is predicted from those before it in the first window that has it."""
    import peers

    torch.manual_seed(0)
    model = peers.PlainGpt(1, 8, 2, quality.CONTEXT, 5)
    tokens, half = torch.randint(5, (64 * 34 + 5,)), quality.CONTEXT // 2
    nats = []
    with torch.no_grad():
        for target in range(1, len(tokens)):
            start = max(0, math.ceil((target - quality.CONTEXT) / half)) * half
            logits = model.logits(tokens[None, start:target])[0, -1]
            nats.append(float(-logits.log_softmax(-1)[tokens[target]]))
    assert quality.plain_nats(model, tokens) == pytest.approx(sum(nats) / len(nats), rel=1e-6)


def test_a_quick_result_says_that_it_is_one() -> None:
    options = argparse.Namespace(quick=True, minutes=0.25)
    one = quality.Outcome("stretched", 0, 15.0, 10, 100, 7, 2.0, 3.0)
    assert quality.shown({}, [one], options)["finding"] == "a quick run: 15 s of training each, 2% of the text held out"
    assert quality.shown({}, [one], argparse.Namespace(quick=False))["finding"] == ""


# the runner


def test_the_last_of_a_quick_run_has_what_the_others_left() -> None:
    train_, attention, data_, last = runner.SCRIPTS
    names = [script.name for script in runner.SCRIPTS]
    assert runner.quick_seconds(train_, names, 0) == train_.quick
    assert runner.quick_seconds(attention, names, 100) == 490 - data_.quick - last.quick
    assert runner.quick_seconds(data_, names, 200) == data_.quick
    assert runner.quick_seconds(last, names, 340) == 250
    assert runner.quick_seconds(last, ["time_to_quality"], 0) == runner.WHOLE


MARKED = "before\n<!-- machine -->\nold\n<!-- /machine -->\nbetween <!-- train -->x<!-- /train --> after"


def result() -> dict[str, Any]:
    rows = [
        {"system": name, "tokens_per_second": rate, "low": rate * 0.9, "high": rate * 1.1}
        for name, rate in ((train.EAGER, 100.0), (train.WEFT, 150.0), (train.PRODUCTS, 200.0))
    ]
    work = {"finding": "weft is 1.50x <eager>", "table": [["system", "tokens/s"], ["weft", "150"]], "rows": rows}
    machine = {"processor": "abacus", "system": "Linux", "cores": 2, "threads": 2, "memory_gib": 1, "python": "3.11"}
    return {"benchmark": "train", "machine": {**machine, "versions": {"torch": "2"}}, "workloads": {"small": work}}


def test_documents_are_filled_between_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, drawn = tmp_path / "performance.md", tmp_path / "performance.svg"
    monkeypatch.setattr(runner, "DOCUMENT", document)
    monkeypatch.setattr(runner, "PICTURE", drawn)
    document.write_text(MARKED, encoding="utf-8")
    runner.write({"train": result()}, {"train": None}, quick=True)
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- machine -->\n")
    assert "abacus" in text
    assert "old" not in text
    assert "| weft | 150 |" in text
    assert "**weft is 1.50x <eager>**" in text
    assert text.endswith("<!-- /train --> after")
    ET.fromstring(drawn.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="no <!-- data -->"):
        runner.fill(text, "data", "x")


def test_what_is_not_measured_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, drawn = tmp_path / "performance.md", tmp_path / "performance.svg"
    monkeypatch.setattr(runner, "DOCUMENT", document)
    monkeypatch.setattr(runner, "PICTURE", drawn)
    quality = "<!-- time_to_quality -->three seeds<!-- /time_to_quality -->"
    document.write_text(MARKED + quality, encoding="utf-8")
    problem = runner.run(runner.SCRIPTS[-1], True, 1.0, None, tmp_path)
    row = {"system": "2 cores", "megabytes_per_second": 3.0, "low": 2.0, "high": 4.0}
    here = {"machine": result()["machine"], "finding": "twice as fast", "rows": [row]}
    for name, there in (("here", here), ("elsewhere", {**here, "machine": {"processor": "fingers"}})):
        folder = tmp_path / name
        folder.mkdir()
        for benchmark, found in (("train", result()), ("data", there)):
            (folder / f"{benchmark}.json").write_text(json.dumps(found), encoding="utf-8")
        runner.write(runner.stored(folder), {"train": None, "time_to_quality": problem}, quick=True)
        assert document.read_text(encoding="utf-8").endswith(quality)
        assert ("twice as fast" in drawn.read_text(encoding="utf-8")) == (name == "here")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    text = runner.DOCUMENT.read_text(encoding="utf-8")
    for name in ("machine", *(script.name for script in runner.SCRIPTS)):
        text = runner.fill(text, name, "x")
    assert sum(script.quick for script in runner.SCRIPTS) <= runner.WHOLE <= 600


def test_rows_without_a_table_are_shown_as_they_are() -> None:
    shown = runner.section({"rows": [{"case": "T=1024", "ms": 48.1234, "note": None}]}, None)
    assert shown.splitlines() == ["| case | ms | note |", "| --- | ---: | ---: |", "| T=1024 | 48.12 |  |"]
    assert runner.section(None, "stopped after 3 s") == "*stopped after 3 s.*"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_benchmark_that_takes_too_long_is_stopped_and_its_result_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HERE", tmp_path)
    (tmp_path / "slow.py").write_text(
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text('{}')\n"
        "time.sleep(60)\n"
    )
    script, started = runner.Script("slow", 1, 1), time.monotonic()
    assert runner.run(script, True, 1.0, None, tmp_path) == "stopped after 1 s"
    assert time.monotonic() - started < 20
    assert json.loads((tmp_path / "slow.json").read_text()) == {}
    assert runner.run(runner.Script("none", 1, 1), True, 1.0, None, tmp_path) == "there is no such benchmark yet"


def test_a_picture_starts_its_bars_at_zero() -> None:
    bars = [picture.Bar("plain", 100.0, "100", 90.0, 110.0), picture.Bar("weft", 200.0, "200", 190.0, 220.0)]
    root = ET.fromstring(picture.draw([picture.Panel("weft is twice as fast", "tokens/s", bars)]))
    space = "{http://www.w3.org/2000/svg}"
    rectangles = list(root.iter(f"{space}rect"))
    assert [rectangle.get("class") for rectangle in rectangles] == ["other", "weft"]
    widths = [float(rectangle.get("width", 0)) for rectangle in rectangles]
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)
    assert {rectangle.get("x") for rectangle in rectangles} == {str(picture.LABEL)}
    assert root.get("aria-label") == "weft is twice as fast"
