"""Masks: coverage never hides a pair, patterns are what their papers draw, combine, bound the cache, widen a prefix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from schema import problems as schema_problems
from torch import Tensor

import weft.objectives  # noqa: F401  (registers them)
from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.cli.schema import model_schema
from weft.config import SLOTS, Override
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn import Call, Dims, FullEntry, Inputs, RingEntry, attend
from weft.nn.blocked import Plan, blocked_attention
from weft.nn.masks import (
    Among,
    Causal,
    Either,
    EverySo,
    Everything,
    InPrefix,
    Mask,
    Near,
    SameBlock,
    SameDocument,
    Valid,
)
from weft.nn.patterns import MaskPart
from weft.nn.scores import SoftmaxWeighting
from weft.nn.sides import Sides

DIMS = Dims(d_model=8, max_length=9, vocab_size=7)
PATTERNS: list[Any] = [
    {"kind": "window", "size": 5},
    {"kind": "dilated", "size": 3, "dilation": 4},
    {"kind": "dilated", "size": 4, "dilation": 1},
    {"kind": "strided", "stride": 6},
    {"kind": "block", "size": 7},
    {"kind": "global", "tokens": 2},
    "prefix",
    {"any": [{"kind": "window", "size": 4}, {"kind": "strided", "stride": 9}, "global"]},
    {"all": ["prefix", {"kind": "window", "size": 6}]},
    {"any": ["prefix", {"kind": "block", "size": 4}]},
]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pattern(declared: Any) -> MaskPart:
    return SLOTS["mask"].choose(declared)


def random_sides(seed: int) -> Sides:
    """Packed, padded on both sides, with prefixes; or a continued row, or a ring's keys, that do not stand in order."""
    random = np.random.default_rng(seed)
    tokens, rows = int(random.integers(1, 40)), int(random.integers(1, 4))
    places = torch.arange(tokens)[None]
    if seed % 3 == 1:  # later queries, keys of a ring
        keys = torch.from_numpy(random.permutation(int(random.integers(1, 50))))[None]
        first = torch.arange(keys.shape[1], keys.shape[1] + tokens)[None]
        flags = [torch.from_numpy(random.random(x.shape) < 0.3) for x in (first, keys)]
        return Sides(first, keys, None, None, None, False, *flags)
    if seed % 3 == 2:
        return Sides(places, places, aligned=True)
    lengths = random.integers(1, 12, (rows, tokens)).cumsum(1)
    documents = torch.from_numpy((np.arange(tokens)[None, :, None] >= lengths[:, None]).sum(2))
    valid = torch.from_numpy(random.random((rows, 1)) * tokens > np.arange(tokens)[None])
    index = (valid.long().cumsum(1) - 1).clamp(min=0)
    prefix = torch.from_numpy(random.random((rows, tokens)) < 0.6)
    return Sides(index, index, valid, documents, documents, False, prefix, prefix)


def check_coverage(mask: Mask, sides: Sides, queries: int, keys: int) -> tuple[int, int]:
    """No pair that is seen lies in a block that is said to be empty, none that is hidden in one said to be full.

    Returns how many blocks could be told apart, and how many were.
    """
    rows = max(len(sides.q_index_BT), len(sides.k_index_BS), len(sides.dense(mask)))
    pairs, found = sides.dense(mask).expand(rows, -1, -1, -1)[:, 0].numpy(), sides.coverage(mask, queries, keys)
    told = uniform = 0
    some, full = (np.broadcast_to(flags, (rows, *flags.shape[1:])) for flags in (found.some, found.all))
    for row, i, j in np.ndindex(*some.shape):
        inside = pairs[row, i * queries : (i + 1) * queries, j * keys : (j + 1) * keys]
        assert some[row, i, j] or not inside.any(), f"{mask}: block {row, i, j} is not empty"
        assert inside.all() or not full[row, i, j], f"{mask}: block {row, i, j} is not full"
        uniform += bool(inside.all() or not inside.any())
        told += bool(full[row, i, j] or not some[row, i, j])
    return uniform, told


SIMPLE: list[Mask] = [Causal(), Near(4), EverySo(1), EverySo(5), SameBlock(3), Among(2), InPrefix()]


@pytest.mark.parametrize("seed", range(24))
def test_coverage_hides_no_pair(seed: int) -> None:
    sides, random = random_sides(seed), np.random.default_rng(seed)
    apart = SameDocument() & Valid() if sides.k_documents_BS is not None else Everything()
    masks = [*SIMPLE, *(pattern(one).build(DIMS, Causal()) & apart for one in PATTERNS)]
    masks += [Either(*random.choice(np.array(SIMPLE, dtype=object), 2)) & apart for _ in range(4)]
    for mask in masks:
        check_coverage(mask, sides, int(random.integers(1, 9)), int(random.integers(1, 9)))


def test_coverage_tells_most_blocks_of_one_text() -> None:
    """Alone, every uniform block is told; of a row without padding and documents, and of aligned blocks."""
    places = torch.arange(48)[None]
    prefix = places < 11
    sides = Sides(places, places, None, None, None, False, prefix, prefix)
    for mask in SIMPLE:
        uniform, told = check_coverage(mask, sides, 4, 6)
        assert told == uniform > 0 or mask == EverySo(5), mask
    for declared, share in zip(PATTERNS, (0.9, 0.6, 0.9, 0, 0.9, 0.9, 0.9, 0.2, 0.9, 0.9), strict=True):
        uniform, told = check_coverage(pattern(declared).build(DIMS, Causal()), sides, 4, 4)
        assert told > share * uniform, f"{declared}: {told} of {uniform}"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("declared", PATTERNS, ids=str)
def test_the_blocked_kernel_skips_safely(declared: Any, causal: bool) -> None:
    """Equal to `reference` with gradients, in decoders and encoders, over a text longer than a block."""
    if not causal and "prefix" in str(declared):
        return
    places = torch.arange(37)[None]
    sides = Sides(places, places, None, None, None, True, places < 9, places < 9)
    mask = pattern(declared).build(DIMS, Causal() if causal else Everything())
    inputs = [normal(n, 2, 2, 37, 4) for n in range(3)]
    found = []
    for compute in (
        lambda q, k, v: attend(Call(q, k, v, mask, sides, SoftmaxWeighting(0.5)), "reference"),
        lambda q, k, v: blocked_attention(q, k, v, None, None, 0.5, Plan(mask, sides, 8)),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = compute(*leaves)
        found.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    for mine, true in zip(*found, strict=True):
        close(mine.detach(), true.detach(), 1e-12)


# --- what the papers draw ---


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("declared", PATTERNS, ids=str)
def test_patterns_are_their_formulas(declared: Any, causal: bool) -> None:
    """In the references' loops, with a prefix of seven tokens."""
    if not causal and "prefix" in str(declared):
        return
    part, places = pattern(declared), torch.arange(30)[None]
    sides = Sides(places, places, None, None, None, True, places < 7, places < 7)
    found = sides.dense(part.build(DIMS, Causal() if causal else Everything()))[0, 0]
    for q, k in np.ndindex(30, 30):
        expected = reference.MASKS[part.kind](part.dump(), q, k, k <= q or not causal, max(q, k) < 7)
        assert bool(found[q, k]) == expected, (q, k)


def seen(declared: Any, length: int, *, causal: bool = True) -> list[list[int]]:
    """The keys that each query sees."""
    places = torch.arange(length)[None]
    mask = pattern(declared).build(DIMS, Causal() if causal else Everything())
    return [row.nonzero().flatten().tolist() for row in Sides(places, places).dense(mask)[0, 0]]


def test_a_sparse_transformer_s_strided_pattern() -> None:
    """Child et al. 2019, section 4.2: A^(1) the last l places, A^(2) every l-th; every place is two steps away."""
    found = seen({"any": [{"kind": "window", "size": 5}, {"kind": "strided", "stride": 5}]}, 25)
    assert found[17] == [2, 7, 12, 13, 14, 15, 16, 17]
    for query in range(25):
        assert {key for step in found[query] for key in found[step]} == set(range(query + 1))


def test_small_pictures() -> None:
    assert seen({"kind": "dilated", "size": 3, "dilation": 2}, 8, causal=False)[4] == [0, 2, 4, 6]
    assert seen({"kind": "block", "size": 3}, 8)[5] == [3, 4, 5]
    assert seen({"kind": "block", "size": 3}, 8, causal=False)[6] == [6, 7]
    both_ways = seen({"kind": "global", "tokens": 2}, 6, causal=False)
    assert both_ways == [[*range(6)]] * 2 + [[0, 1, n] for n in range(2, 6)]
    longformer = {"any": [{"kind": "window", "size": 2}, "global"]}
    assert seen(longformer, 6) == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]


@pytest.mark.parametrize("declared", [one for one in PATTERNS if pattern(one).reach is not None], ids=str)
def test_reach_is_the_furthest_key(declared: Any) -> None:
    """A window's cache keeps no less, and (but for `all`, which may reach less far) no more than is seen."""
    furthest = max(query - keys[0] for query, keys in enumerate(seen(declared, 40)))
    assert furthest + 1 == pattern(declared).reach


def test_what_has_no_reach_needs_a_full_cache() -> None:
    window, dilated, _, strided, block, *_ = PATTERNS
    for declared in (strided, "prefix", "none", {"any": [window, "global"]}, {"any": [dilated, "none"]}):
        assert pattern(declared).reach is None
        with pytest.raises(ValueError, match="so its cache is full"):
            SLOTS["attention"].choose({"mask": declared, "cache": "window"})
    assert pattern({"any": [window, block]}).reach == 7
    assert pattern({"all": [strided, block, window]}).reach == 5


# --- prefixes ---


def prefixed(mask: Any = "prefix", **attention: Any) -> Transformer:
    return small({"block": {"attention": {"mask": mask, **attention}}})


def read(
    model: Transformer, x_BT: Tensor, lengths: list[int], cache: Any = None, valid: Tensor | None = None
) -> Tensor:
    """Logits, the first `lengths[b]` valid tokens of each row being its prefix."""
    valid = torch.ones_like(x_BT, dtype=torch.bool) if valid is None else valid
    prefix = (valid.long().cumsum(1) <= torch.tensor(lengths)[:, None]) | ~valid  # padding's flag is to mean nothing
    given = None if bool(valid.all()) else valid
    return logits(model, Inputs(tokens_BT=x_BT, valid_BT=given, prefix_BT=prefix), cache)


def test_a_prefix_sees_itself_both_ways_and_nothing_beyond() -> None:
    model = prefixed()
    x_BT = tokens(model, 1, 8)
    plain, before = logits(model, x_BT), read(model, x_BT, [4])
    close(read(model, x_BT, [1]), plain, 1e-12)
    for place, touched in ((0, 0), (3, 0), (4, 4), (6, 6)):  # a change at `place` is seen from `touched` on
        changed_BT = x_BT.clone()
        changed_BT[:, place] = (x_BT[:, place] + 1) % 11
        moved = (read(model, changed_BT, [4]) - before).abs().amax(-1)[0] > 1e-9
        assert moved.tolist() == [n >= touched for n in range(8)]


@pytest.mark.parametrize("mask", ["prefix", {"all": ["prefix", {"kind": "window", "size": 4}]}], ids=str)
@pytest.mark.parametrize("kernel", ["reference", "sdpa", "blocked"])
def test_prefixes_of_unequal_lengths_padded_packed_and_cached(mask: Any, kernel: str) -> None:
    """Each row is as if it were alone; what was read with its prefix goes on from a cache."""
    model, lengths, ends = prefixed(mask, kernel=kernel), [3, 1, 5], [6, 4, 9]
    x_BT = tokens(model, 3, 11)
    alone = [read(model, row[None, :end], [length])[0] for row, end, length in zip(x_BT, ends, lengths, strict=True)]
    for left in (True, False):
        padded_BT, valid_BT = torch.zeros_like(x_BT), torch.zeros_like(x_BT, dtype=torch.bool)
        for row, end in enumerate(ends):
            place = slice(11 - end, 11) if left else slice(0, end)
            padded_BT[row, place], valid_BT[row, place] = x_BT[row, :end], True
        cache = model.new_cache(3)
        for kept in (None, cache):
            found = read(model, padded_BT, lengths, kept, valid_BT)
            for row in range(3):
                close(found[row, valid_BT[row]], alone[row])
        following = logits(model, torch.tensor([[1], [2], [3]]), cache)
        for row, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            longer = torch.cat([x_BT[row, :end], torch.tensor([row + 1])])[None]
            close(following[row], read(model, longer, [length])[0, -1:])
    documents_BT = torch.tensor([[0] * 6 + [1] * 4])
    positions_BT = torch.tensor([[*range(6), *range(4)]])
    prefix_BT = positions_BT < torch.tensor([[3] * 6 + [1] * 4])
    packed_BT = torch.cat([x_BT[0, :6], x_BT[1, :4]])[None]
    packed = Inputs(packed_BT, positions_BT=positions_BT, documents_BT=documents_BT, prefix_BT=prefix_BT)
    close(logits(model, packed)[0], torch.cat(alone[:2]))


def test_a_prefix_is_read_at_once_and_in_decoders_only() -> None:
    model = prefixed()
    x_BT = tokens(model, 2, 4)
    cache = model.new_cache(2)
    read(model, x_BT, [2, 2], cache)
    with pytest.raises(WeftError, match="a prefix is read at once"):
        read(model, x_BT, [2, 0], cache)
    assert cache.lengths == [4, 4]
    read(model, x_BT, [0, 0], cache)
    for mask in ("prefix", {"all": [{"kind": "window", "size": 3}, "prefix"]}, {"any": ["prefix", "global"]}):
        with pytest.raises(WeftError, match=r"attention\.mask: prefix .* in an encoder"):
            build({**SIZES, "decoder": None, "encoder": {"n_layers": 1, "block": {"attention": {"mask": mask}}}})


def test_training_without_a_prefix_is_refused() -> None:
    """A prefix mask under an objective whose batches have none would be causal, and nobody would know."""

    class Told(SLOTS["objective"]):
        tells = ("prefix_BT",)

    causal = SLOTS["objective"].choose("causal")
    for mask in ("prefix", {"any": ["prefix", "global"]}):
        config = ModelConfig.load(with_mask(mask))
        with pytest.raises(WeftError, match=r"block\.attention\.mask.*: prefix reads Inputs\.prefix_BT"):
            causal.check_inputs(config)
        Told().check_inputs(config)
    causal.check_inputs(ModelConfig.load(with_mask({"kind": "window", "size": 3})))


def test_first_tokens_and_blocks_are_counted_in_each_document() -> None:
    for mask in ({"kind": "global", "tokens": 2}, {"kind": "block", "size": 3}):
        model = prefixed(mask)
        x_BT = tokens(model, 1, 9)
        documents_BT, positions_BT = torch.tensor([[0] * 4 + [1] * 5]), torch.tensor([[*range(4), *range(5)]])
        packed = logits(model, Inputs(x_BT, positions_BT=positions_BT, documents_BT=documents_BT))
        close(packed[0], torch.cat([logits(model, x_BT[:, :4])[0], logits(model, x_BT[:, 4:])[0]]))


# --- declarations ---


def mask_of(source: Any, *overrides: str | Override) -> dict[str, Any]:
    config = ModelConfig.load(source, *overrides)
    return config.dump()["decoder"]["block"]["attention"]["mask"]


def with_mask(mask: Any) -> dict[str, Any]:
    return {"vocab_size": 11, "decoder": {"n_layers": 2, "block": {"attention": {"mask": mask}}}}


def test_short_forms_and_overrides() -> None:
    window, path = {"kind": "window", "size": 4}, "decoder.block.attention.mask"
    whole = {"kind": "any", "of": [window, {"kind": "global", "tokens": 1}]}
    assert mask_of(with_mask({"any": [window, "global"]})) == whole
    assert mask_of(with_mask(window), f"{path}={{any: [{{kind: window, size: 4}}, global]}}") == whole
    assert mask_of(with_mask({"any": [window, "global"]}), f"{path}.of.0.size=2")["of"][0]["size"] == 2
    nested = {"all": [window, {"any": ["prefix", {"kind": "block", "size": 2}]}]}
    assert mask_of(with_mask(nested))["of"][1]["of"][0] == {"kind": "prefix"}
    assert not [*schema_problems(with_mask(nested), model_schema(), model_schema())]
    for wrong, message in (
        ({"any": [window]}, "at least 2"),
        ({"any": ["prefix", "widow"]}, r"mask\.of\.1: no mask called 'widow'; did you mean 'window'"),
        ({"all": ["prefix", {"kind": "window", "sise": 3}]}, r"mask\.of\.1\.sise: no such option; did you mean 'size'"),
    ):
        with pytest.raises(WeftError, match=message):
            mask_of(with_mask(wrong))


def test_five_windows_and_one_full() -> None:
    """A pattern of six layers: the windows' caches are rings that stop growing, the full one's is not."""
    window = {"attention": {"mask": {"kind": "window", "size": 4}}}
    model = small({"n_layers": 12, "pattern": [*[window] * 5, {}]}, d_model=8)
    x_BT = tokens(model, 1, 24)
    cache = model.new_cache(1, slack=2)
    steps = torch.cat([logits(model, x_BT[:, n : n + 1], cache) for n in range(24)], dim=1)
    close(steps, logits(model, x_BT))
    kinds = [type(entry) for entry in cache.entries]
    assert kinds == [*[RingEntry] * 5, FullEntry] * 2
    assert [entry.k_BGSK.shape[2] for entry in cache.entries] == [*[6] * 5, 64] * 2
    reached = [layer.attention.mask.reach for layer in model.config.decoder.layers()]
    assert reached == [*[4] * 5, None] * 2
