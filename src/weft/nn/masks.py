"""Masks: who may look at whom. A mask is a predicate on pairs of a query and a key; masks combine with `&` and `|`.

A mask can also tell which blocks of pairs are empty or full, so that a kernel skips the ones and does not ask about the
others. It reads each token's place in the sequence (its index, not counting padding), document and validity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import PositiveInt
from torch import Tensor

from weft.config import Part
from weft.nn.module import Dims

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coverage:
    """What a mask allows of each block of pairs, (B or 1) x I x J, or what broadcasts: I blocks of queries, J of keys.

    Neither `some` nor `all`: the block is empty. Only `some`: it may be mixed, which is always a safe answer.
    """

    some: Flags
    """False where the mask surely allows no pair of the block"""
    all: Flags
    """True where it surely allows every pair"""


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value in each block of tokens, (B or 1) x blocks."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]

    @staticmethod
    def of(x_BN: Tensor, size: int) -> Range:
        """Of blocks of `size` values; the last one may be shorter."""
        short = -x_BN.shape[1] % size
        x_BNP = torch.cat([x_BN, x_BN[:, -1:].expand(-1, short)], dim=1).unflatten(1, (-1, size)).long()
        return Range(np.array(x_BNP.amin(2).tolist()), np.array(x_BNP.amax(2).tolist()))

    @staticmethod
    def of_places(count: int, size: int) -> Range:
        """Of 0 ... count - 1 in blocks of `size`."""
        low = np.arange(0, count, size)[None]
        return Range(low, np.minimum(low + size, count) - 1)

    def queries(self) -> Range:
        """Along the queries' axis, B x I x 1."""
        return Range(self.low[:, :, None], self.high[:, :, None])

    def keys(self) -> Range:
        """Along the keys' axis, B x 1 x J."""
        return Range(self.low[:, None, :], self.high[:, None, :])


@dataclass(frozen=True)
class Blocks:
    """All blocks of T x S pairs at once: the ranges of what masks read. Kernels decide by them, on whatever device."""

    sides: Sides
    queries: int
    keys: int

    @cached_property
    def indices(self) -> tuple[Range, Range]:
        """Of the places of queries and keys."""
        q, k = self.sides.q_index_BT, self.sides.k_index_BS
        if self.sides.aligned:  # known without a look at the values
            q_range = Range.of_places(q.shape[1], self.queries)
            return q_range.queries(), Range.of_places(k.shape[1], self.keys).keys()
        return Range.of(q, self.queries).queries(), Range.of(k, self.keys).keys()

    @cached_property
    def documents(self) -> tuple[Range, Range]:
        """Of the documents' numbers."""
        q, k = self.sides.documents()
        return Range.of(q, self.queries).queries(), Range.of(k, self.keys).keys()

    @cached_property
    def valid(self) -> Range:
        """Of the keys' validity, 0 or 1."""
        return Range.of(self.sides.valid(), self.keys).keys()


@dataclass(frozen=True)
class Sides:
    """What masks and biases may read of the queries (T) and the keys (S). B may be 1 where all rows are alike."""

    q_index_BT: Tensor
    k_index_BS: Tensor
    k_valid_BS: Tensor | None = None
    q_documents_BT: Tensor | None = None
    k_documents_BS: Tensor | None = None
    aligned: bool = False
    """Queries and keys are the same unpadded tokens 0 ... T-1."""
    _dense: dict[Mask, Tensor] = field(default_factory=dict, compare=False, repr=False)
    _coverage: dict[tuple[Mask, int, int], Coverage] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def block(self, rows: slice, queries: slice, keys: slice) -> Sides:
        """The same for a block of some rows' pairs."""

        def cut(x: Tensor | None, part: slice) -> Any:
            return None if x is None else x[rows if len(x) > 1 else slice(None), part]

        return Sides(
            cut(self.q_index_BT, queries),
            cut(self.k_index_BS, keys),
            cut(self.k_valid_BS, keys),
            cut(self.q_documents_BT, queries),
            cut(self.k_documents_BS, keys),
        )

    def dense(self, mask: Mask) -> Tensor:
        """What `mask` allows, (B or 1) x 1 x T x S, computed once for all layers that ask."""
        if mask not in self._dense:
            shape = (1, self.q_index_BT.shape[1], self.k_index_BS.shape[1])
            allowed = mask.allowed(self)
            self._dense[mask] = allowed.expand(torch.broadcast_shapes(allowed.shape, shape))[:, None]
        return self._dense[mask]

    def coverage(self, mask: Mask, queries: int, keys: int) -> Coverage:
        """What `mask` allows of each block of `queries` x `keys` pairs, found once for all layers that ask."""
        held = mask, queries, keys
        if held not in self._coverage:
            found = mask.coverage(Blocks(self, queries, keys))
            shape = (1, -(-self.q_index_BT.shape[1] // queries), -(-self.k_index_BS.shape[1] // keys))
            some, full, _ = np.broadcast_arrays(found.some, found.all, np.empty(shape, dtype=bool))
            self._coverage[held] = Coverage(some, full)
        return self._coverage[held]

    def documents(self) -> tuple[Tensor, Tensor]:
        """The documents of queries and keys, where there are some."""
        assert self.q_documents_BT is not None, "a mask of documents needs the queries'"
        assert self.k_documents_BS is not None, "a mask of documents needs the keys'"
        return self.q_documents_BT, self.k_documents_BS

    def valid(self) -> Tensor:
        """Which keys are no padding, where there is some."""
        assert self.k_valid_BS is not None, "a mask of validity needs it"
        return self.k_valid_BS


class Mask:
    """A predicate on pairs of queries and keys. Masks are values: equal ones are the same mask."""

    def allowed(self, sides: Sides) -> Tensor:
        """True where a query may see a key: a boolean tensor that broadcasts to B x T x S."""
        raise NotImplementedError

    def coverage(self, blocks: Blocks) -> Coverage:
        """Which blocks are empty, full, or perhaps mixed."""
        some = np.ones((1, 1, 1), dtype=bool)
        return Coverage(some, ~some)

    def __and__(self, other: Mask) -> Mask:
        if isinstance(self, Everything):
            return other
        return self if isinstance(other, Everything) else Both(self, other)

    def __or__(self, other: Mask) -> Mask:
        return Either(self, other)


@dataclass(frozen=True)
class Everything(Mask):
    """Every query sees every key."""

    def allowed(self, sides: Sides) -> Tensor:
        return torch.ones((1, 1, 1), dtype=torch.bool, device=sides.q_index_BT.device)

    def coverage(self, blocks: Blocks) -> Coverage:
        every = np.ones((1, 1, 1), dtype=bool)
        return Coverage(every, every)


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and what came before."""

    def allowed(self, sides: Sides) -> Tensor:
        return sides.k_index_BS[:, None, :] <= sides.q_index_BT[:, :, None]

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.indices
        return Coverage(k.low <= q.high, k.high <= q.low)


@dataclass(frozen=True)
class Near(Mask):
    """A query sees keys less than `size` places away: with `Causal`, itself and the size - 1 before it."""

    size: int

    def allowed(self, sides: Sides) -> Tensor:
        return (sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :]).abs() < self.size

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.indices
        nearest = np.maximum(q.low - k.high, k.low - q.high)
        furthest = np.maximum(q.high - k.low, k.high - q.low)
        return Coverage(nearest < self.size, furthest < self.size)


@dataclass(frozen=True)
class SameDocument(Mask):
    """Documents packed into one row do not see each other."""

    def allowed(self, sides: Sides) -> Tensor:
        q, k = sides.documents()
        return q[:, :, None] == k[:, None, :]

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.documents
        one_each = (q.low == q.high) & (k.low == k.high)
        return Coverage((q.low <= k.high) & (k.low <= q.high), one_each & (q.low == k.low))


@dataclass(frozen=True)
class Valid(Mask):
    """Padding is not seen."""

    def allowed(self, sides: Sides) -> Tensor:
        return sides.valid()[:, None, :]

    def coverage(self, blocks: Blocks) -> Coverage:
        return Coverage(blocks.valid.high == 1, blocks.valid.low == 1)


@dataclass(frozen=True)
class Both(Mask):
    """What both masks allow."""

    first: Mask
    second: Mask

    def allowed(self, sides: Sides) -> Tensor:
        return self.first.allowed(sides) & self.second.allowed(sides)

    def coverage(self, blocks: Blocks) -> Coverage:
        first, second = self.first.coverage(blocks), self.second.coverage(blocks)
        return Coverage(first.some & second.some, first.all & second.all)


@dataclass(frozen=True)
class Either(Mask):
    """What one mask or the other allows."""

    first: Mask
    second: Mask

    def allowed(self, sides: Sides) -> Tensor:
        return self.first.allowed(sides) | self.second.allowed(sides)

    def coverage(self, blocks: Blocks) -> Coverage:
        first, second = self.first.coverage(blocks), self.second.coverage(blocks)
        return Coverage(first.some | second.some, first.all | second.all)


class MaskPart(Part, slot="mask", default="none"):
    """What an attention sees, beyond what causality, documents and padding already forbid."""

    @property
    def reach(self) -> int | None:
        """How many of the last keys a causal query sees at most, its own included; None: all of them."""
        return None

    def build(self, dims: Dims) -> Mask:
        """The mask that is and-ed to the stack's."""
        raise NotImplementedError


class NoMask(MaskPart, kind="none"):
    """Nothing more is hidden."""

    def build(self, dims: Dims) -> Mask:
        return Everything()


class Window(MaskPart, kind="window"):
    """Sliding window: only the nearest keys are seen (Child et al. 2019; Beltagy et al. 2020, section 3.1)."""

    size: PositiveInt
    """keys seen, the query's own included, on each side that the stack lets it see"""

    @property
    def reach(self) -> int:
        return self.size

    def build(self, dims: Dims) -> Mask:
        return Near(self.size)
