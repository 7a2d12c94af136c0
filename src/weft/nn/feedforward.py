"""The feed-forward layer: each position alone, widened, bent and narrowed again.

F is the inner width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from weft.config import Part
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module


class FeedForward(Part, slot="feedforward", default="gelu"):
    """What happens to each position by itself."""

    def build(self, dims: Dims) -> Module | None:
        """The layer for vectors of width d_model, or None for `none`."""
        raise NotImplementedError


class NoFeedForward(FeedForward, kind="none"):
    """No feed-forward layer, and no norm before it."""

    def build(self, dims: Dims) -> None:
        return None


class _Wide(FeedForward):
    width: PositiveInt | None = None
    """inner width F"""
    bias: bool = False
    """learn a shift in every matrix"""

    def inner(self, dims: Dims) -> int:
        """F as given, or 4 x d_model (Vaswani et al. 2017, section 3.3)."""
        return self.width or 4 * dims.d_model

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        return [] if self.width else [f"width not given: 4 x d_model = {self.inner(dims)}"]


class Gelu(_Wide, kind="gelu"):
    """down(GELU(up(x))) (Hendrycks and Gimpel 2016)."""

    approximate: Literal["none", "tanh"] = "none"
    """`tanh`: the paper's approximation, which GPT-2 was trained with"""

    def build(self, dims: Dims) -> GeluLayer:
        return GeluLayer(self, dims)


class Relu(_Wide, kind="relu"):
    """down(max(0, up(x))) (Vaswani et al. 2017, eq. 2)."""

    def build(self, dims: Dims) -> ReluLayer:
        return ReluLayer(self, dims)


class Relu2(_Wide, kind="relu2"):
    """down(max(0, up(x))^2) (So et al. 2021, section 4.1)."""

    def build(self, dims: Dims) -> Relu2Layer:
        return Relu2Layer(self, dims)


class SwiGlu(_Wide, kind="swiglu"):
    """down(SiLU(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def inner(self, dims: Dims) -> int:
        """F as given, or 8/3 x d_model rounded up to 32s: three such matrices cost what two of 4 x d_model do."""
        return self.width or 32 * math.ceil(dims.d_model * 8 / 3 / 32)

    def derived(self, dims: Dims) -> list[str]:
        text = f"width not given: 8/3 x d_model, rounded up to a multiple of 32 = {self.inner(dims)}"
        return [] if self.width else [text]

    def build(self, dims: Dims) -> SwiGluLayer:
        return SwiGluLayer(self, dims)


class _Layer(Module):
    taps = ("inner",)

    def __init__(self, options: _Wide, dims: Dims) -> None:
        super().__init__()
        inner = options.inner(dims)
        self.up = Linear(dims.d_model, inner, Normal(dims.init_std), bias=options.bias)
        self.down = Linear(inner, dims.d_model, Normal(dims.narrow_std), bias=options.bias)

    def inner(self, x_BTD: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.tap("inner", self.inner(x_BTD)))


class GeluLayer(_Layer):
    """Two matrices around GELU."""

    def __init__(self, options: Gelu, dims: Dims) -> None:
        super().__init__(options, dims)
        self.approximate = options.approximate

    def inner(self, x_BTD: Tensor) -> Tensor:
        return F.gelu(self.up(x_BTD), approximate=self.approximate)


class ReluLayer(_Layer):
    """Two matrices around ReLU."""

    def inner(self, x_BTD: Tensor) -> Tensor:
        return F.relu(self.up(x_BTD))


class Relu2Layer(_Layer):
    """Two matrices around the square of ReLU."""

    def inner(self, x_BTD: Tensor) -> Tensor:
        return F.relu(self.up(x_BTD)).square()


class SwiGluLayer(_Layer):
    """Three matrices: one opens and closes the gate that the second passes."""

    def __init__(self, options: SwiGlu, dims: Dims) -> None:
        super().__init__(options, dims)
        self.gate = Linear(dims.d_model, options.inner(dims), Normal(dims.init_std), bias=options.bias)

    def inner(self, x_BTD: Tensor) -> Tensor:
        return F.silu(self.gate(x_BTD)) * self.up(x_BTD)
