"""Independent witnesses of BERT's kind: Hugging Face's BERT and ALBERT compute the same, heads and gradients included.

Post-norm blocks, a norm after token + segment + position, the transform before the tied decoder, the pooler; ALBERT's
narrow table and its layers with the weights of others.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.checking.compare import close
from weft.models.build import build
from weft.models.cost import parameter_count
from weft.models.transformer import Transformer
from weft.nn import IGNORE, Inputs

transformers = pytest.importorskip("transformers")

V, D, E, LENGTH = 53, 24, 10, 30
LABELS = ["a", "b", "c"]
SIZES = {
    "vocab_size": V, "hidden_size": D, "num_attention_heads": 4, "intermediate_size": 40, "type_vocab_size": 2,
    "max_position_embeddings": LENGTH, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0, "initializer_range": 0.2, "pad_token_id": 0,
    "layer_norm_eps": 1e-12, "attn_implementation": "eager",
}  # fmt: skip
NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.query": "attention.query",
    "attention.key": "attention.key",
    "attention.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "attention.LayerNorm": "attention_norm",
    "intermediate.dense": "feedforward.up",
    "ffn": "feedforward.up",
    "output.dense": "feedforward.down",
    "ffn_output": "feedforward.down",
    "output.LayerNorm": "feedforward_norm",
    "full_layer_layer_norm": "feedforward_norm",
}
OUTSIDE = {
    "embeddings.word_embeddings": "embedding.tokens",
    "embeddings.token_type_embeddings": "embedding.segments",
    "embeddings.position_embeddings": "encoder.positions.table",
    "embeddings.LayerNorm": "encoder.embedding_norm",
    "encoder.embedding_hidden_mapping_in": "encoder.from_embedding",
    "cls.predictions.transform.dense": "heads.mlm.dense",
    "cls.predictions.transform.LayerNorm": "heads.mlm.norm",
    "cls.predictions": "heads.mlm.projection",
    "predictions.dense": "heads.mlm.dense",
    "predictions.LayerNorm": "heads.mlm.norm",
    "predictions": "heads.mlm.projection",
    "pooler.dense": "heads.of.pooler",
    "pooler": "heads.of.pooler",
    "classifier": "heads.of.projection",
    "qa_outputs": "heads.of.projection",
}


def mine(kind: str, head: dict[str, Any], stack: dict[str, Any]) -> Transformer:
    """The same encoder in weft's words."""
    norm = {"kind": "layer", "epsilon": 1e-12}
    approximate = "none" if kind == "bert" else "tanh"
    block = {
        "kind": "post",
        "attention": {"n_heads": 4, "bias": True},
        "feedforward": {"kind": "gelu", "width": 40, "bias": True, "approximate": approximate},
    }
    embedding = {"kind": "tokens"} if kind == "bert" else {"kind": "factorized", "width": E}
    encoder = {"positions": "learned", "norm": norm, "embedding_norm": norm, "block": block, **stack}
    if head["kind"] == "mlm":
        head = {**head, "norm": norm, "approximate": approximate}
    return build({
        "d_model": D, "vocab_size": V, "max_length": LENGTH, "embedding": {**embedding, "n_segments": 2},
        "encoder": encoder, "heads": {"mlm" if head["kind"] == "mlm" else "of": head},
    }).double().eval()  # fmt: skip


def renamed(theirs: dict[str, Tensor], groups: list[int]) -> dict[str, Tensor]:
    """BERT's and ALBERT's tensors under weft's names; of ALBERT's groups, each as the first layer that has it."""
    found = {}
    for name, tensor in theirs.items():
        path, _, leaf = name.removeprefix("bert.").removeprefix("albert.").rpartition(".")
        if path in OUTSIDE:
            found[f"{OUTSIDE[path]}.{leaf}"] = tensor
            continue
        _, which, number, below = path.split(".", 3)
        layer = groups.index(int(number)) if which == "albert_layer_groups" else int(number)
        found[f"encoder.blocks.{layer}.{NAMES[below.removeprefix('albert_layers.0.')]}.{leaf}"] = tensor
    return found


def pair(kind: str, task: str, head: dict[str, Any], layers: int = 2, groups: int = 1) -> tuple[Transformer, Any]:
    """The same small model twice, with random values everywhere."""
    name = {"bert": "Bert", "albert": "Albert"}[kind]
    own = {"embedding_size": E, "num_hidden_groups": groups} if kind == "albert" else {}
    sizes = {**SIZES, "num_labels": 2 if head["kind"] == "span" else 3}
    config = getattr(transformers, f"{name}Config")(**sizes, num_hidden_layers=layers, **own)
    theirs = getattr(transformers, f"{name}For{task}")(config).double().eval()
    stir(theirs)
    stack: dict[str, Any] = {"n_layers": layers} | ({"share": groups} if kind == "albert" else {})
    model = mine(kind, head, stack)
    state = renamed(dict(theirs.named_parameters()), [index * groups // layers for index in range(layers)])
    assert state.keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(state[path])
    return model, theirs


def stir(module: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)


def batch() -> tuple[Inputs, dict[str, Tensor]]:
    """Three rows of two segments, padded."""
    tokens_BT = torch.randint(1, V, (4, 9), generator=torch.Generator().manual_seed(1))
    valid_BT = torch.arange(9) < torch.tensor([[9], [4], [7], [8]])
    segments_BT = (torch.arange(9) >= torch.tensor([[4], [2], [9], [1]])).long()
    inputs = Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT, segments_BT=segments_BT)
    given = {"input_ids": tokens_BT, "attention_mask": valid_BT.long(), "token_type_ids": segments_BT}
    return inputs, given


def check_gradients(model: Transformer, theirs: Any, groups: list[int], least: int) -> None:
    grads = renamed({name: x.grad for name, x in theirs.named_parameters() if x.grad is not None}, groups)
    assert len(grads) >= least
    for path, grad in grads.items():
        found = model.get_parameter(path).grad
        assert found is not None, path
        # softmax does not feel a shift of all scores: the keys' bias, and a span's last ones, have none but rounding
        scale = max(float(grad.abs().max()), 1e-3)
        torch.testing.assert_close(found / scale, grad / scale, rtol=0, atol=1e-9, msg=path)


@pytest.mark.parametrize(("kind", "layers", "groups"), [("bert", 2, 2), ("albert", 3, 1), ("albert", 5, 2)])
def test_masked_language_model(kind: str, layers: int, groups: int) -> None:
    model, theirs = pair(kind, "MaskedLM", {"kind": "mlm"}, layers, groups)
    assert parameter_count(model) == sum(x.numel() for x in theirs.parameters())
    inputs, given = batch()
    output, expected = model(inputs), theirs(**given, labels=None).logits
    valid_BT = inputs.valid_BT
    close(model.head("mlm")(output.x_BTD)[valid_BT].detach(), expected[valid_BT].detach())
    targets_BT = torch.where(torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) < 0.4, 7, IGNORE)
    targets_BT[~valid_BT] = IGNORE
    term = model.head("mlm").loss(output.x_BTD, targets_BT, chunk=3)
    their_loss = theirs(**given, labels=targets_BT).loss
    assert float(term.total.detach() / term.count) == pytest.approx(float(their_loss.detach()), rel=1e-10)
    (term.total / term.count).backward()
    their_loss.backward()
    check_gradients(model, theirs, [index * groups // layers for index in range(layers)], 25)


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("SequenceClassification", {"kind": "classifier", "pooling": "first", "pooler": True, "labels": LABELS}),
        ("TokenClassification", {"kind": "token-classifier", "labels": LABELS}),
        ("MultipleChoice", {"kind": "multiple-choice", "pooling": "first", "pooler": True}),
        ("QuestionAnswering", {"kind": "span"}),
    ],
)
def test_heads_and_their_losses(task: str, head: dict[str, Any]) -> None:
    model, theirs = pair("bert", task, head)
    inputs, given = batch()
    output, made, valid_BT = model(inputs), model.head("of"), inputs.valid_BT
    if task == "SequenceClassification":
        labels = torch.tensor([2, 0, 1, 1])
        answer, expected = theirs(**given, labels=labels), made(output.x_BTD, valid_BT)
        term, logits = made.loss(output.x_BTD, valid_BT, labels), answer.logits
    elif task == "TokenClassification":
        labels = torch.randint(3, (4, 9), generator=torch.Generator().manual_seed(3)).masked_fill(~valid_BT, IGNORE)
        answer, expected = theirs(**given, labels=labels), made(output.x_BTD)[valid_BT]
        term, logits = made.loss(output.x_BTD, labels), answer.logits[valid_BT]
    elif task == "MultipleChoice":
        chosen = torch.tensor([1, 0])
        answer = theirs(**{name: x.unflatten(0, (2, 2)) for name, x in given.items()}, labels=chosen)
        expected, logits = made(output.x_BTD, valid_BT), answer.logits.flatten()
        term = made.loss(output.x_BTD, valid_BT, chosen)
    else:  # Hugging Face's softmax runs over padding too: texts of one length are compared
        given, output = {**given, "attention_mask": torch.ones(4, 9)}, model(Inputs(
            tokens_BT=inputs.tokens_BT, segments_BT=inputs.segments_BT))  # fmt: skip
        spans = torch.tensor([[0, 3], [2, 2], [5, 8], [1, 6]])
        answer = theirs(**given, start_positions=spans[:, 0], end_positions=spans[:, 1])
        expected, logits = made(output.x_BTD), torch.stack([answer.start_logits, answer.end_logits], -1)
        term = made.loss(output.x_BTD, None, spans)
    close(expected.detach(), logits.detach())
    assert float((term.total / term.count).detach()) == pytest.approx(float(answer.loss.detach()), rel=1e-10)
    (term.total / term.count).backward()
    answer.loss.backward()
    check_gradients(model, theirs, [0, 1], 30)
