"""Rotary positions: layouts, shares and scalings, against transformers and against what they promise."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import small
from weft.errors import WeftError
from weft.models.cost import generation_memory
from weft.nn import Dims, Inputs, Rotary, RotaryScaling, fused
from weft.nn.scaling import Turning

DIMS = Dims(d_model=8, max_length=9, vocab_size=7)


def frequencies(scaling: dict[str, Any], theta: float = 1e4, width: int = 128, length: int = 9) -> Tensor:
    """P, of a text of that length, in a model made for 2,048 tokens."""
    turning = Turning(theta, width, 2048, torch.arange(length)[None])
    found = RotaryScaling.choose(scaling).frequencies(turning)
    return found if found.dim() == 1 else found[0, 0]


# name, weft's declaration, transformers' parameters, theta, width, length of the text
SCALINGS = [
    ("linear", {"factor": 4.0}, {"factor": 4.0}, 1e4, 128, 9),
    ("dynamic", {"factor": 2.0, "original_length": 2048}, {"factor": 2.0}, 1e4, 128, 9),
    ("dynamic", {"factor": 2.0}, {"factor": 2.0}, 1e4, 80, 5000),
    ("ntk", {"factor": 4.0}, {"factor": 1.0}, 1e4, 64, 4 * 2048),  # dynamic of factor 1: length/original
    ("llama-3", {"factor": 8.0, "original_length": 8192},
     {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
     5e5, 128, 9),  # Llama 3.1
    ("llama-3", {"factor": 32.0, "original_length": 512, "low_freq_factor": 0.5, "high_freq_factor": 2.0},
     {"factor": 32.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0, "original_max_position_embeddings": 512},
     1e4, 64, 9),
    ("yarn", {"factor": 4.0, "original_length": 32768},
     {"factor": 4.0, "original_max_position_embeddings": 32768}, 1e6, 128, 9),  # Qwen 2.5
    ("yarn", {"factor": 16.0, "original_length": 512, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.5},
     {"factor": 16.0, "original_max_position_embeddings": 512, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.5},
     1e4, 32, 9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "mine", "theirs", "theta", "width", "length"), SCALINGS)
def test_frequencies_are_transformers(
    kind: str, mine: dict[str, Any], theirs: dict[str, Any], theta: float, width: int, length: int
) -> None:
    """To 2e-6: transformers computes them in float32."""
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    name = {"ntk": "dynamic", "llama-3": "llama3"}.get(kind, kind)
    config = SimpleNamespace(
        rope_parameters={"rope_type": name, "rope_theta": theta, **theirs}, head_dim=width, hidden_size=4 * width,
        num_attention_heads=4, max_position_embeddings=2048, per_layer_config={},
        standardize_rope_params=lambda: None,
    )  # fmt: skip
    expected_P, factor = utils.ROPE_INIT_FUNCTIONS[name](config, None, seq_len=length)
    found_P = frequencies({"kind": kind, **mine}, theta, width, length)
    assert found_P.dtype == torch.float64
    torch.testing.assert_close(found_P, expected_P.double(), rtol=2e-6, atol=0)
    assert RotaryScaling.choose({"kind": kind, **mine}).magnitude == pytest.approx(factor, rel=1e-12)
    if length > 9 or kind not in ("none", "dynamic"):
        assert not torch.allclose(found_P, frequencies({"kind": "none"}, theta, width), rtol=1e-3)


def test_turned_as_transformers_turns() -> None:
    """GPT-NeoX turns a quarter of each head, pairs half a turned part apart; GPT-J pairs neighbours; YaRN stretches."""
    pytest.importorskip("transformers")
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox import modeling_gpt_neox as neox
    from transformers.models.gptj import modeling_gptj as gptj

    generator = torch.Generator().manual_seed(0)
    q_BHTK, k_BHTK = torch.randn(2, 1, 3, 9, 16, generator=generator, dtype=torch.float64)
    places_BT = torch.arange(9)[None] + 4
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    for extra, scaling in (
        ({"rope_type": "default"}, "none"),
        (yarn, {"kind": "yarn", "factor": 4.0, "original_length": 16}),
    ):
        rope = {"rope_theta": 500.0, "partial_rotary_factor": 0.25, **extra}
        config = GPTNeoXConfig(hidden_size=48, num_attention_heads=3, max_position_embeddings=64, rope_parameters=rope)
        theirs = neox.GPTNeoXRotaryEmbedding(config)(q_BHTK, places_BT)
        scheme = Rotary(theta=500.0, share=0.25, scaling=scaling).build(DIMS)
        mine = scheme.rotate(q_BHTK, k_BHTK, scheme.prepare(places_BT, 16))
        for found, expected in zip(mine, neox.apply_rotary_pos_emb(q_BHTK, k_BHTK, *theirs), strict=True):
            close(found, expected, 1e-6)
    scheme = Rotary(share=0.5, layout="interleaved").build(DIMS)
    found = scheme.rotate(q_BHTK, k_BHTK, scheme.prepare(places_BT, 16))[0]
    sin_TP, cos_TP = gptj.create_sinusoidal_positions(20, 8)[places_BT[0]].chunk(2, -1)
    turned_BTHK = gptj.apply_rotary_pos_emb(q_BHTK.transpose(1, 2)[..., :8], sin_TP[None], cos_TP[None])
    close(found, torch.cat([turned_BTHK.transpose(1, 2), q_BHTK[..., 8:]], -1), 1e-6)


def test_layouts_differ_by_the_order_of_channels_only() -> None:
    """What pairs neighbours is what pairs halves, the rows of queries' and keys' matrices in another order."""
    half = small({"positions": {"kind": "rotary", "share": 0.5}, "block": {"attention": {"n_heads": 2}}})
    interleaved = small(
        {"positions": {"kind": "rotary", "share": 0.5, "layout": "interleaved"}, "block": {"attention": {"n_heads": 2}}}
    )
    state = dict(half.state_dict())
    order = [0, 2, 1, 3, 4, 5, 6, 7]  # of 8 channels 4 are turned: the pairs (0, 2), (1, 3) become (0, 1), (2, 3)
    for name in state:
        if name.endswith(("attention.query.weight", "attention.key.weight")):
            state[name] = state[name].unflatten(0, (2, 8))[:, order].flatten(0, 1)
    interleaved.load_state_dict(state)
    x_BT = tokens(half, 2, 9)
    close(logits(interleaved, x_BT), logits(half, x_BT))
    half.load_state_dict(state)
    assert (logits(half, x_BT) - logits(interleaved, x_BT)).abs().max() > 1e-3


def test_scalings_keep_what_they_promise() -> None:
    plain_P = frequencies({"kind": "none"})
    ntk_P = frequencies({"kind": "ntk", "factor": 8.0})
    assert ntk_P[0] == plain_P[0], "the fastest pair turns as before"
    close(plain_P[-1] / ntk_P[-1], torch.tensor(8.0).double(), 1e-12)  # the slowest is interpolated
    for kind in ("llama-3", "yarn"):
        ratio_P = plain_P / frequencies({"kind": kind, "factor": 8.0, "original_length": 1024})
        turns_P = 1024 * plain_P / (2 * math.pi)
        assert bool((ratio_P[turns_P > 40] == 1).all()), "pairs with many turns in the original length stay"
        close(ratio_P[turns_P < 0.9], torch.full_like(ratio_P[turns_P < 0.9], 8.0), 1e-12)
        assert bool((ratio_P.diff() >= -1e-12).all())
        assert bool(((ratio_P > 1.01) & (ratio_P < 7.99)).any()), "some lie between"
    assert torch.equal(frequencies({"kind": "dynamic", "factor": 8.0}, length=2048), plain_P)
    dynamic_P = frequencies({"kind": "dynamic", "factor": 8.0}, length=2 * 2048)
    close(dynamic_P, frequencies({"kind": "ntk", "factor": 9.0}), 1e-12)  # 8 x 2 - 7


def test_derivatives_of_a_rotation_that_stretches_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    x, angles = torch.randn(2, 3, 7, generator=generator).double().requires_grad_(), torch.randn(1, 3, 3).double()
    cos, sin = 1.3 * angles.cos(), 1.3 * angles.sin()
    for interleaved in (False, True):
        assert torch.autograd.gradcheck(lambda x, i=interleaved: fused.rotate(x, cos, sin, interleaved=i), (x,))


# --- dynamic scaling: angles that depend on the whole text's length ---


def dynamic(original: int | None = 5, **options: Any) -> Any:
    scaling = {"kind": "dynamic", "factor": 2.0, "original_length": original}
    return small({"positions": {"kind": "rotary", "scaling": scaling}, **options})


def test_each_text_s_own_length_decides() -> None:
    """Of rows, of padded rows, and of documents that are packed into a row: as if each were alone."""
    model = dynamic()
    x_BT = tokens(model, 2, 12)
    for row, length in ((0, 12), (1, 7)):
        valid_BT = torch.arange(12).flip(0) < torch.tensor([[12], [7]])
        alone = logits(model, x_BT[row, None, 12 - length :])[0]
        close(logits(model, Inputs(tokens_BT=x_BT, valid_BT=valid_BT))[row, 12 - length :], alone)
    lengths = [3, 9]
    documents_BT = torch.tensor([[0] * 3 + [1] * 9]).expand(2, -1)
    positions_BT = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    packed = logits(model, Inputs(tokens_BT=x_BT, documents_BT=documents_BT, positions_BT=positions_BT))
    close(packed, torch.cat([logits(model, piece_BT) for piece_BT in x_BT.split(lengths, dim=1)], dim=1))
    plain = small()
    close(packed[:, :3], logits(plain, x_BT[:, :3]))
    assert (logits(model, x_BT) - logits(plain, x_BT)).abs().max() > 1e-3


def test_no_cache_where_each_token_changes_all_angles() -> None:
    model = dynamic()
    x_BT = tokens(model, 2, 6)
    cache = model.new_cache(2)
    close(
        torch.cat([logits(model, x_BT[:, :3], cache), logits(model, x_BT[:, 3:5], cache)], 1),
        logits(model, x_BT[:, :5]),
    )
    with pytest.raises(WeftError, match=r"6 tokens through a cache: .* scaling: dynamic.* beyond 5 .*use_cache=False"):
        logits(model, x_BT[:, 5:], cache)
    assert cache.lengths == [5, 5]
    assert generation_memory(model.config, 2, 5).cache > 0
    assert generation_memory(model.config, 2, 6).cache == 0
    own = small(
        {"block": {"attention": {"positions": {"kind": "rotary", "scaling": {"kind": "dynamic", "factor": 2}}}}}
    )
    own.decoder.check_cached(24)  # of the model's length
    with pytest.raises(WeftError, match="beyond 24"):
        own.decoder.check_cached(25)


# --- what is refused ---


REFUSED = [
    ("linear", "positions.scaling.factor: needs a value"),
    ({"kind": "linear", "factor": 0.5}, "positions.scaling.factor = 0.5: should be greater than or equal to 1"),
    ({"kind": "yarn", "factor": 2}, "positions.scaling.original_length: needs a value"),
    (
        {"kind": "yarn", "factor": 2, "original_length": 8, "beta_slow": 32},
        "beta_slow = 32.0 should be less than beta_fast = 32.0",
    ),
    (
        {"kind": "llama-3", "original_length": 8, "high_freq_factor": 1},
        "low_freq_factor = 1.0 should be less than high_freq_factor",
    ),
    ("llama3", "no scaling called 'llama3'; did you mean 'llama-3'?"),
]


@pytest.mark.parametrize(("scaling", "message"), REFUSED)
def test_scalings_that_make_no_sense_are_refused(scaling: Any, message: str) -> None:
    with pytest.raises(WeftError, match=re.escape(message)):
        small({"positions": {"kind": "rotary", "scaling": scaling}})


@pytest.mark.parametrize("kind", ["ntk", "dynamic"])
def test_one_pair_has_no_base_to_change(kind: str) -> None:
    model = small({"positions": {"kind": "rotary", "share": 0.5, "scaling": {"kind": kind, "factor": 2}}})
    with pytest.raises(WeftError, match=f"positions.scaling: {kind} changes the base"):
        logits(model, tokens(model, 1, 3))


def test_derived_values_are_said_aloud() -> None:
    scalings = {"dynamic": {"factor": 2}, "yarn": {"factor": 2, "original_length": 64}, "ntk": {"factor": 2}}
    said = [Rotary(scaling={"kind": kind, **options}).derived(DIMS) for kind, options in scalings.items()]
    assert said == [
        ["scaling.original_length not given: max_length = 9"],
        ["scaling.attention_factor not given: 0.1 ln(factor) + 1 = 1.06931"],
        [],
    ]
