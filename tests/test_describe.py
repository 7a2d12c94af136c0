"""What is told of a model before it runs is what it then is and takes: counted, measured, and read by a person."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from weft.errors import WeftError
from weft.models.build import blank, build
from weft.models.config import ModelConfig
from weft.models.cost import (
    by_section,
    by_slot,
    cache_bytes,
    costs,
    generation_memory,
    parameter_count,
    total,
    training_flops,
    training_memory,
)
from weft.models.describe import Description, describe, ranges
from weft.nn import Cost
from weft.nn.feedforward import WideLayer

SMALL: dict[str, Any] = {
    "d_model": 32,
    "max_length": 64,
    "vocab_size": 300,
    "decoder": {"n_layers": 2, "positions": "rotary", "block": {"attention": {"n_heads": 4, "n_kv_heads": 2}}},
}
WINDOWS = ["decoder.n_layers=3", "decoder.pattern=[{attention: {mask: {kind: window, size: 16}}}, {}]"]
VARIANTS = {
    "as it is": [],
    "learned, biases, not tied": [
        "decoder.positions=learned",
        "decoder.block.attention.bias=true",
        "decoder.block.feedforward.bias=true",
        "embedding.tied=false",
        "heads={lm: {bias: true}}",
    ],
    "swiglu, rms, post": [
        "decoder.block.kind=post",
        "decoder.block.feedforward=swiglu",
        "decoder.norm=rms",
    ],
    "no attention in every second layer": ["decoder.n_layers=4", "decoder.pattern=[{}, {attention: none}]"],
    "windows": WINDOWS,
    "dropout": ["dropout=0.1"],
}


def small(*overrides: str) -> ModelConfig:
    return ModelConfig.load(SMALL, *overrides)


@pytest.fixture(scope="module")
def gpt2() -> Description:
    return describe(ModelConfig.load("gpt2"), name="gpt2")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory, which takes a second, is not looked at."""
    monkeypatch.setattr("weft.models.describe._memory", lambda *_: None)


def test_gpt2_has_its_124_439_808_parameters_and_every_grouping_adds_up_to_them(gpt2: Description) -> None:
    found = costs(blank(ModelConfig.load("gpt2")), 1024)
    assert gpt2.cost.parameters == 124_439_808
    for groups in (by_section(found), by_slot(found)):
        assert sum(groups.values(), start=Cost()) == gpt2.cost
    assert sum((row.cost for row in gpt2.rows if row.depth == 0), start=Cost()) == gpt2.cost
    assert by_slot(found)["positions"].parameters == 1024 * 768
    assert by_slot(found)["norm"].parameters == 25 * 2 * 768


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_declared_parameters_flops_and_cache_are_the_counted_ones(overrides: list[str]) -> None:
    model = build(small(*overrides, "decoder.block.attention.kernel=reference")).train()
    rows, length = 2, 64
    declared = total(model, length)
    assert declared.parameters == parameter_count(model)

    tokens_BT = torch.randint(0, 300, (rows, length))
    with FlopCounterMode(display=False) as forward:
        model(tokens_BT).logits_BTV  # noqa: B018 (computed when asked for)
    assert forward.get_total_flops() == declared.flops * rows * length
    with FlopCounterMode(display=False) as training:
        model(tokens_BT).logits_BTV.sum().backward()
    assert training.get_total_flops() == training_flops(model, length) * rows * length

    cache = model.eval().new_cache(rows)
    with torch.no_grad():
        model(tokens_BT, cache=cache)
    assert cache.bytes == cache_bytes(declared, "fp32") * rows * length


@pytest.mark.parametrize("overrides", [[], WINDOWS, ["dropout=0.1"]], ids=["causal", "windows", "dropout"])
def test_predicted_memory_is_what_the_allocator_hands_out(overrides: list[str]) -> None:
    config, rows, length = small(*overrides, "vocab_size=2000"), 20, 64
    tokens_BT = torch.randint(0, 2000, (rows, length))
    model = build(config).train()
    parameters = 4 * parameter_count(model)

    def step() -> None:
        # 1280 targets: more than one chunk of the head's
        model.heads["lm"].loss(model(tokens_BT).x_BTD, tokens_BT).total.backward()

    predicted = training_memory(config, rows, length)
    assert (predicted.parameters, predicted.gradients, predicted.optimizer) == (
        parameters,
        parameters,
        2 * parameters,
    )
    assert predicted.peak == pytest.approx(peak(step) + 3 * parameters + tokens_BT.nbytes * 2, rel=1e-3)
    assert training_memory(config, rows, length, optimizer="sgd").peak == predicted.peak - parameters

    def read() -> None:
        with torch.no_grad():
            output = model(tokens_BT, cache=model.new_cache(rows))
            model.heads["lm"](output.x_BTD[:, -1:])

    model.eval()
    assert generation_memory(config, rows, length).peak == pytest.approx(
        peak(read) + parameters + tokens_BT.nbytes, rel=1e-3
    )


def peak(work: Any) -> int:
    """The most bytes that tensors made by `work` hold at once, by PyTorch's own account."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    now = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def test_memory_is_told_without_taking_it() -> None:
    # 51 billion parameters: 200 GB that no machine for tests has
    found = describe(small("d_model=65536", "decoder.n_layers=1", "heads={}"), batch=4, length=64)
    assert found.memory is not None
    assert found.memory.training.parameters == 4 * found.cost.parameters > 160e9
    assert found.memory.training.peak > 4 * found.memory.training.parameters


def test_dropout_in_attention_is_told_where_it_costs_memory(gpt2: Description) -> None:
    assert gpt2.memory is not None
    assert gpt2.memory.undropped is not None
    saved = gpt2.memory.training.activations - gpt2.memory.undropped.activations
    # two matrices of H x T x T at least for each text and layer
    assert saved > 2 * 12 * 8 * 12 * 1024 * 1024 * 4
    assert any("attention.dropout=0" in line for line in gpt2.lines())
    plain = describe(small())
    assert plain.memory is not None
    assert plain.memory.undropped is None


def test_a_part_that_looks_at_values_leaves_the_memory_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner(self: WideLayer, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.up(x_BTD) if x_BTD.sum() > 0 else -self.up(x_BTD)

    monkeypatch.setattr(WideLayer, "inner", inner)
    found = describe(small())
    assert found.memory is None
    assert "only a run can tell" in found.lines()[-1]
    assert json.loads(json.dumps(found.data()))["memory"] is None


@pytest.mark.usefixtures("hasty")
def test_alike_blocks_are_one_row_and_others_are_not(gpt2: Description) -> None:
    blocks = [row for row in gpt2.rows if ".blocks." in row.path and row.depth == 1]
    assert [(row.label, row.copies, row.cost.parameters) for row in blocks] == [("blocks.0-11 (12 x)", 12, 85_054_464)]
    query = next(row for row in gpt2.rows if row.path == "decoder.blocks.0-11.attention.query")
    assert (query.copies, query.cost.parameters, query.shape) == (12, 12 * 768 * 769, "768 -> 768, bias")

    pattern = "decoder.pattern=[{attention: {mask: {kind: window, size: 16}}}, {}, {attention: none}]"
    mixed = describe(small("decoder.n_layers=8", pattern))
    labels = {row.path: row.part for row in mixed.rows if row.depth == 1 and "blocks" in row.path}
    assert labels == {
        "decoder.blocks.0,3,6": "pre",
        "decoder.blocks.1,4,7": "pre",
        "decoder.blocks.2,5": "pre attention=none",
    }
    attention = {row.path: row.part for row in mixed.rows if row.path.endswith("attention")}
    assert attention == {
        "decoder.blocks.0,3,6.attention": "dot-product n_kv_heads=2 mask=window(size=16)",
        "decoder.blocks.1,4,7.attention": "dot-product n_kv_heads=2",
    }


def test_ranges() -> None:
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2,4,6-7"
    assert ranges([3]) == "3"


@pytest.mark.usefixtures("hasty")
def test_derived_values_are_said_aloud_once_for_all_layers() -> None:
    found = describe(ModelConfig.load("llama-tiny"))
    assert found.derived == [
        "vocab_size not given: the tokenizer's, known with the data; here 4,096",
        "decoder.block.attention: head_width not given: d_model / n_heads = 32",
        "decoder.block.feedforward: width not given: 8/3 x d_model, rounded up to a multiple of 32 = 704",
    ]
    assert set(found.derived) < set(found.lines())
    some = describe(small("decoder.n_layers=4", "decoder.pattern=[{}, {attention: none}]")).derived
    assert "decoder.blocks.0,2.attention: head_width not given: d_model / n_heads = 8" in some


@pytest.mark.usefixtures("hasty")
def test_many_groups_of_layers_still_fit_a_terminal() -> None:
    found = describe(small("decoder.n_layers=16", WINDOWS[1]), name="a model")
    lines = found.lines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)  # the table cut nothing
    assert any(line.startswith("  blocks.0,2,4,6,8,... (8 x)") for line in lines)
    assert "decoder.blocks.0,2,4,6,8,10,12,14.attention" in [row.path for row in found.rows]


def test_the_lines_of_gpt2(gpt2: Description) -> None:
    lines = gpt2.lines()
    assert lines[0] == "gpt2: 124,439,808 parameters, 12 layers of width 768, vocabulary of 50,257"
    assert lines[1] == "a token in a text of 1,024: 284.8 M FLOPs forward, 854.4 M in training, 73.7 kB of cache"
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 50


def test_json_holds_the_same(gpt2: Description) -> None:
    data = json.loads(json.dumps(gpt2.data()))
    assert data["parameters"] == 124_439_808
    assert data["flops_per_token"] == {"forward": 284_812_800, "training": 854_438_400}
    assert data["cache_bytes_per_token"] == 12 * 2 * 768 * 4
    assert data["memory"]["training"]["parameters"] == 4 * 124_439_808
    assert ModelConfig.load(data["model"]) == ModelConfig.load("gpt2")


def test_bf16_halves_the_cache_and_keeps_fp32_parameters() -> None:
    config = small("decoder.n_layers=4")
    narrow, wide = generation_memory(config, 8, 64, "bf16"), generation_memory(config, 8, 64, "fp32")
    assert 2 * narrow.cache == wide.cache > 0
    assert narrow.parameters == wide.parameters
    assert training_memory(config, 8, 64, "bf16").activations < training_memory(config, 8, 64, "fp32").activations


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(WeftError, match="100 tokens are more than these positions can number"):
        describe(small("decoder.positions=learned"), length=100)
