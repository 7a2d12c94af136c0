"""Normalisation of each position's vector. Statistics are taken in float32 (or wider), whatever comes in."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from weft.nn import fused
from weft.nn.initialization import Constant
from weft.nn.module import Cost, Dims, Module
from weft.nn.part import Equations, ModelPart, tex


class Norm(ModelPart, slot="norm", default="layer"):
    """How a vector is brought to a common scale."""

    def build(self, dims: Dims) -> nn.Module:
        """The norm over vectors of width d_model."""
        raise NotImplementedError


class NoNorm(Norm, kind="none"):
    """No normalisation: what comes in goes out."""

    def build(self, dims: Dims) -> nn.Module:
        return nn.Identity()


class Layer(Norm, kind="layer"):
    """Layer normalisation: subtract the mean, divide by the standard deviation (Ba, Kiros and Hinton 2016, eq. 4)."""

    epsilon: PositiveFloat = 1e-5
    """added to the variance, so that a constant vector divides by something"""
    bias: bool = True
    """learn a shift beside the gain"""

    symbol = "LayerNorm"

    def equations(self, dims: Dims) -> Equations:
        shift, mean = " + b" if self.bias else "", r"\frac{1}{D} \sum_{d=1}^{D}"
        return (
            rf"{self.named()}(x) &= \frac{{x - \mu}}{{\sqrt{{\sigma^2 + {tex(self.epsilon)}}}}} \odot g{shift}",
            rf"\mu &= {mean} x_d, \quad \sigma^2 = {mean} (x_d - \mu)^2",
        )

    def words(self, dims: Dims) -> str:
        return "" if self.bias else "without bias"

    def build(self, dims: Dims) -> LayerNorm:
        return LayerNorm(self, dims.d_model)


class Rms(Norm, kind="rms"):
    """Root-mean-square normalisation: divide by the root of the mean square (Zhang and Sennrich 2019, eq. 4)."""

    epsilon: PositiveFloat = 1e-6
    """added to the mean square"""
    zero_centered: bool = False
    """the gain is 1 + weight and the weight starts at 0, so that weight decay draws the gain to 1 (Gemma Team 2024)"""

    symbol = "RMSNorm"

    def equations(self, dims: Dims) -> Equations:
        gain = "(1 + g)" if self.zero_centered else "g"
        square = r"\frac{1}{D} \sum_{d=1}^{D} x_d^2"
        return (rf"{self.named()}(x) &= \frac{{x}}{{\sqrt{{{square} + {tex(self.epsilon)}}}}} \odot {gain}",)

    def words(self, dims: Dims) -> str:
        return "gain 1 + weight" if self.zero_centered else ""

    def build(self, dims: Dims) -> RmsNorm:
        return RmsNorm(self, dims.d_model)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""

    def __init__(self, options: Layer, width: int) -> None:
        super().__init__()
        self.epsilon = options.epsilon
        self.weight = self.parameter("weight", (width,), Constant(1.0))
        self.bias = self.parameter("bias", (width,), Constant(0.0)) if options.bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.epsilon)

    def cost(self, length: int) -> Cost:
        return Cost(parameters=self.weight.numel() * (1 if self.bias is None else 2))


class RmsNorm(Module):
    """x / sqrt(mean(x^2) + epsilon) * gain; the gain is the weight, or 1 + weight."""

    def __init__(self, options: Rms, width: int) -> None:
        super().__init__()
        self.epsilon = options.epsilon
        self.zero_centered = options.zero_centered
        self.weight = self.parameter("weight", (width,), Constant(0.0 if self.zero_centered else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        # summed in the weight's own precision, so that the gain is rounded once
        gain = 1 + self.weight if self.zero_centered else self.weight
        return fused.rms_norm(x, gain, self.epsilon)

    def cost(self, length: int) -> Cost:
        return Cost(parameters=self.weight.numel())
