"""Cells: one arm with one seed, known by all that its result depends on, so that none is ever computed twice."""

from __future__ import annotations

import math
import shutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.errors import WeftError
from weft.runs import fingerprints
from weft.runs.atomic import DiskError, write_text
from weft.runs.folder import RunFolder, read_json, to_json
from weft.studies.arm import Arm
from weft.training.recipe import Recipe
from weft.training.run import train
from weft.training.setup import semantic_of


class State(StrEnum):
    """How far a cell is."""

    new = "new"
    part = "part"
    finished = "finished"
    failed = "failed"


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: what `run_cell` needs to know."""

    arm: str
    seed: int
    key: str
    """content address: options, data, code, plugins, seed, threads, versions"""
    recipe: Mapping[str, Any]
    data: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.key[:16]

    @property
    def title(self) -> str:
        """As a person calls it."""
        return f"{self.arm}, seed {self.seed}"


def cell_of(arm: Arm, seed: int, threads: int, plugins: Iterable[Path] = ()) -> Cell:
    """The cell of an arm and a seed, which will run with so many threads and the code of these files."""
    changed = {"seed": seed, "threads": threads}
    recipe, bound = (_with_train(one, changed) for one in (arm.recipe, arm.bound))
    kept = ("versions", "device", "precision")
    own = [fingerprints.code_of(path.read_text(encoding="utf-8")) for path in plugins]
    identity = {
        "recipe": {**semantic_of(bound, arm.donor), "plugins": sorted(own)},
        "data": arm.data,
        "code": arm.code,
        "seed": seed,
        "threads": threads,
        **{name: arm.environment[name] for name in kept},
    }
    identity["versions"] = {name: text for name, text in identity["versions"].items() if name != "weft"}  # the code is
    key = fingerprints.of_data(identity)
    asked = {**recipe.model_dump(mode="json"), "name": key[:16]}
    return Cell(arm.name, seed, key, asked, arm.data)


def _with_train(recipe: Recipe, changed: Mapping[str, Any]) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=dict(changed))})


def state_of(folder: Path) -> State:
    """How far the cell in this folder is."""
    if (folder / "failure.json").is_file():
        return State.failed
    if not RunFolder.is_run(folder):
        return State.new
    return State.finished if RunFolder(folder).manifest().get("status") == "finished" else State.part


def reason_of(folder: Path) -> str:
    """Why a cell failed."""
    return str(read_json(folder / "failure.json").get("reason"))


def run_cell(cell: Cell, store: Path, console: Console) -> Path:
    """Run this cell, or go on with it, and bring back its folder: finished, failed, or stopped because somebody asked.

    Raises WeftError where the fault is not the cell's own: a full disk, data that changed meanwhile.
    """
    folder = store / cell.name
    state = state_of(folder)
    if state in (State.finished, State.failed):
        return folder
    plugins = [folder / name for name in RunFolder(folder).manifest()["plugins"]] if state is State.part else []
    try:
        if state is State.part:
            train(folder, plugins=plugins, console=console)
        else:
            train(dict(cell.recipe), name=cell.name, runs=store, console=console)
    except WeftError as error:
        if isinstance(error, DiskError) or isinstance(error.__context__, DiskError):
            raise
        fail(folder, str(error))
    except Exception as error:
        console.print(traceback.format_exc(), markup=False, highlight=False)
        fail(folder, f"{type(error).__name__}: {error}")
    if RunFolder.is_run(folder) and RunFolder(folder).manifest()["data"]["fingerprint"] != cell.data:
        shutil.rmtree(folder)
        raise WeftError(f"{cell.title}: the data changed while the study ran; run it again")
    return folder


def fail(folder: Path, reason: str) -> None:
    """Write down that the cell in this folder failed, and why."""
    write_text(folder / "failure.json", to_json({"reason": reason}))


def forget_failure(folder: Path) -> None:
    """Let a cell that failed be run again from its beginning."""
    shutil.rmtree(folder, ignore_errors=True)


def note_memory(folder: Path) -> None:
    """Write down the most memory that this process had, where the system tells it and the cell is finished."""
    if sys.platform == "win32" or state_of(folder) is not State.finished:
        return
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    RunFolder(folder).update_manifest(peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def score(folder: Path, metric: str) -> float:
    """What a finished cell reached; NaN where its log has no such number."""
    split, _, name = metric.partition("/")
    run = RunFolder(folder)
    if split == "cost":
        return costs(folder).get(name, math.nan)
    lines = [line["values"] for line in run.log if line["split"] == split]
    value = lines[-1].get(name) if lines else None
    return float(value) if isinstance(value, int | float | str) else math.nan


def costs(folder: Path) -> dict[str, float]:
    """What a finished cell cost."""
    run = RunFolder(folder)
    manifest = run.manifest()
    steps = manifest["budget"].get("stopped", manifest["budget"]["steps"])
    tokens = manifest["budget"]["tokens"] / manifest["budget"]["steps"] * steps
    clocks = [line.get("clock", {}) for line in run.log]
    rates = sorted(clock["tokens_per_second"] for clock in clocks if "tokens_per_second" in clock)
    found = {
        "parameters": manifest["model"]["parameters"],
        "flops": tokens * manifest["model"]["flops_per_token"],
        "seconds": manifest.get("seconds", math.nan),
        "tokens_per_second": rates[len(rates) // 2] if rates else math.nan,
        "peak_memory": manifest.get("peak_memory", math.nan),
    }
    return {name: float(value) for name, value in found.items()}
