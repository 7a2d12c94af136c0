"""The seams of `nn/`: taps, emitted terms, starts, the loss in chunks, tying, precision, dropout, memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from weft.checking.compare import close, logits, tokens
from weft.checking.small import SIZES, small
from weft.config import SLOTS
from weft.errors import WeftError
from weft.models.build import blank, build
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn import (
    IGNORE,
    KERNELS,
    Call,
    Dims,
    FeedForward,
    Linear,
    Module,
    Normal,
    listen,
    materialize,
    tap_paths,
)
from weft.nn.heads import chunked_sum

WEIGHTS = "decoder.blocks.*.attention.weights"


# --- taps ---


def test_a_listener_sees_every_tap_once_a_forward() -> None:
    model = small(
        {"block": {"attention": {"n_heads": 4, "n_kv_heads": 2}, "feedforward": {"kind": "gelu", "width": 24}}}
    )
    x_BT, seen = tokens(model, 3, 5), list[tuple[str, tuple[int, ...]]]()
    before = logits(model, x_BT)
    with listen(model, "*", lambda path, value: seen.append((path, tuple(value.shape)))) as paths:
        close(logits(model, x_BT), before)
    shapes = {
        "queries": (3, 4, 5, 4),
        "keys": (3, 2, 5, 4),
        "values": (3, 2, 5, 4),
        "weights": (3, 4, 5, 5),
        "mixed": (3, 4, 5, 4),
        "inner": (3, 5, 24),
        "x": (3, 5, 16),
        "logits": (3, 5, 11),
    }
    assert sorted(paths) == sorted(path for path, *_ in tap_paths(model))
    assert sorted(path for path, _ in seen) == sorted(paths)
    assert all(shape == shapes[path.rpartition(".")[2]] for path, shape in seen)
    seen.clear()
    logits(model, x_BT)
    assert not seen, "nobody listens any more"


def test_weights_are_what_attention_mixes_with() -> None:
    model, held = small(), dict[str, Tensor]()

    def keep(path: str, value: Tensor) -> None:
        held[path] = value

    x_BT = tokens(model, 2, 6)
    with listen(model, "decoder.blocks.1.attention.*", keep):
        logits(model, x_BT)
    weights, values, mixed = (held[f"decoder.blocks.1.attention.{name}"] for name in ("weights", "values", "mixed"))
    close(weights.sum(-1), torch.ones(2, 4, 6, dtype=torch.float64))
    assert not weights.triu(1).any()
    close(weights @ values, mixed)


def test_a_listener_may_replace_a_value_and_the_next_one_hears_that() -> None:
    model, x_BT, heard = small(), torch.zeros(1, 5, dtype=torch.long), list[float]()
    x_BT[0] = torch.arange(5)
    with (
        listen(model, "decoder.blocks.0.attention.weights", lambda path, w: torch.eye(5).to(w).expand_as(w)),
        listen(
            model,
            "decoder.blocks.0.attention.weights",
            lambda path, w: heard.append(float(w.diagonal(0, -2, -1).min())),
        ),
    ):
        selfish = logits(model, x_BT)
    assert heard == [1.0]
    windowed = small({"pattern": [{"attention": {"mask": {"kind": "window", "size": 1}}}, {}]})
    close(selfish, logits(windowed, x_BT))


def test_who_listens_to_weights_gets_the_reference_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[str] = []
    for kernel in KERNELS.values():
        original = type(kernel).__call__

        def spy(self: Any, call: Call, original: Any = original) -> Tensor:
            used.append(self.name)
            return original(self, call)

        monkeypatch.setattr(type(kernel), "__call__", spy)
    model = small()
    x_BT = tokens(model, 1, 4)
    logits(model, x_BT)
    with listen(model, "decoder.blocks.0.attention.queries", lambda path, value: None):
        logits(model, x_BT)
    assert used == ["sdpa"] * 4
    with (
        caplog.at_level(logging.INFO, "weft"),
        listen(model, "decoder.blocks.1.attention.weights", lambda path, w: None),
    ):
        logits(model, x_BT)
    assert used[4:] == ["sdpa", "reference"]
    assert "reference" in caplog.text
    logits(model, x_BT)
    assert used[6:] == ["sdpa", "sdpa"]
    fixed = small({"block": {"attention": {"kernel": "sdpa"}}})
    with (
        listen(fixed, WEIGHTS, lambda path, w: None),
        pytest.raises(WeftError, match="kernel sdpa: it keeps no weights"),
    ):
        logits(fixed, x_BT)


def test_a_tap_that_is_not_there_is_refused_with_those_that_are() -> None:
    model = small()
    with (
        pytest.raises(WeftError, match=r"decoder\.blocks\.\*\.attention\.weights"),
        listen(model, "decoder.*.wieghts", print),
    ):
        pass


def test_a_listener_that_fails_leaves_nothing_behind() -> None:
    model = small()

    def fail(path: str, value: Tensor) -> None:
        raise RuntimeError(path)

    with pytest.raises(RuntimeError), listen(model, "*", fail):
        logits(model, tokens(model, 1, 3))
    assert logits(model, tokens(model, 1, 3)).isfinite().all()


# --- emitted terms ---


class Chatty(Module):
    """A feed-forward layer that tells of what passes through it."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.up = Linear(dims.d_model, dims.d_model, Normal(0.3))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.up(x_BTD)
        self.emit("squares", y_BTD.square().sum(), torch.tensor(y_BTD.numel()))
        for _ in range(2):
            self.emit("calls", torch.tensor(1.0), torch.tensor(1))
        return y_BTD.sin()


@pytest.fixture
def chatty() -> Iterator[Transformer]:
    """A model of three such layers."""
    kinds = SLOTS["feedforward"].kinds

    class ChattyPart(FeedForward, kind="chatty"):
        def build(self, dims: Dims) -> Module:
            return Chatty(dims)

    yield small({"n_layers": 3, "block": {"feedforward": "chatty"}})
    del kinds["chatty"]


def test_blocks_hand_on_what_their_parts_emit(chatty: Transformer) -> None:
    x_BT = tokens(chatty, 2, 5)
    for _ in range(2):  # a second forward repeats nothing of the first
        terms = chatty(x_BT).terms
        assert terms.keys() == {"squares", "calls"}
        assert (float(terms["calls"].total), int(terms["calls"].count)) == (6.0, 6)
        assert int(terms["squares"].count) == 3 * 2 * 5 * 16
    block = chatty.decoder.blocks[1]
    seen: list[Tensor] = []
    handle = block.feedforward.up.register_forward_hook(lambda module, inputs, out: seen.append(out))
    total = chatty(x_BT).terms["squares"].total
    handle.remove()
    with torch.no_grad():
        block.feedforward.up.weight.zero_()
    later = chatty(x_BT).terms["squares"].total
    assert total > seen[0].square().sum() > 0
    assert later < total


def test_terms_are_the_same_when_blocks_are_computed_again(
    chatty: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[list[float], Tensor]:
        found = []
        for _ in range(2):
            chatty.zero_grad()
            output = chatty(tokens(chatty, 2, 5))
            (output.logits_BTV.square().sum() + output.terms["squares"].total).backward()
            found += [float(output.terms[name].total.detach()) for name in ("squares", "calls")]
        return found, torch.cat([parameter.grad.flatten() for parameter in chatty.parameters()])

    plain_terms, plain_grads = run()
    for block in chatty.decoder.blocks:
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda x, context, f=forward: checkpoint(f, x, context, use_reentrant=False)
        )
    terms, grads = run()
    assert terms == plain_terms
    close(grads, plain_grads, 1e-12)


# --- starts ---


def test_a_model_from_the_meta_device_is_the_same_model() -> None:
    for preset in ("gpt2", "llama-tiny"):
        config = ModelConfig.load({"preset": preset, "d_model": 96, "vocab_size": 50, "decoder": {"n_layers": 2}})
        model = blank(config)
        assert all(parameter.is_meta for parameter in model.parameters())
        materialize(model, seed=3)
        model.tie()
        expected = dict(build(config, seed=3).named_parameters())
        assert dict(model.named_parameters()).keys() == expected.keys()
        assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())
        assert not any(parameter.is_meta for parameter in model.parameters())


def test_parameters_start_as_declared() -> None:
    model = build({**SIZES, "d_model": 128, "init_std": 0.05, "vocab_size": 300, "decoder": {"n_layers": 8},
                   "heads": {"lm": {"bias": True}}})  # fmt: skip
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all()), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:  # what adds to the residual stream starts smaller: 16 such sums
            std = 0.05 / 4 if name.endswith(("output.weight", "down.weight")) else 0.05
            count = parameter.numel()
            assert float(parameter.detach().std()) == pytest.approx(std, rel=5 / math.sqrt(2 * count)), name
            assert float(parameter.detach().mean()) == pytest.approx(0, abs=5 * std / math.sqrt(count)), name


def test_arms_that_share_a_parameter_share_its_start() -> None:
    one = dict(build({**SIZES, "decoder": {"n_layers": 2, "positions": "learned"}}).named_parameters())
    block = {"kind": "post", "feedforward": "swiglu", "attention": {"n_kv_heads": 1, "bias": True}}
    other_model = build({**SIZES, "max_length": 7, "embedding": {"tied": False},
                         "decoder": {"n_layers": 2, "positions": "rotary", "norm": "rms", "block": block}})  # fmt: skip
    other = dict(other_model.named_parameters())
    shared = [name for name in one.keys() & other.keys() if one[name].shape == other[name].shape]
    assert {"embedding.tokens.weight", "decoder.blocks.1.attention.query.weight"} <= set(shared)
    assert all(torch.equal(one[name], other[name]) for name in shared)
    deeper = dict(build({**SIZES, "decoder": {"n_layers": 8, "positions": "learned"}}).named_parameters())
    for name in one:  # more layers scale what is added to the residual stream, and change nothing else
        narrow = name.endswith(("output.weight", "down.weight"))
        torch.testing.assert_close(deeper[name], one[name] / 2 if narrow else one[name])
    weights = [tensor for name, tensor in other.items() if tensor.dim() == 2 and tensor.numel() >= 11 * 16]
    flat = torch.stack([weight.detach().flatten()[: 11 * 16] for weight in weights])
    assert (torch.corrcoef(flat) - torch.eye(len(flat))).abs().max() < 0.5, "no two start alike"


def test_starts_depend_on_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = build(SIZES).embedding.tokens.weight
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own generator is left alone"
    torch.manual_seed(2)
    assert torch.equal(build(SIZES).embedding.tokens.weight, one)
    assert not torch.isclose(build(SIZES, seed=1).embedding.tokens.weight, one).any()


# --- head and loss ---


class Largest(TorchDispatchMode):
    """The most rows of width V that any operation makes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.rows = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape[-1] == self.width:
                self.rows = max(self.rows, tensor.numel() // self.width)
        return out


def test_the_loss_in_chunks_is_the_loss_and_never_holds_all_logits() -> None:
    model = small(vocab_size=101, embedding={"tied": True}, heads={"lm": {"bias": True}})
    x_BT = tokens(model, 3, 20)
    targets_BT = x_BT.roll(-1, 1)
    targets_BT[:, -1] = IGNORE
    flat = F.cross_entropy(
        model(x_BT).logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    (flat / 7).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    for chunk in (1, 8, 57, 1000):
        model.zero_grad()
        with Largest(101) as largest:
            term = model.heads["lm"].loss(model(x_BT).x_BTD, targets_BT, chunk)
            (term.total / 7).backward()
        assert largest.rows <= max(min(chunk, 57), 16), "16: the table itself, transposed"
        assert int(term.count) == 57
        close(term.total.detach()[None], flat.detach()[None])
        close(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), expected)
        close(model.heads["lm"].losses(model(x_BT).x_BTD, targets_BT, chunk).sum()[None], flat.detach()[None])


def test_logits_that_somebody_keeps_are_left_alone() -> None:
    """Else the loss in chunks makes their derivative in their place."""
    model = small(embedding={"tied": True})
    x_BT, kept = tokens(model, 2, 9), list[Tensor]()
    x_BTD = model(x_BT).x_BTD
    with listen(model, "heads.lm.logits", lambda path, logits_NV: kept.append(logits_NV)):
        model.heads["lm"].loss(x_BTD, x_BT, chunk=6).total.backward()
    assert torch.equal(torch.cat(kept), torch.cat([model.heads["lm"](x) for x in x_BTD.flatten(0, 1).split(6)]))


def test_gradients_that_are_one_tensor_are_added_up_apart() -> None:
    """Those of chunks are added in place: `a` and `b` are handed the same one, `c` one number that stands for many."""
    x_ND, targets_N = torch.randn(7, 3), torch.zeros(7, dtype=torch.long)
    learned = [torch.randn(3, requires_grad=True) for _ in range(3)]

    def loss(x_ND: Tensor, targets_N: Tensor, once: bool = False) -> Tensor:
        a, b, c = learned
        return (x_ND.sum(0) + a + b).square().sum() + c.sum()

    chunked_sum(loss, x_ND, targets_N, 3, learned).backward()
    whole = sum(loss(x, targets_N) for x in x_ND.split(3))
    for found, expected in zip(learned, torch.autograd.grad(whole, learned), strict=True):
        close(found.grad, expected)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_a_frozen_head_and_a_batch_without_targets(chunk: int) -> None:
    model = small(embedding={"tied": False})
    x_BT = tokens(model, 2, 5)
    model.heads["lm"].projection.weight.requires_grad_(False)
    model.heads["lm"].loss(model(x_BT).x_BTD, x_BT, chunk).total.backward()
    assert model.heads["lm"].projection.weight.grad is None
    assert model.embedding.tokens.weight.grad.abs().sum() > 0
    model.zero_grad()
    nothing = model.heads["lm"].loss(model(x_BT).x_BTD, torch.full_like(x_BT, IGNORE), chunk)
    nothing.total.backward()
    assert (float(nothing.total.detach()), int(nothing.count)) == (0.0, 0)


def test_tied_is_one_parameter() -> None:
    tied, untied = small(embedding={"tied": True}), small(embedding={"tied": False})
    assert tied.heads["lm"].projection.weight is tied.embedding.tokens.weight
    names = [name for name, _ in tied.named_parameters()]
    assert "embedding.tokens.weight" in names
    assert "heads.lm.projection.weight" not in names
    assert len(list(untied.parameters())) == len(names) + 1
    x_BT = tokens(tied, 1, 4)
    head, table = tied.heads["lm"], tied.embedding.tokens.weight
    table.grad = None
    head.loss(tied(x_BT).x_BTD.detach(), x_BT).total.backward()
    as_head = table.grad.clone()
    table.grad = None
    tied(x_BT).x_BTD.sum().backward()
    assert as_head.abs().sum() > 0
    assert table.grad.abs().sum() > 0, "both uses reach the one table"
