"""A study that is ready to run: everything about it that can be known and refused before a cell runs, said aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from weft.device import about, available_cores
from weft.errors import WeftError
from weft.models.cost import UnknownMemoryError, training_memory
from weft.studies.arms import Arms, resolve
from weft.studies.cells import Cell, cell_of
from weft.studies.declaration import Study
from weft.studies.donors import Maker, donated, told
from weft.studies.folder import StudyFolder
from weft.studies.reading import Declared
from weft.training.progress import say

LARGE = 10_000_000
"""Parameters from which it is worth knowing beforehand how much memory a cell takes."""
PROCESS = 400_000_000
"""Bytes that a process takes beside its tensors."""


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
    declared: Declared
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


def open_studies(
    read: Sequence[Declared],
    studies: Path,
    quick: bool,
    jobs: int | None,
    threads: int | None,
    console: Console,
    make_donors: Maker,
) -> list[Session] | None:
    """The study, or each of its settings; None when somebody asked to stop while models to copy from were trained.

    Raises ConfigError with every problem, a line each.
    """
    found = []
    for declared in read:
        study = declared.study.quicker() if quick else declared.study
        places = make_donors(study, declared.base, quick, console)
        if places is None:
            return None
        arms = resolve(*donated(study, declared.base, declared.folder, places), declared.folder, console, quick)
        arms = told(arms, places)
        for note in arms.notes:
            say(console, note)
        _tell(study, arms, console)
        folder = StudyFolder(studies, study.name)
        lanes = _lanes(study, arms, folder, jobs, threads)
        say(console, f"{study.name}: {len(arms.arms)} arms x {len(study.seed_list)} seeds; {lanes.why}")
        found.append(Session(study, arms, folder, lanes, declared, quick))
    return found


def _tell(study: Study, arms: Arms, console: Console) -> None:
    """How the arms differ from the baseline."""
    first = arms[study.compared_with]
    for number, arm in enumerate(arms.arms):
        if arm is first:
            say(console, f"{arm.name} (baseline): {arm.parameters:,} parameters")
            continue
        other = arms.arms[number - 1] if study.question.ladder else first
        share = arm.parameters / other.parameters - 1
        more = f" ({100 * share:+.1f} % parameters)" if share else ""
        shown = "; ".join(one.words() for one in arm.differences)
        say(console, f"{arm.name}: {shown}{more}")
        if arm.adjusted is not None:
            say(console, f"{arm.name}: adjusted to {first.name}: {arm.adjusted.words()}")
        if arm.undeclared:
            paths = ", ".join(one.path for one in arm.undeclared)
            say(console, f"note: {arm.name} differs from {other.name} in more than it declares: {paths}")


def _lanes(study: Study, arms: Arms, folder: StudyFolder, jobs: int | None, threads: int | None) -> Lanes:
    """As many cells at a time as there are cores for; what the first run chose stands for later ones."""
    cores, n_cells = available_cores(), len(arms.arms) * len(study.seed_list)
    device = str(arms.arms[0].environment["device"])
    given = threads or arms.arms[0].recipe.train.threads or folder.declared().get("threads")
    one = study.alone or device != "cpu"
    if given is None:
        given = cores if one else max(1, cores // (jobs or min(cores, n_cells)))
    count = 1 if one else jobs or max(1, cores // given)
    fit = count if one else _fitting(arms, count)
    if study.alone and (jobs or 1) > 1:
        raise WeftError(f"--jobs {jobs}: {study.name} measures time, so its cells run one at a time")
    reason = f"on {cores} cores" if device == "cpu" else f"on {device}"
    alone = ", one at a time: time is measured" if study.alone else ""
    full = f", as memory for {count} is not there" if fit < count else ""
    many = f"{fit} cell{'s' * (fit > 1)} at a time{alone}{full}"
    return Lanes(fit, given, f"{many}, {given} thread{'s' * (given > 1)} each, {reason}")


def _fitting(arms: Arms, wanted: int) -> int:
    """How many cells at a time fit in four fifths of the memory, as far as large models are concerned."""
    largest = max(arms.arms, key=lambda arm: arm.parameters)
    memory = about()["memory_gib"]
    if wanted == 1 or memory is None or largest.parameters < LARGE:
        return wanted
    recipe = largest.bound
    rows = recipe.train.micro_batch or max(1, recipe.train.batch_tokens // recipe.row_length)
    try:
        need = training_memory(recipe.model, rows, recipe.row_length).peak + PROCESS
    except UnknownMemoryError:
        return wanted
    return max(1, min(wanted, int(0.8 * memory * 2**30 / need)))
