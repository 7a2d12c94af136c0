"""What a study can find: power, the smallest detectable difference, how many seeds a difference needs.

By the noncentral t distribution (Cohen 1988); with seeds and items both random, its degrees of freedom are
Satterthwaite's of the expected mean squares (Westfall, Kenny & Judd 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from weft.errors import WeftError
from weft.studies.estimates import FEWEST_SEEDS, MeanSquares, satterthwaite
from weft.studies.scores import CorpusScores, ItemScores, Numbers

MOST_SEEDS = 1000
"""Where a search for enough seeds ends."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations of one difference between two arms: of a seed, of an item, of the two together.

    `item` and `both` are 0 for corpus metrics. `independent`: the arms share no seeds, and each has its own degrees of
    freedom (Welch); then `seed` is the root of the sum of both variances.
    """

    seed: float
    item: float = 0.0
    both: float = 0.0
    independent: bool = False

    def __post_init__(self) -> None:
        parts = self.seed, self.item, self.both
        if not all(np.isfinite(part) and part >= 0 for part in parts) or not any(parts):
            raise WeftError(f"noise: seed={self.seed}, item={self.item}, both={self.both}: numbers above 0 are needed")

    @classmethod
    def of_arms(cls, sd: float, correlation: float = 0.0) -> Noise:
        """Stated: the standard deviation of an arm over seeds, and how much two arms correlate (0: independent)."""
        if not -1 <= correlation < 1:
            raise WeftError(f"noise: correlation={correlation}: between -1 and 1 is possible")
        return cls(float(sd * np.sqrt(2 * (1 - correlation))), independent=correlation == 0)

    @classmethod
    def of_squares(cls, squares: MeanSquares) -> Noise:
        """Measured: the components of a table of differences; what is estimated below 0 counts as 0."""
        seed = max(0.0, float(squares.seed - squares.both)) / squares.n_items
        item = max(0.0, float(squares.item - squares.both)) / squares.n_seeds
        return cls(math.sqrt(seed), math.sqrt(item), math.sqrt(float(squares.both)))

    @property
    def crossed(self) -> bool:
        """Whether items are random, too."""
        return self.item > 0 or self.both > 0

    @property
    def fewest(self) -> int:
        """Seeds that a comparison needs at least."""
        return FEWEST_SEEDS if self.crossed else 2

    def error(self, seeds: ArrayLike, items: ArrayLike | None = None) -> tuple[Numbers, Numbers]:
        """Standard error of a difference of so many seeds and items, and its degrees of freedom."""
        seeds = np.asarray(seeds, dtype=np.float64)
        if np.min(seeds) < self.fewest:
            raise WeftError(f"seeds: {int(np.min(seeds))} given, at least {self.fewest} needed to measure their noise")
        if not self.crossed:
            return self.seed / np.sqrt(seeds), (seeds - 1) * (2 if self.independent else 1)
        if items is None or np.min(items) < 2:
            raise WeftError(f"items: {items!r} given, but this noise is one of items, too: how many are tested?")
        items = np.asarray(items, dtype=np.float64)
        both = self.both**2
        seed, item = both + items * self.seed**2, both + seeds * self.item**2
        total = seed + item - both
        return np.sqrt(total / (seeds * items)), total**2 / satterthwaite(seed, item, both, seeds, items)


def power(
    difference: float, noise: Noise, seeds: ArrayLike, items: ArrayLike | None = None, alpha: float = 0.05
) -> Numbers:
    """Chance that a true difference of this size is found, by a two-sided test at level alpha."""
    from scipy import stats

    error, df = noise.error(seeds, items)
    distance = np.abs(difference) / error
    if noise.independent:
        return _welch_power(distance, df / 2, alpha)
    limit = stats.t.isf(alpha / 2, df)
    found, wrong_way = stats.nct.sf(limit, df, distance), stats.nct.cdf(-limit, df, distance)
    return np.asarray(found + np.nan_to_num(wrong_way))  # far out, scipy's lower tail is NaN where it is 0


def _welch_power(distance: Numbers, df: Numbers, alpha: float) -> Numbers:
    """Welch's test of arms that are equally noisy, `df` each; `distance` in standard errors.

    Given both measured variances (chi2/df of the true one) it is a normal probability; its mean over 40 x 40 equally
    likely pairs is taken. The 2n - 2 degrees of freedom of usual tables promise too much: 80 % at 3 seeds are 70 %.
    """
    from scipy import stats

    ratio = stats.chi2.ppf((np.arange(40) + 0.5) / 40, df[..., None]) / df[..., None]
    one, other = ratio[..., :, None], ratio[..., None, :]
    welch_df = df[..., None, None] * (one + other) ** 2 / (one**2 + other**2)
    limit = stats.t.isf(alpha / 2, welch_df) * np.sqrt((one + other) / 2)
    shift = np.asarray(distance)[..., None, None]
    return np.asarray((stats.norm.sf(limit - shift) + stats.norm.sf(limit + shift)).mean((-2, -1)))


def equivalence_power(
    margin: float, noise: Noise, seeds: ArrayLike, items: ArrayLike | None = None, alpha: float = 0.05
) -> Numbers:
    """Chance that two one-sided tests show equivalence where there is no difference at all.

    Given the measured error (its ratio to the true one is a root of chi2/df) it is a normal probability; its mean over
    400 equally likely errors is taken.
    """
    from scipy import stats

    error, df = (np.asarray(x)[..., None] for x in noise.error(seeds, items))
    ratio = np.sqrt(stats.chi2.ppf((np.arange(400) + 0.5) / 400, df) / df)
    room = margin / error - stats.t.isf(alpha, df) * ratio
    return np.asarray(np.maximum(0.0, 2 * stats.norm.cdf(room) - 1).mean(-1))


def smallest_difference(
    noise: Noise, seeds: int, items: int | None = None, target: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference that so many seeds (and items) find with the target power."""
    from scipy import optimize

    if not alpha < target < 1:
        raise WeftError(f"power: {target} asked, between {alpha} (what chance finds) and 1 is possible")
    highest = float(noise.error(seeds, items)[0])
    while power(highest, noise, seeds, items, alpha) < target:
        highest *= 2
    return float(optimize.brentq(lambda x: float(power(x, noise, seeds, items, alpha)) - target, 0.0, highest))


def seeds_for(
    difference: float, noise: Noise, items: int | None = None, target: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Seeds that find a true difference of this size with the target power; None: not 1,000 do (items limit it)."""
    if not difference:
        raise WeftError("difference: 0 cannot be found by any number of seeds; a margin can show equivalence")
    return _fewest(lambda n: power(difference, noise, n, items, alpha) >= target, noise.fewest, MOST_SEEDS)


def seeds_for_equivalence(
    margin: float, noise: Noise, items: int | None = None, target: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Seeds that show two equal arms to be equivalent within the margin, with the target power; None: not 1,000 do."""
    return _fewest(lambda n: equivalence_power(margin, noise, n, items, alpha) >= target, noise.fewest, MOST_SEEDS)


def items_for(difference: float, noise: Noise, seeds: int, items: int, alpha: float = 0.05) -> int | None:
    """Items, at least those there are, that find a difference with 80 % power; None: not 1,000 times as many do."""
    return _fewest(lambda n: power(difference, noise, seeds, n, alpha) >= 0.8, items, 1000 * items)


def _fewest(enough: Callable[[int], Any], low: int, high: int) -> int | None:
    """The smallest number in a range that is enough, where all above it are, too."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def probed(scores: ItemScores | CorpusScores, arm: str) -> Noise:
    """The noise to expect of a difference, from a few seeds of one arm, as if the other shared nothing with it.

    Two arms of one recipe treat items alike, so `item` is 0: for recipes that do not, this is a lower bound.
    """
    if arm not in scores.arms:
        raise WeftError(f"arm: {arm!r} is not among {', '.join(scores.arms)}")
    row = scores.arms.index(arm)
    if isinstance(scores, CorpusScores):
        values_S = scores.values_AS[row][np.isfinite(scores.values_AS[row])]
        if len(values_S) < 2:
            raise WeftError(f"noise: arm {arm!r} has {len(values_S)} seeds, at least 2 are needed to measure it")
        return Noise.of_arms(float(values_S.std(ddof=1)))
    values_SI = scores.values_ASI[row][np.isfinite(scores.values_ASI[row]).all(-1)]
    one = Noise.of_squares(MeanSquares.of(values_SI))
    return replace(one, seed=one.seed * math.sqrt(2), item=0.0, both=one.both * math.sqrt(2))
