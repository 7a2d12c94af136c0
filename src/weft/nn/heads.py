"""Heads: from the body's vectors to what a task wants. A model has a mapping from name to head.

Here those that score every token of the vocabulary; `token_heads.py` and `text_heads.py` have the others. N is a run of
positions of the flattened batch, C a number of classes, E the width of the embedding's table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor

from weft.config import Slot
from weft.data.rows import IGNORE
from weft.errors import WeftError
from weft.nn import fused
from weft.nn.embeddings import TokenEmbedding, Tokens
from weft.nn.feedforward import GeluForm
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module, Term
from weft.nn.norms import Layer, Norm
from weft.nn.part import Equations, ModelPart, operator, size


class Head(ModelPart, slot="head", default="lm"):
    """What is read from the body's last vectors."""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        """What it gives for x_i, the last vectors; a tied one with the `embedding`'s table E."""
        return ()

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


class Labelled(Head):
    """A head that chooses among the labels of the data."""

    trials = {"labels": ([*"abcdefgh"],)}

    labels: tuple[str, ...] = ()
    """the classes, in the order of their scores; those of the data, filled in from there"""

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("names a label twice")
        return labels

    def bind(self, labels: tuple[str, ...]) -> Labelled:
        unknown = [label for label in labels if label not in self.labels]
        if self.labels and unknown:
            raise WeftError(
                f"{self.kind}.labels = {', '.join(self.labels)}: the data have {unknown[0]!r} too;"
                " leave labels out, and they are filled in"
            )
        return self if self.labels else self.model_copy(update={"labels": tuple(labels)})

    def stand_in(self) -> Labelled:
        return self.bind(() if self.labels else ("one", "other"))

    def n_labels(self) -> int:
        """Number of classes C.

        Raises WeftError when they are not known.
        """
        if not self.labels:
            raise WeftError(f"{self.kind}.labels are not known: they come from the data, or give them")
        return len(self.labels)


class Lm(Head, kind="lm"):
    """Language model head: a score for every token of the vocabulary (Radford et al. 2018, eq. 2)."""

    bias: bool = False
    """learn a shift for every token"""
    scaled: bool = False
    """divide the vectors by the root of their width first (Raffel et al. 2020, T5, in its code)"""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        vector, table = read_in_latex("x_i", embedding)
        width = embedding.table(dims) if isinstance(embedding, Tokens) and embedding.tied else dims.d_model
        scaled = rf"\frac{{1}}{{\sqrt{{{width}}}}} \, " if self.scaled else ""
        return (rf"\operatorname{{logits}}_i &= {scaled}{vector} {table}{' + b' if self.bias else ''}", PROBABILITY)

    def words(self, dims: Dims) -> str:
        return f"{dims.d_model:,} → {dims.vocab_size:,}"

    def build(self, dims: Dims, embedding: Module) -> LanguageModelHead:
        width, to_embedding = read_with(embedding, dims)
        return LanguageModelHead(embedding, dims, width, to_embedding, bias=self.bias, scaled=self.scaled)


class MaskedLm(GeluForm, Head, kind="mlm"):
    """BERT's head for masked tokens: a dense layer, GELU and a norm, then a score for every token, with a shift.

    Devlin et al. 2019, section 3.1 and its code. Of a tied, factorised table the dense layer leads to the width.
    """

    norm: Slot[Norm] = Layer()
    """of the transformed vectors"""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        (name, formula), norm = self.bend(), "" if self.norm.kind == "none" else self.norm.named()
        tied = isinstance(embedding, Tokens) and embedding.tied
        width = embedding.table(dims) if isinstance(embedding, Tokens) and tied else dims.d_model
        table = r"E^\top" if tied else "U"
        return (
            rf"z_i &= {norm}({operator(name)}(x_i W + b)), \quad W \in {size(dims.d_model, width)}",
            rf"\operatorname{{logits}}_i &= z_i {table} + c",
            PROBABILITY,
            rf"{operator(name)}(z) &= {formula}",
        )

    def words(self, dims: Dims) -> str:
        return f"dense, GELU, {self.norm.kind} norm; → {dims.vocab_size:,}"

    def build(self, dims: Dims, embedding: Module) -> MaskedLanguageModelHead:
        return MaskedLanguageModelHead(self, embedding, dims)


PROBABILITY = r"p_i &= \operatorname{softmax}(\operatorname{logits}_i) \in \mathbb{R}^{V}"


def read_in_latex(x: str, embedding: ModelPart | None) -> tuple[str, str]:
    """The vectors that score tokens and the matrix: the embedding's table where that is tied, or one of its own."""
    if isinstance(embedding, Tokens) and embedding.tied:
        return embedding.leaving(x), r"E^\top"
    return x, "U"


class HeadModule(Module):
    """A head at work."""

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        """Its loss with targets that stand in, to see what it takes."""
        raise NotImplementedError


def read_with(embedding: Module, dims: Dims) -> tuple[int, Module | None]:
    """Width of the matrix that scores tokens, and the way there from the last block's, for a head of this embedding."""
    if isinstance(embedding, TokenEmbedding) and embedding.tied:
        return embedding.width, embedding.to_width()
    return dims.d_model, None


class LanguageModelHead(HeadModule):
    """logits_BTV = scale x W^T + b; W is the embedding's table where that is tied.

    To its width `to_embedding` leads.
    """

    taps = ("logits",)

    def __init__(
        self, embedding: Module, dims: Dims, width: int, to_embedding: Module | None = None, *, bias: bool,
        scaled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.to_embedding = to_embedding
        self.scale = width**-0.5 if scaled else 1.0
        self.projection = Linear(width, dims.vocab_size, Normal(dims.init_std), bias=bias)
        self.tie(embedding)

    def tie(self, embedding: Module) -> None:
        """Share the embedding's table where it says so; again after memory was given to a model built on meta."""
        if isinstance(embedding, TokenEmbedding) and embedding.tied:
            self.projection.tie(embedding.tokens)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """logits_BTV in the compute dtype."""
        return self.tap("logits", self.projection(self.transform(x_BTD)))

    def transform(self, x_BTD: Tensor) -> Tensor:
        """What is multiplied with each token's vector, B x T x E."""
        x_BTE: Tensor = x_BTD if self.to_embedding is None else self.to_embedding(x_BTD)
        return x_BTE if self.scale == 1.0 else x_BTE * self.scale

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
            nats = [cross_entropy(self(x_ND), targets_N) for x_ND, targets_N in rows]
        return torch.cat(nats).view_as(targets_BT)

    def _nats(self, x_ND: Tensor, targets_N: Tensor, once: bool, smoothing: float) -> Tensor:
        logits_NV = self(x_ND)
        if once and type(self.projection) is Linear and not self.heard("logits"):  # nobody else reads them
            return fused.consuming_cross_entropy(_widened(logits_NV), targets_N, smoothing).sum()
        return cross_entropy(logits_NV, targets_N, smoothing).sum()

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        return self.loss(x_BTD, torch.zeros(x_BTD.shape[:2], dtype=torch.long, device=x_BTD.device)).total


class MaskedLanguageModelHead(LanguageModelHead):
    """logits_BTV = norm(GELU(dense(x))) W^T + b."""

    def __init__(self, options: MaskedLm, embedding: Module, dims: Dims) -> None:
        width, _ = read_with(embedding, dims)
        super().__init__(embedding, dims, width, bias=True)
        self.gelu = options.activation()
        self.dense = Linear(dims.d_model, width, Normal(dims.init_std), bias=True)
        self.norm = options.norm.build(replace(dims, d_model=width))

    def transform(self, x_BTD: Tensor) -> Tensor:
        transformed_BTE: Tensor = self.norm(self.gelu(self.dense(x_BTD)))
        return transformed_BTE


def cross_entropy(logits_NC: Tensor, targets_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum over c of q(c) log p(c) for each row in nats, at least in float32; 0 where the target is IGNORE.

    q is 1 at the target, or 1 - smoothing + smoothing/C there and smoothing/C elsewhere.
    """
    wide_NC = _widened(logits_NC)
    return F.cross_entropy(wide_NC, targets_N, reduction="none", ignore_index=IGNORE, label_smoothing=smoothing)


def _widened(logits_NC: Tensor) -> Tensor:
    return logits_NC.to(torch.promote_types(logits_NC.dtype, torch.float32))


Loss = Callable[[Tensor, Tensor, bool], Tensor]
"""A sum over rows x of what is lost at their targets; whether its derivative is asked for once, at once."""


def chunked_sum(loss: Loss, x_ND: Tensor, targets_N: Tensor, chunk: int, parameters: list[Tensor]) -> Tensor:
    """sum over chunks of loss(x, targets), whose gradients are taken chunk by chunk, in the forward pass.

    So each chunk's logits are freed before the next one's are made, and none is computed twice. `parameters` are
    those that `loss` uses.
    """
    if len(x_ND) <= chunk or not torch.is_grad_enabled():
        pieces = _pieces(x_ND, targets_N, chunk)
        return sum((loss(x, targets, False) for x, targets in pieces), start=x_ND.new_zeros((), dtype=torch.float32))
    return _ChunkedSum.apply(loss, x_ND, targets_N, chunk, *parameters)  # type: ignore[no-untyped-call]


def _pieces(x_ND: Tensor, targets_N: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x_ND.split(chunk), targets_N.split(chunk), strict=True)


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Loss, x_ND: Tensor, targets_N: Tensor, chunk: int, *parameters: Tensor) -> Tensor:
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sums: list[Tensor | None] = [None] * len(learned)
        x_grads, total = [], x_ND.new_zeros((), dtype=torch.promote_types(x_ND.dtype, torch.float32))
        for x, targets in _pieces(x_ND.detach(), targets_N, chunk):
            with torch.enable_grad():
                x = x.requires_grad_()
                value = loss(x, targets, True)
                x_grad, *grads = torch.autograd.grad(value, (x, *learned), allow_unused=True)
            total += value.detach()
            x_grads.append(x_grad)
            for index, grad in enumerate(grads):
                held = sums[index]
                if held is not None and grad is not None:
                    held += grad  # in its place: of a vocabulary of 50,257 a third one would be 150 MB
                elif grad is not None:
                    sums[index] = _own(grad, (x_grad, *grads))
        ctx.save_for_backward(torch.cat(x_grads), *sums)
        ctx.learned = [parameter.requires_grad for parameter in parameters]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, *sums = ctx.saved_tensors
        held = iter(sums)
        grads = [_times(next(held), grad) if learned else None for learned in ctx.learned]
        return None, x_grad * grad.to(x_grad.dtype), None, None, *grads


def _own(grad: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    """A gradient to add to: itself, unless it is another one's too, or one number that stands for many."""
    place = grad.untyped_storage()._cdata  # not data_ptr: tensors that only count memory have none
    sharing = sum(other is not None and other.untyped_storage()._cdata == place for other in others)
    return grad if sharing == 1 and grad.is_contiguous() else grad.clone(memory_format=torch.contiguous_format)


def _times(sum: Tensor | None, grad: Tensor) -> Tensor | None:
    return None if sum is None else sum * grad
