"""Encoder, decoder, encoder-decoder: how they are declared, what they refuse, how memory is kept, what they cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_oracles import mean_loss
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weft.checking import PROPERTIES
from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small, stir
from weft.errors import ConfigError, WeftError
from weft.models.build import blank, build
from weft.models.config import ModelConfig
from weft.models.cost import pair_flops, parameter_count
from weft.models.describe import describe
from weft.models.transformer import Transformer
from weft.nn import DotProduct, Inputs, NoMask, listen, materialize

STACK: dict[str, Any] = {"n_layers": 2, "positions": "rotary"}
GROUPED = {"n_heads": 4, "n_kv_heads": 2, "bias": True, "mask": {"kind": "window", "size": 3}, "positions": "alibi"}


def pair(decoder: dict[str, Any] | None = None, **options: Any) -> Transformer:
    """A small encoder-decoder in float64, stirred."""
    return small(decoder, encoder=STACK, **options)


def reader() -> Transformer:
    """A small encoder in float64, stirred."""
    model = build({**SIZES, "decoder": None, "encoder": STACK}).double().eval()
    stir(model)
    return model


# --- presets ---


def test_the_base_model_of_the_paper() -> None:
    """The count of docs/architecture.md, each addend of it."""
    config = ModelConfig.load("transformer-base").bind(37_000)
    model = blank(config)
    assert parameter_count(model) == 63_082_496
    assert parameter_count(model.encoder) == 6 * 3_152_384
    assert parameter_count(model.decoder) == 6 * 4_204_032
    assert parameter_count(model.embedding) == 37_000 * 512
    for stack in (model.encoder, model.decoder):
        assert stack.dropout == 0.1
        assert {block.dropout for block in stack.blocks} == {0.1}
        assert type(stack.positions).__name__ == "SinusoidalPositions"


@pytest.mark.parametrize("name", ["encoder-tiny", "translator-tiny"])
def test_small_models_are_small(name: str) -> None:
    model = blank(ModelConfig.load(name).bind(4096, ("a", "b")))
    assert 1e6 < parameter_count(model) < 3e6


@pytest.mark.parametrize("name", ["transformer-base", "encoder-tiny", "translator-tiny"])
def test_what_is_told_of_them(name: str) -> None:
    config = ModelConfig.load(name, "vocab_size=500", "encoder.n_layers=2")
    found = describe(config, batch=2, length=16, name=name)
    text = "\n".join(found.lines())
    assert max(map(len, found.lines())) <= 100
    assert found.memory is not None
    if name == "encoder-tiny":
        assert "2 layers of width 128" in text
        assert "cache" not in found.lines()[1]
        assert found.lines()[2].partition("memory, ")[2].startswith("reading")
        assert "heads.classifier: labels not given: the data's; here two" in text
    else:
        assert f"2 + {len(config.decoder.layers())} layers of width" in found.lines()[0]
        assert found.lines()[1].startswith("a pair of tokens in texts of 16: ")
        assert "costs are those of one source token and one target token together" in text
        assert "decoder.block: cross_attention not given: attention's options, without its mask and positions" in text
        assert "decoder.block.cross_attention: head_width" not in text, "what attention says already"
        row = next(row for row in found.rows if row.path.endswith("cross_attention"))
        assert row.part.startswith("dot-product n_heads=")
    assert sum(row.cost.parameters for row in found.rows if row.depth == 0) == parameter_count(blank(config.stand_in()))


# --- declarations ---


def test_a_decoder_of_four_layers_unless_given() -> None:
    assert [*ModelConfig.load({}).stacks()] == ["decoder"]
    assert len(ModelConfig.load({}).decoder.layers()) == 4
    assert [*ModelConfig.load({"encoder": STACK}).stacks()] == ["encoder"]
    assert [*ModelConfig.load({"decoder": STACK, "encoder": STACK}).stacks()] == ["encoder", "decoder"]
    assert [*ModelConfig.load("translator-tiny", "decoder=null").stacks()] == ["encoder"]
    assert [*ModelConfig.load("gpt2", "encoder.n_layers=2").stacks()] == ["encoder", "decoder"]
    for source in ("translator-tiny", "encoder-tiny", {}):
        config = ModelConfig.load(source)
        assert ModelConfig.load(config.dump()) == config


def test_cross_attention_has_attention_s_options_unless_given() -> None:
    model = pair({"block": {"attention": GROUPED}})
    options = model.decoder.blocks[0].cross_attention.options
    assert options == DotProduct(n_heads=4, n_kv_heads=2, bias=True)
    assert options.mask == NoMask()
    given = pair({"pattern": [{"attention": GROUPED, "cross_attention": {"n_heads": 1}}, {"cross_attention": "none"}]})
    first, second = given.decoder.blocks
    assert first.cross_attention.options == DotProduct(n_heads=1)
    assert second.cross_attention is None
    assert not hasattr(second, "cross_attention_norm")
    assert all(block.cross_attention is None for block in given.encoder.blocks)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"decoder": {"block": {"cross_attention": {"n_heads": 2}}}},
            "decoder.block.cross_attention: there is nothing",
        ),
        ({"encoder": {"block": {"cross_attention": {}}}}, "encoder.block.cross_attention: there is nothing to read"),
        (
            {"encoder": {"blocks": [{"cross_attention": {}}]}, "decoder": {"n_layers": 1}},
            "encoder.block.cross_attention: there is nothing to read",
        ),
        ({"encoder": STACK, "decoder": {"block": {"cross_attention": "none"}}}, "no block has cross_attention"),
        ({"encoder": STACK, "decoder": {"block": {"attention": "none"}}}, "no block has cross_attention"),
    ],
)
def test_cross_attention_needs_something_to_read(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build({**SIZES, "decoder": None, **declared})
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("option", [{"mask": {"kind": "window", "size": 2}}, {"positions": "rotary"}])
def test_distances_between_two_texts_make_no_sense(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(WeftError, match=rf"cross_attention\.{name}: (window|rotary) counts how far"):
        pair({"block": {"cross_attention": option}})


# --- starts ---


def test_each_stack_s_branches_start_as_its_own_depth_asks() -> None:
    """1 / sqrt(number of branches): two a block, three where it reads a source."""
    sizes = {**SIZES, "d_model": 128, "init_std": 0.05, "vocab_size": 300}
    model = build({**sizes, "encoder": {"n_layers": 2}, "decoder": {"n_layers": 3}})
    expected = {"encoder": 0.05 / math.sqrt(4), "decoder": 0.05 / math.sqrt(9)}
    checked = 0
    for name, parameter in model.named_parameters():
        if name.endswith(("output.weight", "down.weight", "query.weight", "key.weight")):
            narrow = name.endswith(("output.weight", "down.weight"))
            std = expected[name.partition(".")[0]] if narrow else 0.05
            assert float(parameter.detach().std()) == pytest.approx(std, rel=5 / math.sqrt(2 * parameter.numel())), name
            checked += narrow
    assert checked == 2 * 2 + 3 * 3
    alone = dict(build({**sizes, "decoder": {"n_layers": 3}}).named_parameters())
    for name, parameter in alone.items():  # a decoder alone has two branches a block
        ratio = math.sqrt(9 / 6) if name.endswith(("output.weight", "down.weight")) else 1.0
        torch.testing.assert_close(parameter, ratio * dict(model.named_parameters())[name])


@pytest.mark.parametrize("stacks", [{"encoder": STACK}, {"encoder": STACK, "decoder": STACK}])
def test_from_the_meta_device_with_one_table(stacks: dict[str, Any]) -> None:
    config = ModelConfig.load({**SIZES, "decoder": None, **stacks})
    model = blank(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    materialize(model, seed=3)
    model.tie()
    expected = dict(build(config, seed=3).named_parameters())
    assert dict(model.named_parameters()).keys() == expected.keys()
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())
    assert model.heads["lm"].projection.weight is model.embedding.tokens.weight
    assert [name for name in expected if "tokens" in name or "projection" in name] == ["embedding.tokens.weight"]


@pytest.mark.parametrize("scaled", [False, True])
def test_the_table_may_be_scaled_on_its_way_in_only(scaled: bool) -> None:
    model = small(embedding={"scaled": scaled})
    x_BT = tokens(model, 2, 5)
    plain = model.embedding.tokens.weight[x_BT]
    close(model.embedding(Inputs(tokens_BT=x_BT)).detach(), (4.0 if scaled else 1.0) * plain.detach(), 1e-15)
    output = model(x_BT)
    close(output.logits_BTV.detach(), (output.x_BTD @ model.embedding.tokens.weight.T).detach(), 1e-14)


@pytest.mark.parametrize("preset", ["translator-tiny", "transformer-base"])
def test_loss_at_the_start(preset: str) -> None:
    """ln V + half the variance of the logits, as in test_oracles, of targets that neither text tells."""
    rows, length, vocab_size = 96, 33, 2003
    small = {"n_layers": 2}
    sizes = {"d_model": 80, "vocab_size": vocab_size, "max_length": 64, "encoder": small, "decoder": small}
    model = build({"preset": preset, **sizes}).eval()
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randperm(vocab_size, generator=generator)[: 2 * length] for _ in range(rows)]
    source_BS, x_BT = torch.stack(texts).split(length, dim=1)
    with torch.no_grad():
        output = model(x_BT[:, :-1], source=source_BS)
        variance = float(output.logits_BTV.var(-1).mean())
        term = model.heads["lm"].loss(output.x_BTD, x_BT[:, 1:])
    allowed = 4 * math.sqrt(variance / int(term.count))
    assert 0 < variance / 2 < 0.1, "the start is flat"
    assert float(term.total / term.count) == pytest.approx(math.log(vocab_size) + variance / 2, abs=allowed)


def test_a_pair_s_target_is_learned_by_heart() -> None:
    """One batch in which only the source tells which target is meant."""
    model = build({"d_model": 32, "init_std": 0.1, "vocab_size": 30, "encoder": STACK, "decoder": STACK})
    generator = torch.Generator().manual_seed(0)
    source_BS, x_BT = (torch.randint(30, (8, length), generator=generator) for length in (7, 9))
    x_BT[:, 0] = 0
    valid_BS = torch.arange(7) < torch.randint(3, 8, (8, 1), generator=generator)
    source = Inputs(tokens_BT=source_BS, valid_BT=valid_BS)

    def loss(source: Inputs) -> Tensor:
        term = model.heads["lm"].loss(model(x_BT[:, :-1], source=source).x_BTD, x_BT[:, 1:])
        return term.total / term.count

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(source)
        value.backward()
        optimizer.step()
    assert float(loss(source).detach()) < 0.01
    other = Inputs(tokens_BT=source_BS.flip(0), valid_BT=valid_BS.flip(0))
    assert float(loss(other).detach()) > 1, "what is learned is to read"


def test_a_text_with_holes_is_learned_by_an_encoder() -> None:
    """What stands in a hole is told by what stands on both sides of it."""
    model = build({"d_model": 32, "init_std": 0.1, "vocab_size": 30, "encoder": STACK})
    x_BT = torch.randint(1, 30, (8, 9), generator=torch.Generator().manual_seed(0))
    x_BT[:, :4] = 5
    holes_BT = torch.zeros(8, 9, dtype=torch.bool)
    holes_BT[:, 2::3] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        term = model.heads["lm"].loss(model(x_BT.masked_fill(holes_BT, 0)).x_BTD, x_BT.masked_fill(~holes_BT, -100))
        value = term.total / term.count
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.01


# --- one call ---


def test_an_encoder_sees_both_ways_and_a_decoder_does_not() -> None:
    model = reader()
    x_BT = tokens(model, 2, 6)
    changed_BT = x_BT.clone()
    changed_BT[:, 3] = (x_BT[:, 3] + 1) % 11
    assert bool(((logits(model, changed_BT) - logits(model, x_BT)).abs().amax((0, 2)) > 1e-8).all())
    close(model.encode(x_BT).x_BSD.detach(), model(x_BT).x_BTD.detach(), 1e-15)


def test_whoever_gives_too_little_or_too_much_is_told() -> None:
    encoder, decoder, both = reader(), small(), pair()
    x_BT, text_BS = tokens(both, 2, 4), tokens(both, 2, 6, seed=1)
    cache = both.new_cache(2)
    logits(both, x_BT, cache, text_BS)
    packed = Inputs(tokens_BT=x_BT, documents_BT=torch.zeros_like(x_BT))
    refused: list[tuple[str, Any]] = [
        ("this model writes after reading: give it a source", lambda: both(x_BT)),
        ("this model writes after reading", lambda: both(x_BT, cache=both.new_cache(2))),
        ("the cache holds a source already", lambda: both(x_BT, source=text_BS, cache=cache)),
        ("the source has 1 rows, the input 2", lambda: both(x_BT, source=text_BS[:1])),
        ("pack both, or neither", lambda: both(packed, source=text_BS)),
        ("pack both, or neither", lambda: both(x_BT, source=packed)),
        ("this model has no encoder, so that nothing reads a source", lambda: decoder(x_BT, source=text_BS)),
        ("this model has no encoder", lambda: decoder.encode(text_BS)),
        ("this model has no decoder, so that nothing reads a source", lambda: encoder(x_BT, source=text_BS)),
        ("an encoder reads its text at once, without a cache", lambda: encoder(x_BT, cache=cache)),
        ("an encoder reads its text at once, without a cache", lambda: encoder.new_cache(2)),
    ]
    for message, call in refused:
        with pytest.raises(WeftError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert cache.lengths == [4, 4], "nothing was counted"


def test_a_source_longer_than_the_positions_is_refused() -> None:
    model = small({"positions": "learned"}, encoder={"n_layers": 1, "positions": "learned"})
    with pytest.raises(WeftError, match="25 tokens are more than these positions can number"):
        model(tokens(model, 1, 3), source=tokens(model, 1, 25))
    assert model.limit() == model.encoder.limit() == 24
    assert pair({"positions": "learned"}).encoder.limit() is None


def test_whatever_precision_activations_have() -> None:
    model = build({**SIZES, "encoder": STACK, "decoder": STACK}).eval()
    stir(model, 0.1)
    x_BT, text_BS = tokens(model, 2, 5), tokens(model, 2, 7, seed=1)
    exact = logits(model, x_BT, source=text_BS)
    model.compute_dtype = torch.bfloat16
    output = model(x_BT, source=text_BS)
    assert output.x_BTD.dtype == model.encode(text_BS).x_BSD.dtype == torch.bfloat16
    close(output.logits_BTV.detach().float(), exact, 30 * 2**-9)


def test_what_the_encoder_s_parts_emit_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair()
    for stack, count in ((model.encoder, 5), (model.decoder, 100)):
        for layer in stack.blocks:
            inner = layer.feedforward.inner

            def chatty(x_BTD: Tensor, layer: Any = layer, inner: Any = inner, count: int = count) -> Tensor:
                layer.feedforward.emit("calls", torch.tensor(float(count)), torch.tensor(count))
                return inner(x_BTD)

            monkeypatch.setattr(layer.feedforward, "inner", chatty)
    terms = model(tokens(model, 1, 3), source=tokens(model, 1, 4)).terms
    assert int(terms["calls"].count) == 2 * 5 + 2 * 100


def test_taps_of_the_three_attentions() -> None:
    model, seen = pair(), dict[str, tuple[int, ...]]()
    with listen(model, "*.weights", lambda path, value: seen.update({path: tuple(value.shape)})):
        logits(model, tokens(model, 2, 3), source=tokens(model, 2, 5))
    assert seen["encoder.blocks.1.attention.weights"] == (2, 4, 5, 5)
    assert seen["decoder.blocks.1.attention.weights"] == (2, 4, 3, 3)
    assert seen["decoder.blocks.1.cross_attention.weights"] == (2, 4, 3, 5)
    assert len(seen) == 6


# --- stacks that differ ---

DIFFERENT: dict[str, dict[str, Any]] = {
    "post reads pre": {
        "encoder": {"n_layers": 1, "positions": "rotary", "norm": "rms", "block": {"attention": {"n_heads": 2}}},
        "decoder": {"positions": "learned", "blocks": ["post", {"kind": "post", "cross_attention": {"n_kv_heads": 1}}]},
    },
    "windows read a pattern": {
        "encoder": {"n_layers": 2, "positions": "sinusoidal", "pattern": [{}, {"feedforward": "none"}]},
        "decoder": {
            "n_layers": 3,
            "positions": "rotary",
            "block": {"attention": {"mask": {"kind": "window", "size": 3}}, "cross_attention": {"n_heads": 2}},
            "pattern": [{}, {"cross_attention": "none"}, {"attention": "none"}],
        },
        "embedding": {"scaled": True},
    },
}


@pytest.mark.parametrize("stacks", DIFFERENT)
@pytest.mark.parametrize("name", PROPERTIES)
def test_an_encoder_and_a_decoder_of_their_own_kinds(name: str, stacks: str) -> None:
    model = build({**SIZES, **DIFFERENT[stacks]}).double().eval()
    stir(model)
    PROPERTIES[name](model)


# --- cost ---


@pytest.mark.parametrize(("source", "target"), [(24, 24), (7, 19), (24, 1)])
def test_flops_of_a_pair_are_the_counted_ones(source: int, target: int) -> None:
    model = pair({
        "n_layers": 3,
        "pattern": [{}, {"cross_attention": "none"}],
        "block": {"attention": {"kernel": "reference", "n_kv_heads": 2}},
    })  # fmt: skip
    model.encoder.blocks[0].attention.options = DotProduct(kernel="reference")
    model.encoder.blocks[1].attention.options = DotProduct(kernel="reference")
    with FlopCounterMode(display=False) as counter:
        logits(model, tokens(model, 1, target), source=tokens(model, 1, source))
    assert counter.get_total_flops() == pair_flops(model, source, target)


def test_mean_loss_of_a_decoder_is_unmoved() -> None:
    """A decoder alone has the same parameters under the same names as ever, and no part of a source."""
    model = build(SIZES)
    assert not any("cross" in name or "encoder" in name for name, _ in model.named_modules() if "." in name)
    assert float(mean_loss(model, tokens(model, 2, 6)).detach()) == pytest.approx(math.log(11), abs=0.2)
