"""metrics.jsonl: one object a line, appended as a run goes; what was written stays readable after a kill.

    {"step": 50, "tokens": 102400, "seconds": 21.4, "split": "train", "values": {...}, "clock": {...}}

`values` is what the run computed and is bitwise reproducible; `seconds` and `clock` are what the wall clock said.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.runs.atomic import disk_errors, write_text


class Log:
    """The metrics of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(
        self, step: int, tokens: int, seconds: float, split: str, values: dict[str, Any], **clock: float
    ) -> None:
        """Add a line; numbers that are no number are written as strings, since JSON has none.

        Raises DiskError when the disk is full; half a line is taken back.
        """
        line: dict[str, Any] = {"step": step, "tokens": tokens, "seconds": round(seconds, 3), "split": split}
        line["values"] = _plain(values)
        if clock:
            line["clock"] = {name: float(f"{value:.5g}") for name, value in clock.items()}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with disk_errors(self.path), self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(data)
                if written < len(data):  # the next write says why
                    file.write(data[written:])
            except OSError:
                file.truncate(size)
                raise

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        if self.path.exists():
            with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())

    def cut(self, step: int) -> None:
        """Drop every line after `step`, and a line that a kill left half-written."""
        if self.path.exists():
            kept = [json.dumps(line, ensure_ascii=False) + "\n" for line in self if line["step"] <= step]
            write_text(self.path, "".join(kept))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    return  # half-written: the end

    def last(self, split: str) -> dict[str, Any] | None:
        """The newest line of a split."""
        found = None
        for line in self:
            if line.get("split") == split:
                found = line
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
