"""What does not learn: parameters by name, the modules that compute as in evaluation, and the proof that none moved."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from weft.errors import WeftError
from weft.transfer.paths import Parameters


def frozen_by(patterns: Sequence[str], model: nn.Module) -> tuple[frozenset[str], list[str]]:
    """Names of the parameters that the patterns freeze; and which of them stand in places that no pattern names.

    Raises WeftError when a pattern fits no parameter.
    """
    parameters = Parameters(model)
    named: set[str] = set()
    for pattern in patterns:
        fits = parameters.fitting(pattern)
        if not fits:
            raise WeftError(f"transfer.freeze: {pattern!r} {parameters.missing(pattern)}")
        named.update(fits)
    frozen = frozenset(parameters.name_of[path] for path in named)
    elsewhere = [path for path, name in parameters.name_of.items() if name in frozen and path not in named]
    if not elsewhere:
        return frozen, []
    other = next(path for path in named if parameters.name_of[path] == parameters.name_of[elsewhere[0]])
    more = f" (and {len(elsewhere) - 1} more alike)" if len(elsewhere) > 1 else ""
    return frozen, [f"{elsewhere[0]} is frozen too: it is one tensor with {other}{more}"]


def check_learning(frozen: Collection[str], model: nn.Module, heads: Collection[str]) -> None:
    """Raises WeftError when nothing is left that the objective, which reads `heads`, would train."""
    left = [path for path, _ in model.named_parameters() if path not in frozen]
    read = [path for path in left if not path.startswith("heads.") or path.split(".")[1] in heads]
    if not left:
        raise WeftError("transfer.freeze: all parameters are frozen, so that nothing would learn; leave something out")
    if not read:
        raise WeftError(f"transfer.freeze: nothing would learn: the objective does not read what is left ({left[0]})")


def resting_modules(frozen: Collection[str], patterns: Sequence[str], model: nn.Module) -> frozenset[str]:
    """Paths of the modules that compute as in evaluation: those that a pattern names, those inside them, and those all
    of whose parameters are frozen."""
    parameters = Parameters(model)
    resting = {path for pattern in patterns for path in parameters.modules_fitting(pattern)}
    for module in parameters.modules:
        inside = [name for path, name in parameters.name_of.items() if path.startswith(f"{module}.")]
        if inside and all(name in frozen for name in inside):
            resting.add(module)
    return frozenset(resting)


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bits."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def moved(digests: Mapping[str, str], model: nn.Module) -> list[str]:
    """Names of the parameters whose bits are not those that were digested."""
    parameters = dict(model.named_parameters())
    return [name for name, expected in digests.items() if fingerprint(parameters[name]) != expected]
