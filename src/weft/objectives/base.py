"""What an objective is: everything that is particular to a task, from the data it needs to the terms of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from weft.config import Part, sections_within
from weft.data.config import DataConfig
from weft.data.shards import PreparedData
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.heads import Head
from weft.nn.module import Terms


@dataclass(frozen=True)
class Batch:
    """Inputs and what is to be predicted from them, as tensors."""

    inputs: Inputs
    targets: Tensor
    """B x T token ids, or B classes"""
    source: Inputs | None = None
    """what an encoder reads"""

    def split(self, rows: int) -> Iterator[Batch]:
        """The same in pieces of at most `rows` rows."""
        for start in range(0, self.inputs.shape[0], rows):
            part = slice(start, start + rows)
            source = None if self.source is None else _rows(self.source, part)
            yield Batch(_rows(self.inputs, part), self.targets[part], source)


def _rows(inputs: Inputs, part: slice) -> Inputs:
    held = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return replace(inputs, **{name: x[part] for name, x in held.items() if x is not None})


class BatchLoader(Protocol):
    """Batches without end, whose place is known by plain numbers."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""

    @property
    def tokens_per_epoch(self) -> int:
        """As many tokens as make an epoch."""

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""

    def next(self) -> Any:
        """The next batch, as arrays."""

    def state(self) -> dict[str, int]:
        """Where the loader is."""

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from where `state` was taken."""


class Objective(Part, slot="objective", default="causal"):
    """What is learned: which data and heads it needs, how a batch is made, what its loss is."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that the data must have beside the text: `label`, `target`."""
    special_tokens: ClassVar[tuple[str, ...]] = ()
    """Tokens that the objective needs beside the end of a document."""
    continues: ClassVar[bool] = False
    """Whether a model that learns this continues a prompt, so that a run may show samples."""
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    """What a validation measures, by name in the log."""
    judged_by: ClassVar[str] = "loss"
    """The metric by which a run's best checkpoint is chosen: the loss, or one of which more is better."""
    weights: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    """The terms that are minimised, by name, and how much each counts; other terms are statistics."""
    tells: ClassVar[tuple[str, ...]] = ()
    """Fields of `Inputs` that its batches fill in, of those that some part `reads` and is idle without."""

    def heads(self) -> dict[str, Head]:
        """Heads that the objective reads; added to a model that lacks them."""
        raise NotImplementedError

    def check(self, model: ModelConfig) -> None:
        """Refuse a model that cannot do this task.

        Raises WeftError that says what it lacks.
        """

    def check_inputs(self, model: ModelConfig) -> None:
        """Refuse a model with a part that would do nothing, because no batch tells what it reads.

        Raises WeftError that names the part.
        """
        for path, section in sections_within(model):
            for name in set(getattr(section, "reads", ())) - set(self.tells):
                raise WeftError(
                    f"model.{'.'.join(path)}: {getattr(section, 'kind', '')} reads Inputs.{name}, which no batch of the"
                    f" objective {self.kind} has, so that it would do nothing; leave it out"
                )

    def merit(self, values: Mapping[str, Any]) -> tuple[float, float]:
        """The more, the better the checkpoint that a validation gave `values`: by `judged_by`, then by the loss.

        The loss and not bits, which a tokenizer that loses text has not.
        """
        return 0.0 if self.judged_by == "loss" else float(values[self.judged_by]), -float(values["loss"])

    def loader(self, data: PreparedData, config: DataConfig, length: int, batch_tokens: int, seed: int) -> BatchLoader:
        """Batches of about `batch_tokens` tokens of the training part, for a model of `length` tokens."""
        raise NotImplementedError

    def collate(self, rows: Any, device: torch.device | str) -> Batch:
        """What the loader handed out, as a batch of tensors."""
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


def tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    """An array on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
