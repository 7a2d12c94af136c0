"""Masks: who may look at whom. A mask is a predicate on pairs of a query and a key; masks combine with `&` and `|`.

A mask can also tell which blocks of pairs are empty or full, so that a kernel skips the ones and does not ask about the
others. It reads what `Tokens` holds: each token's place in its row and in its document (not counting padding), its
document, its validity, and whether it belongs to a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.nn.part import operator, tex
from weft.nn.sides import Blocks, Coverage, Range, Tokens
from weft.nn.sides import Sides as Sides


class Mask:
    """A predicate on pairs of queries and keys. Masks are values: equal ones are the same mask."""

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        """True where a query may see a key: elementwise over shapes that broadcast, so for whole rows or one pair."""
        raise NotImplementedError

    def formula(self) -> str:
        """The predicate in LaTeX, of a query i and a key j."""
        return operator(type(self).__name__) + "(i, j)"

    def coverage(self, blocks: Blocks) -> Coverage:
        """Which blocks are empty, full, or perhaps mixed."""
        some = np.ones((1, 1, 1), dtype=bool)
        return Coverage(some, ~some)

    def allowed(self, sides: Sides) -> Tensor:
        """The predicate on all pairs: a boolean tensor that broadcasts to B x T x S."""
        return self.sees(sides.queries.each(lambda x: x[:, :, None]), sides.keys.each(lambda x: x[:, None, :]))

    def __and__(self, other: Mask) -> Mask:
        if isinstance(self, Everything) or self == other or (isinstance(other, Both) and self in other.pair):
            return other
        return self if isinstance(other, Everything) else Both(self, other)

    def __or__(self, other: Mask) -> Mask:
        if isinstance(self, Everything) or self == other or (isinstance(self, Either) and other in self.pair):
            return self
        return other if isinstance(other, Everything) else Either(self, other)


@dataclass(frozen=True)
class Everything(Mask):
    """Every query sees every key."""

    def formula(self) -> str:
        return r"\text{every } j"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return torch.ones_like(k.index, dtype=torch.bool)

    def coverage(self, blocks: Blocks) -> Coverage:
        every = np.ones((1, 1, 1), dtype=bool)
        return Coverage(every, every)


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and what came before."""

    def formula(self) -> str:
        return r"j \le i"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return k.index <= q.index

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.indices
        return Coverage(k.low <= q.high, k.high <= q.low)


@dataclass(frozen=True)
class SameDocument(Mask):
    """Documents packed into one row do not see each other."""

    def formula(self) -> str:
        return r"\operatorname{document}(i) = \operatorname{document}(j)"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        assert q.document is not None, "a mask of documents needs the queries'"
        assert k.document is not None, "a mask of documents needs the keys'"
        return q.document == k.document

    def coverage(self, blocks: Blocks) -> Coverage:
        return _alike(*blocks.documents)


@dataclass(frozen=True)
class Valid(Mask):
    """Padding is not seen."""

    def formula(self) -> str:
        return r"j \text{ is no padding}"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        assert k.valid is not None, "a mask of validity needs it"
        return k.valid

    def coverage(self, blocks: Blocks) -> Coverage:
        return Coverage(blocks.valid.high == 1, blocks.valid.low == 1)


@dataclass(frozen=True)
class InPrefix(Mask):
    """Tokens of a document's prefix see each other, before and after; nobody else sees anybody."""

    def formula(self) -> str:
        return r"i \text{ and } j \text{ in the prefix}"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        if q.prefix is None or k.prefix is None:
            return torch.zeros_like(k.index, dtype=torch.bool)
        return q.prefix & k.prefix

    def coverage(self, blocks: Blocks) -> Coverage:
        if blocks.prefix is None:
            none = np.zeros((1, 1, 1), dtype=bool)
            return Coverage(none, none)
        q, k = blocks.prefix
        return Coverage((q.high == 1) & (k.high == 1), (q.low == 1) & (k.low == 1))


@dataclass(frozen=True)
class Near(Mask):
    """A query sees keys less than `size` places away: with `Causal`, itself and the size - 1 before it."""

    size: int

    def formula(self) -> str:
        return rf"|i - j| < {tex(self.size)}"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return (q.index - k.index).abs() < self.size

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.indices
        nearest = np.maximum(q.low - k.high, k.low - q.high)
        furthest = np.maximum(q.high - k.low, k.high - q.low)
        return Coverage(nearest < self.size, furthest < self.size)


@dataclass(frozen=True)
class EverySo(Mask):
    """A query sees keys whose distance is a multiple of `stride`, itself among them."""

    stride: int

    def formula(self) -> str:
        return rf"{tex(self.stride)} \mid i - j"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return (q.index - k.index) % self.stride == 0

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = blocks.indices
        lowest, highest = q.low - k.high, q.high - k.low
        some = highest // self.stride * self.stride >= lowest  # the last multiple that is not beyond
        return Coverage(some, some & ((lowest == highest) | (self.stride == 1)))


@dataclass(frozen=True)
class SameBlock(Mask):
    """A query sees the keys of its own block, `size` tokens of its document long."""

    size: int

    def formula(self) -> str:
        return rf"\lfloor i / {tex(self.size)} \rfloor = \lfloor j / {tex(self.size)} \rfloor"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return q.place // self.size == k.place // self.size

    def coverage(self, blocks: Blocks) -> Coverage:
        q, k = (Range(side.low // self.size, side.high // self.size) for side in blocks.places)
        return _alike(q, k)


@dataclass(frozen=True)
class Among(Mask):
    """The first `tokens` of a document see all and are seen by all; the others see themselves and those."""

    tokens: int

    def formula(self) -> str:
        return rf"\left(\min(i, j) < {tex(self.tokens)} \lor i = j\right)"

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return (q.place < self.tokens) | (k.place < self.tokens) | (q.index == k.index)

    def coverage(self, blocks: Blocks) -> Coverage:
        (q, k), (q_index, k_index) = blocks.places, blocks.indices
        diagonal = (q_index.low <= k_index.high) & (k_index.low <= q_index.high)
        some = (q.low < self.tokens) | (k.low < self.tokens) | diagonal
        return Coverage(some, (q.high < self.tokens) | (k.high < self.tokens))


@dataclass(frozen=True)
class Both(Mask):
    """What both masks allow."""

    first: Mask
    second: Mask

    @property
    def pair(self) -> tuple[Mask, Mask]:
        """Both."""
        return self.first, self.second

    def formula(self) -> str:
        inside = (rf"\left({one.formula()}\right)" if isinstance(one, Either) else one.formula() for one in self.pair)
        return r" \land ".join(inside)

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return self.first.sees(q, k) & self.second.sees(q, k)

    def coverage(self, blocks: Blocks) -> Coverage:
        first, second = self.first.coverage(blocks), self.second.coverage(blocks)
        return Coverage(first.some & second.some, first.all & second.all)


@dataclass(frozen=True)
class Either(Mask):
    """What one mask or the other allows."""

    first: Mask
    second: Mask

    @property
    def pair(self) -> tuple[Mask, Mask]:
        """Both."""
        return self.first, self.second

    def formula(self) -> str:
        inside = (rf"\left({one.formula()}\right)" if isinstance(one, Both) else one.formula() for one in self.pair)
        return r" \lor ".join(inside)

    def sees(self, q: Tokens, k: Tokens) -> Tensor:
        return self.first.sees(q, k) | self.second.sees(q, k)

    def coverage(self, blocks: Blocks) -> Coverage:
        first, second = self.first.coverage(blocks), self.second.coverage(blocks)
        return Coverage(first.some | second.some, first.all | second.all)


def _alike(q: Range, k: Range) -> Coverage:
    """Of pairs with the same number (of a document, of a block)."""
    one_each = (q.low == q.high) & (k.low == k.high)
    return Coverage((q.low <= k.high) & (k.low <= q.high), one_each & (q.low == k.low))
