"""Packing: a stream of tokens as rows of equal length, in an order that is fresh each epoch and known by its number.

A row is T inputs and T targets, the target of a token being the next one. The stream counts as preceded by an
end-of-document token, so that every token of it is a target exactly once an epoch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weft.config import Part
from weft.data.rows import Packed
from weft.data.shards import TokenSplit
from weft.seeds import derive


class Packing(Part, slot="packing", default="windows"):
    """How a stream of tokens becomes rows of equal length."""

    def plan(self, split: TokenSplit, length: int, seed: int) -> Plan:
        """Which tokens each row of each epoch holds."""
        raise NotImplementedError

    def notes(self, split: TokenSplit, length: int) -> list[str]:
        """What a person should hear about this split in rows of that length."""
        return []


class Plan:
    """The rows of every epoch. An epoch's rows depend on the seed and its number, on nothing that came before."""

    documents = False
    """rows keep documents apart: they say each token's document, position and validity"""

    def rows(self, epoch: int) -> int:
        """How many rows an epoch has."""
        raise NotImplementedError

    def fill(self, epoch: int, index: int, packed: Packed, row: int) -> None:
        """Write row `index` of an epoch into `packed`, whose padding is in place."""
        raise NotImplementedError


class Windows(Packing, kind="windows"):
    """Windows over the stream, documents one after the other, each separated from the next by its end token alone."""

    order: Literal["random", "sequential"] = "random"
    """`random`: each epoch cuts the stream at other places and takes the windows in another order"""

    def plan(self, split: TokenSplit, length: int, seed: int) -> Plan:
        return WindowsPlan(split, length, seed, self.order == "random")

    def notes(self, split: TokenSplit, length: int) -> list[str]:
        if split.tokens >= length:
            return []
        return [
            f"packing: the training text is shorter than one row ({split.tokens} of {length} tokens): rows are padded"
        ]


class WindowsPlan(Plan):
    """The first window of an epoch has between 1 and T targets (T in sequential order), the others T each."""

    def __init__(self, split: TokenSplit, length: int, seed: int, shuffled: bool) -> None:
        self.tokens = split.arrays["tokens"]
        self.length, self.seed, self.shuffled = length, seed, shuffled
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def rows(self, epoch: int) -> int:
        return 1 + max(0, -(-(len(self.tokens) - self._first(epoch)) // self.length))

    def fill(self, epoch: int, index: int, packed: Packed, row: int) -> None:
        first, order = self._first(epoch), self._epoch(epoch)
        number = index if order is None else int(order[index])
        start = 0 if number == 0 else first + (number - 1) * self.length
        end = min(first + number * self.length, len(self.tokens))
        packed.write(row, 0, self.tokens, start, end)

    def _first(self, epoch: int) -> int:
        return derive(self.seed, "data", epoch, "phase") % self.length + 1 if self.shuffled else self.length

    def _make_epoch(self, epoch: int) -> NDArray[np.int64] | None:
        return _permutation(self.seed, epoch, self.rows(epoch)) if self.shuffled else None


class Documents(Packing, kind="documents"):
    """Whole documents, as many as fit into a row, none seeing another; one longer than a row is cut.

    Rows are filled by best fit, longest first (Krell et al. 2021, "Efficient Sequence Packing without
    Cross-contamination"), and come in another order each epoch.
    """

    def plan(self, split: TokenSplit, length: int, seed: int) -> Plan:
        return DocumentsPlan(split, length, seed)


class DocumentsPlan(Plan):
    """Which stretches of the stream share a row."""

    documents = True

    def __init__(self, split: TokenSplit, length: int, seed: int) -> None:
        self.tokens, self.seed = split.arrays["tokens"], seed
        self.starts, self.sizes = _stretches(split.arrays["offsets"], length)
        row_of = best_fit(self.sizes, length)
        self.members = np.argsort(row_of, kind="stable")
        self.bounds = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
        self._order = lru_cache(maxsize=2)(lambda epoch: _permutation(seed, epoch, self.rows(epoch)))

    def rows(self, epoch: int) -> int:
        return len(self.bounds) - 1

    def fill(self, epoch: int, index: int, packed: Packed, row: int) -> None:
        number = int(self._order(epoch)[index])
        column = 0
        for document, stretch in enumerate(self.members[self.bounds[number] : self.bounds[number + 1]]):
            start, size = int(self.starts[stretch]), int(self.sizes[stretch])
            packed.write(row, column, self.tokens, start, start + size, document)
            column += size


def _stretches(offsets: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and size of each document, or where it is longer than `length` of its parts."""
    sizes = np.diff(offsets)
    parts = -(-sizes // length)
    within = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = np.repeat(offsets[:-1], parts) + within * length
    return starts, np.minimum(np.repeat(offsets[1:], parts) - starts, length)


def best_fit(sizes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The row of each stretch: the fullest one that still has room, longest stretches first; O(n length / 64)."""
    row_of = np.zeros(len(sizes), dtype=np.int64)
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the room that they have
    rooms = 0  # bit r is set when some row has room r
    rows = 0
    for stretch in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[stretch])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            rooms ^= 0 if with_room[room] else 1 << room
        else:
            row, room, rows = rows, length, rows + 1
        row_of[stretch] = row
        if room > size:
            with_room[room - size].append(row)
            rooms |= 1 << (room - size)
    return row_of


def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=derive(seed, "data", epoch))).permutation(rows)
