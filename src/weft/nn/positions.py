"""Where order enters. A scheme overrides the hook where it acts: `embed` (into x), `rotate` (q and k), `bias` (scores).

P is half of a head's turned channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from weft.config import Part
from weft.errors import WeftError
from weft.nn.initialization import Normal
from weft.nn.linear import Embedding
from weft.nn.masks import Sides
from weft.nn.module import Dims, Module


class Positions(Part, slot="positions", default="none"):
    """How a position tells where it stands."""

    def build(self, dims: Dims) -> PositionScheme:
        """The scheme for a stack of width d_model."""
        raise NotImplementedError


class PositionScheme(Module):
    """No positions; the hooks that a scheme overrides."""

    limit: int | None
    """The longest sequence that the scheme can number, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = None

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """x with what the scheme adds to it at the entrance of a stack."""
        return x_BTD

    def prepare(self, positions_BT: Tensor, width: int) -> Any:
        """What `rotate` needs, computed once a forward for heads of `width` channels."""
        return None

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """Queries and keys, turned."""
        return q_BHTK, k_BGTK

    def bias(self, sides: Sides, n_heads: int) -> Tensor | None:
        """What is added to the scores, (B or 1) x H x T x S, or None."""
        return None


class NoPositions(Positions, kind="none"):
    """No positions: a causal mask still tells a little about order (Haviv et al. 2022)."""

    def build(self, dims: Dims) -> PositionScheme:
        return PositionScheme()


class Learned(Positions, kind="learned"):
    """One learned vector a position, added to the embedding (Gehring et al. 2017); ends at max_length."""

    def build(self, dims: Dims) -> LearnedPositions:
        return LearnedPositions(dims)


class LearnedPositions(PositionScheme):
    """x_BTD + table.weight[positions_BT]."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.limit = dims.max_length
        self.table = Embedding(dims.max_length, dims.d_model, Normal(dims.init_std))

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        return x_BTD + self.table(positions_BT).to(x_BTD.dtype)


class Rotary(Positions, kind="rotary"):
    """Rotary positions: each pair of channels of q and k is turned by an angle that grows with the position.

    Su et al. 2021, "RoFormer", eq. 15 (arXiv 2104.09864). Channel i is paired with channel i + width/2.
    """

    theta: PositiveFloat = 10_000.0
    """base of the wavelengths 2 pi theta^(2i/width)"""
    share: float = Field(1.0, gt=0, le=1)
    """share of a head's channels that is turned; the rest passes through"""

    def build(self, dims: Dims) -> RotaryPositions:
        return RotaryPositions(self)


@dataclass(frozen=True)
class Angles:
    """Cosine and sine of every position's angles, (B or 1) x 1 x T x P, float64 where the device has it."""

    cos_B1TP: Tensor
    sin_B1TP: Tensor


class RotaryPositions(PositionScheme):
    """q and k turned so that q.k depends on the distance of their positions only."""

    def __init__(self, options: Rotary) -> None:
        super().__init__()
        self.options = options

    def prepare(self, positions_BT: Tensor, width: int) -> Angles:
        turned = round(width * self.options.share)
        if turned < 2 or turned % 2:
            raise WeftError(
                f"rotary positions turn pairs of channels: share {self.options.share} of a head of width {width}"
                f" is {turned} channels, which should be even and at least 2"
            )
        # float64: at position 100,000 a float32 angle is already off by 0.004
        dtype = torch.float32 if positions_BT.device.type == "mps" else torch.float64
        exponents_P = torch.arange(0, turned, 2, dtype=dtype, device=positions_BT.device) / turned
        angles_BTP = positions_BT.to(dtype)[..., None] * self.options.theta**-exponents_P
        return Angles(angles_BTP.cos()[:, None], angles_BTP.sin()[:, None])

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, prepared: Angles) -> tuple[Tensor, Tensor]:
        return turn(q_BHTK, prepared), turn(k_BGTK, prepared)


def turn(x_BHTK: Tensor, angles: Angles) -> Tensor:
    """Each pair (x1, x2) of channels as (x1 cos - x2 sin, x2 cos + x1 sin); channels beyond the angles unchanged."""
    cos, sin = angles.cos_B1TP.to(x_BHTK.dtype), angles.sin_B1TP.to(x_BHTK.dtype)
    pairs = cos.shape[-1]
    first, second, rest = x_BHTK.split([pairs, pairs, x_BHTK.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
