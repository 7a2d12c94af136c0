"""Averages of the weights over the steps: what is measured, sampled from and kept, while training goes on beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Part


class Average(Part, slot="average", default="exponential"):
    """Which weights a run gives: those of its last step, or an average over its last steps."""

    def build(self, model: nn.Module) -> Averages | None:
        """The averages of a model's parameters, which begin at its present ones; None where none are kept."""
        raise NotImplementedError


class NoAverage(Average, kind="none"):
    """The weights as they are."""

    def build(self, model: nn.Module) -> None:
        return None


class Exponential(Average, kind="exponential"):
    """average <- decay average + (1 - decay) weights, after each step (Polyak and Juditsky 1992).

    Step t uses min(decay, t / (t + 9)), so that what the weights began with is soon forgotten.
    """

    decay: float = Field(0.99, ge=0, lt=1)
    """share of the average that a step leaves; 1 / (1 - decay) is about how many steps it remembers"""

    def build(self, model: nn.Module) -> Averages:
        return Averages(model, self.decay)


class Averages:
    """The exponential averages of a model's parameters that learn, by path."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.begin()

    def begin(self) -> None:
        """Take the model's present parameters as the averages."""
        self.tensors = {path: parameter.detach().clone() for path, parameter in self._learning()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, which counts from 1."""
        share = 1 - min(self.decay, step / (step + 9))
        parameters: list[Tensor] = [parameter for _, parameter in self._learning()]
        torch._foreach_lerp_(list(self.tensors.values()), parameters, share)

    @contextmanager
    def applied(self) -> Iterator[Mapping[str, Tensor]]:
        """The model has the averages meanwhile; yields its own weights, which it gets back, bit by bit."""
        self._swap()
        try:
            yield self.tensors
        finally:
            self._swap()

    def _swap(self) -> None:
        for path, parameter in self._learning():
            parameter.data, self.tensors[path] = self.tensors[path], parameter.data

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((path, parameter) for path, parameter in self.model.named_parameters() if parameter.requires_grad)
