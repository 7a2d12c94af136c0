"""Estimates of a difference with what they may err by: crossed variances, paired t, Welch, Nadeau-Bengio.

Every function works on the last axes (S seeds, I items, K folds) and keeps those before them, so that thousands of
simulated or split studies are one call. docs/studies.md says which method is used where, and how often each errs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from weft.errors import WeftError
from weft.studies.scores import Numbers

FEWEST_SEEDS = 3
"""Seeds that the crossed variance needs: with 2 it errs in up to 12 % for a nominal 5 % (docs/studies.md)."""


@dataclass(frozen=True)
class Estimate:
    """A difference, its standard error and the degrees of freedom of that error."""

    effect: Numbers
    error: Numbers
    df: Numbers

    def p_value(self) -> Numbers:
        """Two-sided p of "no difference"; NaN where no noise was measured."""
        from scipy import stats

        return np.asarray(2 * stats.t.sf(np.abs(self._t(0.0)), self.df))

    def interval(self, confidence: float = 0.95) -> tuple[Numbers, Numbers]:
        """Lower and upper end."""
        from scipy import stats

        half = stats.t.ppf((1 + confidence) / 2, self.df) * self.error
        return np.asarray(self.effect - half), np.asarray(self.effect + half)

    def equivalence_p(self, margin: float) -> Numbers:
        """p of "the difference is `margin` or more, either way": two one-sided tests (Schuirmann 1987)."""
        from scipy import stats

        above = stats.t.sf(self._t(-margin), self.df)
        below = stats.t.cdf(self._t(margin), self.df)
        return np.asarray(np.maximum(above, below))

    def _t(self, null: float) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(self.error > 0, (self.effect - null) / self.error, np.nan))


def _at_least(n: int, fewest: int, what: str, why: str) -> None:
    if n < fewest:
        raise WeftError(f"{what}: {n} given, at least {fewest} needed: {why}")


def paired(d_S: Numbers) -> Estimate:
    """Student's paired t over the differences of seeds that both arms share."""
    n = d_S.shape[-1]
    _at_least(n, 2, "paired t over seeds", "one seed says nothing about how much seeds differ")
    return Estimate(d_S.mean(-1), d_S.std(-1, ddof=1) / np.sqrt(n), np.asarray(n - 1.0))


def welch(base_S: Numbers, arm_S: Numbers) -> Estimate:
    """Unpaired t with a variance for each arm (Welch 1947); the arms may have unequal numbers of seeds."""
    sizes = base_S.shape[-1], arm_S.shape[-1]
    _at_least(min(sizes), 2, "Welch's t over seeds", "one seed says nothing about how much seeds differ")
    parts = [x.var(-1, ddof=1) / n for x, n in zip((base_S, arm_S), sizes, strict=True)]
    total = parts[0] + parts[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        df = total**2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    return Estimate(arm_S.mean(-1) - base_S.mean(-1), np.sqrt(total), np.asarray(df))


def correlation(base_S: Numbers, arm_S: Numbers) -> Numbers:
    """Pearson's r of two arms over the seeds they share; NaN where an arm is the same at every seed."""
    base_S, arm_S = (x - x.mean(-1, keepdims=True) for x in (base_S, arm_S))
    spread = np.sqrt((base_S**2).sum(-1) * (arm_S**2).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((base_S * arm_S).sum(-1) / spread)


def over_seeds(base_S: Numbers, arm_S: Numbers) -> tuple[Estimate, Numbers]:
    """For corpus metrics: paired t where the measured correlation is positive, else Welch; and that correlation."""
    one, other = paired(arm_S - base_S), welch(base_S, arm_S)
    r = correlation(base_S, arm_S)
    return Estimate(one.effect, np.where(r > 0, one.error, other.error), np.where(r > 0, one.df, other.df)), r


def over_folds(d_K: Numbers, test_share: float) -> Estimate:
    """Corrected resampled t for folds whose training sets overlap (Nadeau & Bengio 2003).

    The variance of the mean is (1/K + n_test/n_train) s^2, as if folds correlated by the share that is tested.
    """
    n = d_K.shape[-1]
    _at_least(n, 2, "t over folds", "one fold says nothing about how much folds differ")
    ratio = test_share / (1 - test_share)
    return Estimate(d_K.mean(-1), d_K.std(-1, ddof=1) * np.sqrt(1 / n + ratio), np.asarray(n - 1.0))


@dataclass(frozen=True)
class MeanSquares:
    """A two-way table of differences without repeats: mean, mean squares of seeds, items and their interaction."""

    effect: Numbers
    seed: Numbers
    item: Numbers
    both: Numbers
    n_seeds: int
    n_items: int

    @classmethod
    def of(cls, d_SI: Numbers) -> MeanSquares:
        """From the differences arm - baseline of every seed and item."""
        n_seeds, n_items = d_SI.shape[-2:]
        _at_least(n_seeds, FEWEST_SEEDS, "crossed variance, seeds", "with fewer it errs more often than it says")
        _at_least(n_items, 2, "crossed variance, items", "one item says nothing about how much items differ")
        effect = d_SI.mean((-2, -1))
        d_SI = d_SI - effect[..., None, None]
        seed_S, item_I = d_SI.mean(-1), d_SI.mean(-2)
        rest_SI = d_SI - seed_S[..., :, None] - item_I[..., None, :]
        return cls(
            effect,
            n_items * (seed_S**2).sum(-1) / (n_seeds - 1),
            n_seeds * (item_I**2).sum(-1) / (n_items - 1),
            (rest_SI**2).sum((-2, -1)) / ((n_seeds - 1) * (n_items - 1)),
            n_seeds,
            n_items,
        )


def crossed(squares: MeanSquares) -> Estimate:
    """The difference with seeds *and* items drawn at random: "this recipe, on data like these".

    Variance (MS_seed + MS_item - MS_both) / (S I), of seeds, items and their interaction (Clark 1973; Owen
    2007), where a component that is estimated below 0 counts as 0; degrees of freedom by Satterthwaite (1946; with a
    difference in it: Gaylor & Hopper 1969).
    """
    parts = (np.maximum(squares.seed, squares.both), np.maximum(squares.item, squares.both), squares.both)
    total = parts[0] + parts[1] - parts[2]
    spread = satterthwaite(squares.seed, squares.item, squares.both, squares.n_seeds, squares.n_items)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = total**2 / spread
    return Estimate(squares.effect, np.sqrt(total / (squares.n_seeds * squares.n_items)), np.asarray(df))


def satterthwaite(seed: ArrayLike, item: ArrayLike, both: ArrayLike, n_seeds: ArrayLike, n_items: ArrayLike) -> Numbers:
    """What the squared sum of mean squares is divided by: each one's square over its degrees of freedom."""
    n_seeds, n_items = np.asarray(n_seeds) - 1.0, np.asarray(n_items) - 1.0
    squares = np.asarray(seed) ** 2, np.asarray(item) ** 2, np.asarray(both) ** 2
    return np.asarray(squares[0] / n_seeds + squares[1] / n_items + squares[2] / (n_seeds * n_items))
