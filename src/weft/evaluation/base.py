"""Evaluation: what a model reaches on a split of its task, and what it said of each example.

`evaluate(objective, model, tokenizer, split, plan)` chooses by the objective's class; a task's file registers its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import torch

from weft.data.shards import TokenSplit
from weft.models.transformer import Transformer
from weft.objectives import Objective
from weft.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Plan:
    """How thoroughly, and with what batches."""

    length: int
    """the model's T"""
    limit: int | None = None
    """about how many tokens to look at, spread over the split, always the same ones; all unless given"""
    thorough: bool = False
    """what takes longer too: overlapping windows, beam search"""
    batch_tokens: int = 4096
    """tokens computed at a time"""
    progress: Callable[[int, int], None] | None = None
    """called with what is done and what there is"""

    def told(self, done: int, total: int) -> None:
        """Say how far it is, where somebody listens."""
        if self.progress is not None:
            self.progress(done, total)


class Result(Protocol):
    """What was measured."""

    @property
    def loss(self) -> float:
        """Nats a target."""

    def values(self) -> dict[str, Any]:
        """For the log."""

    def short(self) -> str:
        """The one number of a progress line, with its name; empty where there is none."""

    def lines(self, baselines: Mapping[str, Any]) -> list[str]:
        """For a person, beside what simple methods reach."""

    def predictions(self, split: TokenSplit) -> Iterator[dict[str, Any]]:
        """One object an example, with its stable id."""


@singledispatch
def evaluate(objective: Objective, model: Transformer, tokenizer: Tokenizer, split: TokenSplit, plan: Plan) -> Result:
    """Measure a model on a split as its objective asks."""
    raise NotImplementedError(f"objective {objective.kind} has no evaluation")


@contextmanager
def measuring(model: Transformer) -> Iterator[torch.device]:
    """Without dropout and without gradients; yields the model's device."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)


def share(part: TokenSplit, tokens: int | None) -> int | None:
    """How many examples make about that many tokens; None for all."""
    if tokens is None or tokens >= part.tokens:
        return None
    return max(1, tokens * part.documents // part.tokens)
