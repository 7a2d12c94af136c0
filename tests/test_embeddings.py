"""Where a sequence enters: segments, a table that is factorised, a norm after it, and how a head goes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small, stir
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.cost import pair_flops, parameter_count, total
from weft.models.transformer import Transformer
from weft.nn import Inputs
from weft.objectives.base import Batch

STACK: dict[str, Any] = {"n_layers": 2, "positions": "learned", "embedding_norm": "layer"}
SEGMENTS = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0]])


def expected(model: Transformer, text: Tensor, segments: Tensor | None = None) -> Tensor:
    """Scores of one text by the formulas."""
    declared = model.config.dump()
    for name, stack in model.config.stacks().items():
        declared[name]["layers"] = [layer.dump() for layer in stack.layers()]
    at = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    x_TD = reference.vectors(declared, at, text.tolist(), None, None if segments is None else segments.tolist())
    return torch.from_numpy(np.real(reference.answer(declared, at, "lm", x_TD)))


@pytest.mark.parametrize("kind", ["tokens", "factorized"])
@pytest.mark.parametrize("scaled", [False, True])
def test_token_and_segment_and_position(kind: str, scaled: bool) -> None:
    """Devlin et al. 2019: their sum; every token is of segment 0 unless said otherwise."""
    width = {"width": 12} if kind == "factorized" else {}
    model = small(STACK, embedding={"kind": kind, "n_segments": 2, "scaled": scaled, "tied": not scaled, **width})
    x_BT = tokens(model, 2, 5)
    given = logits(model, Inputs(tokens_BT=x_BT, segments_BT=SEGMENTS))
    for row in range(2):
        close(given[row], expected(model, x_BT[row], SEGMENTS[row]))
    plain = logits(model, x_BT)
    close(plain, logits(model, Inputs(tokens_BT=x_BT, segments_BT=torch.zeros_like(x_BT))), 1e-15)
    close(plain[0], expected(model, x_BT[0]))
    assert (plain - given).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [60, 200])
def test_a_pair_is_a_token_and_the_one_before_it(rows: int) -> None:
    """In a text of its own: nothing comes before its first token, and padding does not count, whatever stands there."""
    model = small(STACK, embedding={"kind": "bigrams", "rows": rows})
    x_BT, documents_BT = tokens(model, 1, 7), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    places_BT = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    packed = logits(model, Inputs(tokens_BT=x_BT, documents_BT=documents_BT, positions_BT=places_BT))[0]
    close(packed, torch.cat([expected(model, text) for text in x_BT[0].split([3, 4])]))
    valid_BT = torch.tensor([[False, True, True, False, True, True, False]])
    padded = logits(model, Inputs(tokens_BT=x_BT, valid_BT=valid_BT))
    close(padded[valid_BT], expected(model, x_BT[valid_BT]))


def test_segments_go_where_tokens_go() -> None:
    """Through a cache, beside padding, cut into micro-batches."""
    model = small(STACK, embedding={"n_segments": 2})
    x_BT = tokens(model, 2, 5)
    whole = Inputs(tokens_BT=x_BT, segments_BT=SEGMENTS)
    cache = model.new_cache(2)
    pieces = zip(x_BT.split(2, dim=1), SEGMENTS.split(2, dim=1), strict=True)
    found = [logits(model, Inputs(tokens_BT=text, segments_BT=segments), cache) for text, segments in pieces]
    close(torch.cat(found, dim=1), logits(model, whole))
    micro = list(Batch(whole, x_BT).split(1))
    close(torch.cat([logits(model, each.inputs) for each in micro]), logits(model, whole), 1e-12)


def test_segments_that_the_model_does_not_know_are_refused() -> None:
    model = small()
    with pytest.raises(WeftError, match=r"segments are given, but embedding\.n_segments = 0"):
        model(Inputs(tokens_BT=tokens(model, 2, 5), segments_BT=SEGMENTS))


def test_a_factorised_table_has_fewer_parameters() -> None:
    """V x E + E x D + D, Lan et al. 2020, section 3.1; the tied head has none of its own."""
    sizes = {"d_model": 64, "vocab_size": 1000, "decoder": {"n_layers": 1}}
    narrow, wide = (build({**sizes, "embedding": kind}, device="meta") for kind in (
        {"kind": "factorized", "width": 8}, {"kind": "tokens"}))  # fmt: skip
    assert parameter_count(wide) - parameter_count(narrow) == 1000 * 64 - (1000 * 8 + 8 * 64 + 64)
    assert parameter_count(narrow.heads) == 1000 * 8 + 8 * 64 + 64, "all of them the embedding's"
    free = build({**sizes, "embedding": {"kind": "factorized", "width": 8, "tied": False}}, device="meta")
    assert parameter_count(free) - parameter_count(narrow) == 1000 * 64


def test_stacks_and_head_of_a_factorised_model_have_one_matrix() -> None:
    """It learns from every place where it computes; FLOPs are counted at each."""
    stacks = {"encoder": STACK, "decoder": STACK}
    model = build({**SIZES, **stacks, "embedding": {"kind": "factorized", "width": 4}}).double()
    stir(model)
    matrix = model.encoder.from_embedding
    assert model.decoder.from_embedding is matrix
    assert model.heads["lm"].to_embedding.of is matrix
    assert model.heads["lm"].projection.weight is model.embedding.tokens.weight
    x_BT = tokens(model, 2, 5)
    close(
        model.heads["lm"](x_BTD := torch.randn(2, 5, 16, dtype=torch.float64)).detach(),
        (x_BTD @ matrix.weight @ model.embedding.tokens.weight.T).detach(),
        1e-14,
    )
    model(x_BT, source=x_BT).logits_BTV.square().sum().backward()
    assert float(matrix.weight.grad.abs().min()) > 0
    plain = build({**SIZES, **stacks})
    more = 3 * 2 * 4 * 16 + 2 * 4 * 11 - 2 * 16 * 11
    assert total(model, 24).flops - total(plain, 24).flops == more
    of_source, of_target = 5 * 2 * 4 * 16, 9 * (2 * 2 * 4 * 16 + 2 * 4 * 11 - 2 * 16 * 11)
    assert pair_flops(model, 5, 9) - pair_flops(plain, 5, 9) == of_source + of_target


def test_vectors_in_place_of_tokens_are_as_wide_as_the_table() -> None:
    model = small(STACK, embedding={"kind": "factorized", "width": 4, "n_segments": 2})
    x_BT = tokens(model, 2, 5)
    x_BTE = model.embedding(Inputs(tokens_BT=x_BT))
    assert x_BTE.shape == (2, 5, 4)
    close(logits(model, Inputs(x_BTD=x_BTE)), logits(model, x_BT), 1e-15)


def test_a_norm_after_the_embedding_is_each_stack_s_own() -> None:
    """Of token + position, before anything else; as wide as the table."""
    declared = {**SIZES, "encoder": STACK, "decoder": {**STACK, "embedding_norm": "rms"}}
    model = build({**declared, "embedding": {"kind": "factorized", "width": 4}})
    assert {name: tuple(p.shape) for name, p in model.named_parameters() if "embedding_norm" in name} == {
        "encoder.embedding_norm.weight": (4,),
        "encoder.embedding_norm.bias": (4,),
        "decoder.embedding_norm.weight": (4,),
    }
    assert "embedding_norm" not in str(build(SIZES).state_dict().keys())
    assert ModelConfig.load(model.config.dump()) == model.config


def test_whatever_precision_activations_have() -> None:
    """Narrow table, norms, gates and both heads in bf16, near what float32 says."""
    block = {"kind": "sandwich", "feedforward": {"kind": "geglu", "approximate": "quick"}}
    stack = {**STACK, "norm": {"kind": "rms", "zero_centered": True}, "block": block}
    embedding = {"kind": "factorized", "width": 12, "n_segments": 2}
    model = build({**SIZES, "embedding": embedding, "decoder": stack, "heads": {"lm": "lm", "mlm": "mlm"}}).eval()
    stir(model, 0.1)
    inputs = Inputs(tokens_BT=tokens(model, 2, 5), segments_BT=SEGMENTS)
    exact = logits(model, inputs)
    masked = model.head("mlm")(model(inputs).x_BTD).detach()
    model.compute_dtype = torch.bfloat16
    output = model(inputs)
    assert output.x_BTD.dtype == torch.bfloat16
    close(output.logits_BTV.detach().float(), exact, 30 * 2**-9)
    close(model.head("mlm")(output.x_BTD).detach().float(), masked, 30 * 2**-9)
