"""A study from its declaration to its verdict: cells that are not there are run, arms interleaved in time."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.config import yaml
from weft.device import available_cores
from weft.errors import ConfigError, WeftError
from weft.report.terminal import console as make_console
from weft.studies.arm import Arm, with_option
from weft.studies.arms import Arms, resolve
from weft.studies.cells import Cell, State, cell_of, forget_failure, run_cell, score, state_of
from weft.studies.declaration import Study, read_study
from weft.studies.folder import StudyFolder, held
from weft.studies.outcome import findings, write_results
from weft.studies.watching import Watch
from weft.studies.workers import Workers
from weft.training.interrupts import Interrupts
from weft.training.progress import say

SWEEP_SEEDS = 1_000_000
"""Seeds of a sweep count from here, so that no seed both chooses and decides."""


@dataclass(frozen=True)
class Lanes:
    """How many cells run at a time, each with how many threads."""

    jobs: int
    threads: int
    why: str


@dataclass(frozen=True)
class Session:
    """A study that is ready to run."""

    study: Study
    arms: Arms
    folder: StudyFolder
    lanes: Lanes
    written: dict[str, Any]
    """the declaration as a file would say it"""
    source: str
    quick: bool

    def cells(self, arms: Arms | None = None) -> list[Cell]:
        """Every cell, in the order in which they run: by seed, and in each seed another arm first."""
        arms, names = arms or self.arms, self.study.arm_names
        found = []
        for turn, seed in enumerate(self.study.seed_list):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                found.append(self.cell(arms, name, seed))
        return found

    def cell(self, arms: Arms, name: str, seed: int) -> Cell:
        """The cell of an arm and a seed."""
        return cell_of(arms[name], seed, self.lanes.threads, arms.plugins)

    def command(self) -> str:
        """What goes on with this study."""
        return shlex.join(["weft", "study", "run", self.source, *["--quick"] * self.quick])


@dataclass(frozen=True)
class Report:
    """What a study found, or how far it came."""

    folder: Path
    finished: bool
    results: dict[str, Any]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One mapping for each comparison with the baseline: arm, effect, interval, p, verdict and words."""
        return list(self.results.get("comparisons", ()))


def study(
    source: str | Path | dict[str, Any],
    *,
    studies: str | Path = "studies",
    quick: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    retry: bool = False,
    isolated: bool = True,
    console: Console | None = None,
) -> Report:
    """Run a study (a file or a mapping), or go on with it; cells that are there already are not repeated.

    `retry`: cells that failed are run again. `isolated=False` runs the cells in this process, one after another.
    Raises WeftError, with nothing run, when something is wrong with what was asked.
    """
    console = console or make_console()
    session = open_study(source, Path(studies), quick, jobs, threads, console)
    folder = session.folder
    with held(folder.store):
        folder.check(session.study)
        runner = _Runner(session, retry, isolated, console)
        arms, finished = runner.swept()
        cells = session.cells(arms)
        finished = finished and runner.carry_out(cells)
    if not finished:
        say(console, "stopped; go on with:")
        say(console, f"  {session.command()}")
        return Report(folder.path, False, {})
    looks = folder.looked(session.study.seed_list)
    results = findings(session.study, arms, cells, folder.store, looks, session.quick)
    for line in write_results(folder.path, results):
        say(console, line)
    return Report(folder.path, True, results)


def open_study(
    source: str | Path | dict[str, Any],
    studies: Path,
    quick: bool,
    jobs: int | None,
    threads: int | None,
    console: Console,
) -> Session:
    """Everything about a study that can be known and refused before it runs, said aloud.

    Raises ConfigError with every problem, a line each.
    """
    declared, base, place = read_study(source)
    raw = source if isinstance(source, dict) else yaml.read(Path(source))
    written = {**raw, "base": base, **({} if declared.grid else {"arms": declared.overrides(place)})}
    chosen = declared.quicker() if quick else declared
    arms = resolve(chosen, base, place, console, quick)
    for note in arms.notes:
        say(console, note)
    _tell(chosen, arms, console)
    folder = StudyFolder(studies, chosen.name)
    lanes = _lanes(chosen, arms, folder, jobs, threads)
    say(console, f"{chosen.name}: {len(arms.arms)} arms x {len(chosen.seed_list)} seeds; {lanes.why}")
    named = "{...}" if isinstance(source, dict) else str(source)
    return Session(chosen, arms, folder, lanes, written, named, quick)


def _tell(study: Study, arms: Arms, console: Console) -> None:
    """How the arms differ from the baseline."""
    first = arms[study.compared_with]
    for arm in arms.arms:
        if arm is first:
            say(console, f"{arm.name} (baseline): {arm.parameters:,} parameters")
            continue
        share = arm.parameters / first.parameters - 1
        more = f" ({100 * share:+.1f} % parameters)" if share else ""
        shown = "; ".join(one.words() for one in arm.differences)
        say(console, f"{arm.name}: {shown}{more}")
        if arm.adjusted is not None:
            say(console, f"{arm.name}: adjusted to {first.name}: {arm.adjusted.words()}")
        if arm.undeclared:
            paths = ", ".join(one.path for one in arm.undeclared)
            say(console, f"note: {arm.name} differs from {first.name} in more than it declares: {paths}")


def _lanes(study: Study, arms: Arms, folder: StudyFolder, jobs: int | None, threads: int | None) -> Lanes:
    """As many cells at a time as there are cores for; what the first run chose stands for later ones."""
    cores, n_cells = available_cores(), len(arms.arms) * len(study.seed_list)
    device = str(arms.arms[0].environment["device"])
    given = threads or arms.arms[0].recipe.train.threads or folder.declared().get("threads")
    one = study.alone or device != "cpu"
    if given is None:
        given = cores if one else max(1, cores // (jobs or min(cores, n_cells)))
    count = 1 if one else jobs or max(1, cores // given)
    if study.alone and (jobs or 1) > 1:
        raise WeftError(f"--jobs {jobs}: {study.name} measures time, so its cells run one at a time")
    reason = f"on {cores} cores" if device == "cpu" else f"on {device}"
    alone = ", one at a time: time is measured" if study.alone else ""
    many = f"{count} cell{'s' * (count > 1)} at a time{alone}"
    return Lanes(count, given, f"{many}, {given} thread{'s' * (given > 1)} each, {reason}")


class _Runner:
    """Runs the cells of a session."""

    def __init__(self, session: Session, retry: bool, isolated: bool, console: Console) -> None:
        self.session, self.retry, self.isolated, self.console = session, retry, isolated, console
        self.store = session.folder.store

    def swept(self) -> tuple[Arms, bool]:
        """The arms, each with the value of the swept option that suits it; False when somebody asked to stop."""
        session, sweep = self.session, self.session.study.sweep
        if sweep is None:
            return session.arms, True
        variants: dict[str, dict[int, Arms]] = {}
        for arm in session.arms.arms:
            try:
                tried = [replace(session.arms, arms=(with_option(arm, sweep.path, value),)) for value in sweep.values]
            except WeftError as error:
                raise ConfigError([f"sweep: arms.{arm.name}: {line}" for line in str(error).splitlines()]) from None
            variants[arm.name] = dict(enumerate(tried))
        seeds = range(SWEEP_SEEDS, SWEEP_SEEDS + sweep.seeds)
        cells = {
            (name, number, seed): session.cell(variants[name][number], name, seed)
            for seed in seeds
            for number in range(len(sweep.values))
            for name in variants
        }
        say(self.console, f"sweep of {sweep.path}: {', '.join(map(str, sweep.values))}")
        if not self.carry_out(list(cells.values())):
            return session.arms, False
        chosen = []
        for name, tried_arms in variants.items():
            means = {
                number: sum(self._score(cells[name, number, seed]) for seed in seeds) / len(seeds)
                for number in tried_arms
            }
            chosen.append(self._chosen(name, means, tried_arms))
        return replace(session.arms, arms=tuple(chosen)), True

    def _chosen(self, name: str, means: dict[int, float], variants: dict[int, Arms]) -> Arm:
        """The arm with the best value."""
        study = self.session.study
        assert study.sweep is not None, "there is a sweep"
        known = {number: mean for number, mean in means.items() if mean == mean}
        if not known:
            raise WeftError(f"sweep: arms.{name}: every value of {study.sweep.path} failed")
        best = min(known, key=lambda number: -study.question.sign * known[number])
        value = study.sweep.values[best]
        edge = best in (0, len(study.sweep.values) - 1)
        said = "; it is at the end of what was tried: a wider sweep may find a better one" if edge else ""
        say(self.console, f"{name}: {study.sweep.path} = {value}{said}")
        arm = variants[best][name]
        return replace(arm, swept=(study.sweep.path, value, edge))

    def _score(self, cell: Cell) -> float:
        folder = self.store / cell.name
        metric = self.session.study.metric.name
        return score(folder, metric) if state_of(folder) is State.finished else float("nan")

    def carry_out(self, cells: Sequence[Cell]) -> bool:
        """Run what is not there; False when somebody asked to stop before all was."""
        session = self.session
        if self.retry:
            for cell in cells:
                if state_of(self.store / cell.name) is State.failed:
                    forget_failure(self.store / cell.name)
        names = [cell.name for cell in cells]
        session.folder.declare(session.study, session.written, session.lanes.threads, names)
        say(self.console, _found(cells, self.store))
        waiting = [cell for cell in cells if state_of(self.store / cell.name) in (State.new, State.part)]
        jobs = session.lanes.jobs if self.isolated else 1
        with Watch(self.console, cells, self.store, session.study.metric.name, jobs) as watch:
            return (self._in_processes if self.isolated else self._here)(waiting, watch)

    def _here(self, waiting: list[Cell], watch: Watch) -> bool:
        quiet = Console(quiet=True)
        for cell in waiting:
            folder = run_cell(cell, self.store, quiet)
            if state_of(folder) is State.part:
                return False
            watch.ended(cell)
        return True

    def _in_processes(self, waiting: list[Cell], watch: Watch) -> bool:
        with Interrupts() as interrupts, Workers(self.session.lanes.jobs, self.store) as workers:
            while (waiting or workers.running) and not interrupts.requested:
                while waiting and workers.free:
                    workers.start(waiting.pop(0))
                for cell in workers.ended(0.5):
                    if state_of(self.store / cell.name) in (State.new, State.part):  # somebody stopped it alone
                        return _stopped(workers)
                    watch.ended(cell)
                watch.update(workers.cells)
            return _stopped(workers) if interrupts.requested else True


def _stopped(workers: Workers) -> bool:
    workers.stop()
    return False


def _found(cells: Iterable[Cell], store: Path) -> str:
    """What of these cells is there already."""
    states = [state_of(store / cell.name) for cell in cells]
    counts = {state: states.count(state) for state in State}
    words = {
        State.finished: "there already, reused",
        State.failed: "failed before (--retry runs them again)",
        State.part: "begun, to go on",
        State.new: "new",
    }
    return (
        f"{len(states)} cells: {', '.join(f'{counts[state]} {text}' for state, text in words.items() if counts[state])}"
    )
