"""What a stack does with its layers: weights that several share, branches that training skips, dropout by place."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.config import SLOTS
from weft.errors import ConfigError
from weft.models.build import blank, build
from weft.models.config import ModelConfig
from weft.models.cost import costs, parameter_count, total
from weft.models.describe import describe
from weft.models.transformer import Transformer
from weft.nn import Inputs
from weft.nn.block import hidden_matrices
from weft.nn.stochastic_depth import skip_rows

# --- shared weights ---


@pytest.mark.parametrize(("layers", "share", "groups"), [(3, "all", [0, 0, 0]), (5, 2, [0, 0, 0, 3, 3]),
                                                         (4, 4, [0, 1, 2, 3]), (4, None, [0, 1, 2, 3])])  # fmt: skip
def test_layers_with_the_weights_of_others(layers: int, share: Any, groups: list[int]) -> None:
    """The same as layers whose weights are equal; parameters are counted once, computation and cache at each depth."""
    shared = small({"n_layers": layers, "share": share})
    own = small({"n_layers": layers})
    state = shared.state_dict()
    own.load_state_dict(state)
    x_BT = tokens(shared, 2, 6)
    close(logits(shared, x_BT), logits(own, x_BT), 1e-15)
    one = parameter_count(own.decoder.blocks[0])
    assert parameter_count(own) - parameter_count(shared) == (layers - len(set(groups))) * one
    mine, theirs = total(shared, 24), total(own, 24)
    assert mine.parameters == parameter_count(shared)
    assert (mine.flops, mine.cache) == (theirs.flops, theirs.cache)
    attentions = [block.attention for block in shared.decoder.blocks]
    assert [attentions.index(attention) for attention in attentions] == groups
    cache = shared.new_cache(2)
    logits(shared, x_BT, cache)
    keys = [entry.k_BGSK[:, :, :6] for entry in cache.entries]
    assert len(keys) == layers
    assert not any(torch.equal(keys[0], other) for other in keys[1:]), "each depth keeps its own"


def test_shared_weights_learn_from_every_depth() -> None:
    shared, own = small({"n_layers": 3, "share": "all"}), small({"n_layers": 3})
    own.load_state_dict(shared.state_dict())
    for model in (shared, own):
        model(tokens(model, 2, 6)).logits_BTV.square().sum().backward()
    for name, parameter in shared.decoder.blocks[0].named_parameters():
        grads = [block.get_parameter(name).grad for block in own.decoder.blocks]
        close(parameter.grad, sum(grads), 1e-12)


def test_shared_weights_start_as_the_first_layer_s_and_are_told() -> None:
    declared = {**SIZES, "decoder": {"n_layers": 4, "share": 2}}
    model = build(declared)
    first = build({**SIZES, "decoder": {"n_layers": 4}})
    assert torch.equal(model.decoder.blocks[1].attention.query.weight, first.decoder.blocks[0].attention.query.weight)
    assert torch.equal(model.decoder.blocks[3].attention.query.weight, first.decoder.blocks[2].attention.query.weight)
    assert {path.split(".")[2] for path in hidden_matrices(model)} == {"0", "2"}
    found = describe(ModelConfig.load(declared), length=8)
    rows = {row.path: row.cost.parameters for row in found.rows if row.depth == 1 and "blocks" in row.path}
    one = parameter_count(model.decoder.blocks[0])
    assert rows == {"decoder.blocks.0,2": 2 * one, "decoder.blocks.1,3": 0}
    assert sum(cost.parameters for cost in costs(model, 8).values()) == parameter_count(model)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ({"n_layers": 2, "share": 3}, "share = 3 groups, but there are 2 layers"),
        (
            {"n_layers": 4, "share": "all", "pattern": [{}, {"attention": "none"}]},
            "layers that share their weights are",
        ),
        ({"n_layers": 2, "share": "some"}, r"decoder\.share = 'some': should be `all` or a number of groups of layers"),
        ({"n_layers": 2, "share": True}, r"decoder\.share = True: should be `all` or a number of groups of layers"),
    ],
)
def test_what_cannot_be_shared_is_refused(stack: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.load({"decoder": stack})


def test_groups_of_a_pattern_may_be_alike_inside() -> None:
    layers = {"n_layers": 4, "share": 2, "blocks": ["post", "post", "pre", "pre"]}
    model = blank(ModelConfig.load({**SIZES, "decoder": layers}))
    assert [type(block).__name__ for block in model.decoder.blocks] == ["PostNormBlock"] * 2 + ["PreNormBlock"] * 2


# --- stochastic depth ---


@pytest.mark.parametrize("kind", ["none", "uniform", "linear"])
def test_how_often_a_layer_is_skipped(kind: str) -> None:
    options = {} if kind == "none" else {"share": 0.6}
    part = SLOTS["stochastic_depth"].choose({"kind": kind, **options})
    model = small({"n_layers": 3, "share": "all", "block": {"stochastic_depth": {"kind": kind, **options}}})
    expected = [reference.STOCHASTIC_DEPTH[kind](part.dump(), layer, 3) for layer in (1, 2, 3)]
    assert [block.skipped for block in model.decoder.blocks] == pytest.approx(expected), (
        "at its depth, not its weights'"
    )


def test_rows_are_skipped_by_lot_and_their_mean_stays() -> None:
    one = torch.ones(20_000, 2, 3)
    torch.manual_seed(0)
    found = skip_rows(one, 0.2, training=True)
    torch.manual_seed(0)
    assert torch.equal(skip_rows(one, 0.2, training=True), found)
    assert bool((found == found[:, :1, :1]).all()), "a row as a whole"
    assert sorted(round(float(value), 6) for value in found.unique()) == [0.0, 1.25]
    assert float((found[:, 0, 0] == 0).double().mean()) == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 20_000) ** 0.5)
    assert skip_rows(one, 0.2, training=False) is one
    assert skip_rows(one, 0.0, training=True) is one


@pytest.mark.parametrize("kind", ["pre", "post", "sandwich", "parallel"])
def test_a_skipped_branch_leaves_what_came_in(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose lot is below the share are skipped : x stays, or its norm; the others' branches are doubled."""
    depth = {"kind": "uniform", "share": 0.5}
    model = small({"n_layers": 1, "block": {"kind": kind, "feedforward": "none", "stochastic_depth": depth}})
    block, seen = model.decoder.blocks[0], list[Any]()
    block.register_forward_pre_hook(lambda module, given: seen.append(given))
    logits(model, tokens(model, 3, 5))
    x_BTD, context = seen[0]
    joined: list[Tensor] = []
    monkeypatch.setattr("weft.nn.block.skip_rows", lambda x, share, training: joined.append(x) or x)
    calm = block.eval().mix(x_BTD, context)
    (branch,) = joined
    monkeypatch.undo()
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.tensor([0.49, 0.5, 0.9]).view(shape))
    found = block.train().mix(x_BTD, context)
    norm = block.attention_norm if kind == "post" else torch.nn.Identity()
    close(found[0].detach(), norm(x_BTD[0]).detach(), 1e-15)
    close(found[1:].detach(), norm(x_BTD + 2 * branch)[1:].detach(), 1e-14)
    close(calm.detach(), norm(x_BTD + branch).detach(), 1e-14)
    block.eval()


def test_a_block_without_residuals_has_nothing_to_skip() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.block\.stochastic_depth: no such option"):
        ModelConfig.load({"decoder": {"n_layers": 1, "block": {"kind": "plain", "stochastic_depth": "none"}}})


# --- dropout by place ---

PLACES: dict[str, dict[str, Any]] = {
    "embedding": {"embedding": {"dropout": 0.5}},
    "attention": {"decoder": {"block": {"attention": {"dropout": 0.5}}}},
    "residual": {"decoder": {"block": {"dropout": 0.5}}},
    "inner": {"decoder": {"block": {"feedforward": {"kind": "swiglu", "dropout": 0.5}}}},
    "head": {"heads": {"classifier": {"kind": "classifier", "labels": ["a", "b"], "dropout": 0.5}}},
}


@pytest.mark.parametrize("place", PLACES)
def test_dropout_by_place(place: str) -> None:
    """Given for one place it falls there alone; as the model's, everywhere but inside the feed-forward layer."""
    model = small(**_with_layers(PLACES[place]))
    falls = {
        "embedding": model.decoder.dropout,
        "attention": model.decoder.blocks[0].attention.dropout,
        "residual": model.decoder.blocks[0].dropout,
        "inner": model.decoder.blocks[0].feedforward.dropout,
        "head": model.heads["classifier"].dropout if "classifier" in model.heads else 0.0,
    }
    assert falls == {name: 0.5 if name == place else 0.0 for name in falls}
    assert _random(model)
    whole = small(**{**_with_layers(PLACES[place]), "dropout": 0.25})
    assert whole.decoder.dropout == (0.5 if place == "embedding" else 0.25)
    assert whole.decoder.blocks[0].dropout == (0.5 if place == "residual" else 0.25)


def _with_layers(declared: dict[str, Any]) -> dict[str, Any]:
    return {**declared, "decoder": declared.get("decoder", {})}


def _random(model: Transformer) -> bool:
    """Whether training computes another thing each time, and evaluation the same."""

    def compute() -> Tensor:
        output = model(Inputs(tokens_BT=tokens(model, 2, 6)))
        return (model.heads["classifier"](output.x_BTD) if "classifier" in model.heads else output.x_BTD).detach()

    model.eval()
    same = torch.equal(compute(), compute())
    model.train()
    return same and not torch.equal(compute(), compute())
