"""Kernels: ways to compute the same attention. Each says what it cannot do; each is tested against `reference`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.device import fast_bf16
from weft.errors import WeftError
from weft.nn.blocked import BLOCK, Plan, blocked_attention
from weft.nn.flex import flex_attention, no_compiler
from weft.nn.masks import Causal, Mask
from weft.nn.scores import SoftmaxWeighting, Weighting
from weft.nn.sides import Sides

FEW = 16
"""Queries that are not worth a compiler's seconds."""


@dataclass(frozen=True)
class Call:
    """One attention: q_BHTK, k_BGSK, v_BGSL (H a multiple of G, values as wide as they like), and who sees whom."""

    q_BHTK: Tensor
    k_BGSK: Tensor
    v_BGSL: Tensor
    mask: Mask
    sides: Sides
    weighting: Weighting
    bias_BHTS: Tensor | None = None
    dropout: float = 0.0
    tap: Callable[[str, Tensor], Tensor] | None = None
    """Somebody wants to see the weights."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What a kernel must be able to do beside the plain softmax."""
        more = {"dropout": self.dropout > 0, "weights": self.tap is not None}
        return (*self.weighting.needs, *(name for name, needed in more.items() if needed))


class Kernel:
    """A way to compute `Call`; the result is B x H x T x L."""

    name: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}
    """What of `Call.needs` it cannot do, and how it says so."""

    def unable(self, needs: Iterable[str]) -> str | None:
        """Why this kernel cannot do what is needed, or None."""
        return next((self.lacks[need] for need in needs if need in self.lacks), None)

    def refuses(self, call: Call) -> str | None:
        """Why this kernel cannot compute `call`, or None."""
        return self.unable(call.needs)

    def pays(self, call: Call) -> bool:
        """Whether `auto` should take it, which it can, rather than ask the next one."""
        return True

    def __call__(self, call: Call) -> Tensor:
        raise NotImplementedError


class Reference(Kernel):
    """The formula as written: every weight exists, O(T S) memory."""

    name = "reference"

    def __call__(self, call: Call) -> Tensor:
        groups = call.q_BHTK.shape[1] // call.k_BGSK.shape[1]
        k_BHSK, v_BHSL = (x.repeat_interleave(groups, dim=1) for x in (call.k_BGSK, call.v_BGSL))
        scores_BHTS = call.weighting.scores(call.q_BHTK @ k_BHSK.transpose(-2, -1))
        if call.bias_BHTS is not None:
            scores_BHTS = scores_BHTS + call.bias_BHTS.to(scores_BHTS.dtype)
        weights_BHTS = call.weighting.weights(scores_BHTS, call.sides.dense(call.mask))
        if call.tap is not None:
            weights_BHTS = call.tap("weights", weights_BHTS)
        return F.dropout(weights_BHTS, call.dropout) @ v_BHSL


class Sdpa(Kernel):
    """PyTorch's scaled_dot_product_attention: fused where the device has a kernel, O(T) memory."""

    name = "sdpa"
    lacks = {
        "score": "its scores are softmax's",
        "cap": "it caps no scores (score.cap)",
        "sinks": "it has no sinks (score.sinks)",
        "weights": "it keeps no weights to look at",
    }

    def __call__(self, call: Call) -> Tensor:
        causal = call.sides.aligned and call.mask == Causal() and call.bias_BHTS is None
        mask, seeing = (None, None) if causal else self._mask(call)
        out_BHTL = F.scaled_dot_product_attention(
            call.q_BHTK,
            call.k_BGSK,
            call.v_BGSL,
            attn_mask=mask,
            dropout_p=call.dropout,
            is_causal=causal,
            scale=call.weighting.scale,
            enable_gqa=call.q_BHTK.shape[1] != call.k_BGSK.shape[1],
        )
        return out_BHTL if seeing is None else out_BHTL * seeing

    @staticmethod
    def _mask(call: Call) -> tuple[Tensor | None, Tensor | None]:
        """The mask as sdpa takes it; and, where a query might see nothing at all, which ones see something."""
        whole = call.sides.coverage(call.mask, call.q_BHTK.shape[2], call.k_BGSK.shape[2])
        if call.bias_BHTS is None and whole.all.all():
            return None, None
        allowed = call.sides.dense(call.mask)
        seeing = None
        if call.sides.k_valid_BS is not None:  # only padding can leave a query without any key
            some = allowed.any(-1, keepdim=True)
            allowed, seeing = allowed | ~some, some
        if call.bias_BHTS is None:
            return allowed, seeing
        return call.bias_BHTS.to(call.q_BHTK.dtype).masked_fill(~allowed, -torch.inf), seeing


class Blocked(Kernel):
    """weft's own, block by block: what the mask hides is not computed, O(T) memory; see `blocked.py`."""

    name = "blocked"
    lacks = {
        "score": "its scores are softmax's",
        "dropout": "it drops no weights (attention.dropout)",
        "weights": "it keeps no weights to look at",
    }

    def pays(self, call: Call) -> bool:
        """On CPUs, as measured (`benchmarks/attention.py`); on others sdpa has flash kernels that are faster."""
        if call.q_BHTK.device.type != "cpu" or call.q_BHTK.shape[2] < 2 * BLOCK:
            return False  # few queries are one block or two: nothing to leave out
        if {"cap", "sinks"}.intersection(call.needs):
            # sdpa cannot; beside the reference, forward and backward: at T = 256 1.2, at 1024 3 times as fast
            return True
        if call.q_BHTK.dtype is torch.bfloat16 and fast_bf16("cpu"):
            # sdpa is no faster in bf16 than in float32, and matrix products are: block by block, a trial of this design
            # on such a chip was 1.2 to 1.8 times as fast as sdpa; this kernel has not been timed on one yet
            return True
        # In float32 a pair costs about twice what it costs sdpa, which computes all pairs of any mask (or, if it is
        # plainly causal, half of them): a window of 256 at T = 1024 (a third of the blocks) is 1.3 times as fast
        # forward and 1.7 with backward, at T = 2048 (a sixth) 2.3 and 3.1; plainly causal, 0.6 and 0.8.
        return float(call.sides.coverage(call.mask, BLOCK, BLOCK).some.mean()) < 0.4

    def __call__(self, call: Call) -> Tensor:
        weighting = call.weighting
        assert isinstance(weighting, SoftmaxWeighting), "what is no softmax is refused"
        inputs = call.q_BHTK, call.k_BGSK, call.v_BGSL, call.bias_BHTS, weighting.sinks_H
        return blocked_attention(*inputs, weighting.scale, Plan(call.mask, call.sides, cap=weighting.cap))


class Flex(Kernel):
    """PyTorch's FlexAttention, which compiles the mask into the kernel; on a CPU forward only; see `flex.py`."""

    name = "flex"
    lacks = {
        "score": "its scores are softmax's",
        "sinks": "it has no sinks (score.sinks)",
        "dropout": "it drops no weights (attention.dropout)",
        "weights": "it keeps no weights to look at",
    }

    def refuses(self, call: Call) -> str | None:
        inputs = [x for x in (call.q_BHTK, call.k_BGSK, call.v_BGSL, call.bias_BHTS) if x is not None]
        device, dtype = call.q_BHTK.device.type, call.q_BHTK.dtype
        if device not in ("cpu", "cuda"):
            return f"it computes on CPUs and CUDA devices, not on {device}"
        if device == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return "on a CPU it computes no gradients"
        queries, keys = call.q_BHTK.shape[2], call.k_BGSK.shape[2]
        if device == "cpu" and queries < min(keys, FEW):
            return (
                f"on a CPU it compiles for every length, not for the {queries} of {keys} tokens that go on from a cache"
            )
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it computes in float32 and less, not in {str(dtype).removeprefix('torch.')}"
        return super().refuses(call) or (no_compiler() if device == "cpu" else None)

    def pays(self, call: Call) -> bool:
        """Nobody waits for a compiler who did not ask to."""
        return False

    def __call__(self, call: Call) -> Tensor:
        weighting = call.weighting
        assert isinstance(weighting, SoftmaxWeighting), "what is no softmax is refused"
        inputs = call.q_BHTK, call.k_BGSK, call.v_BGSL, call.bias_BHTS
        return flex_attention(*inputs, weighting.scale, weighting.cap, call.mask, call.sides)


KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Flex(), Blocked(), Sdpa(), Reference())}
"""In the order in which `auto` asks them; the last one refuses nothing."""


def check(name: str, weighting: Weighting) -> None:
    """Raises WeftError when the named kernel can never compute this weighting."""
    reason = None if name == "auto" else KERNELS[name].unable(weighting.needs)
    if reason:
        raise WeftError(f"attention.kernel: {name}: {reason}; `auto` chooses one that can")


def attend(call: Call, name: str = "auto") -> Tensor:
    """Attention by the named kernel, or by the first that can compute it and pays.

    Raises WeftError when the named kernel cannot.
    """
    if name == "auto":
        return next(kernel for kernel in KERNELS.values() if kernel.refuses(call) is None and kernel.pays(call))(call)
    reason = KERNELS[name].refuses(call)
    if reason:
        raise WeftError(f"kernel {name}: {reason}; `auto` chooses one that can")
    return KERNELS[name](call)
