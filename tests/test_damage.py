"""Damaged checkpoints, refused resumes, full disks: a clear line, nothing half-written, and the same end."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from tiny import BRIEF, Lab, names

from weft.errors import WeftError
from weft.runs.atomic import TEMPORARY
from weft.runs.folder import RunFolder
from weft.runs.log import Log


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


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


def test_a_run_that_another_process_trains(lab: Lab) -> None:
    path = lab.stopped()
    with RunFolder(path).held():
        assert refused(lab, path) == f"{path}: another weft trains this run now; wait for it, or stop it"
    assert lab.resume(path).startswith(f"{path}: going on from step 8 of 12")


def test_a_run_is_held_from_its_first_step_to_its_report(lab: Lab) -> None:
    path, found = lab.folder / "runs" / "held", list[int]()

    def on_step(step: int, values: object) -> None:
        with pytest.raises(WeftError, match="another weft trains this run now"), RunFolder(path).held():
            pass
        found.append(step)

    tiny.run(lab.recipe, path.parent, "train.budget=3 steps", name=path.name, on_step=on_step)
    assert found == [1, 2, 3]
    with RunFolder(path).held():
        pass


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
