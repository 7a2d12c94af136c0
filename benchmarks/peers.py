"""What a user would pick instead, rebuilt in plain PyTorch for comparison; nothing here is used by weft."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """A GPT-2 block as small codebases write it: fused query/key/value, GELU, dropout off."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(width, dim=2)
        q, k, v = (y.view(rows, tokens, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class PlainGpt(nn.Module):
    """A nanoGPT-style model: learned positions, tied table, whole logits."""

    def __init__(self, layers: int, width: int, heads: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                small = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if small else 1))

    def logits(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(tokens)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def hugging_face(plain: PlainGpt) -> nn.Module:
    """Hugging Face's GPT-2 with the plain model's weights, dropout off."""
    from transformers import GPT2Config, GPT2LMHeadModel

    vocabulary, width = plain.tokens.weight.shape
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=len(plain.positions.weight), n_embd=width, n_layer=len(plain.blocks),
        n_head=plain.blocks[0].heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        activation_function="gelu", bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    found = {"transformer.wte.weight": plain.tokens.weight, "transformer.wpe.weight": plain.positions.weight}
    modules = [("transformer.ln_f", plain.norm)]
    for number, block in enumerate(plain.blocks):
        here = f"transformer.h.{number}"
        modules += [(f"{here}.ln_1", block.norm_1), (f"{here}.ln_2", block.norm_2)]
        modules += [(f"{here}.attn.c_attn", block.qkv), (f"{here}.attn.c_proj", block.out)]
        modules += [(f"{here}.mlp.c_fc", block.up), (f"{here}.mlp.c_proj", block.down)]
    for name, module in modules:
        found[f"{name}.bias"] = module.bias
        found[f"{name}.weight"] = module.weight.t() if module.weight.ndim == 2 else module.weight  # their Conv1D
    found["lm_head.weight"] = plain.tokens.weight
    model.load_state_dict({name: value.detach().clone() for name, value in found.items()})
    return model
