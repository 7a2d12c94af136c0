"""Rotary positions: each pair of a head's channels is turned by an angle that grows with the position.

P counts pairs: half of a head's turned channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from weft.config import Slot
from weft.errors import WeftError
from weft.nn import fused
from weft.nn.module import Dims
from weft.nn.part import Equations, tex
from weft.nn.positions import AlibiPositions, Positions, PositionScheme, alibi_equations
from weft.nn.scaling import NoScaling, RotaryScaling, Turning


class Rotary(Positions, kind="rotary"):
    """Rotary positions: each pair of channels of q and k is turned by an angle that grows with the position.

    Su et al. 2021, "RoFormer", eq. 15 (arXiv 2104.09864). Pair i of a head is turned by place / theta^(2i/width), where
    width counts the channels that are turned.
    """

    theta: float = Field(10_000.0, gt=1)
    """base of the wavelengths 2 pi theta^(2i/width)"""
    share: float = Field(1.0, gt=0, le=1)
    """share of a head's channels that is turned, the first ones; the rest passes through (Black et al. 2022, 2.1.1)"""
    layout: Literal["half", "interleaved"] = "half"
    """which channels are a pair: i and i + width/2 (GPT-NeoX, Llama), or 2i and 2i + 1 (the paper, GPT-J)"""
    scaling: Slot[RotaryScaling] = NoScaling()
    """how the wavelengths are stretched for texts longer than those of the first training"""

    def equations(self, dims: Dims) -> Equations:
        one, other = ("k", "k + w/2") if self.layout == "half" else ("2k", "2k + 1")
        longer = "" if self.scaling.magnitude == 1 else r"c \, "
        matrix = r"\begin{pmatrix} \cos i f_k & \sin i f_k \\ -\sin i f_k & \cos i f_k \end{pmatrix}"
        pair = rf"\begin{{pmatrix}} z_{{{one}}} & z_{{{other}}} \end{{pmatrix}}"
        width = "K" if self.share == 1 else rf"{tex(self.share)} K"
        rest = "" if self.share == 1 else r", \quad R_i(z)_k = z_k \text{ for } k \ge w"
        return (
            rf"\left(R_i(z)_{{{one}}}, R_i(z)_{{{other}}}\right) &= {longer}{pair} {matrix}, \quad 0 \le k < w/2",
            *self.scaling.equations(dims),
            rf"\theta &= {tex(self.theta)}, \quad w = {width}{rest}",
        )

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        return [f"scaling.{line}" for line in self.scaling.derived(dims)]

    def build(self, dims: Dims) -> RotaryPositions:
        return RotaryPositions(self, dims)


@dataclass(frozen=True)
class Angles:
    """Cosine and sine of every position's angles, (B or 1) x 1 x T x P, float64 where the device has it."""

    cos_B1TP: Tensor
    sin_B1TP: Tensor
    interleaved: bool = False


class RotaryPositions(PositionScheme):
    """q and k turned so that q.k depends on the distance of their positions only."""

    def __init__(self, options: Rotary, dims: Dims) -> None:
        super().__init__()
        self.options = options
        self.max_length = dims.max_length
        self.cached_limit = options.scaling.cached_limit(dims.max_length)

    def prepare(self, positions_BT: Tensor, width: int, documents_BT: Tensor | None = None) -> Angles:
        share, scaling = self.options.share, self.options.scaling
        turned = round(width * share)
        if turned < 2 or turned % 2:
            raise WeftError(
                f"rotary positions turn pairs of channels: share {share} of a head of width {width}"
                f" is {turned} channels, which should be even and at least 2"
            )
        turning = Turning(self.options.theta, turned, self.max_length, positions_BT, documents_BT)
        places_BT = positions_BT.to(turning.dtype)
        angles_BTP = places_BT[..., None] * scaling.frequencies(turning)
        cos_BTP, sin_BTP = angles_BTP.cos() * scaling.magnitude, angles_BTP.sin() * scaling.magnitude
        return Angles(cos_BTP[:, None], sin_BTP[:, None], self.options.layout == "interleaved")

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, prepared: Angles) -> tuple[Tensor, Tensor]:
        return turn(q_BHTK, prepared), turn(k_BGTK, prepared)


class RotaryAlibi(Rotary, kind="rotary-alibi"):
    """Rotary positions, and beside them ALiBi's biases: heads that look near from the first step on learn sooner.

    Su et al. 2021, eq. 15; Press et al. 2022, section 3.
    """

    def equations(self, dims: Dims) -> Equations:
        return (*super().equations(dims), *alibi_equations(dims))

    def build(self, dims: Dims) -> RotaryAlibiPositions:
        return RotaryAlibiPositions(self, dims)


class RotaryAlibiPositions(RotaryPositions, AlibiPositions):
    """Queries and keys are turned, and -slope_H |i - j| is added to their scores."""


def turn(x_BHTK: Tensor, angles: Angles) -> Tensor:
    """Each pair (x1, x2) of channels as (x1 cos - x2 sin, x2 cos + x1 sin); channels beyond the pairs unchanged."""
    cos, sin = angles.cos_B1TP.to(x_BHTK.dtype), angles.sin_B1TP.to(x_BHTK.dtype)
    return fused.rotate(x_BHTK, cos, sin, interleaved=angles.interleaved)
