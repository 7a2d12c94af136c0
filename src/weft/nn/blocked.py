"""Attention by blocks: softmax(q k^T + bias) v without ever holding all T x S weights, and without the empty blocks.

A block of queries goes over the runs of keys that the mask leaves it and keeps, for each query, the largest score m so
far, the sum l of the weights and their mixture o (online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; as
attention, "FlashAttention": Dao et al. 2022, algorithm 1, arXiv 2205.14135):

    S = q k^T + bias, -inf where the mask hides       m' = max(m, max S)       P = exp(S - m')
    l <- exp(m - m') l + sum P          o <- exp(m - m') o + P v               m <- m'

The output is o / l, and all that is kept for backward is L = m + ln l, from which the weights are made again (the same
paper's algorithm 4, with L alone as in Dao 2023, arXiv 2307.08691). With D = sum(do * o) over the channels:

    P = exp(S - L)     dS = P * (do v^T - D)     dv += P^T do     dq += dS k     dk += dS^T q

A score may be capped, S = c tanh(q k^T / c) + bias, and then dS (1 - tanh^2) goes to q and k. A sink is a score that m
and l begin with, so that its exp is in the sum. q is scaled already.

Axes: I queries of a block, J keys of a run, N = I x the query heads that share a key head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from weft.nn.masks import Mask
from weft.nn.sides import Flags, Sides

BLOCK = 128
"""Queries, and keys, that the mask decides about together."""
RUN = 4
"""Most blocks of keys in one product."""
SCORES = 2**20
"""Scores that are computed at once, where rows are short: 4 MiB in float32, which should stay in a cache."""


@dataclass(frozen=True)
class Run:
    """Neighbouring blocks of keys that a block of queries sees; about those in `mixed` the mask must be asked."""

    keys: slice
    mixed: slice | None


@dataclass(frozen=True)
class Tile:
    """A block of queries, in rows of the batch that are masked alike, and all the keys that it sees."""

    rows: slice
    queries: slice
    runs: list[Run]


@dataclass(frozen=True)
class Plan:
    """Who looks at whom, block by block."""

    mask: Mask
    sides: Sides
    block: int = BLOCK
    cap: float | None = None
    """soft limit of q.k, before the bias: S = cap tanh(q.k / cap) + bias"""

    def tiles(self, rows: int, heads: int) -> list[Tile]:
        """All blocks of queries that see something, row by row: a row's keys and values stay in the cache."""
        coverage = self.sides.coverage(self.mask, self.block, self.block)
        widest = min(RUN, coverage.some.shape[2]) * self.block
        several = max(1, SCORES // (heads * self.block * widest)) if len(coverage.some) == 1 else 1
        seen = [list(self._seen(some, full)) for some, full in zip(coverage.some, coverage.all, strict=True)]
        tiles = [
            Tile(slice(row, min(row + several, rows)), queries, runs)
            for row in range(0, rows, several)
            for queries, runs in seen[row if len(seen) > 1 else 0]
        ]
        if isinstance(self.sides.q_index_BT, FakeTensor):
            # nothing is computed, only memory foreseen: the two tiles with the longest runs hold as much as any
            return sorted(tiles, key=lambda tile: _length(tile.rows) * max(_length(run.keys) for run in tile.runs))[-2:]
        return tiles

    def _seen(self, some_IJ: Flags, full_IJ: Flags) -> Iterator[tuple[slice, list[Run]]]:
        """Each block of queries that sees something, and the runs of keys that it sees."""
        queries, keys = self.sides.q_index_BT.shape[1], self.sides.k_index_BS.shape[1]
        for i in np.flatnonzero(some_IJ.any(axis=1)):
            seen = np.flatnonzero(some_IJ[i])
            neighbours = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
            pieces = [blocks[start : start + RUN] for blocks in neighbours for start in range(0, len(blocks), RUN)]
            runs = []
            for blocks in pieces:
                mixed = blocks[~full_IJ[i, blocks]]
                runs.append(Run(self._tokens(blocks, keys), self._tokens(mixed, keys) if len(mixed) else None))
            yield self._tokens(np.array([i]), queries), runs

    def _tokens(self, blocks: npt.NDArray[np.intp], count: int) -> slice:
        return slice(int(blocks[0]) * self.block, min((int(blocks[-1]) + 1) * self.block, count))

    def scores(self, q_BGNK: Tensor, k_BGSK: Tensor, tile: Tile, run: Run) -> Tensor:
        """q k^T of a tile and a run, capped, B x G x N x J, in float32 or wider."""
        s_BGNJ = (q_BGNK @ k_BGSK[tile.rows, :, run.keys].mT).to(wide(q_BGNK.dtype))
        return s_BGNJ if self.cap is None else s_BGNJ.div_(self.cap).tanh_().mul_(self.cap)

    def hide_(self, s_BGNJ: Tensor, bias_BHTS: Tensor | None, tile: Tile, run: Run) -> Tensor:
        """S, with the bias and the mask put into `s_BGNJ`."""
        s_BHIJ = s_BGNJ.view(len(s_BGNJ), -1, _length(tile.queries), _length(run.keys))
        if bias_BHTS is not None:
            s_BHIJ += bias_BHTS[_rows(bias_BHTS, tile), :, tile.queries, run.keys]
        if run.mixed is not None:
            allowed_BIJ = self.mask.allowed(self.sides.block(tile.rows, tile.queries, run.mixed))
            hidden_BIJ = s_BHIJ.new_zeros(allowed_BIJ.shape).masked_fill_(~allowed_BIJ, -math.inf)
            # added, not filled in, which takes five times as long
            s_BHIJ[..., run.mixed.start - run.keys.start : run.mixed.stop - run.keys.start] += hidden_BIJ[:, None]
        return s_BGNJ


def wide(dtype: torch.dtype) -> torch.dtype:
    """What scores, sums and gradients are kept in: float32, or the inputs' own dtype if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def blocked_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSL: Tensor,
    bias_BHTS: Tensor | None,
    sinks_H: Tensor | None,
    scale: float,
    plan: Plan,
) -> Tensor:
    """softmax(scale q k^T + bias) v where the plan's mask allows, B x H x T x L; 0 for a query that sees nothing.

    A head's sink is one more score in the softmax's sum, whose weight goes nowhere.
    """
    inputs = q_BHTK, k_BGSK, v_BGSL, bias_BHTS, sinks_H
    out_BHTL: Tensor = _Blocked.apply(*inputs, scale, plan)  # type: ignore[no-untyped-call]
    return out_BHTL


class _Blocked(torch.autograd.Function):
    """The algorithm, and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSL: Tensor,
        bias_BHTS: Tensor | None,
        sinks_H: Tensor | None,
        scale: float,
        plan: Plan,
    ) -> Tensor:
        (rows, heads, queries, _), (groups, _, values) = q_BHTK.shape, v_BGSL.shape[1:]
        # laid out as B x T x H x L: next, the heads are read side by side
        out_BHTL = q_BHTK.new_zeros(rows, queries, heads, values).transpose(1, 2)
        lse_BHT = q_BHTK.new_zeros(rows, heads, queries, 1, dtype=wide(q_BHTK.dtype))
        for tile in plan.tiles(rows, heads):
            q_BGNK = _cut(q_BHTK, tile, groups) * scale
            m_BGN, l_BGN = _start(lse_BHT, sinks_H, tile, groups)
            o_BGNL = lse_BHT.new_zeros(*q_BGNK.shape[:3], values)
            for run in tile.runs:
                p_BGNJ = plan.hide_(plan.scores(q_BGNK, k_BGSK, tile, run), bias_BHTS, tile, run)
                before_BGN, m_BGN = m_BGN, torch.maximum(m_BGN, p_BGNJ.amax(-1, keepdim=True))
                p_BGNJ.sub_(m_BGN).exp_()
                shrink_BGN = (before_BGN - m_BGN).exp_()
                l_BGN.mul_(shrink_BGN).add_(p_BGNJ.sum(-1, keepdim=True))
                o_BGNL.mul_(shrink_BGN).add_(p_BGNJ.to(v_BGSL.dtype) @ v_BGSL[tile.rows, :, run.keys])
            l_BGN.clamp_(min=1.0)  # the largest weight is exp(0) = 1: only the sum of nothing is less
            _put(out_BHTL, tile, o_BGNL / l_BGN)
            _put(lse_BHT, tile, m_BGN + l_BGN.log())
        ctx.save_for_backward(q_BHTK, k_BGSK, v_BGSL, bias_BHTS, sinks_H, out_BHTL, lse_BHT)
        ctx.scale, ctx.plan = scale, plan
        return out_BHTL

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHTL: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTK, k_BGSK, v_BGSL, bias_BHTS, sinks_H, out_BHTL, lse_BHT = ctx.saved_tensors
        groups, kept = k_BGSK.shape[1], lse_BHT.dtype
        dq_BHTK = torch.zeros_like(q_BHTK)
        dk_BGSK, dv_BGSL = (torch.zeros_like(x, dtype=kept) for x in (k_BGSK, v_BGSL))
        dbias_BHTS = torch.zeros_like(bias_BHTS, dtype=kept) if ctx.needs_input_grad[3] else None
        for tile in ctx.plan.tiles(*q_BHTK.shape[:2]):
            q_BGNK = _cut(q_BHTK, tile, groups) * ctx.scale
            dout_BGNL, lse_BGN = _cut(dout_BHTL, tile, groups), _cut(lse_BHT, tile, groups)
            d_BGN = (dout_BGNL * _cut(out_BHTL, tile, groups)).sum(-1, keepdim=True, dtype=kept)
            dq_BGNK = torch.zeros_like(q_BGNK, dtype=kept)
            for run in tile.runs:
                k_BGJK, v_BGJL = k_BGSK[tile.rows, :, run.keys], v_BGSL[tile.rows, :, run.keys]
                p_BGNJ = ctx.plan.scores(q_BGNK, k_BGSK, tile, run)
                slope_BGNJ = None if ctx.plan.cap is None else 1 - (p_BGNJ / ctx.plan.cap).square_()
                p_BGNJ = ctx.plan.hide_(p_BGNJ, bias_BHTS, tile, run).sub_(lse_BGN).exp_()
                ds_BGNJ = (dout_BGNL @ v_BGJL.mT).to(kept).sub_(d_BGN).mul_(p_BGNJ)
                if dbias_BHTS is not None:
                    dbias_BHIJ = dbias_BHTS[_rows(dbias_BHTS, tile), :, tile.queries, run.keys]
                    dbias_BHIJ += ds_BGNJ.reshape(-1, *dbias_BHIJ.shape[1:]).sum_to_size(dbias_BHIJ.shape)
                ds_BGNJ = ds_BGNJ if slope_BGNJ is None else ds_BGNJ.mul_(slope_BGNJ)
                p_BGNJ, ds_BGNJ = p_BGNJ.to(q_BGNK.dtype), ds_BGNJ.to(q_BGNK.dtype)
                dv_BGSL[tile.rows, :, run.keys] += p_BGNJ.mT @ dout_BGNL
                dk_BGSK[tile.rows, :, run.keys] += ds_BGNJ.mT @ q_BGNK
                dq_BGNK += ds_BGNJ @ k_BGJK
            _put(dq_BHTK, tile, dq_BGNK * ctx.scale)
        dbias = None if dbias_BHTS is None else dbias_BHTS.to(bias_BHTS.dtype)
        dsinks_H = None
        if ctx.needs_input_grad[4]:  # dS of one more key, whose value is 0: -P D
            d_BHT = (dout_BHTL * out_BHTL).sum(-1, keepdim=True, dtype=kept)
            p_BHT = (sinks_H.to(kept)[:, None, None] - lse_BHT).exp_()
            dsinks_H = -(p_BHT * d_BHT).sum((0, 2, 3)).to(sinks_H.dtype)
        return dq_BHTK, dk_BGSK.to(k_BGSK.dtype), dv_BGSL.to(v_BGSL.dtype), dbias, dsinks_H, None, None


def _start(lse_BHT: Tensor, sinks_H: Tensor | None, tile: Tile, groups: int) -> tuple[Tensor, Tensor]:
    """m and l before any key was looked at: of nothing, or of the sinks alone."""
    held_BHT = lse_BHT[tile.rows, :, tile.queries]
    if sinks_H is None:
        # the lowest number, not -inf: where nothing is seen, -inf - (-inf) would be no number
        m_BHT, l_BHT = torch.full_like(held_BHT, torch.finfo(held_BHT.dtype).min), torch.zeros_like(held_BHT)
    else:
        m_BHT, l_BHT = sinks_H.to(held_BHT)[:, None, None].expand_as(held_BHT), torch.ones_like(held_BHT)
    m_BGN, l_BGN = (x.unflatten(1, (groups, -1)).flatten(2, 3) for x in (m_BHT, l_BHT))
    return m_BGN, l_BGN


def _cut(x_BHTK: Tensor, tile: Tile, groups: int) -> Tensor:
    """A tile's part of x, the heads that share keys below one another: B x G x N x K."""
    return x_BHTK[tile.rows, :, tile.queries].unflatten(1, (groups, -1)).flatten(2, 3)


def _put(x_BHTK: Tensor, tile: Tile, part_BGNK: Tensor) -> None:
    """Write a tile's part of x."""
    x_BHIK = x_BHTK[tile.rows, :, tile.queries]
    x_BHIK.copy_(part_BGNK.reshape(x_BHIK.shape))


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _rows(x_BHTS: Tensor, tile: Tile) -> slice:
    """Where a tile's rows are in what may be alike for all."""
    return tile.rows if len(x_BHTS) > 1 else slice(None)
