"""Formulas whose derivatives are written out: autograd's own would pass over memory twice as often.

N counts vectors, D is their width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis; the mean in float32 at least."""
    return _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (x1, x2) of channels i and i + P as (x1 cos - x2 sin, x2 cos + x1 sin); channels beyond 2P unchanged.

    `cos` and `sin` have P channels and broadcast to x in its other axes.
    """
    return _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]


def aligned_product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, each row of which begins at a multiple of 64 bytes, whatever its width."""
    return _AlignedProduct.apply(x, weight)  # type: ignore[no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    """With s = 1/sqrt(mean(x^2) + epsilon): y = x s w, so dx = g w s - x s^3 mean(g w x), dw = sum over N of g x s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        # vector_norm accumulates in `wide` without a widened copy of x
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        scale = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale.to(x.dtype)).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        product_ND = (grad.to(scale.dtype) * x).reshape(-1, width)
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            mean = torch.mv(product_ND, weight.to(scale.dtype)).view_as(scale).div_(width)
            x_grad = (grad * weight.to(grad.dtype)).mul_(scale.to(grad.dtype))
            x_grad.addcmul_(x, mean.mul_(scale.pow(3)).to(x.dtype), value=-1)
        if ctx.needs_input_grad[1]:
            weight_grad = torch.mv(product_ND.t(), scale.flatten()).to(weight.dtype)
        return x_grad, weight_grad, None


class _Rotation(torch.autograd.Function):
    """A rotation's derivative is the rotation back, so nothing of x is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # x (cos, cos) + (x2, x1) (-sin, sin): whole rows at a time, where halves would be many short ones
    pairs = cos.shape[-1]
    first, second, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    turned = x[..., : 2 * pairs] * torch.cat([cos, cos], -1)
    turned.addcmul_(torch.cat([second, first], -1), torch.cat([-sin, sin], -1))
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


class _AlignedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows_ND = x.reshape(-1, x.shape[-1])
        step = 64 // x.element_size()
        padded = x.new_empty(len(rows_ND), -(-len(weight) // step) * step)
        out = torch.mm(rows_ND, weight.t(), out=padded[:, : len(weight)])
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_grad = grad @ weight if ctx.needs_input_grad[0] else None
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = grad.reshape(-1, len(weight)).t() @ x.reshape(-1, x.shape[-1])
        return x_grad, weight_grad
