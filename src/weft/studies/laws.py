"""How a metric follows an amount: a power law through the arms of each seed, its exponent with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from weft.errors import WeftError
from weft.report.formats import significant

Amount = Literal["parameters", "tokens", "flops", "text"]
FEWEST_ARMS = 3
FEWEST_SEEDS = 2
LACKS = 0.05
"""p from which down arms are said not to lie on a line."""


@dataclass(frozen=True)
class Law:
    """metric = constant x amount^exponent, fitted in logarithms; `low` and `high`: of the exponent, over seeds.

    `off`: the largest share by which an arm's mean lies beside the fitted line; `p_fit`: how often arms that lie on one
    would be seen so far beside it.
    """

    amount: str
    exponent: float
    low: float
    high: float
    constant: float
    off: float
    p_fit: float
    seeds: int

    @property
    def words(self) -> str:
        """As a person reads it."""
        exponent = power(self.exponent, self.low, self.high)
        fits = (
            "as far as these seeds tell" if self.p_fit > LACKS else "and that is more than seeds explain: no such law"
        )
        return (
            f"goes as {self.amount} to the power {exponent}, {self.seeds} seeds; arms lie up to"
            f" {100 * self.off:.1f} % beside it, {fits} (lack of fit: p = {significant(self.p_fit, 2)})"
        )


def power(exponent: float, low: float, high: float) -> str:
    """An exponent and its interval: -0.051 (-0.056 to -0.046)."""
    return f"{exponent:.3f} ({low:.3f} to {high:.3f})"


def fitted(amount: str, sizes_A: Sequence[float], values_AS: np.ndarray, confidence: float = 0.95) -> Law:
    """The law of values (arms x seeds) at these sizes: least squares in logarithms for each seed, t over seeds.

    Raises WeftError where arms or seeds are too few, or a size or value is not above 0.
    """
    from scipy import stats

    whole = np.isfinite(values_AS).all(0)
    values_AS = values_AS[:, whole]
    n_seeds = values_AS.shape[1]
    if len(set(sizes_A)) < FEWEST_ARMS or n_seeds < FEWEST_SEEDS:
        raise WeftError(
            f"law: {len(set(sizes_A))} sizes and {n_seeds} whole seeds; a law with an interval needs at least"
            f" {FEWEST_ARMS} and {FEWEST_SEEDS}"
        )
    if min(sizes_A) <= 0 or values_AS.min() <= 0:
        raise WeftError("law: a power law is of sizes and values above 0")
    x_A, y_AS = np.log(np.asarray(sizes_A, dtype=float)), np.log(values_AS)
    slope_S, start_S = np.polyfit(x_A, y_AS, 1)
    error = slope_S.std(ddof=1) / np.sqrt(n_seeds)
    reach = float(stats.t.ppf((1 + confidence) / 2, n_seeds - 1) * error)
    slope, start = float(slope_S.mean()), float(start_S.mean())
    beside_AS = y_AS - (start_S + np.outer(x_A, slope_S))
    off = float(np.abs(np.expm1(beside_AS.mean(1))).max())
    ends = slope - reach, slope + reach
    return Law(amount, slope, *ends, float(np.exp(start)), off, _lack_of_fit(beside_AS), n_seeds)


def _lack_of_fit(beside_AS: np.ndarray) -> float:
    """p of what arms have in common beside their seeds' lines, against what seeds differ in there (Fisher 1922).

    Each seed's line leaves A - 2 degrees of freedom; F = S sum(mean^2) / (A - 2) over
    sum((each - mean)^2) / ((A - 2)(S - 1)).
    """
    from scipy import stats

    n_arms, n_seeds = beside_AS.shape
    common_A = beside_AS.mean(1)
    df, df_error = n_arms - 2, (n_arms - 2) * (n_seeds - 1)
    error = ((beside_AS - common_A[:, None]) ** 2).sum() / df_error
    found = n_seeds * (common_A**2).sum() / df
    if error <= 1e-24 * max(1.0, found):  # nothing is random
        return 1.0 if found <= 1e-24 else 0.0
    return float(stats.f.sf(found / error, df, df_error))
