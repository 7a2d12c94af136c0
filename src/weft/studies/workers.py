"""Processes that run cells, one each; they end with the study, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from weft.errors import WeftError
from weft.studies.cells import Cell, State, fail, note_memory, run_cell, state_of
from weft.studies.processes import end_with_parent, nameless_main

_REFUSED = 3
"""Exit code where the fault is not the cell's own; the last line of its log says what it is."""
_LOST = 255
"""What multiprocessing says where the server that forks was ended from outside: the cell may go on."""


class Workers:
    """At most so many processes at a time."""

    def __init__(self, jobs: int, store: Path) -> None:
        self.jobs, self.store = jobs, store
        self.running: dict[int, tuple[Cell, BaseProcess]] = {}

    @property
    def free(self) -> bool:
        """Whether another cell may start."""
        return len(self.running) < self.jobs

    @property
    def cells(self) -> list[Cell]:
        """What runs now."""
        return [cell for cell, _ in self.running.values()]

    def start(self, cell: Cell) -> None:
        """Run a cell in a process of its own."""
        process = _context().Process(target=_work, args=(cell, self.store), daemon=False)
        with nameless_main():
            process.start()
        self.running[process.sentinel] = cell, process

    def ended(self, seconds: float) -> list[Cell]:
        """The cells whose processes have ended, waiting for one at most so long.

        Raises WeftError where a process could not do its work and the cell is not to blame.
        """
        found = []
        ready = wait(list(self.running), seconds) if self.running else []
        for sentinel in [one for one in self.running if one in ready]:
            cell, process = self.running.pop(sentinel)
            process.join()
            if process.exitcode == _REFUSED:
                raise WeftError(_last_line(log_of(self.store, cell)))
            if (
                process.exitcode
                and process.exitcode != _LOST
                and state_of(self.store / cell.name) in (State.new, State.part)
            ):
                fail(self.store / cell.name, _ending(process.exitcode, log_of(self.store, cell)))
            found.append(cell)
        return found

    def stop(self) -> None:
        """Ask all to save and end, and wait for them."""
        for _, process in self.running.values():
            process.terminate()
        for _, process in self.running.values():
            process.join()
        self.running.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in self.running.values():
            process.kill()
            process.join()


def log_of(store: Path, cell: Cell) -> Path:
    """What a cell's process said."""
    return store / f"{cell.name}.log"


def _context() -> Any:
    """Processes that start at once where the system can fork one that has imported all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # torch imports its compilers, 3 s, when the first optimizer is made
    context.set_forkserver_preload(["torch._inductor", "weft.studies.cells"])
    return context


def _work(cell: Cell, store: Path) -> None:
    """What the process does."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the study, which asks its cells once
    threading.Thread(target=end_with_parent, daemon=True).start()
    target = os.open(log_of(store, cell), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    with os.fdopen(target, "a", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        try:
            note_memory(run_cell(cell, store, Console(file=file, width=10_000, highlight=False)))
        except WeftError as error:
            file.write(f"{error}\n")
            file.flush()
            os._exit(_REFUSED)
        except KeyboardInterrupt:
            pass


def _ending(code: int, log: Path) -> str:
    if code < 0:
        return f"its process was ended by signal {-code}{' (out of memory?)' if code == -9 else ''}"
    return f"its process ended with code {code}: {_last_line(log)}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
