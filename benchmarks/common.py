"""What every benchmark shares: its options, the machine's description, systems in processes of their own, results."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Step = Callable[[], float]
"""One unit of work; returns what must be equal between systems (a loss), or 0."""


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="a few minutes instead of many: wider ranges, fewer rows")
    found.add_argument("--json", metavar="FILE", type=Path, help="write the result there too")
    found.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    found.add_argument("--seconds", type=float, help="about how long it may take in all")
    return found


def machine(threads: int) -> dict[str, Any]:
    """The machine and the versions, for the record."""
    from weft import device

    versions = {}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {**device.about(), "threads": threads, "python": platform.python_version(), "versions": versions}


def cores(options: argparse.Namespace) -> int:
    """How many threads to use."""
    from weft import device

    return options.threads or device.available_cores()


def finish(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write the result where it was asked for."""
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they must be, the first on the left, the others on the right."""
    cells = [list(map(str, headers)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def _serve(make: Callable[..., Step], arguments: tuple[Any, ...], threads: int, pipe: Connection) -> None:
    """Answer each request for some steps with seconds a step, what they returned, and the peak memory in MiB."""
    import torch

    torch.set_num_threads(threads)
    step = make(*arguments)
    while (steps := pipe.recv()) is not None:
        started = time.perf_counter()
        found = [step() for _ in range(steps)]
        seconds = (time.perf_counter() - started) / steps
        pipe.send((seconds, found, peak_mib()))


def peak_mib() -> float:
    """The most memory that this process has held. Not `ru_maxrss` where that can be helped: it may be the parent's."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class System:
    """Something that is timed, in a process of its own so that its peak memory is its own; it works only when asked."""

    def __init__(self, name: str, threads: int, make: Callable[..., Step], *arguments: Any) -> None:
        context = get_context("spawn")
        self.name, self.seconds, self.peak = name, [], 0.0
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, arguments, threads, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, steps: int) -> list[float]:
        """That many steps, untimed; what they returned.

        Raises RuntimeError when the process died.
        """
        return self._ask(steps)[1]

    def time(self, steps: int) -> None:
        """That many steps, timed as one sample."""
        self.seconds.append(self._ask(steps)[0])

    def _ask(self, steps: int) -> tuple[float, list[float], float]:
        try:
            self.pipe.send(steps)
            found = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            self.process.join(5)
            raise RuntimeError(f"{self.name}: its process ended (exit code {self.process.exitcode})") from None
        self.peak = found[2]
        return found

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)


def alternate(systems: Sequence[System], steps: int, rounds: int, deadline: float) -> int:
    """Time all systems in turn, each round from another one on; at least once, then until the deadline.

    Returns the number of rounds.
    """
    for done in range(rounds):
        started = time.monotonic()
        for number in range(len(systems)):
            systems[(number + done) % len(systems)].time(steps)
        if 2 * time.monotonic() - started > deadline:  # another one would pass it
            return done + 1
    return rounds
