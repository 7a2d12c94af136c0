"""Before training on examples: what there is, and what simple methods reach on the validation part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from weft.data import task_baselines
from weft.data.examples_survey import Example, survey_examples
from weft.data.shards import TokenSplit


def examples_report(train: TokenSplit, validation: TokenSplit, columns: Sequence[str]) -> dict[str, Any]:
    """The survey of both parts as plain data, with the lines that a person reads."""
    survey = survey_examples([*_examples(train, "train", columns), *_examples(validation, "validation", columns)])
    return {**survey.as_dict(), "lines": survey.lines()}


def baselines(train: TokenSplit, validation: TokenSplit, columns: Sequence[str]) -> dict[str, Any]:
    """What simple methods reach on the validation part, each with how it was made."""
    found: dict[str, Any] = {}
    if "label" in columns:
        known, wanted = train.column("label"), validation.column("label")
        found["majority"] = {**task_baselines.majority(known, wanted), "how": "always the most frequent class"}
        scores = task_baselines.tf_idf(train.column("text"), known, validation.column("text"), wanted)
        found["tfidf"] = {**scores, "how": task_baselines.HOW}
    if "target" in columns:
        scores = task_baselines.copied(validation.column("text"), validation.column("target"))
        found["copy"] = {**scores, "how": "the text itself as its answer"}
    return found


def _examples(split: TokenSplit, name: str, columns: Sequence[str]) -> Iterator[Example]:
    texts = split.column("text")
    labels, targets = (split.column(key) if key in columns else [None] * len(texts) for key in ("label", "target"))
    for id, text, label, target in zip(split.ids, texts, labels, targets, strict=True):
        yield id, text, label, target, name
