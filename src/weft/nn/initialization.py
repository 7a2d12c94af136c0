"""How parameters start. Each part says it for its own, so that swapping one part never changes another's start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class Initialization:
    """A distribution that a parameter is drawn from."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Float32 values on the CPU."""
        raise NotImplementedError


@dataclass(frozen=True)
class Normal(Initialization):
    """Gaussian with mean 0 and standard deviation `std`."""

    std: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.empty(shape).normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Constant(Initialization):
    """The same value everywhere."""

    value: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.full(shape, self.value)
