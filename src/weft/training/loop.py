"""The loop: batches, gradients, steps; validation, log and checkpoints at their times.

All that a run's future depends on is in `Training`: weights, optimizer state, the loader's place, the step, and sums
that are not logged yet. `state()` is all of it but the tensors, and a run restored from it goes on bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from weft.data.shards import PreparedData
from weft.device import Machine, seed_draws
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.cost import training_flops
from weft.objectives import Batch, Learner
from weft.seeds import derive
from weft.training.optimizers import set_rates
from weft.training.recipe import Recipe
from weft.transfer import Plan

OnStep = Callable[[int, dict[str, Any]], None]
DATA, CLIP, OPTIMIZER = "data", "clip", "optimizer"
"""What a step does beside the model, as a profile names it."""


@dataclass
class Since:
    """Sums since the last line of the log."""

    nats: float = 0.0
    count: int = 0
    gradient_norm: float = 0.0
    steps: int = 0


class Training:
    """A model in training."""

    def __init__(
        self, recipe: Recipe, config: ModelConfig, data: PreparedData, machine: Machine, plan: Plan | None = None
    ) -> None:
        """`plan`: what the model begins with of another one, and what of it does not learn."""
        self.recipe, self.data, self.machine = recipe, data, machine
        self.model = build(config, seed=recipe.train.seed, device=machine.device)
        if plan is not None:
            plan.apply(self.model)
        self.model.compute_dtype = machine.dtype
        self.learner = Learner(self.model, recipe.objective).train()
        self.optimizer = recipe.optimizer.build(self.model)
        self.averages = recipe.train.average.build(self.model)
        self.length = recipe.row_length
        train = recipe.train
        self.loader = recipe.objective.loader(data, recipe.data, self.length, train.batch_tokens, train.seed)
        self.tokens_per_step = self.loader.tokens_per_step
        self.flops_per_token = training_flops(self.model, self.length)
        self.total = 0
        self.step = 0
        self.tokens = 0
        self.since = Since()

    def advance(self, layers: bool = False) -> dict[str, Any]:
        """One step of the optimizer; returns what it showed (`layers`: norms and ratios of each layer too).

        Raises WeftError when the loss is no longer a number.
        """
        train = self.recipe.train
        set_rates(self.optimizer, self.recipe.schedule.factor(self.step, self.total))
        nats, count = self._gradients()
        before = (
            {path: parameter.detach().clone() for path, parameter in self.model.named_parameters()} if layers else {}
        )
        shown = layer_norms(self.model) if layers else {}
        with span(CLIP):
            norm = clip_gradients(self.model, train.clip or math.inf)
        if not (math.isfinite(nats) and math.isfinite(norm)):
            raise WeftError(
                f"step {self.step + 1}: the loss is {nats / max(count, 1)}, the gradient's norm {norm}: the run"
                f" diverged; try a smaller optimizer.learning_rate (now {self.recipe.optimizer.learning_rate:g})"
            )
        with span(OPTIMIZER):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        for module in self.model.modules():
            after_step = getattr(module, "after_step", None)
            if after_step is not None and not getattr(module, "frozen", False):
                after_step()
        for layer, ratio in update_ratios(self.model, before).items():
            if layer in shown:  # a layer without a gradient rests
                shown[layer]["update_ratio"] = ratio
        self.step += 1
        if self.averages is not None:
            self.averages.update(self.step)
        self.tokens += count
        self.since.nats += nats
        self.since.count += count
        self.since.gradient_norm += norm
        self.since.steps += 1
        values: dict[str, Any] = {"loss": nats / max(count, 1), "gradient_norm": norm}
        return {**values, "layers": shown} if layers else values

    def _gradients(self) -> tuple[float, int]:
        """Gradients of one step's whole batch; its summed nats and count."""
        with span(DATA):
            whole = self.recipe.objective.collate(self.loader.next(), self.machine.device)
            counts = self.recipe.objective.counts(whole)
        nats = torch.zeros((), dtype=torch.float64)
        for index, batch in enumerate(self._micro_batches(whole)):
            # dropout alone draws from torch's default generator
            seed_draws(derive(self.recipe.train.seed, "dropout", self.step, index, 0), self.machine.device)
            terms = self.learner(batch)
            self.learner.loss(terms, counts).backward()
            nats += terms["loss"].total.detach().double().cpu()
        return float(nats), counts["loss"]

    def _micro_batches(self, batch: Batch) -> list[Batch]:
        return list(batch.split(self.recipe.train.micro_batch or batch.inputs.shape[0]))

    def shown(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """The model has the weights that the run gives meanwhile; yields those that are trained, if they are others."""
        return nullcontext({}) if self.averages is None else self.averages.applied()

    def drain(self) -> dict[str, float]:
        """Means since the last call, for the log."""
        since, self.since = self.since, Since()
        return {
            "loss": since.nats / max(since.count, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": since.gradient_norm / max(since.steps, 1),
        }

    def state(self) -> dict[str, Any]:
        """Everything beside the tensors that the future depends on."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "total": self.total,
            "loader": self.loader.state(),
            "since": vars(self.since),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken (the tensors are restored by `checkpoints`)."""
        self.step, self.tokens, self.total = state["step"], state["tokens"], state["total"]
        self.loader.restore(state["loader"])
        self.since = Since(**state["since"])


def span(name: str) -> record_function:
    """A stretch of a step that a profile tells apart; free while nobody profiles."""
    return record_function(f"weft:{name}")


def clip_gradients(model: torch.nn.Module, longest: float) -> float:
    """The norm of the gradient over all parameters, which is shortened to `longest` where it is longer."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients, foreach=True)
    norm = float(total)
    if norm > longest:  # else a pass over all gradients would multiply them by 1
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, total, foreach=True)
    return norm


def layer_of(path: str) -> str:
    """The layer that a parameter belongs to: `decoder.blocks.3`, `embedding`, `heads.lm`, `decoder`."""
    names = path.split(".")
    depth = 3 if names[1:2] == ["blocks"] else 2 if names[0] == "heads" else 1
    return ".".join(names[:depth])


def layer_norms(model: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Each layer's gradient norm and weight norm."""
    gradients: dict[str, list[Tensor]] = {}
    weights: dict[str, list[Tensor]] = {}
    for path, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(layer_of(path), []).append(parameter.grad)
            weights.setdefault(layer_of(path), []).append(parameter.detach())
    return {
        layer: {"gradient_norm": _norm(gradients[layer]), "weight_norm": _norm(weights[layer])} for layer in gradients
    }


def update_ratios(model: torch.nn.Module, before: dict[str, Tensor]) -> dict[str, float]:
    """|change| / |weights| of each layer over one step: near 1e-3 in a healthy run."""
    changes: dict[str, list[Tensor]] = {}
    weights: dict[str, list[Tensor]] = {}
    for path, parameter in model.named_parameters():
        if path in before and parameter.requires_grad:
            changes.setdefault(layer_of(path), []).append(parameter.detach() - before[path])
            weights.setdefault(layer_of(path), []).append(before[path])
    return {layer: _norm(changes[layer]) / max(_norm(weights[layer]), 1e-30) for layer in changes}


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.norm().double() for tensor in tensors]).norm())


def timed_steps(training: Training, steps: int) -> float:
    """Seconds that a step takes, from `steps` of them after two to warm up; leaves `training` spoilt."""
    training.total = steps + 2
    for index in range(steps + 2):
        if index == 2:
            started = time.perf_counter()
        training.advance()
    return (time.perf_counter() - started) / steps
