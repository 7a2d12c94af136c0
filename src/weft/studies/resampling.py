"""Tests that ask nothing of a distribution but need more seeds: sign-flip from 6 pairs, bootstrap from 20 seeds."""

from __future__ import annotations

import numpy as np

from weft.errors import WeftError
from weft.studies.scores import Numbers

FEWEST_PAIRS = 6
"""With fewer pairs no result has p < 0.05: the smallest two-sided p is 2 / 2^n, 0.0625 with 5."""
FEWEST_RESAMPLED = 20
"""With fewer seeds a percentile bootstrap errs in 10 % (10 seeds) to 25 % (3) for a nominal 5 %."""
MOST_EXACT = 16
"""Pairs up to which all 2^n flips are tried; beyond, as many are drawn."""


def sign_flip(d_S: Numbers, seed: int = 0) -> float:
    """Two-sided p of "the differences are symmetric around 0": Fisher's randomization test (1935).

    Exact up to 16 pairs; beyond, 65,536 flips are drawn.
    """
    from scipy import stats

    if d_S.size < FEWEST_PAIRS:
        raise WeftError(
            f"sign-flip test: {d_S.size} pairs given, at least {FEWEST_PAIRS} needed: "
            f"the smallest p that {d_S.size} can give is {min(1.0, 2 / 2**d_S.size):.3g}"
        )
    result = stats.permutation_test(
        (d_S,), np.mean, permutation_type="samples", vectorized=True, axis=-1, n_resamples=2**MOST_EXACT, batch=4096,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)


def bootstrap(d_S: Numbers, confidence: float = 0.95, resamples: int = 9999, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Interval of the mean difference by the expanded percentile bootstrap over seeds (Hesterberg 2015).

    A percentile interval is too short by sqrt((n-1)/n) and by z against t; its level is raised to make up for both.
    """
    from scipy import stats

    n = d_S.shape[-1]
    if n < FEWEST_RESAMPLED:
        raise WeftError(
            f"bootstrap over seeds: {n} seeds given, at least {FEWEST_RESAMPLED} needed: "
            "with fewer its interval is too short (docs/studies.md); use the t interval"
        )
    quantile = stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(n / (n - 1))
    level = float(1 - 2 * stats.norm.sf(quantile))
    batch = max(1, 2_000_000 // d_S.size)
    result = stats.bootstrap(
        (d_S,), np.mean, axis=-1, vectorized=True, n_resamples=resamples, batch=batch, confidence_level=level,
        method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return np.asarray(result.confidence_interval.low), np.asarray(result.confidence_interval.high)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for the number of declared comparisons (Holm 1979); NaN, a comparison not made, stays NaN."""
    order = sorted((i for i, p in enumerate(p_values) if not np.isnan(p)), key=lambda i: p_values[i])
    adjusted, highest = list(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
