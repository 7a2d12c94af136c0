"""Every part against its paper's formula (in `reference/`) in float64: outputs and gradients to 1e-10."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import Tensor, nn

from weft.checking.values import levels_of
from weft.config import SLOTS
from weft.nn import (
    IGNORE,
    KERNELS,
    Across,
    Call,
    Causal,
    Context,
    Dims,
    Either,
    Everything,
    Lm,
    Mask,
    Memory,
    Near,
    PositionScheme,
    SameDocument,
    Sides,
    Tokens,
    Valid,
    attend,
)
from weft.nn.scores import SoftmaxWeighting

DIMS = Dims(d_model=8, max_length=9, vocab_size=7, heads=frozenset({2}))
Array = np.ndarray


def levels(slot: str) -> list[Any]:
    """pytest parameters: each kind of a slot, plain and with one option changed."""
    own = [level for level in levels_of(SLOTS[slot]) if SLOTS[slot].kinds[level["kind"]].__module__[:5] == "weft."]
    return [pytest.param(level, id=" ".join(map(str, level.values()))) for level in own]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(module: nn.Module) -> nn.Module:
    """In float64, dropping nothing, with values that are neither 0 nor 1 nor unset."""
    module = module.double().eval()
    for index, parameter in enumerate(module.parameters()):
        parameter.data = normal(100 + index, *parameter.shape)
    return module


def close(found: Tensor, expected: Any, tolerance: float = 1e-10) -> None:
    expected = torch.as_tensor(np.real(np.asarray(expected)))
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-3, "nothing to compare"
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def compare(
    module: nn.Module | None,
    compute: Callable[[Tensor], Tensor],
    formula: Callable[[Mapping[str, Array], Array], Array],
    x: Tensor,
) -> None:
    """Outputs, and the derivative of a weighted sum of them along a random direction of x and of each parameter."""
    x = x.clone().requires_grad_()
    held = {"x": x, **dict(module.named_parameters() if module is not None else [])}
    arrays = {name: tensor.detach().numpy() for name, tensor in held.items()}
    out = compute(x)
    close(out.detach(), formula(arrays, arrays["x"]))
    weights = normal(7, *out.shape)
    grads = torch.autograd.grad((out * weights).sum(), list(held.values()))
    for index, (name, grad) in enumerate(zip(held, grads, strict=True)):
        direction = normal(50 + index, *grad.shape)
        exact = reference.slope(
            lambda at: np.sum(weights.numpy() * formula(at, at["x"])), arrays, {name: direction.numpy()}
        )
        assert float((grad * direction).sum()) == pytest.approx(exact, rel=1e-10, abs=1e-10), f"gradient of {name}"


def test_every_part_of_weft_has_a_reference() -> None:
    for slot, base in SLOTS.items():
        for kind, part in base.kinds.items():
            if part.__module__.startswith(("weft.nn.", "weft.models.")):
                assert kind in reference.REFERENCES[slot], f"tests/reference has no {slot} {kind}"


@pytest.mark.parametrize("level", levels("norm"))
def test_norm(level: dict[str, Any]) -> None:
    part = SLOTS["norm"].choose(level)
    module, formula = stirred(part.build(DIMS)), reference.NORMS[part.kind]
    compare(module, module, lambda at, x: np.array([formula(part.dump(), at, row) for row in x]), normal(1, 4, 8))


@pytest.mark.parametrize("level", [*levels("feedforward"), pytest.param({"kind": "gelu", "approximate": "quick"})])
def test_feedforward(level: dict[str, Any]) -> None:
    part = SLOTS["feedforward"].choose(level)
    built, formula = part.build(DIMS), reference.FEEDFORWARDS[part.kind]
    if formula is None:
        assert built is None
        return
    module = stirred(built)
    compare(module, module, lambda at, x: np.array([formula(part.dump(), at, row) for row in x]), normal(1, 3, 8))


SCALED = [{"kind": "rotary", "scaling": level.values[0]} for level in levels("scaling")]
MIXED = [{"kind": "rotary", "share": 0.5, "layout": "interleaved", "scaling": SCALED[-1]["scaling"]},
         {"kind": "t5", "num_buckets": 6, "max_distance": 7}]  # fmt: skip


@pytest.mark.parametrize(
    "level", [*levels("positions"), *(pytest.param(level, id=str(level)) for level in SCALED + MIXED)]
)
def test_positions(level: dict[str, Any]) -> None:
    """What is added to vectors and to scores, whatever was learned; what turns queries and keys."""
    part = SLOTS["positions"].choose(level)
    scheme, formula, places = stirred(part.build(DIMS)), reference.POSITIONS[part.kind], [5, 0, 3, 8]
    places_BT, pairs = torch.tensor([places]), [(query, key) for query in places for key in places]

    def add(x: Tensor) -> Tensor:
        bias = scheme.bias(Sides(places_BT, places_BT), 2, torch.float64)
        return torch.cat([scheme.embed(x, places_BT).flatten(), torch.zeros(32) if bias is None else bias.flatten()])

    def added(at: Mapping[str, Array], x: Array) -> Array:
        vectors = [formula.embed(part.dump(), at, row, place) for row, place in zip(x[0], places, strict=True)]
        biases = [formula.bias(part.dump(), at, head, 2, *pair, causal=True) for head in (0, 1) for pair in pairs]
        return np.concatenate([np.array(vectors).flatten(), np.array(biases)])

    def rotate(at: Mapping[str, Array], x: Array) -> Array:
        turned = [[formula.rotate(part.dump(), *at, 9) for at in zip(head, places, strict=True)] for head in x[0]]
        return np.array(turned)

    compare(scheme, add, added, normal(1, 1, 4, 8))
    prepared = scheme.prepare(places_BT, 8)
    for side in (0, 1):  # queries, keys
        compare(None, lambda x, side=side: scheme.rotate(x, x, prepared)[side][0], rotate, normal(2, 1, 2, 4, 8))


@pytest.mark.parametrize("level", levels("score"))
def test_score(level: dict[str, Any]) -> None:
    """Two heads, three queries, four keys; some have a score among their parameters."""
    part = SLOTS["score"].choose(level)
    weighting, formula = part.build(4, 2), reference.SCORES[part.kind]
    learned = stirred(weighting) if isinstance(weighting, nn.Module) else None
    allowed = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    biases = normal(2, 2, 3, 4)

    def weights(at: Mapping[str, Array], x: Array) -> Array:
        out = np.zeros((1, 2, 3, 4), dtype=complex)
        for head, t in np.ndindex(2, 3):
            products = {s: x[0, head, t, s] for s in range(4) if allowed[t, s]}
            sink = at["sinks"][head] if "sinks" in at else None
            for s, weight in formula(part.dump(), products, 4, dict(enumerate(biases[head, t].tolist())), sink).items():
                out[0, head, t, s] = weight
        return out

    compare(
        learned, lambda x: weighting.weights(weighting.scores(x) + biases, allowed), weights, 3 * normal(1, 1, 2, 3, 4)
    )
    nobody = weighting.weights(normal(1, 1, 2, 2, 4), torch.zeros(2, 4, dtype=torch.bool))
    assert not nobody.any(), "a query that sees nothing has no weights"


@pytest.mark.parametrize("level", levels("mask"))
def test_mask(level: dict[str, Any]) -> None:
    """In a decoder, and in an encoder; three tokens are a prefix."""
    part = SLOTS["mask"].choose(level)
    queries, keys = [4, 0, 2, 7, 1], [0, 1, 2, 3, 4, 6]
    prefixes = [torch.tensor([[place < 3 for place in places]]) for places in (queries, keys)]
    sides = Sides(torch.tensor([queries]), torch.tensor([keys]), None, None, None, False, *prefixes)
    formula = reference.MASKS[part.kind]
    for order in (Causal(), Everything()) if part.kind != "prefix" else (Causal(),):
        expected = [
            [formula(part.dump(), q, k, k <= q or order == Everything(), max(q, k) < 3) for k in keys] for q in queries
        ]
        assert sides.dense(part.build(DIMS, order))[0, 0].tolist() == expected


def check_attention(level: dict[str, Any], positions: Any, kernel: str) -> None:
    """Self-attention over two sequences, in the context that a causal stack makes for it."""
    part = SLOTS["attention"].choose({**level, "kernel": kernel})
    module, x_BTD = stirred(part.build(DIMS, positions)).eval(), normal(1, 2, 5, 8)
    places_BT = torch.arange(5)[None]
    scheme = positions.build(DIMS)
    prepared = {module.prepared_key: (module.scheme or scheme).prepare(places_BT, module.width)}
    context = Context(Everything(), Sides(places_BT, places_BT, aligned=True), scheme, prepared)

    def formula(at: Mapping[str, Array], x: Array) -> Array:
        return np.array([reference.attention(part.dump(), at, row, positions.dump()) for row in x])

    compare(module, lambda x: module(x, context), formula, x_BTD)


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("level", [level for level in levels("attention") if level.values[0]["kind"] != "none"])
def test_attention(level: dict[str, Any], kernel: str) -> None:
    check_attention(level, SLOTS["positions"].choose("rotary" if level.get("head_width") != 1 else "none"), kernel)


ACROSS = [level for level in levels("attention") if level.values[0]["kind"] != "none"]
SLOTTED = {"kind": "dot-product", "n_kv_heads": 2, "qk_norm": "layer", "gate": "headwise", "score": {"sinks": True}}


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("level", [*ACROSS, pytest.param(SLOTTED, id="slotted")])
def test_cross_attention(level: dict[str, Any], kernel: str) -> None:
    """Three queries to memories of unequal lengths: every query sees all that is valid, wherever it stands."""
    part = SLOTS["attention"].choose({**level, "kernel": kernel})
    module = stirred(part.build_across(DIMS)).eval()
    valid_BS = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 0, 1]], dtype=torch.bool)
    places = torch.arange(3)[None], torch.arange(5)[None]
    self_sides, sides = Sides(places[0], places[0], aligned=True), Sides(*places, valid_BS)
    memory_BSD, x_BTD = normal(2, 2, 5, 8), normal(1, 2, 3, 8)

    def compute(both: Tensor) -> Tensor:
        memory = Memory(both[:, 3:], valid_BS)
        context = Context(Everything(), self_sides, PositionScheme(), {}, Across(Valid(), sides), memory)
        return module(both[:, :3], context)

    def formula(at: Mapping[str, Array], both: Array) -> Array:
        rows = zip(both, valid_BS.numpy(), strict=True)
        return np.array([reference.cross_attention(part.dump(), at, row[:3], row[3:][kept]) for row, kept in rows])

    compare(module, compute, formula, torch.cat([x_BTD, memory_BSD], dim=1))


@pytest.mark.parametrize("slot", ["score", "mask", "gate", "positions", "qk_norm"])
def test_attention_with(slot: str) -> None:
    """Each choice of its own slots, with grouped heads and biases."""
    for choice in levels_of(SLOTS["norm" if slot == "qk_norm" else slot]):
        level = {"kind": "dot-product", "n_heads": 2, "n_kv_heads": 1, "bias": True, slot: choice}
        if choice["kind"] not in ("learned", "sinusoidal"):  # act where a stack begins, not in an attention
            check_attention(level, SLOTS["positions"].choose("none"), "auto")


@pytest.mark.parametrize("kernel", sorted({*KERNELS} - {"flex"}))
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernel(kernel: str, biased: bool, groups: int) -> None:
    """Rows of unequal lengths (one of padding only), documents, a bias, shared key heads, values wider than keys."""
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 2, 2]])
    valid = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    places = torch.arange(5)[None]
    sides = Sides(places, places, valid, documents, documents)
    bias = normal(4, 3, 4, 5, 5) if biased else None
    allowed = [
        [[s <= t and bool(valid[b, s]) and documents[b, s] == documents[b, t] for s in range(5)] for t in range(5)]
        for b in range(3)
    ]
    k, v = normal(2, 3, groups, 5, 2), normal(3, 3, groups, 5, 3)

    def compute(q: Tensor) -> Tensor:
        mask = Causal() & SameDocument() & Valid()
        return attend(Call(q, held.k, held.v, mask, sides, SoftmaxWeighting(0.7), getattr(held, "bias", None)), kernel)

    def formula(at: Mapping[str, Array], q: Array) -> Array:
        out = np.zeros((3, 4, 5, 3), dtype=complex)
        for b, h, t in np.ndindex(3, 4, 5):
            seen = [s for s in range(5) if allowed[b][t][s]]
            added = at["bias"][b, h, t] if biased else np.zeros(5)
            powers = [np.exp(0.7 * np.sum(q[b, h, t] * at["k"][b, h * groups // 4, s]) + added[s]) for s in seen]
            for power, s in zip(powers, seen, strict=True):
                out[b, h, t] += power / sum(powers) * at["v"][b, h * groups // 4, s]
        return out

    held = nn.ParameterDict({"k": k, "v": v, **({"bias": bias} if bias is not None else {})})
    compare(held, compute, formula, normal(1, 3, 4, 5, 2))


@pytest.mark.parametrize("kernel", sorted({*KERNELS} - {"blocked", "flex"}))
def test_kernel_drops_weights(kernel: str) -> None:
    """One key each: its weight 1 is dropped, or divided by the share that is kept."""
    one, places = torch.ones(20_000, 1, 1, 1), torch.zeros(1, 1, dtype=torch.long)
    torch.manual_seed(0)
    call = Call(one, one, one, Everything(), Sides(places, places), SoftmaxWeighting(1.0), dropout=0.2)
    kept = attend(call, kernel) > 0
    close(attend(call, kernel).unique(), [0.0, 1 / 0.8], 1e-6)
    assert float(kept.double().mean()) == pytest.approx(0.8, abs=5 * (0.8 * 0.2 / 20_000) ** 0.5)


def test_masks_combine_and_tell_what_they_cover() -> None:
    """`coverage` of every block agrees with the pairs themselves, and tells uniform blocks of simple masks."""
    places = torch.arange(8)[None]
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 2, 2, 2, 2, 2]])
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    sides = Sides(places, places, valid, documents, documents)
    simple: list[Mask] = [Everything(), Causal(), Near(1), Near(2), Near(3), SameDocument(), Valid()]
    dense = {mask: sides.dense(mask).expand(2, 1, 8, 8) for mask in simple}
    for one in simple:
        for other in simple:
            assert torch.equal(sides.dense(one & other).expand(2, 1, 8, 8), dense[one] & dense[other])
            assert torch.equal(sides.dense(one | other).expand(2, 1, 8, 8), dense[one] | dense[other])
    for mask in [*simple, *(a & b for a in simple for b in simple), *(Either(a, b) for a in simple for b in simple)]:
        pairs, blocks = sides.dense(mask).expand(2, 1, 8, 8), sides.coverage(mask, 2, 3)
        some, full = (np.broadcast_to(flags, (2, 4, 3)) for flags in (blocks.some, blocks.all))
        for row, i, j in np.ndindex(2, 4, 3):
            inside = pairs[row, 0, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]  # of the last keys there are only two
            assert some[row, i, j] or not inside.any(), f"{mask} {row, i, j}"
            assert inside.all() or not full[row, i, j], f"{mask} {row, i, j}"
            if mask in simple:
                assert (some[row, i, j], full[row, i, j]) == (inside.any(), inside.all()), f"{mask} {row, i, j}"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_head_and_its_loss(bias: bool, chunk: int) -> None:
    """Summed cross-entropy over the targets that count, in chunks or at once."""
    head = stirred(Lm(bias=bias).build(DIMS, Tokens(tied=False).build(DIMS)))
    targets_BT, x_BTD = torch.tensor([[0, 6, IGNORE, 3], [2, IGNORE, 5, 1]]), normal(1, 2, 4, 8)

    def nats(at: Mapping[str, Array], x: Array) -> Array:
        shift = at["projection.bias"] if bias else 0
        each = [
            reference.loss(np.array([at["projection.weight"] @ row + shift]), [target]) if target != IGNORE else 0.0
            for row, target in zip(x.reshape(-1, 8), targets_BT.flatten().tolist(), strict=True)
        ]
        return np.array(each).reshape(2, 4)

    compare(
        head, lambda x: head.loss(x, targets_BT, chunk).total[None], lambda at, x: np.array([nats(at, x).sum()]), x_BTD
    )
    arrays = {name: parameter.detach().numpy() for name, parameter in head.named_parameters()}
    close(head.losses(x_BTD, targets_BT, chunk), nats(arrays, x_BTD.numpy()))
    assert head.loss(x_BTD, targets_BT, chunk).count == 6
