"""Independent witnesses of encoder and encoder-decoder: Hugging Face's Marian, Pegasus and ESM compute the same.

Marian (Junczys-Dowmunt et al. 2018) is the post-norm transformer of Vaswani et al. 2017; Pegasus (Zhang et al. 2020)
the pre-norm one with a last norm in each stack; ESM (Lin et al. 2023) a pre-norm encoder with rotary positions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import IGNORE, Inputs

pytest.importorskip("transformers")
from transformers import (
    EsmConfig,
    EsmModel,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

V, D, LENGTH = 53, 24, 30
DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
WITNESSES = {
    "marian": (MarianConfig, MarianMTModel, "post"),
    "pegasus": (PegasusConfig, PegasusForConditionalGeneration, "pre"),
}
NAMES = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "feedforward.up",
    "fc2": "feedforward.down",
    "final_layer_norm": "feedforward_norm",
}


def weft_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Marian's and Pegasus' tensors under weft's names; their fixed sinusoids are a table like a learned one."""
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        path, _, leaf = name.removeprefix("model.").rpartition(".")
        stack, _, inside = path.partition(".")
        if name == "final_logits_bias":
            found["heads.lm.projection.bias"] = tensor[0]
        elif path == "shared":
            found["embedding.tokens.weight"] = tensor
        elif inside == "embed_positions":
            found[f"{stack}.positions.table.weight"] = tensor
        elif inside == "layer_norm":
            found[f"{stack}.norm.{leaf}"] = tensor
        elif inside.startswith("layers."):
            _, layer, sublayer = inside.split(".", 2)
            crossing = "cross_" if sublayer.startswith("encoder_attn") else ""
            mine = NAMES[sublayer.replace("encoder_attn", "self_attn")]
            found[f"{stack}.blocks.{layer}.{crossing}{mine}.{leaf}"] = tensor
    return found


def stir(module: nn.Module) -> None:
    """Random values everywhere, biases, gains and fixed tables included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *(x for name, x in module.named_buffers() if "logits_bias" in name)]:
            tensor += 0.1 * torch.randn_like(tensor)


def copied(mine: Transformer, state: dict[str, Tensor]) -> Transformer:
    assert state.keys() == dict(mine.named_parameters()).keys()
    with torch.no_grad():
        for name, parameter in mine.named_parameters():
            parameter.copy_(state[name])
    return mine


def pair(name: str, dtype: torch.dtype) -> tuple[Transformer, Any]:
    """The same small encoder-decoder twice."""
    config, model, kind = WITNESSES[name]
    theirs = model(
        config(
            vocab_size=V, d_model=D, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=2, encoder_ffn_dim=40, decoder_ffn_dim=32, activation_function="relu",
            max_position_embeddings=LENGTH, scale_embedding=True, dropout=0.0, attention_dropout=0.0, pad_token_id=0,
            decoder_start_token_id=0, eos_token_id=None, forced_eos_token_id=None, init_std=0.2,
        )
    ).to(dtype).eval()  # fmt: skip
    stir(theirs)

    def stack(layers: int, heads: int, width: int) -> dict[str, Any]:
        block = {
            "kind": kind,
            "attention": {"n_heads": heads, "bias": True},
            "feedforward": {"kind": "relu", "width": width, "bias": True},
        }
        return {"n_layers": layers, "positions": "learned", "block": block}

    mine = build({
        "d_model": D, "vocab_size": V, "max_length": LENGTH, "embedding": {"tied": True, "scaled": True},
        "encoder": stack(2, 4, 40), "decoder": stack(3, 2, 32), "heads": {"lm": {"bias": True}},
    })  # fmt: skip
    tensors = {**dict(theirs.named_parameters()), "final_logits_bias": theirs.final_logits_bias}
    return copied(mine.to(dtype).eval(), weft_names(tensors)), theirs


def sample(rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("name", WITNESSES)
def test_logits_loss_and_gradients(name: str, dtype: torch.dtype, tolerance: float) -> None:
    mine, theirs = pair(name, dtype)
    source_BS, x_BT = sample(3, 11, 1), sample(3, 7, 2)
    valid_BS = torch.arange(11) < torch.tensor([[11], [4], [8]])
    expected = theirs(input_ids=source_BS, attention_mask=valid_BS.long(), decoder_input_ids=x_BT).logits
    output = mine(x_BT, source=Inputs(tokens_BT=source_BS, valid_BT=valid_BS))
    scale = float(expected.detach().abs().max())
    assert scale > 1
    torch.testing.assert_close(output.logits_BTV / scale, expected / scale, rtol=0, atol=tolerance)
    targets_BT = torch.cat([x_BT[:, 1:], torch.full((3, 1), IGNORE)], dim=1)
    term = mine.heads["lm"].loss(output.x_BTD, targets_BT, chunk=5, smoothing=0.1)
    their_loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), x_BT[:, 1:].flatten(), label_smoothing=0.1)
    loss = term.total / term.count
    assert float(loss.detach()) == pytest.approx(float(their_loss.detach()), rel=tolerance)
    loss.backward()
    theirs.get_input_embeddings().weight.requires_grad_()
    their_loss.backward()
    grads = weft_names({name: x.grad for name, x in theirs.named_parameters() if x.grad is not None})
    assert len(grads) > 100
    for path, grad in grads.items():
        parameter = mine.get_parameter(path)
        assert parameter.grad is not None
        # softmax does not feel a shift of all scores: the keys' bias has no gradient but rounding
        scale = max(float(grad.abs().max()), 1e-3 if path.endswith("key.bias") else 0.0)
        torch.testing.assert_close(parameter.grad / scale, grad / scale, rtol=0, atol=10 * tolerance, msg=path)


@pytest.mark.parametrize("name", WITNESSES)
def test_greedy_text_token_for_token(name: str) -> None:
    """Of sources of unequal lengths, with a cache that holds them."""
    mine, theirs = pair(name, torch.float32)
    source_BS = sample(4, 9, 3)
    valid_BS = torch.arange(9) < torch.tensor([[9], [3], [6], [1]])
    expected = theirs.generate(
        source_BS, attention_mask=valid_BS.long(), max_new_tokens=LENGTH - 2, do_sample=False, num_beams=1,
        bad_words_ids=None,
    )  # fmt: skip
    text = step = torch.zeros(4, 1, dtype=torch.long)
    cache, source = mine.new_cache(4), Inputs(tokens_BT=source_BS, valid_BT=valid_BS)
    with torch.no_grad():
        while text.shape[1] < expected.shape[1]:
            step = mine(step, source=source, cache=cache).logits_BTV[:, -1:].argmax(-1)
            text, source = torch.cat([text, step], dim=1), None
    assert torch.equal(text, expected)
    assert len(text.unique(dim=0)) > 1, "what is written depends on what was read"


# their angles are float32 whatever the model is
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_a_rotary_encoder(dtype: torch.dtype, tolerance: float) -> None:
    config = EsmConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, position_embedding_type="rotary",
        emb_layer_norm_before=False, token_dropout=False, pad_token_id=0, mask_token_id=V - 1, initializer_range=0.2,
    )  # fmt: skip
    theirs = EsmModel(config, add_pooling_layer=False).to(dtype).eval()
    stir(theirs)
    block = {"attention": {"n_heads": 4, "bias": True}, "feedforward": {"kind": "gelu", "width": 40, "bias": True}}
    stack = {"n_layers": 3, "positions": "rotary", "norm": {"kind": "layer", "epsilon": 1e-12}, "block": block}
    mine = build({"d_model": D, "vocab_size": V, "encoder": stack, "heads": {}}).to(dtype).eval()
    names = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.output",
        "attention.LayerNorm": "attention_norm",
        "intermediate.dense": "feedforward.up",
        "output.dense": "feedforward.down",
        "LayerNorm": "feedforward_norm",
    }
    state = {"embedding.tokens.weight": theirs.embeddings.word_embeddings.weight}
    for path, tensor in theirs.encoder.named_parameters():
        module, _, leaf = path.rpartition(".")
        if module == "emb_layer_norm_after":
            state[f"encoder.norm.{leaf}"] = tensor
        else:
            _, layer, sublayer = module.split(".", 2)
            state[f"encoder.blocks.{layer}.{names[sublayer]}.{leaf}"] = tensor
    copied(mine, state)
    x_BT = sample(3, 12, 4)
    valid_BT = torch.arange(12) < torch.tensor([[12], [5], [9]])
    with torch.no_grad():
        expected = theirs(x_BT, attention_mask=valid_BT.long()).last_hidden_state[valid_BT]
        found = mine(Inputs(tokens_BT=x_BT, valid_BT=valid_BT)).x_BTD[valid_BT]
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)
