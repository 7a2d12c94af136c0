"""What generation keeps of the tokens it has seen: each layer's keys and values, so that none is computed twice.

Rows have their own lengths from the start: sequences of unequal length share a batch, branch (`select`) and take tokens
back (`rewind`). Row b's tokens lie in slots 0 ... lengths[b] - 1 of every entry; what lies beyond is stale and unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.errors import WeftError


@dataclass(frozen=True)
class Placement:
    """Where the tokens of one forward go: slot_BT of each; padding (valid_BT False) goes nowhere."""

    slot_BT: Tensor
    valid_BT: Tensor | None
    start: int | None
    """The first slot, where all rows have the same length and no padding."""
    end: int
    """One past the last used slot of the longest row."""


class FullEntry:
    """Every key and value of one layer: two buffers B x G x capacity x width that grow by doubling."""

    def __init__(self) -> None:
        self.k_BGSK: Tensor | None = None
        self.v_BGSL: Tensor | None = None

    def append(self, k_BGTK: Tensor, v_BGTL: Tensor, placement: Placement) -> tuple[Tensor, Tensor]:
        """Keep new keys and values at their places; returns all that is kept, up to the longest row's end."""
        with torch.no_grad():
            self.k_BGSK = self._write(self.k_BGSK, k_BGTK, placement)
            self.v_BGSL = self._write(self.v_BGSL, v_BGTL, placement)
        return self.k_BGSK[:, :, : placement.end], self.v_BGSL[:, :, : placement.end]

    @staticmethod
    def _write(buffer: Tensor | None, new_BGTK: Tensor, placement: Placement) -> Tensor:
        rows, groups, tokens, width = new_BGTK.shape
        if buffer is None or buffer.shape[2] < placement.end:
            capacity = max(64, placement.end, 0 if buffer is None else 2 * buffer.shape[2])
            # zeros, not garbage: a stale slot is masked, but 0 x NaN would still be NaN
            grown = new_BGTK.new_zeros(rows, groups, capacity, width)
            if buffer is not None:
                grown[:, :, : buffer.shape[2]] = buffer
            buffer = grown
        if placement.start is not None:
            buffer[:, :, placement.start : placement.start + tokens] = new_BGTK
            return buffer
        valid_BT = placement.valid_BT
        if valid_BT is None:
            valid_BT = torch.ones_like(placement.slot_BT, dtype=torch.bool)
        row_N, token_N = valid_BT.nonzero(as_tuple=True)
        buffer[row_N, :, placement.slot_BT[row_N, token_N]] = new_BGTK[row_N, :, token_N]
        return buffer

    def select(self, rows: Tensor) -> None:
        """Keep the named rows, in that order; a row may be named twice (a branch)."""
        if self.k_BGSK is not None and self.v_BGSL is not None:
            self.k_BGSK, self.v_BGSL = self.k_BGSK[rows], self.v_BGSL[rows]

    def join(self, other: FullEntry, rows: tuple[int, int]) -> None:
        """Add the other entry's rows below this one's; `rows` counts both, also those that hold nothing yet."""
        self.k_BGSK = _stack(self.k_BGSK, other.k_BGSK, rows)
        self.v_BGSL = _stack(self.v_BGSL, other.v_BGSL, rows)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of each row: their slots are simply written again."""

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.numel() * x.element_size() for x in (self.k_BGSK, self.v_BGSL) if x is not None)


def _stack(first: Tensor | None, second: Tensor | None, rows: tuple[int, int]) -> Tensor | None:
    held = [x for x in (first, second) if x is not None]
    if not held:
        return None
    _, groups, _, width = held[0].shape
    joined = held[0].new_zeros(sum(rows), groups, max(x.shape[2] for x in held), width)
    if first is not None:
        joined[: rows[0], :, : first.shape[2]] = first
    if second is not None:
        joined[rows[0] :, :, : second.shape[2]] = second
    return joined


class Cache:
    """One entry for each depth (not module: layers may share weights), and the rows' lengths."""

    def __init__(self, entries: Sequence[FullEntry | None], rows: int) -> None:
        self.entries = list(entries)
        self.lengths = [0] * rows

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    def place(self, shape: tuple[int, int], valid_BT: Tensor | None, device: torch.device) -> Placement:
        """Where the next B x T tokens go; counts them into the rows' lengths.

        Raises WeftError when the number of rows differs from the cache's.
        """
        rows, tokens = shape
        if rows != self.rows:
            raise WeftError(f"the cache holds {self.rows} rows, the input has {rows}; select or join rows first")
        before_B = torch.tensor(self.lengths, device=device)
        if valid_BT is None:
            slot_BT = before_B[:, None] + torch.arange(tokens, device=device)
            counts = [tokens] * rows
        else:
            slot_BT = before_B[:, None] + index_of(valid_BT)
            counts = valid_BT.sum(1).tolist()
        alike = valid_BT is None and len(set(self.lengths)) == 1
        start = self.lengths[0] if alike else None
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        return Placement(slot_BT, valid_BT, start, max(self.lengths))

    def valid(self, device: torch.device) -> Tensor | None:
        """Which kept slots hold a token of their row, B x S; None where all do."""
        if len(set(self.lengths)) == 1:
            return None
        lengths_B = torch.tensor(self.lengths, device=device)
        return torch.arange(max(self.lengths), device=device) < lengths_B[:, None]

    def select(self, rows: Sequence[int]) -> None:
        """Keep the named rows, in that order; a row may be named twice (a branch)."""
        for entry in self._held():
            device = entry.k_BGSK.device if entry.k_BGSK is not None else None
            entry.select(torch.tensor(list(rows), device=device))
        self.lengths = [self.lengths[row] for row in rows]

    def join(self, other: Cache) -> None:
        """Add the other cache's rows below this one's."""
        for mine, theirs in zip(self._held(), other._held(), strict=True):
            mine.join(theirs, (self.rows, other.rows))
        self.lengths += other.lengths

    def rewind(self, tokens: int | Sequence[int]) -> None:
        """Take back each row's last `tokens` tokens (one number for all rows, or one a row).

        Raises WeftError when a row has fewer.
        """
        back = [tokens] * self.rows if isinstance(tokens, int) else list(tokens)
        lengths = [length - count for length, count in zip(self.lengths, back, strict=True)]
        if min(lengths, default=0) < 0 or min(back, default=0) < 0:
            raise WeftError(f"cannot take back {back} tokens from rows of {self.lengths}")
        for entry in self._held():
            entry.rewind(lengths)
        self.lengths = lengths

    def snapshot(self) -> list[int]:
        """What `restore` needs to come back to this point after more tokens were appended."""
        return list(self.lengths)

    def restore(self, snapshot: Sequence[int]) -> None:
        """Take back everything appended since the snapshot (rows must be the same ones)."""
        self.rewind([now - then for now, then in zip(self.lengths, snapshot, strict=True)])

    def _held(self) -> list[FullEntry]:
        return [entry for entry in self.entries if entry is not None]

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(entry.bytes for entry in self._held())


def index_of(valid_BT: Tensor) -> Tensor:
    """Each token's place among its row's valid ones; padding takes its left neighbour's (or 0)."""
    return (valid_BT.long().cumsum(1) - 1).clamp(min=0)
