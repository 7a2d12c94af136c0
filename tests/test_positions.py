"""Schemes of positions: figures from the papers, distances that count, precision far out (and see `test_reference`)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.errors import WeftError
from weft.models.build import build
from weft.nn import T5, Alibi, Dims, Inputs, Learned, Sides, Sinusoidal
from weft.nn.positions import alibi_slopes

DIMS = Dims(d_model=6, max_length=9, vocab_size=7, heads=frozenset({2}))


def test_slopes_are_the_paper_s() -> None:
    """Press et al. 2022, section 3: 1/2, 1/4, ..., 1/256 for 8 heads; for 16 each square root between them too."""
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(16) == pytest.approx([2.0 ** (-power / 2) for power in range(1, 17)])
    assert alibi_slopes(1) == [2.0**-8]
    # no power of two: those of 8 heads, then the first, third, ... of 16
    assert alibi_slopes(12) == pytest.approx([*alibi_slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert alibi_slopes(3) == pytest.approx([2**-4, 2**-8, 2**-2])
    for heads in range(1, 40):
        slopes = alibi_slopes(heads)
        assert len(set(slopes)) == len(slopes) == heads
        assert all(0 < slope < 1 for slope in slopes)


def test_a_bias_counts_the_distance_on_both_sides() -> None:
    places = torch.tensor([[0, 1, 2, 3], [5, 5, 6, 7]])
    bias = Alibi().build(DIMS).bias(Sides(places, places[:, :3]), 2, torch.float64)
    assert bias.shape == (2, 2, 4, 3)
    close(bias[0, 0], -(2.0**-4) * torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0], [3, 2, 1]]).double())
    close(bias[1, 1], -(2.0**-8) * torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0], [2, 2, 1]]).double())


def test_a_bias_far_away_is_exact_in_low_precision() -> None:
    """bfloat16 has no 1001: a distance is never rounded, only its product with the slope may be."""
    far, near = torch.tensor([[1001]]), torch.tensor([[0, 1]])
    bias = Alibi().build(DIMS).bias(Sides(far, near), 8, torch.bfloat16)
    assert bias.dtype == torch.float32
    assert bias[0, 0, 0].tolist() == [-500.5, -500.0]


@pytest.mark.parametrize("kind", ["alibi", "rotary", "t5"])
def test_a_text_may_begin_anywhere(kind: str) -> None:
    """Only distances matter: what stands left of a text as padding changes nothing, however much it is."""
    model = small({"positions": kind, "block": {"attention": {"n_heads": 4, "n_kv_heads": 2}}})
    x_BT = tokens(model, 2, 9)
    padded_BT = torch.cat([torch.zeros(2, 40, dtype=torch.long), x_BT], dim=1)
    valid_BT = torch.arange(49).expand(2, -1) >= 40
    close(logits(model, Inputs(tokens_BT=padded_BT, valid_BT=valid_BT))[:, 40:], logits(model, x_BT))


def test_waves_are_exact_far_out_and_end_nowhere() -> None:
    """Float64 angles, then cast: at position 10 million a float32 angle would be off by a half."""
    scheme = Sinusoidal().build(Dims(d_model=5, max_length=9, vocab_size=7))
    far = 10_000_019
    found = scheme.embed(torch.zeros(1, 1, 5), torch.tensor([[far]]))[0, 0]
    angles = [far / 10_000 ** (channel / 5) for channel in (0, 2, 4)]
    expected = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1]), math.sin(angles[2])]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert scheme.limit is None
    assert not list(scheme.parameters()), "nothing is learned"


def test_waves_tell_a_shift_by_a_rotation() -> None:
    """Vaswani et al. 2017, section 3.5: PE(pos + k) is a linear function of PE(pos), the same at every pos."""
    waves_TD = Sinusoidal().build(DIMS).embed(torch.zeros(1, 30, 6).double(), torch.arange(30)[None])[0]
    products = waves_TD @ waves_TD.T
    for shift in (1, 4, 9):
        diagonal = products.diagonal(shift)
        close(diagonal, diagonal[:1].expand_as(diagonal))
        assert diagonal[0] < products[0, 0]


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_what_enters_with_the_embedding_is_refused_in_a_layer(kind: str) -> None:
    with pytest.raises(WeftError, match=f"attention.positions: {kind} positions enter where a stack begins"):
        small({"block": {"attention": {"positions": kind}}})


# --- learned, from a row of the table on ---


def test_a_table_that_begins_later_is_opt_s_and_roberta_s() -> None:
    pytest.importorskip("transformers")
    from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    scheme = Learned(offset=2).build(DIMS)
    theirs = OPTLearnedPositionalEmbedding(9, 6)
    scheme.table.load_state_dict(theirs.state_dict())  # of 9 + 2 rows
    assert torch.equal(scheme.embed(torch.zeros(1, 9, 6), torch.arange(9)[None]), theirs(torch.ones(1, 9)))
    rows = RobertaEmbeddings.create_position_ids_from_input_ids(torch.full((1, 9), 7), padding_idx=1)
    assert torch.equal(scheme.embed(torch.zeros(1, 9, 6), torch.arange(9)[None]), scheme.table(rows))
    assert scheme.limit == 9, "the rows before the first position number no token"


# --- T5's biases ---


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("count", "reach"), [(32, 128), (16, 64), (8, 20), (6, 7)])
def test_buckets_are_transformers(count: int, reach: int, both_ways: bool) -> None:
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    scheme = T5(num_buckets=count, max_distance=reach).build(replace(DIMS, causal=not both_ways))
    distances = torch.arange(-5 * reach, 5 * reach)
    expected = T5Attention._relative_position_bucket(-distances, both_ways, count, reach)
    assert torch.equal(scheme.bucket(distances), expected)
    assert set(expected.tolist()) == set(range(count)) - ({count // 2} if both_ways else set())


@pytest.mark.parametrize("causal", [False, True])
def test_a_learned_bias_is_transformers(causal: bool) -> None:
    """That of T5's first layer, for all queries and for the last ones alone, as a cache has them."""
    pytest.importorskip("transformers")
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(d_model=8, d_kv=4, num_heads=2, is_decoder=causal)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    scheme = T5().build(replace(DIMS, causal=causal))
    scheme.table.load_state_dict(theirs.relative_attention_bias.state_dict())
    places = torch.arange(300)[None]
    torch.testing.assert_close(
        scheme.bias(Sides(places, places), 2, torch.float32), theirs.compute_bias(300, 300), rtol=0, atol=0
    )
    torch.testing.assert_close(
        scheme.bias(Sides(places[:, 290:], places), 2, torch.bfloat16),
        theirs.compute_bias(10, 300, past_seen_tokens=290),
        rtol=0,
        atol=0,
    )


def test_derivatives_of_a_learned_bias_by_finite_differences() -> None:
    scheme, places = T5(num_buckets=4, max_distance=3).build(DIMS), torch.arange(5)[None]
    names = dict(scheme.named_parameters())
    weight = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)

    def bias(weight: torch.Tensor) -> torch.Tensor:
        inside = (Sides(places, places), 2, torch.float64)
        return torch.func.functional_call(_Bias(scheme), {f"scheme.{name}": weight for name in names}, inside)

    assert torch.autograd.gradcheck(bias, (weight,))


class _Bias(torch.nn.Module):
    """A scheme's bias as a forward."""

    def __init__(self, scheme: torch.nn.Module) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, *inside: object) -> torch.Tensor:
        return self.scheme.bias(*inside)


def test_one_table_serves_all_layers_of_a_stack() -> None:
    own = {"attention": {"n_heads": 2, "positions": {"kind": "t5", "num_buckets": 6}}}
    block = {"attention": {"n_heads": 4}}
    model = small({"n_layers": 4, "positions": "t5", "block": block, "pattern": [{}, {}, {}, own]})
    tables = {name: list(p.shape) for name, p in model.named_parameters() if "table" in name}
    assert tables == {
        "decoder.positions.table.weight": [32, 4],
        "decoder.blocks.3.attention.scheme.table.weight": [6, 2],
    }


def test_layers_of_the_same_declaration_have_tables_of_their_own() -> None:
    """What the first layer has learned is no other's, nor the stack's."""
    own = {"attention": {"positions": "t5"}}
    model = small({"n_layers": 3, "positions": "t5", "pattern": [own, {}, own]})
    x_BT = tokens(model, 2, 7)
    before = logits(model, x_BT)
    tables = [p for name, p in model.named_parameters() if "table" in name]
    assert len(tables) == 3
    for table in tables:
        kept = table.data.clone()
        table.data.mul_(2)
        assert (logits(model, x_BT) - before).abs().max() > 1e-6
        table.data.copy_(kept)
    close(logits(model, x_BT), before, 1e-14)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"pattern": [{}, {"attention": {"n_heads": 2}}]}, r"one number of heads \(found: 2 and 4\); give them"),
        ({"block": {"attention": "none"}}, r"positions: t5 .* \(found: none\)"),
        ({"positions": {"kind": "t5", "max_distance": 16}}, "positions.max_distance = 16: the distances below 16 have"),
        ({"positions": {"kind": "t5", "num_buckets": 1}}, "positions.num_buckets = 1: should be greater"),
    ],
)
def test_what_one_table_cannot_serve_is_refused(decoder: dict[str, object], message: str) -> None:
    with pytest.raises(WeftError, match=message):
        small({"positions": "t5", **decoder})


@pytest.mark.parametrize("count", [2, 5])
def test_buckets_for_both_sides_are_even(count: int) -> None:
    stack = {"n_layers": 1, "positions": {"kind": "t5", "num_buckets": count}}
    build({**SIZES, "decoder": stack})
    with pytest.raises(WeftError, match=f"positions.num_buckets = {count}: half of the buckets"):
        build({**SIZES, "decoder": None, "encoder": stack})
