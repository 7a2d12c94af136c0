"""Freezing by path: what is frozen stays bit by bit, drops nothing, costs what is counted; the rest learns as ever."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import prepared, trained
from torch.utils.flop_counter import FlopCounterMode
from transfers import TABLE, UNTIED, asks, begun, saved, weights

from weft.errors import WeftError
from weft.evaluation.base import measuring
from weft.hub.folder import read_tensors
from weft.runs.folder import RunFolder
from weft.training.loop import Training
from weft.training.optimizers import state_tensors

pytestmark = pytest.mark.usefixtures("peak")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("freezing")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return tiny.text(folder)


@pytest.fixture(scope="module")
def donor(source: Path, folder: Path) -> Path:
    """A model folder of the recipe's model, from another seed."""
    return saved(folder / "donor", source)


HARSH = ("model.dropout=0.3", "train.batch_tokens=64", "train.micro_batch=1")
OPTIMIZERS = {
    "adamw": ("optimizer={kind: adamw, weight_decay: 0.5, learning_rate: 0.01}",),
    "adam": ("optimizer={kind: adam, weight_decay: 0.5}",),
    "sgd": ("optimizer={kind: sgd, weight_decay: 0.5}",),
    "muon": ("optimizer={kind: muon, weight_decay: 0.5}", "train.average={kind: exponential, decay: 0.9}"),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_frozen_is_bit_by_bit_the_same_at_the_end(source: Path, donor: Path, folder: Path, kind: str) -> None:
    transfer = asks({"from": donor, "copy": {"embedding": "embedding"}, "freeze": ["embedding", "*.0.*"]})
    changes = (*HARSH, *OPTIMIZERS[kind], transfer, UNTIED, "train.budget=8 steps")
    before = weights(begun(source, *changes).model)
    run = RunFolder(trained(folder / "frozen", tiny.recipe(source), *changes))
    after, state = (read_tensors(run.checkpoints()[-1] / f"{name}.safetensors") for name in ("model", "state"))
    frozen = {path for path in before if path.startswith(("embedding.", "decoder.blocks.0."))}
    assert {path for path in before if torch.equal(before[path], after[path])} == frozen
    moving = {key.removeprefix("weights/").partition("/")[0] for key in state}
    assert moving == before.keys() - frozen, "optimizer state, and averages"
    transferred = run.manifest()["transfer"]
    assert transferred["unchanged"] is True
    assert transferred["frozen"].keys() == frozen
    assert transferred["copied"][TABLE]["largest_difference"] == 0
    size = sum(before[path].numel() for path in frozen)
    assert transferred["parameters"] == {"learning": sum(x.numel() for x in before.values()) - size, "frozen": size}


def test_all_but_a_head(source: Path) -> None:
    training = begun(source, UNTIED, *HARSH, asks({"freeze": ["embedding", "decoder"]}))
    before = weights(training.model)
    for _ in range(3):
        training.total = 3
        training.advance(layers=True)
        assert all(parameter.grad is None for parameter in training.model.parameters())
    after = weights(training.model)
    assert {path for path in before if not torch.equal(before[path], after[path])} == {"heads.lm.projection.weight"}
    assert {key.partition("/")[0] for key in state_tensors(training.optimizer)} == {"heads.lm.projection.weight"}


def test_frozen_parameters_get_no_gradient(source: Path) -> None:
    training = begun(source, asks({"freeze": ["decoder.blocks.1", "*_norm"]}))
    training.total = 1
    training._gradients()
    without = {path for path, parameter in training.model.named_parameters() if parameter.grad is None}
    expected = {path for path in weights(training.model) if "_norm" in path or path.startswith("decoder.blocks.1.")}
    assert without == expected


def test_the_gradient_of_the_rest_is_what_it_was(source: Path) -> None:
    whole, part = begun(source), begun(source, asks({"freeze": ["decoder.blocks.0", "*.query"]}))
    for training in (whole, part):
        training.total = 1
        training._gradients()
    for path, parameter in part.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole.model.get_parameter(path).grad, rtol=1e-5, atol=1e-8)


def test_frozen_modules_drop_nothing(source: Path) -> None:
    training = begun(source, *HARSH, asks({"freeze": ["decoder.blocks.0.*", "embedding.*"]}))
    model = training.model
    with measuring(model):
        assert not any(module.training for module in model.modules())
    resting = {path for path, module in model.named_modules() if not module.training}
    assert resting >= {path for path, _ in model.named_modules() if path.startswith("decoder.blocks.0")}
    assert {"embedding", "embedding.tokens"} <= resting
    assert not resting & {"", "decoder", "decoder.blocks", "decoder.blocks.1", "decoder.blocks.1.attention"}
    block, other = (model.get_submodule(f"decoder.blocks.{i}") for i in (0, 1))
    x_BTD = torch.randn(1, 5, 32)
    assert torch.equal(block.drop(x_BTD), x_BTD)  # type: ignore[operator]
    assert not torch.equal(other.drop(x_BTD), x_BTD)  # type: ignore[operator]


def test_one_tensor_in_two_places(source: Path) -> None:
    plan = prepared(source, asks({"freeze": ["heads.lm.projection"]})).plan
    assert plan is not None
    assert plan.frozen == {TABLE}
    assert plan.notes == (f"{TABLE} is frozen too: it is one tensor with heads.lm.projection.weight",)
    shared = prepared(source, "model.decoder.share=all", asks({"freeze": ["decoder.blocks.1.attention"]})).plan
    assert shared is not None
    assert len(shared.frozen) == 4
    assert all(name.startswith("decoder.blocks.0.attention.") for name in shared.frozen)
    assert "decoder.blocks.0.attention.query.weight is frozen too" in shared.notes[0]
    assert "(and 3 more alike)" in shared.notes[0]


def test_a_frozen_parameter_that_moves_is_noticed(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Training.advance

    def nudge(self: Training, layers: bool = False) -> dict[str, Any]:
        values = advance(self, layers)
        self.model.get_parameter(TABLE).data[3, 1] += 1e-6
        return values

    monkeypatch.setattr(Training, "advance", nudge)
    path = folder / "nudged"
    with pytest.raises(WeftError, match=f"{re.escape(TABLE)} is frozen and has changed"):
        tiny.run(tiny.recipe(source), folder, asks({"freeze": ["embedding"]}), "train.budget=2 steps", name=path.name)
    manifest = RunFolder(path).manifest()
    assert manifest["transfer"]["unchanged"] is False
    assert manifest["status"] == "failed"


# --- what it costs ---


@pytest.mark.parametrize(
    ("freeze", "saved_products", "of_head"),
    [
        ([], 0, 0),
        (["embedding", "decoder.positions"], 1, 0),
        (["embedding", "decoder.positions", "decoder.blocks.0"], 5, 0),
        (["embedding", "decoder"], 8, 1),
        (["decoder.blocks.0"], 2, 0),
    ],
)
def test_flops_are_those_that_are_counted(source: Path, freeze: list[str], saved_products: int, of_head: int) -> None:
    """Frozen matrices have no gradient, and what stands before all that learns takes no part in backward."""
    block = ("model.decoder.block.attention=none", "model.decoder.block.feedforward={kind: gelu, width: 64}")
    plain = (*block, "model.decoder.norm=none", "model.decoder.positions=learned", UNTIED)
    whole, training = begun(source, *plain), begun(source, *plain, *([asks({"freeze": freeze})] if freeze else []))
    training.total = 1
    with FlopCounterMode(display=False) as counter:
        training._gradients()
    assert counter.get_total_flops() == training.flops_per_token * training.tokens_per_step
    saved_flops = whole.flops_per_token - training.flops_per_token
    assert saved_flops == saved_products * 2 * 32 * 64 + of_head * 2 * 32 * 257
