"""What training computes: gradients, steps, schedules, budgets, measures, records; against computations by hand."""

from __future__ import annotations

import io
import json
import math
import random
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

import weft.training.run as running
from weft.config import load
from weft.evaluation.language import evaluate_language
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.runs.folder import RunFolder
from weft.training import checkpoints
from weft.training.budget import Budget
from weft.training.loop import Training
from weft.training.optimizers import Optimizer, set_rates
from weft.training.recipe import Recipe
from weft.training.schedules import Schedule
from weft.training.setup import Prepared, manifest_of, new_training, prepare_run

BRIEF = "train.budget=12 steps"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return tiny.text(folder)


def prepared(source: Path, *overrides: str) -> Prepared:
    return prepare_run(load(Recipe, tiny.recipe(source), overrides), Console(file=io.StringIO()))


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


def trained(runs: Path, what: Any, *overrides: str, **options: Any) -> Path:
    return tiny.run(what, runs, *overrides, **options)[0].folder


def lines(run: Path, split: str = "train") -> list[dict[str, Any]]:
    return [line for line in RunFolder(run).log if line["split"] == split]


def final_weights(run: Path) -> bytes:
    return (RunFolder(run).checkpoints()[-1] / "model.safetensors").read_bytes()


# --- gradients ---

RAGGED = ("data.packing=documents", "train.batch_tokens=320", "train.clip=1e9", "model.max_length=64")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_ragged_micro_batches_are_one_batch(source: Path, rows: int) -> None:
    whole, parts = exact(source, *RAGGED), exact(source, *RAGGED, f"train.micro_batch={rows}")
    batch = whole.recipe.objective.collate(exact(source, *RAGGED).loader.next(), "cpu")
    counts = {int((part.targets_BT >= 0).sum()) for part in batch.split(rows)}
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


# --- measures ---


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[Transformer, Prepared]:
    """A model in float64 that is far from uniform, and a text whose bytes, characters and tokens differ in number."""
    draw = random.Random(0)
    words = "hồn nhiên là một thứ gì đó rất đẹp ở trong lòng người ta"
    texts = [" ".join(draw.choices(words.split(), k=draw.randrange(1, 16))) for _ in range(40)]
    source = folder / "viet.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ready = prepared(source, "data.tokenizer={kind: bpe, vocab_size: 280}", "data.validation.share=0.2")
    model = new_training(ready, Console(file=io.StringIO())).model.double().eval()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        model.heads["lm"].projection.weight.mul_(20)
    return model, ready


def by_hand(model: Transformer, stream: list[int], window: int, stride: int) -> list[float]:
    """Nats of each token: from the first window that ends behind it, windows ending at `window` + n x `stride`."""
    nats = []
    for place, target in enumerate(stream):
        end = next(end for end in range(window, 10**9, stride) if end > place)
        end = min(end, len(stream))
        start = max(end - window, 0)
        context = [stream[-1], *stream][start : place + 1]  # the stream counts as preceded by an end of document
        with torch.no_grad():
            logits_V = model(torch.tensor([context])).logits_BTV[0, -1]
        nats.append(float(torch.logsumexp(logits_V, 0) - logits_V[target]))
    return nats


@pytest.mark.parametrize(("window", "stride"), [(32, 32), (32, 16), (32, 5), (150, 75), (9999, 500)])
def test_bits_per_byte_by_hand(measured: tuple[Transformer, Prepared], window: int, stride: int) -> None:
    model, ready = measured
    split = ready.data.validation
    nats = by_hand(model, split.arrays["tokens"].tolist(), window, stride)
    texts = (json.loads(line)["text"] for line in Path(ready.recipe.data.source.path).read_text().splitlines())  # type: ignore[attr-defined]
    numbered = {f"viet.jsonl#{number}": text for number, text in enumerate(texts, start=1)}
    size = sum(len(numbered[name].encode()) for name in split.ids)
    found = evaluate_language(model, split, window, stride)
    assert (found.tokens, found.bytes, found.whole) == (split.tokens, size, True)
    assert found.nats == pytest.approx(sum(nats), rel=1e-10)
    assert found.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-10)
    assert found.loss == pytest.approx(sum(nats) / len(nats), rel=1e-10)
    offsets = split.arrays["offsets"].tolist()
    each = [sum(nats[start:end]) for start, end in pairwise(offsets)]
    assert found.nats_by_document.tolist() == pytest.approx(each, rel=1e-10)


def test_rows_at_a_time_do_not_matter(measured: tuple[Transformer, Prepared]) -> None:
    model, ready = measured
    found = [evaluate_language(model, ready.data.validation, 32, 8, rows=rows) for rows in (1, 3, 64)]
    assert [result.nats for result in found] == pytest.approx([found[0].nats] * 3, rel=1e-12)
    assert found[0].nats_by_document.tolist() == pytest.approx(found[2].nats_by_document.tolist(), rel=1e-12)


def test_a_part_of_the_text(measured: tuple[Transformer, Prepared]) -> None:
    model, ready = measured
    split, told = ready.data.validation, []
    found = evaluate_language(model, split, 32, 32, limit=100, rows=2, progress=lambda *at: told.append(at))
    nats = by_hand(model, split.arrays["tokens"].tolist()[:100], 32, 32)
    assert (found.tokens, found.whole, told) == (100, False, [(64, 100), (100, 100)])
    # where the part ends is no end of a document: only the token before the first differs from `by_hand`
    assert found.nats == pytest.approx(sum(nats), rel=0.02)
    assert found.bytes == pytest.approx(split.bytes_until(100))
    assert 0 < found.bytes < split.bytes


def test_measuring_leaves_the_model_as_it_was(measured: tuple[Transformer, Prepared]) -> None:
    model, ready = measured
    model.train()
    evaluate_language(model, ready.data.validation, 32, 32, 50)
    assert model.training
    model.eval()


def test_the_last_measure_is_of_all_and_kept_by_document(source: Path, folder: Path) -> None:
    run, said = tiny.run(tiny.recipe(source), folder, BRIEF, "train.evaluate_tokens=64")
    *partial, final = lines(run.folder, "validation")
    assert [(line["values"]["whole"], line["values"]["tokens"]) for line in partial] == [(False, 64)] * 3
    values = final["values"]
    assert (values["whole"], values["window"], values["stride"], values["final"]) == (True, 32, 16, True)
    expected = f"{values['bits_per_byte']:.3f} bits per byte over {values['tokens']} validation tokens, window 32"
    assert f"{expected}, stride 16" in said
    rows = [json.loads(line) for line in (run.folder / "predictions/validation.jsonl").read_text().splitlines()]
    assert len(rows) == RunFolder(run.folder).manifest()["data"]["validation"]["documents"]
    assert sum(row["nats"] for row in rows) == pytest.approx(values["loss"] * values["tokens"])
    assert all(re.fullmatch(r"text\.jsonl#\d+", row["id"]) for row in rows)


def test_a_tokenizer_that_loses_text_gets_no_bits_per_byte(source: Path, folder: Path) -> None:
    """And the best checkpoint is found nevertheless."""
    (folder / "lossy.jsonl").write_text('{"text": "the cat sat on the ½ mat and the dog ran"}\n' * 4)
    validation = f"data.validation={{kind: file, path: '{folder / 'lossy.jsonl'}'}}"
    lossy = [validation, "data.tokenizer=characters", "train.evaluate_every=4"]
    run, said = tiny.run(tiny.recipe(source), folder, BRIEF, *lossy)
    assert "no bits per byte: the tokenizer loses some text" in said
    assert " nan " not in said
    losses = {line["step"]: line["values"]["loss"] for line in lines(run.folder, "validation")[1:-1]}
    best = min(losses, key=losses.__getitem__)
    assert RunFolder(run.folder).manifest()["best"]["checkpoint"] == f"step-{best:08d}"
    assert best != min(losses), "this text should be learned: the best is not the first"


# --- records ---


def test_on_step_sees_every_step(source: Path, folder: Path) -> None:
    seen = []
    run = tiny.run(tiny.recipe(source), folder, BRIEF, on_step=lambda step, values: seen.append((step, values)))[0]
    assert [step for step, _ in seen] == list(range(1, 13))
    assert seen[0][1]["loss"] == pytest.approx(math.log(257), abs=0.1)
    assert all(values["gradient_norm"] > 0 for _, values in seen)
    assert run.finished


def test_a_line_of_the_log_is_the_mean_since_the_last(source: Path, folder: Path) -> None:
    each = lines(trained(folder, tiny.recipe(source), "train.log_every=1"))
    some = lines(trained(folder, tiny.recipe(source), "train.log_every=5"))
    assert [line["step"] for line in some] == [5, 10, 15, 20, 24]
    tokens = np.diff([0, *(line["tokens"] for line in each)])
    assert len(set(tokens.tolist())) > 1, "steps of unequal counts should be among them"
    before = 0
    for line in some:
        part = slice(before, line["step"])
        losses, norms = ([each_line["values"][name] for each_line in each[part]] for name in ("loss", "gradient_norm"))
        assert line["tokens"] == each[line["step"] - 1]["tokens"]
        assert line["values"]["loss"] == pytest.approx(np.average(losses, weights=tokens[part]), rel=1e-9)
        assert line["values"]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-9)
        before = line["step"]


def test_what_is_logged_of_layers(source: Path, folder: Path) -> None:
    sgd = ["optimizer={kind: sgd, learning_rate: 0.3, momentum: 0}", "train.clip=1e9", "train.log_every=1"]
    shown = [line for line in lines(trained(folder, tiny.recipe(source), BRIEF, *sgd)) if "layers" in line["values"]]
    assert [line["step"] for line in shown] == [4, 8, 12]
    for line in shown:
        layers, rate = line["values"]["layers"], line["values"]["learning_rate"]
        assert list(layers) == ["embedding", "decoder.blocks.0", "decoder.blocks.1", "decoder"]
        total = math.sqrt(sum(layer["gradient_norm"] ** 2 for layer in layers.values()))
        assert total == pytest.approx(line["values"]["gradient_norm"], rel=1e-4)
        for layer in layers.values():
            expected = rate * layer["gradient_norm"] / layer["weight_norm"]
            assert layer["update_ratio"] == pytest.approx(expected, rel=1e-3)


def test_the_progress_line(source: Path, folder: Path) -> None:
    said = tiny.run(tiny.recipe(source), folder)[1]
    found = [line for line in said.splitlines() if line.startswith("step ")]
    pattern = r"step +\d+/24  loss \d\.\d{3}  \d\.\d{3} bits/byte  [\d,]+ tokens/s  \d+% of peak  .+ left"
    assert [bool(re.fullmatch(pattern, line)) for line in found] == [True] * 3, said
    assert "text.jsonl: 40 documents; 1.4 kB for training, 265 B for validation" in said
    assert "note: training text: 1.4 kB is too little to learn a language from" in said


def test_the_newest_and_the_best_checkpoints_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(10, 100, 10):
        run.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints/notes").mkdir()
    for keep, best, expected in ((4, 20, [20, 60, 70, 80, 90]), (3, 80, [70, 80, 90]), (1, None, [90])):
        checkpoints.prune(run, keep, f"step-{best:08d}" if best else None)
        assert [path.name for path in run.checkpoints()] == [f"step-{step:08d}" for step in expected]
    assert (tmp_path / "checkpoints/notes").is_dir()


# --- identity ---


def test_a_run_repeats_bit_by_bit(source: Path, folder: Path) -> None:
    first = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1", name="first")
    again = trained(folder, first / "recipe.yaml", name="again")
    other = trained(folder, first / "recipe.yaml", "train.seed=1", name="other")
    assert tiny.result(first) == tiny.result(again)
    identities = [RunFolder(run).manifest()["identity"] for run in (first, again, other)]
    assert identities[0] == identities[1] != identities[2]
    assert final_weights(first) != final_weights(other)


EXECUTION = ("train.log_every=1", "train.sample_tokens=30", "train.keep_checkpoints=1", "train.checkpoint_every=5")


def test_how_a_run_is_watched_does_not_change_it(source: Path, folder: Path) -> None:
    plain = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1")
    for option in (*EXECUTION, "train.sample_tokens=0", "train.evaluate_every=1"):
        watched = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1", option)
        assert final_weights(watched) == final_weights(plain), option


@pytest.fixture(scope="module")
def identity(source: Path) -> Callable[..., str]:
    def of(*overrides: str, plugins: dict[str, str] | None = None, path: Path = source) -> str:
        ready = prepared(path, *overrides)
        training = new_training(ready, Console(file=io.StringIO()))
        return str(manifest_of(ready, training, plugins or {}, "weft train")["identity"])

    return of


def test_execution_options_do_not_change_the_identity(identity: Callable[..., str]) -> None:
    changes = (*EXECUTION, "train.micro_batch=2", "train.precision=bf16", "name=other", "train.device=auto")
    assert {identity(*changes[:index]) for index in range(len(changes) + 1)} == {identity()}


def test_semantic_options_data_and_plugins_change_the_identity(
    identity: Callable[..., str], tmp_path: Path, source: Path
) -> None:
    changes = ["train.seed=1", "train.budget=25 steps", "optimizer.learning_rate=4e-3", "model.d_model=48",
               "model.decoder.positions=none", "data.packing=documents", "schedule=cosine", "train.clip=2",
               "data.tokenizer=characters", "model.decoder.positions.theta=1000"]  # fmt: skip
    found = [identity(), *(identity(change) for change in changes)]
    found += [identity(plugins={"plugins/a.py": "1"}), identity(plugins={"plugins/a.py": "2"})]
    assert len(set(found)) == len(found)
    moved = tiny.text(tmp_path, seed=1).rename(source.with_name("moved.jsonl"))
    kept, text = source.read_text(), moved.read_text()
    moved.write_text(kept)
    before = identity(path=moved)
    moved.write_text(text)
    assert identity(path=moved) != before, "the same path, another text"


# --- from Python and from the command line ---


def test_a_mapping_trains_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weft

    monkeypatch.chdir(tmp_path)
    done = weft.train(tiny.recipe(source), "train.budget=2 steps", console=Console(file=io.StringIO()))
    assert isinstance(done, weft.Run)
    assert (done.folder, done.finished) == (Path("runs/tiny"), True)
    assert done.load()[0].config.vocab_size == 257
    with pytest.raises(weft.WeftError, match="exists already"):
        weft.train(tiny.recipe(source), name="tiny")


def test_the_heads_that_an_objective_needs_are_added_aloud(source: Path, folder: Path) -> None:
    raw = tiny.recipe(source)
    raw["model"]["heads"] = {}
    run, said = tiny.run(raw, folder, "train.budget=2 steps")
    assert "heads added for the objective causal: lm" in said
    assert list(run.load()[0].heads) == ["lm"]


def test_json_on_stdout_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.recipe_file(tmp_path)
    arguments = ["train", path, "train.budget=2 steps", "--runs", tmp_path, "--json"]
    code, out, err = tiny.command(*arguments, patch=monkeypatch, capture=capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["folder"], found["finished"]) == (str(tmp_path / "tiny"), True)
    assert found["validation"] == lines(tmp_path / "tiny", "validation")[-1]["values"]
    assert "bits per byte over" in err
