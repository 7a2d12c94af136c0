"""What travels beside x through a forward: made once, read-only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from weft.nn.cache import Cache, Placement
from weft.nn.masks import Mask
from weft.nn.module import Terms
from weft.nn.positions import PositionScheme
from weft.nn.sides import Sides


@dataclass(frozen=True)
class Inputs:
    """One batch of sequences: tokens, or vectors that are embedded already; and what is known of each token."""

    tokens_BT: Tensor | None = None
    x_BTD: Tensor | None = None
    """As wide as the embedding's table."""
    positions_BT: Tensor | None = None
    """Place of each token for the position scheme; counted from the left, without padding, unless given."""
    documents_BT: Tensor | None = None
    """Number of the document that each token belongs to, where several are packed into a row."""
    valid_BT: Tensor | None = None
    """False where there is only padding."""
    segments_BT: Tensor | None = None
    """Number of the segment that each token belongs to (a first text, a second one); 0 unless given."""
    prefix_BT: Tensor | None = None
    """True for the tokens that, under a `prefix` mask, see each other before and after: each document's first ones."""

    @property
    def shape(self) -> tuple[int, int]:
        """B, T."""
        held = self.tokens_BT if self.tokens_BT is not None else self.x_BTD
        assert held is not None, "inputs need tokens or vectors"
        return held.shape[0], held.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        held = self.tokens_BT if self.tokens_BT is not None else self.x_BTD
        assert held is not None, "inputs need tokens or vectors"
        return held.device


@dataclass(frozen=True)
class Memory:
    """What an encoder made of its input, for cross-attention to read; and what its parts emitted."""

    x_BSD: Tensor
    valid_BS: Tensor | None = None
    documents_BS: Tensor | None = None
    terms: Terms = field(default_factory=dict)


@dataclass(frozen=True)
class Across:
    """Which tokens of the source each query may see: all that are valid, of its own document."""

    mask: Mask
    sides: Sides


@dataclass(frozen=True)
class Context:
    """Masks, prepared positions, memory and cache of one forward through a stack."""

    mask: Mask
    """What keeps documents and padding apart; the order in which a stack is read is in each attention's own mask."""
    sides: Sides
    positions: PositionScheme
    """The stack's; a layer with positions of its own has them itself."""
    prepared: Mapping[Hashable, Any]
    """What position schemes prepared, by (declaration, head width)."""
    across: Across | None = None
    memory: Memory | None = None
    """The source, unless the cache has read it before."""
    cache: Cache | None = None
    placement: Placement | None = None
    depth: int = 0

    def at(self, depth: int) -> Context:
        """The same, for the block at `depth`."""
        return replace(self, depth=depth)
