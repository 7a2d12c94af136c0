"""The cache: rows that grow, join, branch, leave and take back tokens go on as each would alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.errors import ConfigError, WeftError
from weft.models.build import build
from weft.models.cost import total
from weft.models.transformer import Transformer
from weft.nn import Cache, Dims, DotProduct, Inputs, Window
from weft.nn.cache import SLACK

DECODERS: dict[str, dict[str, Any]] = {
    "rotary": {"n_layers": 2, "positions": "rotary", "block": {"attention": {"n_kv_heads": 2}}},
    "learned": {"n_layers": 2, "positions": "learned"},
    "windows": {
        "positions": "rotary",
        "n_layers": 3,
        "pattern": [{"attention": {"mask": {"kind": "window", "size": 3}}}, {"attention": "none"}, {}],
    },
    "bigrams": {"n_layers": 2},
}
EMBEDDINGS: dict[str, dict[str, Any]] = {"bigrams": {"kind": "bigrams", "rows": 60}}


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return small(DECODERS[request.param], embedding=EMBEDDINGS.get(request.param, {}))


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


def test_rows_take_their_sources_along() -> None:
    """Chosen in another order, then joined with a row whose source is longer."""
    model = small({"positions": "rotary"}, encoder={"n_layers": 1})
    x_BT, short_BS, long_BS = tokens(model, 3, 4), tokens(model, 2, 3, seed=1), tokens(model, 1, 5, seed=2)
    cache, other = model.new_cache(2), model.new_cache(1)
    logits(model, x_BT[:2, :2], cache, short_BS)
    logits(model, x_BT[2:, :2], other, long_BS)
    cache.select([1, 0])
    cache.join(other)
    found = logits(model, x_BT[[1, 0, 2], 2:], cache)
    for row, (text, source) in enumerate([(1, short_BS[1]), (0, short_BS[0]), (2, long_BS[0])]):
        close(found[row], logits(model, x_BT[text][None], source=source[None])[0, 2:])


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


def test_vectors_that_were_given_are_no_token_that_an_embedding_looks_back_at() -> None:
    model = small(DECODERS["bigrams"], embedding=EMBEDDINGS["bigrams"])
    x_BT, more_BT = tokens(model, 2, 4), tokens(model, 2, 3, seed=1)
    cache, mixed = model.new_cache(2), model.embedding(Inputs(tokens_BT=x_BT)).detach()
    logits(model, x_BT, cache)
    cache.rewind(4)  # what the slots held is no longer there either
    close(logits(model, Inputs(x_BTD=mixed), cache), logits(model, x_BT), 1e-14)
    alone = model.embedding(Inputs(tokens_BT=more_BT)).detach()
    expected = logits(model, Inputs(x_BTD=torch.cat([mixed, alone], dim=1)))[:, 4:]
    close(logits(model, more_BT, cache), expected)


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
    model = small(DECODERS["rotary"])
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


# --- the ring of a window ---

WINDOWS: dict[str, dict[str, Any]] = {
    "one window": {"positions": "rotary", "block": {"attention": {"mask": {"kind": "window", "size": 3}}}},
    "biased": {
        "positions": "alibi",
        "block": {"attention": {"n_heads": 4, "n_kv_heads": 2, "mask": {"kind": "window", "size": 5}}},
    },
    "two windows and all": {
        "n_layers": 3,
        "positions": "sinusoidal",
        "pattern": [{"attention": {"mask": {"kind": "window", "size": size}}} for size in (2, 4)] + [{}],
    },
}


def windowed(name: str = "one window", **attention: Any) -> Transformer:
    decoder = {"n_layers": 2, **WINDOWS[name]}
    if attention:
        decoder["block"] = {"attention": {**WINDOWS[name]["block"]["attention"], **attention}}
    return small(decoder, max_length=512)


@pytest.mark.parametrize("slack", [0, 2, 7, SLACK])
@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_goes_on_beyond_its_ring(name: str, slack: int) -> None:
    """Tokens one by one, in twos, and more at once than the ring holds."""
    model = windowed(name)
    x_BT = tokens(model, 2, 75)
    whole = logits(model, x_BT)
    for sizes in (1, 2, 3, 8, [1, 40, 1, 1, 2, 9, 1, 20], [30, 1, 2, 3, 4, 5, 30]):
        cache = model.new_cache(2, slack=slack)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(sizes, dim=1)], dim=1), whole)


def step_of(pieces: list[Tensor], left: bool) -> Inputs:
    """A row for each piece, padded on one side with tokens that matter to nobody."""
    longest = max(1, *map(len, pieces))
    tokens_BT = torch.full((len(pieces), longest), 7)
    valid_BT = torch.zeros(len(pieces), longest, dtype=torch.bool)
    for row, piece in enumerate(pieces):
        place = slice(longest - len(piece), longest) if left else slice(0, len(piece))
        tokens_BT[row, place], valid_BT[row, place] = piece, True
    return Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT)


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_ring_do_whatever_comes_to_mind(seed: int) -> None:
    """Uneven steps, waiting rows, branches, rows that leave or come, tokens taken back: each goes on as if alone."""
    draw, slack = random.Random(seed), seed % 4
    model = windowed(sorted(WINDOWS)[seed % 3])
    texts, highest = [torch.zeros(0, dtype=torch.long)] * 3, [0, 0, 0]
    cache = model.new_cache(3, slack=slack)

    def grow(cache: Cache, texts: list[Tensor]) -> list[Tensor]:
        sizes = [draw.choice([0, 1, 1, 1, 2, draw.randrange(12)]) for _ in texts]
        sizes[draw.randrange(len(texts))] += 1
        pieces = [torch.tensor(draw.choices(range(11), k=size), dtype=torch.long) for size in sizes]
        inputs = step_of(pieces, left=draw.random() < 0.5)
        found = logits(model, inputs, cache)
        for row, (text, piece) in enumerate(zip(texts, pieces, strict=True)):
            assert inputs.valid_BT is not None
            if len(piece):
                expected = logits(model, torch.cat([text, piece])[None])[0, len(text) :]
                close(found[row, inputs.valid_BT[row]], expected)
        return [torch.cat(pair) for pair in zip(texts, pieces, strict=True)]

    for _ in range(25):
        what = draw.choice(["grow", "grow", "grow", "select", "join", "rewind"])
        if what == "select":
            rows = draw.choices(range(len(texts)), k=draw.choice([2, 3]))
            cache.select(rows)
            texts, highest = [texts[row] for row in rows], [highest[row] for row in rows]
        elif what == "join" and len(texts) < 5:
            more = model.new_cache(1, slack=slack)
            new = [torch.zeros(0, dtype=torch.long)]
            for _ in range(draw.randrange(3)):
                new = grow(more, new)
            cache.join(more)
            texts, highest = texts + new, [*highest, len(new[0])]
        elif what == "rewind":
            back = [
                draw.randint(0, max(0, len(text) - max(0, high - slack)))
                for text, high in zip(texts, highest, strict=True)
            ]
            cache.rewind(back)
            texts = [text[: len(text) - count] for text, count in zip(texts, back, strict=True)]
        else:
            texts = grow(cache, texts)
            highest = [max(high, len(text)) for high, text in zip(highest, texts, strict=True)]
        assert cache.lengths == list(map(len, texts))


def test_a_ring_does_not_grow_with_the_text() -> None:
    ring, full = windowed(), windowed(cache="full")
    x_BT = tokens(ring, 2, 400)
    ring_cache, full_cache, held = ring.new_cache(2, slack=5), full.new_cache(2), set()
    for piece in x_BT.split([300, *[1] * 90, 10], dim=1):
        close(logits(ring, piece, ring_cache), logits(full, piece, full_cache))
        held.add(ring_cache.bytes)
    # 2 layers x 2 rows x (keys and values) x 4 heads x (a window of 3 and 5 more) x 4 channels x 8 bytes
    assert held == {2 * 2 * 2 * 4 * 8 * 4 * 8}
    assert full_cache.bytes > 100 * 2 * 2 * 2 * 4 * 4 * 8


def test_a_window_s_declared_cache_is_what_its_ring_holds() -> None:
    for length in (10, 100, 400):
        model = windowed()
        cache = model.new_cache(1)
        logits(model, tokens(model, 1, length), cache)
        slots = min(length, 3 + SLACK)
        assert total(model, length).cache * length == pytest.approx(2 * 2 * 16 * slots)
        assert cache.bytes == 2 * 2 * 16 * 8 * (3 + SLACK), "at least 64 slots, where so many may be needed"


def test_a_window_s_cache_is_said_aloud() -> None:
    window = DotProduct(mask=Window(size=8))
    assert window.derived(Dims(16, 24, 11))[-1] == "cache not given: the window's 8 keys, and 16 that may be taken back"
    for silent in (DotProduct(), DotProduct(mask=Window(size=8), cache="full")):
        assert not any("cache" in line for line in silent.derived(Dims(16, 24, 11)))
    assert not any("cache" in line for line in window.derived(Dims(16, 24, 11, causal=False))), "an encoder has none"


def test_a_ring_refuses_to_go_back_beyond_its_slack() -> None:
    model = windowed("two windows and all")
    texts = texts_of(model, 20, 9)
    cache = model.new_cache(2, slack=3)
    logits(model, step_of(texts, left=False), cache)
    with pytest.raises(WeftError, match=r"cannot go back to 16 tokens: the row had 20.* a slack of 3; ask") as caught:
        cache.rewind([4, 0])
    assert "\n" not in str(caught.value)
    assert cache.lengths == [20, 9], "nothing was taken back"
    cache.rewind([2, 3])
    with pytest.raises(WeftError, match="cannot go back to 16 tokens"):  # not in two steps either
        cache.rewind([2, 0])
    logits(model, step_of([texts[0][18:19], texts[1][:0]], left=False), cache)
    with pytest.raises(WeftError, match="cannot go back to 16 tokens: the row had 20"):  # nor when it went on between
        cache.rewind([3, 0])
    cache.rewind([2, 0])
    go_on_alone(model, cache, [texts[0][:17], texts[1][:6]], steps=8)


def test_all_may_be_taken_back_while_nothing_was_pushed_out() -> None:
    model = windowed()
    (text,) = texts_of(model, 5)
    cache = model.new_cache(1, slack=2)
    logits(model, text[None], cache)
    cache.rewind(5)
    go_on_alone(model, cache, [text[:0]], steps=9)


def test_rings_of_another_slack_do_not_join() -> None:
    model = windowed()
    with pytest.raises(WeftError, match="the same windows and slack"):
        model.new_cache(1, slack=2).join(model.new_cache(1, slack=3))


def test_a_ring_is_refused_where_all_is_seen() -> None:
    with pytest.raises(ConfigError) as caught:
        build({**SIZES, "decoder": {"block": {"attention": {"cache": "window"}}}})
    assert caught.value.problems == [
        "decoder.block.attention.cache = 'window': an attention with mask: none sees all that came before,"
        " so its cache is full"
    ]
