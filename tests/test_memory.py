"""What an encoder-decoder keeps of its source: rows with sources join, branch and go back as each would alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import small
from weft.errors import WeftError
from weft.models.transformer import Transformer
from weft.nn import Cache, CrossAttention, Inputs, Memory


def read(model: Transformer, texts: list[Tensor], sources: list[Tensor]) -> Cache:
    """A cache that has read these pairs, a row each."""
    cache = model.new_cache(len(texts))
    logits(model, padded(texts), cache, padded(sources))
    return cache


def padded(texts: list[Tensor]) -> Inputs:
    longest = max(map(len, texts))
    tokens_BT = torch.stack([torch.cat([text, text.new_full((longest - len(text),), 7)]) for text in texts])
    valid_BT = torch.arange(longest) < torch.tensor([[len(text)] for text in texts])
    return Inputs(tokens_BT=tokens_BT, valid_BT=None if bool(valid_BT.all()) else valid_BT)


def go_on_alone(model: Transformer, cache: Cache, texts: list[Tensor], sources: list[Tensor]) -> None:
    """The next tokens of each row get the logits that the row's whole text and source give them."""
    more_BT = tokens(model, len(texts), 3, seed=9)
    found = torch.cat([logits(model, more_BT[:, t : t + 1], cache) for t in range(3)], dim=1)
    for row, (text, source) in enumerate(zip(texts, sources, strict=True)):
        whole = logits(model, torch.cat([text, more_BT[row]])[None], source=source[None])
        close(found[row], whole[0, len(text) :])


def texts_of(model: Transformer, *lengths: int) -> list[Tensor]:
    return [tokens(model, 1, length, seed=length)[0] for length in lengths]


@pytest.fixture
def model() -> Transformer:
    decoder = {"n_layers": 3, "pattern": [{}, {"attention": "none"}, {"cross_attention": "none"}],
               "block": {"attention": {"n_kv_heads": 2}, "cross_attention": {"n_kv_heads": 1}}}  # fmt: skip
    return small(decoder, encoder={"n_layers": 2, "positions": "rotary"})


def test_rows_with_sources_branch_join_and_go_back(model: Transformer) -> None:
    texts, sources = texts_of(model, 2, 5, 3), texts_of(model, 4, 7, 1)
    cache = read(model, texts, sources)
    assert cache.source_valid_BS.shape == (3, 7)
    cache.select([2, 0, 2])  # beams: a source that two rows share
    texts, sources = [texts[2], texts[0], texts[2]], [sources[2], sources[0], sources[2]]
    go_on_alone(model, cache, texts, sources)
    cache.rewind(3)
    cache.join(read(model, more := texts_of(model, 6), shorter := texts_of(model, 2)))
    cache.join(read(model, [*more, *more], longer := texts_of(model, 9, 8)))
    texts, sources = texts + more * 3, sources + shorter + longer
    then = cache.snapshot()
    go_on_alone(model, cache, texts, sources)
    cache.restore(then)
    cache.rewind([2, 1, 0, 6, 0, 1])
    texts = [text[: len(text) - back] for text, back in zip(texts, [2, 1, 0, 6, 0, 1], strict=True)]
    go_on_alone(model, cache, texts, sources)
    cache.select([])
    assert cache.rows == 0


def test_a_source_is_read_once(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,), (source,) = texts_of(model, 4), texts_of(model, 6)
    cache = read(model, [text], [source])
    # (keys and values) x 6 tokens x heads x 4 channels x 8 bytes, in the layers that read, of the source's
    assert sum(entry.bytes for entry in cache.memories if entry is not None) == 2 * 6 * 1 * 4 * 8 * 2 - 0
    assert [entry is None for entry in cache.memories] == [False, False, True]
    assert not any(entry.read()[0].requires_grad for entry in cache.memories if entry is not None)
    for module in model.modules():
        if isinstance(module, CrossAttention):
            for part in (module.key, module.value):
                monkeypatch.setattr(part, "forward", lambda x: pytest.fail("the source was read again"))
    monkeypatch.setattr(model, "encode", lambda source: pytest.fail("the source was encoded again"))
    logits(model, tokens(model, 1, 2), cache)


def test_only_caches_that_have_read_their_sources_join(model: Transformer) -> None:
    cache, empty = read(model, texts_of(model, 3), texts_of(model, 5)), model.new_cache(2)
    for one, other in ((cache, empty), (empty, cache)):
        with pytest.raises(WeftError, match="only one of the two caches has read its source"):
            one.join(other)
    assert (cache.lengths, empty.lengths) == ([3], [0, 0])
    empty.join(model.new_cache(1))
    texts, sources = texts_of(model, 3, 1, 4), texts_of(model, 2, 2, 5)
    logits(model, padded(texts), empty, padded(sources))
    go_on_alone(model, empty, texts, sources)


def test_a_memory_may_be_given_to_many(model: Transformer) -> None:
    """Encoded once, its rows chosen by hand: four answers to one source."""
    (source,) = texts_of(model, 6)
    memory = model.encode(source[None])
    x_BT = tokens(model, 4, 5)
    found = logits(model, x_BT, source=Memory(memory.x_BSD.expand(4, -1, -1)))
    for row in range(4):
        close(found[row], logits(model, x_BT[row, None], source=source[None])[0])
