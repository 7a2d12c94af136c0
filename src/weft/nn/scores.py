"""From the products q.k to weights: a part of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from weft.config import Part


class Score(Part, slot="score", default="softmax"):
    """How products of queries and keys become weights."""

    def build(self, width: int) -> Weighting:
        """The weighting for heads of `width` channels."""
        raise NotImplementedError


@dataclass(frozen=True)
class Weighting:
    """Turns scaled scores into weights; `scale` multiplies q.k first."""

    scale: float

    def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
        """Weights in the scores' dtype; where nothing is allowed, all are zero."""
        raise NotImplementedError


class Softmax(Score, kind="softmax"):
    """softmax(q.k * scale): positive, sum 1 (Vaswani et al. 2017, eq. 1)."""

    scale: PositiveFloat | None = None
    """1/sqrt(head width) unless given"""

    def build(self, width: int) -> SoftmaxWeighting:
        return SoftmaxWeighting(self.scale or 1 / math.sqrt(width))


@dataclass(frozen=True)
class SoftmaxWeighting(Weighting):
    """Softmax over the keys that are allowed, taken in float32 or wider."""

    def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
        wide = scores_BHTS.to(torch.promote_types(scores_BHTS.dtype, torch.float32))
        weights = wide.masked_fill(~allowed, -math.inf).softmax(-1)
        return weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0).to(scores_BHTS.dtype)
