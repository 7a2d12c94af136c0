"""What a window needs of the past: a ring of the last keys and values, whose memory does not grow with the text.

A row's token with index i lies in slot i mod C. C is the window's size and some slack: so many tokens can be taken back
without missing what they had pushed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weft.errors import WeftError
from weft.nn.cache import Entry, FullEntry, Placement, put, stack_rows
from weft.nn.sides import Sides


class RingEntry(FullEntry):
    """The last `size` keys and values of one layer, and `slack` more; as long as all fit, the same as a full entry."""

    def __init__(self, size: int, slack: int) -> None:
        super().__init__()
        self.size = size
        self.slack = slack
        self.ends: list[int] = []
        """The most tokens that each row ever had: what lies `slots` or more before that is lost."""

    @property
    def slots(self) -> int:
        """C, the most tokens of a row that are kept."""
        return self.size + self.slack

    def append(
        self, k_BGTK: Tensor, v_BGTL: Tensor, placement: Placement, sides: Sides
    ) -> tuple[Tensor, Tensor, Sides]:
        tokens, held = k_BGTK.shape[2], 0 if self.k_BGSK is None else self.k_BGSK.shape[2]
        # many tokens at once would push out what the first of them still sees: the ring is wider for them
        widest = self.slots if tokens <= self.slack + 1 else self.size + tokens
        slots = max(held, min(widest, max(64, placement.end, 2 * held))) if placement.end > held else held
        with torch.no_grad():
            k_BGSK = _written(self._laid(self.k_BGSK, slots), k_BGTK, placement, slots)
            v_BGSL = _written(self._laid(self.v_BGSL, slots), v_BGTL, placement, slots)
            self.ends = [max(pair) for pair in zip(self.ends or placement.ends, placement.ends, strict=True)]
            kept = min(slots, self.slots)
            self.k_BGSK, self.v_BGSL = self._laid(k_BGSK, kept), self._laid(v_BGSL, kept)
        if placement.end <= slots:
            return k_BGSK[:, :, : placement.end], v_BGSL[:, :, : placement.end], sides
        if slots not in placement.rings:
            placement.rings[slots] = _ring_sides(sides, placement.ends, slots)
        return k_BGSK, v_BGSL, placement.rings[slots]

    def _laid(self, buffer: Tensor | None, slots: int) -> Tensor | None:
        """The same tokens in a ring of so many slots; the last ones, where not all fit."""
        if buffer is None or buffer.shape[2] == slots:
            return buffer
        _, groups, held, width = buffer.shape
        index_BS = _ring_index(torch.tensor(self.ends, device=buffer.device), slots).clamp(min=0) % held
        return buffer.gather(2, index_BS[:, None, :, None].expand(-1, groups, -1, width))

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.ends = [self.ends[row] for row in rows.tolist()] if self.ends else []

    def join(self, other: Entry, rows: tuple[int, int]) -> None:
        if not isinstance(other, RingEntry) or (other.size, other.slack) != (self.size, self.slack):
            raise WeftError("only caches of the same windows and slack can be joined")
        slots = max(0 if x is None else x.shape[2] for x in (self.k_BGSK, other.k_BGSK))
        self.k_BGSK = stack_rows(self._laid(self.k_BGSK, slots), other._laid(other.k_BGSK, slots), rows)
        self.v_BGSL = stack_rows(self._laid(self.v_BGSL, slots), other._laid(other.v_BGSL, slots), rows)
        self.ends = [*(self.ends or [0] * rows[0]), *(other.ends or [0] * rows[1])]

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of each row.

        Raises WeftError where that needs what the row's later tokens have pushed out.
        """
        for length, end in zip(lengths, self.ends or lengths, strict=True):
            if end > self.slots and length < end - self.slack:
                raise WeftError(
                    f"cannot go back to {length} tokens: the row had {end}, and its window's cache has a slack of"
                    f" {self.slack}; ask new_cache for more slack, or give the attention cache: full"
                )


def _written(buffer: Tensor | None, new_BGTK: Tensor, placement: Placement, slots: int) -> Tensor:
    """The ring (a new one, where there is none) with the new keys or values in it."""
    if buffer is None:
        rows, groups, _, width = new_BGTK.shape
        buffer = new_BGTK.new_zeros(rows, groups, slots, width)
    start = None if placement.start is None else placement.start % slots
    if start is not None and start + new_BGTK.shape[2] > slots:  # goes on at the ring's beginning
        start = None
    put(buffer, new_BGTK, placement.slot_BT % slots, placement.valid_BT, start)
    return buffer


def _ring_sides(sides: Sides, ends: Sequence[int], slots: int) -> Sides:
    """The same queries before the keys of a ring, which do not stand in order."""
    # where sides know no validity all rows have as many tokens, and here more than slots
    ends_B = torch.tensor(ends if sides.k_valid_BS is not None else ends[:1], device=sides.k_index_BS.device)
    index_BS = _ring_index(ends_B, slots)
    valid_BS = None if sides.k_valid_BS is None else index_BS >= 0
    flags_BS = sides.k_prefix_BS
    prefix_BS = None if flags_BS is None else flags_BS.gather(1, index_BS.clamp(min=0).expand(len(flags_BS), -1))
    return replace(sides, k_index_BS=index_BS, k_valid_BS=valid_BS, k_prefix_BS=prefix_BS, aligned=False, _dense={})


def _ring_index(ends_B: Tensor, slots: int) -> Tensor:
    """Index of the last token in each slot of rows with `ends` tokens, B x slots; negative where there is none."""
    return ends_B[:, None] - 1 - (ends_B[:, None] - 1 - torch.arange(slots, device=ends_B.device)) % slots
