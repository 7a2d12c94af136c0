"""Gates: how much of what attention found each head hands on, decided by the token that asked.

Qiu et al. 2025, "Gated Attention for Large Language Models", section 2.2, position G1 (arXiv 2505.06708).
"""

from __future__ import annotations

from torch import Tensor

from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module
from weft.nn.part import Equations, ModelPart


class Gate(ModelPart, slot="gate", default="none"):
    """What the heads' mixtures are multiplied with, before the output matrix.

    Equations call it G_{hi}.
    """

    def build(self, dims: Dims, n_heads: int, width: int) -> OutputGate | None:
        """The gate of so many heads of `width` channels, or None for `none`."""
        raise NotImplementedError


class NoGate(Gate, kind="none"):
    """All is handed on."""

    def build(self, dims: Dims, n_heads: int, width: int) -> None:
        return None


class Elementwise(Gate, kind="elementwise"):
    """sigmoid(x W): a share for every channel of every head (Qiu et al. 2025, section 2.2, elementwise)."""

    def equations(self, dims: Dims) -> Equations:
        return (r"G_{hi} &= \sigma\left(x_i W^G_h\right) \in \mathbb{R}^{K}",)

    def build(self, dims: Dims, n_heads: int, width: int) -> OutputGate:
        return OutputGate(dims, n_heads, width)


class Headwise(Gate, kind="headwise"):
    """sigmoid(x W): a share for every head (Qiu et al. 2025, section 2.2, headwise)."""

    def equations(self, dims: Dims) -> Equations:
        return (r"G_{hi} &= \sigma\left(x_i w^G_h\right) \in \mathbb{R}",)

    def build(self, dims: Dims, n_heads: int, width: int) -> OutputGate:
        return OutputGate(dims, n_heads, 1)


class OutputGate(Module):
    """Shares of `width` channels a head, or of whole heads."""

    taps = ("shares",)

    def __init__(self, dims: Dims, n_heads: int, width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.projection = Linear(dims.d_model, n_heads * width, Normal(dims.init_std))

    def forward(self, x_BTD: Tensor, mixed_BHTK: Tensor) -> Tensor:
        shares_BHTK = self.projection(x_BTD).sigmoid().unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        return mixed_BHTK * self.tap("shares", shares_BHTK)
