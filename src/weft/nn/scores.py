"""From the products q.k to weights: a part of its own."""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from weft.nn.initialization import Constant
from weft.nn.module import Cost, Dims, Module
from weft.nn.part import Equations, ModelPart, tex


class Score(ModelPart, slot="score", default="softmax"):
    """How products of queries and keys become weights."""

    def equations(self, dims: Dims, *, biased: bool = False) -> Equations:
        """From q_{hi} and k_{hj} to the weights a_{hij} of the keys j in M_i; b_{hij} is added to scores where biased.

        `dims.d_model` is the width of a head.
        """
        return ()

    def build(self, width: int, n_heads: int) -> Weighting:
        """The weighting for so many heads of `width` channels."""
        raise NotImplementedError


class Weighting:
    """Turns products into weights: first scores, to which biases may be added. One that learns is a `Module`, too."""

    scale: float
    """multiplies q.k"""
    needs: tuple[str, ...] = ("score",)
    """What a kernel must be able to do for it; `score`: compute another formula than softmax's."""

    def scores(self, products_BHTS: Tensor) -> Tensor:
        """q.k, scaled."""
        return products_BHTS * self.scale

    def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
        """Weights in the scores' dtype; where nothing is allowed, all are zero."""
        raise NotImplementedError


class Softmax(Score, kind="softmax"):
    """softmax(q.k * scale): positive, sum 1 (Vaswani et al. 2017, eq. 1)."""

    trials = {"cap": (4.0, 2.0)}  # so low that it matters, so high that tanh still rises

    scale: PositiveFloat | None = None
    """1/sqrt(head width) unless given"""
    cap: PositiveFloat | None = Field(None, examples=[50.0, 4.0])
    """soft limit of scaled products, before biases: cap tanh(s/cap) (Gemma Team 2024, "Gemma 2", section 2)"""
    sinks: bool = False
    """learn for each head a score that takes its share of the sum and hands nothing on: all weights may be small
    (Xiao et al. 2024, section 3.3; OpenAI 2025, "gpt-oss", section 2.2); at the start 0, Miller's softmax-plus-one"""

    def equations(self, dims: Dims, *, biased: bool = False) -> Equations:
        product, score = r"q_{hi} \cdot k_{hj}", r"s_{hij} + b_{hij}" if biased else "s_{hij}"
        scaled = rf"\frac{{{product}}}{{\sqrt{{{dims.d_model}}}}}" if self.scale is None else product
        if self.scale not in (None, 1):
            scaled = rf"{tex(self.scale)} \, {product}"
        if self.cap is not None:
            scaled = rf"{tex(self.cap)} \tanh\left(\frac{{1}}{{{tex(self.cap)}}} {scaled}\right)"
        rest = r"\exp(z_h) + " if self.sinks else ""
        others = rest + r"\sum_{j' \in M_i} \exp(" + score.replace("j", "j'") + ")"
        return (
            rf"s_{{hij}} &= {scaled}",
            rf"a_{{hij}} &= \frac{{\exp({score})}}{{{others}}}, \quad j \in M_i",
        )

    def words(self, dims: Dims) -> str | None:
        given = {"scale": self.scale, "cap": self.cap}
        changed = [f"{name} {value:g}" for name, value in given.items() if value is not None]
        return ", ".join([*changed, *(["sinks"] if self.sinks else [])]) or None

    def build(self, width: int, n_heads: int) -> SoftmaxWeighting:
        scale = self.scale or 1 / math.sqrt(width)
        return SinkWeighting(scale, self.cap, n_heads) if self.sinks else SoftmaxWeighting(scale, self.cap)


class SoftmaxWeighting(Weighting):
    """Softmax over the keys that are allowed, taken in float32 or wider."""

    def __init__(self, scale: float, cap: float | None = None) -> None:
        self.scale = scale
        self.cap = cap
        formula = () if type(self).weights in (SoftmaxWeighting.weights, SinkWeighting.weights) else ("score",)
        self.needs = (*formula, *(("cap",) if cap is not None else ()))

    @property
    def sinks_H(self) -> Tensor | None:
        """Scores that take part in each head's sum."""
        return None

    def scores(self, products_BHTS: Tensor) -> Tensor:
        scores_BHTS = products_BHTS * self.scale
        return scores_BHTS if self.cap is None else self.cap * (scores_BHTS / self.cap).tanh()

    def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
        weights = _wide(scores_BHTS).masked_fill(~allowed, -math.inf).softmax(-1)
        return weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0).to(scores_BHTS.dtype)


class SinkWeighting(SoftmaxWeighting, Module):
    """exp(s) / (exp(sink) + sum of exp(s)): softmax with one more key, whose weight is thrown away."""

    def __init__(self, scale: float, cap: float | None, n_heads: int) -> None:
        Module.__init__(self)
        SoftmaxWeighting.__init__(self, scale, cap)
        self.needs = (*self.needs, "sinks")
        self.sinks = self.parameter("sinks", (n_heads,), Constant(0.0))

    @property
    def sinks_H(self) -> Tensor:
        return self.sinks

    def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
        seen_BHTS = _wide(scores_BHTS).masked_fill(~allowed, -math.inf)
        sinks_BHT1 = self.sinks_H.to(seen_BHTS.dtype)[:, None, None].expand(*seen_BHTS.shape[:-1], 1)
        return torch.cat([seen_BHTS, sinks_BHT1], dim=-1).softmax(-1)[..., :-1].to(scores_BHTS.dtype)

    def cost(self, length: int) -> Cost:
        return Cost(parameters=self.sinks.numel())


def _wide(scores_BHTS: Tensor) -> Tensor:
    return scores_BHTS.to(torch.promote_types(scores_BHTS.dtype, torch.float32))
