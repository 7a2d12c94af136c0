"""What the answers of a classifier, or of a model that writes, say about it; rules as in `diagnosis`."""

from __future__ import annotations

import numpy as np

from weft.report.formats import percent
from weft.training.answers import Classified, Written, calibration_error, reliability
from weft.training.diagnosis import Finding, explained
from weft.training.measures import Baseline, Measure, baselines, measure
from weft.training.record import Run

FEW = 10
"""Examples below which answers that are all alike say nothing."""


def diagnose_answers(run: Run, answers: Classified | Written | None) -> list[Finding]:
    """What the answers and the baselines support; pure, as `diagnosis.diagnose` is."""
    found = [explained(beside_baselines, beside_baselines(run))]
    if isinstance(answers, Classified):
        found += [explained(one_class, one_class(answers)), explained(calibration, calibration(answers))]
    elif isinstance(answers, Written):
        found += [explained(one_answer, one_answer(answers)), explained(empty_answers, empty_answers(answers))]
    return [finding for finding in found if finding]


def beside_baselines(run: Run) -> Finding | None:
    """What a task is judged by beside what always giving the most frequent class reaches, or copying the source: a
    warning where the model lies below; for a classifier a note where the lower end of its 95 % interval does."""
    found = measure(run)
    if not found or not found.validation or found.metric.lower:
        return None
    simple = [level for level in baselines(run, found.metric) if level.name in ("the majority class", "copying")]
    for level in simple[:1]:
        return _beside(found, level)
    return None


def _beside(found: Measure, level: Baseline) -> Finding | None:
    metric = found.metric
    beside = f"{found.named} against {metric.show(level.value)} of {level.name}"
    if found.value < level.value:
        return Finding("below-baseline", "warning", f"Worse than no model at all: {beside}.")
    if found.value == level.value or (found.interval and found.interval[0] <= level.value):
        return Finding("not-above-baseline", "note", f"Not shown to be better than no model at all: {beside}.")
    return None


def one_class(found: Classified) -> Finding | None:
    """From at least 10 examples of at least two classes: every one of them is put into the same class."""
    predicted = np.unique(found.predicted_N)
    if len(found.truth_N) < FEW or len(predicted) > 1 or len(np.unique(found.truth_N)) < 2:
        return None
    label, total = found.labels[int(predicted[0])], len(found.truth_N)
    message = f"It has learned nothing of the texts: each of the {total:,} examples is put into the class {label}."
    return Finding("one-class", "warning", message)


def calibration(found: Classified) -> Finding | None:
    """From at least 100 examples: the mean distance between the probability of the predicted class and the share of
    right answers, in ten bins, exceeds a tenth, and so does the difference of their means."""
    bins = reliability(found)
    total = sum(one.examples for one in bins)
    if total < 100 or calibration_error(bins) <= 0.1:
        return None
    confidence = sum(one.examples * one.confidence for one in bins) / total
    right = sum(one.examples * one.right for one in bins) / total
    if abs(confidence - right) <= 0.1:
        return None
    how = "too sure" if confidence > right else "not sure enough"
    message = (
        f"Its probabilities are not to be taken at their word, it is {how}: {percent(confidence)} for the predicted "
        f"class on average, and {percent(right)} of the answers are right."
    )
    return Finding("calibration", "note", message)


def one_answer(found: Written) -> Finding | None:
    """From at least 10 examples: the same answer is written to every one of them."""
    for how, way in found.ways.items():
        if way.answers >= FEW and not way.varied:
            message = f"It has learned nothing of the sources: {how} writes the same answer to each of {way.answers:,}."
            return Finding("one-answer", "warning", message)
    return None


def empty_answers(found: Written) -> Finding | None:
    """More than one answer in a hundred is empty, or white space alone."""
    for how, way in found.ways.items():
        if way.empty > 0.01 * way.answers:
            share = percent(way.empty / way.answers)
            return Finding(
                "empty-answers", "warning", f"{how}: {way.empty:,} of {way.answers:,} answers ({share}) are empty."
            )
    return None
