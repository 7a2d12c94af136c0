"""One line that says how a run goes: on a terminal it moves, elsewhere a line appears at each validation."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from weft.report.terminal import duration


def say(console: Console, text: str) -> None:
    """Print a line as it is: what stands in brackets or between colons in it is a name, not markup."""
    console.print(text, highlight=False, markup=False, emoji=False)


class Progress:
    """step, loss, what was last measured, tokens a second, share of the machine's measured peak, time left."""

    def __init__(self, console: Console, total: int, step: int) -> None:
        self.console = console
        self.total = total
        self.done, self.at = step, time.monotonic()
        self.pace = math.nan  # seconds a step, validations and all, recent ones counting most
        self.measured = ""
        self.head = self.tail = ""
        self.live = (
            Live(Text(""), console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def step(self, step: int, loss: float, tokens_per_second: float, peak_share: float) -> None:
        """The run has done `step` steps."""
        now = time.monotonic()
        recent = (now - self.at) / max(step - self.done, 1)
        self.pace = recent if math.isnan(self.pace) else self.pace + 0.02 * (recent - self.pace)
        self.done, self.at = step, now
        left = self.pace * (self.total - step)
        self.head = f"step {step:>{len(str(self.total))}}/{self.total}  loss {loss:.3f}"
        self.tail = f"{tokens_per_second:,.0f} tokens/s  {peak_share:.0%} of matmul peak  {duration(left)} left"
        if self.live:
            line = self._line()
            width = max(4, min(24, self.console.width - len(line) - 4))
            full = math.floor(width * step / self.total)
            bar = "━" * full + "╌" * (width - full)
            self.live.update(Text(f"{bar}  {line}", no_wrap=True, overflow="ellipsis"))

    def validated(self, measured: str) -> None:
        """A validation was measured: the number that stands in the line, with its name."""
        self.measured = measured
        if not self.live and self.head:
            say(self.console, self._line())

    def _line(self) -> str:
        return "  ".join(part for part in (self.head, self.measured, self.tail) if part)

    def say(self, text: str) -> None:
        """A sentence above the line."""
        say(self.console, text)
