"""Ways to compute one causal attention: a new one is a function that makes its core, and a line in `WAYS`.

As a layer, y = attention(x W_Q, x W_K, x W_V) W_O, all of them have the same four matrices; the core is what lies
between queries, keys and values and their mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.errors import WeftError
from weft.nn.kernels import Call, attend
from weft.nn.masks import Causal, Mask, Near, Sides
from weft.nn.scores import SoftmaxWeighting

Core = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q_BHTK, k_BHTK, v_BHTK to the mixture, B x H x T x K."""
LIMIT = 1e-5
"""How far float32 may be from float64, as a share of the largest value: some 50 roundings."""


@dataclass(frozen=True)
class Shape:
    """The size of one attention."""

    batch: int
    n_heads: int
    width: int
    """channels of a head"""
    tokens: int
    window: int
    """keys that a windowed way sees: itself and those before it"""

    @property
    def d_model(self) -> int:
        """Channels of all heads."""
        return self.n_heads * self.width

    def sides(self) -> Sides:
        """Who is where, for masks: unpadded rows, all alike."""
        places = torch.arange(self.tokens)[None]
        return Sides(places, places, aligned=True)

    def mask(self, windowed: bool) -> Mask:
        """Who sees whom."""
        return Causal() & Near(self.window) if windowed else Causal()


class Projected(nn.Module):
    """A core between the four matrices; `weights_4DD`: query, key, value, output below one another."""

    def __init__(self, shape: Shape, weights_4DD: Tensor, core: Core) -> None:
        super().__init__()
        self.shape, self.core = shape, core
        self.query, self.key, self.value, self.output = (nn.Parameter(one.clone()) for one in weights_4DD.chunk(4))

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BHTK, k_BHTK, v_BHTK = (self._heads(x_BTD @ matrix.mT) for matrix in (self.query, self.key, self.value))
        return self.core(q_BHTK, k_BHTK, v_BHTK).transpose(1, 2).flatten(2) @ self.output.mT

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.shape.n_heads, self.shape.width)).transpose(1, 2)


class TorchModule(nn.Module):
    """torch.nn.MultiheadAttention, called as its documentation says for causal self-attention."""

    def __init__(self, shape: Shape, weights_4DD: Tensor, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        inner = nn.MultiheadAttention(shape.d_model, shape.n_heads, bias=False, batch_first=True)
        inner.in_proj_weight = nn.Parameter(weights_4DD[: 3 * shape.d_model].clone())
        inner.out_proj.weight = nn.Parameter(weights_4DD[3 * shape.d_model :].clone())
        self.inner = inner
        self.register_buffer("hidden_TS", ~shape.sides().dense(Causal())[0, 0], persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        fused = not self.need_weights
        return self.inner(x_BTD, x_BTD, x_BTD, attn_mask=self.hidden_TS, need_weights=not fused, is_causal=fused)[0]


@dataclass(frozen=True)
class Way:
    """One way: in words, its core or a layer of its own, and whether it sees a window only."""

    words: str
    core: Callable[[Shape], Core] | None = None
    module: Callable[[Shape, Tensor], nn.Module] | None = None
    windowed: bool = False

    def layer(self, shape: Shape, weights_4DD: Tensor) -> nn.Module:
        """The way as a layer with these matrices."""
        if self.module is not None:
            return self.module(shape, weights_4DD)
        assert self.core is not None, "a way without a layer of its own has a core"
        return Projected(shape, weights_4DD, self.core(shape))


def written(mask: Mask) -> Callable[[Shape], Core]:
    """softmax(q k^T / sqrt(K)) v, a line of code each: all T x T scores exist (Vaswani et al. 2017, eq. 1)."""

    def make(shape: Shape) -> Core:
        hidden_TS = ~shape.sides().dense(mask)

        def core(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
            scores_BHTS = q_BHTK @ k_BHTK.mT / shape.width**0.5
            return scores_BHTS.masked_fill(hidden_TS, -torch.inf).softmax(-1) @ v_BHTK

        return core

    return make


def sdpa(shape: Shape) -> Core:
    """torch's scaled_dot_product_attention, which chooses a backend itself."""
    return lambda q_BHTK, k_BHTK, v_BHTK: F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


def blocked(windowed: bool) -> Callable[[Shape], Core]:
    """weft's kernel `blocked`."""

    def make(shape: Shape) -> Core:
        mask, sides, weighting = shape.mask(windowed), shape.sides(), SoftmaxWeighting(shape.width**-0.5)
        return lambda q, k, v: attend(Call(q, k, v, mask, sides, weighting), "blocked")

    return make


WAYS: dict[str, Way] = {
    "formula": Way("softmax(q kᵀ / √K) v as written, all T × T scores in memory", written(Causal())),
    "mha": Way(
        "torch.nn.MultiheadAttention as it is called by default: it returns the weights",
        module=lambda shape, weights_4DD: TorchModule(shape, weights_4DD, need_weights=True),
    ),
    "mha-no-weights": Way(
        "torch.nn.MultiheadAttention with need_weights=False",
        module=lambda shape, weights_4DD: TorchModule(shape, weights_4DD, need_weights=False),
    ),
    "sdpa": Way("torch's scaled_dot_product_attention: flash attention where it has it", sdpa),
    "blocked": Way("weft's blocked kernel: the algorithm of FlashAttention in torch operations", blocked(False)),
    "window": Way("weft's blocked kernel under a window: empty blocks are not computed", blocked(True), windowed=True),
}


@dataclass(frozen=True)
class Trial:
    """Something that can be timed: a layer or a core with its input, and what backward begins with."""

    compute: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    learned: tuple[Tensor, ...]
    """what backward computes gradients of"""
    out_grad: Tensor

    def forward(self) -> Tensor:
        """As in use: nothing is kept for backward."""
        with torch.inference_mode():
            return self.compute(*self.inputs)

    def both(self) -> tuple[Tensor, ...]:
        """As in training: the output, and the gradients of inputs and matrices."""
        out = self.compute(*self.inputs)
        return out, *torch.autograd.grad(out, self.learned, self.out_grad)


def layer_trial(way: Way, shape: Shape, dtype: torch.dtype = torch.float32) -> Trial:
    """The way as a layer, on the same numbers as all others."""
    generator = torch.Generator().manual_seed(0)
    size = shape.batch, shape.tokens, shape.d_model
    x_BTD, out_grad = (torch.randn(size, generator=generator) for _ in range(2))
    weights_4DD = torch.randn(4 * shape.d_model, shape.d_model, generator=generator) * shape.d_model**-0.5
    layer = way.layer(shape, weights_4DD.to(dtype)).eval()  # there is no dropout: only MultiheadAttention asks
    x_BTD = x_BTD.to(dtype).requires_grad_()
    return Trial(layer, (x_BTD,), (x_BTD, *layer.parameters()), out_grad.to(dtype))


def core_trial(core: Callable[[Shape], Core], shape: Shape, dtype: torch.dtype = torch.float32) -> Trial:
    """A core alone, on heads that are cut from the channels as a layer cuts them."""
    generator = torch.Generator().manual_seed(0)
    size = shape.batch, shape.tokens, shape.n_heads, shape.width
    q, k, v, out_grad = (torch.randn(size, generator=generator).to(dtype).transpose(1, 2) for _ in range(4))
    inputs = q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
    return Trial(core(shape), inputs, inputs, out_grad)


def check_layer(name: str, way: Way, shape: Shape) -> float:
    """How far the layer is from the formula in float64, output and gradients, as a share of the largest value.

    Raises WeftError where that is more than rounding.
    """
    exact = layer_trial(Way("", written(shape.mask(way.windowed))), shape, torch.float64)
    return _distance(name, layer_trial(way, shape), exact)


def check_core(name: str, way: Way, shape: Shape) -> float:
    """The same of a core."""
    assert way.core is not None, "only what has a core is checked as one"
    exact = core_trial(written(shape.mask(way.windowed)), shape, torch.float64)
    return _distance(name, core_trial(way.core, shape), exact)


def _distance(name: str, trial: Trial, exact: Trial) -> float:
    found, true = _flat(trial), _flat(exact)
    errors = [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, true, strict=True)]
    if not max(errors) < LIMIT:
        place = ("its output", "the gradient of its input", "a gradient behind it")[errors.index(max(errors))]
        raise WeftError(
            f"ways: {name} computes something else than the formula: {place} is off by {max(errors):.2g} of the"
            " largest value; nothing is timed"
        )
    return max(errors)


def _flat(trial: Trial) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the first gradient, and the others as one: modules hold the same matrices in other pieces."""
    out, first, *rest = trial.both()
    return out.detach(), first, torch.cat([one.flatten() for one in rest])


def at_length(shape: Shape, tokens: int) -> Shape:
    """The same with so many tokens."""
    return replace(shape, tokens=tokens)
