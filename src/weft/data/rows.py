"""Rows of tokens as arrays: what a loader hands to an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = -100
"""The target where nothing is to be predicted."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows of inputs and targets, B x T."""

    tokens_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    """the token after each input; -100 where nothing is to be predicted"""
    positions_BT: NDArray[np.int64] | None = None
    """place in its document; None: place in the row"""
    documents_BT: NDArray[np.int64] | None = None
    """number within the row of the document that a token belongs to; None: not kept apart"""
    valid_BT: NDArray[np.bool_] | None = None
    """False for padding; None: all that is not -100 in the targets, padding being at the end"""

    @classmethod
    def padding(cls, rows: int, length: int, token: int, documents: bool) -> Packed:
        """Rows that hold nothing yet, `token` standing everywhere."""
        shape = (rows, length)
        tokens_BT, targets_BT = np.full(shape, token, np.int64), np.full(shape, IGNORE, np.int64)
        if not documents:
            return cls(tokens_BT, targets_BT)
        return cls(
            tokens_BT, targets_BT, np.zeros(shape, np.int64), np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
        )

    def write(self, row: int, column: int, tokens: NDArray[Any], start: int, end: int, document: int = 0) -> None:
        """Put the targets `tokens[start:end]` at (row, column), each with the token before it as its input."""
        place = (row, slice(column, column + end - start))
        self.targets_BT[place] = tokens[start:end]
        if start > 0:
            self.tokens_BT[place] = tokens[start - 1 : end - 1]
        else:  # before the stream stands an end of document, as at its end
            self.tokens_BT[row, column] = tokens[-1]
            self.tokens_BT[row, column + 1 : column + end] = tokens[: end - 1]
        if self.positions_BT is not None and self.documents_BT is not None and self.valid_BT is not None:
            self.positions_BT[place] = np.arange(end - start)
            self.documents_BT[place] = document
            self.valid_BT[place] = True
