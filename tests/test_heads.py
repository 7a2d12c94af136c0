"""Heads beside the language model's: their losses are the formulas', padding is not looked at, little is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import reference
import torch
from test_reference import Array, compare, normal, stirred
from torch import Tensor, nn

from weft.checking.compare import close
from weft.config import SLOTS
from weft.errors import WeftError
from weft.models.build import build
from weft.nn import IGNORE, Dims, Factorized, Tokens, listen
from weft.nn.heads import cross_entropy

DIMS = Dims(d_model=8, max_length=9, vocab_size=7)
VALID = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)
TABLES = {"tied": Tokens(), "own": Tokens(tied=False), "factorised": Factorized(width=6)}


def head(kind: str, embedding: nn.Module | None = None, **options: Any) -> Any:
    part = SLOTS["head"].choose({"kind": kind, **options})
    return stirred(part.build(DIMS, embedding or nn.Identity()))


def nats(scores: Array, target: int, smoothing: float = 0.0) -> Any:
    return reference.loss(scores[None], [target], smoothing)


def check(made: Any, loss: Callable[[Tensor], Any], formula: Callable[[Mapping[str, Array], Array], Any]) -> None:
    """The sum of the loss, and its gradients by x and all parameters."""
    x_BTD = normal(1, 4, 5, 8)
    compare(made, lambda x: loss(x).total[None], lambda at, x: np.array([formula(at, x)]), x_BTD)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["lm", "mlm"])
def test_scores_of_tokens(kind: str, table: str) -> None:
    """In chunks; a tied table is the embedding's, and the way to it its own transform or the embedding's matrix."""
    embedding = TABLES[table].build(DIMS)
    made = head(kind, embedding)
    targets_BT = torch.full((4, 5), IGNORE)
    targets_BT[0, 2], targets_BT[1, 4], targets_BT[3, 3] = 6, 2, 0
    options = SLOTS["head"].choose(kind).dump()

    def formula(at: Mapping[str, Array], x: Array) -> Any:
        held = dict(at)
        if "to_embedding.of.weight" in at:
            held["back.weight"] = at["to_embedding.of.weight"]
        return sum(
            nats(reference.HEADS[kind](options, held, x[row, place][None])[0], target)
            for (row, place), target in np.ndenumerate(targets_BT.numpy())
            if target != IGNORE
        )

    assert any(made.projection.weight is p for p in embedding.parameters()) == (table != "own")
    # the shift of the embedding's matrix is no part of the way back
    held = {name: p for name, p in made.named_parameters() if name != "to_embedding.of.bias"}
    assert ("to_embedding.of.weight" in held) == (table == "factorised" and kind == "lm")
    x_BTD = normal(1, 4, 5, 8)
    arrays = {"x": x_BTD.numpy(), **{name: p.detach().numpy() for name, p in held.items()}}
    for chunk in (2, 100):
        x = x_BTD.clone().requires_grad_()
        term = made.loss(x, targets_BT, chunk)
        assert int(term.count) == 3
        close(
            term.total.detach()[None],
            torch.tensor([complex(formula(arrays, arrays["x"])).real], dtype=torch.float64),
            1e-12,
        )
        grads = torch.autograd.grad(term.total, [x, *held.values()])
        for index, (name, grad) in enumerate(zip(("x", *held), grads, strict=True)):
            direction = normal(50 + index, *grad.shape)
            exact = reference.slope(lambda at: formula(at, at["x"]), arrays, {name: direction.numpy()})
            assert float((grad * direction).sum()) == pytest.approx(exact, rel=1e-10, abs=1e-10), name


def test_a_masked_token_s_head_transforms_and_scores_only_what_is_asked() -> None:
    declared = {"d_model": 16, "vocab_size": 50, "encoder": {"n_layers": 1}, "heads": {"mlm": "mlm"}}
    model = build(declared)
    x_BT = torch.arange(40).view(2, 20)
    targets_BT = torch.where(x_BT % 5 == 0, x_BT, IGNORE)
    rows: list[int] = []
    with listen(model, "heads.mlm.logits", lambda path, value: rows.append(len(value.flatten(0, -2)))):
        model.head("mlm").loss(model(x_BT).x_BTD, targets_BT, chunk=3)
    assert rows == [3, 3, 2]
    close(model.head("mlm").losses(model(x_BT).x_BTD, targets_BT).sum()[None],
          model.head("mlm").loss(model(x_BT).x_BTD, targets_BT).total.detach()[None], 1e-6)  # fmt: skip


def test_the_loss_of_rounded_scores_is_not_rounded_itself() -> None:
    logits_NC, targets_N = normal(1, 9, 50).bfloat16(), torch.arange(9)
    for smoothing in (0.0, 0.2):
        found = cross_entropy(logits_NC, targets_N, smoothing)
        assert found.dtype == torch.float32
        assert torch.equal(found, cross_entropy(logits_NC.float(), targets_N, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classes_of_tokens(smoothing: float) -> None:
    made = head("token-classifier", labels=["a", "b", "c"])
    labels_BT = torch.tensor([[0, 2, 1, 0, 1]]).expand(4, -1).masked_fill(~VALID, IGNORE)

    def formula(at: Mapping[str, Array], x: Array) -> Any:
        scores = [reference.HEADS["token-classifier"]({}, at, row) for row in x]
        kept = [place for place, label in np.ndenumerate(labels_BT.numpy()) if label != IGNORE]
        return sum(nats(scores[row][place], int(labels_BT[row, place]), smoothing) for row, place in kept)

    check(made, lambda x: made.loss(x, labels_BT, smoothing), formula)
    assert int(made.loss(normal(1, 4, 5, 8), labels_BT).count) == int(VALID.sum())


def test_spans_begin_and_end_in_the_text() -> None:
    """Softmax over the places that are no padding; a row without an answer counts nothing."""
    made, spans_B2 = head("span"), torch.tensor([[0, 2], [2, 2], [IGNORE, IGNORE], [2, 3]])

    def formula(at: Mapping[str, Array], x: Array) -> Any:
        total = 0j
        for row in (0, 1, 3):
            places = VALID[row].nonzero()[:, 0].tolist()
            scores = reference.HEADS["span"]({}, at, x[row][places])
            for side in (0, 1):
                total += nats(scores[:, side], places.index(int(spans_B2[row, side]))) / 2
        return total

    check(made, lambda x: made.loss(x, VALID, spans_B2), formula)
    x_BTD = normal(1, 4, 5, 8)
    assert int(made.loss(x_BTD, VALID, spans_B2).count) == 3
    assert torch.equal(made(x_BTD, VALID).softmax(1) > 0, VALID[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_padding_only_gives_no_nan(dtype: torch.dtype) -> None:
    made = head("span").float()
    x_BTD = normal(1, 4, 5, 8).to(dtype).requires_grad_()
    spans_B2 = torch.tensor([[0, 2], [2, 2], [IGNORE, IGNORE], [2, 3]])
    term = made.loss(x_BTD, VALID & (torch.arange(4) != 2)[:, None], spans_B2)
    term.total.backward()
    assert bool(term.total.isfinite())
    assert bool(x_BTD.grad.isfinite().all())


@pytest.mark.parametrize("options", [{}, {"pooling": "first", "pooler": True}, {"pooling": "last"}], ids=str)
def test_a_choice_among_texts(options: dict[str, Any]) -> None:
    made, chosen_Q = head("multiple-choice", **options), torch.tensor([1, IGNORE])
    declared = SLOTS["head"].choose({"kind": "multiple-choice", **options}).dump()

    def formula(at: Mapping[str, Array], x: Array) -> Any:
        scores = [reference.HEADS["multiple-choice"](declared, at, x[row][VALID[row].numpy()]) for row in (0, 1)]
        return nats(np.concatenate(scores), 1)

    check(made, lambda x: made.loss(x, VALID, chosen_Q), formula)
    assert int(made.loss(normal(1, 4, 5, 8), VALID, chosen_Q).count) == 1
    with pytest.raises(WeftError, match="4 texts are not equally many choices for each of 3 questions"):
        made.loss(normal(1, 4, 5, 8), VALID, torch.tensor([0, 0, 1]))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("positives", "compared"),
    [
        # two queries, the answers of both, of which each is the other's negative
        ([2, 3, IGNORE, IGNORE], {0: [2, 3], 1: [2, 3]}),
        # one query, its answer, two rows that nobody asks for
        ([IGNORE, 3, IGNORE, IGNORE], {1: [0, 2, 3]}),
        # two views of each text, each asking for the other (Chen et al. 2020)
        ([1, 0, 3, 2], {0: [1, 2, 3], 1: [0, 2, 3], 2: [0, 1, 3], 3: [0, 1, 2]}),
    ],
)
def test_texts_that_belong_together(normalize: bool, positives: list[int], compared: dict[int, list[int]]) -> None:
    made, positives_B = head("embedding", normalize=normalize), torch.tensor(positives)
    declared = SLOTS["head"].choose({"kind": "embedding", "normalize": normalize}).dump()

    def formula(at: Mapping[str, Array], x: Array) -> Any:
        z = [reference.HEADS["embedding"](declared, {}, x[row][VALID[row].numpy()]) for row in range(4)]
        return sum(
            nats(np.array([np.sum(z[query] * z[other]) / 0.3 for other in others]), others.index(positives[query]))
            for query, others in compared.items()
        )

    check(made, lambda x: made.loss(x, VALID, positives_B, temperature=0.3), formula)
    assert int(made.loss(normal(1, 4, 5, 8), VALID, positives_B).count) == len(compared)
    lengths = made(normal(1, 4, 5, 8), VALID).norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(4).double()) is normalize


def test_labels_of_tokens_come_from_the_data_too() -> None:
    part = SLOTS["head"].choose("token-classifier")
    with pytest.raises(WeftError, match=r"token-classifier\.labels are not known: they come from the data"):
        part.build(DIMS, nn.Identity())
    assert part.bind(("x", "y")).build(DIMS, nn.Identity()).labels == ("x", "y")
    with pytest.raises(WeftError, match=r"token-classifier\.labels = b, a: the data have 'x' too"):
        SLOTS["head"].choose({"kind": "token-classifier", "labels": ["b", "a"]}).bind(("a", "x"))


@pytest.mark.parametrize("kind", ["token-classifier", "span", "multiple-choice", "embedding", "classifier", "mlm"])
def test_what_a_head_takes_is_known_before(kind: str) -> None:
    """A loss with targets that stand in."""
    options = {"labels": ["a", "b"]} if "classifier" in kind else {}
    made = head(kind, TABLES["tied"].build(DIMS), **options)
    value = made.rehearse(normal(1, 4, 5, 8).requires_grad_())
    assert value.shape == ()
    assert value.requires_grad
    assert bool(value.isfinite())


def test_tied_scores_are_t5_s() -> None:
    """Of transformers' tied T5: the scores that it makes of its own hidden vectors."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"vocab_size": 7, "d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 16, "num_layers": 1}
    theirs = T5ForConditionalGeneration(T5Config(**sizes, tie_word_embeddings=True)).double().eval()
    tokens_BT = torch.tensor([[3, 1, 4, 1, 5]])
    said = theirs(input_ids=tokens_BT, decoder_input_ids=tokens_BT, output_hidden_states=True)
    embedding = Tokens().build(DIMS).double()
    with torch.no_grad():
        embedding.tokens.weight.copy_(theirs.shared.weight)
    ours = SLOTS["head"].choose({"kind": "lm", "scaled": True}).build(DIMS, embedding).double()
    close(ours(said.decoder_hidden_states[-1]), said.logits, 1e-14)
