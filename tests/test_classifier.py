"""The classifier head: which vector stands for a text, what it learns from, and what it is told by the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from test_reference import normal, stirred
from torch import Tensor

from weft.checking.compare import close, tokens
from weft.checking.small import SIZES
from weft.errors import ConfigError, WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.nn import IGNORE, Classifier, ClassifierHead, Dims, Inputs, Lm
from weft.nn.text_heads import pool

DIMS = Dims(d_model=8, max_length=9, vocab_size=7, dropout=0.25)
LABELS = ("sport", "science", "politics")
POOLINGS = ("first", "mean", "last")


def head(**options: Any) -> ClassifierHead:
    made = Classifier(labels=LABELS, **options).build(DIMS, torch.nn.Identity())
    return stirred(made).eval()


def valid(*rows: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_a_mean_in_low_precision_is_rounded_once() -> None:
    """So it is off by at most half a step of bf16, which between 2 and 4 is 2^-7, however many vectors there are."""
    x_BTD = (3 + normal(3, 4, 300, 64) / 4).bfloat16()
    error_BD = pool(x_BTD, None, "mean").double() - x_BTD.double().mean(1)
    assert float(error_BD.abs().max()) <= 1.001 * 2**-7


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_is_not_looked_at(pooling: str) -> None:
    """Wherever it stands and whatever stands in it, even what is no number."""
    made, x_BTD = head(pooling=pooling), normal(1, 4, 5, 8)
    valid_BT = valid("xxx..", "..xxx", ".xx..", "xxxxx")
    alone = torch.stack([made(x_BTD[row, kept][None])[0] for row, kept in enumerate(valid_BT)])
    x_BTD[~valid_BT] = torch.nan
    close(made(x_BTD, valid_BT).detach(), alone.detach())
    assert bool(made(x_BTD, valid("xxx..", "..xxx", ".xx..", "....."))[:3].isfinite().all())


@pytest.mark.parametrize(("pooling", "smoothing"), [("first", 0.0), ("mean", 0.3), ("last", 0.1)])
def test_loss_and_its_gradients_are_the_formula_s(pooling: str, smoothing: float) -> None:
    made, x_BTD = head(pooling=pooling), normal(1, 3, 4, 8).requires_grad_()
    labels_B = torch.tensor([2, IGNORE, 0])
    arrays = {"x": x_BTD.detach().numpy(), **{name: p.detach().numpy() for name, p in made.named_parameters()}}

    def nats(at: dict[str, np.ndarray]) -> complex:
        rows = [reference.HEADS["classifier"]({"pooling": pooling}, at, at["x"][row])[None] for row in (0, 2)]
        return reference.loss(rows[0], [2], smoothing) + reference.loss(rows[1], [0], smoothing)

    term = made.loss(x_BTD, None, labels_B, smoothing)
    assert int(term.count) == 2
    assert float(term.total.detach()) == pytest.approx(complex(nats(arrays)).real, rel=1e-12)
    term.total.backward()
    grads = {"x": x_BTD.grad, **{name: p.grad for name, p in made.named_parameters()}}
    for index, (name, grad) in enumerate(grads.items()):
        direction = normal(50 + index, *grad.shape)
        exact = reference.slope(nats, arrays, {name: direction.numpy()})
        assert float((grad * direction).sum()) == pytest.approx(exact, rel=1e-10, abs=1e-10), name


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_of_the_language_model_head(chunk: int, smoothing: float) -> None:
    """In chunks too; its least value is the entropy of the smoothed target, not 0."""
    made = stirred(Lm().build(DIMS, torch.nn.Identity()))
    x_BTD, targets_BT = normal(2, 2, 3, 8).requires_grad_(), torch.tensor([[0, 6, IGNORE], [2, 5, 1]])
    arrays = {name: p.detach().numpy() for name, p in made.named_parameters()}
    rows = [x_BTD.detach().numpy().reshape(-1, 8)[n] for n in (0, 1, 3, 4, 5)]
    scores = np.array([arrays["projection.weight"] @ row for row in rows])
    term = made.loss(x_BTD, targets_BT, chunk, smoothing)
    exact = complex(reference.loss(scores, [0, 6, 2, 5, 1], smoothing)).real
    assert float(term.total.detach()) == pytest.approx(exact, rel=1e-12)
    assert int(term.count) == 5
    (grad,) = torch.autograd.grad(term.total, x_BTD)
    whole = F.cross_entropy(
        made(x_BTD).flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing
    )
    close(grad, torch.autograd.grad(whole, x_BTD)[0])
    close(made.losses(x_BTD, targets_BT).sum()[None], made.loss(x_BTD, targets_BT, chunk).total.detach()[None])


@pytest.mark.parametrize("dropout", [None, 0.5, 0.0])
def test_dropout_falls_on_the_pooled_vector_in_training_only(dropout: float | None) -> None:
    """The model's unless given; what is left is scaled so that its mean stays."""
    share = 0.25 if dropout is None else dropout
    made, seen = head(dropout=dropout), list[Tensor]()
    x_BTD = torch.ones(2000, 1, 8, dtype=torch.float64)
    made.projection.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made(x_BTD)
    torch.manual_seed(0)
    made.train()(x_BTD)
    assert bool((seen[0] == 1).all())
    assert sorted({round(float(value), 9) for value in seen[1].unique()}) == (
        [0.0, round(1 / (1 - share), 9)] if share else [1.0]
    )
    assert float(seen[1].mean()) == pytest.approx(1, abs=5 * (share / (1 - share) / seen[1].numel()) ** 0.5 + 1e-12)


# --- what the data say ---


def test_labels_come_from_the_data() -> None:
    config = ModelConfig.load("encoder-tiny")
    with pytest.raises(WeftError, match=r"classifier\.labels are not known: they come from the data"):
        build(config.bind(50))
    bound = config.bind(50, LABELS)
    assert bound.heads["classifier"] == Classifier(pooling="mean", labels=LABELS)
    assert bound.bind(50, LABELS) == bound, "once more changes nothing: a run that goes on"
    assert ModelConfig.load(bound.dump()) == bound
    model = build(bound)
    x_BT = tokens(model, 2, 5)
    output = model(Inputs(tokens_BT=x_BT, valid_BT=torch.ones(2, 5, dtype=torch.bool)))
    assert output.valid_BT is not None
    assert model.head("classifier")(output.x_BTD, output.valid_BT).shape == (2, 3)
    assert model.head("classifier").labels == LABELS


def test_labels_that_were_given_keep_their_order_and_must_hold_the_data_s() -> None:
    config = ModelConfig.load("encoder-tiny", "heads.classifier.labels=[b, a, c]")
    head = config.bind(50, ("a", "b")).heads["classifier"]
    assert isinstance(head, Classifier)
    assert head.labels == ("b", "a", "c")
    with pytest.raises(WeftError, match=r"classifier\.labels = b, a, c: the data have 'd' too") as caught:
        config.bind(50, ("a", "d"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="names a label twice"):
        ModelConfig.load("encoder-tiny", "heads.classifier.labels=[a, b, a]")


def test_something_stands_in_until_there_are_data() -> None:
    blank = ModelConfig.load("encoder-tiny").stand_in(99)
    assert blank.vocab_size == 99
    build(blank, device="meta")
    given = ModelConfig.load("encoder-tiny", "heads.classifier.labels=[b, a, c]", "vocab_size=7").stand_in(99)
    assert (given.vocab_size, given.heads["classifier"]) == (7, Classifier(labels=("b", "a", "c")))


# --- a whole model ---


# a decoder's first vector has seen nothing of the text
@pytest.mark.parametrize(
    ("stack", "pooling"), [("encoder", "first"), ("encoder", "mean"), ("decoder", "mean"), ("decoder", "last")]
)
def test_one_batch_is_learned_by_heart(stack: str, pooling: str) -> None:
    """Random labels of texts that all begin alike."""
    model = build({
        "d_model": 32, "max_length": 16, "vocab_size": 20, stack: {"n_layers": 2, "positions": "rotary"},
        "heads": {"classifier": {"kind": "classifier", "pooling": pooling, "labels": ["a", "b", "c"]}},
    })  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(20, (16, 9), generator=generator)
    tokens_BT[:, 0] = 0
    valid_BT = torch.arange(9) < torch.randint(3, 10, (16, 1), generator=generator)
    labels_B = torch.randint(3, (16,), generator=generator)

    def loss() -> Tensor:
        output = model(Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT))
        term = model.head("classifier").loss(output.x_BTD, output.valid_BT, labels_B)
        return term.total / term.count

    assert 0.9 < float(loss().detach()) < 1.3, "about ln 3 at the start"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(80):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert float(loss().detach()) < 0.01


def test_hugging_face_classifies_alike() -> None:
    """GPT-2 with a score of each class from the last token that is no padding."""
    transformers = pytest.importorskip("transformers")
    from test_gpt2 import SMALL, V, sample, weft_names

    config = transformers.GPT2Config(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=40, initializer_range=0.2, num_labels=3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2ForSequenceClassification(config).double().eval()
    classifier = {"kind": "classifier", "pooling": "last", "labels": ["a", "b", "c"]}
    mine = build({**SMALL, "heads": {"classifier": classifier}}).double().eval()
    state = weft_names({name: p for name, p in theirs.named_parameters() if name != "score.weight"})
    with torch.no_grad():
        for name, parameter in mine.named_parameters():
            if name.startswith("heads"):
                parameter.copy_(theirs.score.weight if name.endswith("weight") else torch.zeros(3))
            else:
                parameter.copy_(state[name])
    x_BT = sample(3, 8).clamp(min=1)
    valid_BT = valid("xxxxxxxx", "xxx.....", "xxxxxx..")
    x_BT[~valid_BT] = 0
    expected = theirs(x_BT, attention_mask=valid_BT.long()).logits
    output = mine(Inputs(tokens_BT=x_BT, valid_BT=valid_BT))
    close(mine.head("classifier")(output.x_BTD, output.valid_BT).detach(), expected.detach())


def test_one_body_serves_several_heads() -> None:
    heads = {"lm": {"kind": "lm"}, "topic": {"kind": "classifier", "labels": ["a", "b"]}}
    model = build({**SIZES, "heads": heads})
    output = model(tokens(model, 2, 5))
    assert output.logits_BTV.shape == (2, 5, 11)
    assert model.head("topic")(output.x_BTD).shape == (2, 2)
