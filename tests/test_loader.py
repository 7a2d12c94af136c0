"""Packing and loading: every token is a target once an epoch, in an order that two numbers restore."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.config import load
from weft.data.loader import IGNORE, Loader, Packed, evaluation_sample, evaluation_windows
from weft.data.packing import Documents, Packing, Windows, best_fit
from weft.data.shards import TokenSplit
from weft.errors import WeftError

END = 0
sizes_of_documents = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def split_of(sizes: list[int]) -> TokenSplit:
    """Documents of these sizes; each token but the ends is another number, so that a place is known by its token."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens = np.arange(1, offsets[-1] + 1)
    tokens[offsets[1:] - 1] = END
    return TokenSplit({"tokens": tokens, "offsets": offsets, "bytes": np.ones(len(sizes), np.int64)})


def targets(packed: Packed) -> np.ndarray:
    return packed.targets_BT[packed.targets_BT != IGNORE]


def epoch_of(loader: Loader) -> list[Packed]:
    """All rows of the epoch that begins now, one by one."""
    assert loader.rows == 1
    epoch, found = loader.epoch, []
    while loader.epoch == epoch:
        found.append(loader.next())
    return found


def inputs_precede(packed: Packed, split: TokenSplit) -> None:
    """Each target's input is the token before it in the stream."""
    tokens = split.arrays["tokens"]
    before = {int(token): int(tokens[place - 1]) for place, token in enumerate(tokens) if token != END}
    for token, target in zip(packed.tokens_BT.ravel(), packed.targets_BT.ravel(), strict=True):
        if target not in (IGNORE, END):
            assert token == before[int(target)]


@pytest.mark.parametrize("packing", [Windows(), Windows(order="sequential"), Documents()])
@given(sizes=sizes_of_documents, length=st.integers(1, 40), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_token_as_a_target_once(packing: Packing, sizes: list[int], length: int, seed: int) -> None:
    split = split_of(sizes)
    loader = Loader(split, packing, length, 1, seed)
    for _ in range(3):
        rows = epoch_of(loader)
        found = np.concatenate([targets(row) for row in rows])
        assert sorted(found.tolist()) == sorted(split.arrays["tokens"].tolist())
        assert len(found) == loader.tokens_per_epoch
        for row in rows:
            assert row.tokens_BT.shape == row.targets_BT.shape == (1, length)
            assert row.tokens_BT.dtype == row.targets_BT.dtype == np.int64
            inputs_precede(row, split)


def test_sequential_windows_are_the_stream() -> None:
    split = split_of([5, 5])
    rows = epoch_of(Loader(split, Windows(order="sequential"), 4, 1))
    assert np.concatenate([row.tokens_BT for row in rows]).tolist() == [[0, 1, 2, 3], [4, 0, 6, 7], [8, 9, 0, 0]]
    assert np.concatenate([row.targets_BT for row in rows]).tolist() == [
        [1, 2, 3, 4], [0, 6, 7, 8], [9, 0, IGNORE, IGNORE],
    ]  # fmt: skip


def test_random_windows_are_cut_and_ordered_anew_each_epoch() -> None:
    loader = Loader(split_of([1000]), Windows(), 10, 1)
    epochs = [[tuple(row.targets_BT[0].tolist()) for row in epoch_of(loader)] for _ in range(4)]
    orders = {tuple(np.argsort([max(row) for row in epoch if IGNORE not in row])[:50]) for epoch in epochs}
    assert len(orders) == 4
    phases = {min(row[0] for row in epoch if len(row) == 10 and IGNORE not in row) % 10 for epoch in epochs}
    assert len(phases) > 1, "the places where the stream is cut move"
    other = Loader(split_of([1000]), Windows(), 10, 1, seed=1)
    assert [tuple(row.targets_BT[0].tolist()) for row in epoch_of(other)] != epochs[0]


@pytest.mark.parametrize("packing", [Windows(), Windows(order="sequential"), Documents()])
def test_a_restored_loader_goes_on_as_if_it_had_never_stopped(packing: Packing) -> None:
    split = split_of([7, 50, 3, 12, 1, 1, 30])
    whole = Loader(split, packing, 8, 3, seed=5)
    batches = []
    states = []
    for _ in range(30):
        states.append(json.loads(json.dumps(whole.state())))
        batches.append(whole.next())
    assert whole.epoch >= 4
    for stop in (0, 1, 4, 5, 6, 17, 29):
        again = Loader(split, packing, 8, 3, seed=5)
        again.restore(states[stop])
        assert again.state() == states[stop]
        for expected in batches[stop:]:
            same(again.next(), expected)


def same(one: Packed, other: Packed) -> None:
    for name, value in vars(one).items():
        expected = getattr(other, name)
        assert (value is None and expected is None) or np.array_equal(value, expected), name


@pytest.mark.parametrize("packing", [Windows(), Documents()])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batch_of_one_process(packing: Packing, world: int) -> None:
    split = split_of([7, 50, 3, 12, 1, 1, 30])
    alone = Loader(split, packing, 8, 2 * world)
    ranks = [Loader(split, packing, 8, 2, rank=rank, world=world) for rank in range(world)]
    for _ in range(10):
        expected = alone.next()
        parts = [rank.next() for rank in ranks]
        assert np.array_equal(np.concatenate([part.tokens_BT for part in parts]), expected.tokens_BT)
        assert np.array_equal(np.concatenate([part.targets_BT for part in parts]), expected.targets_BT)
        assert {json.dumps(rank.state()) for rank in ranks} == {json.dumps(alone.state())}


def test_a_state_of_other_data_is_refused() -> None:
    loader = Loader(split_of([20]), Windows(), 8, 1)
    for state in ({"epoch": 0, "row": 50}, {"epoch": -1, "row": 0}, {"epoch": 0, "row": -1}):
        with pytest.raises(WeftError, match="belongs to other data"):
            loader.restore(state)


def test_a_text_shorter_than_a_row_is_padded_and_said() -> None:
    split = split_of([3])
    assert Windows().notes(split, 8) == [
        "packing: the training text is shorter than one row (3 of 8 tokens): rows are padded"
    ]
    assert Windows().notes(split, 3) == []
    packed = Loader(split, Windows(order="sequential"), 8, 2).next()
    assert packed.targets_BT.tolist() == [[1, 2, 0] + [IGNORE] * 5] * 2


@given(sizes=sizes_of_documents, length=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_documents_in_a_row_are_kept_apart(sizes: list[int], length: int) -> None:
    split = split_of(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = {int(token): place for place, token in enumerate(split.arrays["tokens"]) if token != END}
    for row in epoch_of(Loader(split, Documents(), length, 1)):
        assert row.documents_BT is not None
        assert row.positions_BT is not None
        assert row.valid_BT is not None
        documents, positions, valid = row.documents_BT[0], row.positions_BT[0], row.valid_BT[0]
        assert (valid == (row.targets_BT[0] != IGNORE)).all()
        assert not valid[int(valid.sum()) :].any(), "padding is at the end"
        assert (documents[~valid] == -1).all()
        for number in range(documents.max() + 1):
            own = documents == number
            assert positions[own].tolist() == list(range(own.sum()))
            # the first input is what stands before: an end of document, or the token before the cut
            known = [place[int(target)] for target in row.targets_BT[0][own] if target != END]
            assert len({int(owner[at]) for at in known}) <= 1, "one document"
            if known:
                assert known == list(range(known[0], known[0] + len(known)))
                first = known[0] == 0 or owner[known[0] - 1] != owner[known[0]]
                assert not first or row.tokens_BT[0][own][0] == END


def test_packed_documents_come_in_another_order_each_epoch() -> None:
    loader = Loader(split_of([8] * 30), Documents(), 8, 1)
    epochs = [[int(row.targets_BT[0, 0]) for row in epoch_of(loader)] for _ in range(3)]
    assert len(set(map(tuple, epochs))) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1


def test_only_documents_longer_than_a_row_are_cut() -> None:
    rows = epoch_of(Loader(split_of([4, 20, 8, 2, 1]), Documents(), 8, 1))
    pieces = sorted(
        int((row.documents_BT == number).sum())
        for row in rows
        if row.documents_BT is not None
        for number in range(row.documents_BT.max() + 1)
    )
    assert pieces == [1, 2, 4, 4, 8, 8, 8]
    assert len(rows) == 5


@given(st.lists(st.integers(1, 16), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_best_fit_is_what_a_plain_search_finds(sizes: list[int]) -> None:
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else 16) - size)
    row_of = best_fit(np.array(sizes), 16)
    filled = np.bincount(row_of, weights=sizes)
    assert sorted(16 - filled) == sorted(rooms)
    assert row_of.max() + 1 == len(rooms)


@given(sizes=sizes_of_documents, window=st.integers(1, 40), data=st.data())
@settings(max_examples=200, deadline=None)
def test_evaluation_predicts_each_token_once_with_its_context(
    sizes: list[int], window: int, data: st.DataObject
) -> None:
    split = split_of(sizes)
    stride = data.draw(st.integers(1, window))
    rows = data.draw(st.integers(1, 4))
    tokens = split.arrays["tokens"]
    total = len(tokens)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    found = []
    for batch in evaluation_windows(split, window, stride, rows):
        assert batch.tokens_BT.shape == batch.targets_BT.shape == batch.document_BT.shape
        assert batch.tokens_BT.shape[0] <= rows
        assert batch.tokens_BT.shape[1] == min(window, total)
        for inputs, wanted, documents in zip(batch.tokens_BT, batch.targets_BT, batch.document_BT, strict=True):
            for at in np.flatnonzero(wanted != IGNORE):
                place = len(found)
                assert wanted[at] == tokens[place]
                assert inputs[at] == (tokens[place - 1] if place else END)
                assert documents[at] == owner[place]
                assert at >= min(window - stride, place), "context"
                context = inputs[1 : at + 1]
                assert np.array_equal(context, tokens[place - at : place])
                found.append(place)
    assert found == list(range(total))


@given(sizes=sizes_of_documents, window=st.integers(1, 40), wanted=st.integers(1, 900), rows=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_sample_is_spread_over_the_split(sizes: list[int], window: int, wanted: int, rows: int) -> None:
    total = sum(sizes)
    offsets = np.cumsum([0, *sizes])
    split = TokenSplit(
        {"tokens": np.arange(total), "offsets": offsets, "bytes": np.array(sizes)}
    )  # a token is its place
    owner, width = np.repeat(np.arange(len(sizes)), sizes), min(window, total)
    places: list[int] = []
    for batch in evaluation_sample(split, window, wanted, rows):
        assert batch.tokens_BT.shape[0] <= rows
        assert np.array_equal(owner[batch.targets_BT], batch.document_BT)
        assert np.array_equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
        places += batch.targets_BT.flatten().tolist()
    count = max(1, min(wanted // width, total // width))
    assert places == sorted(set(places))
    assert len(places) == count * width
    if count > 1:
        assert (places[0], places[-1]) == (0, total - 1)
        gaps = np.diff(places[::width])
        assert gaps.max() - gaps.min() <= 1, "evenly"


def test_a_stride_beyond_the_window_is_refused() -> None:
    for stride in (0, 9):
        with pytest.raises(WeftError, match="between 1 and the window's 8"):
            next(evaluation_windows(split_of([9]), 8, stride))


def test_restoring_does_not_read_what_came_before() -> None:
    split = split_of([10_000])
    loader = Loader(split, Windows(), 8, 4)
    loader.restore({"epoch": 10**9, "row": 3})
    loader.next()
    assert loader.epoch == 10**9


def test_a_packing_is_a_slot() -> None:
    assert load(Packing, "documents") == Documents()
    assert load(Packing, {"order": "sequential"}) == Windows(order="sequential")


def test_torch_is_not_imported() -> None:
    code = "import sys, weft.data.config, weft.text.show, weft.text.streaming; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
