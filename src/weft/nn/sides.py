"""What masks and biases may read of queries and keys: each one's place, document, validity, prefix; and block by block.

Axes: I blocks of queries, J blocks of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from weft.nn.masks import Mask

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
        q, k = self.sides.q_documents_BT, self.sides.k_documents_BS
        assert q is not None, "a mask of documents needs the queries'"
        assert k is not None, "a mask of documents needs the keys'"
        return Range.of(q, self.queries).queries(), Range.of(k, self.keys).keys()

    @cached_property
    def places(self) -> tuple[Range, Range]:
        """Of the places of queries and keys in their documents."""
        if self.sides.q_documents_BT is None:
            return self.indices
        q, k = self.sides.queries.place, self.sides.keys.place
        return Range.of(q, self.queries).queries(), Range.of(k, self.keys).keys()

    @cached_property
    def valid(self) -> Range:
        """Of the keys' validity, 0 or 1."""
        assert self.sides.k_valid_BS is not None, "a mask of validity needs it"
        return Range.of(self.sides.k_valid_BS, self.keys).keys()

    @cached_property
    def prefix(self) -> tuple[Range, Range] | None:
        """Of who belongs to a prefix, 0 or 1; None where nobody does."""
        q, k = self.sides.q_prefix_BT, self.sides.k_prefix_BS
        if q is None or k is None:
            return None
        return Range.of(q, self.queries).queries(), Range.of(k, self.keys).keys()


@dataclass(frozen=True)
class Tokens:
    """What is known of some tokens, queries or keys: tensors of one shape, or of shapes that broadcast."""

    index: Tensor
    """place in the row, padding not counted"""
    start: Tensor | None = None
    """index of the first token of its document; None: 0"""
    document: Tensor | None = None
    valid: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def place(self) -> Tensor:
        """Place in the document."""
        return self.index if self.start is None else self.index - self.start

    def each(self, view: Callable[[Tensor], Tensor]) -> Tokens:
        """The same with every tensor seen through `view`."""
        held = (self.index, self.start, self.document, self.valid, self.prefix)
        return Tokens(*(None if x is None else view(x) for x in held))  # type: ignore[arg-type]


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
    q_prefix_BT: Tensor | None = None
    k_prefix_BS: Tensor | None = None
    q_starts_BT: Tensor | None = None
    k_starts_BS: Tensor | None = None
    """Index of the first token of each one's document; found out unless given."""
    _dense: dict[Mask, Tensor] = field(default_factory=dict, compare=False, repr=False)
    _coverage: dict[tuple[Mask, int, int], Coverage] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def block(self, rows: slice, queries: slice, keys: slice) -> Sides:
        """The same for a block of some rows' pairs."""

        def cut(x: Tensor | None, part: slice) -> Any:
            return None if x is None else x[rows if len(x) > 1 else slice(None), part]

        q, k = self.queries, self.keys
        return Sides(
            cut(q.index, queries),
            cut(k.index, keys),
            cut(k.valid, keys),
            cut(q.document, queries),
            cut(k.document, keys),
            q_prefix_BT=cut(q.prefix, queries),
            k_prefix_BS=cut(k.prefix, keys),
            q_starts_BT=cut(q.start, queries),
            k_starts_BS=cut(k.start, keys),
        )

    @cached_property
    def queries(self) -> Tokens:
        """The queries, B x T."""
        starts_BT = _starts(self.q_index_BT, self.q_documents_BT) if self.q_starts_BT is None else self.q_starts_BT
        return Tokens(self.q_index_BT, starts_BT, self.q_documents_BT, None, self.q_prefix_BT)

    @cached_property
    def keys(self) -> Tokens:
        """The keys, B x S."""
        starts_BS = _starts(self.k_index_BS, self.k_documents_BS) if self.k_starts_BS is None else self.k_starts_BS
        return Tokens(self.k_index_BS, starts_BS, self.k_documents_BS, self.k_valid_BS, self.k_prefix_BS)

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


def _starts(index_BN: Tensor, documents_BN: Tensor | None) -> Tensor | None:
    """The index at which each token's document begins."""
    if documents_BN is None:
        return None
    begins_BN = F.pad(documents_BN[:, 1:] != documents_BN[:, :-1], (1, 0), value=True)
    return torch.where(begins_BN, index_BN, 0).cummax(1).values
