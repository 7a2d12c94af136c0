"""Runs so small that a test can repeat them: a text, a recipe, and the command line in processes that start at once."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console

import weft.device
import weft.training.run
from weft.cli.main import main
from weft.config import load, yaml
from weft.runs.folder import RunFolder
from weft.training.recipe import Recipe
from weft.training.run import Run, train
from weft.training.setup import Prepared, prepare_run

WORDS = "the cat sat on a mat and then ran to see what was in that old red box by our door"


def text(folder: Path, documents: int = 40, seed: int = 0) -> Path:
    """A .jsonl file of short documents; 24 steps of `recipe` see the 40 of them about 1.5 times."""
    draw = random.Random(seed)
    lines = [json.dumps({"text": " ".join(draw.choices(WORDS.split(), k=11))}) for _ in range(documents)]
    path = folder / "text.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def recipe(source: Path) -> dict[str, Any]:
    """24 steps of a small model, less than a second. Log, validation and checkpoints come at different steps."""
    block = {"attention": {"kind": "dot-product", "n_heads": 2}, "feedforward": "swiglu"}
    decoder = {"n_layers": 2, "positions": "rotary", "norm": "rms", "block": block}
    return {
        "name": "tiny",
        "model": {"d_model": 32, "max_length": 32, "decoder": decoder},
        "data": {"source": str(source), "tokenizer": "bytes"},
        "optimizer": {"learning_rate": 5e-3},
        "train": {
            "budget": "24 steps", "batch_tokens": 128, "evaluate_every": 8, "checkpoint_every": 4, "log_every": 3,
            "sample_tokens": 4, "threads": 1, "device": "cpu", "precision": "fp32",
        },
    }  # fmt: skip


def worsening(folder: Path) -> str:
    """An override that validates on a text of which nothing can be learned here: each step makes it worse."""
    draw = random.Random(1)
    path = folder / "digits.jsonl"
    path.write_text("".join(f'{{"text": "{draw.randrange(10**40)}"}}\n' for _ in range(6)), encoding="utf-8")
    return f"data.validation={{kind: file, path: '{path}'}}"


def recipe_file(folder: Path) -> Path:
    """The recipe as a file, its text beside it."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.dump(recipe(text(folder))), encoding="utf-8")
    return path


def run(what: dict[str, Any] | Path, runs: Path, *overrides: str, **options: Any) -> tuple[Run, str]:
    """`weft.train` (name=, on_step=, plugins=) in the folder `runs`, and what it said."""
    said = io.StringIO()
    done = train(what, *overrides, runs=runs, console=Console(file=said, width=10_000), **options)
    return done, said.getvalue()


def trained(runs: Path, what: dict[str, Any] | Path, *overrides: str, **options: Any) -> Path:
    """The folder of a new run."""
    return run(what, runs, *overrides, **options)[0].folder


def prepared(source: Path, *overrides: str) -> Prepared:
    """What a run of the recipe needs before its first step."""
    return prepare_run(load(Recipe, recipe(source), overrides), Console(file=io.StringIO()))


def lines(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    """The lines of a run's log for one split."""
    return [line for line in RunFolder(folder).log if line["split"] == split]


def result(folder: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was stopped: everything but what the clock said."""
    run = RunFolder(folder)
    manifest = run.manifest()
    kept = {key: manifest[key] for key in ("status", "best", "budget", "data", "model")}
    log = [{key: line[key] for key in line if key not in ("seconds", "clock")} for line in run.log]
    found: dict[str, Any] = {"manifest": kept, "log": log}
    last = run.checkpoints()[-1]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == "state.json":
            state = json.loads(path.read_text(encoding="utf-8"))
            content: Any = {key: state[key] for key in ("step", "tokens", "total", "loader", "since", "best")}
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        if name not in ("manifest.json", "metrics.jsonl", "report.html") and (
            path.parent == last or path.parent.parent.name != "checkpoints"
        ):
            found[name] = content
    assert f"checkpoints/{last.name}/model.safetensors" in found
    return found


# --- runs that are stopped ---


class Stop(Exception):  # noqa: N818
    """What a user's own code may raise."""


def stopping(*steps: int) -> Callable[[int, dict[str, Any]], None]:
    """An on_step that raises Stop at these steps."""

    def on_step(step: int, values: dict[str, Any]) -> None:
        if step in steps:
            raise Stop

    return on_step


BRIEF = ("train.budget=12 steps",)


class Lab:
    """A recipe, and for each set of overrides (BRIEF unless given) what an undisturbed run of it gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = recipe_file(folder)
        self._results: dict[tuple[str, ...], dict[str, Any]] = {}
        self._number = 0

    def undisturbed(self, *overrides: str) -> dict[str, Any]:
        """The result of a run that nobody stopped."""
        overrides = overrides or BRIEF
        if overrides not in self._results:
            self._results[overrides] = result(self.train(*overrides))
        return self._results[overrides]

    def train(self, *overrides: str, **options: Any) -> Path:
        """The folder of a new run, which goes to its end or raises Stop."""
        self._number += 1
        path = self.folder / "runs" / f"run-{self._number}"
        with suppress(Stop):
            run(self.recipe, self.folder / "runs", *(overrides or BRIEF), name=path.name, **options)
        return path

    def resume(self, path: Path, *overrides: str, **options: Any) -> str:
        """What a run said that went on."""
        return run(path, self.folder, *overrides, **options)[1]

    def stopped(self, step: int = 10, *overrides: str) -> Path:
        """A run that was stopped at a step; of its checkpoints 4, 8, 12, ... the newest two before it are there."""
        return self.train(*overrides, on_step=stopping(step))


def names(path: Path) -> list[str]:
    """A run's checkpoints, oldest first."""
    return [checkpoint.name for checkpoint in RunFolder(path).checkpoints()]


# --- the command line ---


def command(*arguments: object, patch: Any, capture: Any) -> tuple[int, str, str]:
    """`weft ARGUMENTS` in this process (pytest's monkeypatch and capsys): exit code, stdout, stderr."""
    patch.setattr(sys, "argv", ["weft", *map(str, arguments)])
    capture.readouterr()
    code = 0
    try:
        main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    out, err = capture.readouterr()
    return code, out, err


class Process:
    """`weft ARGUMENTS` (or Python's own `-c CODE`) in a process of its own, forked from one that has imported all.

    With `touches` it is killed (SIGKILL) when it is about to change something in the folder `within` for that many-th
    time; how often it did so stands in the file `touched`.
    """

    def __init__(
        self, folder: Path, *arguments: object, within: Path | None = None, touches: int = 0, cwd: Path | None = None
    ) -> None:
        self.output = folder / "output.txt"
        self.touched = folder / "touched.txt"
        watched = (str(within), touches, self.touched) if within else None
        self.process: BaseProcess = _processes().Process(
            target=_command, args=([str(argument) for argument in arguments], self.output, watched, cwd)
        )
        self.process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code (-9 for SIGKILL), or None where it still runs after so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> int | None:
        """SIGKILL, unless it has ended; its exit code."""
        self.process.kill()
        return self.wait()

    @property
    def said(self) -> str:
        """What it printed, on stdout and stderr."""
        return self.output.read_text(encoding="utf-8")


def _processes() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # torch imports its compilers, 3 s, when the first optimizer is made
    context.set_forkserver_preload(["torch._inductor", "weft.cli.main", "weft.training.run"])
    return context


def _command(arguments: Sequence[str], output: Path, watched: tuple[str, int, Path] | None, cwd: Path | None) -> None:
    """What the process does."""
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    sys.argv = ["weft", *arguments]
    # measuring the machine's peak takes a third of a second, and is a matter of the clock alone
    weft.device.peak_flops = weft.training.run.peak_flops = lambda device, precision: 1e12  # type: ignore[assignment]
    if watched:
        sys.addaudithook(_watch(*watched))
    if cwd is not None:
        os.chdir(cwd)
    try:
        if arguments[0] == "-c":
            exec(arguments[1], {"__name__": "__main__"})
        else:
            main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _watch(within: str, touches: int, touched: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that counts what is about to change below `within`, and kills at one count."""
    count = 0
    file = os.open(touched, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & writing)
        else:
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate")
        # rmtree names what it removes relative to an open folder
        if changes and (str(arguments[0]).startswith(within) or event in ("os.remove", "os.rmdir")):
            count += 1
            os.pwrite(file, str(count).encode(), 0)
            if count == touches:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook
