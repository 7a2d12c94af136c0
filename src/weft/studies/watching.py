"""What is seen while a study runs: on a terminal a table that moves, elsewhere a line for each cell that ends."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from weft.report.formats import duration, significant
from weft.runs.folder import RunFolder
from weft.studies.cells import Cell, State, reason_of, score, state_of
from weft.training.progress import say


class Watch:
    """Arms down, seeds across: what each cell reached, how far it is, why it failed; and the time left."""

    def __init__(self, console: Console, cells: Sequence[Cell], store: Path, metric: str, jobs: int) -> None:
        self.console, self.cells, self.store, self.metric = console, cells, store, metric
        self.texts = {cell.key: self._ended(cell) for cell in cells}
        self.began, self.done, self.jobs = time.monotonic(), 0, jobs
        self.todo = sum(text is None for text in self.texts.values())
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Watch:
        if self.live:
            self.live.start()
            self.update(())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def ended(self, cell: Cell) -> None:
        """A cell is finished or has failed."""
        text = self.texts[cell.key] = self._ended(cell)
        if text is None:
            return
        self.done += 1
        if not self.live:
            say(self.console, f"{cell.title}: {text} ({self.done} of {self.todo}{self._left(())})")

    def update(self, running: Iterable[Cell]) -> None:
        """What runs now has gone on."""
        if not self.live:
            return
        shares = {cell.key: self._share(cell) for cell in running}
        seeds = list(dict.fromkeys(cell.seed for cell in self.cells))
        table = Table(title=f"{self.metric}{self._left(shares.values())}", title_justify="left")
        table.add_column("arm")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for arm in dict.fromkeys(cell.arm for cell in self.cells):
            texts = {cell.seed: self._now(cell, shares) for cell in self.cells if cell.arm == arm}
            table.add_row(arm, *(texts.get(seed, "") for seed in seeds))
        self.live.update(table)

    def _now(self, cell: Cell, shares: dict[str, float]) -> str:
        text = self.texts[cell.key]
        if text is not None:
            return "failed" if text.startswith("failed") else text
        return f"{100 * shares[cell.key]:.0f} %" if cell.key in shares else "·"

    def _ended(self, cell: Cell) -> str | None:
        """What it reached or why it failed; None while it may go on."""
        folder = self.store / cell.name
        state = state_of(folder)
        if state is State.failed:
            return f"failed: {reason_of(folder)}"
        return significant(score(folder, self.metric), 4) if state is State.finished else None

    def _share(self, cell: Cell) -> float:
        """How much of its steps a running cell has done."""
        folder = self.store / cell.name
        last = RunFolder(folder).log.last("train")
        return last["step"] / RunFolder(folder).manifest()["budget"]["steps"] if last else 0.0

    def _left(self, shares: Iterable[float]) -> str:
        """`, about 5 min left`: from the cells that this run has ended, and shares of those that run."""
        done = self.done + sum(shares)
        if not self.done or done >= self.todo:
            return ""
        return f", about {duration((time.monotonic() - self.began) / done * (self.todo - done))} left"
