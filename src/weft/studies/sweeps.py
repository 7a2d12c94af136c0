"""Sweeps: every arm gets the value of one option that suits it best, found with seeds that decide nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.errors import ConfigError, WeftError
from weft.studies.arm import Arm, with_option
from weft.studies.arms import Arms
from weft.studies.cells import Cell, State, score, state_of
from weft.studies.declaration import Study, Sweep
from weft.studies.session import Session
from weft.training.progress import say

SEEDS = 1_000_000
"""Seeds of a sweep count from here, so that no seed both chooses and decides."""


def swept(session: Session, run: Callable[[Sequence[Cell]], bool], console: Console) -> Arms | None:
    """The arms, each with the value of the swept option that suits it; None when somebody asked to stop."""
    sweep = session.study.sweep
    if sweep is None:
        return session.arms
    variants = {arm.name: _variants(session.arms, arm, sweep) for arm in session.arms.arms}
    seeds = range(SEEDS, SEEDS + sweep.seeds)
    cells = {
        (name, place, seed): session.cell(tried, name, seed)
        for seed in seeds
        for place in range(max(map(len, variants.values())))
        for name, arms in variants.items()
        for tried in arms[place : place + 1]
    }
    told = "; ".join(f"{name} {', '.join(map(str, sweep.tried(name)))}" for name in variants)
    say(console, f"sweep of {sweep.path}: {told}")
    if not run(list(cells.values())):
        return None
    chosen = []
    for name, arms in variants.items():
        scores = [
            sum(_score(session.folder.store / cells[name, place, seed].name, session.study) for seed in seeds)
            for place in range(len(arms))
        ]
        chosen.append(_chosen(session.study, sweep, name, scores, [tried[name] for tried in arms], console))
    return replace(session.arms, arms=tuple(chosen))


def _variants(arms: Arms, arm: Arm, sweep: Sweep) -> list[Arms]:
    """The arm with each of the values that are tried."""
    try:
        return [replace(arms, arms=(with_option(arm, sweep.path, value),)) for value in sweep.tried(arm.name)]
    except WeftError as error:
        raise ConfigError([f"sweep: arms.{arm.name}: {line}" for line in str(error).splitlines()]) from None


def _chosen(
    study: Study, sweep: Sweep, name: str, scores: Sequence[float], variants: Sequence[Arm], console: Console
) -> Arm:
    """The arm with the best value."""
    known = {place: score for place, score in enumerate(scores) if score == score}
    if not known:
        raise WeftError(f"sweep: arms.{name}: every value of {sweep.path} failed")
    best = min(known, key=lambda place: -study.question.sign * known[place])
    value: Any = sweep.tried(name)[best]
    edge = best in (0, len(scores) - 1)
    said = "; it is at the end of what was tried: a wider sweep may find a better one" if edge else ""
    say(console, f"{name}: {sweep.path} = {value}{said}")
    return replace(variants[best], swept=(sweep.path, value, edge))


def _score(folder: Path, study: Study) -> float:
    return score(folder, study.metric.name) if state_of(folder) is State.finished else float("nan")
