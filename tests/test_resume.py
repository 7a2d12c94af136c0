"""A run that was stopped, at whatever instant, ends as if it had not been: bit by bit."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import weft.training.run as running
from weft.errors import WeftError
from weft.runs.atomic import TEMPORARY
from weft.runs.folder import RunFolder
from weft.runs.log import Log
from weft.training.interrupts import Interrupts

ALL = os.environ.get("WEFT_TEST_ALL", "0") not in ("", "0")


class Stop(Exception):  # noqa: N818
    """What a user's own code may raise."""


def stopping(*steps: int) -> Callable[[int, dict[str, Any]], None]:
    def on_step(step: int, values: dict[str, Any]) -> None:
        if step in steps:
            raise Stop

    return on_step


BRIEF = ("train.budget=12 steps",)


class Lab:
    """A recipe, and for each set of overrides (BRIEF unless given) what an undisturbed run of it gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = tiny.recipe_file(folder)
        self._results: dict[tuple[str, ...], dict[str, Any]] = {}
        self._number = 0

    def undisturbed(self, *overrides: str) -> dict[str, Any]:
        overrides = overrides or BRIEF
        if overrides not in self._results:
            self._results[overrides] = tiny.result(self.train(*overrides))
        return self._results[overrides]

    def train(self, *overrides: str, **options: Any) -> Path:
        """The folder of a new run, which goes to its end or raises Stop."""
        self._number += 1
        path = self.folder / "runs" / f"run-{self._number}"
        with suppress(Stop):
            tiny.run(self.recipe, self.folder / "runs", *(overrides or BRIEF), name=path.name, **options)
        return path

    def resume(self, path: Path, *overrides: str, **options: Any) -> str:
        """What a run said that went on."""
        return tiny.run(path, self.folder, *overrides, **options)[1]

    def stopped(self, step: int = 10, *overrides: str) -> Path:
        """A run that was stopped at a step; of its checkpoints 4, 8, 12, ... the newest two before it are there."""
        return self.train(*overrides, on_step=stopping(step))


@pytest.fixture(scope="module", autouse=True)
def peak() -> Iterator[None]:
    """The machine's measured peak takes seconds where bf16 is emulated, and is a matter of the clock alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("weft.device.peak_flops", "weft.training.run.peak_flops", "weft.training.run.measure_peak"):
            patch.setattr(name, lambda device, precision: 1e12)
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def names(path: Path) -> list[str]:
    return [checkpoint.name for checkpoint in RunFolder(path).checkpoints()]


# --- killed ---

EVERYTHING = ("train.budget=16 steps", "model.dropout=0.1", "train.micro_batch=3", "train.checkpoint_every=2")


posix = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX systems do")


@posix
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_instants(lab: Lab, kills: int) -> None:
    expected, draw, runs = lab.undisturbed(*EVERYTHING), random.Random(kills), lab.folder / f"random-{kills}"
    began = time.monotonic()
    assert tiny.Process(lab.folder, "train", lab.recipe, *EVERYTHING, "--runs", runs, "--name", "whole").wait() == 0
    seconds, left, number = time.monotonic() - began, kills, 0
    while left:
        number += 1
        path = runs / f"killed-{number}"
        code: int | None = None
        while code != 0:
            what = [path] if path.exists() else [lab.recipe, *EVERYTHING, "--runs", runs, "--name", path.name]
            process = tiny.Process(lab.folder, "train", *what)
            code = process.wait(draw.uniform(0, seconds) if left else None)
            code = process.kill() if code is None else code
            assert code in (0, -signal.SIGKILL), process.said
            left -= code != 0
        assert tiny.result(path) == expected
        assert names(path) == names(runs / "whole")


SHORT = ("train.budget=8 steps", "train.evaluate_every=4", "train.keep_checkpoints=1")


@posix
@pytest.mark.parametrize("share", [1 / 6, pytest.param(0, marks=pytest.mark.slow)])
def test_killed_when_about_to_change_a_file(lab: Lab, share: float) -> None:
    expected, runs = lab.undisturbed(*SHORT), lab.folder / f"touched-{share:.2f}"
    new = [lab.recipe, *SHORT, "--runs", runs, "--name"]
    whole = tiny.Process(lab.folder, "train", *new, "whole", within=runs)
    assert whole.wait() == 0
    total = int(whole.touched.read_text())
    assert total > 50, "few changes: does the hook see them?"
    for touches in range(1 + int(total * share / 2), total + 1, max(1, int(total * share))):
        path = runs / f"at-{touches}"
        killed = tiny.Process(lab.folder, "train", *new, path.name, within=runs, touches=touches)
        assert killed.wait() == -signal.SIGKILL, killed.said
        again = tiny.Process(lab.folder, "train", *([path] if path.exists() else [*new, path.name]))
        assert again.wait() == 0, again.said
        assert tiny.result(path) == expected, touches
        assert names(path) == names(runs / "whole"), touches
        assert not list(runs.rglob(f"{TEMPORARY}*")), touches


# --- stopped by a user's code ---

VARIANTS = {
    "plain": ("train.seed=1",),
    "dropout": ("model.dropout=0.2", "train.micro_batch=3"),
    "sgd": ("optimizer={kind: sgd, learning_rate: 0.5, nesterov: true}",),
    "sgd-without-momentum": ("optimizer={kind: sgd, learning_rate: 0.5, momentum: 0}", "train.clip=null"),
    "documents": ("data.packing=documents", "train.micro_batch=1", "model.decoder.positions=learned"),
    "bpe": ("data.tokenizer={kind: bpe, vocab_size: 300}", "model.embedding.tied=false", "model.decoder.norm=layer"),
    "groups": ('optimizer.groups=[{paths: ["*norm*"], learning_rate: 1e-3}]', "schedule=cosine"),
    "bf16": ("train.precision=bf16", "train.budget=20 steps"),
    "epochs": ("train.budget=2 epochs", "data.packing.order=sequential"),
    "tokens": ("train.budget=2.5k tokens", "train.log_every=5", "train.checkpoint_every=7", "train.seed=3"),
    "flops": ("train.budget=0.7G flops", "model.decoder.block=post"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_twice(lab: Lab, variant: str) -> None:
    overrides = VARIANTS[variant]
    path = lab.stopped(10, *overrides)
    with pytest.raises(Stop):
        lab.resume(path, on_step=stopping(17))
    assert RunFolder(path).log.last("train")["step"] > 10  # type: ignore[index]
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed(*overrides)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_stopped_on_a_gpu(lab: Lab) -> None:
    overrides = ("train.device=cuda", "model.dropout=0.1", "train.micro_batch=3")
    path = lab.stopped(10, *overrides)
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed(*overrides)


def test_the_runs_above_cross_epochs(lab: Lab) -> None:
    path = lab.stopped(10, *VARIANTS["plain"])
    before = json.loads((path / "checkpoints/step-00000008/state.json").read_text())
    after = lab.undisturbed(*VARIANTS["plain"])["checkpoints/step-00000024/state.json"]
    assert (before["loader"]["epoch"], after["loader"]["epoch"]) == (0, 2)


def test_stopped_before_the_first_checkpoint(lab: Lab) -> None:
    path = lab.stopped(2)
    assert "beginning at step 0" in lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


# --- asked to stop ---


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A signal that nobody takes ends a test, not pytest."""

    def untaken(number: int, frame: Any) -> None:
        raise AssertionError(f"nobody took {signal.Signals(number).name}")

    before = signal.signal(signal.SIGTERM, untaken)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(lab: Lab, number: int) -> None:
    def ask(step: int, values: dict[str, Any]) -> None:
        if step == 10:
            signal.raise_signal(number)

    path = lab.folder / "runs" / f"asked-{number}"
    run, said = tiny.run(lab.recipe, path.parent, *BRIEF, name=path.name, on_step=ask)
    assert not run.finished
    assert f"stopped at step 10 of 12; go on with:\n  weft train {path}\n" in said
    assert names(path)[-1] == "step-00000010"
    assert RunFolder(path).manifest()["status"] == "interrupted"
    assert "going on from step 10 of 12" in lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


@posix
def test_sigterm_from_outside(lab: Lab) -> None:
    overrides = ("train.budget=120 steps", "train.checkpoint_every=100")
    path = lab.folder / "terminated" / "tiny"
    process = tiny.Process(lab.folder, "train", lab.recipe, *overrides, "--runs", path.parent)
    while not (path.is_dir() and RunFolder(path).log.last("train")):
        assert process.wait(0.01) is None, process.said
    process.process.terminate()
    assert process.wait() == 130, process.said
    assert f"  weft train {path}\n" in process.said
    assert len(names(path)) == 1
    assert tiny.Process(lab.folder, "train", path).wait() == 0
    assert tiny.result(path) == lab.undisturbed(*overrides)


class Asked(Interrupts):
    """Somebody asks before the first step."""

    def __enter__(self) -> Interrupts:
        self.requested = True
        return super().__enter__()


def test_stopped_at_once_and_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(running, "Interrupts", Asked)
        path = lab.train()
        assert names(path) == ["step-00000000"]
        inode = (path / "checkpoints/step-00000000").stat().st_ino
        assert "stopped at step 0 of 12" in lab.resume(path)
    assert (path / "checkpoints/step-00000000").stat().st_ino == inode, "a good checkpoint was written anew"
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


def test_a_stop_does_not_decide_which_is_best(lab: Lab) -> None:
    """A checkpoint that an undisturbed run would not have is not the best one, however well it measures."""
    worse = (*BRIEF, tiny.worsening(lab.folder), "train.evaluate_every=1")

    def ask(step: int, values: dict[str, Any]) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGTERM)

    path = lab.train(*worse, on_step=ask)
    lab.resume(path)
    measured = {line["step"]: line["values"]["loss"] for line in RunFolder(path).log if line["split"] == "validation"}
    assert measured[1] < min(measured[step] for step in (4, 8, 12)), "this text should get worse"
    assert tiny.result(path) == lab.undisturbed(*worse)


def test_a_second_ctrl_c_does_not_ask(lab: Lab) -> None:
    def insist(step: int, values: dict[str, Any]) -> None:
        if step == 10:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        lab.train(on_step=insist)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    path = max((lab.folder / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert names(path) == ["step-00000004", "step-00000008"]
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


# --- at the end ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_during_the_last_evaluation(lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    measure = running.evaluate_language

    def interrupted(model: Any, split: Any, window: int, stride: int, limit: int | None = None) -> Any:
        if limit is None:
            signal.raise_signal(number)
        return measure(model, split, window, stride, limit)

    path = lab.folder / "runs" / f"late-{number}"
    with monkeypatch.context() as patch:
        patch.setattr(running, "evaluate_language", interrupted)
        run, said = tiny.run(lab.recipe, path.parent, *BRIEF, name=path.name)
    assert not run.finished
    assert f"  weft train {path}\n" in said
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


@pytest.mark.parametrize("where", ["evaluate_language", "_write_predictions", "write_report"])
def test_stopped_after_the_last_step(lab: Lab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    original = getattr(running, where)

    def fail(*arguments: Any) -> Any:
        if where != "evaluate_language" or len(arguments) == 4:
            raise Stop
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(running, where, fail)
        path = lab.train()
    assert names(path)[-1] == "step-00000012"
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()
    finals = [line for line in RunFolder(path).log if line["values"].get("final")]
    assert [line["step"] for line in finals] == [12]
    assert (path / "report.html").is_file()


def test_a_finished_run_is_left_as_it_is(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lab.train()
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
    code, out, err = tiny.command("train", path, patch=monkeypatch, capture=capsys)
    assert (code, out, err) == (0, f"{path} is finished after 12 steps; nothing to do\n", "")
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}


# --- damage ---


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"row": ', '"row": 1'), encoding="utf-8")


DAMAGE = {
    "truncated-model": ("model.safetensors", cut_short),
    "flipped-byte": ("state.safetensors", flip),
    "missing-state": ("state.json", Path.unlink),
    "other-state": ("state.json", change),
    "truncated-state": ("state.json", cut_short),
    "missing-model": ("model.safetensors", Path.unlink),
    "empty-config": ("config.json", lambda path: path.write_text("")),
    "empty-folder": (".", lambda path: [file.unlink() for file in path.iterdir()]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back(lab: Lab, damage: str) -> None:
    name, do = DAMAGE[damage]
    path = lab.stopped()
    do(path / "checkpoints/step-00000008" / name)
    said = lab.resume(path).splitlines()
    assert said[0].startswith("step-00000008 is damaged (")
    assert said[1] == f"{path}: going on from step 4 of 12"
    assert tiny.result(path) == lab.undisturbed()


def test_all_checkpoints_damaged(lab: Lab) -> None:
    path = lab.stopped()
    for checkpoint in RunFolder(path).checkpoints():
        cut_short(checkpoint / "model.safetensors")
    said = lab.resume(path)
    assert "step-00000008 is damaged" in said
    assert "step-00000004 is damaged" in said
    assert "no checkpoint left, beginning at step 0" in said
    assert tiny.result(path) == lab.undisturbed()


def test_what_a_kill_left_half_written(lab: Lab) -> None:
    path = lab.stopped()
    shutil.copytree(path / "checkpoints/step-00000008", path / f"checkpoints/{TEMPORARY}step-00000012-abcdefgh")
    (path / f"checkpoints/{TEMPORARY}step-00000012-abcdefgh/state.json").unlink()
    (path / f"{TEMPORARY}ijklmnop").write_text("{")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "tokens": 1387, "seco')
    lab.resume(path)
    assert not list(path.rglob(f"{TEMPORARY}*"))
    assert tiny.result(path) == lab.undisturbed()


# --- what is refused ---


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refused(lab: Lab, path: Path, *overrides: str) -> str:
    before = snapshot(path)
    with pytest.raises(WeftError) as caught:
        lab.resume(path, *overrides)
    kept = {name: content for name, content in snapshot(path).items() if not name.endswith("manifest.json")}
    assert kept == {name: content for name, content in before.items() if not name.endswith("manifest.json")}
    return str(caught.value)


def test_a_semantic_override_is_refused_and_named(lab: Lab) -> None:
    path = lab.stopped()
    said = refused(lab, path, "train.log_every=1", "optimizer.learning_rate=1", "model.d_model=64")
    assert said.startswith("optimizer.learning_rate=1, model.d_model=64: would make it another run")
    assert f"weft train {path / 'recipe.yaml'} optimizer.learning_rate=1 model.d_model=64" in said
    assert "did you mean 'learning_rate'?" in refused(lab, path, "optimizer.lerning_rate=1")


def test_an_execution_override_is_allowed(lab: Lab) -> None:
    path = lab.stopped()
    said = lab.resume(path, "train.micro_batch=2", "train.keep_checkpoints=4", "train.sample_tokens=9")
    assert said.startswith(f"{path}: going on from step 8 of 12")
    assert RunFolder(path).manifest()["status"] == "finished"
    assert names(path) == [f"step-{step:08d}" for step in (4, 8, 12)]


def test_what_is_said_of_another_environment(lab: Lab) -> None:
    path = lab.stopped()
    manifest = RunFolder(path).manifest()
    RunFolder(path).update_manifest(environment={**manifest["environment"], "code": "0", "processor": "abacus"})
    assert "resumed under other code, processor: not promised to be equal bit by bit" in lab.resume(path)
    assert RunFolder(path).manifest()["resumes"] == [{"step": 8, "differing": ["code", "processor"]}]


@pytest.mark.parametrize("tokenizer", ["bytes", "characters"])
def test_other_data_are_refused(tmp_path: Path, tokenizer: str) -> None:
    lab = Lab(tmp_path)
    path = lab.stopped(10, f"data.tokenizer={tokenizer}")
    with (tmp_path / "text.jsonl").open("a") as file:
        file.write('{"text": "ZYX WVU"}\n' * 20)
    said = refused(lab, path)
    assert "the data of this run have changed since it began" in said
    assert "text.jsonl" in said
    (tmp_path / "text.jsonl").unlink()
    assert "no such file" in refused(lab, path)


def test_a_checkpoint_of_another_model_is_refused(lab: Lab) -> None:
    other, path = lab.stopped(10, "model.d_model=48"), lab.stopped()
    shutil.rmtree(path / "checkpoints/step-00000008")
    shutil.copytree(other / "checkpoints/step-00000008", path / "checkpoints/step-00000008")
    said = refused(lab, path)
    assert "the weights are those of another model" in said
    assert re.search(r"[\w.]+ is \(48,( 48)?\), the model's is \(32,( 32)?\)", said)


def test_a_checkpoint_of_a_newer_format_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("weft.hub.folder.FORMAT", 2)
        path = lab.stopped()
    assert "model format 2 is newer than this weft reads (1); upgrade weft" in refused(lab, path)


def test_a_folder_that_is_no_run(lab: Lab, tmp_path: Path) -> None:
    assert "not a run folder (it has no manifest.json)" in refused(lab, tmp_path)
    (tmp_path / "manifest.json").write_text('{"short_name": "an app", "icons": []}')
    assert "not a run folder" in refused(lab, tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    assert "run format 99 is newer than this weft reads (1); upgrade weft" in refused(lab, tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": ')
    assert "manifest.json: not JSON" in refused(lab, tmp_path)


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    stats = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(stats.f_bavail * stats.f_frsize - free))
    return ballast


@pytest.mark.parametrize("free", [1_000_000, 650_000, 450_000, 14_000, 0])
def test_a_full_disk(
    lab: Lab, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: int
) -> None:
    """A checkpoint takes 430 kB: the third, the second or the first does not fit, or the log, or the run's folder."""
    path = small_disk / "tiny"
    ballast = fill(small_disk, free)
    code, out, err = tiny.command("train", lab.recipe, *BRIEF, "--runs", small_disk, patch=monkeypatch, capture=capsys)
    assert code == 2, out + err
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "the disk is full; free some space" in err
    assert TEMPORARY not in err
    assert not list(small_disk.rglob(f"{TEMPORARY}*"))
    assert path.exists() == (free > 0)
    ballast.unlink()
    if path.exists():
        assert f"weft train {path}" in err
        lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
        assert all(line.endswith("}\n") and json.loads(line) for line in lines)
        for checkpoint in RunFolder(path).checkpoints():
            assert len(list(checkpoint.iterdir())) == 5
    again = [path] if path.exists() else [lab.recipe, *BRIEF, "--runs", small_disk]
    code, out, err = tiny.command("train", *again, patch=monkeypatch, capture=capsys)
    assert (code, err) == (0, "")
    assert tiny.result(path) == lab.undisturbed()


def test_half_a_line_is_taken_back(small_disk: Path) -> None:
    log = Log(small_disk / "metrics.jsonl")
    fill(small_disk, 100_000)

    def write() -> None:
        for step in range(1000):
            log.append(step, 0, 0.0, "sample", {"text": "x" * 1000})

    with pytest.raises(WeftError, match="the disk is full"):
        write()
    lines = log.path.read_text().splitlines(keepends=True)
    assert 50 < len(lines) < 120
    assert all(line.endswith("}\n") for line in lines)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses(lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The same without the right to mount a small disk."""

    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    path = lab.stopped(9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(WeftError, match=r"the disk is full|cannot be written"):
            lab.resume(path)
    assert names(path) == ["step-00000004", "step-00000008"]
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()
