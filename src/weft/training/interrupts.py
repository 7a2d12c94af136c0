"""Ctrl-C and SIGTERM ask a run to stop after its step; a second one, or one that finds no steps left, does not ask."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While entered, remembers that somebody asked to stop; raises KeyboardInterrupt where that is known already.

    With `at_once`, whatever asks first raises it.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.requested = at_once
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere signals are not ours to handle
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
