"""The blocked kernel: equal to `reference` whatever the mask, computing only what the mask leaves, in O(T) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from weft.checking.compare import close
from weft.errors import WeftError
from weft.models.build import build
from weft.models.cost import training_memory
from weft.nn import KERNELS, Call, attend, kernels
from weft.nn.blocked import Plan, blocked_attention
from weft.nn.masks import Causal, Either, Everything, Mask, Near, SameDocument, Sides, Valid
from weft.nn.scores import SoftmaxWeighting

ROWS, HEADS, TOKENS, SCALE = 3, 4, 37, 0.3


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def places(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count)[None]


ALIGNED = Sides(places(TOKENS), places(TOKENS), aligned=True)
DOCUMENTS = torch.tensor([[t // 9 for t in range(TOKENS)], [t // 20 for t in range(TOKENS)], [0] * TOKENS])
VALID = torch.tensor([[True] * 30 + [False] * 7, [False] * TOKENS, [False] * 20 + [True] * 17])  # row 1 sees nothing
PACKED = Sides(places(TOKENS), places(TOKENS), VALID, DOCUMENTS, DOCUMENTS)

MASKS: dict[str, tuple[Mask, Sides]] = {
    "everything": (Everything(), ALIGNED),
    "causal": (Causal(), ALIGNED),
    "window": (Near(7) & Causal(), ALIGNED),
    "both sides": (Near(5), ALIGNED),
    "either": (Either(Causal() & Near(3), Near(1)), ALIGNED),
    "packed and padded": (Causal() & SameDocument() & Valid(), PACKED),
    "padded": (Valid(), PACKED),
    "scattered": (SameDocument(), Sides(places(TOKENS), places(TOKENS), None, DOCUMENTS % 2, DOCUMENTS % 2)),
    "alone": (SameDocument(), Sides(places(TOKENS), places(TOKENS), None, DOCUMENTS, DOCUMENTS + 9)),
}


def gradients(attention: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """The output, and the gradient of a random sum of it, with respect to each input that there is."""
    leaves = [None if x is None else x.clone().requires_grad_() for x in inputs]
    out = attention(*leaves)
    weights = normal(*out.shape, seed=9, dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x for x in leaves if x is not None])]


def by(name: str, mask: Mask, sides: Sides) -> Callable[..., Tensor]:
    """A registered kernel."""

    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return attend(Call(q, k, v, mask, sides, SoftmaxWeighting(SCALE), bias), name)

    return attention


def blocked(mask: Mask, sides: Sides, block: int) -> Callable[..., Tensor]:
    """The blocked one, in blocks of that size."""

    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return blocked_attention(q, k, v, bias, None, SCALE, Plan(mask, sides, block))

    return attention


@pytest.mark.parametrize("block", [1, 4, 16, 128])
@pytest.mark.parametrize("name", MASKS)
def test_it_is_the_reference_whatever_the_mask_and_the_block(name: str, block: int) -> None:
    """Outputs and gradients, with grouped heads and values narrower than keys; queries that see nothing give 0."""
    inputs = normal(ROWS, HEADS, TOKENS, 6), normal(ROWS, 2, TOKENS, 6, seed=1), normal(ROWS, 2, TOKENS, 5, seed=2)
    expected = gradients(by("reference", *MASKS[name]), *inputs)
    found = gradients(blocked(*MASKS[name], block), *inputs)
    for mine, true in zip(found, expected, strict=True):
        if name == "alone":
            assert not mine.any()
        else:
            close(mine, true, 1e-12)


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("groups", [1, 2, HEADS])
def test_biases_and_shared_keys(groups: int, rows: int) -> None:
    """A bias for all rows or one for each has its gradient, too; values wider than keys."""
    inputs = (
        normal(ROWS, HEADS, TOKENS, 3),
        normal(ROWS, groups, TOKENS, 3, seed=1),
        normal(ROWS, groups, TOKENS, 8, seed=2),
        normal(rows, HEADS, TOKENS, TOKENS, seed=3),
    )
    for mask, sides in (MASKS["causal"], MASKS["packed and padded"]):
        expected = gradients(by("reference", mask, sides), *inputs)
        for mine, true in zip(gradients(blocked(mask, sides, 8), *inputs), expected, strict=True):
            close(mine, true, 1e-12)


def test_more_keys_than_queries_and_fewer() -> None:
    """Queries that go on where keys began earlier; and a source of another length."""
    later = Sides(places(10, first=27), places(TOKENS))
    for mask, sides in ((Causal(), later), (Causal() & Near(12), later), (Everything(), later)):
        inputs = normal(2, 2, 10, 4), normal(2, 2, TOKENS, 4, seed=1), normal(2, 2, TOKENS, 4, seed=2)
        for mine, true in zip(
            gradients(blocked(mask, sides, 8), *inputs), gradients(by("reference", mask, sides), *inputs), strict=True
        ):
            close(mine, true, 1e-12)


def test_large_scores_neither_overflow_nor_lose_the_rest() -> None:
    """Scores in the thousands, the largest in the last run: what was summed before shrinks to what it weighs."""
    q, k = torch.full((1, 1, 8, 1), 60.0), torch.arange(8.0).view(1, 1, 8, 1).mul(16)
    sides, v = Sides(places(8), places(8), aligned=True), normal(1, 1, 8, 2, dtype=torch.float32)
    inputs = q.double(), k.double(), v.double()
    close(blocked(Everything(), sides, 1)(*inputs), by("reference", Everything(), sides)(*inputs), 1e-12)
    assert all(bool(x.isfinite().all()) for x in gradients(blocked(Everything(), sides, 1), q, k, v))


def test_in_bf16_it_is_within_its_rounding() -> None:
    """No further from float64 than the reference formula in bf16, twice over; scores and sums are float32."""
    inputs = [normal(1, 2, TOKENS, 8, seed=seed) for seed in (0, 1, 2)]
    narrow = [x.bfloat16() for x in inputs]
    exact = gradients(by("reference", Causal(), ALIGNED), *(x.double() for x in narrow))
    plain = gradients(by("reference", Causal(), ALIGNED), *narrow)
    for mine, theirs, true in zip(gradients(blocked(Causal(), ALIGNED, 16), *narrow), plain, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - true).abs().max() < 2 * (theirs - true).abs().max()


def test_gradients_are_derivatives() -> None:
    """Against differences in float64: dS must be exact, not merely what another kernel says."""
    inputs = [normal(1, 2, 6, 3, seed=seed).requires_grad_() for seed in (0, 1, 2)]
    bias, sides = normal(1, 2, 6, 6, seed=3).requires_grad_(), Sides(places(6), places(6), aligned=True)
    assert torch.autograd.gradcheck(blocked(Causal(), sides, 2), (*inputs, bias))


def test_only_blocks_that_the_mask_leaves_are_computed() -> None:
    """A window's products are counted: 2 blocks of keys for a block of queries, not all 16."""
    seen: list[int] = []
    scores = Plan.scores

    def counted(self: Plan, *args: Any) -> Tensor:
        found = scores(self, *args)
        seen.append(found.numel())
        return found

    sides = Sides(places(64), places(64), aligned=True)
    x = normal(1, 1, 64, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "scores", counted)
        blocked(Causal() & Near(5), sides, 4)(x, x, x)
        assert sum(seen) == 4 * 4 * (1 + 15 * 2)
        seen.clear()
        blocked(Causal(), sides, 4)(x, x, x)
        assert sum(seen) == 4 * 4 * 16 * 17 / 2


def test_aligned_sides_are_decided_without_a_look() -> None:
    """Places that are known tell the same as places that are read; nothing is read of them."""
    read, known = (Sides(places(41), places(41), aligned=aligned) for aligned in (False, True))
    unread = Sides(torch.empty(1, 41, device="meta"), torch.empty(1, 41, device="meta"), aligned=True)
    for mask in (Everything(), Causal(), Near(3), Causal() & Near(20), Either(Causal(), Near(9))):
        for size in (1, 8, 64):
            expected = read.coverage(mask, size, size)
            for sides in (known, unread):
                found = sides.coverage(mask, size, size)
                assert np.array_equal(found.some, expected.some), mask
                assert np.array_equal(found.all, expected.all), mask


def highest(work: Callable[[], object]) -> int:
    """The most bytes that `work` holds at once beyond what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("mask", [Causal(), Causal() & Near(16)], ids=["causal", "window"])
def test_memory_grows_with_the_tokens_not_with_their_square(mask: Mask) -> None:
    taken = []
    for tokens in (128, 256, 512):
        sides = Sides(places(tokens), places(tokens), aligned=True)
        inputs = [normal(1, 2, tokens, 8, seed=seed, dtype=torch.float32) for seed in (0, 1, 2)]
        taken.append(highest(lambda: gradients(blocked(mask, sides, 16), *inputs)))  # noqa: B023 (called at once)
    assert taken[2] - taken[1] == pytest.approx(2 * (taken[1] - taken[0]), rel=0.02)
    assert taken[2] < 2 * 512 * 512, "less than a byte for each of the weights"


def test_a_model_with_windows_foresees_its_memory() -> None:
    """`describe` counts on fake tensors: one pair of tiles stands for all, and nothing is read."""
    block = {"attention": {"n_heads": 2, "mask": {"kind": "window", "size": 32}}, "feedforward": {"width": 16}}
    declared = {"d_model": 16, "max_length": 1024, "vocab_size": 11, "decoder": {"n_layers": 2, "block": block}}
    model, tokens_BT = build(declared).train(), torch.zeros(2, 1024, dtype=torch.long)

    def step() -> None:
        model.heads["lm"].loss(model(tokens_BT).x_BTD, tokens_BT).total.backward()

    parameters = sum(4 * parameter.numel() for parameter in model.parameters())
    expected = highest(step) + 3 * parameters + 2 * tokens_BT.nbytes
    assert training_memory(model.config, 2, 1024).peak == pytest.approx(expected, rel=0.02)


def test_short_rows_go_together_and_long_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result however many rows are computed at once."""
    inputs = [normal(5, 2, 16, 4, seed=seed) for seed in (0, 1, 2)]
    sides = Sides(places(16), places(16), aligned=True)
    expected = gradients(by("reference", Causal(), sides), *inputs)
    for scores, tiles in ((1, 5 * 4), (2 * 2 * 4 * 16, 3 * 4), (2**20, 4)):
        monkeypatch.setattr("weft.nn.blocked.SCORES", scores)
        assert len(Plan(Causal(), sides, 4).tiles(5, 2)) == tiles
        for mine, true in zip(gradients(blocked(Causal(), sides, 4), *inputs), expected, strict=True):
            close(mine, true, 1e-12)


def test_what_it_cannot_do_it_refuses_and_auto_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    q, sides = torch.randn(1, 2, 256, 4), Sides(places(256), places(256), aligned=True)
    monkeypatch.setattr(type(KERNELS["blocked"]), "pays", lambda self, call: True)
    plain = Call(q, q, q, Causal(), sides, SoftmaxWeighting(0.5))
    close(attend(plain), attend(plain, "reference"), 1e-5)
    dropping = Call(q, q, q, Causal(), sides, SoftmaxWeighting(0.5), dropout=0.5)
    with pytest.raises(WeftError, match=r"kernel blocked: it drops no weights \(attention.dropout\)"):
        attend(dropping, "blocked")
    assert attend(dropping).shape == q.shape
    heard: list[str] = []

    def tap(name: str, x: Tensor) -> Tensor:
        heard.append(name)
        return x

    with pytest.raises(WeftError, match="kernel blocked: it keeps no weights"):
        attend(Call(q, q, q, Causal(), sides, SoftmaxWeighting(0.5), tap=tap), "blocked")
    attend(Call(q, q, q, Causal(), sides, SoftmaxWeighting(0.5), tap=tap))
    assert heard == ["weights"]


def test_auto_takes_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """By measurement: under masks that leave little; in bf16 where the chip computes that fast; never when short."""

    def chosen(mask: Mask, tokens: int, dtype: torch.dtype = torch.float32) -> bool:
        x, sides = torch.empty(1, 1, tokens, 4, dtype=dtype), Sides(places(tokens), places(tokens), aligned=True)
        return KERNELS["blocked"].pays(Call(x, x, x, mask, sides, SoftmaxWeighting(0.5)))

    window = Causal() & Near(256)
    assert chosen(window, 4096)
    assert not chosen(window, 256)
    assert not chosen(Causal(), 4096)
    assert not chosen(Causal(), 4096, torch.bfloat16) or kernels.fast_bf16("cpu")
    monkeypatch.setattr(kernels, "fast_bf16", lambda device: True)
    assert chosen(Causal(), 512, torch.bfloat16)
    assert not chosen(Causal(), 64, torch.bfloat16)
    assert not chosen(Causal(), 512)
