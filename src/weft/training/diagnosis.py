"""What a run's curves support, and no more: each rule says one sentence with its figures, or says nothing.

A rule's docstring is the rule in full; a report shows it beside what it found.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, median
from typing import Literal

from weft.report.formats import percent, significant
from weft.training.measures import LANGUAGE, Metric, task_of
from weft.training.record import Curve, Log, curve_of

Level = Literal["warning", "note", "good"]

FEW_LINES = 12
ENOUGH_EVALUATIONS = 4
TYPICAL_RATIO = 1e-3


@dataclass(frozen=True)
class Finding:
    """One sentence about a run: what kind, how grave, at which step if at one, and the rule that it follows."""

    kind: str
    level: Level
    message: str
    step: int | None = None
    rule: str = ""


def diagnose(log: Log) -> list[Finding]:
    """What the curves support, gravest first; pure, and the same for the same log."""
    rules = (not_finite, diverging, overfitting, trend, underfitting, short, gradients, layer_gradients, update_ratios)
    return ordered(explained(rule, rule(log)) for rule in rules)


def explained(rule: Callable[..., object], finding: Finding | None) -> Finding | None:
    """What a rule found, with the rule's docstring."""
    return replace(finding, rule=" ".join((inspect.getdoc(rule) or "").split())) if finding else None


def ordered(findings: Iterable[Finding | None]) -> list[Finding]:
    """What was found, gravest first."""
    found = [finding for finding in findings if finding]
    return sorted(found, key=lambda finding: ("warning", "note", "good").index(finding.level))


def not_finite(log: Log) -> Finding | None:
    """The first training loss, or else validation loss or gradient norm, that is NaN or infinite; and whether the last
    one is finite again."""
    for kind, split, name, words in (
        ("not-finite", "train", "loss", "training loss"),
        ("not-finite", "validation", "loss", "validation loss"),
        ("gradient-not-finite", "train", "gradient_norm", "gradient norm"),
    ):
        curve = log.curve(split, name)
        bad = [pair for pair in zip(curve.steps, curve.values, strict=True) if not math.isfinite(pair[1])]
        if not bad:
            continue
        step, value = bad[0]
        if math.isfinite(curve.values[-1]):
            message = f"The {words} was not finite on {len(bad):,} of {len(curve):,} lines, first at step {step:,}."
            return Finding(f"{kind}-at-times", "warning", message, step)
        return Finding(kind, "warning", f"The {words} became {significant(value)} at step {step:,}.", step)
    return None


def diverging(log: Log) -> Finding | None:
    """The median training loss of the last tenth of the lines (at least 3) exceeds the lowest median of any earlier
    stretch of as many lines by more than 5 % and by more than 4 times the noise from line to line (robust: from the
    median of successive differences)."""
    loss = log.curve("train", "loss").finite()
    size = max(3, len(loss) // 10)
    if len(loss) < max(FEW_LINES, 3 * size):
        return None
    starts = range(0, len(loss) - size + 1, size)
    levels = [(median(loss.values[i : i + size]), i) for i in starts]
    lowest, at = min(levels)
    last = median(loss.values[-size:])
    if last - lowest <= max(0.05 * abs(lowest), 4 * _noise(loss)):
        return None
    step = loss.steps[at + size // 2]
    unit = task_of(log).loss.name
    message = f"The training loss rose from {lowest:.3g} {unit} around step {step:,} to {last:.3g} at the end."
    return Finding("diverging", "warning", message, step)


def overfitting(log: Log) -> Finding | None:
    """From at least 4 validation measurements of one text made in one way: overfitting where the last lies more than
    1 % above the best, at least two follow the best, and the median training loss falls from the evaluation interval
    before the best to the last interval; where the training loss does not fall, the rise alone is said; where the last
    lies within 1 % of the best, no overfitting is seen. What a task is judged by may go on rising meanwhile; it is said
    beside."""
    validation, metric = _validation(log)
    if len(validation) < ENOUGH_EVALUATIONS:
        return None
    best = min(range(len(validation)), key=lambda i: validation.values[i])
    low, last, step = validation.values[best], validation.values[-1], validation.steps[best]
    rise = (last - low) / low if low > 0 else 0.0
    if rise <= 0.01:
        where = "the last" if best == len(validation) - 1 else f"that of step {step:,}, the last within {percent(rise)}"
        message = f"No overfitting seen: of {len(validation)} validation measurements the best is {where}."
        return Finding("no-overfitting", "good", message)
    if len(validation) - 1 - best < 2:
        return None
    size = validation.steps[-1] - validation.steps[-2]
    loss = log.curve("train", "loss").finite()
    before, after = loss.between(step - size, step), loss.between(validation.steps[-1] - size, validation.steps[-1])
    rose = (
        f"validation was best at step {step:,} ({low:.3g} {metric.name}) and is {percent(rise)} above that at the end"
    )
    beside = _meanwhile(log, step)
    if not before.values or not after.values or median(after.values) >= median(before.values):
        return Finding("validation-rose", "warning", f"{rose[0].upper()}{rose[1:]} ({last:.3g}){beside}.", step)
    fell = f"training fell from {median(before.values):.3g} to {median(after.values):.3g} {task_of(log).loss.name}"
    return Finding("overfitting", "warning", f"Overfitting: {rose} ({last:.3g}), while {fell}{beside}.", step)


def trend(log: Log) -> Finding | None:
    """Least-squares line through the training loss of the last quarter of the steps (at least the last 8 lines), with
    the 95 % interval of its change, lines taken as independent: still falling where the interval lies below zero and
    the change exceeds 0.5 % (training alone, where validation rose meanwhile); level where the whole interval lies
    within 2 % of zero; undecided otherwise."""
    change = _change(log)
    if change is None:
        return None
    share, half, first, last = change
    span = f"from step {first:,} to {last:,} the training loss"
    moved = f"{'fell' if share < 0 else 'rose'} by {percent(abs(share))} (± {percent(half)})"
    if share + half < 0 and share < -0.005:
        beside = f"{_validation_too(log, first)}{_decay(log, first, last)}"
        if "validation rose" in beside:
            return Finding("training-falling", "note", f"Training alone still falls: {span} {moved}{beside}.")
        return Finding("falling", "note", f"Still falling: {span} {moved}{beside}.")
    if abs(share) + half < 0.02:
        return Finding("plateau", "note", f"Level: {span} {moved}{_validation_too(log, first)}.")
    if share - half > 0:
        return None
    message = f"Undecided: {span} {moved}; that does not tell falling from level."
    return Finding("undecided", "note", message)


def underfitting(log: Log) -> Finding | None:
    """Where the training loss of a language model is level (as above) and the last validation loss lies at most 2 %
    above the median training loss of the last tenth: what limits is then not the amount of text (elsewhere label
    smoothing raises the training loss alone). Or, from at least 12 lines: the median training loss of the last tenth is
    above 95 % of the first line's."""
    loss = log.curve("train", "loss").finite()
    if len(loss) < FEW_LINES:
        return None
    now, start = median(loss.tail(0.1).values), loss.values[0]
    if 0.95 * start < now <= start:
        fell = f"from {start:.3g} to {now:.3g} {task_of(log).loss.name}"
        return Finding("underfitting", "note", f"The training loss has hardly fallen since the first line: {fell}.")
    if task_of(log) is not LANGUAGE:
        return None
    change, validation = _change(log), curve_of(log.repeated(), "loss").finite()
    if change is None or abs(change[0]) + change[1] >= 0.02 or not len(validation) or now <= 0:
        return None
    gap = validation.values[-1] / now - 1
    if gap > 0.02:
        return None
    message = (
        f"Underfitting is possible: training ({now:.3g} nats per token) is level and validation "
        f"({validation.values[-1]:.3g}) lies {'at or below it' if gap <= 0 else f'only {percent(gap)} above it'}, "
        "so a larger model or another learning rate is likelier to help than more text."
    )
    return Finding("underfitting", "note", message)


def short(log: Log) -> Finding | None:
    """Fewer than 12 training lines, or fewer than 4 validation measurements of one text made in one way: what cannot be
    told."""
    lines, measured = len(log.curve("train", "loss").finite()), len(_validation(log)[0])
    if lines < FEW_LINES:
        return Finding("short", "note", f"Too little to judge a trend: {_plural(lines, 'training line')} in the log.")
    if measured < ENOUGH_EVALUATIONS:
        said = _plural(measured, "validation measurement")
        return Finding("few-evaluations", "note", f"Too little to judge overfitting: {said} that compare.")
    return None


def gradients(log: Log) -> Finding | None:
    """Gradient norm before clipping, from at least 12 lines, the first tenth left out: exploding where the median of
    the last tenth exceeds 10 times the median of the first half; spikes where a line exceeds 20 times the median."""
    norm = log.curve("train", "gradient_norm").finite()
    settled = norm.tail(0.9)
    if len(norm) < FEW_LINES or len(settled) < 8:
        return None
    middle = median(settled.values)
    early, late = median(settled.values[: len(settled) // 2]), median(norm.tail(0.1).values)
    if early <= 0:
        return None
    if late > 10 * early:
        message = f"Gradients grow: norm {late:.2g} at the end, {late / early:,.0f} times its level in the first half."
        return Finding("exploding", "warning", message)
    highest = max(settled.values)
    if highest > 20 * middle:
        step = settled.steps[settled.values.index(highest)]
        message = (
            f"The gradient norm spiked to {highest:.2g} at step {step:,}, {highest / middle:,.0f} times its median."
        )
        return Finding("spikes", "note", message, step)
    message = (
        f"The gradient norm stayed between {significant(min(settled.values), 2)} and {significant(highest, 2)} "
        f"(median {significant(middle, 2)})."
    )
    return Finding("steady-gradients", "good", message)


def layer_gradients(log: Log) -> Finding | None:
    """Median gradient norm of each numbered block over the second half of the steps, blocks of one stack compared:
    vanishing or exploding towards the input where the smallest is less than 1/100 of the largest. A layer whose median
    is zero, or not finite, is named whatever the others have."""
    medians = {name: _late_median(curve) for name, curve in log.layers("gradient_norm").items()}
    still = [name for name, value in medians.items() if value == 0]
    if still:
        return Finding("no-gradient", "warning", f"No gradient reaches {_some(still)}.")
    for stack in _stacks(medians):
        blocks = [(name, medians[name]) for name in stack if math.isfinite(medians[name])]
        if len(blocks) < 2:
            continue
        (low_name, low), (high_name, high) = min(blocks, key=_value), max(blocks, key=_value)
        if low * 100 < high:
            vanishing = _depth(low_name) < _depth(high_name)
            message = (
                f"Gradients {'vanish' if vanishing else 'explode'} towards the input: norm {low:.2g} in {low_name}, "
                f"{high:.2g} in {high_name}, {high / low:,.0f} times as much."
            )
            return Finding("vanishing" if vanishing else "exploding-layers", "warning", message)
    return None


def update_ratios(log: Log) -> Finding | None:
    """From at least 12 lines, the median over the steps (the first tenth left out) of each layer's update norm over its
    weight norm: about 0.001 is usual; a note outside 1e-4 to 1e-2, a warning outside 1e-5 to 1e-1."""
    curves = log.layers("update_ratio").items()
    medians = {name: median(curve.finite().tail(0.9).values or [math.nan]) for name, curve in curves}
    known = {name: value for name, value in medians.items() if math.isfinite(value)}
    if not known or len(log.of("train")) < FEW_LINES:
        return None
    lowest, highest = min(known.items(), key=_value), max(known.items(), key=_value)
    span = f"{significant(lowest[1], 2)} ({lowest[0]}) to {significant(highest[1], 2)} ({highest[0]})"
    if lowest[1] >= TYPICAL_RATIO / 10 and highest[1] <= TYPICAL_RATIO * 10:
        return Finding(
            "usual-updates", "good", f"Updates are of the usual size beside the weights: {span}, about 0.001."
        )
    slow = [name for name, value in known.items() if value < TYPICAL_RATIO / 10]
    fast = [name for name, value in known.items() if value > TYPICAL_RATIO * 10]
    parts = [f"small in {_some(slow)}"] * bool(slow) + [f"large in {_some(fast)}"] * bool(fast)
    far = lowest[1] < TYPICAL_RATIO / 100 or highest[1] > TYPICAL_RATIO * 100
    message = f"Updates beside the weights are {' and '.join(parts)}: {span}, where about 0.001 is usual."
    return Finding("unusual-updates", "warning" if far else "note", message)


def _validation(log: Log) -> tuple[Curve, Metric]:
    """The finite validation losses that compare, those of one text made in one way, and their unit."""
    task = task_of(log)
    for metric in (metric for metric in task.metrics if metric.lower):
        curve = curve_of(log.repeated(), metric.key).finite()
        if len(curve):
            return curve, metric
    return curve_of(log.repeated(), task.loss.key).finite(), task.loss


def _meanwhile(log: Log, step: int) -> str:
    """What became, from that step on, of the metric that a task is judged by; empty where that is the loss itself."""
    metric = task_of(log).metrics[0]
    known = curve_of(log.repeated(), metric.key).finite().between(step).values
    if metric.lower or len(known) < 2:
        return ""
    moved = "rose" if known[-1] > known[0] else "fell" if known[-1] < known[0] else "stayed"
    return f"; {metric.name} {moved} from {metric.show(known[0])} to {metric.show(known[-1])} meanwhile"


def _noise(curve: Curve) -> float:
    """The standard deviation from line to line, from successive differences, which a slow trend hardly touches."""
    steps = [abs(b - a) for a, b in zip(curve.values, curve.values[1:], strict=False)]
    return 1.4826 * median(steps) / math.sqrt(2) if steps else 0.0


def _change(log: Log) -> tuple[float, float, int, int] | None:
    """Relative change of the training loss at the end, half its 95 % interval, first and last step of that stretch."""
    loss = log.curve("train", "loss").finite()
    n = max(8, len(loss.tail(0.25)))
    part = Curve(loss.steps[-n:], loss.values[-n:])
    if len(loss) < FEW_LINES or min(part.values) <= 0 or part.steps[0] == part.steps[-1]:
        return None
    x, y = fmean(part.steps), fmean(part.values)
    spread = math.fsum((step - x) ** 2 for step in part.steps)
    slope = math.fsum((step - x) * value for step, value in zip(part.steps, part.values, strict=True)) / spread
    rest = math.fsum((v - y - slope * (s - x)) ** 2 for s, v in zip(part.steps, part.values, strict=True))
    span = part.steps[-1] - part.steps[0]
    error = math.sqrt(rest / (n - 2) / spread) * _student(n - 2)
    return slope * span / y, error * span / y, part.steps[0], part.steps[-1]


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by its expansion in 1/freedom (Fisher 1926; within 1 % from 4 on)."""
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _validation_too(log: Log, first: int) -> str:
    curve, metric = _validation(log)
    part = curve.between(first)
    if len(part) < 2:
        return ""
    before, after = part.values[0], part.values[-1]
    moved = "fell" if after < before else "rose" if after > before else "stayed"
    return f", and validation {moved} from {before:.3f} to {after:.3f} {metric.name}"


def _decay(log: Log, first: int, last: int) -> str:
    rate = log.curve("train", "learning_rate").finite().between(first, last).values
    if len(rate) < 2 or rate[-1] > 0.5 * rate[0]:
        return ""
    return "; the learning rate was being lowered, which by itself lowers the loss"


def _late_median(curve: Curve) -> float:
    values = curve.tail(0.5).values
    return median(values) if all(map(math.isfinite, values)) else math.nan


def _stacks(names: Iterable[str]) -> list[list[str]]:
    """The numbered blocks, by the stack they stand in."""
    stacks: dict[str, list[str]] = {}
    for name in names:
        stack, _, index = name.rpartition(".blocks.")
        if index.isdigit():
            stacks.setdefault(stack, []).append(name)
    return list(stacks.values())


def _depth(name: str) -> int:
    return int(name.rpartition(".")[2])


def _value(pair: tuple[str, float]) -> float:
    return pair[1]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plural(amount: int, thing: str) -> str:
    return f"{amount or 'no'} {thing}{'' if amount == 1 else 's'}"
