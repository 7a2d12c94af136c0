"""What an objective is: everything that is particular to a task, from special tokens to the terms of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from weft.config import Part
from weft.data.loader import Packed
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.heads import Head
from weft.nn.module import Terms


@dataclass(frozen=True)
class Batch:
    """Inputs and what is to be predicted from them, as tensors."""

    inputs: Inputs
    targets_BT: Tensor

    def split(self, rows: int) -> Iterator[Batch]:
        """The same in pieces of at most `rows` rows."""
        total = self.inputs.shape[0]
        for start in range(0, total, rows):
            part = slice(start, start + rows)
            cut = {field.name: getattr(self.inputs, field.name) for field in fields(self.inputs)}
            inputs = replace(self.inputs, **{name: x[part] for name, x in cut.items() if x is not None})
            yield Batch(inputs, self.targets_BT[part])


class Objective(Part, slot="objective", default="causal"):
    """What is learned: which tokens and heads it needs, how a batch is made, what its loss is."""

    special_tokens: ClassVar[tuple[str, ...]] = ()
    """Tokens that the objective needs beside the end of a document."""
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    """The terms that are minimised, by name, and how much each counts; other terms are statistics."""

    def heads(self) -> dict[str, Head]:
        """Heads that the objective reads; added to a model that lacks them."""
        raise NotImplementedError

    def collate(self, packed: Packed, device: torch.device | str) -> Batch:
        """Packed rows of tokens as a batch."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each term's sum will be divided by, known before the forward: from it a step takes the global count."""
        raise NotImplementedError

    def terms(self, model: Transformer, batch: Batch) -> Terms:
        """Each term as a sum and a count."""
        raise NotImplementedError


class Learner(nn.Module):
    """Model and objective as one module: batch in, named terms out."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Terms:
        return self.objective.terms(self.model, batch)

    def loss(self, terms: Terms, counts: Mapping[str, int]) -> Tensor:
        """The number to minimise: each term's sum over its global count, weighted."""
        parts = [weight * terms[name].total / max(counts[name], 1) for name, weight in self.objective.weights.items()]
        return torch.stack(parts).sum()
