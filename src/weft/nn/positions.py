"""Where order enters. A scheme overrides the hook where it acts: `embed` (into x), `rotate` (q and k), `bias` (scores).

P counts angles: half of a head's turned channels, or of the stack's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from weft.config import Part
from weft.errors import WeftError
from weft.nn import fused
from weft.nn.initialization import Normal
from weft.nn.linear import Embedding
from weft.nn.module import Dims, Module
from weft.nn.sides import Sides


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

    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to scaled scores in `dtype`, (B or 1) x H x T x S, or None."""
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


class Sinusoidal(Positions, kind="sinusoidal"):
    """Sines and cosines of fixed wavelengths, added to the embedding: nothing is learned, and no length is too long.

    Vaswani et al. 2017, section 3.5: channel 2i holds sin(place / theta^(2i/d_model)), channel 2i + 1 its cosine.
    """

    theta: PositiveFloat = 10_000.0
    """base of the wavelengths 2 pi theta^(2i/d_model)"""

    def build(self, dims: Dims) -> SinusoidalPositions:
        return SinusoidalPositions(self)


class SinusoidalPositions(PositionScheme):
    """x_BTD + (sin, cos, sin, cos, ...) of each position's angles."""

    def __init__(self, options: Sinusoidal) -> None:
        super().__init__()
        self.options = options

    def embed(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        d_model = x_BTD.shape[-1]
        angles_BTP = angles(positions_BT, d_model, self.options.theta)
        waves_BTD = torch.stack([angles_BTP.sin(), angles_BTP.cos()], dim=-1).flatten(-2)
        return x_BTD + waves_BTD[..., :d_model].to(x_BTD.dtype)


class Alibi(Positions, kind="alibi"):
    """Attention with linear biases: each head's scores fall with the distance, each head's at a slope of its own.

    Press et al. 2022, section 3 (arXiv 2108.12409). With n heads, a power of two, head h = 1 ... n has the slope
    2^(-8h/n); other numbers of heads take those of the next lower power, then every second one of the next higher.
    In a stack that sees both ways the distance counts on both sides.
    """

    def build(self, dims: Dims) -> AlibiPositions:
        return AlibiPositions()


class AlibiPositions(PositionScheme):
    """-slope_H |i - j| is added to the score of query i and key j, unscaled."""

    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> Tensor:
        # at least float32: in bf16 the distance 257 would be 256; whoever adds it may round the product
        dtype = torch.promote_types(dtype, torch.float32)
        slopes_H = torch.tensor(alibi_slopes(n_heads), dtype=dtype, device=sides.q_index_BT.device)
        distance_BTS = (sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :]).abs()
        return -slopes_H[:, None, None] * distance_BTS[:, None].to(dtype)


def alibi_slopes(n_heads: int) -> list[float]:
    """Each head's slope (Press et al. 2022, section 3)."""
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2.0 ** (-8 * head / (2 * power)) for head in range(1, 2 * power + 1, 2)]
    return slopes + between[: n_heads - power]


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
        angles_BTP = angles(positions_BT, turned, self.options.theta)
        return Angles(angles_BTP.cos()[:, None], angles_BTP.sin()[:, None])

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, prepared: Angles) -> tuple[Tensor, Tensor]:
        return turn(q_BHTK, prepared), turn(k_BGTK, prepared)


class RotaryAlibi(Rotary, kind="rotary-alibi"):
    """Rotary positions, and beside them ALiBi's biases: heads that look near from the first step on learn sooner.

    Su et al. 2021, eq. 15; Press et al. 2022, section 3.
    """

    def build(self, dims: Dims) -> RotaryAlibiPositions:
        return RotaryAlibiPositions(self)


class RotaryAlibiPositions(RotaryPositions, AlibiPositions):
    """Queries and keys are turned, and -slope_H |i - j| is added to their scores."""


def turn(x_BHTK: Tensor, angles: Angles) -> Tensor:
    """Each pair (x1, x2) of channels as (x1 cos - x2 sin, x2 cos + x1 sin); channels beyond the angles unchanged."""
    return fused.rotate(x_BHTK, angles.cos_B1TP.to(x_BHTK.dtype), angles.sin_B1TP.to(x_BHTK.dtype))


def angles(positions_BT: Tensor, width: int, theta: float) -> Tensor:
    """place / theta^(2i/width) for i = 0 ... (width - 1) // 2, (B or 1) x T x P, float64 where the device has it."""
    # at position 100,000 a float32 angle is already off by 0.004
    dtype = torch.float32 if positions_BT.device.type == "mps" else torch.float64
    exponents_P = torch.arange(0, width, 2, dtype=dtype, device=positions_BT.device) / width
    return positions_BT.to(dtype)[..., None] * theta**-exponents_P
