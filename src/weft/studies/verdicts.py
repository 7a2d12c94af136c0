"""From figures to words: better, worse, equivalent, undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from weft.errors import WeftError
from weft.studies.planning import MOST_SEEDS, Noise, items_for, seeds_for, seeds_for_equivalence

Kind = Literal["better", "worse", "equivalent", "undecided", "untested"]


@dataclass(frozen=True)
class Question:
    """What a study asks, declared before it runs: the metric, its direction, the baseline, what difference matters.

    Differences smaller than `margin` do not matter; without one, nothing can be called equivalent.
    """

    metric: str
    better: Literal["lower", "higher"]
    baseline: str
    margin: float | None = None
    alpha: float = 0.05
    ladder: bool = False
    """each arm is compared with the one before it, and not all with the baseline"""

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise WeftError(f"better: {self.better!r} is no direction: lower or higher?")
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise WeftError(f"margin: {self.margin} cannot be a margin: the smallest difference that matters, above 0")
        if not 0 < self.alpha < 0.5:
            raise WeftError(f"alpha: {self.alpha} is no error rate: 0.05 is usual")

    @property
    def sign(self) -> int:
        """What turns arm - baseline into an improvement."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Interval:
    """Ends of an interval, and what it is an interval of."""

    low: float
    high: float
    confidence: float
    label: str

    def words(self, digits: int, sign: int = 1) -> str:
        """`0.012 to 0.030`, as an improvement where a sign is given."""
        low, high = sorted((sign * self.low, sign * self.high))
        return f"{low:.{digits}f} to {high:.{digits}f}"


@dataclass(frozen=True)
class Verdict:
    """What is said of an arm, and how much more would be needed where nothing can be said.

    `more_seeds`: None where no number up to 1,000 is enough; then `more_items` may be. Both are None in other verdicts.
    """

    kind: Kind
    words: str
    more_seeds: int | None = None
    more_items: int | None = None


def digits_of(interval: Interval) -> int:
    """Decimals that show two figures of half an interval's length."""
    half = (interval.high - interval.low) / 2
    return max(0, 1 - math.floor(math.log10(half))) if half > 0 else 6


@dataclass(frozen=True)
class Plan:
    """What a further plan starts from: noise as measured, seeds and items so far, the level that must be reached.

    `noise` is None where more of the same would not help (folds of the same data).
    """

    noise: Noise | None
    seeds: int
    items: int | None
    alpha: float


def judge(
    question: Question, effect: float, interval: Interval, p: float, p_equivalence: float | None, plan: Plan
) -> Verdict:
    """The verdict for an arm; both p-values are those after Holm."""
    gain, digits = question.sign * effect, digits_of(interval)
    kind: Kind = "better" if gain > 0 else "worse"
    ends = interval.words(digits, question.sign if gain > 0 else -question.sign)
    difference = f"{kind} by {abs(gain):.{digits}f} ({ends})"
    if p_equivalence is not None and p_equivalence <= question.alpha:
        note = f": {difference}, less than matters" if p <= question.alpha else f": measured {difference}"
        return Verdict("equivalent", f"equivalent within {question.margin:g}{note}")
    if p <= question.alpha:
        return Verdict(kind, difference)
    seeds, items = _needed(question, effect, plan)
    words = f"undecided: {_outlook(question, plan, seeds, items)}; measured {difference}"
    if interval.low * interval.high > 0:
        words += ", which does not stand among several comparisons (Holm)"
    return Verdict("undecided", words, seeds, items)


def _needed(question: Question, effect: float, plan: Plan) -> tuple[int | None, int | None]:
    """More seeds, else more items, that would find the measured difference, or tell it from the margin."""
    if plan.noise is None:
        return None, None
    size = max(abs(effect), question.margin or 0.0)
    if not size:
        return None, None
    enough = [seeds_for(size, plan.noise, plan.items, alpha=plan.alpha)]
    if question.margin is not None and abs(effect) < question.margin:
        enough.append(seeds_for_equivalence(question.margin, plan.noise, plan.items, alpha=plan.alpha))
    counts = [count for count in enough if count is not None]
    if len(counts) == len(enough):
        return max(1, max(counts) - plan.seeds), None
    if plan.items is None:
        return None, None
    items = items_for(size, plan.noise, plan.seeds, plan.items, plan.alpha)
    return None, None if items is None else max(1, items - plan.items)


def _outlook(question: Question, plan: Plan, seeds: int | None, items: int | None) -> str:
    if plan.noise is None:
        return "more folds of the same data would not tell, more data would"
    if seeds is not None:
        return f"about {seeds} more seed{'s' * (seeds > 1)} would tell"
    if items is not None:
        return f"no number of seeds would tell on these {plan.items} items, about {items} more items would"
    hint = "" if question.margin else " a difference this small; a margin would say whether it matters"
    return f"{MOST_SEEDS} seeds would not tell{hint}"
