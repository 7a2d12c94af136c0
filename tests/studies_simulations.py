"""How often each way to compare two arms is wrong or right, by simulation: the tables of docs/studies.md.

`python tests/studies_simulations.py` prints them. Rates are shares of simulated studies at a nominal level of 5 %.
Axes: N simulated studies, S seeds, I items, K folds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from weft.studies.estimates import Estimate, MeanSquares, crossed, over_folds, over_seeds, paired, welch
from weft.studies.planning import Noise
from weft.studies.resampling import bootstrap

Numbers = NDArray[np.float64]
LEVEL = 0.05
SEEDS = (3, 5, 10)
ITEMS = 500
CORRELATIONS = (0.0, 0.5, 0.85, -0.2, -0.5)
MIXES = {
    "both alike": Noise(0.05, 1.0, 1.0),
    "mostly items": Noise(0.02, 0.7, 0.7),
    "mostly seeds": Noise(0.1, 0.7, 1.0),
    "interaction alone": Noise(0.0, 0.0, 1.0),
}
"""Noise of seeds, of items, of both together, as in the research's four mixes."""


def rate(p_values: Numbers) -> float:
    """Share of studies that claim a difference."""
    return float(np.mean(p_values <= LEVEL))


def arms(random: np.random.Generator, studies: int, seeds: int, r: float = 0.0) -> tuple[Numbers, Numbers]:
    """Scores of two arms that do not differ, correlated over seeds."""
    one, own = random.standard_normal((2, studies, seeds))
    return one, r * one + np.sqrt(1 - r * r) * own


def seed_rates(r: float, seeds: int, studies: int = 40_000) -> dict[str, float]:
    """Corpus metrics: paired t, Welch, and the rule that chooses between them."""
    base_NS, arm_NS = arms(np.random.default_rng(seeds), studies, seeds, r)
    return {
        "paired t": rate(paired(arm_NS - base_NS).p_value()),
        "Welch": rate(welch(base_NS, arm_NS).p_value()),
        "chosen": rate(over_seeds(base_NS, arm_NS)[0].p_value()),
    }


def outside(low_N: Numbers, high_N: Numbers) -> float:
    """Share of intervals without 0."""
    return float(np.mean((low_N > 0) | (high_N < 0)))


def bootstrap_rate(method: str, seeds: int, studies: int = 2000) -> float:
    """Percentile or BCa bootstrap over paired seeds, as they are commonly used."""
    d_NS = np.random.default_rng(seeds).standard_normal((studies, seeds))
    found = stats.bootstrap(
        (d_NS,), np.mean, axis=-1, vectorized=True, n_resamples=999, batch=50, method=method,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    return outside(found.confidence_interval.low, found.confidence_interval.high)


def expanded_rate(seeds: int, studies: int = 2000) -> float:
    """The bootstrap that weft reports from 20 seeds."""
    return outside(*bootstrap(np.random.default_rng(seeds).standard_normal((studies, seeds)), resamples=999))


def squares_of(random: np.random.Generator, noise: Noise, seeds: int, studies: int, shift: float = 0.0) -> MeanSquares:
    """Mean squares of normal studies, drawn from their own distributions (independent, chi-squared)."""
    both = noise.both**2
    expected = both + ITEMS * noise.seed**2, both + seeds * noise.item**2, both
    freedom = seeds - 1, ITEMS - 1, (seeds - 1) * (ITEMS - 1)
    effect_N = shift + float(noise.error(seeds, ITEMS)[0]) * random.standard_normal(studies)
    drawn = [mean * random.chisquare(df, studies) / df for mean, df in zip(expected, freedom, strict=True)]
    return MeanSquares(effect_N, *drawn, seeds, ITEMS)


def crossed_rates(noise: Noise, seeds: int, studies: int = 40_000) -> dict[str, float]:
    """Per-example metrics: what looks at seeds alone, at items alone, adds both, crosses them, and weft's."""
    squares = squares_of(np.random.default_rng(seeds), noise, seeds, studies)
    cells, df = seeds * ITEMS, (seeds - 1, ITEMS - 1)

    def of(total: Numbers, freedom: Numbers | int) -> float:
        return rate(Estimate(squares.effect, np.sqrt(np.maximum(total, 0) / cells), np.asarray(freedom)).p_value())

    added = squares.seed + squares.item
    spread = squares.seed**2 / df[0] + squares.item**2 / df[1]
    plain = np.maximum(added - squares.both, 0)
    return {
        "seed means": of(squares.seed, df[0]),
        "items": of(squares.item, df[1]),
        "sum": of(added, added**2 / spread),
        "no floor": of(plain, plain**2 / (spread + squares.both**2 / (df[0] * df[1]))),
        "chosen": rate(crossed(squares).p_value()),
    }


def chosen_rate(noise: Noise, seeds: int, studies: int = 20_000) -> float:
    """The last of `crossed_rates` alone."""
    return rate(crossed(squares_of(np.random.default_rng(1), noise, seeds, studies)).p_value())


def tables(random: np.random.Generator, noise: Noise, studies: int, seeds: int, items: int) -> Numbers:
    """Whole tables of differences: d_NSI."""
    shift_NS1 = noise.seed * random.standard_normal((studies, seeds, 1))
    shift_N1I = noise.item * random.standard_normal((studies, 1, items))
    return shift_NS1 + shift_N1I + noise.both * random.standard_normal((studies, seeds, items))


def fold_rates(folds: int, studies: int = 40_000) -> dict[str, float]:
    """Folds that correlate by the share that is tested, as Nadeau and Bengio take them to."""
    random, share = np.random.default_rng(folds), 1 / folds
    d_NK = np.sqrt(share) * random.standard_normal((studies, 1)) + np.sqrt(1 - share) * random.standard_normal(
        (studies, folds)
    )
    return {"t over folds": rate(paired(d_NK).p_value()), "chosen": rate(over_folds(d_NK, share).p_value())}


def look_rates(level: float, studies: int = 40_000) -> float:
    """A paired t at 5 seeds and, where it claims nothing, again at 10."""
    d_NS = np.random.default_rng(0).standard_normal((studies, 10))
    looks = paired(d_NS[:, :5]).p_value(), paired(d_NS).p_value()
    return float(np.mean(np.minimum(*looks) <= level))


def percent(*rates: float) -> list[str]:
    """Rates as cells of a table."""
    return [f"{100 * rate:.1f}" for rate in rates]


def seed_rows() -> list[list[str]]:
    """Correlation, then paired t, Welch and the chosen one for 3, 5 and 10 seeds."""
    rows = []
    for r in CORRELATIONS:
        found = [seed_rates(r, seeds) for seeds in SEEDS]
        rows.append(
            [
                f"{r:g}",
                *(cell for name in ("paired t", "Welch", "chosen") for cell in percent(*(x[name] for x in found))),
            ]
        )
    return rows


def crossed_rows() -> list[list[str]]:
    """Mix, seeds, then every way to err."""
    return [
        [name, str(seeds), *percent(*crossed_rates(noise, seeds).values())]
        for name, noise in MIXES.items()
        for seeds in SEEDS
    ]


def bootstrap_rows() -> list[list[str]]:
    """Method, then rates for 3, 5, 8, 10 and 20 seeds."""
    return [
        [method, *percent(*(bootstrap_rate(method, seeds) for seeds in (3, 5, 8, 10, 20)))]
        for method in ("percentile", "BCa")
    ]


if __name__ == "__main__":
    for rows in (seed_rows(), bootstrap_rows(), crossed_rows()):
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")
    print("expanded, 20 seeds:", *percent(expanded_rate(20)))
    print("10 folds:", fold_rates(10), "5 folds:", fold_rates(5))
    print("looks at 5 and 10 seeds:", *percent(look_rates(0.05), look_rates(0.025)))
