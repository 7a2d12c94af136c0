"""Rotary positions beyond the length of training: how fast each pair of channels turns in longer texts.

Each scaling gives the frequencies f_i, in radians a place, of which plain rotary's are theta^(-2i/width). P counts
pairs of channels, `width` the channels that are turned, 2P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from weft.errors import WeftError
from weft.nn.module import Dims
from weft.nn.part import Equations, ModelPart, tex
from weft.nn.positions import frequencies, wave_dtype


@dataclass(frozen=True)
class Turning:
    """What a scaling may know: rotary's base, the turned channels of a head, the model's length, where tokens stand."""

    theta: float
    width: int
    max_length: int
    positions_BT: Tensor
    documents_BT: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What angles are computed in."""
        return wave_dtype(self.positions_BT.device)

    def frequencies(self, theta: float | Tensor | None = None) -> Tensor:
        """theta^(-2i/width) for i = 0 ... P - 1, P, or ... x P where there are several bases."""
        return frequencies(self.theta if theta is None else theta, self.width, self.positions_BT.device)

    def lengths(self) -> Tensor:
        """Of the text that each token belongs to, B x T: one more than the last place in its row, or document."""
        ends_BT = self.positions_BT + 1
        if self.documents_BT is None:
            return ends_BT.amax(1, keepdim=True).expand_as(ends_BT)
        together_BTS = self.documents_BT[:, :, None] == self.documents_BT[:, None, :]
        return torch.where(together_BTS, ends_BT[:, None, :], 0).amax(2)


_PLAIN = r"\theta^{-2k/w}"
"""The frequency of pair k in equations, where w channels are turned."""


class RotaryScaling(ModelPart, slot="scaling", default="none"):
    """How rotary's wavelengths are stretched for texts longer than those of training.

    Equations tell f_k, by how much pair k turns a place; theta is rotary's base, w the number of channels that turn.
    """

    def frequencies(self, turning: Turning) -> Tensor:
        """Radians a place of each pair, P or B x T x P."""
        raise NotImplementedError

    @property
    def magnitude(self) -> float:
        """What turned queries and keys are multiplied by."""
        return 1.0

    def cached_limit(self, max_length: int) -> int | None:
        """The longest text in which no token's angle depends on how many follow, so that a cache holds; None: any."""
        return None

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        return []


class NoScaling(RotaryScaling, kind="none"):
    """The same wavelengths, however long the text."""

    def equations(self, dims: Dims) -> Equations:
        return (rf"f_k &= {_PLAIN}",)

    def frequencies(self, turning: Turning) -> Tensor:
        return turning.frequencies()


class Stretched(RotaryScaling):
    """What scalings that are made for `factor` times longer texts share."""

    trials = {"factor": (2.0, 4.0), "original_length": (1000, 100)}  # within which not all pairs make turns

    factor: float = Field(ge=1, examples=[4.0])
    """how many times longer texts are than those of the first training"""


class LinearScaling(Stretched, kind="linear"):
    """Position interpolation: all places are divided by `factor` (Chen et al. 2023, eq. 4; arXiv 2306.15595)."""

    def equations(self, dims: Dims) -> Equations:
        return (rf"f_k &= \frac{{1}}{{{tex(self.factor)}}} \, {_PLAIN}",)

    def frequencies(self, turning: Turning) -> Tensor:
        return turning.frequencies() / self.factor


class NtkScaling(Stretched, kind="ntk"):
    """A larger base: the slowest pair turns `factor` times slower, the fastest as before.

    Peng et al. 2023, definition 1 (arXiv 2309.00071): theta' = theta factor^(width/(width - 2)).
    """

    def equations(self, dims: Dims) -> Equations:
        return (rf"f_k &= \left(\theta \cdot {tex(self.factor)}^{{w/(w - 2)}}\right)^{{-2k/w}}",)

    def frequencies(self, turning: Turning) -> Tensor:
        return turning.frequencies(turning.theta * self.factor ** _ntk_power(self.kind, turning.width))


class DynamicScaling(Stretched, kind="dynamic"):
    """NTK-aware scaling by as much as a text's own length needs: up to the original, none.

    Peng et al. 2023, section 3.3, as transformers writes it: theta' = theta s^(width/(width - 2)) with the stretch
    s = factor length/original - (factor - 1). Beyond the original length each new token changes the angles of all that
    came before, so that a cache cannot hold them, and is refused there.
    """

    trials = {"original_length": (4,)}

    original_length: PositiveInt | None = None
    """tokens up to which nothing changes; max_length unless given"""

    def equations(self, dims: Dims) -> Equations:
        factor, original = tex(self.factor), tex(self.cached_limit(dims.max_length))
        stretch = rf"{factor} \frac{{T}}{{{original}}} - {tex(self.factor - 1)}"
        return (
            r"f_k &= \left(\theta \, s^{w/(w - 2)}\right)^{-2k/w}",
            rf"s &= \max\left(1, {stretch}\right), \quad T \text{{ the text's length}}",
        )

    def cached_limit(self, max_length: int) -> int:
        return self.original_length or max_length

    def derived(self, dims: Dims) -> list[str]:
        given = self.original_length is not None
        return [] if given else [f"original_length not given: max_length = {dims.max_length}"]

    def frequencies(self, turning: Turning) -> Tensor:
        power = _ntk_power(self.kind, turning.width)
        share_BT = turning.lengths().to(turning.dtype) / self.cached_limit(turning.max_length)
        stretch_BT = (self.factor * share_BT - (self.factor - 1)).clamp(min=1)
        return turning.frequencies(turning.theta * stretch_BT**power)


class Llama3Scaling(Stretched, kind="llama-3"):
    """Pairs with few turns within the original length are slowed down, those with many not.

    Dubey et al. 2024, "The Llama 3 Herd of Models" (arXiv 2407.21783), as its authors' code does it: with r turns, the
    frequency is (1 - s) f/factor + s f, s = (r - low)/(high - low) kept within 0 and 1.
    """

    factor: float = Field(8.0, ge=1)
    """how many times slower the slowest pairs turn"""
    low_freq_factor: PositiveFloat = 1.0
    """turns within the original length up to which a pair is slowed down entirely"""
    high_freq_factor: PositiveFloat = 4.0
    """turns from which a pair is left as it is"""
    original_length: PositiveInt = Field(examples=[8192])
    """tokens that the model was trained on at first"""

    @model_validator(mode="after")
    def _check_order(self) -> Llama3Scaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor = {self.low_freq_factor} should be less than high_freq_factor ="
                f" {self.high_freq_factor}"
            )
        return self

    def equations(self, dims: Dims) -> Equations:
        low, high, original = tex(self.low_freq_factor), tex(self.high_freq_factor), tex(self.original_length)
        kept = rf"\frac{{\frac{{1}}{{2\pi}} {original} \, {_PLAIN} - {low}}}{{{high} - {low}}}"
        return (
            rf"f_k &= \left((1 - s_k) \frac{{1}}{{{tex(self.factor)}}} + s_k\right) {_PLAIN}",
            rf"s_k &= \min\left(1, \max\left(0, {kept}\right)\right)",
        )

    def frequencies(self, turning: Turning) -> Tensor:
        plain_P = turning.frequencies()
        turns_P = self.original_length * plain_P / (2 * math.pi)
        kept_P = (turns_P - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return plain_P / self.factor + kept_P.clamp(0, 1) * (plain_P - plain_P / self.factor)


class YarnScaling(Stretched, kind="yarn"):
    """Slow pairs are interpolated, fast ones left, and attention is sharpened.

    Peng et al. 2023, "YaRN", sections 3.2 and 3.4 (arXiv 2309.00071). As in the authors' code the ramp between both is
    linear in a pair's index, from the one that makes `beta_fast` turns within the original length to that with
    `beta_slow`. Queries and keys are both multiplied by 0.1 ln(factor) + 1, which is the root of 1/temperature.
    """

    trials = {"beta_fast": (1.2, 2.0)}  # two pairs, the second of which makes 1.6 turns in 1,000 tokens

    original_length: PositiveInt = Field(examples=[8192])
    """tokens that the model was trained on at first"""
    beta_fast: PositiveFloat = 32.0
    """turns within the original length from which a pair is left as it is"""
    beta_slow: PositiveFloat = 1.0
    """turns up to which a pair is interpolated entirely"""
    attention_factor: PositiveFloat | None = None
    """what turned queries and keys are multiplied by; 0.1 ln(factor) + 1 unless given"""

    @model_validator(mode="after")
    def _check_order(self) -> YarnScaling:
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow = {self.beta_slow} should be less than beta_fast = {self.beta_fast}")
        return self

    def equations(self, dims: Dims) -> Equations:
        original = tex(self.original_length)
        turns = rf"\frac{{w}}{{2 \ln \theta}} \ln \frac{{{original}}}{{2\pi r}}"
        first = rf"k_0 = \max\left(0, \lfloor \kappa({tex(self.beta_fast)}) \rfloor\right)"
        last = rf"k_1 = \min\left(w - 1, \lceil \kappa({tex(self.beta_slow)}) \rceil\right)"
        return (
            rf"f_k &= \left(1 - s_k + \frac{{s_k}}{{{tex(self.factor)}}}\right) {_PLAIN}",
            r"s_k &= \min\left(1, \max\left(0, \frac{k - k_0}{k_1 - k_0}\right)\right)",
            rf"\kappa(r) &= {turns}, \quad {first}, \quad {last}",
            rf"c &= {tex(self.magnitude)}",
        )

    @property
    def magnitude(self) -> float:
        return self.attention_factor or 0.1 * math.log(self.factor) + 1

    def derived(self, dims: Dims) -> list[str]:
        given = self.attention_factor is not None
        return [] if given else [f"attention_factor not given: 0.1 ln(factor) + 1 = {self.magnitude:.6g}"]

    def frequencies(self, turning: Turning) -> Tensor:
        plain_P = turning.frequencies()

        def pair(turns: float) -> float:
            """Index of the pair that makes so many turns within the original length, a fraction where none does."""
            return (
                turning.width * math.log(self.original_length / (2 * math.pi * turns)) / (2 * math.log(turning.theta))
            )

        first = max(math.floor(pair(self.beta_fast)), 0)
        last = min(math.ceil(pair(self.beta_slow)), turning.width - 1)
        index_P = torch.arange(len(plain_P), dtype=plain_P.dtype, device=plain_P.device)
        # 0.001: a ramp that begins and ends at one pair is a step behind it
        slowed_P = ((index_P - first) / max(last - first, 0.001)).clamp(0, 1)
        return plain_P - slowed_P * (plain_P - plain_P / self.factor)


def _ntk_power(kind: str, width: int) -> float:
    """width/(width - 2): so the last pair, of exponent 2/width - 1, turns slower by just the stretch of the base."""
    if width == 2:
        raise WeftError(
            f"positions.scaling: {kind} changes the base of the wavelengths, and one pair of channels has none; turn"
            " more channels (share, head_width), or choose linear"
        )
    return width / (width - 2)
