"""A run that was stopped, at whatever instant, ends as if it had not been: bit by bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from tiny import BRIEF, Lab, Stop, names, stopping

import weft
import weft.training.run as running
from weft.evaluation import Plan
from weft.models.config import ModelConfig
from weft.runs.atomic import TEMPORARY
from weft.runs.folder import RunFolder
from weft.text.tokenizers import TokenizerConfig
from weft.training.interrupts import Interrupts

pytestmark = pytest.mark.usefixtures("peak")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


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


@posix
def test_killed_without_its_donor(lab: Lab) -> None:
    """What was copied from another model is the run's own from its first instant."""
    tokenizer = TokenizerConfig.choose("bytes").train([], 0)
    config = ModelConfig.load(tiny.recipe(lab.recipe)["model"]).bind(tokenizer.vocab_size)
    donor = weft.save(weft.build(config, seed=9), tokenizer, lab.folder / "donor")
    transfer = f"transfer={{from: {donor}, copy: {{embedding: embedding, '*.1': '*.1'}}, freeze: [embedding]}}"
    overrides, path = (*SHORT, "model.dropout=0.2", transfer), lab.folder / "donated" / "run"
    expected = lab.undisturbed(*overrides)
    new = ["train", lab.recipe, *overrides, "--runs", path.parent, "--name", path.name]
    killed = tiny.Process(lab.folder, *new, within=path.parent, touches=20)
    assert killed.wait() == -signal.SIGKILL, killed.said
    assert not names(path), "killed before the first checkpoint"
    shutil.rmtree(donor)
    lab.resume(path)
    assert tiny.result(path) == expected
    assert RunFolder(path).manifest()["transfer"]["unchanged"] is True


# --- stopped by a user's code ---

VARIANTS = {
    "plain": ("train.seed=1",),
    "dropout": (
        "model.dropout=0.2",
        "train.micro_batch=3",
        "model.decoder.block.stochastic_depth={kind: linear, share: 0.4}",
    ),
    "sgd": ("optimizer={kind: sgd, learning_rate: 0.5, nesterov: true}",),
    "sgd-without-momentum": ("optimizer={kind: sgd, learning_rate: 0.5, momentum: 0}", "train.clip=null"),
    "adam": ("optimizer={kind: adam, weight_decay: 0.1}",),
    "muon": ("optimizer={kind: muon, learning_rate: 0.01}", "model.decoder.block.feedforward={kind: relu, width: 80}"),
    "average": ("train.average={kind: exponential, decay: 0.9}", "optimizer=muon"),
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


@pytest.mark.parametrize(
    ("where", "said", "made"),
    [
        ("prepare_run", "stopped before training began: nothing was trained, no run folder was made\n", False),
        ("peak_flops", "stopped at once: nothing is saved yet; go on with: weft train {path}\n", True),
    ],
)
def test_ctrl_c_before_the_first_step(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, said: str, made: bool
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, where, interrupted)
    path = lab.folder / "early" / where
    new = ("train", lab.recipe, "--runs", path.parent, "--name", path.name)
    code, _, err = tiny.command(*new, patch=monkeypatch, capture=capsys)
    assert (code, err, path.exists()) == (130, said.format(path=path), made)


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

    with pytest.raises(KeyboardInterrupt, match="stopped at once: step 8 of 12 is saved; go on with: weft train "):
        lab.train(on_step=insist)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    path = max((lab.folder / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert names(path) == ["step-00000004", "step-00000008"]
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


# --- at the end ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_during_the_last_evaluation(lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    measure = running.evaluate

    def interrupted(objective: Any, model: Any, tokenizer: Any, split: Any, plan: Plan) -> Any:
        if plan.thorough:
            signal.raise_signal(number)
        return measure(objective, model, tokenizer, split, plan)

    path = lab.folder / "runs" / f"late-{number}"
    with monkeypatch.context() as patch:
        patch.setattr(running, "evaluate", interrupted)
        run, said = tiny.run(lab.recipe, path.parent, *BRIEF, name=path.name)
    assert not run.finished
    assert f"  weft train {path}\n" in said
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed()


@pytest.mark.parametrize("where", ["evaluate", "write_predictions", "write_report"])
def test_stopped_after_the_last_step(lab: Lab, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    original = getattr(running, where)

    def fail(*arguments: Any) -> Any:
        if where != "evaluate" or arguments[-1].thorough:
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
