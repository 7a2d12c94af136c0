"""What a run folder says, read leniently: the log as curves over the steps, the manifest, the recipe."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.config import yaml
from weft.errors import WeftError
from weft.report.scales import running_median
from weft.runs import log

SMOOTHED_FROM = 60
"""Lines; curves of fewer are drawn as they are."""


@dataclass(frozen=True)
class Curve:
    """One logged quantity over the steps; values may be NaN or infinite."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def points(self) -> list[tuple[float, float]]:
        return [(float(step), value) for step, value in zip(self.steps, self.values, strict=True)]

    def finite(self) -> Curve:
        """The curve without its NaN and infinite values."""
        return self._where(lambda _, value: math.isfinite(value))

    def between(self, first: float, last: float = math.inf) -> Curve:
        """The part from step `first` to step `last`, both included."""
        return self._where(lambda step, _: first <= step <= last)

    def tail(self, share: float) -> Curve:
        """The part that lies in the last `share` of the steps."""
        return self.between(self.steps[-1] - share * (self.steps[-1] - self.steps[0])) if self.steps else self

    def times(self, factor: float) -> Curve:
        """The curve in another unit."""
        return Curve(self.steps, [value * factor for value in self.values])

    @property
    def window(self) -> int:
        """How many lines its running median looks at: about a fortieth, an odd number; 1 where the curve is short."""
        return min(101, max(5, len(self) // 40)) | 1 if len(self) >= SMOOTHED_FROM else 1

    def smooth(self) -> Curve:
        """The running median; the curve itself where it is short."""
        return Curve(self.steps, running_median(self.values, self.window)) if self.window > 1 else self

    def _where(self, keep: Callable[[int, float], bool]) -> Curve:
        pairs = [pair for pair in zip(self.steps, self.values, strict=True) if keep(*pair)]
        return Curve([step for step, _ in pairs], [value for _, value in pairs])


@dataclass(frozen=True)
class Line:
    """One line of a run's log."""

    step: int
    tokens: float
    seconds: float
    split: str
    values: Mapping[str, Any]
    clock: Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """A run's `metrics.jsonl`: what is no line of a log is passed over."""

    lines: list[Line]
    objective: str = ""
    """the kind that was asked for, where that is known"""

    @classmethod
    def of_entries(cls, entries: Iterable[object], objective: str = "") -> Log:
        """The log that these objects make, in the order of their steps."""
        lines = [line for entry in entries if (line := _line(entry))]
        return cls(sorted(lines, key=lambda line: line.step), objective)

    def of(self, split: str) -> list[Line]:
        """The lines of one split: train, validation, sample or event."""
        return [line for line in self.lines if line.split == split]

    def curve(self, split: str, name: str) -> Curve:
        """One value of a split over the steps."""
        return curve_of(self.of(split), name)

    def repeated(self) -> list[Line]:
        """The validation measurements that compare: those made most often in one way (window, stride, amount of text).

        What is measured during training is often a part, without context that overlaps; at the end the whole, with.
        """
        lines = self.of("validation")
        ways = Counter(map(_way, lines))
        usual = max(ways, key=ways.__getitem__, default=())
        return [line for line in lines if _way(line) == usual]

    def concluding(self) -> list[Line]:
        """The validation measurements of the whole text that were made in another way than the repeated ones."""
        usual = [_way(line) for line in self.repeated()[:1]]
        return [line for line in self.of("validation") if line.values.get("whole") and _way(line) not in usual]

    def clock(self, name: str) -> Curve:
        """One reading of the clock (tokens_per_second, peak_share) over the steps."""
        return _joined((line.step, number(line.clock.get(name))) for line in self.of("train"))

    def layers(self, name: str) -> dict[str, Curve]:
        """One value of each layer over the steps, in the order in which the log names the layers."""
        pairs: dict[str, list[tuple[int, float | None]]] = {}
        for line in self.of("train"):
            layers = line.values.get("layers")
            for layer, values in layers.items() if isinstance(layers, Mapping) else ():
                if isinstance(values, Mapping):
                    pairs.setdefault(str(layer), []).append((line.step, number(values.get(name))))
        curves = {layer: _joined(found) for layer, found in pairs.items()}
        return {layer: curve for layer, curve in curves.items() if len(curve)}


@dataclass(frozen=True)
class Run:
    """A run folder as a report needs it; whatever is missing in it is empty here."""

    name: str
    manifest: Mapping[str, Any]
    log: Log
    recipe: str = ""
    resolved: str = ""
    folder: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """the resolved recipe"""
    path: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in that folder. Raises WeftError where it is none."""
        if not folder.is_dir():
            raise WeftError(f"{folder} is not a run folder: there is no such folder")
        if not any((folder / name).is_file() for name in ("manifest.json", "metrics.jsonl")):
            raise WeftError(f"{folder} is not a run folder: it has neither manifest.json nor metrics.jsonl")
        manifest = _mapping(_text(folder / "manifest.json"))
        name = manifest.get("name")
        texts = (_text(folder / "recipe.yaml"), _text(folder / "resolved.yaml"))
        asked, place = _recipe(texts[1]), folder.resolve().name
        objective = asked.get("objective")
        kind = str(objective.get("kind")) if isinstance(objective, dict) else str(objective or "")
        lines = Log.of_entries(log.Log(folder / "metrics.jsonl"), kind)
        return cls(str(name or place), manifest, lines, *texts, folder=place, asked=asked, path=folder)

    def at(self, path: str) -> object:
        """What the manifest holds at a dotted path; None where it holds nothing."""
        value: object = self.manifest
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, path: str) -> float | None:
        """The finite number at a path of the manifest."""
        return finite(self.at(path))

    def section(self, path: str) -> Mapping[str, Any]:
        """The mapping at a path of the manifest; empty where there is none."""
        value = self.at(path)
        return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """The value as a float where it is a number (NaN and infinity are, also as the texts that a log holds) or None."""
    if value in ("nan", "inf", "-inf"):
        return float(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # What lies beyond 1e100 is infinite for every purpose here, and its square still is a number below it.
    if abs(value) > 1e100:
        return math.inf if value > 0 else -math.inf
    return float(value)


def finite(value: object) -> float | None:
    """The value as a float where it is a finite number; None otherwise."""
    known = number(value)
    return known if known is not None and math.isfinite(known) else None


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _recipe(text: str) -> dict[str, Any]:
    try:
        found = yaml.parse(text, "resolved.yaml") if text else {}
    except WeftError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(entry: object) -> Line | None:
    if not isinstance(entry, dict):
        return None
    step, values, clock = entry.get("step"), entry.get("values"), entry.get("clock")
    if isinstance(step, bool) or not isinstance(step, int) or not isinstance(values, dict):
        return None
    tokens, seconds = (number(entry.get(key)) for key in ("tokens", "seconds"))
    clock = clock if isinstance(clock, dict) else {}
    unknown = math.nan
    tokens, seconds = unknown if tokens is None else tokens, unknown if seconds is None else seconds
    return Line(step, tokens, seconds, str(entry.get("split")), values, clock)


def curve_of(lines: Iterable[Line], name: str) -> Curve:
    """One value of these lines over the steps."""
    return _joined((line.step, number(line.values.get(name))) for line in lines)


def _way(line: Line) -> tuple[object, ...]:
    """How a validation was measured: two values compare only where this is the same."""
    return tuple(str(line.values.get(key)) for key in ("whole", "window", "stride", "bytes", "final"))


def _joined(pairs: Iterable[tuple[int, float | None]]) -> Curve:
    known = [(step, value) for step, value in pairs if value is not None]
    return Curve([step for step, _ in known], [value for _, value in known])
