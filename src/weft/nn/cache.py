"""What generation keeps of the tokens it has seen: each layer's keys and values, so that none is computed twice.

Rows have their own lengths from the start: sequences of unequal length share a batch, branch (`select`) and take tokens
back (`rewind`). Row b's tokens lie in slots 0 ... lengths[b] - 1 of every entry; what lies beyond is stale and unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.errors import WeftError
from weft.nn.sides import Sides

SLACK = 16
"""Tokens that a window's cache lets one take back, unless asked for more."""


@dataclass(frozen=True)
class Placement:
    """Where the tokens of one forward go: slot_BT of each; padding (valid_BT False) goes nowhere."""

    slot_BT: Tensor
    valid_BT: Tensor | None
    start: int | None
    """The first slot, where all rows have the same length and no padding."""
    ends: tuple[int, ...]
    """One past the last used slot of each row."""
    rings: dict[int, Sides] = field(default_factory=dict, compare=False, repr=False)
    """Who stands where in rings of so many slots, the same for all layers with such a ring."""

    @property
    def end(self) -> int:
        """One past the last used slot of the longest row."""
        return max(self.ends)

    def by_slot(self, flags_BT: Tensor) -> Tensor:
        """What is flagged of the new tokens, at their slots: B x end, False elsewhere."""
        flags_BT = flags_BT if self.valid_BT is None else flags_BT & self.valid_BT
        counts_BS = torch.zeros(len(flags_BT), self.end, dtype=torch.long, device=flags_BT.device)
        return counts_BS.scatter_add(1, self.slot_BT.clamp(max=self.end - 1), flags_BT.long()) > 0


class Entry:
    """What one layer keeps of its keys and values, B x G x slots x width each."""

    def __init__(self) -> None:
        self.k_BGSK: Tensor | None = None
        self.v_BGSL: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Keep the named rows, in that order; a row may be named twice (a branch)."""
        if self.k_BGSK is not None and self.v_BGSL is not None:
            self.k_BGSK, self.v_BGSL = self.k_BGSK[rows], self.v_BGSL[rows]

    def join(self, other: Entry, rows: tuple[int, int]) -> None:
        """Add the other entry's rows below this one's; `rows` counts both, also those that hold nothing yet."""
        self.k_BGSK = stack_rows(self.k_BGSK, other.k_BGSK, rows)
        self.v_BGSL = stack_rows(self.v_BGSL, other.v_BGSL, rows)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of each row: their slots are simply written again."""

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.numel() * x.element_size() for x in (self.k_BGSK, self.v_BGSL) if x is not None)


class FullEntry(Entry):
    """Every key and value of one layer: two buffers B x G x capacity x width that grow by doubling."""

    def append(
        self, k_BGTK: Tensor, v_BGTL: Tensor, placement: Placement, sides: Sides
    ) -> tuple[Tensor, Tensor, Sides]:
        """Keep new keys and values at their places; returns what queries may see, and where those keys stand.

        `sides` are those of keys in slots 0, 1, ... up to the longest row's end.
        """
        with torch.no_grad():
            self.k_BGSK = self._written(self.k_BGSK, k_BGTK, placement)
            self.v_BGSL = self._written(self.v_BGSL, v_BGTL, placement)
        return self.k_BGSK[:, :, : placement.end], self.v_BGSL[:, :, : placement.end], sides

    @staticmethod
    def _written(buffer: Tensor | None, new_BGTK: Tensor, placement: Placement) -> Tensor:
        rows, groups, _, width = new_BGTK.shape
        if buffer is None or buffer.shape[2] < placement.end:
            capacity = max(64, placement.end, 0 if buffer is None else 2 * buffer.shape[2])
            # zeros, not garbage: a stale slot is masked, but 0 x NaN would still be NaN
            grown = new_BGTK.new_zeros(rows, groups, capacity, width)
            if buffer is not None:
                grown[:, :, : buffer.shape[2]] = buffer
            buffer = grown
        put(buffer, new_BGTK, placement.slot_BT, placement.valid_BT, placement.start)
        return buffer


class MemoryEntry(Entry):
    """Keys and values of the source in one layer's cross-attention: written once; taking back tokens leaves them."""

    def write(self, k_BGSK: Tensor, v_BGSL: Tensor) -> None:
        """Keep the source's keys and values."""
        self.k_BGSK, self.v_BGSL = k_BGSK.detach(), v_BGSL.detach()

    def read(self) -> tuple[Tensor, Tensor]:
        """What was written."""
        assert self.k_BGSK is not None, "nothing was written"
        assert self.v_BGSL is not None, "nothing was written"
        return self.k_BGSK, self.v_BGSL


def put(buffer: Tensor, new_BGTK: Tensor, slot_BT: Tensor, valid_BT: Tensor | None, start: int | None) -> None:
    """Write new keys or values into their slots: from `start` on in all rows, or where each valid one belongs."""
    if start is not None:
        buffer[:, :, start : start + new_BGTK.shape[2]] = new_BGTK
        return
    if valid_BT is None:
        valid_BT = torch.ones_like(slot_BT, dtype=torch.bool)
    row_N, token_N = valid_BT.nonzero(as_tuple=True)
    buffer[row_N, :, slot_BT[row_N, token_N]] = new_BGTK[row_N, :, token_N]


def stack_rows(first: Tensor | None, second: Tensor | None, rows: tuple[int, int]) -> Tensor | None:
    """The second's rows below the first's; `rows` counts both, also those that hold nothing."""
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
    """Entries for each depth (not module: layers may share weights), and the rows' lengths.

    Where there is a source, a second entry at each depth keeps what cross-attention reads of it.
    """

    def __init__(
        self,
        entries: Sequence[FullEntry | None],
        rows: int,
        memories: Sequence[MemoryEntry | None] = (),
        *,
        keeps_tokens: bool = False,
    ) -> None:
        self.entries = list(entries)
        self.memories = list(memories)
        self.lengths = [0] * rows
        self.tokens_BS = torch.zeros(rows, 0, dtype=torch.long) if keeps_tokens else None
        """The tokens themselves, for an embedding that looks back; -1 where vectors were given."""
        self.source_valid_BS: Tensor | None = None
        """Which of the source's tokens are no padding; None until a source was read."""

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    def place(self, shape: tuple[int, int], valid_BT: Tensor | None, device: torch.device) -> Placement:
        """Where the next B x T tokens go; counts them into the rows' lengths.

        Raises WeftError when the number of rows differs from the cache's.
        """
        rows, tokens = shape
        self.check_rows(rows)
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
        return Placement(slot_BT, valid_BT, start, tuple(self.lengths))

    def check_rows(self, rows: int) -> None:
        """Raises WeftError when the number of rows differs from the cache's."""
        if rows != self.rows:
            raise WeftError(f"the cache holds {self.rows} rows, the input has {rows}; select or join rows first")

    def keep_tokens(self, tokens_BT: Tensor | None, placement: Placement) -> None:
        """Keep the tokens that were placed, where an embedding wants them; None: vectors, whose tokens nobody knows."""
        if self.tokens_BS is None:
            return
        if tokens_BT is None:
            tokens_BT = torch.full_like(placement.slot_BT, -1).expand(self.rows, -1)
        held = self.tokens_BS.shape[1]
        if held < placement.end:
            grown = tokens_BT.new_full((self.rows, max(64, placement.end, 2 * held)), -1)
            grown[:, :held] = self.tokens_BS
            self.tokens_BS = grown
        put(self.tokens_BS[:, None], tokens_BT[:, None], placement.slot_BT, placement.valid_BT, placement.start)

    def last_tokens(self) -> Tensor | None:
        """The last token of each row; None where no row has one, -1 where one has none."""
        if self.tokens_BS is None or not self.tokens_BS.numel():
            return None
        lengths_B = torch.tensor(self.lengths, device=self.tokens_BS.device)
        last_B = self.tokens_BS.gather(1, (lengths_B - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(lengths_B > 0, last_B, -1)

    def valid(self, device: torch.device) -> Tensor | None:
        """Which kept slots hold a token of their row, B x S; None where all do."""
        if len(set(self.lengths)) == 1:
            return None
        lengths_B = torch.tensor(self.lengths, device=device)
        return torch.arange(max(self.lengths), device=device) < lengths_B[:, None]

    def select(self, rows: Sequence[int]) -> None:
        """Keep the named rows, in that order; a row may be named twice (a branch)."""
        chosen = list(rows)
        for entry in self._held():
            device = entry.k_BGSK.device if entry.k_BGSK is not None else None
            entry.select(torch.tensor(chosen, dtype=torch.long, device=device))
        if self.tokens_BS is not None:
            self.tokens_BS = self.tokens_BS[chosen]
        if self.source_valid_BS is not None:
            self.source_valid_BS = self.source_valid_BS[chosen]
        self.lengths = [self.lengths[row] for row in chosen]

    def join(self, other: Cache) -> None:
        """Add the other cache's rows below this one's.

        Raises WeftError when only one of them has read its source.
        """
        first, second = self.source_valid_BS, other.source_valid_BS
        if (first is None) != (second is None):
            raise WeftError("only one of the two caches has read its source; let both read theirs, then join")
        if first is not None and second is not None:
            longest = max(first.shape[1], second.shape[1])
            padded = [F.pad(valid_BS, (0, longest - valid_BS.shape[1])) for valid_BS in (first, second)]
            self.source_valid_BS = torch.cat(padded)
        if self.tokens_BS is not None and other.tokens_BS is not None:
            tokens = self.tokens_BS, other.tokens_BS
            slots = max(x.shape[1] for x in tokens)
            self.tokens_BS = torch.cat([F.pad(x, (0, slots - x.shape[1]), value=-1) for x in tokens])
        for mine, theirs in zip(self._held(), other._held(), strict=True):
            mine.join(theirs, (self.rows, other.rows))
        self.lengths += other.lengths

    def rewind(self, tokens: int | Sequence[int]) -> None:
        """Take back each row's last `tokens` tokens (one number for all rows, or one a row).

        Raises WeftError when a row has fewer, or a window's cache has lost what the row would need again.
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

    def _held(self) -> list[Entry]:
        return [entry for entry in (*self.entries, *self.memories) if entry is not None]

    @property
    def bytes(self) -> int:
        """Memory held by keys and values, in bytes."""
        return sum(entry.bytes for entry in self._held())


def index_of(valid_BT: Tensor) -> Tensor:
    """Each token's place among its row's valid ones; padding takes its left neighbour's (or 0)."""
    return (valid_BT.long().cumsum(1) - 1).clamp(min=0)
