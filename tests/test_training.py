"""What training computes: gradients, steps, schedules, budgets, what is learned; against computations by hand."""

from __future__ import annotations

import io
import math
import random
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from rich.console import Console
from tiny import lines, prepared, trained
from torch import nn

import weft.training.run as running
from weft.nn.context import Inputs
from weft.runs.folder import RunFolder
from weft.training.budget import Budget
from weft.training.loop import Training
from weft.training.optimizers import Optimizer, set_rates
from weft.training.schedules import Schedule
from weft.training.setup import new_training

BRIEF = "train.budget=12 steps"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return tiny.text(folder)


def exact(source: Path, *overrides: str) -> Training:
    """A training in float64 whose steps are its gradients: after one, weights have moved by minus the gradient."""
    options = ("optimizer={kind: sgd, learning_rate: 1, momentum: 0}", "schedule={kind: constant, warmup: 0}")
    training = new_training(prepared(source, *options, *overrides), Console(file=io.StringIO()))
    training.model.double()
    training.model.compute_dtype = torch.float64
    return training


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {path: parameter.detach().clone() for path, parameter in model.named_parameters()}


def gradient(training: Training) -> dict[str, torch.Tensor]:
    before = weights(training.model)
    training.advance()
    return {path: before[path] - after for path, after in weights(training.model).items()}


# --- gradients ---

RAGGED = ("data.packing=documents", "train.batch_tokens=320", "train.clip=1e9", "model.max_length=64")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_ragged_micro_batches_are_one_batch(source: Path, rows: int) -> None:
    whole, parts = exact(source, *RAGGED), exact(source, *RAGGED, f"train.micro_batch={rows}")
    batch = whole.recipe.objective.collate(exact(source, *RAGGED).loader.next(), "cpu")
    counts = {int((part.targets >= 0).sum()) for part in batch.split(rows)}
    assert len(counts) > 1, "the pieces of this batch have equal counts: nothing is shown"
    expected, found = gradient(whole), gradient(parts)
    for path in expected:
        assert (found[path] - expected[path]).abs().max() < 1e-10 * expected[path].abs().max(), path


def test_the_gradient_is_that_of_the_mean_over_all_targets(source: Path) -> None:
    training = exact(source, *RAGGED, "train.micro_batch=1")
    model = training.model
    packed = exact(source, *RAGGED).loader.next()
    assert packed.positions_BT is not None
    assert packed.documents_BT is not None
    assert packed.valid_BT is not None
    inputs = Inputs(
        tokens_BT=torch.from_numpy(packed.tokens_BT),
        positions_BT=torch.from_numpy(packed.positions_BT),
        documents_BT=torch.from_numpy(packed.documents_BT),
        valid_BT=torch.from_numpy(packed.valid_BT),
    )
    logits = model(inputs).logits_BTV
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(packed.targets_BT).flatten(), ignore_index=-100)
    expected = dict(zip(weights(model), torch.autograd.grad(loss, list(model.parameters())), strict=True))
    found = gradient(training)
    for path in expected:
        assert (found[path] - expected[path]).abs().max() < 1e-10 * expected[path].abs().max(), path


def test_clipping_shortens_the_gradient_and_reports_its_length(source: Path) -> None:
    def length(tensors: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float(x.square().sum()) for x in tensors.values()))

    free = gradient(exact(source, "train.clip=1e9"))
    assert length(free) > 0.5
    for clip in (0.25, 100.0):
        training = exact(source, f"train.clip={clip}")
        before = weights(training.model)
        values = training.advance()
        step = {path: before[path] - after for path, after in weights(training.model).items()}
        assert values["gradient_norm"] == pytest.approx(length(free), rel=1e-6)
        assert length(step) == pytest.approx(min(clip, length(free)), rel=1e-4)
        for path in free:
            torch.testing.assert_close(step[path] / length(step), free[path] / length(free), rtol=1e-4, atol=1e-9)


def test_two_steps_of_adamw_by_hand() -> None:
    p, g = torch.tensor([[0.5, -2.0]], dtype=torch.float64), torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(p)
    options = {"learning_rate": 0.1, "weight_decay": 0.5, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3}
    optimizer = Optimizer.choose({"kind": "adamw", **options}).build(model)
    m = v = torch.zeros_like(p)
    for t in (1, 2):
        model.weight.grad = g * t
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g * t, 0.9 * v + 0.1 * (g * t) ** 2
        p = p - 0.1 * 0.5 * p - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
    torch.testing.assert_close(model.weight.data, p, rtol=1e-9, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_of_sgd_by_hand(nesterov: bool) -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    p, g = model.weight.data.clone(), torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    kind = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.5, "nesterov": nesterov}
    optimizer = Optimizer.choose(kind).build(model)
    velocity = torch.zeros_like(p)
    for _ in range(2):
        model.weight.grad = g.clone()
        optimizer.step()
        pull = g + 0.5 * p
        velocity = 0.8 * velocity + pull
        p = p - 0.1 * (pull + 0.8 * velocity if nesterov else velocity)
    torch.testing.assert_close(model.weight.data, p, rtol=1e-9, atol=0)


# --- optimizers' groups ---


def treated(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """(weight decay, learning rate) of each parameter."""
    groups = Optimizer.choose(options).parameter_groups(model.named_parameters())
    return {path: (group["weight_decay"], group["base_lr"]) for group in groups for path in group["paths"]}


def test_matrices_alone_decay(source: Path) -> None:
    model = exact(source, "model.decoder.norm=layer", "model.decoder.block.attention.bias=true").model
    for path, (decay, rate) in treated(model, learning_rate=0.3, weight_decay=0.2).items():
        assert rate == 0.3
        assert decay == (0.2 if model.get_parameter(path).ndim == 2 else 0.0), path
    assert set(treated(model)) == set(weights(model))


def test_groups_by_path_and_the_later_wins(source: Path) -> None:
    groups = [
        {"paths": ["decoder.*"], "weight_decay": 0.5, "learning_rate": 0.1},
        {"paths": ["*norm*", "embedding.*"], "weight_decay": 0.25},
        {"paths": ["decoder.blocks.1.*"], "learning_rate": 0},
    ]
    found = treated(exact(source).model, learning_rate=1.0, weight_decay=0.0, groups=groups)
    assert found["embedding.tokens.weight"] == (0.25, 1.0)
    assert found["decoder.blocks.0.attention.query.weight"] == (0.5, 0.1)
    assert found["decoder.blocks.0.attention_norm.weight"] == (0.25, 0.1)
    assert found["decoder.blocks.1.attention_norm.weight"] == (0.25, 0.0)
    assert found["decoder.blocks.1.feedforward.up.weight"] == (0.5, 0.0)
    assert found["decoder.norm.weight"] == (0.25, 0.1)


def test_the_schedule_multiplies_every_groups_rate(source: Path) -> None:
    options = {"kind": "adamw", "learning_rate": 1.0, "groups": [{"paths": ["decoder.*"], "learning_rate": 0.5}]}
    optimizer = Optimizer.choose(options).build(exact(source).model)
    set_rates(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25, 0.125}


def test_a_rate_of_zero_freezes(source: Path, folder: Path) -> None:
    frozen = 'optimizer.groups=[{paths: ["embedding.*"], learning_rate: 0}]'
    before = weights(exact(source).model.float())
    model, _ = running.load_model(trained(folder, tiny.recipe(source), BRIEF, frozen))
    moved = {path for path, after in weights(model).items() if not torch.equal(after, before[path])}
    assert moved == set(before) - {"embedding.tokens.weight"}


# --- schedules ---

SCHEDULES: list[tuple[dict[str, Any], int, dict[int, float]]] = [
    ({"kind": "constant", "warmup": 0}, 10, {0: 1, 5: 1, 9: 1}),
    ({"kind": "constant", "warmup": 0.2}, 20, {0: 1 / 5, 1: 2 / 5, 3: 4 / 5, 4: 1, 19: 1}),
    ({"kind": "linear", "warmup": 0}, 10, {0: 1, 1: 0.9, 5: 0.5, 9: 0.1}),
    ({"kind": "linear", "warmup": 0.5, "end": 0.2}, 20, {9: 10 / 11, 10: 1, 15: 0.6, 19: 0.28}),
    ({"kind": "cosine", "warmup": 0, "end": 0.1}, 12, {0: 1, 3: 0.1 + 0.45 * (1 + 0.5**0.5), 6: 0.55, 8: 0.325}),
    ({"kind": "warmup-stable-decay", "warmup": 0.1, "decay": 0.3}, 100,
     {0: 1 / 11, 9: 10 / 11, 10: 1, 70: 1, 85: 0.5, 99: 1 / 30}),
    ({"kind": "warmup-stable-decay", "warmup": 0, "decay": 1, "end": 0.5}, 10, {0: 1, 5: 0.75, 9: 0.55}),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "total", "points"), SCHEDULES)
def test_a_schedule_by_hand(schedule: dict[str, Any], total: int, points: dict[int, float]) -> None:
    factor = Schedule.choose(schedule).factor
    assert {step: factor(step, total) for step in points} == pytest.approx(points)


@pytest.mark.parametrize("kind", sorted(Schedule.kinds))
def test_every_step_of_every_schedule_moves(kind: str) -> None:
    schedule = Schedule.choose(kind)
    for total in (1, 2, 3, 10, 997):
        factors = [schedule.factor(step, total) for step in range(total)]
        assert all(0 < factor <= 1 for factor in factors), total
        assert max(factors) == 1, total


def test_the_logged_rate_follows_the_schedule(source: Path, folder: Path) -> None:
    schedule = "schedule={kind: linear, warmup: 0.25}"
    run = trained(folder, tiny.recipe(source), BRIEF, schedule, "train.log_every=1", "optimizer.learning_rate=0.5")
    expected = [0.125, 0.25, 0.375, *(0.5 * (1 - step / 9) for step in range(9))]
    assert [line["values"]["learning_rate"] for line in lines(run)] == pytest.approx(expected)


# --- budgets ---


def test_budgets_by_hand() -> None:
    def steps(text: str) -> int | None:
        return Budget.read(text).steps(tokens_per_step=1000, tokens_per_epoch=4500, flops_per_token=10**6)

    assert steps("450 steps") == steps("1 step") * 450 == steps("450steps") == 450  # type: ignore[operator]
    assert (steps("10k tokens"), steps("10001 tokens"), steps("0.01M tokens"), steps("1 token")) == (10, 11, 10, 1)
    assert (steps("2 epochs"), steps("1 epoch"), steps("0.1 epochs")) == (9, 5, 1)
    assert (steps("3e9 flops"), steps("3.9G flops"), steps("1 flop")) == (3, 3, 1)
    assert steps("3 minutes") is None


@pytest.mark.parametrize("text", ["", "450", "steps", "0 steps", "-3 steps", "3 hours", "1e999 steps", "3 steps or so"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="should be an amount and a unit"):
        Budget.read(text)


@pytest.mark.parametrize("unit", ["tokens", "epochs", "flops"])
def test_a_budget_becomes_steps(source: Path, unit: str) -> None:
    one = exact(source)
    amount = {"tokens": 1000.0, "epochs": 1.5, "flops": 5.5 * 128 * one.flops_per_token}[unit]
    expected = {"tokens": 8, "epochs": math.ceil(1.5 * one.data.train.tokens / 128), "flops": 5}[unit]
    assert exact(source, f"train.budget={amount} {unit}").total == expected


class Clock:
    """Two seconds a step, and none for anything else."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = staticmethod(time.perf_counter)

    def tick(self, step: int, values: dict[str, Any]) -> None:
        self.now += 2.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    monkeypatch.setattr("weft.training.setup.timed_steps", lambda training, steps: 1.0)
    return clock


def test_minutes_end_by_the_clock(source: Path, folder: Path, clock: Clock) -> None:
    """The probe said one second a step: 55 steps in a minute, less what else there is to do; but they take two."""
    run, said = tiny.run(tiny.recipe(source), folder, "train.budget=1 minutes", on_step=clock.tick)
    assert "budget: 1 minutes at 1.000 s a step (timed) = 55 steps" in said
    assert "out of time at step 31 of 55" in said
    assert run.finished
    budget = RunFolder(run.folder).manifest()["budget"]
    assert budget == {"asked": "1 minutes", "steps": 55, "tokens": 55 * 128, "stopped": 31}
    assert RunFolder(run.folder).checkpoints()[-1].name == "step-00000031"
    ends = [(line["step"], line["values"].get("final", False)) for line in lines(run.folder, "validation")[-2:]]
    assert ends == [(31, False), (31, True)], "what was reached is measured, so that it can be the best"
    assert "is finished after 31 steps; nothing to do" in tiny.run(run.folder, folder)[1]


def test_minutes_count_on_after_a_stop(source: Path, folder: Path, clock: Clock) -> None:
    def stop(step: int, values: dict[str, Any]) -> None:
        clock.tick(step, values)
        if step == 10:
            raise InterruptedError

    path = folder / "minutes"
    with pytest.raises(InterruptedError):
        tiny.run(tiny.recipe(source), folder, "train.budget=1 minutes", name=path.name, on_step=stop)
    clock.now += 10_000
    said = tiny.run(path, folder, on_step=clock.tick)[1]
    assert "going on from step 8 of 55" in said
    assert "out of time at step 32 of 55" in said, "step 8 was saved when 7 steps had ticked"


def test_minutes_are_enough(source: Path, folder: Path) -> None:
    run, said = tiny.run(tiny.recipe(source), folder, "train.budget=0.01 minutes")
    found = re.search(r"budget: 0.01 minutes at \d\.\d{3} s a step \(timed\) = (\d+) steps", said)
    assert found
    assert RunFolder(run.folder).manifest()["budget"]["steps"] == int(found[1])
    assert lines(run.folder, "validation")[-1]["values"]["final"]


# --- learning ---


def test_a_markov_source_is_learned_to_its_entropy(tmp_path: Path) -> None:
    """Four letters, each next one drawn by the last one: no model can be better than the chain itself on average."""
    chain = np.array([[0.85, 0.05, 0.05, 0.05], [0.1, 0.1, 0.7, 0.1], [0.25] * 4, [0.02, 0.9, 0.04, 0.04]])
    stationary = np.linalg.matrix_power(chain, 200)[0]
    entropy = float(-(stationary[:, None] * chain * np.log2(chain)).sum())
    draw, letter, text = random.Random(0), 0, []
    for _ in range(60_000):
        letter = draw.choices(range(4), chain[letter])[0]
        text.append(letter)
    (tmp_path / "chain.txt").write_text("".join("acgt"[letter] for letter in text))
    changes = ["data.validation=tail", "train.budget=120 steps", "train.batch_tokens=1024", "train.evaluate_every=60",
               "optimizer.learning_rate=1e-2", "optimizer.weight_decay=0", "model.decoder.n_layers=1"]  # fmt: skip
    run = trained(tmp_path, tiny.recipe(tmp_path / "chain.txt"), *changes)
    final = lines(run, "validation")[-1]["values"]
    held_out = text[54_000 - 1 :]
    best = -sum(math.log2(chain[a][b]) for a, b in pairwise(held_out)) / 6000
    assert final["bytes"] == 6000
    assert best == pytest.approx(entropy, rel=0.04), "this sample is not typical"
    assert 0.995 * best < final["bits_per_byte"] < 1.02 * best


def test_a_head_that_the_objective_does_not_read_rests(source: Path, folder: Path) -> None:
    raw = tiny.recipe(source)
    raw["model"] |= {"heads": {"lm": "lm", "idle": "lm"}, "embedding": {"tied": False}}
    run = tiny.run(raw, folder, "train.budget=8 steps", "train.log_every=1")[0]
    layers = next(line["values"]["layers"] for line in lines(run.folder) if "layers" in line["values"])
    assert "heads.lm" in layers
    assert layers.get("heads.idle", {}).get("gradient_norm", 0.0) == 0.0


def test_null_switches_clipping_off(source: Path) -> None:
    assert prepared(source, "train.clip=null").recipe.train.clip is None
    assert prepared(source, "train.budget=null").recipe.train.budget == "450 steps", "no choice there: the default"
