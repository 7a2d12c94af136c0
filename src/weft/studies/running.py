"""Cells as many at a time as the machine carries, watched, until all have ended or somebody asks to stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from weft.studies.cells import Cell, State, forget_failure, run_cell, state_of
from weft.studies.watching import Watch
from weft.studies.workers import Workers
from weft.training.interrupts import Interrupts
from weft.training.progress import say


@dataclass(frozen=True)
class Runner:
    """How cells are run: in processes of their own, or with `isolated=False` in this one, one after another.

    `retry`: cells that failed are run again.
    """

    store: Path
    jobs: int
    console: Console
    isolated: bool = True
    retry: bool = False

    def carry_out(self, cells: Sequence[Cell], metric: str) -> bool:
        """Run what is not there; False when somebody asked to stop before all was."""
        if self.retry:
            for cell in cells:
                if state_of(self.store / cell.name) is State.failed:
                    forget_failure(self.store / cell.name)
        say(self.console, found(cells, self.store))
        waiting = [cell for cell in cells if state_of(self.store / cell.name) in (State.new, State.part)]
        with Watch(self.console, cells, self.store, metric, self.jobs if self.isolated else 1) as watch:
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
        with Interrupts() as interrupts, Workers(self.jobs, self.store) as workers:
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


def found(cells: Iterable[Cell], store: Path) -> str:
    """What of these cells is there already."""
    states = [state_of(store / cell.name) for cell in cells]
    counts = {state: states.count(state) for state in State}
    words = {
        State.finished: "there already, reused",
        State.failed: "failed before (--retry runs them again)",
        State.part: "begun, to go on",
        State.new: "new",
    }
    told = ", ".join(f"{counts[state]} {text}" for state, text in words.items() if counts[state])
    return f"{len(states)} cells: {told}"
