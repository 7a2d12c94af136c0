"""Every arm of a study against its baseline: estimate, interval, p after Holm, verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.errors import WeftError
from weft.studies.estimates import Estimate, MeanSquares, correlation, crossed, over_folds, over_seeds, paired, welch
from weft.studies.planning import Noise
from weft.studies.resampling import FEWEST_PAIRS, FEWEST_RESAMPLED, bootstrap, holm, sign_flip
from weft.studies.scores import FoldScores, ItemScores, Numbers, Scores
from weft.studies.verdicts import Interval, Plan, Question, Verdict, judge

NEGLIGIBLE = 1e-12
"""A standard error below this share of the scores is rounding, not noise."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of two arms over shared seeds, with its interval (Fisher's z) from 4 seeds."""

    value: float
    seeds: int
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """What is known of one arm. Effects are arm - baseline in the metric's own unit, whatever its direction.

    `interval`, `p`: of this comparison alone; `p_holm`, `p_equivalence`: after Holm over all declared comparisons.
    `missing`: seeds at which a cell failed, here or in the baseline; they are left out.
    """

    arm: str
    baseline: str
    method: str
    seeds: int
    missing: tuple[int, ...]
    effect: float
    interval: Interval
    p: float
    p_holm: float
    p_equivalence: float | None
    verdict: Verdict
    correlation: Correlation | None = None
    on_this_test_set: Interval | None = None
    sign_flip: float | None = None
    bootstrap: Interval | None = None


@dataclass(frozen=True)
class _Measured:
    """One comparison before Holm: its estimate, where a plan starts from, and what else is reported."""

    estimate: Estimate
    method: str
    seeds: int
    items: int | None
    noise: Noise | None
    scale: float
    label: str
    missing: tuple[int, ...]
    extras: dict[str, Any]

    @property
    def silent(self) -> bool:
        """Whether no noise was measured, so that nothing can be told from it."""
        return float(self.estimate.error) <= NEGLIGIBLE * self.scale


def compare(scores: Scores, question: Question) -> tuple[Comparison, ...]:
    """Each arm but the baseline against it, or against the arm before, in the order of the arms.

    The method is chosen by the scores' shape and number. An arm of which too many cells failed is *untested*, and its
    words say why. Raises WeftError where the baseline is no arm, no other arm is there, or no arm at all has run with
    enough seeds.
    """
    if question.baseline not in scores.arms:
        raise WeftError(f"baseline: {question.baseline!r} is not among the arms {', '.join(scores.arms)}")
    arms = [arm for arm in scores.arms if arm != question.baseline]
    if not arms:
        raise WeftError(f"arms: there is only the baseline {question.baseline!r}; what is it compared with?")
    against = {arm: scores.arms[scores.arms.index(arm) - 1] if question.ladder else question.baseline for arm in arms}
    measured = [_attempt(scores, arm, against[arm], question) for arm in arms]
    if isinstance(measured[0], WeftError) and all(isinstance(one, WeftError) for one in measured):
        raise measured[0]
    told = [None if isinstance(one, WeftError) or one.silent else one.estimate for one in measured]
    p_values = [np.nan if one is None else float(one.p_value()) for one in told]
    adjusted = holm(p_values)
    equivalent: list[float | None] = [None] * len(arms)
    if (margin := question.margin) is not None:
        equivalent[:] = holm([np.nan if one is None else float(one.equivalence_p(margin)) for one in told])
    level = question.alpha / max(1, sum(p > question.alpha for p in adjusted))
    return tuple(
        _concluded(arm, against[arm], question, one, (p, p_holm, p_tost), level)
        for arm, one, p, p_holm, p_tost in zip(arms, measured, p_values, adjusted, equivalent, strict=True)
    )


def _attempt(scores: Scores, arm: str, baseline: str, question: Question) -> _Measured | WeftError:
    """The comparison, or why there is none."""
    try:
        return _measure(scores, arm, baseline, question)
    except WeftError as error:
        return error


def _concluded(
    arm: str,
    baseline: str,
    question: Question,
    one: _Measured | WeftError,
    p: tuple[float, float, float | None],
    level: float,
) -> Comparison:
    """The comparison with its verdict; p is raw, after Holm, and of equivalence."""
    if isinstance(one, WeftError):
        nothing = Interval(np.nan, np.nan, 1 - question.alpha, "none")
        return Comparison(arm, baseline, "none", 0, (), np.nan, nothing, *p, Verdict("untested", f"untested: {one}"))
    effect, interval = float(one.estimate.effect), _interval(one.estimate, question, one.label)
    if one.silent:
        verdict = Verdict("untested", f"untested: the difference is {effect:g} at every seed, so no noise was measured")
    else:
        verdict = judge(question, effect, interval, p[1], p[2], Plan(one.noise, one.seeds, one.items, level))
    return Comparison(arm, baseline, one.method, one.seeds, one.missing, effect, interval, *p, verdict, **one.extras)


def _interval(estimate: Estimate, question: Question, label: str) -> Interval:
    low, high = estimate.interval(1 - question.alpha)
    return Interval(float(low), float(high), 1 - question.alpha, label)


def _measure(scores: Scores, arm: str, baseline: str, question: Question) -> _Measured:
    rows = scores.arms.index(baseline), scores.arms.index(arm)
    if isinstance(scores, FoldScores):
        return _by_folds(scores.values_AK[list(rows)], scores.test_share)
    values = scores.values_ASI if isinstance(scores, ItemScores) else scores.values_AS
    there_PS = [np.asarray(np.isfinite(values[row]).reshape(len(scores.seeds), -1).all(-1)) for row in rows]
    both_S = there_PS[0] & there_PS[1]
    missing = tuple(seed for seed, there in zip(scores.seeds, both_S.tolist(), strict=True) if not there)
    if isinstance(scores, ItemScores):
        base_SI, arm_SI = (values[row][both_S] for row in rows)
        return _by_items(base_SI, arm_SI, missing, question)
    if not scores.shared_seeds:
        return _by_own_seeds(values[rows[0]][there_PS[0]], values[rows[1]][there_PS[1]], missing)
    base_S, arm_S = (values[row][both_S] for row in rows)
    return _by_seeds(base_S, arm_S, missing, question)


def _by_items(base_SI: Numbers, arm_SI: Numbers, missing: tuple[int, ...], question: Question) -> _Measured:
    """Seeds and items both random; the interval of seeds alone stands beside it."""
    squares = MeanSquares.of(arm_SI - base_SI)
    estimate = crossed(squares)
    n, items = squares.n_seeds, squares.n_items
    base_S, arm_S = base_SI.mean(-1), arm_SI.mean(-1)
    extras = _beside(base_S, arm_S, question, "on this test set")
    extras["on_this_test_set"] = _interval(paired(arm_S - base_S), question, "on this test set")
    method = f"crossed variance of {n} seeds and {items} items, Satterthwaite df {_df(estimate)}"
    scale = float(max(np.abs(base_SI).max(), np.abs(arm_SI).max()))
    noise = Noise.of_squares(squares) if squares.both + squares.seed + squares.item > 0 else None
    return _Measured(estimate, method, n, items, noise, scale, "on data like these", missing, extras)


def _by_seeds(base_S: Numbers, arm_S: Numbers, missing: tuple[int, ...], question: Question) -> _Measured:
    """Seeds alone are random, and the arms share them."""
    estimate, r = over_seeds(base_S, arm_S)
    n, is_paired = len(base_S), bool(r > 0)
    method = f"paired t over {n} seeds" if is_paired else f"Welch's t over {n} seeds an arm, df {_df(estimate)}"
    known = f" (measured correlation {float(r):.2f})" if n > 2 else " (two seeds say nothing of a correlation)"
    method += known if np.isfinite(r) else " (an arm is the same at every seed)"
    noise = _noise(estimate, n, not is_paired)
    scale = float(max(np.abs(base_S).max(), np.abs(arm_S).max()))
    extras = _beside(base_S, arm_S, question, "over seeds")
    return _Measured(estimate, method, n, None, noise, scale, "over seeds", missing, extras)


def _by_own_seeds(base_S: Numbers, arm_S: Numbers, missing: tuple[int, ...]) -> _Measured:
    """Seeds alone are random, and each arm has its own."""
    estimate, n = welch(base_S, arm_S), min(len(base_S), len(arm_S))
    method = f"Welch's t over {len(base_S)} and {len(arm_S)} seeds that are not shared, df {_df(estimate)}"
    scale = float(max(np.abs(base_S).max(), np.abs(arm_S).max()))
    return _Measured(estimate, method, n, None, _noise(estimate, n, True), scale, "over seeds", missing, {})


def _by_folds(values_PK: Numbers, test_share: float) -> _Measured:
    """Folds whose training sets overlap."""
    if not np.isfinite(values_PK).all():
        raise WeftError("scores: a fold has no score; folds share their data, so none can be left out")
    estimate, n = over_folds(values_PK[1] - values_PK[0], test_share), values_PK.shape[1]
    method = f"Nadeau-Bengio corrected t over {n} folds"
    return _Measured(estimate, method, n, None, None, float(np.abs(values_PK).max()), "over folds", (), {})


def _noise(estimate: Estimate, n: int, independent: bool) -> Noise | None:
    spread = float(estimate.error) * np.sqrt(n)
    return Noise(spread, independent=independent) if spread > 0 else None


def _df(estimate: Estimate) -> str:
    return f"{float(estimate.df):.1f}"


def _beside(base_S: Numbers, arm_S: Numbers, question: Question, label: str) -> dict[str, Any]:
    """What is reported beside the estimate where seeds are enough: correlation, sign-flip, bootstrap."""
    from scipy import stats

    n, extras, d_S = len(base_S), dict[str, Any](), arm_S - base_S
    if np.isfinite(r := float(correlation(base_S, arm_S))):
        extras["correlation"] = Correlation(r, n, None)
        if n >= 4:
            ends = stats.pearsonr(base_S, arm_S).confidence_interval(1 - question.alpha)
            interval = Interval(float(ends.low), float(ends.high), 1 - question.alpha, "over seeds")
            extras["correlation"] = Correlation(r, n, interval)
    if n >= FEWEST_PAIRS:
        extras["sign_flip"] = sign_flip(d_S)
    if n >= FEWEST_RESAMPLED:
        low, high = bootstrap(d_S, 1 - question.alpha)
        extras["bootstrap"] = Interval(float(low), float(high), 1 - question.alpha, label)
    return extras
