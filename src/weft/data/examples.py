"""Examples: texts with what is to be answered, in batches of like lengths, in an order that is known by two numbers.

A row is E t1 ... tn E, the tokenizer's end-of-document token on both sides; where something is to be written, the
source is t1 ... tn E, and the target u1 ... um is read as E u1 ... um and predicted as u1 ... um E. What is longer
than the model is cut; a target that was cut loses its end token, so that it does not teach where to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from weft.data.rows import IGNORE
from weft.data.shards import TokenSplit
from weft.errors import WeftError
from weft.seeds import derive

POOL = 64
"""Batches that are sorted by length together: more would waste less padding, and mix less."""


@dataclass(frozen=True, eq=False)
class ExampleRows:
    """A batch: padded on the right with the end-of-document token, which `valid` tells apart."""

    numbers_B: NDArray[np.int64]
    """the examples' places in their split"""
    tokens_BT: NDArray[np.int64]
    valid_BT: NDArray[np.bool_]
    labels_B: NDArray[np.int64] | None = None
    """the class of each; -100 for a label that the model does not know"""
    answers_BU: NDArray[np.int64] | None = None
    """what the decoder reads: E u1 ... um"""
    targets_BU: NDArray[np.int64] | None = None
    """what it predicts: u1 ... um E, -100 beyond"""


class Examples:
    """The examples of a split for a model of `length` tokens: rows by number."""

    def __init__(self, split: TokenSplit, length: int, labels: Sequence[str] = (), sources: bool = False) -> None:
        """`sources`: the texts are to be answered, though no answers are given."""
        self.split, self.length = split, length
        self.end = int(split.arrays["tokens"][-1])
        self.answered = "target_tokens" in split.arrays
        self.answering = self.answered or sources
        self.labels_N = _numbers(split, labels) if "label" in split.arrays else None
        frame = 0 if self.answering else 1
        sizes_N = np.minimum(np.diff(split.arrays["offsets"]) + frame, length)
        if self.answered:
            sizes_N = np.maximum(sizes_N, np.minimum(np.diff(split.arrays["target_token_offsets"]), length))
        self.sizes_N: NDArray[np.int64] = sizes_N
        """width of each example's row, the longer of its two sides"""

    def __len__(self) -> int:
        return self.split.documents

    def rows(self, numbers: Sequence[int] | NDArray[np.int64]) -> ExampleRows:
        """These examples as a batch."""
        numbers_B = np.asarray(numbers, np.int64)
        labels_B = None if self.labels_N is None else self.labels_N[numbers_B]
        if not self.answering:
            framed = [
                np.concatenate([[self.end], self._take("tokens", "offsets", n, self.length - 1)]) for n in numbers_B
            ]
            for row in framed:
                row[-1] = self.end  # a text that was cut ends too
            tokens_BT, valid_BT = self._pad(framed)
            return ExampleRows(numbers_B, tokens_BT, valid_BT, labels_B)
        sources = [self._take("tokens", "offsets", n, self.length) for n in numbers_B]
        for row in sources:
            row[-1] = self.end
        tokens_BT, valid_BT = self._pad(sources)
        if not self.answered:
            return ExampleRows(numbers_B, tokens_BT, valid_BT)
        targets = [self._take("target_tokens", "target_token_offsets", n, self.length) for n in numbers_B]
        targets_BU, wanted_BU = self._pad(targets)
        answers_BU = np.concatenate([np.full((len(targets), 1), self.end), targets_BU[:, :-1]], axis=1)
        targets_BU[~wanted_BU] = IGNORE
        return ExampleRows(numbers_B, tokens_BT, valid_BT, labels_B, answers_BU, targets_BU)

    def in_order(self, budget: int, limit: int | None = None) -> Iterator[ExampleRows]:
        """All examples (or `limit`, spread over the split) in batches of about `budget` tokens, longest first."""
        numbers = np.arange(len(self))
        if limit is not None and limit < len(self):
            numbers = np.unique(np.linspace(0, len(self) - 1, limit).round().astype(np.int64))
        by_length = numbers[np.argsort(-self.sizes_N[numbers], kind="stable")]
        return (self.rows(batch) for batch in batches(by_length, self.sizes_N, budget))

    def _take(self, name: str, offsets: str, number: int, most: int) -> NDArray[np.int64]:
        start, end = (int(x) for x in self.split.arrays[offsets][number : number + 2])
        return self.split.arrays[name][start : min(end, start + most)].astype(np.int64)

    def _pad(self, rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        width = max(map(len, rows))
        tokens, valid = np.full((len(rows), width), self.end, np.int64), np.zeros((len(rows), width), np.bool_)
        for index, row in enumerate(rows):
            tokens[index, : len(row)], valid[index, : len(row)] = row, True
        return tokens, valid


def cut_count(split: TokenSplit, length: int) -> int:
    """How many examples of a split are longer than a model of `length` tokens."""
    answering = "target_tokens" in split.arrays
    long_N = np.diff(split.arrays["offsets"]) + (0 if answering else 1) > length
    if answering:
        long_N = long_N | (np.diff(split.arrays["target_token_offsets"]) > length)
    return int(long_N.sum())


def batches(numbers: NDArray[np.int64], sizes_N: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Neighbours together, as many as make at most `budget` tokens when padded to their longest; at least one."""
    start = longest = 0
    for at, number in enumerate(numbers):
        longest = max(longest, int(sizes_N[number]))
        if at > start and (at - start + 1) * longest > budget:
            yield numbers[start:at]
            start, longest = at, int(sizes_N[number])
    if start < len(numbers):
        yield numbers[start:]


class ExampleLoader:
    """Batches without end, epoch after epoch: every example once an epoch, those of like length together.

    An epoch's batches depend on the seed and its number, on nothing that came before.
    """

    def __init__(self, examples: Examples, batch_tokens: int, seed: int = 0) -> None:
        self.examples, self.batch_tokens, self.seed = examples, batch_tokens, seed
        self._batches = lru_cache(maxsize=2)(self._make_epoch)
        self._epoch = self._batch = 0

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch, padding included, at most."""
        return self.batch_tokens

    @property
    def tokens_per_epoch(self) -> int:
        """As many as make an epoch one epoch of steps."""
        return len(self._batches(0)) * self.batch_tokens

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._epoch

    def next(self) -> ExampleRows:
        """The next batch."""
        while self._batch >= len(self._batches(self._epoch)):  # epochs may differ by a batch
            self._epoch, self._batch = self._epoch + 1, 0
        rows = self.examples.rows(self._batches(self._epoch)[self._batch])
        self._batch += 1
        return rows

    def state(self) -> dict[str, int]:
        """Where the loader is, as plain numbers."""
        return {"epoch": self._epoch, "batch": self._batch}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from where `state` was taken.

        Raises WeftError when these examples have no such place.
        """
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch <= len(self._batches(epoch)):
            raise WeftError(f"the loader's state {dict(state)} belongs to other data (epoch {epoch} has no such batch)")
        self._epoch, self._batch = epoch, batch

    def _make_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.Generator(np.random.Philox(key=derive(self.seed, "data", epoch)))
        sizes_N = self.examples.sizes_N
        order = random.permutation(len(self.examples))
        # a pool holds about POOL batches; within it neighbours are alike in length, and batches come in any order
        pool = max(1, POOL * self.batch_tokens // max(1, int(sizes_N.mean())))
        found: list[NDArray[np.int64]] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            found += batches(part[np.argsort(sizes_N[part], kind="stable")], sizes_N, self.batch_tokens)
        return [found[index] for index in random.permutation(len(found))]


def labels_of(split: TokenSplit) -> tuple[str, ...]:
    """The classes that occur in a split: numbers in their order, words by the alphabet."""
    found = set(split.column("label"))
    numeric = all(name.removeprefix("-").isdecimal() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name), name) if numeric else (0, name)))


def _numbers(split: TokenSplit, labels: Sequence[str]) -> NDArray[np.int64]:
    known = {label: number for number, label in enumerate(labels)}
    return np.asarray([known.get(label, IGNORE) for label in split.column("label")], np.int64)
