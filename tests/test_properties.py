"""Every combination of registered parts has every property of `properties.py`: pairs always, each case with every other
property; with all of them, and 1,500 of the product by lot, in `make test-all`.

The cases come from the registry, so a part is held to all of this by being registered.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import formulas  # noqa: F401 (one more property)
import pytest
import torch
from pairs import PLACES, Pair, by_lot, everything, met, pairwise

from weft.checking import PROPERTIES, Property
from weft.checking.cases import Case, Place, model_of, places, plain_case, smallest, told
from weft.checking.compare import close, logits, tokens
from weft.checking.options import alive
from weft.checking.small import small
from weft.checking.values import is_choice, levels_of, options_of
from weft.config import SLOTS, Part, Section, sections_within
from weft.errors import WeftError
from weft.models.config import ModelConfig, StackConfig, TransformerConfig
from weft.nn import Dims, FeedForward, Linear, Module, Normal, Positions, PositionScheme, Sides


@functools.cache
def pairs() -> tuple[list[Case], dict[Pair, str]]:
    """The cases in which every two levels meet; those that weft refuses are told apart."""
    return pairwise(PLACES)


def failing(cases: list[Case], places: dict[str, Place], holds: Property) -> list[tuple[Case, str]]:
    """The cases in which a property does not hold, and what each says; what is refused does not fail."""
    found = []
    for case in cases:
        try:
            model = model_of(case, places)
        except WeftError:
            continue
        try:
            holds(model)
        except (AssertionError, pytest.fail.Exception) as error:
            found.append((case, str(error).partition("\n")[0]))
    return found


def check(cases: list[Case], places: dict[str, Place], name: str) -> None:
    """Fails with the smallest declaration for which the property does not hold."""
    holds = PROPERTIES[name]
    failures = failing(cases, places, holds)
    if failures:
        case = smallest(failures[0][0], places, lambda case: bool(failing([case], places, holds)))
        ((_, message),) = failing([case], places, holds)
        pytest.fail(f"{name}, {len(failures)} of {len(cases)} cases; the smallest: {told(case, places)}: {message}")


OF_EACH = ("starts_alike", "right_gradients", "bf16_rounds_only", "same_greedy_tokens")
"""What parts cannot spoil for one another, or what another property asks more strictly of all pairs, is looked at in
cases that have every level; what kernels compute, in those that have all pairs that a kernel hears of."""


def covering(cases: list[Case], name: str) -> list[Case]:
    """As few of the cases as have all that this property is to be held to in."""

    def held(case: Case) -> set[Any]:
        if name == "computed_alike":
            heard = [path for path in case if "attention" in path or path in ("decoder.positions", "stacks")]
            return met({path: case[path] for path in heard} | {"decoder.block": case["decoder.block"]}, PLACES)
        return set(case.items())

    if name not in (*OF_EACH, "computed_alike"):
        return cases if everything() else cases[list(PROPERTIES).index(name) % 2 :: 2]
    holding = [held(case) for case in cases]
    found, missing = [], set().union(*holding)
    while missing:
        number = max(range(len(cases)), key=lambda number: len(missing & holding[number]))
        found.append(cases[number])
        missing -= holding[number]
    return found


@pytest.mark.parametrize("name", PROPERTIES)
def test_pairs_of_parts(name: str) -> None:
    check(covering(pairs()[0], name), PLACES, name)


def test_what_is_refused_says_why() -> None:
    cases, refused = pairs()
    for pair, reason in refused.items():
        assert any(word in reason for item in pair for word in item[0].split(".")), f"{pair}: {reason}"
    used = {item for case in cases for pair in met(case, PLACES) for item in pair}
    missing = {(path, level) for path, place in PLACES.items() for level in place.levels} - used
    explained = {item for pair in refused for item in pair}
    assert missing <= explained, "levels that no case has, and nobody says why"
    assert len(used) > len(missing), "nearly everything is refused"


@pytest.mark.slow
def test_product_of_parts_by_lot() -> None:
    for case in by_lot(PLACES, 1500):
        for name in PROPERTIES:
            check([case], PLACES, name)


LAYERS = {
    "patterned": {
        "n_layers": 5,
        "positions": "learned",
        "block": {"attention": {"n_heads": 4}},
        "pattern": [
            {"attention": {"mask": {"kind": "window", "size": 2}, "positions": "rotary"}},
            {"attention": {"n_kv_heads": 1, "positions": {"kind": "rotary", "theta": 30}}, "norm": "rms"},
            {"attention": "none"},
        ],
    },
    "listed": {
        "positions": "rotary",
        "blocks": ["post", {"kind": "pre", "feedforward": "none"}, {"attention": {"n_heads": 2}}],
    },
    "ending in post": {"norm": "rms", "blocks": ["plain", "pre", "post"]},
    "shared": {"n_layers": 3, "share": 2, "positions": "rotary", "block": {"kind": "sandwich"}},
    "biased": {
        "n_layers": 3,
        "positions": {"kind": "t5", "num_buckets": 4, "max_distance": 4},
        "pattern": [
            {"attention": {"n_heads": 2, "positions": "t5"}},
            {"attention": {"mask": {"kind": "window", "size": 3}}},
            {"attention": {"n_kv_heads": 2}},
        ],
    },
}


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", PROPERTIES)
def test_layers_that_differ(name: str, layers: str) -> None:
    PROPERTIES[name](small({"n_layers": None, **LAYERS[layers]}))


# --- options ---


def semantic_options() -> list[Any]:
    """Every semantic option of the model, its stacks and every part: pytest parameters."""
    sections: dict[str, type[Section]] = {"model": TransformerConfig, "stack": StackConfig}
    for place in PLACES.values():
        if place.base is not ModelConfig:
            sections |= {f"{place.base.slot} {kind}": part for kind, part in place.base.kinds.items()}
    return [
        pytest.param(section, name, id=f"{title}: {name}")
        for title, section in sections.items()
        for name in options_of(section)
        if is_choice(section, name)
    ]


@pytest.mark.parametrize(("section", "name"), semantic_options())
def test_semantic_options_change_something(section: type[Section], name: str) -> None:
    has = [case for case in pairs()[0] if any(type(s) is section for _, s in sections_within(model_config(case)))]
    assert has, "no case has this part"
    assert any(alive(model_of(case, PLACES), section, name) for case in has), "changes nothing in any case"


def model_config(case: Case) -> Part:
    return model_of(case, PLACES).config


# --- limit cases ---


@pytest.mark.parametrize("positions", levels_of(SLOTS["positions"], variants=False), ids=lambda level: level["kind"])
def test_grouped_heads_at_their_limits(positions: dict[str, Any]) -> None:
    """As many groups as heads: multi-head. One group: multi-head whose keys and values are all alike."""
    many = small({"positions": positions})
    for groups in (1, 2, 4):
        few = small({"positions": positions, "block": {"attention": {"n_heads": 4, "n_kv_heads": groups}}})
        state = dict(few.state_dict())
        for name in state:
            if name.endswith(("attention.key.weight", "attention.value.weight")):
                heads = state[name].unflatten(0, (groups, 4))
                state[name] = heads.repeat_interleave(4 // groups, dim=0).flatten(0, 1)
        same = copy.deepcopy(many)
        same.load_state_dict(state)
        close(logits(few, tokens(few, 2, 7)), logits(same, tokens(few, 2, 7)))


def test_a_window_as_long_as_the_text_is_full() -> None:
    full, *windows = [
        small({"block": {"attention": {"mask": mask}}})
        for mask in ("none", *({"kind": "window", "size": size} for size in (7, 100, 6)))
    ]
    x_BT = tokens(full, 2, 7)
    for window in windows[:2]:
        close(logits(window, x_BT), logits(full, x_BT))
    short = logits(windows[2], x_BT)
    close(short[:, :6], logits(full, x_BT)[:, :6])
    assert (short[:, 6] - logits(full, x_BT)[:, 6]).abs().max() > 1e-6, "the seventh token no longer sees the first"


# --- the matrix itself ---


class _Broken(Module):
    """A feed-forward layer with faults to choose from."""

    def __init__(self, dims: Dims, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.up = Linear(dims.d_model, dims.d_model, Normal(0.5))
        if fault == "idle":
            self.idle = Linear(2, 2, Normal(0.5))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        if self.fault == "leaks":
            x_BTD = x_BTD + x_BTD.mean(1, keepdim=True)
        if self.fault == "mixes rows":
            x_BTD = x_BTD - x_BTD.mean(0, keepdim=True)
        return self.up(x_BTD)


def broken(fault: str) -> None:
    """Registers such a layer."""

    class Broken(FeedForward, kind="broken"):
        strength: float = 1.0

        def build(self, dims: Dims) -> Module:
            return _Broken(dims, fault)


@pytest.mark.parametrize(
    ("fault", "name"),
    [("leaks", "causal"), ("leaks", "cached"), ("mixes rows", "rows_alone"), ("idle", "every_parameter_learns")],
)
def test_a_new_part_is_held_to_all_by_being_registered(own_parts: None, fault: str, name: str) -> None:
    broken(fault)
    where = places()
    level = '{"kind": "broken"}'
    assert level in where["decoder.block.feedforward"].levels
    case = {
        **plain_case(where),
        "decoder.block.feedforward": level,
        "decoder.positions": '{"kind": "rotary"}',
        "embedding": '{"kind": "tokens", "tied": false}',
    }
    with pytest.raises(
        pytest.fail.Exception, match=r"the smallest: decoder\.block\.feedforward=\{\"kind\": \"broken\"\}: "
    ):
        check([case], where, name)


def test_a_scheme_that_biases_scores(own_parts: None) -> None:
    """A bias so steep that it hides what is further than one token away: a window of two, with every property."""

    class Steep(Positions, kind="steep"):
        def build(self, dims: Dims) -> PositionScheme:
            return _Steep()

    steep = small({"positions": "steep", "block": {"attention": {"n_kv_heads": 2}}})
    window = {"n_kv_heads": 2, "mask": {"kind": "window", "size": 2}}
    close(
        logits(steep, tokens(steep, 2, 7)),
        logits(small({"positions": "none", "block": {"attention": window}}), tokens(steep, 2, 7)),
    )
    for holds in PROPERTIES.values():
        holds(steep)


class _Steep(PositionScheme):
    def bias(self, sides: Sides, n_heads: int, dtype: torch.dtype) -> torch.Tensor:
        far_BTS = (sides.q_index_BT[:, :, None] - sides.k_index_BS[:, None, :]).abs() >= 2
        return -1e4 * far_BTS[:, None].expand(-1, n_heads, -1, -1).to(dtype)


def test_a_new_part_s_dead_option_is_found(own_parts: None) -> None:
    broken("")
    where = places()
    case = {**plain_case(where), "decoder.block.feedforward": '{"kind": "broken"}'}
    assert not alive(model_of(case, where), SLOTS["feedforward"].kinds["broken"], "strength")
    assert alive(model_of(case, where), TransformerConfig, "init_std")
