"""Heads that look at each token by itself: its class, or whether an answer begins or ends there. C: classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.data.rows import IGNORE
from weft.nn.heads import Head, HeadModule, Labelled, cross_entropy
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module, Term
from weft.nn.part import Equations, ModelPart, tex


class _OfTokens(Head):
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of each vector that is dropped in training; the model's dropout unless given"""


class TokenClassifier(_OfTokens, Labelled, kind="token-classifier"):
    """One of a few labels for every token, such as the kind of name that it is part of (Devlin et al. 2019, 5.3)."""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        return (
            rf"\operatorname{{logits}}_i &= x_i W + b \in \mathbb{{R}}^{{{tex(self.n_labels())}}}",
            r"p_i &= \operatorname{softmax}(\operatorname{logits}_i)",
        )

    def words(self, dims: Dims) -> str:
        return f"every token; → {self.n_labels()} labels"

    def build(self, dims: Dims, embedding: Module) -> TokenClassifierHead:
        return TokenClassifierHead(self, dims)


class Span(_OfTokens, kind="span"):
    """Where in the text an answer begins and where it ends (Devlin et al. 2019, section 4.2)."""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        begins = r"p^{\text{begin}} &= \operatorname{softmax}_i(x_i \cdot w_1 + b_1)"
        return begins, r"p^{\text{end}} &= \operatorname{softmax}_i(x_i \cdot w_2 + b_2)"

    def words(self, dims: Dims) -> str:
        return "every token; → begin, end"

    def build(self, dims: Dims, embedding: Module) -> SpanHead:
        return SpanHead(self, dims, 2)


class _TokenHead(HeadModule):
    taps = ("logits",)

    def __init__(self, options: _OfTokens, dims: Dims, scores: int) -> None:
        super().__init__()
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.projection = Linear(dims.d_model, scores, Normal(dims.init_std), bias=True)

    def scores(self, x_BTD: Tensor) -> Tensor:
        """W drop(x) + b."""
        return self.tap("logits", self.projection(F.dropout(x_BTD, self.dropout, self.training)))


class TokenClassifierHead(_TokenHead):
    """logits_BTC = W x + b."""

    def __init__(self, options: TokenClassifier, dims: Dims) -> None:
        super().__init__(options, dims, options.n_labels())
        self.labels = options.labels

    def forward(self, x_BTD: Tensor) -> Tensor:
        """logits_BTC in the compute dtype."""
        return self.scores(x_BTD)

    def loss(self, x_BTD: Tensor, labels_BT: Tensor, smoothing: float = 0.0) -> Term:
        """Summed cross-entropy in nats over the tokens whose label is not IGNORE, and their count."""
        wanted_BT = labels_BT != IGNORE
        return Term(cross_entropy(self(x_BTD[wanted_BT]), labels_BT[wanted_BT], smoothing).sum(), wanted_BT.sum())

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        return self.loss(x_BTD, torch.zeros(x_BTD.shape[:2], dtype=torch.long, device=x_BTD.device)).total


class SpanHead(_TokenHead):
    """start_BT = w_s . x + b_s and end_BT = w_e . x + b_e."""

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """B x T x 2, start and end, in the compute dtype; the lowest number where there is only padding."""
        scores_BT2 = self.scores(x_BTD)
        if valid_BT is None:
            return scores_BT2
        return scores_BT2.masked_fill(~valid_BT[..., None], torch.finfo(scores_BT2.dtype).min)

    def loss(self, x_BTD: Tensor, valid_BT: Tensor | None, spans_B2: Tensor) -> Term:
        """Summed mean of the start's and the end's cross-entropy in nats, and the number of rows that have a span.

        A span is its first and its last token's place in the row, or IGNORE twice.
        """
        scores_B2T = self(x_BTD, valid_BT).transpose(1, 2)
        nats_N = cross_entropy(scores_B2T.flatten(0, 1), spans_B2.flatten())
        return Term(nats_N.sum() / 2, (spans_B2[:, 0] != IGNORE).sum())

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        return self.loss(x_BTD, None, torch.zeros(len(x_BTD), 2, dtype=torch.long, device=x_BTD.device)).total
