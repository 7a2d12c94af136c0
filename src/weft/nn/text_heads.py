"""Heads that look at a text as a whole: from one vector that stands for it to classes, a choice, or an embedding.

C is a number of classes or choices, Q a number of questions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.data.rows import IGNORE
from weft.errors import WeftError
from weft.nn.heads import Head, HeadModule, Labelled, cross_entropy
from weft.nn.initialization import Normal
from weft.nn.linear import Linear
from weft.nn.module import Cost, Dims, Module, Term
from weft.nn.part import Equations, ModelPart, tex

Pooling = Literal["first", "mean", "last"]


class _Pooled(Head):
    pooling: Pooling = "mean"
    """which vector: the first token's (Devlin et al. 2019), the last one's (Radford et al. 2018), or the mean of all"""

    def pooled(self) -> str:
        """That vector, in LaTeX."""
        pooled = {"first": "x_0", "last": "x_{T-1}", "mean": r"\frac{1}{T} \sum_{i=0}^{T-1} x_i"}
        return rf"u &= {pooled[self.pooling]}"

    def place(self) -> str:
        """Of which token it is, in words."""
        return "mean of all tokens" if self.pooling == "mean" else f"{self.pooling} token"


class _Scored(_Pooled):
    pooler: bool = False
    """a dense layer with tanh on that vector (Devlin et al. 2019, in its code)"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of that vector that is dropped in training; the model's dropout unless given"""

    def scored(self) -> tuple[str, str]:
        """What is multiplied with the last matrix, and its line."""
        return ("v", r"v &= \tanh(u W_p + b_p)") if self.pooler else ("u", "")


class Classifier(_Scored, Labelled, kind="classifier"):
    """One of a few labels for the whole text, from one vector that stands for it (Radford et al. 2018, section 3.2)."""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        vector, dense = self.scored()
        logits = rf"\operatorname{{logits}} &= {vector} W + b \in \mathbb{{R}}^{{{tex(self.n_labels())}}}"
        return (self.pooled(), *filter(None, [dense]), logits, r"p &= \operatorname{softmax}(\operatorname{logits})")

    def words(self, dims: Dims) -> str:
        return f"{self.place()}{', pooler' if self.pooler else ''}; → {self.n_labels()} labels"

    def build(self, dims: Dims, embedding: Module) -> ClassifierHead:
        return ClassifierHead(self, dims)


class MultipleChoice(_Scored, kind="multiple-choice"):
    """One of several texts, such as a question with each of its answers: each gets a score (Radford et al. 2018)."""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        vector, dense = self.scored()
        score = rf"s_c &= {vector}_c \cdot w + b \quad \text{{for each choice }} c = 1, \dots, C"
        return (self.pooled(), *filter(None, [dense]), score, r"p &= \operatorname{softmax}(s_1, \dots, s_C)")

    def words(self, dims: Dims) -> str:
        return f"{self.place()}{', pooler' if self.pooler else ''}; → 1 score a choice"

    def build(self, dims: Dims, embedding: Module) -> MultipleChoiceHead:
        return MultipleChoiceHead(self, dims, 1)


class TextEmbedding(_Pooled, kind="embedding"):
    """A vector for the whole text, near those of texts like it (Reimers and Gurevych 2019, section 3)."""

    normalize: bool = True
    """to length 1, so that products of two are cosines"""

    def equations(self, dims: Dims, embedding: ModelPart | None = None) -> Equations:
        return (self.pooled(), r"z &= \frac{u}{\lVert u \rVert}" if self.normalize else "z &= u")

    def words(self, dims: Dims) -> str:
        return f"{self.place()}{', length 1' if self.normalize else ''}"

    def build(self, dims: Dims, embedding: Module) -> TextEmbeddingHead:
        return TextEmbeddingHead(self)


class _ScoredHead(HeadModule):
    """W drop(pooled) + b, pooled perhaps through a dense layer with tanh."""

    taps = ("pooled", "logits")

    def __init__(self, options: _Scored, dims: Dims, scores: int) -> None:
        super().__init__()
        self.pooling = options.pooling
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        start = Normal(dims.init_std)
        self.pooler = _OnceAText(dims.d_model, dims.d_model, start, bias=True) if options.pooler else None
        self.projection = _OnceAText(dims.d_model, scores, start, bias=True)

    def scores(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        """B x C in the compute dtype; padding (valid_BT False) is not looked at."""
        pooled_BD = pool(x_BTD, valid_BT, self.pooling)
        if self.pooler is not None:
            pooled_BD = torch.tanh(self.pooler(pooled_BD))
        pooled_BD = self.tap("pooled", pooled_BD)
        return self.tap("logits", self.projection(F.dropout(pooled_BD, self.dropout, self.training)))


class ClassifierHead(_ScoredHead):
    """logits_BC = W pooled + b, C classes."""

    def __init__(self, options: Classifier, dims: Dims) -> None:
        super().__init__(options, dims, options.n_labels())
        self.labels = options.labels

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """logits_BC in the compute dtype; padding (valid_BT False) is not looked at."""
        return self.scores(x_BTD, valid_BT)

    def loss(self, x_BTD: Tensor, valid_BT: Tensor | None, labels_B: Tensor, smoothing: float = 0.0) -> Term:
        """Summed cross-entropy in nats over the texts whose label is not IGNORE, and their count.

        `smoothing` is the share of each target that is spread evenly over the classes (Szegedy et al. 2016, section 7).
        """
        return Term(cross_entropy(self(x_BTD, valid_BT), labels_B, smoothing).sum(), (labels_B != IGNORE).sum())

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        return self.loss(x_BTD, None, torch.zeros(len(x_BTD), dtype=torch.long, device=x_BTD.device)).total


class MultipleChoiceHead(_ScoredHead):
    """score_B = w . pooled + b of each text; the choices of a question stand one after the other."""

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """score_B in the compute dtype; padding (valid_BT False) is not looked at."""
        return self.scores(x_BTD, valid_BT)[:, 0]

    def loss(self, x_BTD: Tensor, valid_BT: Tensor | None, chosen_Q: Tensor, smoothing: float = 0.0) -> Term:
        """Summed cross-entropy in nats over the questions whose choice (0 ... C - 1) is not IGNORE, and their count.

        Raises WeftError when the texts are not equally many for each question.
        """
        if len(x_BTD) % len(chosen_Q):
            raise WeftError(f"{len(x_BTD)} texts are not equally many choices for each of {len(chosen_Q)} questions")
        scores_QC = self(x_BTD, valid_BT).view(len(chosen_Q), -1)
        return Term(cross_entropy(scores_QC, chosen_Q, smoothing).sum(), (chosen_Q != IGNORE).sum())

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        return self.loss(x_BTD, None, torch.zeros(1, dtype=torch.long, device=x_BTD.device)).total


class TextEmbeddingHead(HeadModule):
    """z_BD = pooled, or pooled / |pooled|."""

    taps = ("pooled",)

    def __init__(self, options: TextEmbedding) -> None:
        super().__init__()
        self.pooling, self.normalize = options.pooling, options.normalize

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """z_BD, at least in float32; padding (valid_BT False) is not looked at."""
        pooled_BD = self.tap("pooled", pool(x_BTD, valid_BT, self.pooling))
        wide_BD = pooled_BD.to(torch.promote_types(pooled_BD.dtype, torch.float32))
        return F.normalize(wide_BD, dim=-1) if self.normalize else wide_BD

    def loss(self, x_BTD: Tensor, valid_BT: Tensor | None, positives_B: Tensor, temperature: float = 0.05) -> Term:
        """Summed -log p(positive | query) over the rows that have a positive, and their count: in-batch negatives.

        `positives_B` names for each query the row that answers it, and is IGNORE for rows that ask nothing. A query is
        compared with all rows that do not ask or answer somebody else: p = softmax(z_q . z / temperature) (van den Oord
        et al. 2018, eq. 4; Karpukhin et al. 2020, eq. 2). If every row asks for its partner, that is Chen et al. 2020.
        """
        z_BD = self(x_BTD, valid_BT)
        rows = torch.arange(len(z_BD), device=z_BD.device)
        asks_B = positives_B != IGNORE
        offered_B = ~asks_B | (positives_B[:, None] == rows).any(0)
        compared_BB = offered_B & (rows[:, None] != rows)
        scores_BB = (z_BD @ z_BD.t() / temperature).masked_fill(~compared_BB, torch.finfo(z_BD.dtype).min)
        return Term(cross_entropy(scores_BB, positives_B).sum(), asks_B.sum())

    def rehearse(self, x_BTD: Tensor) -> Tensor:
        nobody_B = torch.full((len(x_BTD),), IGNORE, dtype=torch.long, device=x_BTD.device)
        return self.loss(x_BTD, None, nobody_B).total


class _OnceAText(Linear):
    """A matrix that is used once for a whole text."""

    def cost(self, length: int) -> Cost:
        own = super().cost(length)
        return replace(own, flops=round(own.flops / length))


def pool(x_BTD: Tensor, valid_BT: Tensor | None, how: Pooling) -> Tensor:
    """One vector for each row: of its first or last valid token, or the mean over the valid ones; B x D."""
    if valid_BT is None:
        valid_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    if how == "mean":
        # summed in float32 at least: a bf16 sum of many would lose what each adds
        wide_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        sums_BD = wide_BTD.masked_fill(~valid_BT[..., None], 0.0).sum(1)
        return (sums_BD / valid_BT.sum(1, keepdim=True).clamp(min=1)).to(x_BTD.dtype)
    order_BT = valid_BT.long().cumsum(1)
    wanted_B = (order_BT if how == "last" else valid_BT.long()).argmax(1)
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), wanted_B]
