"""Schemes of positions: figures from the papers, distances that count, precision far out (and see `test_reference`)."""

from __future__ import annotations

import math

import parts
import pytest
import torch
from properties import close, logits, tokens

from weft.errors import WeftError
from weft.nn import Alibi, Dims, Inputs, Sides, Sinusoidal
from weft.nn.positions import alibi_slopes

DIMS = Dims(d_model=6, max_length=9, vocab_size=7)


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


@pytest.mark.parametrize("kind", ["alibi", "rotary"])
def test_a_text_may_begin_anywhere(kind: str) -> None:
    """Only distances matter: what stands left of a text as padding changes nothing, however much it is."""
    model = parts.small({"positions": kind, "block": {"attention": {"n_heads": 4, "n_kv_heads": 2}}})
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
        parts.small({"block": {"attention": {"positions": kind}}})
