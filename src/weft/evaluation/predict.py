"""Predictions for texts without answers: streamed, in the order in which the texts come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import singledispatch
from itertools import islice
from typing import Any

from weft.data.documents import Document
from weft.data.examples import Examples
from weft.data.shards import in_memory
from weft.errors import WeftError
from weft.evaluation.base import Plan
from weft.evaluation.classification import class_probabilities, labels_of_model, named
from weft.evaluation.sequence import write_answers
from weft.evaluation.task import Task
from weft.objectives import Classification, Objective, Seq2Seq

CHUNK = 512
"""Texts that are read, sorted by length and computed together."""


def predict(task: Task, documents: Iterable[Document], beams: int = 1) -> Iterator[dict[str, Any]]:
    """One object a text: its id, the text, and what the model says of it.

    Raises WeftError for a model whose task is to continue texts.
    """
    reading = iter(documents)
    while chunk := list(islice(reading, CHUNK)):
        answers = answer(task.objective, task, [document.text for document in chunk], beams)
        for document, said in zip(chunk, answers, strict=True):
            yield {"id": document.id, "text": document.text, **said}


@singledispatch
def answer(objective: Objective, task: Task, texts: list[str], beams: int) -> list[dict[str, Any]]:
    """What a model says of each text."""
    raise WeftError(
        f"{task.name}: a model trained for {objective.kind} has nothing to predict of a text; let it continue one"
        " (weft generate) or measure it on one (weft evaluate)"
    )


@answer.register
def classify(objective: Classification, task: Task, texts: list[str], beams: int) -> list[dict[str, Any]]:
    """The likeliest class, and the probability of each."""
    labels = labels_of_model(task.model)
    plan = Plan(task.model.config.max_length)
    said: dict[int, dict[str, Any]] = {}
    for rows in Examples(in_memory(texts, task.tokenizer), plan.length).in_order(plan.batch_tokens):
        for number, probabilities in zip(rows.numbers_B, class_probabilities(task.model, rows), strict=True):
            best = int(probabilities.argmax())
            said[int(number)] = {"predicted": labels[best], "probabilities": named(labels, probabilities)}
    return [said[number] for number in range(len(texts))]


@answer.register
def write(objective: Seq2Seq, task: Task, texts: list[str], beams: int) -> list[dict[str, Any]]:
    """The answer, and its log-probability in nats."""
    plan = Plan(task.model.config.max_length)
    said: dict[int, dict[str, Any]] = {}
    examples = Examples(in_memory(texts, task.tokenizer), plan.length, sources=True)
    for rows in examples.in_order(max(1, plan.batch_tokens // beams)):
        answers = write_answers(task.model, task.tokenizer, rows, beams, plan.length)
        for number, (text, log_probability) in zip(rows.numbers_B, answers, strict=True):
            said[int(number)] = {"answer": text, "log_probability": round(log_probability, 6)}
    return [said[number] for number in range(len(texts))]
