"""Heads: from the body's vectors to what a task wants. A model has a mapping from name to head.

N is a run of positions of the flattened batch, C a number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from weft.config import Part
from weft.data.rows import IGNORE
from weft.errors import WeftError
from weft.nn.embeddings import TokenEmbedding
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Cost, Dims, Module, Term


class Head(Part, slot="head", default="lm"):
    """What is read from the body's last vectors."""

    def bind(self, labels: tuple[str, ...]) -> Head:
        """The same with the labels of the data, if it is about labels.

        Raises WeftError when it has other ones.
        """
        return self

    def stand_in(self) -> Head:
        """The same with some labels or other, if it is about labels and has none yet."""
        return self

    def build(self, dims: Dims, embedding: Module) -> Module:
        """The head for vectors of width d_model, which may share the embedding's table."""
        raise NotImplementedError


class Lm(Head, kind="lm"):
    """Language model head: a score for every token of the vocabulary."""

    bias: bool = False
    """learn a shift for every token"""

    def build(self, dims: Dims, embedding: Module) -> LanguageModelHead:
        return LanguageModelHead(self, dims, embedding)


class Classifier(Head, kind="classifier"):
    """One of a few labels for the whole text, from one vector that stands for it."""

    pooling: Literal["first", "mean", "last"] = "mean"
    """which vector: the first token's (Devlin et al. 2019), the last one's (Radford et al. 2018), or the mean of all"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of that vector that is dropped in training; the model's dropout unless given"""
    labels: tuple[str, ...] = ()
    """the classes, in the order of their scores; those of the data, filled in from there"""

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("names a label twice")
        return labels

    def bind(self, labels: tuple[str, ...]) -> Classifier:
        unknown = [label for label in labels if label not in self.labels]
        if self.labels and unknown:
            raise WeftError(
                f"classifier.labels = {', '.join(self.labels)}: the data have {unknown[0]!r} too;"
                " leave labels out, and they are filled in"
            )
        return self if self.labels else self.model_copy(update={"labels": tuple(labels)})

    def stand_in(self) -> Classifier:
        return self.bind(() if self.labels else ("one", "other"))

    def build(self, dims: Dims, embedding: Module) -> ClassifierHead:
        if not self.labels:
            raise WeftError("classifier.labels are not known: they come from the data, or give them")
        return ClassifierHead(self, dims)


class LanguageModelHead(Module):
    """logits_BTV = x W^T; W is the embedding's table where that is tied."""

    taps = ("logits",)

    def __init__(self, options: Lm, dims: Dims, embedding: Module) -> None:
        super().__init__()
        self.projection = Linear(dims.d_model, dims.vocab_size, Normal(dims.init_std), bias=options.bias)
        self.tie(embedding)

    def tie(self, embedding: Module) -> None:
        """Share the embedding's table where it says so; again after memory was given to a model built on meta."""
        if isinstance(embedding, TokenEmbedding) and embedding.tied:
            self.projection.tie(embedding.tokens)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """logits_BTV in the compute dtype."""
        return self.tap("logits", self.projection(x_BTD))

    def loss(self, x_BTD: Tensor, targets_BT: Tensor, chunk: int = 512, smoothing: float = 0.0) -> Term:
        """Summed cross-entropy in nats over the targets that are not IGNORE, and their count.

        At most `chunk` rows of logits exist at any moment: B x T x V never does. `smoothing` is the share of each
        target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        """
        wanted_BT = targets_BT != IGNORE
        x_ND, targets_N = x_BTD[wanted_BT], targets_BT[wanted_BT]
        nats = partial(self._nats, smoothing=smoothing)
        return Term(chunked_sum(nats, x_ND, targets_N, chunk, list(self.parameters())), wanted_BT.sum())

    def losses(self, x_BTD: Tensor, targets_BT: Tensor, chunk: int = 1024) -> Tensor:
        """Cross-entropy in nats of every target, B x T, zero where it is IGNORE; without gradients."""
        with torch.no_grad():
            rows = zip(x_BTD.flatten(0, 1).split(chunk), targets_BT.flatten().split(chunk), strict=True)
            nats = [self._nats_each(x_ND, targets_N) for x_ND, targets_N in rows]
        return torch.cat(nats).view_as(targets_BT)

    def _nats_each(self, x_ND: Tensor, targets_N: Tensor, smoothing: float = 0.0) -> Tensor:
        return cross_entropy(self(x_ND), targets_N, smoothing)

    def _nats(self, x_ND: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
        return self._nats_each(x_ND, targets_N, smoothing).sum()


class ClassifierHead(Module):
    """logits_BC = W pooled + b, C classes."""

    taps = ("pooled", "logits")

    def __init__(self, options: Classifier, dims: Dims) -> None:
        super().__init__()
        self.labels = options.labels
        self.pooling = options.pooling
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.projection = _OnceAText(dims.d_model, len(options.labels), Normal(dims.init_std), bias=True)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """logits_BC in the compute dtype; padding (valid_BT False) is not looked at."""
        if valid_BT is None:
            valid_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        pooled_BD = self.tap("pooled", pool(x_BTD, valid_BT, self.pooling))
        return self.tap("logits", self.projection(F.dropout(pooled_BD, self.dropout, self.training)))

    def loss(self, x_BTD: Tensor, valid_BT: Tensor | None, labels_B: Tensor, smoothing: float = 0.0) -> Term:
        """Summed cross-entropy in nats over the texts whose label is not IGNORE, and their count.

        `smoothing` is the share of each target that is spread evenly over the classes (Szegedy et al. 2016, section 7).
        """
        return Term(cross_entropy(self(x_BTD, valid_BT), labels_B, smoothing).sum(), (labels_B != IGNORE).sum())


class _OnceAText(Linear):
    """A matrix that is used once for a whole text."""

    def cost(self, length: int) -> Cost:
        own = super().cost(length)
        return replace(own, flops=round(own.flops / length))


def pool(x_BTD: Tensor, valid_BT: Tensor, how: Literal["first", "mean", "last"]) -> Tensor:
    """One vector for each row: of its first or last valid token, or the mean over the valid ones; B x D."""
    if how == "mean":
        # summed in float32 at least: a bf16 sum of many would lose what each adds
        wide_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        sums_BD = wide_BTD.masked_fill(~valid_BT[..., None], 0.0).sum(1)
        return (sums_BD / valid_BT.sum(1, keepdim=True).clamp(min=1)).to(x_BTD.dtype)
    order_BT = valid_BT.long().cumsum(1)
    wanted_B = (order_BT if how == "last" else valid_BT.long()).argmax(1)
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), wanted_B]


def cross_entropy(logits_NC: Tensor, targets_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum over c of q(c) log p(c) for each row in nats, at least in float32; 0 where the target is IGNORE.

    q is 1 at the target, or 1 - smoothing + smoothing/C there and smoothing/C elsewhere.
    """
    wide_NC = logits_NC.to(torch.promote_types(logits_NC.dtype, torch.float32))
    return F.cross_entropy(wide_NC, targets_N, reduction="none", ignore_index=IGNORE, label_smoothing=smoothing)


def chunked_sum(
    loss: Callable[[Tensor, Tensor], Tensor], x_ND: Tensor, targets_N: Tensor, chunk: int, parameters: list[Tensor]
) -> Tensor:
    """sum over chunks of loss(x, targets), whose gradients are taken chunk by chunk, in the forward pass.

    So each chunk's logits are freed before the next one's are made, and none is computed twice. `parameters` are
    those that `loss` uses.
    """
    if len(x_ND) <= chunk or not torch.is_grad_enabled():
        pieces = _pieces(x_ND, targets_N, chunk)
        return sum((loss(x, targets) for x, targets in pieces), start=x_ND.new_zeros((), dtype=torch.float32))
    return _ChunkedSum.apply(loss, x_ND, targets_N, chunk, *parameters)  # type: ignore[no-untyped-call]


def _pieces(x_ND: Tensor, targets_N: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x_ND.split(chunk), targets_N.split(chunk), strict=True)


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: Callable[[Tensor, Tensor], Tensor], x_ND: Tensor, targets_N: Tensor, chunk: int,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sums: list[Tensor | None] = [None] * len(learned)
        x_grads, total = [], x_ND.new_zeros((), dtype=torch.promote_types(x_ND.dtype, torch.float32))
        for x, targets in _pieces(x_ND.detach(), targets_N, chunk):
            with torch.enable_grad():
                x = x.requires_grad_()
                value = loss(x, targets)
                x_grad, *grads = torch.autograd.grad(value, (x, *learned), allow_unused=True)
            total += value.detach()
            x_grads.append(x_grad)
            for index, grad in enumerate(grads):
                if grad is not None:
                    held = sums[index]
                    sums[index] = grad if held is None else held + grad
        ctx.save_for_backward(torch.cat(x_grads), *sums)
        ctx.learned = [parameter.requires_grad for parameter in parameters]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, *sums = ctx.saved_tensors
        held = iter(sums)
        grads = [_times(next(held), grad) if learned else None for learned in ctx.learned]
        return None, x_grad * grad.to(x_grad.dtype), None, None, *grads


def _times(sum: Tensor | None, grad: Tensor) -> Tensor | None:
    return None if sum is None else sum * grad
