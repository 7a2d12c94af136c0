"""Accuracy, macro F1 and what a classifier said of each text."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weft.data.examples import ExampleRows, Examples
from weft.data.rows import IGNORE
from weft.data.shards import TokenSplit
from weft.evaluation.base import Plan, evaluate, measuring, share
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.text_heads import Classifier
from weft.objectives import Classification
from weft.report.terminal import confusion
from weft.text.tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """Which examples of a split were looked at, what they are and how probable each class seemed."""

    labels: tuple[str, ...]
    numbers_N: NDArray[np.int64]
    truth_N: NDArray[np.int64]
    """-100 where the label is none of the model's: always wrong, and without a loss"""
    probabilities_NC: NDArray[np.float64]
    whole: bool

    @property
    def predicted_N(self) -> NDArray[np.int64]:
        """The most probable class of each."""
        return np.asarray(self.probabilities_NC.argmax(1))

    @property
    def loss(self) -> float:
        """Mean of -log p(class), in nats, over the labels that the model knows."""
        known = self.truth_N != IGNORE
        return float(-np.log(np.maximum(self.probabilities_NC[known, self.truth_N[known]], 1e-300)).mean())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.predicted_N == self.truth_N).mean())

    @property
    def macro_f1(self) -> float:
        """Mean over the classes that occur of the harmonic mean of precision and recall."""
        from sklearn.metrics import f1_score

        present = np.unique(self.truth_N)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that is never predicted has F1 zero, as it should
            return float(f1_score(self.truth_N, self.predicted_N, labels=present, average="macro", zero_division=0))

    def values(self) -> dict[str, Any]:
        """For the log."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "examples": len(self.numbers_N),
            "whole": self.whole,
        }

    def short(self) -> str:
        return f"accuracy {self.accuracy:.3f}"

    def lines(self, baselines: Mapping[str, Any]) -> list[str]:
        unknown = int((self.truth_N == IGNORE).sum())
        beside = [
            f"{name}: accuracy {entry['accuracy']:.3f}, macro F1 {entry['macro_f1']:.3f}"
            for name, entry in baselines.items()
            if "accuracy" in entry
        ]
        return [
            f"accuracy {self.accuracy:.3f}, macro F1 {self.macro_f1:.3f} over {len(self.truth_N):,} examples"
            + (f" (beside {'; '.join(beside)})" if beside else ""),
            *self._confusion(),
            *([f"{unknown:,} examples have a label that the model does not know: counted as wrong"] * bool(unknown)),
        ]

    def _confusion(self) -> list[str]:
        """Which class is taken for which, where a terminal is wide enough."""
        from sklearn.metrics import confusion_matrix

        numbers, names = list(range(len(self.labels))), list(self.labels)
        if (self.truth_N == IGNORE).any():
            numbers, names = [*numbers, IGNORE], [*names, "(another)"]
        return confusion(names, confusion_matrix(self.truth_N, self.predicted_N, labels=numbers).tolist())

    def predictions(self, split: TokenSplit) -> Iterator[dict[str, Any]]:
        ids, texts, labels = split.ids, split.column("text"), split.column("label")
        predicted_N = self.predicted_N
        for place in np.argsort(self.numbers_N):
            number = int(self.numbers_N[place])
            yield {
                "id": ids[number],
                "text": texts[number],
                "label": labels[number],
                "predicted": self.labels[predicted_N[place]],
                "probabilities": named(self.labels, self.probabilities_NC[place]),
            }


@evaluate.register
def evaluate_classification(
    objective: Classification, model: Transformer, tokenizer: Tokenizer, split: TokenSplit, plan: Plan
) -> ClassificationResult:
    """Every example of a split (or so many that their tokens reach the limit)."""
    labels = labels_of_model(model)
    examples = Examples(split, plan.length, labels)
    limit = share(split, plan.limit)
    numbers, truth, found = [], [], []
    for rows in examples.in_order(plan.batch_tokens, limit):
        assert rows.labels_B is not None, "shards made for this objective have labels"
        numbers.append(rows.numbers_B)
        truth.append(rows.labels_B)
        found.append(class_probabilities(model, rows))
        plan.told(sum(map(len, numbers)), limit or len(examples))
    return ClassificationResult(
        labels, np.concatenate(numbers), np.concatenate(truth), np.concatenate(found), limit is None
    )


def class_probabilities(model: Transformer, rows: ExampleRows) -> NDArray[np.float64]:
    """How probable each class is for each row, B x C."""
    with measuring(model) as device:
        tokens_BT, valid_BT = (torch.from_numpy(array).to(device) for array in (rows.tokens_BT, rows.valid_BT))
        output = model(Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT))
        logits_BC = model.head("classifier")(output.x_BTD, valid_BT)
        return np.asarray(logits_BC.double().softmax(-1).cpu().numpy())


def labels_of_model(model: Transformer) -> tuple[str, ...]:
    """The classes that a model's head tells apart."""
    head = model.config.heads["classifier"]
    assert isinstance(head, Classifier), "the head `classifier` of a model for classification"
    return head.labels


def named(labels: tuple[str, ...], probabilities_C: NDArray[np.float64]) -> dict[str, float]:
    """Each class with its probability, as it is written down."""
    return {label: round(float(p), 6) for label, p in zip(labels, probabilities_C, strict=True)}
