"""The numbers that a run is judged by: how each is written, which way is better, and what it is compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from weft.report.formats import percent, significant
from weft.training.record import Line, Log, Run, curve_of, finite

SMALL = 0.05
"""Points of a metric from 0 to 100 below which two values are level."""
_NAMES = {"majority": "the majority class", "tfidf": "TF-IDF", "copy": "copying"}


@dataclass(frozen=True)
class Metric:
    """A quantity in the log: its key there, its name, and how its values are written."""

    key: str
    name: str
    lower: bool = False
    """whether less is better"""
    factor: float = 1.0
    """from the log's value to the one that people read"""
    decimals: int = 2
    unit: str = ""

    def show(self, value: float) -> str:
        """A value of the log, as it is written in sentences."""
        return self.shown(value * self.factor)

    def shown(self, value: float) -> str:
        """A value on a chart's axis, which has the factor in it."""
        plain = math.isfinite(value) and abs(value) < 1e4
        return f"{value:.{self.decimals}f}{self.unit}" if plain else significant(value)

    def named(self, value: float) -> str:
        """The value with its name: 1.38 bits per byte, accuracy 87.2 %, BLEU 24.3."""
        return f"{self.show(value)} {self.name}" if self.lower else f"{self.name} {self.show(value)}"

    @property
    def title(self) -> str:
        """The name at the beginning of a sentence; chrF stays as it is."""
        return f"{self.name[0].upper()}{self.name[1:]}" if self.name.split()[0].islower() else self.name

    def gap(self, value: float, other: float) -> str:
        """How far a value lies from another: 4.1 % below, 3.2 points above; empty where they are level."""
        if self.lower:
            share = value / other - 1 if other else math.inf
            return "" if abs(share) < 0.005 else f"{percent(abs(share))} {'below' if share < 0 else 'above'}"
        points = (value - other) * self.factor
        return "" if abs(points) < SMALL else f"{abs(points):.1f} points {'below' if points < 0 else 'above'}"

    def change(self, value: float, other: float) -> str:
        """The same with a sign: −4.1 %, +3.2 points."""
        if self.lower:
            share = percent(value / other - 1) if other else "∞"
            return share if share.startswith("−") else f"+{share}"
        points = (value - other) * self.factor
        return f"{'−' if points < 0 else '+'}{abs(points):.1f} points"


BITS = Metric("bits_per_byte", "bits per byte", lower=True)
TOKEN_LOSS = Metric("loss", "nats per token", lower=True)
EXAMPLE_LOSS = Metric("loss", "nats per example", lower=True)
ACCURACY = Metric("accuracy", "accuracy", factor=100, decimals=1, unit=" %")
MACRO_F1 = Metric("macro_f1", "macro F1", factor=100, decimals=1, unit=" %")
BLEU = Metric("bleu", "BLEU", decimals=1)
CHRF = Metric("chrf", "chrF", decimals=1)


@dataclass(frozen=True)
class Task:
    """What an objective is judged by, the headline's metric first, and the unit of its loss."""

    objective: str
    metrics: tuple[Metric, ...]
    loss: Metric
    held_out: str
    """what is validated on"""
    all_of_it: str


LANGUAGE = Task("causal", (BITS,), TOKEN_LOSS, "validation text", "the whole validation text")
CLASSIFICATION = Task(
    "classification", (ACCURACY, MACRO_F1), EXAMPLE_LOSS, "validation examples", "all validation examples"
)
SEQ2SEQ = Task("seq2seq", (BLEU, CHRF), TOKEN_LOSS, "validation examples", "all validation examples")


def task_of(log: Log) -> Task:
    """The task of a run: by what it validated, or else by what was asked."""
    for task in (CLASSIFICATION, SEQ2SEQ):
        if any(task.metrics[0].key in line.values for line in log.of("validation")):
            return task
    return {task.objective: task for task in (CLASSIFICATION, SEQ2SEQ)}.get(log.objective, LANGUAGE)


@dataclass(frozen=True)
class Measure:
    """The number a run is judged by, and at which step and on how much it was measured."""

    value: float
    metric: Metric
    step: int
    whole: bool
    validation: bool = True
    examples: int | None = None

    def __str__(self) -> str:
        return self.metric.show(self.value)

    @property
    def named(self) -> str:
        """With its name or unit."""
        return self.metric.named(self.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of a share of examples its 95 % interval; None for what is no such share."""
        return wilson(self.value, self.examples) if self.metric == ACCURACY and self.examples else None


@dataclass(frozen=True)
class Baseline:
    """What a simple method reaches in the same quantity."""

    name: str
    value: float
    how: str

    @property
    def label(self) -> str:
        """Without its article, for a chart or a table."""
        return self.name.removeprefix("the ")


def measure(run: Run) -> Measure | None:
    """The last finite validation value (that which concluded the run, if one did), or else the last training loss."""
    task = task_of(run.log)
    for metric in (task.metrics[0], task.loss):
        found = validated(run.log, metric)
        if found:
            return found
    loss = run.log.curve("train", "loss").finite().smooth()
    return Measure(loss.values[-1], task.loss, loss.steps[-1], False, validation=False) if len(loss) else None


def validated(log: Log, metric: Metric) -> Measure | None:
    """The last finite value of a metric on validation: that which concluded the run, if one did."""
    for lines in (log.concluding(), log.repeated()):
        known = [line for line in lines if finite(line.values.get(metric.key)) is not None]
        for line in known[-1:]:
            number = finite(line.values.get(metric.key))
            assert number is not None, "chosen for it"
            return Measure(number, metric, line.step, _whole(line, metric), examples=measured(line, metric))
    return None


def measured(line: Line, metric: Metric) -> int | None:
    """On how many examples a metric was measured; None where the line does not say."""
    amount = finite(line.values.get("written" if metric in SEQ2SEQ.metrics else "examples"))
    return int(amount) if amount and amount >= 1 else None


def _whole(line: Line, metric: Metric) -> bool:
    """Answers may have been written for a part only of the examples whose loss was taken."""
    whole = bool(line.values.get("whole"))
    if metric not in SEQ2SEQ.metrics:
        return whole
    return whole and finite(line.values.get("written")) == finite(line.values.get("examples"))


def baselines(run: Run, metric: Metric) -> list[Baseline]:
    """The manifest's baselines in that metric: xz first, then the best; each named as people call it."""
    found = []
    for key, entry in run.section("data.baselines").items():
        value = finite(entry.get(metric.key)) if isinstance(entry, Mapping) else None
        if value is None or (metric.lower and not value):
            continue
        how = str(entry.get("how") or "")
        if metric == BITS:
            name, *rest = re.split(r"\s*,\s*|\s+(?=with\b)", how or str(key), maxsplit=1)
            found.append(Baseline(name or str(key), value, " ".join(rest)))
        else:
            found.append(Baseline(_NAMES.get(str(key), str(key)), value, how))
    if metric.lower:
        return sorted(found, key=lambda baseline: not baseline.name.startswith("xz"))
    return sorted(found, key=lambda baseline: -baseline.value)


def comparison(found: Measure, against: Baseline) -> str:
    """How a measure stands beside a baseline: 4.1 % below xz -9e's 2.01, 3.2 points above TF-IDF (84.0 %)."""
    metric, shown = found.metric, found.metric.show(against.value)
    gap = metric.gap(found.value, against.value)
    if metric.lower:
        return f"{gap} {against.name}'s {shown}" if gap else f"level with {against.name}'s {shown}"
    within = found.interval and found.interval[0] <= against.value <= found.interval[1]
    doubt = ", within its uncertainty" if gap and within else ""
    return f"{gap or 'level with'} {against.name} ({shown}){doubt}"


def wilson(share: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent examples (Wilson 1927): sensible near 0 and 1, and for few, too."""
    z = NormalDist().inv_cdf(0.975)
    share, spread = min(max(share, 0.0), 1.0), z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / examples + spread / (4 * examples))
    return max(0.0, middle - half), min(1.0, middle + half)


def losses(run: Run) -> tuple[Metric, dict[int, float]]:
    """The repeated validation loss by step, in bits per byte where it is known so."""
    task = task_of(run.log)
    for metric in (*(metric for metric in task.metrics if metric.lower), task.loss):
        curve = curve_of(run.log.repeated(), metric.key).finite()
        if len(curve):
            return metric, dict(zip(curve.steps, curve.values, strict=True))
    return task.loss, {}
