"""How often the chosen method is wrong on the user's own runs: the seeds of one recipe, split in two "arms" (A/A)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from weft.errors import WeftError
from weft.studies.estimates import FEWEST_SEEDS, MeanSquares, crossed, over_seeds
from weft.studies.scores import CorpusScores, ItemScores, Numbers

CHUNK = 4_000_000
"""Scores that are compared at a time."""


@dataclass(frozen=True)
class SelfCheck:
    """Splits of runs that do not differ in which a difference was claimed.

    The interval is Clopper and Pearson's for independent splits. They are not: they share runs, so the truth may lie
    farther off, and with few runs much farther.
    """

    claims: int
    splits: int
    runs: int
    group: int
    alpha: float
    low: float
    high: float
    method: str

    @property
    def rate(self) -> float:
        """False positives per split."""
        return self.claims / self.splits

    def words(self) -> str:
        """One line for a report."""
        return (
            f"{self.method} claims a difference in {self.claims} of {self.splits} random splits of {self.runs} runs "
            f"of like recipes into two groups of {self.group}: {100 * self.rate:.1f} % ({100 * self.low:.1f} to "
            f"{100 * self.high:.1f} %) for a nominal {100 * self.alpha:g} %. The splits share runs, so they are "
            "dependent and the interval is too short."
        )


def selfcheck(
    scores: ItemScores | CorpusScores, group: int | None = None, splits: int = 2000, alpha: float = 0.05, seed: int = 0
) -> SelfCheck:
    """Split each arm's own seeds at random into two groups, compare these as a study would, count claims.

    `group`: seeds a group, at most half of an arm's; by default half of the smallest arm's, 5 at most. Where an arm has
    no more different splits than its share of `splits`, each is taken once. Raises WeftError when an arm has fewer than
    twice 3 seeds.
    """
    rows = _runs(scores)
    fewest = min(len(row) for row in rows)
    size = min(5, fewest // 2) if group is None else group
    if size < FEWEST_SEEDS or 2 * size > fewest:
        size = max(size, FEWEST_SEEDS)
        raise WeftError(
            f"selfcheck: two groups of {size} seeds need {2 * size} runs of each arm, {fewest} are there: "
            "run more seeds, of the baseline alone if need be"
        )
    random = np.random.default_rng(seed)
    claims = done = 0
    for number, row in enumerate(rows):
        share = splits // len(rows) + (number < splits % len(rows))
        split_N2S = _halves(random, share, len(row), size)
        step = max(1, CHUNK // (2 * size * row[0].size))
        for start in range(0, len(split_N2S), step):
            chosen_N2S = split_N2S[start : start + step]
            claims += int((_p_values(row[chosen_N2S[:, 0]], row[chosen_N2S[:, 1]]) <= alpha).sum())
        done += len(split_N2S)
    low, high = _ends(claims, done)
    method = "crossed variance" if isinstance(scores, ItemScores) else "t over seeds (paired where they correlate)"
    return SelfCheck(claims, done, sum(map(len, rows)), size, alpha, low, high, method)


def _runs(scores: ItemScores | CorpusScores) -> list[Numbers]:
    """Each arm's cells that did not fail."""
    values = scores.values_ASI if isinstance(scores, ItemScores) else scores.values_AS
    return [row[np.isfinite(row).reshape(len(row), -1).all(-1)] for row in values]


def _halves(random: np.random.Generator, count: int, runs: int, size: int) -> NDArray[np.intp]:
    """At most `count` times two groups of different runs, in an order that pairs them at random."""
    if comb(runs, 2 * size) * comb(2 * size, size) // 2 > count:
        return random.random((count, runs)).argsort(1)[:, : 2 * size].reshape(count, 2, size)
    every = [
        (one, tuple(run for run in both if run not in one))
        for both in combinations(range(runs), 2 * size)
        for one in combinations(both, size)
        if one[0] == both[0]  # the other half of the splits are these with their groups exchanged
    ]
    return random.permuted(np.array(every), axis=2)


def _p_values(one: Numbers, other: Numbers) -> Numbers:
    """The default method on many pairs of groups at once; NaN where nothing differs, which claims nothing."""
    if one.ndim == 3:
        return crossed(MeanSquares.of(other - one)).p_value()
    return over_seeds(one, other)[0].p_value()


def _ends(claims: int, splits: int) -> tuple[float, float]:
    from scipy import stats

    ends = stats.binomtest(claims, splits).proportion_ci()
    return float(ends.low), float(ends.high)
