"""FlexAttention: equal to `reference` where it works; where it does not, one line says why."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES
from weft.errors import WeftError
from weft.models.build import build
from weft.nn import KERNELS, Call, attend, flex
from weft.nn.masks import Among, Causal, EverySo, InPrefix, Near, SameBlock, SameDocument, Valid
from weft.nn.scores import SinkWeighting, SoftmaxWeighting
from weft.nn.sides import Sides

TOKENS = 300
PLACES = torch.arange(TOKENS)[None]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(**changes: Any) -> Call:
    """Grouped heads, rows that differ in documents, padding and prefix; values wider than keys."""
    documents = torch.stack([PLACES[0] // 100, PLACES[0] // 130])
    valid = torch.stack([PLACES[0] < 290, PLACES[0] < 0])  # row 1 sees nothing
    prefix = torch.stack([PLACES[0] % 100 < 30, PLACES[0] < 50])
    sides = Sides(PLACES, PLACES, valid, documents, documents, False, prefix, prefix)
    mask = (Causal() & (Near(20) | EverySo(40) | Among(3)) | InPrefix() | SameBlock(16)) & SameDocument() & Valid()
    inputs = normal(2, 4, TOKENS, 16), normal(2, 2, TOKENS, 16, seed=1), normal(2, 2, TOKENS, 24, seed=2)
    return Call(**{
        **dict(zip(("q_BHTK", "k_BGSK", "v_BGSL"), inputs, strict=True)),
        "mask": mask, "sides": sides, "weighting": SoftmaxWeighting(0.3, cap=2.0),
        "bias_BHTS": normal(1, 4, TOKENS, TOKENS, seed=3), **changes,
    })  # fmt: skip


needs_compiler = pytest.mark.skipif(flex.no_compiler() is not None, reason=flex.no_compiler() or "")


@needs_compiler
@pytest.mark.slow
def test_it_is_the_reference() -> None:
    """All masks together in documents, padding and prefix, with a cap and a bias; then another length, plainly."""
    with torch.no_grad():
        rich = call()
        close(attend(rich, "flex"), attend(rich, "reference"), 1e-5)
        plain = call(mask=Causal(), sides=Sides(PLACES, PLACES, aligned=True), bias_BHTS=None,
                     weighting=SoftmaxWeighting(0.3))  # fmt: skip
        close(attend(plain, "flex"), attend(plain, "reference"), 1e-5)


@needs_compiler
@pytest.mark.slow
def test_a_model_reads_with_it() -> None:
    attention = {"n_heads": 4, "n_kv_heads": 2, "mask": {"any": [{"kind": "window", "size": 3}, "global"]}}
    declared = {**SIZES, "max_length": 200, "decoder": {"positions": "rotary", "block": {"attention": attention}}}
    model = build(declared)
    declared["decoder"]["block"]["attention"] = {**attention, "kernel": "flex"}
    other = build(declared)
    x_BT = tokens(model, 2, 150)
    cache = other.new_cache(2)
    close(logits(other, x_BT[:, :140], cache), logits(model, x_BT)[:, :140], 1e-5)
    with pytest.raises(WeftError, match="on a CPU it compiles for every length, not for the 10 of 150 tokens"):
        logits(other, x_BT[:, 140:], cache)


def test_what_it_cannot_do_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = KERNELS["flex"]
    leaf = normal(2, 4, TOKENS, 16).requires_grad_()
    sinks = SinkWeighting(0.3, None, 4)
    assert kernel.refuses(call(q_BHTK=leaf)) == "on a CPU it computes no gradients"
    assert kernel.refuses(call(q_BHTK=leaf.double())) == "on a CPU it computes no gradients"
    assert "not in float64" in (kernel.refuses(call(q_BHTK=leaf.detach().double())) or "")
    assert kernel.refuses(call(weighting=sinks)) == "it has no sinks (score.sinks)"
    assert kernel.refuses(call(dropout=0.1)) == "it drops no weights (attention.dropout)"
    assert kernel.refuses(call(tap=lambda name, x: x)) == "it keeps no weights to look at"
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(WeftError, match=r"^kernel flex: it needs a C\+\+ compiler \(.*\), and none is installed;"):
        attend(call(), "flex")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert kernel.refuses(call()) is None
    assert not kernel.pays(call()), "auto compiles nothing"
