"""The feed-forward layer: each position alone, widened, bent and narrowed again.

F is the inner width. A kind says how it bends; a gated one multiplies what is bent by a second widening of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from weft.config import Section
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module
from weft.nn.part import Equations, ModelPart, operator, size

Activation = Callable[[Tensor], Tensor]


class FeedForward(ModelPart, slot="feedforward", default="gelu"):
    """What happens to each position by itself."""

    symbol = "FeedForward"

    def build(self, dims: Dims) -> Module | None:
        """The layer for vectors of width d_model, or None for `none`."""
        raise NotImplementedError


class NoFeedForward(FeedForward, kind="none"):
    """No feed-forward layer, and no norm before it."""

    def build(self, dims: Dims) -> None:
        return None


class _Wide(FeedForward):
    """Widened, bent and narrowed."""

    trials = {"width": (23,)}  # of few ReLUs all may be dead

    width: PositiveInt | None = None
    """inner width F"""
    bias: bool = False
    """learn a shift in every matrix"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """share of the inner channels that is dropped in training"""

    def activation(self) -> Activation:
        """What bends the inner channels."""
        raise NotImplementedError

    def bend(self) -> tuple[str, str]:
        """The activation's name in equations, and what it makes of z."""
        raise NotImplementedError

    def equations(self, dims: Dims) -> Equations:
        (name, formula), inner = self.bend(), self.inner(dims)
        shape = rf"W_1 &\in {size(dims.d_model, inner)}, \quad W_2 \in {size(inner, dims.d_model)}"
        up, down = (" + b_1", " + b_2") if self.bias else ("", "")
        return (
            rf"{self.named()}(x) &= {operator(name)}\left(x W_1{up}\right) W_2{down}",
            rf"{operator(name)}(z) &= {formula}",
            shape,
        )

    def words(self, dims: Dims) -> str:
        return f"{dims.d_model:,} → {self.inner(dims):,} → {dims.d_model:,}"

    def inner(self, dims: Dims) -> int:
        """F as given, or 4 x d_model (Vaswani et al. 2017, section 3.3)."""
        return self.width or 4 * dims.d_model

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        return [] if self.width else [f"width not given: 4 x d_model = {self.inner(dims)}"]

    def build(self, dims: Dims) -> WideLayer:
        return WideLayer(self, dims)


class _Gated(_Wide):
    def inner(self, dims: Dims) -> int:
        """F as given, or 8/3 x d_model rounded up to 32s: three such matrices cost what two of 4 x d_model do."""
        return self.width or 32 * math.ceil(dims.d_model * 8 / 3 / 32)

    def equations(self, dims: Dims) -> Equations:
        (name, formula), inner = self.bend(), self.inner(dims)
        gate, up, down = (" + b_g", " + b_1", " + b_2") if self.bias else ("", "", "")
        opened = rf"\left(x W_g{gate}\right)"
        bent = rf"{operator(name)}{opened}" if name else opened
        shape = rf"W_g, W_1 &\in {size(dims.d_model, inner)}, \quad W_2 \in {size(inner, dims.d_model)}"
        return (
            rf"{self.named()}(x) &= \left({bent} \odot \left(x W_1{up}\right)\right) W_2{down}",
            *([rf"{operator(name)}(z) &= {formula}"] if name else []),
            shape,
        )

    def derived(self, dims: Dims) -> list[str]:
        text = f"width not given: 8/3 x d_model, rounded up to a multiple of 32 = {self.inner(dims)}"
        return [] if self.width else [text]

    def build(self, dims: Dims) -> GatedLayer:
        return GatedLayer(self, dims)


class GeluForm(Section):
    """How GELU is computed (Hendrycks and Gimpel 2016, section 2)."""

    approximate: Literal["none", "tanh", "quick"] = "none"
    """`tanh`: 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), which GPT-2 was trained with;
    `quick`: z sigmoid(1.702 z), which CLIP was"""

    def activation(self) -> Activation:
        """z Phi(z), or one of its approximations."""
        return quick_gelu if self.approximate == "quick" else partial(F.gelu, approximate=self.approximate)

    def bend(self) -> tuple[str, str]:
        """Its name in equations, and what it makes of z."""
        formulas = {
            "none": r"z \, \Phi(z) = \frac{z}{2} \left(1 + \operatorname{erf}\frac{z}{\sqrt{2}}\right)",
            "tanh": r"\frac{z}{2} \left(1 + \tanh\left(\sqrt{2/\pi} \left(z + 0.044715 z^3\right)\right)\right)",
            "quick": r"z \, \sigma(1.702 z)",
        }
        return "GELU", formulas[self.approximate]


class Gelu(GeluForm, _Wide, kind="gelu"):
    """down(GELU(up(x))) (Hendrycks and Gimpel 2016)."""


class Relu(_Wide, kind="relu"):
    """down(max(0, up(x))) (Vaswani et al. 2017, eq. 2)."""

    def activation(self) -> Activation:
        return F.relu

    def bend(self) -> tuple[str, str]:
        return "ReLU", r"\max(0, z)"


class Relu2(_Wide, kind="relu2"):
    """down(max(0, up(x))^2) (So et al. 2021, section 4.1)."""

    def activation(self) -> Activation:
        return squared_relu

    def bend(self) -> tuple[str, str]:
        return "ReLU2", r"\max(0, z)^2"


class Silu(_Wide, kind="silu"):
    """down(SiLU(up(x))), SiLU(z) = z sigmoid(z), also called Swish (Elfwing et al. 2017; Ramachandran et al. 2017)."""

    def activation(self) -> Activation:
        return F.silu

    def bend(self) -> tuple[str, str]:
        return "SiLU", r"z \, \sigma(z)"


class Bilinear(_Gated, kind="bilinear"):
    """down(gate(x) * up(x)) (Shazeer 2020, eq. 6)."""

    def activation(self) -> Activation:
        return unbent

    def bend(self) -> tuple[str, str]:
        return "", "z"


class ReGlu(_Gated, kind="reglu"):
    """down(max(0, gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def activation(self) -> Activation:
        return F.relu

    def bend(self) -> tuple[str, str]:
        return "ReLU", r"\max(0, z)"


class GeGlu(GeluForm, _Gated, kind="geglu"):
    """down(GELU(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""


class SwiGlu(_Gated, kind="swiglu"):
    """down(SiLU(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def activation(self) -> Activation:
        return F.silu

    def bend(self) -> tuple[str, str]:
        return "SiLU", r"z \, \sigma(z)"


def quick_gelu(z: Tensor) -> Tensor:
    """z sigmoid(1.702 z) (Hendrycks and Gimpel 2016, section 2)."""
    return z * torch.sigmoid(1.702 * z)


def squared_relu(z: Tensor) -> Tensor:
    """max(0, z)^2."""
    return F.relu(z).square()


def unbent(z: Tensor) -> Tensor:
    """z: a gate that is linear itself."""
    return z


class WideLayer(Module):
    """down(bend(up(x))): two matrices."""

    taps = ("inner",)

    def __init__(self, options: _Wide, dims: Dims) -> None:
        super().__init__()
        inner = options.inner(dims)
        self.bend = options.activation()
        self.dropout = options.dropout
        self.up = Linear(dims.d_model, inner, Normal(dims.init_std), bias=options.bias)
        self.down = Linear(inner, dims.d_model, Normal(dims.narrow_std), bias=options.bias)

    def inner(self, x_BTD: Tensor) -> Tensor:
        """B x T x F."""
        return self.bend(self.up(x_BTD))

    def forward(self, x_BTD: Tensor) -> Tensor:
        inner_BTF = self.tap("inner", self.inner(x_BTD))
        return self.down(F.dropout(inner_BTF, self.dropout, self.training))


class GatedLayer(WideLayer):
    """down(bend(gate(x)) * up(x)): three matrices, one of which opens and closes what the second passes."""

    def __init__(self, options: _Gated, dims: Dims) -> None:
        super().__init__(options, dims)
        self.gate = Linear(dims.d_model, options.inner(dims), Normal(dims.init_std), bias=options.bias)

    def inner(self, x_BTD: Tensor) -> Tensor:
        return self.bend(self.gate(x_BTD)) * self.up(x_BTD)
