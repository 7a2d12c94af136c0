"""Masks: who may look at whom. A mask is a predicate on pairs of a query and a key; masks combine with `&` and `|`.

A mask can also tell whether a whole block of pairs is empty or full, so that a kernel skips the one and does not ask
about the other. It reads each token's place in the sequence (its index, not counting padding), document and validity.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from pydantic import PositiveInt
from torch import Tensor

from weft.config import Part
from weft.nn.module import Dims


class Coverage(Enum):
    """How much of a block of pairs a mask allows."""

    EMPTY = 0
    MIXED = 1
    FULL = 2


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

    def block(self, queries: slice, keys: slice) -> Sides:
        """The same for a block of the pairs."""

        def cut(x: Tensor | None, part: slice) -> Tensor | None:
            return None if x is None else x[:, part]

        return replace(
            self,
            q_index_BT=self.q_index_BT[:, queries],
            k_index_BS=self.k_index_BS[:, keys],
            k_valid_BS=cut(self.k_valid_BS, keys),
            q_documents_BT=cut(self.q_documents_BT, queries),
            k_documents_BS=cut(self.k_documents_BS, keys),
            aligned=self.aligned and queries == keys,
            _dense={},
        )

    def dense(self, mask: Mask) -> Tensor:
        """What `mask` allows, (B or 1) x 1 x T x S, computed once for all layers that ask."""
        if mask not in self._dense:
            shape = (1, self.q_index_BT.shape[1], self.k_index_BS.shape[1])
            allowed = mask.allowed(self)
            self._dense[mask] = allowed.expand(torch.broadcast_shapes(allowed.shape, shape))[:, None]
        return self._dense[mask]


class Mask:
    """A predicate on pairs of queries and keys. Masks are values: equal ones are the same mask."""

    def allowed(self, sides: Sides) -> Tensor:
        """True where a query may see a key: a boolean tensor that broadcasts to B x T x S."""
        raise NotImplementedError

    def coverage(self, sides: Sides) -> Coverage:
        """Whether the block of pairs that `sides` holds is empty, full, or mixed (which is always a safe answer)."""
        return Coverage.MIXED

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

    def coverage(self, sides: Sides) -> Coverage:
        return Coverage.FULL


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and what came before."""

    def allowed(self, sides: Sides) -> Tensor:
        return sides.k_index_BS[:, None, :] <= sides.q_index_BT[:, :, None]

    def coverage(self, sides: Sides) -> Coverage:
        if sides.k_index_BS.amax() <= sides.q_index_BT.amin():
            return Coverage.FULL
        return Coverage.EMPTY if sides.k_index_BS.amin() > sides.q_index_BT.amax() else Coverage.MIXED


@dataclass(frozen=True)
class Near(Mask):
    """A query sees keys less than `size` places away: with `Causal`, itself and the size - 1 before it."""

    size: int

    def allowed(self, sides: Sides) -> Tensor:
        return (sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :]).abs() < self.size

    def coverage(self, sides: Sides) -> Coverage:
        q, k = sides.q_index_BT, sides.k_index_BS
        if max(q.amax() - k.amin(), k.amax() - q.amin()) < self.size:
            return Coverage.FULL
        apart = q.amin() - k.amax() >= self.size or k.amin() - q.amax() >= self.size
        return Coverage.EMPTY if apart else Coverage.MIXED


@dataclass(frozen=True)
class SameDocument(Mask):
    """Documents packed into one row do not see each other."""

    def allowed(self, sides: Sides) -> Tensor:
        q, k = self._documents(sides)
        return q[:, :, None] == k[:, None, :]

    def coverage(self, sides: Sides) -> Coverage:
        q, k = self._documents(sides)
        if (q == q[:, :1]).all() and (k == q[:, :1]).all():
            return Coverage.FULL
        apart = ((q.amin(1) > k.amax(1)) | (q.amax(1) < k.amin(1))).all()
        return Coverage.EMPTY if apart else Coverage.MIXED

    @staticmethod
    def _documents(sides: Sides) -> tuple[Tensor, Tensor]:
        assert sides.q_documents_BT is not None, "a mask of documents needs the queries'"
        assert sides.k_documents_BS is not None, "a mask of documents needs the keys'"
        return sides.q_documents_BT, sides.k_documents_BS


@dataclass(frozen=True)
class Valid(Mask):
    """Padding is not seen."""

    def allowed(self, sides: Sides) -> Tensor:
        assert sides.k_valid_BS is not None, "a mask of validity needs it"
        return sides.k_valid_BS[:, None, :]

    def coverage(self, sides: Sides) -> Coverage:
        assert sides.k_valid_BS is not None, "a mask of validity needs it"
        if sides.k_valid_BS.all():
            return Coverage.FULL
        return Coverage.MIXED if sides.k_valid_BS.any() else Coverage.EMPTY


@dataclass(frozen=True)
class Both(Mask):
    """What both masks allow."""

    first: Mask
    second: Mask

    def allowed(self, sides: Sides) -> Tensor:
        return self.first.allowed(sides) & self.second.allowed(sides)

    def coverage(self, sides: Sides) -> Coverage:
        first = self.first.coverage(sides)
        if first is Coverage.EMPTY:
            return first
        second = self.second.coverage(sides)
        return second if first is Coverage.FULL or second is Coverage.EMPTY else first


@dataclass(frozen=True)
class Either(Mask):
    """What one mask or the other allows."""

    first: Mask
    second: Mask

    def allowed(self, sides: Sides) -> Tensor:
        return self.first.allowed(sides) | self.second.allowed(sides)

    def coverage(self, sides: Sides) -> Coverage:
        first = self.first.coverage(sides)
        if first is Coverage.FULL:
            return first
        second = self.second.coverage(sides)
        return second if first is Coverage.EMPTY or second is Coverage.FULL else first


class MaskPart(Part, slot="mask", default="none"):
    """What an attention sees, beyond what causality, documents and padding already forbid."""

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

    def build(self, dims: Dims) -> Mask:
        return Near(self.size)
