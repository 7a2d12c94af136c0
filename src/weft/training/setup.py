"""From a recipe to a `Training` that is ready to go: data, model, machine, number of steps, and what to write down."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console

import weft
from weft import device
from weft.config import load, semantic
from weft.data.config import prepare
from weft.data.shards import PreparedData
from weft.errors import WeftError
from weft.models.build import blank
from weft.models.cost import parameter_count
from weft.models.transformer import Transformer
from weft.report.formats import size
from weft.runs import fingerprints
from weft.training.budget import Budget
from weft.training.loop import Training, timed_steps
from weft.training.progress import say
from weft.training.recipe import Recipe
from weft.transfer import Plan, open_donor, planned

_SCORES = ("accuracy", "macro_f1", "bleu", "chrf")
"""What simple methods are measured by before a task is learned."""


@dataclass(frozen=True)
class Prepared:
    """What a run needs before its first step."""

    recipe: Recipe
    data: PreparedData
    machine: device.Machine
    environment: dict[str, Any]
    """What bitwise equality depends on."""
    plan: Plan | None = None
    """What is copied from another model, and what is frozen."""

    @property
    def donor(self) -> str | None:
        """The content address of the model that is copied from."""
        return None if self.plan is None or self.plan.donor is None else self.plan.donor.content


def prepare_run(recipe: Recipe, console: Console, fingerprint: str | None = None) -> Prepared:
    """Data and machine of a recipe; the model's declaration with what the data bind.

    Raises WeftError when the parts do not fit together, before any work on the data where that can be known, and when
    the data are others than those of `fingerprint`.
    """
    machine = device.choose(recipe.train.device, recipe.train.precision)
    threads = device.set_threads(recipe.train.threads)
    device.keep_memory()
    _deterministic()
    needed = recipe.objective.heads()
    missing = [name for name in needed if name not in recipe.model.heads]
    if missing:
        say(console, f"heads added for the objective {recipe.objective.kind}: {', '.join(missing)}")
    model = recipe.model.with_heads(needed)
    length, longest = recipe.row_length, model.max_length
    if length > longest:
        raise WeftError(f"train.length = {length} is more than model.max_length = {longest}; make that larger")
    if recipe.train.batch_tokens < length:
        source = "train.length" if recipe.train.length else "model.max_length"
        raise WeftError(
            f"train.batch_tokens = {recipe.train.batch_tokens} is less than a row of {source} = {length} tokens"
        )
    recipe.objective.check(model)
    recipe.objective.check_inputs(model)
    trial = blank(model.stand_in())  # parts that do not fit are found before the data are read
    donor = None
    if recipe.transfer is not None:
        if recipe.transfer.donor is not None and fingerprint is None:  # a run that goes on has what it needs
            donor = open_donor(recipe.transfer.donor)
        planned(recipe.transfer, trial, needed, donor).apply(trial)
    recipe.optimizer.parameter_groups(trial.named_parameters())
    data = prepare(recipe.data, length, recipe.objective.special_tokens, console, recipe.objective.columns)
    if fingerprint not in (None, data.fingerprint):
        raise WeftError(
            f"data.source = {data.report['source']}: the data of this run have changed since it began; bring them back,"
            " or begin a new run with the recipe.yaml in its folder"
        )
    if fingerprint is None:
        _tell(data.report, console)
        for note in recipe.optimizer.notes(trial):
            say(console, note)
    bound = recipe.model_copy(update={"model": model.bind(data.tokenizer.vocab_size, data.labels)})
    plan = None
    if recipe.transfer is not None:
        plan = planned(recipe.transfer, blank(bound.model), needed, donor, data.tokenizer)
    return Prepared(bound, data, machine, environment(machine, threads), plan)


def _tell(data: dict[str, Any], console: Console) -> None:
    """What a run is about to read, and what a person should hear about it."""
    removed = f" ({data['duplicates_removed']:,} near-duplicates left out)" if data["duplicates_removed"] else ""
    parts = f"{size(data['train']['bytes'])} for training, {size(data['validation']['bytes'])} for validation"
    say(console, f"{data['source']}: {data['documents']:,} document{'s' * (data['documents'] != 1)}{removed}; {parts}")
    for line in data.get("examples", {}).get("lines", ()):
        say(console, line)
    for name, entry in data["baselines"].items():
        scores = ", ".join(f"{key} {entry[key]:.3f}" for key in _SCORES if key in entry)
        if scores:
            say(console, f"baseline {name}: {scores} ({entry['how']})")
    for warning in data["warnings"]:
        say(console, f"note: {warning}")


def environment(machine: device.Machine, threads: int) -> dict[str, Any]:
    """What must be the same for two runs to be equal bit by bit."""
    versions = {name: version(name) for name in ("torch", "numpy", "tokenizers")}
    return {
        "versions": {"weft": weft.__version__, "python": platform.python_version(), **versions},
        "code": fingerprints.of_code(),
        "processor": device.about()["processor"],
        "device": machine.device,
        "precision": machine.precision,
        "threads": threads,
    }


def _deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and weft reads no uninitialised memory


def new_training(prepared: Prepared, console: Console) -> Training:
    """A training at its first step, its budget turned into a number of steps."""
    recipe = prepared.recipe
    training = make_training(prepared)
    budget = Budget.read(recipe.train.budget)
    steps = budget.steps(training.tokens_per_step, training.loader.tokens_per_epoch, training.flops_per_token)
    if steps is None:
        seconds = timed_steps(training, 6)
        training = make_training(prepared)  # the probe moved the weights
        # validations, samples and checkpoints take their part too
        steps = max(1, int(budget.amount * 60 / seconds * 0.92))
        say(console, f"budget: {recipe.train.budget} at {seconds:.3f} s a step (timed) = {steps} steps")
    training.total = steps
    return training


def make_training(prepared: Prepared) -> Training:
    """A training at step 0, without a number of steps."""
    return Training(prepared.recipe, prepared.recipe.model, prepared.data, prepared.machine, prepared.plan)


def semantic_of(recipe: Recipe, donor: str | None) -> dict[str, Any]:
    """The options that a run's result depends on; a donor by what it is, not by where it lies."""
    asked: dict[str, Any] = semantic(recipe)
    if recipe.transfer is not None:
        asked["transfer"]["from"] = donor
    return asked


def blank_of(recipe: Recipe) -> Transformer:
    """The model of a recipe whose data are bound: shapes without memory, and which parameters learn."""
    model = blank(recipe.model)
    if recipe.transfer is not None:
        planned(recipe.transfer, model, recipe.objective.heads()).apply(model)
    return model


def manifest_of(prepared: Prepared, training: Training, plugins: dict[str, str], command: str) -> dict[str, Any]:
    """What a run writes down of its surroundings."""
    recipe, data = prepared.recipe, prepared.data
    transferred = prepared.plan.record(training.model) if prepared.plan is not None else None
    identity = {
        "recipe": semantic_of(recipe, prepared.donor),
        "data": data.fingerprint,
        "plugins": sorted(plugins.values()),
        "code": prepared.environment["code"],
        "seed": recipe.train.seed,
    }
    peak = device.peak_flops(prepared.machine.device, prepared.machine.precision)
    machine = {**device.about(), "device": prepared.machine.device, "precision": prepared.machine.precision}
    return {
        "weft": weft.__version__,
        "name": recipe.name,
        "status": "running",
        "command": command,
        "identity": fingerprints.of_data(identity),
        "seed": recipe.train.seed,
        "environment": prepared.environment,
        "machine": {**machine, "threads": prepared.environment["threads"], "peak_gflops": round(peak / 1e9, 1)},
        "versions": prepared.environment["versions"],
        "code": prepared.environment["code"],
        "plugins": plugins,
        "parent": transferred and transferred["content"],
        **({} if transferred is None else {"transfer": transferred}),
        "model": {
            "kind": recipe.model.kind,
            "parameters": parameter_count(training.model),
            "flops_per_token": training.flops_per_token,
            "max_length": recipe.model.max_length,
        },
        "budget": {
            "asked": recipe.train.budget,
            "steps": training.total,
            "tokens": training.total * training.tokens_per_step,
        },
        "data": data.report,
    }


def changed(resolved: dict[str, Any], overrides: list[str]) -> list[str]:
    """The overrides that would make another run of a resolved recipe."""
    before = semantic(load(Recipe, resolved)) if overrides else None
    return [text for text in overrides if semantic(load(Recipe, resolved, [text])) != before]
