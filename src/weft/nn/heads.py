"""Heads: from the body's vectors to what a task wants. A model has a mapping from name to head.

N is a run of positions of the flattened batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.config import Part
from weft.data.rows import IGNORE
from weft.nn.embeddings import TokenEmbedding
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module, Term


class Head(Part, slot="head", default="lm"):
    """What is read from the body's last vectors."""

    def build(self, dims: Dims, embedding: Module) -> LanguageModelHead:
        """The head for vectors of width d_model, which may share the embedding's table."""
        raise NotImplementedError


class Lm(Head, kind="lm"):
    """Language model head: a score for every token of the vocabulary."""

    bias: bool = False
    """learn a shift for every token"""

    def build(self, dims: Dims, embedding: Module) -> LanguageModelHead:
        return LanguageModelHead(self, dims, embedding)


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

    def loss(self, x_BTD: Tensor, targets_BT: Tensor, chunk: int = 1024) -> Term:
        """Summed cross-entropy in nats over the targets that are not IGNORE, and their count.

        At most `chunk` rows of logits exist at any moment: B x T x V never does.
        """
        wanted_BT = targets_BT != IGNORE
        x_ND, targets_N = x_BTD[wanted_BT], targets_BT[wanted_BT]
        return Term(chunked_sum(self._nats, x_ND, targets_N, chunk, list(self.parameters())), wanted_BT.sum())

    def losses(self, x_BTD: Tensor, targets_BT: Tensor, chunk: int = 1024) -> Tensor:
        """Cross-entropy in nats of every target, B x T, zero where it is IGNORE; without gradients."""
        with torch.no_grad():
            rows = zip(x_BTD.flatten(0, 1).split(chunk), targets_BT.flatten().split(chunk), strict=True)
            nats = [self._nats_each(x_ND, targets_N) for x_ND, targets_N in rows]
        return torch.cat(nats).view_as(targets_BT)

    def _nats_each(self, x_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = self(x_ND)
        wide = torch.promote_types(logits_NV.dtype, torch.float32)
        return F.cross_entropy(logits_NV.to(wide), targets_N, reduction="none", ignore_index=IGNORE)

    def _nats(self, x_ND: Tensor, targets_N: Tensor) -> Tensor:
        return self._nats_each(x_ND, targets_N).sum()


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
        sums = [torch.zeros_like(parameter) for parameter in learned]
        x_grads, total = [], x_ND.new_zeros((), dtype=torch.promote_types(x_ND.dtype, torch.float32))
        for x, targets in _pieces(x_ND.detach(), targets_N, chunk):
            with torch.enable_grad():
                x = x.requires_grad_()
                value = loss(x, targets)
                x_grad, *grads = torch.autograd.grad(value, (x, *learned), allow_unused=True)
            total += value.detach()
            x_grads.append(x_grad)
            for held, grad in zip(sums, grads, strict=True):
                if grad is not None:
                    held += grad
        ctx.save_for_backward(torch.cat(x_grads), *sums)
        ctx.learned = [parameter.requires_grad for parameter in parameters]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, *sums = ctx.saved_tensors
        held = iter(sums)
        grads = [next(held) * grad if learned else None for learned in ctx.learned]
        return None, x_grad * grad.to(x_grad.dtype), None, None, *grads
