"""Declarations: slots, YAML 1.2, overrides, expansion, messages, schemas, and what a run's identity is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.checking.cases import one_by_one, places
from weft.config import SLOTS, Override, slot_base, yaml
from weft.errors import ConfigError, WeftError
from weft.models.build import build
from weft.models.config import ModelConfig, StackConfig, TransformerConfig, preset, presets
from weft.nn import Dims, DotProduct, Learned, Norm, Pre, Rms, Rotary, Window


def load(source: Any, *overrides: str) -> TransformerConfig:
    config = ModelConfig.load(source, *overrides)
    assert isinstance(config, TransformerConfig)
    return config


def problems(source: Any, *overrides: str) -> list[str]:
    """The lines that a person reads."""
    with pytest.raises(WeftError) as caught:
        load(source, *overrides)
    return str(caught.value).split("\n")


# --- slots ---


def test_the_short_form_the_default_kind_and_the_whole_are_one() -> None:
    positions = SLOTS["positions"]
    assert positions.choose("rotary") == positions.choose({"kind": "rotary"}) == Rotary()
    assert positions.choose({"kind": "rotary", "theta": 5}) == Rotary(theta=5.0) != Rotary()
    assert SLOTS["norm"].choose({"bias": False}).kind == "layer"
    assert positions.choose(Rotary(share=0.5)) == Rotary(share=0.5)
    assert {Rotary(), Rotary(theta=10_000.0)} == {Rotary()}, "equal declarations are one key"
    with pytest.raises(ValueError, match="frozen"):
        Rotary().theta = 3.0  # type: ignore[misc]


def test_a_dump_by_actual_type_is_read_back_whole() -> None:
    for source in [*presets(), *one_by_one(places())]:
        config = load(source)
        assert load(config.dump()) == config
        assert load(yaml.parse(yaml.dump(config.dump()), "dump")) == config
        assert load(config) == config


def test_a_kind_is_registered_once() -> None:
    kinds = dict(SLOTS["norm"].kinds)
    try:

        class Mine(Norm, kind="mine"):
            gain: float = 1.0

            def build(self, dims: Dims) -> Any:
                return Rms().build(dims)

        assert load({"decoder": {"norm": {"kind": "mine", "gain": 2}}}).decoder.norm == Mine(gain=2)
        with pytest.raises(WeftError, match=r"norm: the kind 'rms' is already taken by weft\.nn\.norms\.Rms"):
            type("Another", (Norm,), {"__module__": __name__}, kind="rms")
    finally:
        SLOTS["norm"].kinds.clear()
        SLOTS["norm"].kinds.update(kinds)
    with pytest.raises(WeftError, match="did you mean 'norm'"):
        slot_base("nrom")


# --- YAML ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("2E5", 2e5), ("1.", 1.0), (".5", 0.5), ("-3", -3), ("+3", 3),
        ("012", 12), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("1e", "1e"), ("e3", "e3"),
        (".inf", float("inf")), ("-.INF", -float("inf")), ("1_000", "1_000"), ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("y", "y"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'1'", "1"), ('"no"', "no"),
        ("[1, no]", [1, "no"]), ("{a: 1e-3}", {"a": 0.001}), ("<<", "<<"), ("hf:name", "hf:name"), ("Việt", "Việt"),
    ],
)  # fmt: skip
def test_yaml_1_2(text: str, value: Any) -> None:
    found = yaml.parse(text, "here")
    assert (found, type(found)) == (value, type(value))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
TREES = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=6,
)
AMBIGUOUS = st.sampled_from(
    ["no", "1e3", "null", "~", "0o7", "0x", "1_0", "2024-01-01", ".5", "-", ":", "", " x", "<<", "=", "a: b", "#"]
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TREES | AMBIGUOUS | st.dictionaries(AMBIGUOUS, AMBIGUOUS))
def test_what_is_dumped_is_read_back(tree: Any) -> None:
    assert yaml.parse(yaml.dump(tree), "dump") == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "here line 3: 'a' is given twice"),
        ("a: {b: 1, b: 2}", "here line 1: 'b' is given twice"),
        ("a: &x [1]\nb: *x", "here line 2: aliases"),
        ("a: [1, 2\nb: 3", "here line 2: "),
        ("a: 1\n b: 2", "here line 2: "),
        ("a: !!python/object/apply:os.system [ls]", "here line 1: could not determine a constructor"),
        ("? [1, 2]\n: 3", "here line 1: a key must be a name"),
        ("x" * 1_000_001, "here: 1,000,001 characters is no declaration"),
    ],
)
def test_what_yaml_refuses(text: str, message: str) -> None:
    with pytest.raises(WeftError) as caught:
        yaml.parse(text, "here")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "should hold `name: value` lines, not nothing"),
        (b"- a\n- b", "should hold `name: value` lines, not list"),
        ("a: Việt".encode("utf-16"), "not UTF-8 text (byte 0)"),
    ],
)
def test_files_that_hold_no_declaration(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.yaml"
    if content is not None:
        path.write_bytes(content)
    (line,) = problems(path)
    assert line.startswith(str(path))
    assert message in line


def test_a_file_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("preset: gpt2\ndecoder: {n_layers: 2}\n", encoding="utf-8-sig")  # with a byte order mark
    assert load(str(path)) == load(path) == load({"preset": "gpt2", "decoder": {"n_layers": 2}})


# --- expansion and overrides ---


def test_a_preset_with_changes() -> None:
    config = load({"preset": "gpt2", "decoder": {"n_layers": 2, "norm": {"epsilon": 1e-6}, "positions": "rotary"}})
    plain = load("gpt2")
    assert config.decoder.n_layers == 2
    assert config.decoder.norm.dump() == {"kind": "layer", "epsilon": 1e-6, "bias": True}
    assert config.decoder.positions == Rotary()
    assert config.decoder.block == plain.decoder.block
    assert plain.decoder.positions == Learned()


@pytest.mark.parametrize("name", presets())
def test_bundled_models_build(name: str) -> None:
    config = load(preset(name)).stand_in()
    assert build(config, device="meta").limit() in (None, config.max_length)


def test_overrides_apply_in_order_to_what_is_expanded() -> None:
    config = load("gpt2", "d_model=64", "d_model=96", "decoder.block.attention={n_heads: 3, n_kv_heads: 1}")
    attention = config.decoder.block.attention
    assert config.d_model == 96
    assert isinstance(attention, DotProduct)
    assert (attention.n_heads, attention.n_kv_heads, attention.bias) == (3, 1, True), "without a kind: merged"
    replaced = load("gpt2", "decoder.block.attention={kind: dot-product, n_heads: 3}").decoder.block.attention
    assert replaced == DotProduct(n_heads=3), "with a kind: replaced"
    assert load("gpt2", "decoder.block.attention=dot-product").decoder.block.attention == DotProduct()
    assert load("gpt2", "decoder.positions=rotary", "decoder.positions.theta=5e5").decoder.positions == Rotary(
        theta=5e5
    )
    assert load({}, "decoder.block.norm.epsilon=1e-3").decoder.block.norm == SLOTS["norm"].choose({"epsilon": 1e-3})
    assert load("gpt2", Override(("d_model",), 72)) == load("gpt2", "d_model=72")


def test_null_clears() -> None:
    config = load("llama-tiny", "decoder.block.attention.n_kv_heads=null", "decoder.norm=null", "dropout=null")
    assert config.decoder.block.attention.dump()["n_kv_heads"] is None
    assert config.decoder.norm.kind == StackConfig().norm.kind == "layer"
    assert load({"preset": "llama-tiny", "decoder": {"norm": None}}).decoder.norm == config.decoder.norm
    assert load({"heads": {"lm": "lm", "other": "lm"}}, "heads.other=null").heads.keys() == {"lm"}


def test_lists_replace_and_are_reached_by_number() -> None:
    listed = {"decoder": {"blocks": ["pre", "post", "plain"]}}
    assert [block.kind for block in load(listed, "decoder.blocks=[post]").decoder.blocks] == ["post"]
    config = load(listed, "decoder.blocks.1.attention.n_heads=2", "decoder.blocks.2.kind=pre")
    assert [block.kind for block in config.decoder.blocks] == ["pre", "post", "pre"]
    assert config.decoder.blocks[1].attention == DotProduct(n_heads=2)
    assert problems(listed, "decoder.blocks.3.kind=pre", "decoder.blocks.x=pre") == [
        "decoder.blocks.3.kind: decoder.blocks is a list of 3; count from 0, not '3'",
        "decoder.blocks.x: decoder.blocks is a list of 3; count from 0, not 'x'",
    ]


def test_a_kind_by_path_keeps_what_it_shares_and_names_what_it_drops() -> None:
    notes: list[str] = []
    from weft.config import load as load_section

    raw = {"decoder": {"norm": {"kind": "layer", "epsilon": 0.5, "bias": False}}}
    config = load_section(ModelConfig, raw, ["decoder.norm.kind=rms"], notes)
    assert isinstance(config, TransformerConfig)
    assert config.decoder.norm == Rms(epsilon=0.5)
    assert notes == ["decoder.norm.kind=rms: bias dropped, rms has no such option"]
    raw = {"decoder": {"block": {"attention": {"n_heads": 8, "mask": {"kind": "window", "size": 3}}}}}
    kept = load_section(ModelConfig, raw, ["decoder.block.kind=post"], notes)
    assert kept.dump()["decoder"]["block"] == {**load(raw).decoder.block.dump(), "kind": "post"}
    assert len(notes) == 1, "nothing dropped, nothing said"
    assert load({}, "decoder.norm=rms", "decoder.norm.kind=layer").decoder.norm == SLOTS["norm"].choose("layer")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("d_model", "'d_model': an override is written path=value, such as train.seed=3"),
        ("=3", "'=3': an override is written path=value, such as train.seed=3"),
        ("decoder..n_layers=3", "'decoder..n_layers=3': an override is written path=value, such as train.seed=3"),
        ("decoder.n_layers.x=3", "decoder.n_layers.x: decoder.n_layers is the value 12 and has no options of its own"),
        ("d_model={", "d_model= line 1: expected the node content, but found '<stream end>'"),
    ],
)
def test_overrides_that_cannot_be(override: str, line: str) -> None:
    assert problems("gpt2", override) == [line]


def test_another_preset_by_override_is_that_preset() -> None:
    assert load({"preset": "gpt2", "d_model": 96}, "preset=llama-tiny") == load("llama-tiny")


def test_layers_written_out() -> None:
    config = load({"decoder": {"n_layers": 5, "block": {"feedforward": "relu"}, "pattern": [
        {"attention": {"mask": {"kind": "window", "size": 8}}}, {"kind": "post", "attention": "none"}, {},
    ]}})  # fmt: skip
    layers = config.decoder.layers()
    assert [layer.kind for layer in layers] == ["pre", "post", "pre", "pre", "post"]
    masks = [getattr(layer.attention, "mask", None) for layer in layers]
    assert [mask == Window(size=8) for mask in masks] == [True, False, False, True, False]
    assert [layer.feedforward.kind for layer in layers] == ["relu", "gelu", "relu", "relu", "gelu"], (
        "a kind replaces all"
    )
    assert load({"decoder": {"pattern": [{}, {}, {}]}}).decoder.layers() == [Pre()] * 3
    assert load({"decoder": {"blocks": ["post", {}]}}).decoder.layers() == [SLOTS["block"].choose("post"), Pre()]
    assert problems({"decoder": {"blocks": ["pre"], "n_layers": 3}})[0].endswith("n_layers = 3, but blocks lists 1")
    assert "pattern belongs to n_layers" in problems({"decoder": {"blocks": ["pre"], "pattern": [{}]}})[0]


def test_what_comes_from_the_data() -> None:
    config = load({})
    assert config.bind(77).vocab_size == 77
    assert load({"vocab_size": 100}).bind(77).vocab_size == 100
    with pytest.raises(WeftError, match=r"vocab_size = 50 is less than the tokenizer's 77"):
        load({"vocab_size": 50}).bind(77)
    with pytest.raises(WeftError, match="vocab_size is not known"):
        build({}, device="meta")


# --- messages ---


def test_all_problems_at_once_each_with_its_path_and_the_nearest_name() -> None:
    written = {"d_model": -1, "decoder": {"norm": {"kind": "layer", "epsilon": "small"}, "positions": "rotry"}}
    overrides = [
        "decoder.n_layer=2",
        "decoder.block.attention.n_head=3",
        "dropout",
        "decoder.block.feedforward.witdh=3",
    ]
    found = problems(written, *overrides)
    attention, feedforward = "decoder.block.attention", "decoder.block.feedforward"
    starts = [
        "'dropout': an override is written path=value",
        "d_model = -1: should be greater than 0",
        "decoder.norm.epsilon = 'small': should be a valid number",
        "decoder.positions: no positions called 'rotry'; did you mean 'rotary'? (known: alibi, learned, none, rotary,"
        " rotary-alibi, sinusoidal, t5)",
        "decoder.n_layer: no such option; did you mean 'n_layers'? (decoder has: n_layers, ",
        f"{attention}.n_head: no such option; did you mean 'n_heads'? ({attention} (dot-product) has: ",
        f"{feedforward}.witdh: no such option; did you mean 'width'? ({feedforward} (gelu) has: ",
    ]
    assert len(found) == len(starts)
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1, start


WRONG = [
    ({"n_layers": 2}, "n_layers: no such option; did you mean 'decoder.n_layers'? "),
    ({"decoder": {"positions": 5}}, "decoder.positions: should be a kind's name or a mapping with `kind`"),
    (
        {"heads": {"lm": "ml"}},
        "heads.lm: no head called 'ml'; did you mean 'mlm'? (known: classifier, embedding, lm,",
    ),
    ({"kind": "transfomer"}, "no model called 'transfomer'; did you mean 'transformer'?"),
    ({"d_model": "x" * 100}, f"d_model = '{'x' * 56}...: should be a valid integer"),
    ("gtp2", "no preset called 'gtp2'; did you mean 'gpt2'? (known: "),
    (
        {"decoder": {"block": {"attention": {"mask": "window"}}}},
        "decoder.block.attention.mask.size: needs a value (keys seen",
    ),
    (
        {"decoder": {"positions": {"kind": "alibi", "theta": 3}}},
        "decoder.positions.theta: no such option (decoder.positions (alibi) has no options)",
    ),
    (
        {"decoder": {"blocks": ["pre", {"kind": "post", "attention": {"n_haeds": 2}}]}},
        "decoder.blocks.1.attention.n_haeds: no such option; did you mean 'n_heads'?",
    ),
]


@pytest.mark.parametrize(("source", "line"), WRONG, ids=str)
def test_one_line_says_what_where_and_what_would_be_right(source: Any, line: str) -> None:
    (found,) = problems(source)
    assert found.startswith(line)


@pytest.mark.xfail(strict=True, reason="pydantic loses the path of what a validator validates")
def test_a_problem_in_a_pattern_has_its_path() -> None:
    (found,) = problems({"decoder": {"pattern": [{}, {"attention": {"n_haeds": 2}}]}})
    assert found.startswith("decoder.pattern.1.attention.n_haeds: no such option; did you mean 'n_heads'?")


def test_problems_are_a_list_too() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"d_model": 0, "dropout": 2})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("path", ["d_model", "decoder.n_layers", "decoder.block.attention.n_kv_heads", "dropout"])
def test_true_is_no_number(path: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} = .*: should be a number or a name, not true or false"):
        ModelConfig.load({}, f"{path}=true")
