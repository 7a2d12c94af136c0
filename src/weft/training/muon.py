"""Muon: the momentum of a hidden matrix, made orthogonal, so that it moves in all directions by the same amount.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon);
scaled as in Liu et al. 2025, "Muon is scalable for LLM training", eq. 4 (arXiv 2502.16982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.device import fast_bf16

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of a s + b s^3 + c s^5, which takes a singular value s in (0, 1] to about 1 in few rounds (Jordan et al.)."""


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """U V^T of every matrix U S V^T (N x rows x columns), about: the singular values end between 0.7 and 1.2.

    Each round of Newton and Schulz is X <- a X + b X X^T X + c (X X^T)^2 X. Of wide matrices only the square X X^T is
    worked on, and what all rounds together multiply X by from the left: as many rounds, less work.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    X = matrices.mT if tall else matrices
    X = X / (torch.linalg.matrix_norm(X, keepdim=True) + 1e-7)
    if X.shape[-1] < 2 * X.shape[-2] or X.dtype == torch.bfloat16:  # too coarse for rounds that build on one product
        for _ in range(steps):
            gram = torch.bmm(X, X.mT)
            X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    else:
        gram, left = torch.bmm(X, X.mT), None
        for step in range(steps):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            left = factor if left is None else torch.bmm(factor, left)
            if step < steps - 1:
                gram = torch.bmm(factor, torch.bmm(gram, factor))
        X = X if left is None else torch.bmm(left, X)
    return X.mT if tall else X


class MuonAdamW(torch.optim.Optimizer):
    """Muon for groups that say `momentum`, torch's fused AdamW for the others; one state, one list of groups."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        rest = [group for group in self.param_groups if "momentum" not in group]
        # the inner optimizer shares the groups and the memory, so that rates and state are set in one place
        self.rest = torch.optim.AdamW(rest, fused=True) if rest else None
        if self.rest is not None:
            self.rest.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if self.rest is not None:
            self.rest.step()
        for group in self.param_groups:
            if "momentum" in group:
                self._orthogonal_step(group)

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        memory: list[Tensor] = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(memory, gradients, 1 - group["momentum"])
        moved = torch._foreach_lerp(gradients, memory, group["momentum"]) if group["nesterov"] else memory
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for parameter, update in zip(parameters, orthogonal_updates(moved, group["steps"]), strict=True):
            parameter.sub_(update, alpha=group["lr"])


def orthogonal_updates(momenta: Sequence[Tensor], steps: int) -> list[Tensor]:
    """0.2 sqrt(max(rows, columns)) times each matrix made orthogonal; those of one shape, lying or standing, at once.

    So scaled, an entry's root mean square is about 0.2, as AdamW's is, and one learning rate fits both.
    """
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, momentum in enumerate(momenta):
        rows, columns = sorted(momentum.shape)
        shapes.setdefault((rows, columns), []).append(index)
    updates: list[Tensor] = list(momenta)
    for (rows, columns), indices in shapes.items():
        standing = [momenta[index].shape != (rows, columns) for index in indices]
        lying = [momenta[i].mT if turned else momenta[i] for i, turned in zip(indices, standing, strict=True)]
        stacked = torch.stack(lying)
        coarse = stacked.dtype == torch.float32 and fast_bf16(stacked.device.type)
        made = orthogonalize(stacked.bfloat16() if coarse else stacked, steps).to(stacked.dtype)
        made = made * (0.2 * math.sqrt(columns))
        for index, turned, update in zip(indices, standing, made, strict=True):
            updates[index] = update.mT if turned else update
    return updates
