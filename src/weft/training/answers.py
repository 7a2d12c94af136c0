"""What a run said of each validation example, from `predictions/validation.jsonl`: streamed, and read leniently.

A line that is no prediction is passed over; of texts only those that are shown are kept.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.data.task_baselines import sentence_chrf
from weft.training.record import Run, finite

MISTAKES = 10
"""The most confident mistakes that are kept."""
SCORED = 1000
"""Answers, evenly spread, that are scored one by one."""
QUANTILES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Where samples stand in the order of their scores."""
BINS = 10
"""Of equal width between 0 and 1, for calibration."""


@dataclass(frozen=True)
class Mistake:
    """An example put into a wrong class."""

    text: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True, eq=False)
class Classified:
    """What a classifier said of N examples."""

    labels: list[str]
    """the model's classes, then others that occur"""
    truth_N: NDArray[np.int64]
    predicted_N: NDArray[np.int64]
    confidence_N: NDArray[np.float64]
    """probability of the predicted class; NaN where the line does not say"""
    mistakes: list[Mistake]
    """the most confident ones first, the earlier line first where two are alike"""

    @classmethod
    def read(cls, run: Run) -> Classified | None:
        """The run's predictions; None where there are none."""
        known = run.at("data.labels")
        numbers = {str(label): i for i, label in enumerate(known if isinstance(known, list) else [])}
        truth: list[int] = []
        predicted: list[int] = []
        confidence: list[float] = []
        worst: list[tuple[float, int, Mistake]] = []
        for line in _lines(run.path):
            label, said = line.get("label"), line.get("predicted")
            if not isinstance(label, str) or not isinstance(said, str):
                continue
            probability = _probability(line.get("probabilities"), said)
            truth.append(numbers.setdefault(label, len(numbers)))
            predicted.append(numbers.setdefault(said, len(numbers)))
            confidence.append(probability)
            if label != said and math.isfinite(probability):
                entry = Mistake(str(line.get("text") or ""), label, said, probability)
                keep = heapq.heappush if len(worst) < MISTAKES else heapq.heappushpop
                keep(worst, (probability, -len(truth), entry))
        if not truth:
            return None
        mistakes = [entry for *_, entry in sorted(worst, key=lambda kept: kept[:2], reverse=True)]
        return cls(list(numbers), np.asarray(truth), np.asarray(predicted), np.asarray(confidence), mistakes)

    def confusion(self) -> NDArray[np.int64]:
        """How many examples of each class (rows) were called each class (columns), C x C."""
        from sklearn.metrics import confusion_matrix

        return np.asarray(confusion_matrix(self.truth_N, self.predicted_N, labels=range(len(self.labels))))

    def by_class(self) -> list[tuple[float, float, float, int]]:
        """Precision, recall, F1 and number of examples of each class; zero where nothing is divided by."""
        from sklearn.metrics import precision_recall_fscore_support

        known = range(len(self.labels))
        columns = precision_recall_fscore_support(self.truth_N, self.predicted_N, labels=known, zero_division=0.0)
        return [(float(p), float(r), float(f), int(n)) for p, r, f, n in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Bin:
    """Examples whose prediction was about as confident."""

    low: float
    high: float
    examples: int
    confidence: float
    """mean probability of the predicted class"""
    right: float
    """share of right answers"""


def reliability(found: Classified) -> list[Bin]:
    """Predictions by their confidence, in bins of equal width, empty ones left out (Guo et al. 2017, section 2)."""
    known_N = np.isfinite(found.confidence_N)
    confidence, right = found.confidence_N[known_N], (found.truth_N == found.predicted_N)[known_N]
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(k / BINS, (k + 1) / BINS, int(here.sum()), float(confidence[here].mean()), float(right[here].mean()))
        for k in range(BINS)
        if (here := place == k).any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Mean distance between confidence and share of right answers (Guo et al. 2017, eq. 3)."""
    total = sum(one.examples for one in bins)
    return sum(one.examples * abs(one.confidence - one.right) for one in bins) / total if total else math.nan


@dataclass
class Way:
    """The answers of one way of decoding."""

    answers: int = 0
    empty: int = 0
    exact: int = 0
    characters: int = 0
    reference_characters: int = 0
    same: str | None = None
    """the answer, as long as all are the same"""
    varied: bool = False

    @property
    def ratio(self) -> float:
        """Characters of the answers over those of their references."""
        return self.characters / self.reference_characters if self.reference_characters else math.nan

    def add(self, answer: str, reference: str) -> None:
        """Count an answer."""
        self.varied = self.varied or (self.answers > 0 and answer != self.same)
        self.same = answer
        self.answers += 1
        self.empty += not answer.strip()
        self.exact += answer.strip() == reference.strip()
        self.characters += len(answer)
        self.reference_characters += len(reference)


@dataclass(frozen=True)
class Sample:
    """An example with its answers, chosen by its place among all."""

    text: str
    target: str
    answers: Mapping[str, str]
    score: float
    """chrF of the first answer by itself"""
    worse: float
    """share of the scored answers that lie below"""


@dataclass(frozen=True)
class Written:
    """What a model wrote to each example, by the way of decoding."""

    ways: Mapping[str, Way]
    scores: list[float]
    """chrF, one by one, of the first way's answers (`SCORED` of them at most, evenly spread), ascending"""
    samples: list[Sample]
    """at `QUANTILES` of those scores, the worst first"""

    @classmethod
    def read(cls, run: Run) -> Written | None:
        """The run's predictions; None where there are none."""
        ways: dict[str, Way] = {}
        for line in _pairs(run.path):
            for how, answer in _answers(line).items():
                ways.setdefault(how, Way()).add(answer, line["target"])
        if not ways:
            return None
        first = next(iter(ways))
        every = -(-ways[first].answers // SCORED)
        answered = (line for line in _pairs(run.path) if first in _answers(line))
        kept = [line for place, line in enumerate(answered) if place % every == 0]
        scored = sorted((sentence_chrf(_answers(line)[first], line["target"]), i) for i, line in enumerate(kept))
        last = len(scored) - 1
        places = sorted({round(share * last) for share in QUANTILES})
        samples = [
            Sample(kept[i]["text"], kept[i]["target"], _answers(kept[i]), score, place / max(last, 1))
            for place, (score, i) in ((place, scored[place]) for place in places)
        ]
        return cls(ways, [score for score, _ in scored], samples)


def _lines(folder: Path | None) -> Iterator[dict[str, Any]]:
    path = folder / "predictions" / "validation.jsonl" if folder else None
    if path is None or not path.is_file():
        return
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line


def _pairs(folder: Path | None) -> Iterator[dict[str, Any]]:
    return (line for line in _lines(folder) if all(isinstance(line.get(key), str) for key in ("text", "target")))


def _answers(line: Mapping[str, Any]) -> dict[str, str]:
    """The answers of a line by the way of decoding."""
    return {key: value for key, value in line.items() if key not in ("id", "text", "target") and isinstance(value, str)}


def _probability(probabilities: object, label: str) -> float:
    value = finite(probabilities.get(label)) if isinstance(probabilities, dict) else None
    return value if value is not None and 0 <= value <= 1 else math.nan
