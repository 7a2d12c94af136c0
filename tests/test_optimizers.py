"""Adam, Muon and averaged weights against their papers' formulas in plain loops, and against torch's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from weft.hub.folder import read_tensors
from weft.models.build import build
from weft.models.cost import OPTIMIZER_STATE
from weft.nn.block import hidden_matrices
from weft.training.averages import Average
from weft.training.muon import orthogonal_updates, orthogonalize
from weft.training.optimizers import Optimizer, state_tensors

Array = np.ndarray


def small(**block: Any) -> nn.Module:
    """A model with lying, standing and square matrices, vectors, positions, and an untied head; in float64."""
    stack = {"n_layers": 2, "positions": "learned", "norm": "layer", "block": block}
    declaration = {"d_model": 8, "max_length": 12, "vocab_size": 11, "embedding": {"tied": False}, "decoder": stack}
    return build(declaration).double()


def given_gradients(model: nn.Module, seed: int) -> dict[str, Array]:
    """Gradients drawn for every parameter, set and returned."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return {path: p.grad.numpy().copy() for path, p in model.named_parameters()}  # type: ignore[union-attr]


def values(model: nn.Module) -> dict[str, Array]:
    return {path: p.detach().numpy().copy() for path, p in model.named_parameters()}


# --- Adam ---


def test_two_steps_of_adam_by_hand() -> None:
    """Kingma and Ba 2015, algorithm 1, the decay a part of the gradient."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    p, g = model.weight.data.clone(), torch.tensor([[0.1, -3.0]], dtype=torch.float64)
    options = {"learning_rate": 0.1, "weight_decay": 0.5, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3}
    optimizer = Optimizer.choose({"kind": "adam", **options}).build(model)
    m = v = torch.zeros_like(p)
    for t in (1, 2):
        model.weight.grad = g * t
        optimizer.step()
        pull = g * t + 0.5 * p
        m, v = 0.8 * m + 0.2 * pull, 0.9 * v + 0.1 * pull**2
        p = p - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
    torch.testing.assert_close(model.weight.data, p, rtol=1e-9, atol=0)


# --- Muon ---


def newton_schulz(matrix: Array, rounds: int) -> Array:
    """Jordan et al. 2024: X <- a X + b X X^T X + c (X X^T)^2 X from X = G / |G|."""
    x = matrix / (math.sqrt((matrix * matrix).sum()) + 1e-7)
    for _ in range(rounds):
        xxt = x @ x.T
        x = 3.4445 * x - 4.7750 * xxt @ x + 2.0315 * xxt @ xxt @ x
    return x


@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_of_muon_by_hand(nesterov: bool) -> None:
    model = small(attention={"n_heads": 2, "bias": True}, feedforward={"kind": "swiglu", "width": 20})
    muon = {"learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.8, "nesterov": nesterov, "steps": 4}
    rest = {"learning_rate": 0.05, "weight_decay": 0.3, "beta1": 0.7, "beta2": 0.9, "epsilon": 1e-3}
    optimizer = Optimizer.choose({"kind": "muon", **muon, "adamw": rest}).build(model)
    p = values(model)
    m, v = ({path: np.zeros_like(x) for path, x in p.items()} for _ in range(2))
    for t in (1, 2, 3):
        g = given_gradients(model, t)
        optimizer.step()
        for path in p:
            if "blocks" in path and p[path].ndim == 2:
                m[path] = 0.8 * m[path] + 0.2 * g[path]
                ahead = 0.2 * g[path] + 0.8 * m[path] if nesterov else m[path]
                scale = 0.2 * math.sqrt(max(p[path].shape))
                p[path] = p[path] - 0.1 * 0.5 * p[path] - 0.1 * scale * newton_schulz(ahead, 4)
            else:
                decay = 0.3 if p[path].ndim == 2 else 0.0
                m[path], v[path] = 0.7 * m[path] + 0.3 * g[path], 0.9 * v[path] + 0.1 * g[path] ** 2
                step = (m[path] / (1 - 0.7**t)) / (np.sqrt(v[path] / (1 - 0.9**t)) + 1e-3)
                p[path] = p[path] - 0.05 * decay * p[path] - 0.05 * step
    for path, after in values(model).items():
        np.testing.assert_allclose(after, p[path], rtol=0, atol=1e-10, err_msg=path)


def test_muon_takes_the_matrices_inside_blocks_and_says_so() -> None:
    model = small(feedforward="gelu", attention={"n_heads": 2, "bias": True})
    taken = hidden_matrices(model)
    names = ("attention.query", "attention.key", "attention.value", "attention.output", "feedforward.up",
             "feedforward.down")  # fmt: skip
    assert taken == {f"decoder.blocks.{layer}.{name}.weight" for layer in range(2) for name in names}
    muon = Optimizer.choose("muon")
    count = sum(model.get_parameter(path).numel() for path in taken)
    assert f"12 matrices inside blocks ({count:,} parameters)" in muon.notes(model)[0]
    given_gradients(model, 0)
    optimizer = muon.build(model)
    optimizer.step()
    kept = {key.rpartition("/")[2] for key in state_tensors(optimizer)}
    assert {key.rpartition("/")[0] for key in state_tensors(optimizer) if key.endswith("/momentum")} == taken
    assert kept == {"momentum", "exp_avg", "exp_avg_sq", "step"}


def test_a_group_gives_muon_and_its_rest_another_rate() -> None:
    groups = [{"paths": ["decoder.blocks.0.*"], "learning_rate": 0.25}, {"paths": ["*norm*"], "learning_rate": 0}]
    model = small()
    optimizer = Optimizer.choose({"kind": "muon", "learning_rate": 1.0, "groups": groups}).build(model)
    found = {path: group["lr"] for group in optimizer.param_groups for path in group["paths"]}
    assert found.keys() == dict(model.named_parameters()).keys()
    for path, rate in found.items():
        assert rate == (0 if "norm" in path else 0.25 if "blocks.0" in path else 1.0), path


SHAPES = [(6, 6), (5, 7), (7, 5), (4, 16), (16, 4), (1, 9)]


def test_orthogonal_updates_of_any_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    momenta = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES + SHAPES]
    for momentum, update in zip(momenta, orthogonal_updates(momenta, 5), strict=True):
        expected = 0.2 * math.sqrt(max(momentum.shape)) * newton_schulz(momentum.numpy(), 5)
        np.testing.assert_allclose(update.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 48, 128), (2, 32, 128), (2, 128, 32)])
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    """In float32, for matrices whose singular values lie a thousandfold apart."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrices = u @ torch.diag(torch.logspace(0, -3, u.shape[-1])) @ v
    found = orthogonalize(matrices, 8)
    values = torch.linalg.svdvals(found)
    assert (values > 0.6).all()
    assert (values < 1.25).all()
    exact = orthogonalize(matrices.double(), 8)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)


def test_muon_moves_as_torchs_own_does() -> None:
    """An independent witness, which computes in bfloat16: close, not equal."""
    model = small()
    p = values(model)
    optimizer = Optimizer.choose({"kind": "muon", "learning_rate": 0.1, "weight_decay": 0.1}).build(model)
    paths = sorted(hidden_matrices(model))
    theirs = [nn.Parameter(torch.tensor(p[path], dtype=torch.float32)) for path in paths]
    witness = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for t in range(3):
        gradients = given_gradients(model, t)
        for path, parameter in zip(paths, theirs, strict=True):
            parameter.grad = torch.tensor(gradients[path], dtype=torch.float32)
        optimizer.step()
        witness.step()
    for path, parameter in zip(paths, theirs, strict=True):
        mine, start = model.get_parameter(path).detach(), torch.tensor(p[path])
        moved, expected = mine - start, parameter.detach().double() - start
        assert (moved - expected).norm() < 0.1 * expected.norm(), path


@pytest.mark.parametrize("kind", sorted(OPTIMIZER_STATE))
def test_declared_state_is_what_is_kept(kind: str) -> None:
    model = small().float()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = Optimizer.choose(kind).build(model)
    optimizer.step()
    inside, outside = OPTIMIZER_STATE[kind]  # type: ignore[index]
    hidden = hidden_matrices(model)
    expected = sum((inside if path in hidden else outside) * p.numel() for path, p in model.named_parameters())
    assert sum(x.numel() for key, x in state_tensors(optimizer).items() if not key.endswith("/step")) == expected


def test_every_optimizer_declares_its_state() -> None:
    assert set(Optimizer.kinds) == set(OPTIMIZER_STATE)


# --- averaged weights ---


def test_exponential_averages_by_hand() -> None:
    model = nn.Linear(3, 2)
    averages = Average.choose({"kind": "exponential", "decay": 0.6}).build(model)
    assert averages is not None
    expected = {path: p.detach().double() for path, p in model.named_parameters()}
    for step in range(1, 31):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        averages.update(step)
        decay = min(0.6, step / (step + 9))
        expected = {
            path: decay * expected[path] + (1 - decay) * p.detach().double() for path, p in model.named_parameters()
        }
    trained = {path: p.detach().clone() for path, p in model.named_parameters()}
    with averages.applied() as weights:
        for path, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), expected[path], rtol=1e-5, atol=1e-6)
            assert torch.equal(weights[path], trained[path])
    assert all(torch.equal(p, trained[path]) for path, p in model.named_parameters())


AVERAGED = ("train.average={kind: exponential, decay: 0.9}", "optimizer=muon")


def tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model and the state of a run's last checkpoint."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    return read_tensors(last / "model.safetensors"), read_tensors(last / "state.safetensors")


def test_a_run_gives_the_average_and_trains_the_weights(tmp_path: Path) -> None:
    source = tiny.text(tmp_path)
    averaged = tiny.trained(tmp_path / "a", tiny.recipe(source), *AVERAGED)
    plain = tiny.trained(tmp_path / "b", tiny.recipe(source), "optimizer=muon")
    (given, state), (last, _) = tensors(averaged), tensors(plain)
    for path, weight in last.items():  # training does not know of the averages
        assert torch.equal(state[f"weights/{path}"], weight), path
        assert not torch.equal(given[path], weight), path
    # what is measured is what is given
    logged = [line["values"]["loss"] for folder in (averaged, plain) for line in tiny.lines(folder, "validation")[-1:]]
    assert logged[0] != logged[1]
