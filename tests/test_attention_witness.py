"""Attention beside transformers': Gemma 2's cap, gpt-oss's sinks, Qwen's gate and biases, Longformer's mask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from weft.checking.compare import close
from weft.config import SLOTS
from weft.nn import Call, Context, Dims, attend
from weft.nn.masks import Causal, Everything
from weft.nn.scores import SinkWeighting, SoftmaxWeighting
from weft.nn.sides import Sides

DIMS = Dims(d_model=12, max_length=9, vocab_size=7)
PLACES = torch.arange(6)[None]
SIDES = Sides(PLACES, PLACES, aligned=True)
HIDDEN = torch.zeros(6, 6, dtype=torch.float64).masked_fill(torch.ones(6, 6).triu(1) > 0, -torch.inf)
SINGLE = 1e-6
"""Where transformers computes softmax or norms in float32."""


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


QKV = normal(0, 2, 4, 6, 3), normal(1, 2, 2, 6, 3), normal(2, 2, 2, 6, 3)


def test_gemma_2_caps_scores() -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    module = SimpleNamespace(num_key_value_groups=2, training=False)
    expected, _ = eager_attention_forward(module, *QKV, HIDDEN, scaling=1.7, softcap=2.0)
    call = Call(*QKV, Causal(), SIDES, SoftmaxWeighting(1.7, 2.0))
    for kernel in ("reference", "blocked"):
        close(attend(call, kernel).transpose(1, 2), expected, SINGLE)


def test_gpt_oss_has_sinks() -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    weighting = SinkWeighting(1.7, None, 4).double()
    weighting.sinks.data = normal(3, 4)
    module = SimpleNamespace(num_key_value_groups=2, training=False, sinks=weighting.sinks)
    expected, _ = eager_attention_forward(module, *QKV, HIDDEN, 1.7)
    for kernel in ("reference", "blocked"):
        mine = attend(Call(*QKV, Causal(), SIDES, weighting), kernel)
        close(mine.transpose(1, 2).detach(), expected.detach(), 1e-12)


def ours(options: dict[str, Any], matrices: dict[str, nn.Linear]) -> nn.Module:
    """weft's attention with the matrices and biases of another."""
    part = SLOTS["attention"].choose({"n_heads": 4, "n_kv_heads": 2, "head_width": 6, **options})
    module = part.build(DIMS, SLOTS["positions"].choose("none")).double().eval()
    for name, theirs in matrices.items():
        mine = module.get_submodule(name)
        assert (mine.bias is None) == (theirs.bias is None), f"{name}'s bias"
        mine.load_state_dict(theirs.state_dict())
    return module


def run(module: nn.Module, x_BTD: Tensor) -> Tensor:
    scheme = SLOTS["positions"].choose("none").build(DIMS)
    return module(x_BTD, Context(Everything(), SIDES, scheme, {module.prepared_key: None})).detach()


def test_qwen_3_next_gates_what_it_mixed() -> None:
    """Its query matrix holds the gate's rows too, head by head, and its norms are of each head."""
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention

    config = Qwen3NextConfig(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
    config._attn_implementation = "eager"
    theirs = Qwen3NextAttention(config, 0).double().eval()
    both = theirs.q_proj.weight.unflatten(0, (4, 2, 6))
    query, gate = (nn.Linear(12, 24, bias=False).double() for _ in range(2))
    query.weight.data, gate.weight.data = both[:, 0].flatten(0, 1).clone(), both[:, 1].flatten(0, 1).clone()
    matrices = {"query": query, "key": theirs.k_proj, "value": theirs.v_proj, "output": theirs.o_proj}
    options = {"gate": "elementwise", "qk_norm": {"kind": "rms", "epsilon": 1e-6}}
    mine = ours(options, {**matrices, "output_gate.projection": gate})
    nn.init.ones_(mine.query_norm.weight)
    nn.init.ones_(mine.key_norm.weight)
    x_BTD, still = normal(4, 2, 6, 12), (torch.ones(2, 6, 6).double(), torch.zeros(2, 6, 6).double())
    close(run(mine, x_BTD), theirs(x_BTD, still, HIDDEN)[0].detach(), SINGLE)


def test_qwen_2_has_biases_but_for_the_output() -> None:
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

    config = Qwen2Config(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6)
    config._attn_implementation = "eager"
    theirs = Qwen2Attention(config, 0).double().eval()
    for parameter in theirs.parameters():
        parameter.data = normal(5, *parameter.shape)
    matrices = {"query": theirs.q_proj, "key": theirs.k_proj, "value": theirs.v_proj, "output": theirs.o_proj}
    mine = ours({"bias": ["query", "key", "value"]}, matrices)
    x_BTD, still = normal(4, 2, 6, 12), (torch.ones(2, 6, 6).double(), torch.zeros(2, 6, 6).double())
    close(run(mine, x_BTD), theirs(x_BTD, still, HIDDEN)[0].detach(), SINGLE)


def test_longformer_is_its_mask() -> None:
    """Transformers' Longformer attention, its global projections set equal to the local ones."""
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    theirs = LongformerSelfAttention(
        LongformerConfig(hidden_size=8, num_attention_heads=2, attention_window=[4], num_hidden_layers=1), 0
    )
    theirs = theirs.double().eval()
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name}_global").load_state_dict(getattr(theirs, name).state_dict())
    x_BTD = normal(0, 2, 16, 8)
    first = (torch.arange(16) < 1).expand(2, 16)
    expected = theirs(x_BTD, attention_mask=torch.where(first, 10000.0, 0.0).double(),
                      is_index_masked=torch.zeros(2, 16, dtype=torch.bool), is_index_global_attn=first,
                      is_global_attn=True)[0]  # fmt: skip
    q, k, v = (getattr(theirs, name)(x_BTD).unflatten(-1, (2, 4)).transpose(1, 2) for name in ("query", "key", "value"))
    places = torch.arange(16)[None]
    mask = SLOTS["mask"].choose({"any": [{"kind": "window", "size": 3}, "global"]}).build(DIMS, Everything())
    mine = attend(Call(q, k, v, mask, Sides(places, places), SoftmaxWeighting(0.5)), "reference")
    close(mine.transpose(1, 2).flatten(2).detach(), expected.detach(), 1e-6)  # theirs fills in float32's lowest numbers
