"""Derivatives that are written out are the derivatives: against finite differences, and autograd's own chain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.nn import fused, linear
from weft.nn.initialization import Normal


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def test_derivatives_by_finite_differences() -> None:
    x, weight, angles = normal(2, 3, 8), normal(8), normal(1, 3, 3).detach()
    assert torch.autograd.gradcheck(lambda x, w: fused.rms_norm(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(lambda x: fused.rotate(x, angles.cos(), angles.sin()), (x,))
    assert torch.autograd.gradcheck(fused.aligned_product, (x, normal(5, 8)))


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    x, weight, matrix = normal(2, 8), normal(8), normal(5, 8)
    for formula, other in ((lambda a, b: fused.rms_norm(a, b, 1e-6), weight), (fused.aligned_product, matrix)):
        still = x if frozen == "x" else other
        still.requires_grad_(False)
        formula(x, other).sum().backward()
        assert still.grad is None
        assert (other if frozen == "x" else x).grad is not None
        still.requires_grad_(True)
        x.grad = None


def test_a_norm_in_bf16_is_that_of_float32_rounded() -> None:
    x, weight = normal(4, 64, dtype=torch.bfloat16), normal(64, dtype=torch.float32)
    y = fused.rms_norm(x, weight, 1e-6)
    y.sum().backward()
    found = y, x.grad, weight.grad
    wide, again = x.detach().float().requires_grad_(), weight.detach().requires_grad_()
    true = F.rms_norm(wide, (64,), again, 1e-6)
    true.sum().backward()
    assert y.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    for mine, expected in zip(found, (true, wide.grad, again.grad), strict=True):
        assert mine is not None
        assert expected is not None
        torch.testing.assert_close(mine.float(), expected, rtol=0.02, atol=0.05)


def test_rows_begin_at_multiples_of_64_bytes() -> None:
    out = fused.aligned_product(normal(2, 3, 8, dtype=torch.float32), normal(21, 8, dtype=torch.float32))
    assert out.shape == (2, 3, 21)
    assert out.stride() == (96, 32, 1)


def test_a_wide_matrix_takes_the_aligned_way_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    product = fused.aligned_product
    monkeypatch.setattr(fused, "aligned_product", lambda x, w: taken.append(len(w)) or product(x, w))
    x = normal(64, 4, dtype=torch.float32)
    for rows, aligned in ((2**14, False), (2**14 + 1, True)):
        matrix = linear.Linear(4, rows, Normal(1.0), bias=True)
        matrix.reset_parameters(0, "m")
        torch.nn.init.ones_(matrix.bias)
        taken.clear()
        assert torch.equal(matrix(x), matrix(x))
        assert bool(taken) is aligned
        torch.testing.assert_close(matrix(x), F.linear(x, matrix.weight, matrix.bias), rtol=1e-5, atol=1e-5)
        taken.clear()
        matrix(x[:1])
        assert not taken, "one row is no product that alignment would help"
