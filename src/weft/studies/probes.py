"""What a study will take and can find, before it runs: two short timed runs of each arm, and its noise."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.errors import WeftError
from weft.report.formats import duration, significant, size
from weft.studies.arm import Arm, with_budget
from weft.studies.cells import Cell, State, cell_of, reason_of, state_of
from weft.studies.outcome import scores_of
from weft.studies.planning import Noise, probed, smallest_difference
from weft.studies.scores import ItemScores
from weft.studies.session import Session
from weft.studies.workers import Workers
from weft.training.budget import Budget
from weft.training.progress import say

LONGEST = 30
"""Steps of the longer probe."""


@dataclass(frozen=True)
class Probe:
    """A cell of an arm, as two short ones foretell it."""

    arm: str
    seconds: float
    bytes: float
    failed: str | None = None


@dataclass(frozen=True)
class StudyPlan:
    """What is left to do, and what it can show."""

    cells: int
    left: int
    jobs: int
    probes: tuple[Probe, ...]
    seconds: float
    """of all cells that are left, on the lanes there are"""
    bytes: float
    noise: Noise | None
    noise_from: str
    smallest: float | None
    paired_sds: float
    independent_sds: float

    def data(self) -> dict[str, Any]:
        """For --json."""
        return {
            "cells": self.cells,
            "left": self.left,
            "jobs": self.jobs,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "arms": {
                one.arm: {"seconds": one.seconds, "bytes": one.bytes, "failed": one.failed} for one in self.probes
            },
            "noise": self.noise_from,
            "smallest_difference": self.smallest,
        }

    def lines(self, seeds: int) -> list[str]:
        """For a terminal."""
        said = [f"{self.cells} cells, {self.left} of them to run"]
        for one in self.probes:
            told = (
                f"fails: {one.failed}" if one.failed else f"about {duration(one.seconds)} and {size(one.bytes)} a cell"
            )
            said.append(f"{one.arm}: {told}")
        if self.left and self.probes:
            said.append(f"in all about {duration(self.seconds)}, {self.jobs} at a time, and {size(self.bytes)} of disk")
        if self.smallest is not None:
            return [
                *said,
                f"{seeds} seeds find a difference of {significant(self.smallest)} with 80 % power ({self.noise_from})",
            ]
        return [
            *said,
            f"{seeds} seeds find, with 80 % power, a difference {self.independent_sds:.1f} times as large as the spread"
            f" (standard deviation) of an arm's scores over seeds; where arms go up and down together over seeds,"
            f" {self.paired_sds:.1f} times the spread of their differences. How large these are is not known yet:"
            f" {self.noise_from}",
        ]


def plan(session: Session, console: Console, timed: bool = True) -> StudyPlan:
    """What is left of a study: cells, time, disk; and the smallest difference that it can find."""
    study, cells = session.study, session.cells()
    states = {cell.key: state_of(session.folder.store / cell.name) for cell in cells}
    left = [cell for cell in cells if states[cell.key] in (State.new, State.part)]
    if study.sweep is not None:  # what it chooses is not known: its own cells come on top
        left = cells
    names = list(dict.fromkeys(cell.arm for cell in left))
    if timed and names:
        say(
            console, f"{study.name}: two short timed runs of each of {len(names)} arms, some minutes (--no-probe: none)"
        )
    probes = tuple(_probe(session, session.arms[name], console) for name in names) if timed else ()
    runs = {name: sum(cell.arm == name for cell in left) for name in names}
    if study.sweep is not None:
        sweep = study.sweep
        runs = {name: number + len(sweep.tried(name)) * sweep.seeds for name, number in runs.items()}
    noise, said = _noise(session, cells)
    seeds = len(study.seed_list)
    alpha = study.metric.alpha / (len(study.arm_names) - 1)  # Holm's hardest
    smallest = None if noise is None else smallest_difference(noise, seeds, _items(session, cells), alpha=alpha)
    return StudyPlan(
        cells=sum(runs.values()) + len(cells) - len(left),
        left=sum(runs.values()),
        jobs=session.lanes.jobs,
        probes=probes,
        seconds=sum(one.seconds * runs[one.arm] for one in probes) / session.lanes.jobs,
        bytes=sum(one.bytes * runs[one.arm] for one in probes),
        noise=noise,
        noise_from=said,
        smallest=smallest,
        paired_sds=smallest_difference(Noise(1.0), seeds, alpha=alpha),
        independent_sds=smallest_difference(Noise.of_arms(1.0), seeds, alpha=alpha),
    )


def _probe(session: Session, arm: Arm, console: Console) -> Probe:
    """Two short runs of an arm that validate and save as often as a whole one: a line through their times."""
    total = arm.steps
    longer = LONGEST if total is None else max(2, min(LONGEST, total // 2))
    shorter = max(1, longer // 3)
    with tempfile.TemporaryDirectory(prefix="weft-probe-") as place, console.status(f"timing {arm.name}"):
        spent = []
        for number, steps in enumerate((shorter, longer)):
            cell = cell_of(_short(arm, steps, total), number, session.lanes.threads, session.arms.plugins)
            began = time.monotonic()
            folder = _run(cell, Path(place))
            spent.append(time.monotonic() - began)
            if state_of(folder) is not State.finished:
                reason = reason_of(folder) if state_of(folder) is State.failed else "stopped"
                return Probe(arm.name, 0.0, 0.0, reason)
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    a_step = max(0.0, (spent[1] - spent[0]) / (longer - shorter))
    if total is None:
        return Probe(arm.name, 60 * Budget.read(arm.recipe.train.budget).amount, disk)
    return Probe(arm.name, spent[1] + a_step * (total - longer), disk)


def _short(arm: Arm, steps: int, total: int | None) -> Arm:
    """The arm with so many steps, in which everything happens as often as in all of them."""
    budget = f"{steps} steps"
    found = replace(arm, recipe=with_budget(arm.recipe, budget), bound=with_budget(arm.bound, budget))
    cadences = ("evaluate_every", "checkpoint_every", "log_every")
    given = {name: getattr(arm.recipe.train, name) for name in cadences}
    scaled = {name: max(1, round(every * steps / (total or every))) for name, every in given.items() if every}
    train = found.recipe.train.model_copy(update=scaled)
    return replace(found, recipe=found.recipe.model_copy(update={"train": train}))


def _run(cell: Cell, store: Path) -> Path:
    with Workers(1, store) as workers:
        workers.start(cell)
        while workers.running:
            workers.ended(1.0)
    return store / cell.name


def _noise(session: Session, cells: Sequence[Cell]) -> tuple[Noise | None, str]:
    """Stated, or measured in the cells of one arm that have run, the baseline first."""
    study = session.study
    if study.noise is not None:
        return study.noise.noise(), f"noise as stated: sd {study.noise.sd:g}, correlation {study.noise.correlation:g}"
    scores = scores_of(study, cells, session.folder.store)
    for name in dict.fromkeys([study.compared_with, *study.arm_names]):
        try:
            return probed(scores, name), f"noise of {name}'s cells so far, as if arms did not correlate"
        except WeftError:
            continue
    return None, "no noise is stated, and no arm has run with two seeds"


def _items(session: Session, cells: Sequence[Cell]) -> int | None:
    scores = scores_of(session.study, cells, session.folder.store)
    return scores.n_items if isinstance(scores, ItemScores) else None
