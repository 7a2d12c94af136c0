"""Derivatives that are written out are the derivatives: against finite differences, and autograd's own chain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.nn import Dims, fused, linear
from weft.nn.heads import LanguageModelHead
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


UNIT = 2**-8
"""The most that rounding to bf16, which has 8 digits, changes a number by, as a share of it."""


def test_a_norm_in_bf16_is_that_of_float32_rounded() -> None:
    """Each bound is its roundings to bf16, one UNIT of the term each; 1.02 for UNIT squared and what is less."""
    x, weight, grad = normal(64, 64, dtype=torch.bfloat16), normal(64, dtype=torch.float32), normal(64, 64).bfloat16()
    y = fused.rms_norm(x, weight, 1e-6)
    y.backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    x_ND, w_D, g_ND = x.detach().double(), weight.detach().double(), grad.detach().double()
    scale_N1 = (x_ND.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    through_ND = g_ND * w_D * scale_N1
    across_ND = x_ND * scale_N1**3 * (g_ND * w_D * x_ND).mean(-1, keepdim=True)
    true_ND, parts_ND = x_ND * scale_N1 * w_D, g_ND * x_ND * scale_N1
    for found, expected, bound in (
        (y, true_ND, 4 * UNIT * true_ND.abs()),  # the scale, the weight, two products
        (x.grad, through_ND - across_ND, UNIT * (5 * through_ND.abs() + 3 * across_ND.abs())),  # and the difference
        (weight.grad, parts_ND.sum(0), 64 * 2**-24 * parts_ND.abs().sum(0)),  # all of it in float32
    ):
        assert ((found.double() - expected).abs() <= 1.02 * bound).all()


def test_the_mean_of_a_norm_in_bf16_is_not_rounded() -> None:
    """Where x and the weight are 1 the norm is its scale, which only a mean in float32 lets be rounded but once."""
    x = normal(64, 64).detach().bfloat16()
    x[:, 0] = 1
    scale_N = (x.double().square().mean(-1) + 1e-6).rsqrt()
    assert torch.equal(fused.rms_norm(x, torch.ones(64), 1e-6)[:, 0], scale_N.bfloat16())


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_cross_entropy_that_consumes_its_logits(smoothing: float) -> None:
    """As torch's, of scores of any size; of its derivative there is one copy, and so one use."""
    scores = normal(6, 11).detach() * torch.tensor([1, 30, 1e4, 1, 1, 1e-9])[:, None]
    scores[3, 2] = -torch.inf if smoothing == 0.0 else scores[3, 2]  # a token that is ruled out
    targets, weights = torch.tensor([0, 10, 3, 5, 5, 7]), normal(6).detach()
    theirs, mine = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    expected = F.cross_entropy(theirs, targets, reduction="none", label_smoothing=smoothing)
    logits = mine * 1.0
    found = fused.consuming_cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    (found * weights).sum().backward(retain_graph=True)
    (expected * weights).sum().backward()
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-14, atol=1e-15)
    assert logits.untyped_storage().nbytes() == 6 * 11 * 8
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


def test_the_chunks_of_a_wide_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are aligned, logits consumed and gradients added in place: as one cross-entropy of all in float64."""
    used: list[int] = []
    product = fused.aligned_product
    monkeypatch.setattr(fused, "aligned_product", lambda x, w: used.append(len(x)) or product(x, w))
    dims = Dims(d_model=8, max_length=4, vocab_size=2**14 + 1)
    head = LanguageModelHead(nn.Identity(), dims, 8, bias=True)
    for parameter in head.parameters():
        parameter.data = 0.3 * normal(*parameter.shape, dtype=torch.float32).detach()
    x, targets = normal(1, 192, 8, dtype=torch.float32), torch.arange(192)[None] * 85
    head.loss(x, targets, chunk=64).total.backward()
    assert used == [64, 64, 64]
    wide = [value.detach().double().requires_grad_() for value in (x, head.projection.weight, head.projection.bias)]
    logits = F.linear(wide[0][0], wide[1], wide[2])
    F.cross_entropy(logits, targets[0], reduction="sum").backward()
    for found, true in zip((x, head.projection.weight, head.projection.bias), wide, strict=True):
        torch.testing.assert_close(found.grad.double(), true.grad, rtol=2e-5, atol=2e-6)
