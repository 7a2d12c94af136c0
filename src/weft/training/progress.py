"""One line that says how a run goes: on a terminal it moves, elsewhere a line appears at each validation."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from weft.report.terminal import duration


class Progress:
    """step, loss, bits per byte, tokens a second, share of the machine's measured peak, time left."""

    def __init__(self, console: Console, total: int, step: int) -> None:
        self.console = console
        self.total = total
        self.first = step
        self.started = time.monotonic()
        self.bits: float | None = None
        self.line = ""
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
        bits = f"  {self.bits:.3f} bits/byte" if self.bits is not None else ""
        left = (time.monotonic() - self.started) / max(step - self.first, 1) * (self.total - step)
        self.line = (
            f"step {step:>{len(str(self.total))}}/{self.total}  loss {loss:.3f}{bits}"
            f"  {tokens_per_second:,.0f} tokens/s  {peak_share:.0%} of peak  {duration(left)} left"
        )
        if self.live:
            width = max(4, min(24, self.console.width - len(self.line) - 4))
            full = math.floor(width * step / self.total)
            self.live.update(
                Text(f"{'━' * full}{'╌' * (width - full)}  {self.line}", no_wrap=True, overflow="ellipsis")
            )

    def validated(self, bits: float) -> None:
        """A validation was measured."""
        self.bits = bits
        if not self.live and self.line:
            head, _, tail = self.line.partition("  loss")
            loss, _, rest = tail.strip().partition("  ")
            rest = rest.partition("bits/byte  ")[2] or rest
            self.console.print(f"{head}  loss {loss}  {bits:.3f} bits/byte  {rest}", highlight=False)

    def say(self, text: str) -> None:
        """A sentence above the line."""
        self.console.print(text, highlight=False)
