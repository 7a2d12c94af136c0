"""What a study measured: scores of the same items by arms that share their seeds, in three shapes.

Axes: A arms, S seeds, I items of the test set, K folds. A cell that failed is NaN as a whole and stays out of the
comparisons of its arm, which say so; half a cell of NaN is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.errors import WeftError

Numbers = NDArray[np.float64]


def _numbers(values: ArrayLike, axes: str) -> Numbers:
    """A read-only copy in float64 with as many axes as it should have."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WeftError(f"scores: not an array of numbers, {axes}: {error}") from None
    if array.ndim != len(axes.split(" x ")):
        raise WeftError(f"scores: an array of shape {array.shape} where {axes} is wanted")
    array.flags.writeable = False
    return array


def _named(names: Sequence[Any], length: int, what: str) -> None:
    """Each place of an axis has a name of its own."""
    if len(names) != length:
        raise WeftError(f"scores: {len(names)} {what} are named, but the scores have {length}")
    twice = sorted({str(name) for name in names if list(names).count(name) > 1})
    if twice:
        raise WeftError(f"scores: {what} named twice: {', '.join(twice)}")


@dataclass(frozen=True)
class ItemScores:
    """One score for each arm, seed and item (accuracy, loss of a document): values_ASI.

    An item is what was drawn independently of the others: a document or a question rather than a token.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values_ASI: Numbers

    def __post_init__(self) -> None:
        values_ASI = _numbers(self.values_ASI, "arms x seeds x items")
        _named(self.arms, values_ASI.shape[0], "arms")
        _named(self.seeds, values_ASI.shape[1], "seeds")
        finite_ASI = np.isfinite(values_ASI)
        for arm, seed in np.argwhere(finite_ASI.any(2) & ~finite_ASI.all(2)):
            item = int(np.argmin(finite_ASI[arm, seed]))
            raise WeftError(
                f"scores: arm {self.arms[arm]!r}, seed {self.seeds[seed]}, item {item} is "
                f"{values_ASI[arm, seed, item]}: every item needs a score (a cell that failed is NaN as a whole)"
            )
        object.__setattr__(self, "values_ASI", values_ASI)

    @property
    def n_items(self) -> int:
        """Items of the test set."""
        return int(self.values_ASI.shape[2])

    def means(self) -> CorpusScores:
        """The mean over items, as a corpus metric."""
        return CorpusScores(self.arms, self.seeds, self.values_ASI.mean(2))


@dataclass(frozen=True)
class CorpusScores:
    """One score for each arm and seed (BLEU, bits per byte of a corpus): values_AS.

    `shared_seeds=False`: seed number s of one arm has nothing to do with number s of another (runs that were
    found, not planned).
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    values_AS: Numbers
    shared_seeds: bool = True

    def __post_init__(self) -> None:
        values_AS = _numbers(self.values_AS, "arms x seeds")
        _named(self.arms, values_AS.shape[0], "arms")
        _named(self.seeds, values_AS.shape[1], "seeds")
        object.__setattr__(self, "values_AS", values_AS)

    @classmethod
    def of_cells(cls, cells: Mapping[tuple[str, int], float], shared_seeds: bool = True) -> CorpusScores:
        """From (arm, seed) -> score, in the order in which arms and seeds appear; what is not there has failed."""
        arms = tuple(dict.fromkeys(arm for arm, _ in cells))
        seeds = tuple(dict.fromkeys(seed for _, seed in cells))
        values_AS = [[cells.get((arm, seed), np.nan) for seed in seeds] for arm in arms]
        return cls(arms, seeds, np.array(values_AS, ndmin=2), shared_seeds)


@dataclass(frozen=True)
class FoldScores:
    """One score for each arm and fold of a cross-validation: values_AK; `test_share` of the data is tested in each.

    Folds may be repeated (10 times 10-fold: K = 100). Training sets overlap, so folds are no independent repeats.
    """

    arms: tuple[str, ...]
    values_AK: Numbers
    test_share: float

    def __post_init__(self) -> None:
        values_AK = _numbers(self.values_AK, "arms x folds")
        _named(self.arms, values_AK.shape[0], "arms")
        if not 0 < self.test_share < 1:
            raise WeftError(f"scores: test_share={self.test_share} is no share of the data: 0.1 in ten folds")
        object.__setattr__(self, "values_AK", values_AK)


Scores = ItemScores | CorpusScores | FoldScores
