"""The whole model: embedding, a stack of blocks, heads."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.errors import WeftError
from weft.models.config import StackConfig, TransformerConfig
from weft.nn.attention import DotProductAttention
from weft.nn.block import Block
from weft.nn.cache import Cache, index_of
from weft.nn.context import Context, Inputs, Memory
from weft.nn.masks import Causal, Everything, Mask, SameDocument, Sides, Valid
from weft.nn.module import Dims, Module, Terms, add_terms
from weft.nn.positions import PositionScheme


@dataclass
class Output:
    """What a forward gives: the last vectors, and the terms that parts emitted. Logits are computed when asked for."""

    x_BTD: Tensor
    terms: Terms
    heads: nn.ModuleDict = field(repr=False)

    @cached_property
    def logits_BTV(self) -> Tensor:
        """The language model head's scores."""
        logits_BTV: Tensor = self.heads["lm"](self.x_BTD)
        return logits_BTV


class Stack(Module):
    """Blocks over one another; what they share (positions, the last norm) belongs to the stack."""

    def __init__(self, config: StackConfig, dims: Dims, *, causal: bool) -> None:
        super().__init__()
        layers = config.layers()
        self.causal = causal
        self.dropout = dims.dropout
        self.positions = config.positions.build(dims)
        self.blocks = nn.ModuleList(layer.build(dims, config.positions, config.norm) for layer in layers)
        self.norm = nn.Identity() if layers[-1].ends_normed else config.norm.build(dims)

    def forward(
        self, x_BTD: Tensor, inputs: Inputs, memory: Memory | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Terms]:
        """x_BTD after all blocks, and the sum of what they emitted."""
        context, positions_BT = self._context(inputs, memory, cache)
        x_BTD = self.positions.embed(x_BTD, positions_BT)
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        terms: Terms = {}
        for depth, block in enumerate(self.blocks):
            x_BTD, emitted = block(x_BTD, context.at(depth))
            add_terms(terms, emitted)
        return self.norm(x_BTD), terms

    def new_cache(self, rows: int) -> Cache:
        """An empty cache for `rows` sequences."""
        return Cache([None if entry is None else entry.cache_entry() for entry in self._attentions()], rows)

    def limit(self) -> int | None:
        """The longest sequence that the positions can number, or None."""
        limits = [scheme.limit for scheme in [self.positions, *self._own_schemes()] if scheme.limit is not None]
        return min(limits, default=None)

    def _attentions(self) -> list[DotProductAttention | None]:
        return [block.attention for block in self.blocks if isinstance(block, Block)]

    def _own_schemes(self) -> list[PositionScheme]:
        return [item.scheme for item in self._attentions() if item is not None and item.scheme is not None]

    def _context(self, inputs: Inputs, memory: Memory | None, cache: Cache | None) -> tuple[Context, Tensor]:
        """Masks, positions and places of this batch, for all blocks."""
        mask: Mask = Causal() if self.causal else Everything()
        valid_BT, documents_BT, device = inputs.valid_BT, inputs.documents_BT, inputs.device
        tokens = inputs.shape[1]
        placement = None
        if cache is not None:
            if documents_BT is not None:
                raise WeftError("documents packed into a row cannot be continued from a cache; give each its own row")
            self._check_length(max(cache.lengths) + tokens)
            placement = cache.place(inputs.shape, valid_BT, device)
            index_BT, k_valid = placement.slot_BT, cache.valid(device)
            keys_BS = torch.arange(placement.end, device=device)[None]
            # the first tokens of rows of one length are alone in the cache, as if there were none
            sides = Sides(index_BT, keys_BS, k_valid, aligned=placement.start == 0)
        else:
            aligned = valid_BT is None
            index_BT = torch.arange(tokens, device=device)[None] if valid_BT is None else index_of(valid_BT)
            sides = Sides(index_BT, index_BT, valid_BT, documents_BT, documents_BT, aligned)
        if documents_BT is not None:
            mask = mask & SameDocument()
        if sides.k_valid_BS is not None:
            mask = mask & Valid()
        positions_BT = index_BT if inputs.positions_BT is None else inputs.positions_BT
        if inputs.positions_BT is None and cache is None:
            self._check_length(tokens)
        prepared = {}
        for attention in self._attentions():
            if attention is not None and attention.prepared_key not in prepared:
                scheme = attention.scheme or self.positions
                prepared[attention.prepared_key] = scheme, scheme.prepare(positions_BT, attention.width)
        return Context(mask, sides, prepared, memory, cache, placement), positions_BT

    def _check_length(self, length: int) -> None:
        limit = self.limit()
        if limit is not None and length > limit:
            raise WeftError(
                f"{length} tokens are more than these positions can number: they end at {limit} (max_length)"
            )


class Transformer(Module):
    """A decoder: tokens in, vectors out; heads turn those into logits or losses."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dims = config.dims()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        """What activations are computed in; the parameters' own dtype unless set (`device.py` decides)."""
        self.embedding = config.embedding.build(dims)
        self.decoder = Stack(config.decoder, dims, causal=True)
        self.heads = nn.ModuleDict({name: head.build(dims, self.embedding) for name, head in config.heads.items()})

    def forward(
        self, inputs: Tensor | Inputs, *, source: Inputs | Memory | None = None, cache: Cache | None = None
    ) -> Output:
        """Tokens B x T (or Inputs) to an Output.

        Raises WeftError for a source without an encoder, or more tokens than the positions can number.
        """
        if source is not None:
            raise WeftError("this model has no cross-attention to read a source with")
        if isinstance(inputs, Tensor):
            inputs = Inputs(tokens_BT=inputs)
        x_BTD = inputs.x_BTD if inputs.x_BTD is not None else self.embedding(inputs.tokens_BT)
        x_BTD = x_BTD if self.compute_dtype is None else x_BTD.to(self.compute_dtype)
        x_BTD, terms = self.decoder(x_BTD, inputs, cache=cache)
        return Output(x_BTD, terms, self.heads)

    def new_cache(self, rows: int) -> Cache:
        """An empty cache for `rows` sequences."""
        return self.decoder.new_cache(rows)

    def limit(self) -> int | None:
        """The longest sequence that the positions can number, or None."""
        return self.decoder.limit()

    def head(self, name: str) -> Any:
        """The head of that name.

        Raises WeftError when the model has none.
        """
        if name not in self.heads:
            raise WeftError(f"the model has no head {name!r} (it has: {', '.join(self.heads)})")
        return self.heads[name]

    def tie(self) -> None:
        """Make shared parameters one again, after `materialize` gave each place its own memory."""
        for head in self.heads.values():
            tie = getattr(head, "tie", None)
            if tie is not None:
                tie(self.embedding)
