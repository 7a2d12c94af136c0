"""An attention's own options: biases by matrix, gates, head widths of their own, dropout, capped scores and sinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.config import SLOTS
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.cost import total
from weft.models.transformer import Transformer
from weft.nn import KERNELS, Call, Dims, DotProductAttention, attend, listen
from weft.nn.blocked import Plan, blocked_attention
from weft.nn.masks import Causal, Everything, Mask, Near, SameDocument, Valid
from weft.nn.scores import SinkWeighting, SoftmaxWeighting
from weft.nn.sides import Sides

ROWS, HEADS, TOKENS = 3, 4, 37
PLACES = torch.arange(TOKENS)[None]
ALIGNED = Sides(PLACES, PLACES, aligned=True)
DOCUMENTS = torch.stack([PLACES[0] // 9, PLACES[0] // 20, PLACES[0] * 0])
VALID = torch.stack([PLACES[0] < 30, PLACES[0] < 0, PLACES[0] >= 20])  # row 1 sees nothing
PACKED = Sides(PLACES, PLACES, VALID, DOCUMENTS, DOCUMENTS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(**options: Any) -> Transformer:
    return small({"block": {"attention": options}})


# --- biases ---


def test_biases_by_matrix_in_their_shortest_form() -> None:
    choose = SLOTS["attention"].choose
    for given, kept in (
        (True, True),
        (False, False),
        ([], False),
        (["output", "query", "value", "key"], True),
        (["value", "query", "key"], ["query", "key", "value"]),
    ):
        part = choose({"bias": given})
        assert part.dump()["bias"] == kept
        assert choose(part.dump()) == part
    for wrong in (["query", "gate"], "query", 1):
        with pytest.raises(WeftError, match=r"attention\.bias = .*: should be true, false, or a list of some of"):
            ModelConfig.load({"decoder": {"block": {"attention": {"bias": wrong}}}})
    config = ModelConfig.load({}, "decoder.block.attention.bias=[query, key, value]")
    assert config.dump()["decoder"]["block"]["attention"]["bias"] == ["query", "key", "value"]


@pytest.mark.parametrize("bias", [["query"], ["key", "value"], ["output"], True])
def test_a_bias_stands_where_it_is_named(bias: Any) -> None:
    model = attention(n_kv_heads=2, bias=bias)
    names = [path.split(".")[-2] for path, _ in model.decoder.blocks[0].attention.named_parameters() if ".bias" in path]
    assert names == [name for name in ("query", "key", "value", "output") if bias is True or name in bias]


# --- gates ---


@pytest.mark.parametrize(("kind", "width"), [("elementwise", 4), ("headwise", 1)])
def test_a_gate_hands_on_shares(kind: str, width: int) -> None:
    """With a projection of zeros every share is a half, as if the output matrix were half as large."""
    gated, plain = attention(gate=kind), attention()
    x_BT, heard = tokens(gated, 2, 6), list[Tensor]()
    state = gated.state_dict()
    for layer in (0, 1):
        path = f"decoder.blocks.{layer}.attention"
        assert state[f"{path}.output_gate.projection.weight"].shape == (4 * width, 16)
        state[f"{path}.output_gate.projection.weight"] = torch.zeros(4 * width, 16)
        state[f"{path}.output.weight"] = 2 * state[f"{path}.output.weight"]
    with listen(gated, "*.shares", lambda path, shares: heard.append(shares)):
        logits(gated, x_BT)
    assert heard[0].shape == (2, 4, 6, width)
    gated.load_state_dict(state)
    close(logits(gated, x_BT), logits(plain, x_BT), 1e-12)


def test_gates_and_sinks_cost_what_they_have() -> None:
    whole = total(attention(), 8)
    assert total(attention(score={"sinks": True}), 8).parameters == whole.parameters + 2 * 4
    for kind, rows in (("elementwise", 16), ("headwise", 4)):
        more = total(attention(gate=kind), 8)
        assert more.parameters == whole.parameters + 2 * 16 * rows
        assert more.flops == whole.flops + 2 * 2 * 16 * rows


# --- widths and dropout ---


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "width"), [(3, 1, 10), (5, 5, 2), (7, 7, 6)])
def test_heads_need_not_share_the_width_of_the_model(n_heads: int, n_kv_heads: int, width: int) -> None:
    """16 channels in 3 heads of 10: nothing divides; cached = at once, and every kernel agrees."""
    model = attention(n_heads=n_heads, n_kv_heads=n_kv_heads, head_width=width)
    x_BT, block = tokens(model, 2, 7), model.decoder.blocks[0].attention
    assert block.query.weight.shape == (n_heads * width, 16)
    assert block.output.weight.shape == (16, n_heads * width)
    assert block.key.weight.shape == (n_kv_heads * width, 16)
    cache, whole = model.new_cache(2), logits(model, x_BT)
    close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(2, dim=1)], dim=1), whole)
    for kernel in ("blocked", "sdpa", "reference"):
        same = attention(n_heads=n_heads, n_kv_heads=n_kv_heads, head_width=width, kernel=kernel)
        close(logits(same, x_BT), whole)
    with pytest.raises(WeftError, match=f"n_heads = {n_heads} does not divide d_model = 16; or give head_width"):
        attention(n_heads=n_heads, n_kv_heads=n_kv_heads)


@pytest.mark.parametrize("options", [{}, {"score": {"sinks": True}}, {"gate": "headwise"}], ids=str)
def test_dropout_drops_weights_in_training_only(options: dict[str, Any]) -> None:
    """On average nothing is lost: what is kept is divided by its share."""
    plain, dropping = attention(**options), attention(dropout=0.4, **options)
    x_BT = tokens(plain, 1, 5)
    close(logits(dropping, x_BT), logits(plain, x_BT), 1e-14)
    mixed: dict[str, list[Tensor]] = {"plain": [], "dropping": []}
    torch.manual_seed(0)
    for name, model in {"plain": plain, "dropping": dropping.train()}.items():
        with listen(
            model, "decoder.blocks.0.attention.mixed", lambda path, value, kept=mixed[name]: kept.append(value)
        ):
            logits(model, x_BT.expand(4000, -1))
    (expected,), (found,) = mixed["plain"], mixed["dropping"]
    spread = found.std(0) / 4000**0.5
    assert spread.min() > 0
    assert ((found.mean(0) - expected[0]).abs() / spread).max() < 5


# --- capped scores and sinks ---


def weighting(cap: float | None, sinks: Tensor | None) -> SoftmaxWeighting:
    if sinks is None:
        return SoftmaxWeighting(0.3, cap)
    made = SinkWeighting(0.3, cap, len(sinks)).double()
    made.sinks.data = sinks
    return made


def gradients(compute: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradient of a random sum of it with respect to each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = compute(*leaves)
    return [out.detach(), *torch.autograd.grad((out * normal(*out.shape, seed=9)).sum(), leaves)]


def reference(mask: Mask, sides: Sides, cap: float | None) -> Callable[..., Tensor]:
    """The formula, with the sinks as leaves of their own."""

    def compute(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, sinks: Tensor | None = None) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = 0.3 * q @ k.mT
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        powers = (scores + bias).exp() * sides.dense(mask)
        rest = 0 if sinks is None else sinks.exp()[:, None, None]
        return powers / (powers.sum(-1, keepdim=True) + rest).clamp(min=1e-300) @ v

    return compute


@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("cap", [None, 0.8])
@pytest.mark.parametrize("block", [4, 128])
def test_blocked_caps_and_sinks(block: int, cap: float | None, sunk: bool) -> None:
    """Outputs and gradients, with a bias, shared keys, documents and padding; queries that see nothing give 0."""
    inputs = [normal(ROWS, HEADS, TOKENS, 6), normal(ROWS, 2, TOKENS, 6, seed=1), normal(ROWS, 2, TOKENS, 5, seed=2)]
    inputs += [normal(1, HEADS, TOKENS, TOKENS, seed=3), *([normal(HEADS, seed=4)] if sunk else [])]
    for mask, sides in (
        (Causal(), ALIGNED),
        (Causal() & SameDocument() & Valid(), PACKED),
        (Causal() & Near(5), ALIGNED),
    ):
        plan = Plan(mask, sides, block, cap)

        def compute(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, sinks: Tensor | None = None) -> Tensor:
            return blocked_attention(q, k, v, bias, sinks, 0.3, plan)  # noqa: B023 (called at once)

        found, expected = gradients(compute, *inputs), gradients(reference(mask, sides, cap), *inputs)
        for mine, true in zip(found, expected, strict=True):
            close(mine, true, 1e-12)


def test_kernels_agree_on_caps_and_sinks() -> None:
    inputs = [normal(ROWS, HEADS, TOKENS, 6), normal(ROWS, 2, TOKENS, 6, seed=1), normal(ROWS, 2, TOKENS, 5, seed=2)]
    bias = normal(1, HEADS, TOKENS, TOKENS, seed=3)
    for sinks in (None, normal(HEADS, seed=4)):
        call = Call(*inputs, Causal() & SameDocument() & Valid(), PACKED, weighting(0.8, sinks), bias)
        plain = [*inputs, bias, *([] if sinks is None else [sinks])]
        for kernel in ("reference", "blocked"):
            close(attend(call, kernel).detach(), reference(call.mask, PACKED, 0.8)(*plain), 1e-12)


def test_gradients_are_derivatives() -> None:
    """Of a tiny one against differences: capped, with sinks, by blocks and by the formula."""
    places = torch.arange(5)[None]
    sides, mask = Sides(places, places, aligned=True), Causal()
    inputs = [normal(1, 2, 5, 2, seed=seed).requires_grad_() for seed in (0, 1, 2)]
    bias, sinks = normal(1, 2, 5, 5, seed=3).requires_grad_(), normal(2, seed=4).requires_grad_()
    plan = Plan(mask, sides, 2, 0.8)
    assert torch.autograd.gradcheck(lambda *x: blocked_attention(*x, 0.3, plan), (*inputs, bias, sinks))
    held = weighting(0.8, sinks.detach())
    call = torch.func.functional_call

    def formula(sinks: Tensor, scores: Tensor) -> Tensor:
        return call(_Weights(held), {"held.sinks": sinks}, (scores,))

    assert torch.autograd.gradcheck(formula, (sinks, normal(1, 2, 5, 5, seed=5).requires_grad_()))


class _Weights(torch.nn.Module):
    def __init__(self, held: SinkWeighting) -> None:
        super().__init__()
        self.held = held

    def forward(self, products: Tensor) -> Tensor:
        return self.held.weights(self.held.scores(products), torch.ones(5, 5, dtype=torch.bool).tril())


def test_limits() -> None:
    """A sink of minus infinity and a cap of a million are nothing; a sink of plus infinity takes all."""
    products, allowed = normal(2, HEADS, 5, 5), torch.ones(5, 5, dtype=torch.bool).tril()

    def weights(cap: float | None, sink: float | None) -> Tensor:
        held = weighting(cap, None if sink is None else torch.full((HEADS,), sink, dtype=torch.float64))
        return held.weights(held.scores(products), allowed).detach()

    plain = weights(None, None)
    close(weights(None, -1e3), plain, 1e-14)
    close(weights(1e6, None), plain, 1e-10)
    assert not weights(None, 1e3).any()
    softmax1 = weights(None, 0.0)
    sums = (0.3 * products).exp().masked_fill(~allowed, 0).sum(-1)
    close(softmax1.sum(-1), sums / (1 + sums), 1e-12)
    close(weighting(0.8, None).scores(1e9 * products), 0.8 * products.sign(), 1e-12)


def test_a_kernel_that_lacks_it_is_refused_when_the_model_is_built() -> None:
    for score, reason in (({"cap": 5}, r"it caps no scores \(score.cap\)"), ({"sinks": True}, r"it has no sinks")):
        with pytest.raises(WeftError, match=rf"^attention\.kernel: sdpa: {reason}.*`auto` chooses"):
            attention(score=score, kernel="sdpa")
        for kernel in ("reference", "blocked"):
            attention(score=score, kernel=kernel)
    with pytest.raises(WeftError, match=r"^attention\.kernel: flex: it has no sinks \(score\.sinks\)"):
        attention(score={"sinks": True}, kernel="flex")
    attention(score={"cap": 5}, kernel="flex")


def test_auto_chooses_one_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked for long texts, the reference for short ones; a score of somebody's own is left to the reference."""
    used: list[str] = []
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(type(kernel), "__call__", lambda self, call, name=name: used.append(name) or call.q_BHTK)

    class Own(SoftmaxWeighting):
        def weights(self, scores_BHTS: Tensor, allowed: Tensor) -> Tensor:
            return scores_BHTS.sigmoid() * allowed

    for length in (8, 512):
        x, places = torch.zeros(1, HEADS, length, 2), torch.arange(length)[None]
        for held in (weighting(None, None), weighting(5.0, None), weighting(None, torch.zeros(HEADS)), Own(0.3)):
            attend(Call(x, x, x, Everything(), Sides(places, places, aligned=True), held))
    assert used == ["sdpa", "reference", "reference", "reference", "sdpa", "blocked", "blocked", "reference"]


def test_sinks_are_parameters_that_start_at_zero_and_learn() -> None:
    config = {**SIZES, "decoder": {"n_layers": 1, "block": {"attention": {"score": {"sinks": True}}}}}
    model = build(config)
    sinks = model.get_parameter("decoder.blocks.0.attention.weighting.sinks")
    assert sinks.shape == (4,)
    assert not sinks.any()
    model.heads["lm"].loss(model(tokens(model, 2, 6)).x_BTD, tokens(model, 2, 6, seed=1)).total.backward()
    assert bool((sinks.grad != 0).all())
    made = SLOTS["attention"].choose({"score": {"sinks": True}}).build(Dims(8, 9, 7), SLOTS["positions"].choose("none"))
    assert isinstance(made, DotProductAttention)
