"""Optimizers: how a step follows from a gradient."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from weft.config import Part, Section
from weft.errors import WeftError
from weft.nn.block import hidden_matrices
from weft.training.muon import MuonAdamW


class Group(Section):
    """Parameters that are treated differently."""

    paths: tuple[str, ...]
    """patterns of parameter paths, such as "*norm*" or "decoder.blocks.0.*"; a later group wins"""
    weight_decay: NonNegativeFloat | None = None
    """the optimizer's unless given"""
    learning_rate: NonNegativeFloat | None = None
    """the optimizer's unless given; the schedule multiplies both"""


class Optimizer(Part, slot="optimizer", default="adamw"):
    """How a step follows from a gradient."""

    learning_rate: PositiveFloat = 1e-3
    """the largest step size, which the schedule multiplies"""
    weight_decay: NonNegativeFloat = 0.0
    """pull towards zero, times the learning rate; of matrices only, unless a group says otherwise"""
    groups: tuple[Group, ...] = ()
    """parameters with options of their own"""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model's parameters.

        Raises WeftError when a group's pattern fits no parameter that learns.
        """
        return self.make(self.parameter_groups(model.named_parameters(), hidden_matrices(model)))

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimizer over groups of parameters."""
        raise NotImplementedError

    def notes(self, model: nn.Module) -> list[str]:
        """What a person should hear about how the model's parameters are treated."""
        return []

    def options_of(self, parameter: nn.Parameter, hidden: bool) -> dict[str, Any]:
        """What applies to a parameter unless a group says otherwise; `hidden`: it is a matrix inside a block."""
        return {"weight_decay": self.weight_decay if parameter.ndim >= 2 else 0.0, "lr": self.learning_rate}

    def parameter_groups(
        self, parameters: Iterable[tuple[str, nn.Parameter]], hidden: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Parameters by what applies to them; each group remembers its paths and its base learning rate."""
        known = list(parameters)
        named = [(path, parameter) for path, parameter in known if parameter.requires_grad]
        for group in self.groups:
            for pattern in group.paths:
                if not any(fnmatch.fnmatchcase(path, pattern) for path, _ in named):
                    if any(fnmatch.fnmatchcase(path, pattern) for path, _ in known):
                        raise WeftError(
                            f"optimizer.groups: {pattern!r} fits only what transfer.freeze freezes; drop it"
                        )
                    raise WeftError(f"optimizer.groups: {pattern!r} fits no parameter; paths look like {named[0][0]!r}")
        gathered: dict[tuple[Any, ...], dict[str, Any]] = {}
        for path, parameter in named:
            options = self.options_of(parameter, path in hidden)
            for group in self.groups:
                if any(fnmatch.fnmatchcase(path, pattern) for pattern in group.paths):
                    given = {"weight_decay": group.weight_decay, "lr": group.learning_rate}
                    options |= {name: value for name, value in given.items() if value is not None}
            entry = gathered.setdefault(
                tuple(options.items()), {"params": [], "paths": [], **options, "base_lr": options["lr"]}
            )
            entry["params"].append(parameter)
            entry["paths"].append(path)
        return list(gathered.values())


class _Moments(Optimizer):
    beta1: float = Field(0.9, ge=0, lt=1)
    """memory of the gradient's mean"""
    beta2: float = Field(0.95, ge=0, lt=1)
    """memory of the gradient's mean square"""
    epsilon: PositiveFloat = 1e-8
    """added to the root of the mean square"""


class Adam(_Moments, kind="adam"):
    """Steps of the gradient's mean over the root of its mean square (Kingma and Ba 2015, algorithm 1)."""

    beta2: float = Field(0.999, ge=0, lt=1)
    """memory of the gradient's mean square"""
    weight_decay: NonNegativeFloat = 0.0
    """times the weights, added to the gradient and scaled with it; of matrices only, unless a group says otherwise"""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's fused Adam."""
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, fused=True)


class AdamW(_Moments, kind="adamw"):
    """Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019, algorithm 2)."""

    weight_decay: NonNegativeFloat = 0.1
    """pull towards zero, times the learning rate; of matrices only, unless a group says otherwise"""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's fused AdamW."""
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=betas, eps=self.epsilon, fused=True)


class Rest(Section):
    """AdamW for what Muon does not take: embeddings, heads, positions, norms, shifts."""

    learning_rate: PositiveFloat | None = None
    """Muon's unless given"""
    weight_decay: NonNegativeFloat = 0.1
    """pull towards zero, times the learning rate; of matrices only"""
    beta1: float = Field(0.9, ge=0, lt=1)
    """memory of the gradient's mean"""
    beta2: float = Field(0.95, ge=0, lt=1)
    """memory of the gradient's mean square"""
    epsilon: PositiveFloat = 1e-8
    """added to the root of the mean square"""


class Muon(Optimizer, kind="muon"):
    """Orthogonalised momentum for the matrices inside blocks, AdamW for the rest (Jordan et al. 2024).

    Its updates are as large as AdamW's (Liu et al. 2025, eq. 4), so one learning rate serves both.
    """

    learning_rate: PositiveFloat = 3e-3
    """the largest step size, which the schedule multiplies"""
    weight_decay: NonNegativeFloat = 0.1
    """pull of the matrices towards zero, times the learning rate"""
    momentum: float = Field(0.95, ge=0, lt=1)
    """memory of past gradients"""
    nesterov: bool = True
    """look ahead along the momentum"""
    steps: PositiveInt = 5
    """rounds of Newton and Schulz"""
    adamw: Rest = Rest()
    """how the other parameters are moved"""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Muon and torch's fused AdamW in one."""
        return MuonAdamW(groups)

    def options_of(self, parameter: nn.Parameter, hidden: bool) -> dict[str, Any]:
        """Muon's options for a matrix inside a block, AdamW's for all else."""
        if hidden:
            moved = {"momentum": self.momentum, "nesterov": self.nesterov, "steps": self.steps}
            return {**super().options_of(parameter, hidden), **moved}
        rest = self.adamw
        decay = rest.weight_decay if parameter.ndim >= 2 else 0.0
        rate = rest.learning_rate or self.learning_rate
        return {"weight_decay": decay, "lr": rate, "betas": (rest.beta1, rest.beta2), "eps": rest.epsilon}

    def notes(self, model: nn.Module) -> list[str]:
        """Which parameters Muon takes."""
        hidden = hidden_matrices(model)
        sizes = {path: p.numel() for path, p in model.named_parameters() if p.requires_grad}
        taken = sum(size for path, size in sizes.items() if path in hidden)
        count = len(hidden & sizes.keys())
        return [
            f"muon: {count} matrices inside blocks ({taken:,} parameters); AdamW: the other"
            f" {sum(sizes.values()) - taken:,} parameters (embeddings, heads, vectors)"
        ]


class Sgd(Optimizer, kind="sgd"):
    """Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013)."""

    learning_rate: PositiveFloat = 0.1
    """the largest step size, which the schedule multiplies"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """memory of past gradients"""
    nesterov: bool = False
    """look ahead along the momentum"""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's SGD."""
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=nesterov)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate: its own times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's memory by parameter path: `decoder.norm.weight/exp_avg`."""
    tensors = {}
    for group in optimizer.param_groups:
        for path, parameter in zip(group["paths"], group["params"], strict=True):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{path}/{name}"] = value
    return tensors


def restore_state(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give the optimizer back the memory that `state_tensors` took.

    Raises WeftError when it belongs to other parameters.
    """
    known = {path: parameter for group in optimizer.param_groups
             for path, parameter in zip(group["paths"], group["params"], strict=True)}  # fmt: skip
    for key, value in tensors.items():
        path, _, name = key.rpartition("/")
        if path not in known:
            raise WeftError(f"the optimizer's state is of another model: it has {path}, the model does not")
        # the count of steps too: a fused optimizer keeps it where the parameter is
        optimizer.state[known[path]][name] = value.to(known[path].device, copy=True)
