"""Independent witnesses of where norms stand: GPT-NeoX, Phi, Gemma 2 and BLOOM of Hugging Face compute the same.

GPT-NeoX (Black et al. 2022): attention and feed-forward side by side, each with its norm. Phi (Li et al. 2023): with
one norm for both, as GPT-J. Gemma 2 (Gemma Team 2024): a norm before and after each, gains of 1 + w, gated GELU, scaled
embedding. BLOOM (Le Scao et al. 2022): a norm after the embedding, ALiBi.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import IGNORE

transformers = pytest.importorskip("transformers")

V, D, LENGTH, LAYERS = 53, 32, 30, 2
Renamed = dict[str, Tensor]


def under(path: str, names: dict[str, str], theirs: dict[str, Tensor]) -> Renamed:
    """Their tensors below each name as weft's below another; `path` is that of their layers."""
    found = {}
    for name, tensor in theirs.items():
        module, _, leaf = name.rpartition(".")
        layer, _, below = module.removeprefix(path).partition(".") if module.startswith(path) else ("", "", module)
        if below in names:
            found[f"decoder.blocks.{layer}.{names[below]}.{leaf}" if layer else f"{names[below]}.{leaf}"] = tensor
    return found


def split(fused: str, theirs: dict[str, Tensor], path: str) -> Renamed:
    """One matrix for queries, keys and values, head by head (heads x 3 x width), as three."""
    found = {}
    for name, tensor in theirs.items():
        if f".{fused}." in name:
            layer, leaf = name.removeprefix(path).partition(".")[0], name.rpartition(".")[2]
            heads = tensor.view(4, 3, D // 4, *tensor.shape[1:])
            for index, each in enumerate(("query", "key", "value")):
                found[f"decoder.blocks.{layer}.attention.{each}.{leaf}"] = heads[:, index].flatten(0, 1)
    return found


def neox() -> tuple[Any, dict[str, Any], Any]:
    theirs = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=48,
        rotary_pct=0.5, max_position_embeddings=LENGTH, use_parallel_residual=True, initializer_range=0.2,
        hidden_act="gelu",
    ))  # fmt: skip
    mine = {
        "embedding": {"tied": False},
        "decoder": {
            "positions": {"kind": "rotary", "share": 0.5},
            "block": {
                "kind": "parallel", "shared_norm": False, "attention": {"bias": True},
                "feedforward": {"kind": "gelu", "width": 48, "bias": True},
            },
        },
    }  # fmt: skip
    names = {
        "gpt_neox.embed_in": "embedding.tokens", "embed_out": "heads.lm.projection", "lm_head": "heads.lm.projection",
        "gpt_neox.final_layer_norm": "decoder.norm", "attention.dense": "attention.output",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "feedforward_norm",
        "mlp.dense_h_to_4h": "feedforward.up", "mlp.dense_4h_to_h": "feedforward.down",
    }  # fmt: skip
    path = "gpt_neox.layers."
    return theirs, mine, lambda held: under(path, names, held) | split("query_key_value", held, path)


def phi() -> tuple[Any, dict[str, Any], Any]:
    theirs = transformers.PhiForCausalLM(transformers.PhiConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=48,
        partial_rotary_factor=0.5, max_position_embeddings=LENGTH, initializer_range=0.2, embd_pdrop=0.0,
        resid_pdrop=0.0, attention_dropout=0.0,
    ))  # fmt: skip
    mine = {
        "embedding": {"tied": False},
        "decoder": {
            "positions": {"kind": "rotary", "share": 0.5},
            "block": {
                "kind": "parallel", "attention": {"bias": True},
                "feedforward": {"kind": "gelu", "approximate": "tanh", "width": 48, "bias": True},
            },
        },
        "heads": {"lm": {"bias": True}},
    }  # fmt: skip
    names = {
        "model.embed_tokens": "embedding.tokens", "lm_head": "heads.lm.projection",
        "model.final_layernorm": "decoder.norm", "input_layernorm": "norm",
        "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value", "self_attn.dense": "attention.output",
        "mlp.fc1": "feedforward.up", "mlp.fc2": "feedforward.down",
    }  # fmt: skip
    return theirs, mine, lambda held: under("model.layers.", names, held)


def gemma2() -> tuple[Any, dict[str, Any], Any]:
    theirs = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        vocab_size=V, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        intermediate_size=48, max_position_embeddings=LENGTH, initializer_range=0.2, query_pre_attn_scalar=6,
        attn_logit_softcapping=None, final_logit_softcapping=None, layer_types=["full_attention"] * LAYERS,
        pad_token_id=0,
    ))  # fmt: skip
    mine = {
        "embedding": {"scaled": True},
        "decoder": {
            "positions": "rotary",
            "norm": {"kind": "rms", "zero_centered": True},
            "block": {
                "kind": "sandwich", "attention": {"n_kv_heads": 2, "head_width": 6},
                "feedforward": {"kind": "geglu", "approximate": "tanh", "width": 48},
            },
        },
    }  # fmt: skip
    names = {
        "model.embed_tokens": "embedding.tokens", "model.norm": "decoder.norm",
        "input_layernorm": "attention_norm.before", "post_attention_layernorm": "attention_norm.after",
        "pre_feedforward_layernorm": "feedforward_norm.before", "post_feedforward_layernorm": "feedforward_norm.after",
        "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value", "self_attn.o_proj": "attention.output",
        "mlp.gate_proj": "feedforward.gate", "mlp.up_proj": "feedforward.up", "mlp.down_proj": "feedforward.down",
    }  # fmt: skip
    return theirs, mine, lambda held: under("model.layers.", names, held)


def bloom() -> tuple[Any, dict[str, Any], Any]:
    theirs = transformers.BloomForCausalLM(transformers.BloomConfig(
        vocab_size=V, hidden_size=D, n_layer=LAYERS, n_head=4, initializer_range=0.2, hidden_dropout=0.0,
        attention_dropout=0.0, pad_token_id=0,
    ))  # fmt: skip
    mine = {
        "decoder": {
            "positions": "alibi",
            "embedding_norm": "layer",
            "block": {
                "attention": {"bias": True},
                "feedforward": {"kind": "gelu", "approximate": "tanh", "bias": True},
            },
        },
    }
    names = {
        "transformer.word_embeddings": "embedding.tokens", "transformer.word_embeddings_layernorm":
        "decoder.embedding_norm", "transformer.ln_f": "decoder.norm", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feedforward_norm", "self_attention.dense": "attention.output",
        "mlp.dense_h_to_4h": "feedforward.up", "mlp.dense_4h_to_h": "feedforward.down",
    }  # fmt: skip
    path = "transformer.h."
    return theirs, mine, lambda held: under(path, names, held) | split("query_key_value", held, path)


# their angles, slopes and softmax are float32 whatever the model is
TOLERANCE = 3e-7


@pytest.mark.parametrize("name", ["neox", "phi", "gemma2", "bloom"])
def test_logits_loss_and_gradients(name: str) -> None:
    theirs, declared, rename = globals()[name]()
    theirs = theirs.double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    declared["decoder"]["n_layers"] = LAYERS
    mine = build({"d_model": D, "vocab_size": V, "max_length": LENGTH, **declared}).double().eval()
    copy(mine, rename(dict(theirs.named_parameters())))
    x_BT = torch.randint(1, V, (3, 12), generator=torch.Generator().manual_seed(1))
    output, answer = mine(x_BT), theirs(x_BT, labels=x_BT)
    close(output.logits_BTV.detach(), answer.logits.detach(), TOLERANCE)
    targets_BT = torch.cat([x_BT[:, 1:], torch.full((3, 1), IGNORE)], dim=1)
    term = mine.heads["lm"].loss(output.x_BTD, targets_BT)
    (term.total / term.count).backward()
    answer.loss.backward()
    grads = rename({path: x.grad for path, x in theirs.named_parameters()})
    assert len(grads) > 20
    for path, grad in grads.items():
        found = mine.get_parameter(path).grad
        # softmax does not feel a shift of all scores: the keys' bias has no gradient but rounding, theirs in float32
        scale = max(float(grad.abs().max()), 1e-2 if path.endswith("key.bias") else 0.0)
        torch.testing.assert_close(found / scale, grad / scale, rtol=0, atol=10 * TOLERANCE, msg=path)


def copy(mine: Transformer, state: Renamed) -> None:
    assert state.keys() == dict(mine.named_parameters()).keys()
    with torch.no_grad():
        for path, parameter in mine.named_parameters():
            parameter.copy_(state[path])
