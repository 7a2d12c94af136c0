"""FlexAttention (Dong et al. 2024, arXiv 2412.05496): PyTorch compiles a mask, a cap and a bias into one kernel.

A mask is given twice: block by block, from its `coverage`, so that empty blocks are left out and full ones not asked
about; and pair by pair, for the mixed ones. The first call for a kind of mask takes seconds: it is compiled; on a CPU
for every length anew.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weft.nn.masks import Mask
from weft.nn.sides import Flags, Sides, Tokens

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Queries, and keys, that the mask decides about together."""


def no_compiler() -> str | None:
    """What is missing to compile for this CPU, in a line, or None."""
    names = {"win32": ["cl"], "darwin": ["clang++"]}.get(sys.platform, ["g++", "clang++"])
    given = os.environ.get("CXX")
    names = [given] if given else names
    if any(shutil.which(name) for name in names):
        return None
    return f"it needs a C++ compiler ({' or '.join(names)}), and none is installed"


@functools.cache
def _compiled(device: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # what torch 2.13 generates for a CPU and lengths that vary is no valid C++ once the mask reads tensors
    return torch.compile(flex_attention, dynamic=False if device == "cpu" else None)


def flex_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSL: Tensor,
    bias_BHTS: Tensor | None,
    scale: float,
    cap: float | None,
    mask: Mask,
    sides: Sides,
) -> Tensor:
    """softmax(cap tanh(scale q k^T / cap) + bias) v where the mask allows, B x H x T x L; 0 where nothing is seen."""
    # as a tensor: a number would be compiled in, or asked for in the middle of the kernel
    limit = None if cap is None else torch.tensor(cap, device=q_BHTK.device)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if limit is not None:
            s = limit * torch.tanh(s / limit)
        return s if bias_BHTS is None else s + bias_BHTS[_row(bias_BHTS, b), h, i, j].to(s.dtype)

    out_BHTL: Tensor = _compiled(q_BHTK.device.type)(
        q_BHTK,
        k_BGSK,
        v_BGSL,
        score_mod=None if limit is None and bias_BHTS is None else score,
        block_mask=_block_mask(mask, sides),
        scale=scale,
        enable_gqa=q_BHTK.shape[1] != k_BGSK.shape[1],
    )
    return out_BHTL


def _block_mask(mask: Mask, sides: Sides) -> BlockMask:
    """The mask as FlexAttention takes it."""
    from torch.nn.attention.flex_attention import BlockMask

    queries, keys, device = sides.queries, sides.keys, sides.q_index_BT.device

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask.sees(_one(queries, b, i), _one(keys, b, j))

    coverage = sides.coverage(mask, BLOCK, BLOCK)
    mixed, full = (_listed(flags, device) for flags in (coverage.some & ~coverage.all, coverage.all))
    lengths = sides.q_index_BT.shape[1], sides.k_index_BS.shape[1]
    return BlockMask.from_kv_blocks(*mixed, *full, BLOCK_SIZE=BLOCK, mask_mod=allowed, seq_lengths=lengths)


def _listed(flags_BIJ: Flags, device: Any) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, B x 1 x I; and which, these first, B x 1 x I x J."""
    flags = torch.from_numpy(flags_BIJ.copy())[:, None].to(device)
    return flags.sum(-1, dtype=torch.int32), flags.int().argsort(dim=-1, descending=True, stable=True).int()


def _one(tokens: Tokens, b: Tensor, i: Tensor) -> Tokens:
    """The token at place i of row b."""
    return tokens.each(lambda x: x[_row(x, b), i])


def _row(x: Tensor, b: Tensor) -> Tensor:
    """Where row b is in what may be alike for all."""
    return b if x.shape[0] > 1 else b * 0
