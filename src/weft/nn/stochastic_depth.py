"""Stochastic depth: in training a row skips residual branches by lot, and what is left of the network is shallower.

Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3. The lot is that of dropout: torch's own generator.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from weft.nn.module import Dims
from weft.nn.part import Equations, ModelPart, tex

_SKIPPED = r"\Pr\left[\text{training skips a branch of layer } \ell\right]"


class StochasticDepth(ModelPart, slot="stochastic_depth", default="none"):
    """How often training skips a residual branch."""

    def at(self, depth: int, n_layers: int) -> float:
        """Share of the rows that skip a branch of the layer at `depth` (1 ... n_layers)."""
        raise NotImplementedError


class NoStochasticDepth(StochasticDepth, kind="none"):
    """No branch is skipped."""

    def at(self, depth: int, n_layers: int) -> float:
        return 0.0


class Uniform(StochasticDepth, kind="uniform"):
    """All layers' branches are skipped as often (Huang et al. 2016, section 3)."""

    share: float = Field(gt=0, lt=1, examples=[0.2])
    """share of the rows that skip a branch"""

    def equations(self, dims: Dims) -> Equations:
        return (rf"{_SKIPPED} &= {tex(self.share)}",)

    def at(self, depth: int, n_layers: int) -> float:
        return self.share


class LinearDecay(StochasticDepth, kind="linear"):
    """The deeper a layer, the more often: depth/n_layers of the last one's share (Huang et al. 2016, eq. 4)."""

    share: float = Field(gt=0, lt=1, examples=[0.2])
    """share of the rows that skip a branch of the last layer"""

    def equations(self, dims: Dims) -> Equations:
        return (rf"{_SKIPPED} &= {tex(self.share)} \cdot \frac{{\ell}}{{{dims.n_layers}}}",)

    def at(self, depth: int, n_layers: int) -> float:
        return self.share * depth / n_layers


def skip_rows(x_BTD: Tensor, share: float, *, training: bool) -> Tensor:
    """In training 0 for a share of the rows, by lot; the others over 1 - share, so that the mean stays."""
    if not training or share == 0:
        return x_BTD
    kept = torch.rand(len(x_BTD), *(1 for _ in x_BTD.shape[1:]), device=x_BTD.device) >= share
    return x_BTD * kept.to(x_BTD.dtype) / (1 - share)
