"""What goes through a model beside tokens: precision, dropout, vectors, positions, a memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small, stir
from weft.errors import WeftError
from weft.models.build import build
from weft.nn import Context, Inputs


def test_bf16_over_float32_masters() -> None:
    model = build({**SIZES, "decoder": {"n_layers": 2, "positions": "rotary", "norm": "rms"}}).eval()
    stir(model, 0.1)
    x_BT = tokens(model, 4, 12)
    exact = logits(model, x_BT)
    model.compute_dtype = torch.bfloat16
    output = model(x_BT)
    assert output.x_BTD.dtype == output.logits_BTV.dtype == torch.bfloat16
    # each of some ten roundings in a row changes what it rounds by at most 2^-8 of it: bf16 has 8 digits
    close(output.logits_BTV.detach().float(), exact, 10 * 2**-8)
    term = model.heads["lm"].loss(output.x_BTD, x_BT)
    assert term.total.dtype == torch.float32
    term.total.backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("where", ["model", "attention"])
def test_dropout_acts_in_training_only(where: str) -> None:
    attention = {"dropout": 0.5} if where == "attention" else {"dropout": 0.0}
    dropped = small({"block": {"attention": attention}}, dropout=0.5 if where == "model" else 0.0)
    plain = small()
    x_BT = tokens(plain, 2, 6)
    close(logits(dropped, x_BT), logits(plain, x_BT), 1e-14)
    dropped.train()
    torch.manual_seed(0)
    one, other = logits(dropped, x_BT), logits(dropped, x_BT)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(logits(dropped, x_BT), one)
    whole = small(dropout=0.5).train()
    assert {block.attention.dropout for block in whole.decoder.blocks} == {0.5}, "attention takes the model's"


@pytest.mark.parametrize("kind", ["pre", "post", "sandwich", "parallel", "plain"])
@pytest.mark.parametrize("branch", ["attention", "feedforward"])
def test_every_branch_is_dropped(kind: str, branch: str) -> None:
    """Half of what a sublayer adds is zero, and the rest twice as large."""
    parts_of_block = {"attention": {"dropout": 0.0}, "feedforward": "gelu"}
    other = "feedforward" if branch == "attention" else "attention"
    model = small({"norm": "none", "block": {"kind": kind, **parts_of_block, other: "none"}}, dropout=0.5)
    block, seen = model.decoder.blocks[0], list[tuple[Tensor, Context]]()
    block.register_forward_pre_hook(lambda module, given: seen.append(given))
    logits(model, tokens(model, 4, 6))
    x_BTD, context = seen[0]
    base_BTD = 0 if kind == "plain" else x_BTD
    whole, dropped = ((block.train(training).mix(x_BTD, context) - base_BTD).detach() for training in (False, True))
    kept = dropped != 0
    close(dropped[kept], 2 * whole[kept], 1e-12)
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / kept.numel() ** 0.5)


def test_the_mean_over_dropout_is_what_is_computed_without() -> None:
    """Of what enters a stack: scaled so that its expectation stays. 4000 draws, five sigma."""
    model = small({"block": {"attention": "none", "feedforward": "none"}, "norm": "none"}, dropout=0.25)
    x_BT = torch.zeros(4000, 1, dtype=torch.long)
    plain = model(x_BT[:1]).x_BTD[0, 0].detach()
    torch.manual_seed(0)
    drawn = model.train()(x_BT).x_BTD[:, 0].detach()
    assert {float(value) for value in (drawn[:, 0] / plain[0]).round(decimals=9)} == {0.0, round(1 / 0.75, 9)}
    sigma = plain.abs() * math.sqrt(0.25 / 0.75 / 4000)
    assert bool(((drawn.mean(0) - plain).abs() < 5 * sigma).all())


def test_vectors_may_come_in_place_of_tokens() -> None:
    model = small({"positions": "learned"})
    x_BT = tokens(model, 2, 5)
    close(logits(model, Inputs(x_BTD=model.embedding(Inputs(tokens_BT=x_BT)))), logits(model, x_BT), 1e-14)


def test_given_positions_are_the_ones_that_are_used() -> None:
    x_BT, places_BT = torch.arange(5)[None], torch.arange(5)[None]
    for positions in ("rotary", "learned"):
        model = small({"positions": positions})
        counted = logits(model, x_BT)
        close(logits(model, Inputs(tokens_BT=x_BT, positions_BT=places_BT)), counted, 1e-14)
        moved = logits(model, Inputs(tokens_BT=x_BT, positions_BT=places_BT + 9))
        apart = logits(model, Inputs(tokens_BT=x_BT, positions_BT=2 * places_BT))
        assert (apart - counted).abs().max() > 1e-3
        if positions == "rotary":
            close(moved, counted)  # only distances count
        else:
            assert (moved - counted).abs().max() > 1e-3


def test_positions_that_enter_with_the_embedding_belong_to_the_stack() -> None:
    with pytest.raises(WeftError, match=r"attention\.positions: learned positions enter where a stack begins"):
        small({"block": {"attention": {"positions": "learned"}}})


def test_logits_are_computed_when_asked_for_and_once() -> None:
    model, calls = small(), list[str]()
    model.heads["lm"].register_forward_hook(lambda *given: calls.append("lm"))
    output = model(tokens(model, 1, 3))
    assert not calls
    assert output.logits_BTV is output.logits_BTV
    assert calls == ["lm"]
