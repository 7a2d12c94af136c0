"""Batches of rows: an order that is known by two numbers, and windows for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.data.packing import Packing
from weft.data.rows import IGNORE, Packed
from weft.data.shards import TokenSplit
from weft.errors import WeftError

__all__ = ["IGNORE", "EvaluationBatch", "Loader", "Packed", "evaluation_sample", "evaluation_windows"]


class Loader:
    """Rows without end, epoch after epoch; a batch may begin in one epoch and end in the next.

    With `world` ranks, each takes its own `rows` of a batch of `world x rows`. The state is the next row's epoch and
    place in it, the same on all ranks, so that what was seen does not depend on their number.
    """

    def __init__(
        self, split: TokenSplit, packing: Packing, length: int, rows: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        assert rows > 0, f"a batch of {rows} rows"
        assert 0 <= rank < world, f"rank {rank} of {world}"
        self.plan = packing.plan(split, length, seed)
        self.length, self.rows, self.rank, self.world = length, rows, rank, world
        self.tokens_per_epoch = split.tokens
        """Targets in an epoch: every token is one exactly once."""
        self._end = int(split.arrays["tokens"][-1])
        self._epoch, self._row = 0, 0

    @property
    def tokens_per_step(self) -> int:
        """Targets of a batch of this rank."""
        return self.rows * self.length

    @property
    def epoch(self) -> int:
        """The epoch that the next row belongs to, from 0."""
        return self._epoch

    def next(self) -> Packed:
        """The next `rows` rows of this rank."""
        packed = Packed.padding(self.rows, self.length, self._end, self.plan.documents)
        epoch, index = self._after(self._epoch, self._row, self.rank * self.rows)
        for row in range(self.rows):
            self.plan.fill(epoch, index, packed, row)
            epoch, index = self._after(epoch, index, 1)
        self._epoch, self._row = self._after(self._epoch, self._row, self.world * self.rows)
        return packed

    def state(self) -> dict[str, int]:
        """Where the loader is, as plain numbers."""
        return {"epoch": self._epoch, "row": self._row}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from where `state` was taken.

        Raises WeftError when these rows have no such place.
        """
        epoch, row = int(state["epoch"]), int(state["row"])
        if epoch < 0 or not 0 <= row < self.plan.rows(epoch):
            raise WeftError(f"the loader's state {dict(state)} belongs to other data (epoch {epoch} has no row {row})")
        self._epoch, self._row = epoch, row

    def _after(self, epoch: int, row: int, rows: int) -> tuple[int, int]:
        """The place `rows` rows further."""
        row += rows
        while row >= self.plan.rows(epoch):
            row -= self.plan.rows(epoch)
            epoch += 1
        return epoch, row


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """Windows over a stream, B x T; a target of -100 is context that an earlier window predicted."""

    tokens_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    document_BT: NDArray[np.int64]
    """the document of the split that each target belongs to"""


def evaluation_sample(split: TokenSplit, window: int, tokens: int, rows: int = 1) -> Iterator[EvaluationBatch]:
    """Windows of about `tokens` tokens in all, spread evenly over the split, always the same ones.

    Documents that stand side by side are often alike: the first so many tokens would say little about the rest.
    """
    total, width = split.tokens, min(window, split.tokens)
    count = max(1, min(tokens // width, total // width))
    starts = [index * (total - width) // max(count - 1, 1) for index in range(count)]
    for first in range(0, count, rows):
        yield _windows(split, width, [start + width for start in starts[first : first + rows]])


def evaluation_windows(split: TokenSplit, window: int, stride: int, rows: int = 1) -> Iterator[EvaluationBatch]:
    """Windows in which each token is a target exactly once.

    Every target has at least `window - stride` tokens of context where the stream, preceded by one end of a
    document, has that many. All windows are `window` wide, or as wide as the stream where that is shorter.
    """
    if not 0 < stride <= window:
        raise WeftError(f"stride = {stride}: should be between 1 and the window's {window} tokens")
    total = split.tokens
    width = min(window, total)
    # the first window predicts all of itself, each later one `stride` more; the last ends where the text ends
    ends = [width, *range(width + stride, total, stride), *([total] if total > width else [])]
    for first in range(0, len(ends), rows):
        batch = _windows(split, width, ends[first : first + rows])
        for row, end in enumerate(ends[first : first + rows]):
            predicted = ends[first + row - 1] if first + row else 0
            batch.targets_BT[row, : predicted - (end - width)] = IGNORE
        yield batch


def _windows(split: TokenSplit, width: int, ends: Sequence[int]) -> EvaluationBatch:
    """The `width` tokens before each end as targets."""
    tokens, offsets = split.arrays["tokens"], split.arrays["offsets"]
    packed = Packed.padding(len(ends), width, int(tokens[-1]), documents=False)
    for row, end in enumerate(ends):
        packed.write(row, 0, tokens, end - width, end)
    places_BT = np.asarray(ends)[:, None] - width + np.arange(width)
    document_BT = np.searchsorted(offsets, places_BT, side="right") - 1
    return EvaluationBatch(packed.tokens_BT, packed.targets_BT, document_BT)
