"""A bar for readings that take long: how fast, how much is left. Only on a terminal, only after two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from weft.data.documents import Document

PATIENCE = 2.0
"""Seconds before a bar appears."""


class Progress:
    """Shows one bar at a time on `console`; without one, or in a pipe, nothing."""

    def __init__(self, console: Console | None) -> None:
        self._console = console if console is not None and console.is_terminal else None
        self._started = time.monotonic()
        self._bar: RichProgress | None = None
        self._label = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def track(self, documents: Iterable[Document], label: str, total: int) -> Iterator[Document]:
        """The documents, while the bar called `label` moves by their bytes up to `total`."""
        done = 0
        for document in documents:
            yield document
            done += len(document.text) if document.text.isascii() else len(document.text.encode())
            self.update(label, done, total)
        self._stop()

    def update(self, label: str, done: int, total: int) -> None:
        """`done` of `total` bytes are done of what is called `label`."""
        if label != self._label:
            self._stop()
            self._label, self._started = label, time.monotonic()
        if self._console is None or time.monotonic() - self._started < PATIENCE:
            return
        if self._bar is None:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(label, total=None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=max(total, done) or None)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._label = None, ""
