"""An independent witness: Hugging Face's GPT-2 with the same weights computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.generation.search import search
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import IGNORE, Inputs

pytest.importorskip("transformers")
from transformers import GPT2Config, GPT2LMHeadModel

V, D, LAYERS, HEADS, LENGTH = 97, 32, 2, 4, 40
SMALL = {
    "preset": "gpt2",
    "vocab_size": V,
    "d_model": D,
    "max_length": LENGTH,
    "decoder": {"n_layers": LAYERS, "block": {"attention": {"n_heads": HEADS}, "feedforward": {"width": 4 * D}}},
}
NAMES = {
    "wte": "embedding.tokens",
    "wpe": "decoder.positions.table",
    "ln_f": "decoder.norm",
    "ln_1": "attention_norm",
    "ln_2": "feedforward_norm",
    "attn.c_proj": "attention.output",
    "mlp.c_fc": "feedforward.up",
    "mlp.c_proj": "feedforward.down",
}


def weft_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors under weft's names: its matrices are transposed, and query, key and value are one."""
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        path, _, leaf = name.removeprefix("transformer.").rpartition(".")
        if path.startswith("h."):
            _, layer, path = path.split(".", 2)
            prefix = f"decoder.blocks.{layer}."
        else:
            prefix = ""
        if "c_" in path and leaf == "weight":
            tensor = tensor.T
        if path == "attn.c_attn":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{prefix}attention.{part}.{leaf}"] = piece
        elif path != "lm_head":  # is wte
            found[f"{prefix}{NAMES[path]}.{leaf}"] = tensor
    return found


def pair(dtype: torch.dtype) -> tuple[Transformer, Any]:
    """The same small model twice: weft's, and Hugging Face's with random weights, biases and gains."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V, n_embd=D, n_layer=LAYERS, n_head=HEADS, n_positions=LENGTH, initializer_range=0.2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    mine = build(SMALL).to(dtype).eval()
    state = weft_names(dict(theirs.named_parameters()))
    assert state.keys() == dict(mine.named_parameters()).keys()
    with torch.no_grad():
        for name, parameter in mine.named_parameters():
            parameter.copy_(state[name])
    return mine, theirs


def sample(rows: int, length: int) -> Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_logits_loss_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    mine, theirs = pair(dtype)
    x_BT = sample(3, 20)
    expected = theirs(x_BT).logits
    output = mine(x_BT)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(output.logits_BTV / scale, expected / scale, rtol=0, atol=tolerance)
    targets_BT = torch.cat([x_BT[:, 1:], torch.full((3, 1), IGNORE)], dim=1)
    term = mine.heads["lm"].loss(output.x_BTD, targets_BT, chunk=16)
    loss = term.total / term.count
    # not `labels=`: their own loss is float32 whatever the model is
    their_loss = F.cross_entropy(expected[:, :-1].flatten(0, 1), x_BT[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(float(their_loss.detach()), rel=tolerance)
    loss.backward()
    their_loss.backward()
    grads = weft_names({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None
        # softmax does not feel a shift of all scores: the keys' bias has no gradient but rounding
        least = 1e-3 if name.endswith("key.bias") else 0.0
        scale = max(float(grads[name].abs().max()), least)
        torch.testing.assert_close(parameter.grad / scale, grads[name] / scale, rtol=0, atol=10 * tolerance, msg=name)


def test_padded_rows() -> None:
    mine, theirs = pair(torch.float64)
    x_BT = sample(2, 10)
    valid_BT = torch.ones(2, 10, dtype=torch.bool)
    valid_BT[0, :4] = False
    places_BT = (valid_BT.long().cumsum(1) - 1).clamp(min=0)
    expected = theirs(x_BT, attention_mask=valid_BT.long(), position_ids=places_BT).logits
    found = mine(Inputs(tokens_BT=x_BT, valid_BT=valid_BT)).logits_BTV
    torch.testing.assert_close(found[valid_BT], expected[valid_BT], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_token_for_token(use_cache: bool) -> None:
    mine, theirs = pair(torch.float32)
    text = prompt = sample(2, 5)
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=LENGTH - 5, do_sample=False, pad_token_id=0
    )
    cache = mine.new_cache(2) if use_cache else None
    with torch.no_grad():
        step = prompt
        while text.shape[1] < LENGTH:
            step = mine(step if use_cache else text, cache=cache).logits_BTV[:, -1:].argmax(-1)
            text = torch.cat([text, step], dim=1)
    assert torch.equal(text, expected)
    assert len(text[:, 5:].unique()) > 5, "the same few tokens over and over prove little"


@pytest.mark.parametrize(("beams", "number"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_beam_search_text_for_text(beams: int, number: int) -> None:
    """Without a length penalty, theirs being another formula; prompts of unequal lengths, padded on the left there.

    Theirs lets a text that was cut win where it is likelier, ours one that ended: with these ends nothing hangs on it.
    """
    mine, theirs = pair(torch.float64)
    prompts = [row[:length].tolist() for row, length in zip(sample(4, 9), (5, 9, 2, 7), strict=True)]
    padded_BT = torch.tensor([[0] * (9 - len(prompt)) + prompt for prompt in prompts])
    valid_BT = torch.arange(9) >= torch.tensor([[9 - len(prompt)] for prompt in prompts])
    finished = set()
    for end in (9, 93):
        expected_NT = theirs.generate(
            padded_BT, attention_mask=valid_BT.long(), max_new_tokens=20, num_beams=beams, num_return_sequences=number,
            do_sample=False, length_penalty=0.0, early_stopping="never" if beams > 1 else False, eos_token_id=end,
            pad_token_id=0,
        )[:, 9:]  # fmt: skip
        found = search(mine, prompts, end=end, max_tokens=20, beams=beams, length_penalty=0.0, number=number)
        ours = [one for each in found for one in each]
        assert len(ours) == 4 * number
        for text, one in zip(expected_NT.tolist(), ours, strict=True):
            assert one.finished == (end in text)
            assert list(one.tokens) == (text[: text.index(end)] if one.finished else text)
            finished.add(one.finished)
    assert finished == {True, False}


def test_the_preset_has_as_many_parameters_as_gpt2() -> None:
    model = build("gpt2", device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808
