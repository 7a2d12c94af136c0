"""A profile accounts for a step: every part forward and backward, what is kept for backward, and the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch
from rich.console import Console

from weft import device
from weft.cli import main as entry
from weft.nn import fused
from weft.nn.norms import RmsNorm
from weft.training.profiling import PartTime, Profile, profile
from weft.training.setup import new_training


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    source = tiny.text(tmp_path_factory.mktemp("profile"))
    norm, rotation = RmsNorm.forward, fused._Rotation.backward

    def dawdle(times: int) -> None:
        for _ in range(times):
            torch.ones(10_000).sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RmsNorm, "forward", lambda self, x: dawdle(1000) or norm(self, x))
        patch.setattr(fused._Rotation, "backward", staticmethod(lambda ctx, grad: dawdle(400) or rotation(ctx, grad)))
        training = new_training(tiny.prepared(source), Console(file=io.StringIO()))
        return profile(training, steps=2)


def at(found: Profile, path: str) -> PartTime:
    return next(part for part in found.parts if part.path == path)


def test_layers_are_one_row_and_every_matrix_is_told(found: Profile) -> None:
    paths = [part.path for part in found.parts]
    assert len(set(paths)) == len(paths)
    for name in ("query", "key", "value", "output"):
        part = at(found, f"decoder.blocks.*.attention.{name}")
        assert part.slot == "attention"
        assert part.forward > 0
        assert part.backward > 0
        assert 0 < part.matrices <= part.seconds
    assert {"data", "clip", "optimizer"} <= set(paths)
    assert at(found, "optimizer").backward == 0


def test_time_goes_to_the_part_that_takes_it(found: Profile) -> None:
    """The norms were made slow, in their forward only; and what turns queries and keys, in its backward only."""
    slots = found.slots()
    assert slots[0].path == "norm"
    assert slots[0].forward > 3 * slots[0].backward > 0
    slow, *others = sorted(found.parts, key=lambda part: -part.backward)
    assert slow.path == "decoder.blocks.*.attention"
    assert slow.backward > max(2 * slow.forward, 3 * others[0].backward)
    assert {"attention", "feedforward", "norm", "embedding", "head", "optimizer"} <= {slot.path for slot in slots}


def test_shares_are_of_the_whole(found: Profile) -> None:
    data = found.data()
    assert sum(part["share"] for part in data["parts"]) == pytest.approx(1)
    assert sum(part["share"] for part in data["slots"]) == pytest.approx(1)
    assert 0.2 * found.seconds < found.measured < 50 * found.seconds


def test_what_is_kept_is_counted_in_bytes(found: Profile) -> None:
    """The norm before the feed-forward keeps its input and a scale a token, of each of two layers, in float32."""
    tokens, width, layers = 128, 32, 2
    assert at(found, "decoder.blocks.*.feedforward_norm").kept == layers * tokens * (width + 1) * 4
    assert sum(part.kept for part in found.slots()) == sum(part.kept for part in found.parts)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["weft", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


def test_bench_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(tiny.recipe_file(tmp_path))
    assert run(monkeypatch, "bench", "profile", recipe, "--steps", "1", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["tokens_per_step"] == 128
    assert {"slots", "parts", "environment"} <= set(data)
    assert run(monkeypatch, "bench", "profile", recipe, "--steps", "1", "--modules") == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown.splitlines()[0]
    assert "decoder.blocks.*.attention.query" in shown
    assert max(map(len, shown.splitlines())) <= 110
    assert run(monkeypatch, "bench", "profile", "nothing-like-it") == 2


def test_describe_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "measure_peak", lambda where, precision: 2.5e11)
    monkeypatch.setattr(device, "measure_bandwidth", lambda: 3e10)
    monkeypatch.setattr(device, "keep_memory", lambda: False)
    threads = torch.get_num_threads()
    try:
        assert run(monkeypatch, "describe", "--machine") == 0
        shown = capsys.readouterr().out
        assert run(monkeypatch, "describe", "--machine", "--json") == 0
        data = json.loads(capsys.readouterr().out)
    finally:
        torch.set_num_threads(threads)
    assert "250 GFLOP/s" in shown
    assert "30.0 GB/s" in shown
    assert "goes back to the system" in shown
    assert data["why"] in shown
    assert data["keeps_freed_memory"] is False
    assert data["gflops"] == 250
    assert run(monkeypatch, "describe") == 2
    assert "weft describe --machine" in capsys.readouterr().err


def test_the_bandwidth_is_that_of_a_memory() -> None:
    """Between a floppy disk's and a data centre's."""
    assert 1e8 < device.measure_bandwidth() < 1e14
