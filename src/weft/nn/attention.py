"""Attention: queries ask, keys answer, values are handed on.

n_kv_heads = n_heads   multi-head      each query head has its own keys and values (Vaswani et al. 2017, 3.2.2)
n_kv_heads = 1         multi-query     all query heads share one (Shazeer 2019)
between                grouped-query   n_heads / n_kv_heads query heads share one (Ainslie et al. 2023)
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from weft.config import EXECUTION, Part, Slot
from weft.errors import WeftError
from weft.nn.cache import FullEntry
from weft.nn.context import Context, Memory
from weft.nn.initialization import Normal
from weft.nn.kernels import Call, attend
from weft.nn.linear import Linear
from weft.nn.masks import Everything, MaskPart, NoMask, Sides, Valid
from weft.nn.module import Cost, Dims, Module
from weft.nn.positions import Positions, PositionScheme
from weft.nn.scores import Score, Softmax


class Attention(Part, slot="attention", default="dot-product"):
    """How positions exchange what they know."""

    def build(self, dims: Dims, positions: Positions) -> DotProductAttention | None:
        """The attention for vectors of width d_model in a stack with these positions, or None for `none`."""
        raise NotImplementedError


class NoAttention(Attention, kind="none"):
    """No attention, and no norm before it: each position stays alone."""

    def build(self, dims: Dims, positions: Positions) -> None:
        return None


class DotProduct(Attention, kind="dot-product"):
    """weights = score(q.k), output = weights . v, in several heads (Vaswani et al. 2017, section 3.2)."""

    n_heads: PositiveInt = 4
    """number of query heads"""
    n_kv_heads: PositiveInt | None = None
    """number of key/value heads; n_heads unless given"""
    head_width: PositiveInt | None = None
    """channels of a head; d_model / n_heads unless given"""
    bias: bool = False
    """learn a shift in every matrix"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of the weights that is dropped in training; the model's dropout unless given"""
    score: Slot[Score] = Softmax()
    """from products to weights"""
    mask: Slot[MaskPart] = NoMask()
    """what is hidden beyond causality, documents and padding"""
    positions: Slot[Positions] | None = None
    """the stack's unless given"""
    kernel: Annotated[Literal["auto", "sdpa", "reference"], EXECUTION] = "auto"
    """how it is computed"""

    def widths(self, dims: Dims) -> tuple[int, int]:
        """Number of key/value heads and a head's width.

        Raises WeftError when heads do not divide as they must.
        """
        groups = self.n_kv_heads or self.n_heads
        if self.n_heads % groups:
            raise WeftError(f"n_kv_heads = {groups} does not divide n_heads = {self.n_heads}")
        if self.head_width is None and dims.d_model % self.n_heads:
            raise WeftError(f"n_heads = {self.n_heads} does not divide d_model = {dims.d_model}; or give head_width")
        return groups, self.head_width or dims.d_model // self.n_heads

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        groups, width = self.widths(dims)
        said = [] if self.head_width else [f"head_width not given: d_model / n_heads = {width}"]
        return said if self.n_kv_heads else [*said, f"n_kv_heads not given: n_heads = {groups} (multi-head)"]

    def build(self, dims: Dims, positions: Positions) -> DotProductAttention:
        return DotProductAttention(self, dims, self.positions or positions)


class DotProductAttention(Module):
    """Self-attention over x, or cross-attention to a memory: both read `source`, which is x or the memory."""

    taps = ("queries", "keys", "values", "weights", "mixed")
    unfused_taps = ("weights",)

    def __init__(self, options: DotProduct, dims: Dims, positions: Positions) -> None:
        super().__init__()
        self.options = options
        self.n_heads = options.n_heads
        self.n_kv_heads, self.width = options.widths(dims)
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.weighting = options.score.build(self.width)
        self.mask = options.mask.build(dims)
        self.positions = positions
        # layers with positions of their own hold the scheme; the others use the stack's
        own = options.positions
        self.scheme: PositionScheme | None = own.build(dims) if own else None
        if own and isinstance(self.scheme, PositionScheme) and type(self.scheme).embed is not PositionScheme.embed:
            raise WeftError(
                f"attention.positions: {own.kind} positions enter where a stack begins, not in a layer;"
                " give them to the stack"
            )
        start = Normal(dims.init_std)
        self.query = Linear(dims.d_model, self.n_heads * self.width, start, bias=options.bias)
        self.key = Linear(dims.d_model, self.n_kv_heads * self.width, start, bias=options.bias)
        self.value = Linear(dims.d_model, self.n_kv_heads * self.width, start, bias=options.bias)
        narrow = Normal(dims.init_std / math.sqrt(2 * dims.n_layers))
        self.output = Linear(self.n_heads * self.width, dims.d_model, narrow, bias=options.bias)

    @property
    def prepared_key(self) -> Hashable:
        """Under which a context holds what this attention's position scheme prepared."""
        return self.positions, self.width

    def forward(self, x_BTD: Tensor, context: Context, memory: Memory | None = None) -> Tensor:
        source_BSD = x_BTD if memory is None else memory.x_BSD
        q_BHTK = self.tap("queries", self._split(self.query(x_BTD), self.n_heads))
        k_BGSK = self.tap("keys", self._split(self.key(source_BSD), self.n_kv_heads))
        v_BGSK = self.tap("values", self._split(self.value(source_BSD), self.n_kv_heads))
        sides, mask, bias = context.sides, self.mask & context.mask, None
        if memory is None:
            scheme, prepared = context.prepared[self.prepared_key]
            q_BHTK, k_BGSK = scheme.rotate(q_BHTK, k_BGSK, prepared)
            bias = scheme.bias(sides, self.n_heads)
            if context.cache is not None and context.placement is not None:
                entry = context.cache.entries[context.depth]
                assert entry is not None, "a layer with attention has a cache entry"
                k_BGSK, v_BGSK = entry.append(k_BGSK, v_BGSK, context.placement)
        else:
            sides = _sides_of(x_BTD, memory)
            mask = Everything() if memory.valid_BS is None else Valid()
        call = Call(q_BHTK, k_BGSK, v_BGSK, mask, sides, self.weighting, bias, self.dropout if self.training else 0.0,
                    self.tap if self.heard("weights") else None)  # fmt: skip
        mixed_BHTK = self.tap("mixed", attend(call, self.options.kernel))
        return self.output(mixed_BHTK.transpose(1, 2).flatten(2))

    def _split(self, x_BTN: Tensor, heads: int) -> Tensor:
        """B x T x (heads width) as B x heads x T x width."""
        return x_BTN.unflatten(-1, (heads, self.width)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"{self.n_heads} x {self.width}"

    def cache_entry(self) -> FullEntry:
        """An empty entry for this attention's keys and values."""
        return FullEntry()

    def cost(self, length: int) -> Cost:
        """q.k and weights.v against all `length` keys, masked or not (the convention of Chowdhery et al. 2022, B)."""
        flops = 2 * 2 * self.n_heads * self.width * length
        return Cost(flops=flops, cache=2 * self.n_kv_heads * self.width)


def _sides_of(x_BTD: Tensor, memory: Memory) -> Sides:
    queries = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
    keys = torch.arange(memory.x_BSD.shape[1], device=x_BTD.device)[None]
    return Sides(queries, keys, k_valid_BS=memory.valid_BS)
