"""The cache: rows that grow, join, branch, leave and take back tokens go on as each would alone."""

from __future__ import annotations

from typing import Any

import parts
import pytest
import torch
from properties import close, logits, tokens
from torch import Tensor

from weft.errors import WeftError
from weft.models.transformer import Transformer
from weft.nn import Cache, Inputs

DECODERS: dict[str, dict[str, Any]] = {
    "rotary": {"n_layers": 2, "positions": "rotary", "block": {"attention": {"n_kv_heads": 2}}},
    "learned": {"n_layers": 2, "positions": "learned"},
    "windows": {
        "positions": "rotary",
        "n_layers": 3,
        "pattern": [{"attention": {"mask": {"kind": "window", "size": 3}}}, {"attention": "none"}, {}],
    },
}


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return parts.small(DECODERS[request.param])


def filled(model: Transformer, texts: list[Tensor]) -> Cache:
    """A cache that has read these texts, a row each."""
    longest = max(map(len, texts))
    tokens_BT = torch.stack([torch.cat([text, text.new_zeros(longest - len(text))]) for text in texts])
    valid_BT = torch.arange(longest) < torch.tensor([[len(text)] for text in texts])
    cache = model.new_cache(len(texts))
    logits(model, Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT), cache)
    return cache


def go_on_alone(model: Transformer, cache: Cache, texts: list[Tensor], steps: int = 3) -> None:
    """The next tokens of each row get the logits that the row's whole text gives them."""
    assert cache.lengths == list(map(len, texts))
    more_BT = tokens(model, len(texts), steps, seed=9)
    found = torch.cat([logits(model, more_BT[:, t : t + 1], cache) for t in range(steps)], dim=1)
    for row, text in enumerate(texts):
        close(found[row], logits(model, torch.cat([text, more_BT[row]])[None])[0, len(text) :])


def texts_of(model: Transformer, *lengths: int) -> list[Tensor]:
    return [tokens(model, 1, length, seed=length)[0] for length in lengths]


def test_rows_are_chosen_and_branch(model: Transformer) -> None:
    texts = texts_of(model, 4, 2, 6)
    cache = filled(model, texts)
    cache.select([2, 0, 2])
    go_on_alone(model, cache, [texts[2], texts[0], texts[2]])  # the branches differ from here on
    cache.rewind(3)
    cache.select([1])
    go_on_alone(model, cache, [texts[0]])


def test_rows_join(model: Transformer) -> None:
    texts = texts_of(model, 3, 7, 1, 5)
    cache = filled(model, texts[:2])
    cache.join(filled(model, texts[2:]))
    go_on_alone(model, cache, texts)


@pytest.mark.parametrize("empty_first", [True, False])
def test_rows_that_have_read_nothing_join(model: Transformer, empty_first: bool) -> None:
    texts = texts_of(model, 3, 5)
    empty, cache = model.new_cache(1), filled(model, texts)
    first, second = (empty, cache) if empty_first else (cache, empty)
    first.join(second)
    nothing = [texts[0][:0]]
    go_on_alone(model, first, nothing + texts if empty_first else texts + nothing)


def test_tokens_are_taken_back(model: Transformer) -> None:
    texts = texts_of(model, 6, 3, 5)
    cache = filled(model, texts)
    cache.rewind(2)
    texts = [text[:-2] for text in texts]
    go_on_alone(model, cache, texts)
    cache.rewind([3, 3, 4])  # those three, and one more of the last row's
    texts[2] = texts[2][:-1]
    go_on_alone(model, cache, texts)


def test_a_snapshot_is_come_back_to(model: Transformer) -> None:
    texts = texts_of(model, 4, 6)
    cache = filled(model, texts)
    for _ in range(2):  # guess, take back, guess again
        then = cache.snapshot()
        go_on_alone(model, cache, texts)
        cache.restore(then)
    then = cache.snapshot()
    cache.join(filled(model, texts_of(model, 5)))
    assert then == [4, 6], "a snapshot is not moved by what comes later"
    cache.select([0, 1])
    go_on_alone(model, cache, texts)


def test_slots_that_hold_a_row_s_tokens_are_valid() -> None:
    cache, cpu = Cache([], 3), torch.device("cpu")
    valid_BT = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.bool)
    placement = cache.place((3, 3), valid_BT, cpu)
    assert placement.slot_BT[valid_BT].tolist() == [0, 1, 0, 0, 1]
    assert (placement.start, placement.end, cache.lengths) == (None, 2, [2, 1, 2])
    held = cache.valid(cpu)
    assert held is not None
    assert held.tolist() == [[True, True], [True, False], [True, True]]
    cache.rewind([1, 0, 1])
    assert cache.valid(cpu) is None, "all rows alike: nothing to hide"
    assert cache.place((3, 2), None, cpu).start == 1


def test_a_row_may_wait(model: Transformer) -> None:
    """A row whose step is padding keeps its place while the others go on."""
    texts = texts_of(model, 4, 2)
    cache = filled(model, texts)
    step_BT, valid_BT = torch.tensor([[1, 2], [3, 0]]), torch.tensor([[True, True], [False, False]])
    logits(model, Inputs(tokens_BT=step_BT, valid_BT=valid_BT), cache)
    go_on_alone(model, cache, [torch.cat([texts[0], step_BT[0]]), texts[1]])


def test_what_was_taken_back_is_never_seen(model: Transformer) -> None:
    """Not even as numbers that are no numbers: a stale slot is written before it is read."""
    texts = texts_of(model, 4, 4)
    cache = filled(model, texts)
    logits(model, tokens(model, 2, 3, seed=5), cache)
    cache.rewind(3)
    for entry in cache.entries:
        if entry is not None:
            assert entry.k_BGSK is not None
            assert entry.v_BGSL is not None
            entry.k_BGSK[:, :, 4:] = 1e9
            entry.v_BGSL[:, :, 4:] = 1e9
    go_on_alone(model, cache, texts)


def test_the_cache_grows() -> None:
    """Beyond the 64 slots that it begins with, and twice that, in even and in uneven rows."""
    model = parts.small(DECODERS["rotary"])
    x_BT = tokens(model, 2, 140)
    cache = model.new_cache(2)
    assert cache.bytes == 0
    found = [logits(model, piece, cache) for piece in x_BT.split([60, 3, 1, 1, 70, 5], dim=1)]
    close(torch.cat(found, dim=1), logits(model, x_BT))
    # 2 rows x 256 slots x (keys and values) x 2 heads x 4 channels x 8 bytes x 2 layers
    assert cache.bytes == 2 * 256 * 2 * 2 * 4 * 8 * 2
    texts = texts_of(model, 70, 3)
    cache = filled(model, texts)
    go_on_alone(model, cache, texts, steps=60)


def test_what_a_cache_refuses(model: Transformer) -> None:
    cache = filled(model, texts_of(model, 4, 2))
    for tokens_back in (3, [1, 3], [-1, 0]):
        with pytest.raises(WeftError, match="cannot take back"):
            cache.rewind(tokens_back)
    with pytest.raises(WeftError, match="the cache holds 2 rows, the input has 3"):
        logits(model, tokens(model, 3, 1), cache)
    packed = Inputs(tokens_BT=tokens(model, 2, 1), documents_BT=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(WeftError, match="documents"):
        logits(model, packed, cache)
    assert cache.lengths == [4, 2], "nothing was counted"


def test_a_cache_keeps_no_gradients(model: Transformer) -> None:
    cache = model.new_cache(1)
    model(tokens(model, 1, 4), cache=cache)
    held = [entry.k_BGSK for entry in cache.entries if entry is not None]
    assert held
    assert not any(tensor is None or tensor.requires_grad for tensor in held)
