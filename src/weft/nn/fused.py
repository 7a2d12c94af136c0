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


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Each pair (x1, x2) of channels as (x1 cos - x2 sin, x2 cos + x1 sin); channels beyond 2P unchanged.

    Channels i and i + P are a pair, or 2i and 2i + 1 where they are `interleaved`. `cos` and `sin` have P channels and
    broadcast to x in its other axes.
    """
    return _Rotation.apply(x, cos, sin, interleaved)  # type: ignore[no-untyped-call]


def aligned_product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, each row of which begins at a multiple of 64 bytes, whatever its width."""
    return _AlignedProduct.apply(x, weight)  # type: ignore[no-untyped-call]


def consuming_cross_entropy(logits_NC: Tensor, targets_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum over c of q(c) log p(c) for each row in nats; q is 1 at the target, a share `smoothing` of it spread evenly.

    The logits are gone: in their memory stand the probabilities, then the derivative, which can be asked for once (so
    does Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989).
    """
    return _ConsumingCrossEntropy.apply(logits_NC, targets_N, smoothing)  # type: ignore[no-untyped-call]


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
    """The derivative of a rotation, and of one that stretches too, is the same back, so nothing of x is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turned(x, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin, ctx.interleaved), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    # x (cos, cos) + (x2, x1) (-sin, sin): whole rows at a time, where halves would be many short ones
    pairs = cos.shape[-1]
    if interleaved:
        swapped = x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).flip(-1).flatten(-2)
        cosines, sines = (torch.stack(both, -1).flatten(-2) for both in ((cos, cos), (-sin, sin)))
    else:
        swapped = torch.cat([x[..., pairs : 2 * pairs], x[..., :pairs]], -1)
        cosines, sines = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    turned = (x[..., : 2 * pairs] * cosines).addcmul_(swapped, sines)
    return torch.cat([turned, x[..., 2 * pairs :]], -1) if x.shape[-1] > 2 * pairs else turned


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


class _ConsumingCrossEntropy(torch.autograd.Function):
    """With p = softmax(x): loss = log sum exp x - sum q x, so dx = g (p - q)."""

    @staticmethod
    def forward(ctx: Any, logits_NC: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
        targets_N1 = targets_N[:, None]
        x_NC = logits_NC.detach()  # autograd need not know that their memory is used anew
        x_NC.sub_(x_NC.amax(-1, keepdim=True))
        expected_N1 = x_NC.gather(-1, targets_N1) * (1 - smoothing)
        if smoothing:
            expected_N1 += smoothing * x_NC.mean(-1, keepdim=True)
        sums_N1 = x_NC.exp_().sum(-1, keepdim=True)
        p_NC = x_NC.div_(sums_N1)
        p_NC.scatter_add_(-1, targets_N1, torch.full_like(expected_N1, smoothing - 1))
        ctx.save_for_backward(p_NC.sub_(smoothing / p_NC.shape[-1]) if smoothing else p_NC)
        return (sums_N1.log() - expected_N1).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None]:
        (derivative_NC,) = ctx.saved_tensors  # torch refuses it the second time: it was multiplied since
        return derivative_NC.mul_(grad_N[:, None]), None, None
