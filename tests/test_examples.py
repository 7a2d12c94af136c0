"""Examples: each once an epoch, like lengths together, framed and cut as the task needs, restored by two numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.examples import ExampleLoader, Examples, batches, labels_of
from weft.data.rows import IGNORE
from weft.data.shards import TokenSplit
from weft.errors import WeftError

END = 0


def strings(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), np.uint8), np.cumsum([0, *map(len, data)])


def tokens(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray([token for row in rows for token in (*row, END)]), np.cumsum([0, *(len(row) + 1 for row in rows)])


def split_of(rows: list[list[int]], labels: list[str] = (), targets: list[list[int]] = ()) -> TokenSplit:  # type: ignore[assignment]
    arrays: dict[str, Any] = {"bytes": np.ones(len(rows), np.int64)}
    arrays["tokens"], arrays["offsets"] = tokens(rows)
    if labels:
        arrays["label"], arrays["label_offsets"] = strings(labels)
    if targets:
        arrays["target_tokens"], arrays["target_token_offsets"] = tokens(targets)
    return TokenSplit(arrays)


def of_sizes(sizes: list[int]) -> TokenSplit:
    return split_of([[7] * size for size in sizes])


def test_a_text_stands_between_end_tokens_and_is_cut_with_both_kept() -> None:
    split = split_of([[1, 2], [3], [4, 5, 6, 7, 8]], labels=["b", "a", "?"])
    rows = Examples(split, 5, ("a", "b")).rows([0, 1, 2])
    assert rows.tokens_BT.tolist() == [[0, 1, 2, 0, 0], [0, 3, 0, 0, 0], [0, 4, 5, 6, 0]]
    assert rows.valid_BT.sum(1).tolist() == [4, 3, 5]
    assert rows.labels_B is not None
    assert rows.labels_B.tolist() == [1, 0, IGNORE]  # a label that the model does not know is not predicted


def test_an_answer_is_read_one_place_behind_where_it_is_predicted() -> None:
    rows = Examples(split_of([[1, 2], [3]], targets=[[5], [6, 7, 8, 9, 9]]), 4).rows([0, 1])
    assert rows.tokens_BT.tolist() == [[1, 2, 0], [3, 0, 0]]
    assert rows.valid_BT.tolist() == [[True, True, True], [True, True, False]]
    assert rows.answers_BU is not None
    assert rows.targets_BU is not None
    assert rows.answers_BU.tolist() == [[0, 5, 0, 0], [0, 6, 7, 8]]
    # the second is cut before its end: it does not teach where to stop
    assert rows.targets_BU.tolist() == [[5, 0, IGNORE, IGNORE], [6, 7, 8, 9]]


def test_texts_to_be_answered_have_no_token_before_them() -> None:
    rows = Examples(split_of([[1, 2]]), 8, sources=True).rows([0])
    assert rows.tokens_BT.tolist() == [[1, 2, 0]]
    assert rows.answers_BU is None


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_example_once_in_batches_that_fit(sizes: list[int], budget: int, seed: int) -> None:
    loader = ExampleLoader(Examples(of_sizes(sizes), 32), budget, seed)
    for epoch in range(2):
        seen: list[int] = []
        while len(seen) < len(sizes):
            assert epoch in (loader.epoch, loader.epoch + 1)
            rows = loader.next()
            assert rows.tokens_BT.size <= budget or len(rows.tokens_BT) == 1
            seen += rows.numbers_B.tolist()
        assert sorted(seen) == list(range(len(sizes)))


def test_neighbours_in_a_batch_are_alike_in_length() -> None:
    sizes = np.random.default_rng(0).integers(1, 60, 2000).tolist()
    loader = ExampleLoader(Examples(of_sizes(sizes), 64), 512)
    batch = [loader.next() for _ in range(100)]
    padded = sum(rows.tokens_BT.size for rows in batch)
    assert sum(int(rows.valid_BT.sum()) for rows in batch) / padded > 0.9


@given(st.integers(0, 30), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_loader_goes_on_where_another_was(steps: int, seed: int) -> None:
    examples = Examples(of_sizes([3, 9, 1, 4, 12, 5, 8, 2, 7]), 16)
    loader = ExampleLoader(examples, 24, seed)
    for _ in range(steps):
        loader.next()
    again = ExampleLoader(examples, 24, seed)
    again.restore(loader.state())
    for _ in range(8):
        assert np.array_equal(loader.next().tokens_BT, again.next().tokens_BT)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    examples = Examples(of_sizes(list(range(1, 30))), 64)

    def order(loader: ExampleLoader) -> list[list[int]]:
        return [loader.next().numbers_B.tolist() for _ in range(3)]

    first = ExampleLoader(examples, 64)
    assert order(first) != order(ExampleLoader(examples, 64, seed=1))
    later = ExampleLoader(examples, 64)
    later.restore({"epoch": 1, "batch": 0})
    assert order(later) != order(ExampleLoader(examples, 64))


def test_a_place_that_is_not_there_is_refused() -> None:
    loader = ExampleLoader(Examples(of_sizes([3, 4]), 16), 64)
    with pytest.raises(WeftError, match="other data"):
        loader.restore({"epoch": 0, "batch": 99})


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_all_in_order_of_length_or_some_spread_over_the_split(sizes: list[int], limit: int) -> None:
    examples = Examples(of_sizes(sizes), 64)
    seen = [number for rows in examples.in_order(128) for number in rows.numbers_B.tolist()]
    assert sorted(seen) == list(range(len(sizes)))
    some = [number for rows in examples.in_order(128, limit) for number in rows.numbers_B.tolist()]
    assert len(some) == min(limit, len(sizes)) == len(set(some))
    if 2 <= limit < len(sizes):
        assert {0, len(sizes) - 1} <= set(some)


def test_one_longer_than_the_budget_is_a_batch_by_itself() -> None:
    found = list(batches(np.array([0, 1, 2]), np.array([5, 50, 5]), 16))
    assert [batch.tolist() for batch in found] == [[0], [1], [2]]


def test_labels_that_are_numbers_come_in_their_order() -> None:
    assert labels_of(split_of([[1]] * 3, labels=["10", "2", "1"])) == ("1", "2", "10")
    assert labels_of(split_of([[1]] * 3, labels=["b", "a", "10"])) == ("10", "a", "b")
