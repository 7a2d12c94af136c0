"""A block: attention lets positions talk, feed-forward lets each think.

A block's kind says where norms and residuals stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from weft.config import Part, Slot
from weft.nn.attention import Attention, DotProduct
from weft.nn.context import Context
from weft.nn.feedforward import FeedForward, Gelu
from weft.nn.module import Dims, Module, Terms, collecting
from weft.nn.norms import Norm
from weft.nn.positions import Positions


class BlockPart(Part, slot="block", default="pre"):
    """One layer of a stack."""

    ends_normed: ClassVar[bool] = False
    """Whether what leaves the block is normalised already; if not, the stack ends with a norm."""

    attention: Slot[Attention] = DotProduct()
    """how positions exchange what they know"""
    feedforward: Slot[FeedForward] = Gelu()
    """what happens to each position by itself"""
    norm: Slot[Norm] | None = None
    """the stack's unless given"""

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> Block:
        """The block in a stack with these positions and this norm."""
        raise NotImplementedError


class Pre(BlockPart, kind="pre"):
    """Norm inside the residual branch: x + f(norm(x)) (Radford et al. 2019, section 2.3; Xiong et al. 2020)."""

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PreNormBlock:
        return PreNormBlock(self, dims, positions, norm)


class Post(BlockPart, kind="post"):
    """Norm after the sum: norm(x + f(x)) (Vaswani et al. 2017, section 3.1)."""

    ends_normed = True

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PostNormBlock:
        return PostNormBlock(self, dims, positions, norm)


class Plain(BlockPart, kind="plain"):
    """No residual: f(norm(x)). What is not passed on is lost."""

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PlainBlock:
        return PlainBlock(self, dims, positions, norm)


class Block(Module):
    """Attention, then feed-forward, each as the subclass's `step` joins it to x."""

    def __init__(self, options: BlockPart, dims: Dims, positions: Positions, norm: Norm) -> None:
        super().__init__()
        norm = options.norm or norm
        self.dropout = dims.dropout
        self.attention = options.attention.build(dims, positions)
        if self.attention is not None:
            self.attention_norm = norm.build(dims)
        self.feedforward = options.feedforward.build(dims)
        if self.feedforward is not None:
            self.feedforward_norm = norm.build(dims)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Terms]:
        """x after this block, and what its parts emitted: by value, so that recomputing a block repeats nothing."""
        with collecting() as terms:
            x_BTD = self.mix(x_BTD, context)
        return x_BTD, terms

    def mix(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The block's arithmetic, without bookkeeping."""
        attention, feedforward = self.attention, self.feedforward
        if attention is not None:
            x_BTD = self.step(x_BTD, self.attention_norm, lambda h_BTD: attention(h_BTD, context))
        if feedforward is not None:
            x_BTD = self.step(x_BTD, self.feedforward_norm, feedforward)
        return x_BTD

    def step(self, x_BTD: Tensor, norm: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
        """How one sublayer `f` and its norm are joined to x."""
        raise NotImplementedError

    def drop(self, x_BTD: Tensor) -> Tensor:
        """Dropout at the end of a residual branch (Vaswani et al. 2017, section 5.4)."""
        return F.dropout(x_BTD, self.dropout, self.training)


class PreNormBlock(Block):
    """x + f(norm(x))."""

    def step(self, x_BTD: Tensor, norm: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
        return x_BTD + self.drop(f(norm(x_BTD)))


class PostNormBlock(Block):
    """norm(x + f(x))."""

    def step(self, x_BTD: Tensor, norm: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
        return norm(x_BTD + self.drop(f(x_BTD)))


class PlainBlock(Block):
    """f(norm(x))."""

    def step(self, x_BTD: Tensor, norm: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
        return self.drop(f(norm(x_BTD)))
