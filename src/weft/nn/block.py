"""A block: attention lets positions talk, cross-attention reads a source, feed-forward lets each think.

A block's kind says where norms and residuals stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from weft.config import Part, Slot
from weft.nn.attention import Attention, DotProduct
from weft.nn.context import Context
from weft.nn.feedforward import FeedForward, Gelu
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module, Terms, collecting
from weft.nn.norms import Norm
from weft.nn.positions import Positions


class BlockPart(Part, slot="block", default="pre"):
    """One layer of a stack."""

    ends_normed: ClassVar[bool] = False
    """Whether what leaves the block is normalised already; if not, the stack ends with a norm."""

    attention: Slot[Attention] = DotProduct()
    """how positions exchange what they know"""
    cross_attention: Slot[Attention] | None = None
    """how they read the encoder's output, where there is one; as `attention` does unless given"""
    feedforward: Slot[FeedForward] = Gelu()
    """what happens to each position by itself"""
    norm: Slot[Norm] | None = None
    """the stack's unless given"""

    def reading(self) -> Attention:
        """The cross-attention as given, or with the attention's options."""
        return self.cross_attention or self.attention.across()

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        given = self.cross_attention is not None or not dims.across
        return [] if given else ["cross_attention not given: attention's options, without its mask and positions"]

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
    """Attention, cross-attention where there is a source, feed-forward: each as the subclass's `step` joins it to x."""

    def __init__(self, options: BlockPart, dims: Dims, positions: Positions, norm: Norm) -> None:
        super().__init__()
        norm = options.norm or norm
        self.dropout = dims.dropout
        self.attention = options.attention.build(dims, positions)
        if self.attention is not None:
            self.attention_norm = norm.build(dims)
        self.cross_attention = options.reading().build_across(dims) if dims.across else None
        if self.cross_attention is not None:
            self.cross_attention_norm = norm.build(dims)
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
        attention, cross_attention, feedforward = self.attention, self.cross_attention, self.feedforward
        if attention is not None:
            x_BTD = self.step(x_BTD, self.attention_norm, lambda h_BTD: attention(h_BTD, context))
        if cross_attention is not None:
            x_BTD = self.step(x_BTD, self.cross_attention_norm, lambda h_BTD: cross_attention(h_BTD, context))
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


def hidden_matrices(model: nn.Module) -> frozenset[str]:
    """Paths of the matrices inside a model's blocks: no embedding, no head, nothing that is no matrix."""
    blocks = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, Block))
    linear = (f"{path}.weight" for path, module in model.named_modules() if isinstance(module, Linear))
    return frozenset(path for path in linear if path.startswith(blocks))
