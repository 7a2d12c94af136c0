"""The whole model: embedding, an encoder, a decoder or both, heads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.errors import WeftError
from weft.models.config import StackConfig, TransformerConfig
from weft.nn.attention import DotProductAttention
from weft.nn.block import Block
from weft.nn.cache import SLACK, Cache, MemoryEntry, index_of
from weft.nn.context import Across, Context, Inputs, Memory
from weft.nn.embeddings import TokenEmbedding
from weft.nn.masks import Everything, Mask, SameDocument, Valid
from weft.nn.module import Dims, Module, Terms, add_terms
from weft.nn.positions import PositionScheme
from weft.nn.sides import Sides


@dataclass
class Output:
    """What a forward gives: the last vectors, and the terms that parts emitted. Logits are computed when asked for."""

    x_BTD: Tensor
    terms: Terms
    heads: nn.ModuleDict = field(repr=False)
    valid_BT: Tensor | None = None

    @cached_property
    def logits_BTV(self) -> Tensor:
        """The language model head's scores."""
        logits_BTV: Tensor = self.heads["lm"](self.x_BTD)
        return logits_BTV


class Stack(Module):
    """Blocks over one another; what they share (positions, norms at both ends, weights) belongs to the stack."""

    def __init__(self, config: StackConfig, dims: Dims, embedding: TokenEmbedding) -> None:
        super().__init__()
        layers = config.layers()
        self.dropout = embedding.dropout
        blocks = [
            layer.build(replace(dims, depth=depth), config.positions, config.norm)
            for depth, layer in enumerate(layers, start=1)
        ]
        for block, first in zip(blocks, config.sharing(), strict=True):
            block.share(blocks[first])
        attentions = [block.attention for block in blocks]
        heads = frozenset(item.n_heads for item in attentions if item is not None and item.scheme is None)
        entering = replace(dims, d_model=embedding.width, heads=heads)
        self.positions = config.positions.build(entering)
        self.embedding_norm = config.embedding_norm.build(entering)
        self.from_embedding = embedding.from_width()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if layers[-1].ends_normed else config.norm.build(dims)

    def forward(
        self, x_BTE: Tensor, inputs: Inputs, memory: Memory | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Terms]:
        """x_BTD after all blocks, from the embedding's vectors; and the sum of what the blocks emitted."""
        context, positions_BT = self._context(inputs, memory, cache)
        x_BTE = self.embedding_norm(self.positions.embed(x_BTE, positions_BT))
        x_BTD = self.from_embedding(F.dropout(x_BTE, self.dropout, self.training))
        terms: Terms = {}
        for depth, block in enumerate(self.blocks):
            x_BTD, emitted = block(x_BTD, context.at(depth))
            add_terms(terms, emitted)
        return self.norm(x_BTD), terms

    def new_cache(self, rows: int, *, slack: int = SLACK, keeps_tokens: bool = False) -> Cache:
        """An empty cache for `rows` sequences; windows keep as much as lets one take back `slack` tokens."""
        entries = [None if attention is None else attention.cache_entry(slack) for attention in self._attentions()]
        memories = [None if block.cross_attention is None else MemoryEntry() for block in self._blocks()]
        return Cache(entries, rows, memories, keeps_tokens=keeps_tokens)

    def limit(self) -> int | None:
        """The longest sequence that the positions can number, or None."""
        ends = [scheme.limit for scheme in self._schemes() if scheme.limit is not None]
        return min(ends) if ends else None

    def cached_limit(self) -> int | None:
        """The longest text that may be computed in pieces, through a cache; None: any that can be numbered."""
        ends = [scheme.cached_limit for scheme in self._schemes() if scheme.cached_limit is not None]
        return min(ends) if ends else None

    def check_cached(self, length: int) -> None:
        """Raises WeftError when a text of so many tokens cannot be computed in pieces, through a cache."""
        limit = self.cached_limit()
        if limit is not None and length > limit:
            raise WeftError(
                f"{length} tokens through a cache: with these positions (as scaling: dynamic) each token beyond"
                f" {limit} changes the keys of all before it, which a cache has already; compute without one"
                " (use_cache=False), or choose positions that do not"
            )

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _attentions(self) -> list[DotProductAttention | None]:
        return [block.attention for block in self._blocks()]

    def _schemes(self) -> list[PositionScheme]:
        own = [item.scheme for item in self._attentions() if item is not None and item.scheme is not None]
        return [self.positions, *own]

    def _context(self, inputs: Inputs, memory: Memory | None, cache: Cache | None) -> tuple[Context, Tensor]:
        """Masks, positions and places of this batch, for all blocks."""
        apart: Mask = Everything()
        valid_BT, documents_BT, device = inputs.valid_BT, inputs.documents_BT, inputs.device
        tokens = inputs.shape[1]
        placement = None
        if cache is not None:
            if documents_BT is not None:
                raise WeftError("documents packed into a row cannot be continued from a cache; give each its own row")
            self._check_length(max(cache.lengths) + tokens)
            self.check_cached(max(cache.lengths) + tokens)
            _check_prefix(inputs, cache)
            placement = cache.place(inputs.shape, valid_BT, device)
            cache.keep_tokens(inputs.tokens_BT, placement)
            index_BT, k_valid = placement.slot_BT, cache.valid(device)
            keys_BS = torch.arange(placement.end, device=device)[None]
            # the first tokens of rows of one length are alone in the cache, as if there were none
            prefixes = inputs.prefix_BT, None if inputs.prefix_BT is None else placement.by_slot(inputs.prefix_BT)
            sides = Sides(index_BT, keys_BS, k_valid, None, None, placement.start == 0, *prefixes)
        else:
            aligned = valid_BT is None
            index_BT = torch.arange(tokens, device=device)[None] if valid_BT is None else index_of(valid_BT)
            both = documents_BT, documents_BT, aligned, inputs.prefix_BT, inputs.prefix_BT
            sides = Sides(index_BT, index_BT, valid_BT, *both)
        if documents_BT is not None:
            apart = apart & SameDocument()
        if sides.k_valid_BS is not None:
            apart = apart & Valid()
        positions_BT = index_BT if inputs.positions_BT is None else inputs.positions_BT
        if inputs.positions_BT is None and cache is None:
            self._check_length(tokens)
        prepared = {}
        for attention in self._attentions():
            if attention is not None and attention.prepared_key not in prepared:
                scheme = attention.scheme or self.positions
                prepared[attention.prepared_key] = scheme.prepare(positions_BT, attention.width, documents_BT)
        across = _across(inputs, memory, cache)
        context = Context(apart, sides, self.positions, prepared, across, memory, cache, placement)
        return context, positions_BT

    def _check_length(self, length: int) -> None:
        limit = self.limit()
        if limit is not None and length > limit:
            raise WeftError(
                f"{length} tokens are more than these positions can number: they end at {limit} (max_length)"
            )


def _check_prefix(inputs: Inputs, cache: Cache) -> None:
    """Refuse a prefix that goes on: what its first tokens made of it is kept already."""
    if inputs.prefix_BT is not None:
        begun_B = torch.tensor(cache.lengths, device=inputs.device) > 0
        if bool((inputs.prefix_BT & begun_B[:, None]).any()):
            raise WeftError("a prefix is read at once, with a text's first tokens; the cache holds some of this text")


def _across(inputs: Inputs, memory: Memory | None, cache: Cache | None) -> Across | None:
    """Which tokens of the source the inputs may see; of a source that is new, the cache is told."""
    if memory is not None:
        length, valid_BS, documents_BS = memory.x_BSD.shape[1], memory.valid_BS, memory.documents_BS
        if cache is not None:
            everything = memory.x_BSD.new_ones(memory.x_BSD.shape[:2], dtype=torch.bool)
            cache.source_valid_BS = everything if valid_BS is None else valid_BS
    elif cache is not None and cache.source_valid_BS is not None:
        length, valid_BS, documents_BS = cache.source_valid_BS.shape[1], cache.source_valid_BS, None
    else:
        return None
    mask: Mask = Everything() if valid_BS is None else Valid()
    if documents_BS is not None:
        mask = mask & SameDocument()
    queries, keys = (torch.arange(size, device=inputs.device)[None] for size in (inputs.shape[1], length))
    return Across(mask, Sides(queries, keys, valid_BS, inputs.documents_BT, documents_BS))


class Transformer(Module):
    """Tokens in, vectors out, through an encoder, a decoder, or both; heads turn those into logits or losses.

    An encoder-decoder embeds source and target with one table (Vaswani et al. 2017, section 3.4).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dims = config.dims()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        """What activations are computed in; the parameters' own dtype unless set (`device.py` decides)."""
        self.embedding = config.embedding.build(dims)
        self.encoder = None if config.encoder is None else Stack(config.encoder, config.dims("encoder"), self.embedding)
        self.decoder = None if config.decoder is None else Stack(config.decoder, config.dims("decoder"), self.embedding)
        self.heads = nn.ModuleDict({name: head.build(dims, self.embedding) for name, head in config.heads.items()})

    def forward(
        self,
        inputs: Tensor | Inputs,
        *,
        source: Tensor | Inputs | Memory | None = None,
        cache: Cache | None = None,
    ) -> Output:
        """Tokens B x T (or Inputs) to an Output; an encoder-decoder writes them after reading the source.

        With a cache the source is given to the first forward only. Raises WeftError for a source that nothing reads or
        that is missing, a cache where there is no decoder, or more tokens than the positions can number.
        """
        inputs = _as_inputs(inputs)
        memory = self._memory(inputs, source, cache)
        if self.decoder is None:
            memory = self.encode(inputs)
            return Output(memory.x_BSD, memory.terms, self.heads, memory.valid_BS)
        x_BTD, terms = self.decoder(self._embed(inputs, cache), inputs, memory, cache)
        if memory is not None:
            add_terms(terms, memory.terms)
        return Output(x_BTD, terms, self.heads, inputs.valid_BT)

    def encode(self, source: Tensor | Inputs) -> Memory:
        """What the encoder makes of tokens B x S (or Inputs).

        Raises WeftError when the model has no encoder, or the source more tokens than its positions can number.
        """
        if self.encoder is None:
            raise WeftError("this model has no encoder to read a source with")
        source = _as_inputs(source)
        x_BSD, terms = self.encoder(self._embed(source), source)
        return Memory(x_BSD, source.valid_BT, source.documents_BT, terms)

    def _embed(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        x_BTE: Tensor = inputs.x_BTD if inputs.x_BTD is not None else self.embedding(inputs, cache)
        return x_BTE if self.compute_dtype is None else x_BTE.to(self.compute_dtype)

    def _memory(self, inputs: Inputs, source: Tensor | Inputs | Memory | None, cache: Cache | None) -> Memory | None:
        """What cross-attention reads, unless the cache has it; what is missing or too much is refused."""
        known = cache is not None and cache.source_valid_BS is not None
        if self.decoder is None and cache is not None:
            raise WeftError("an encoder reads its text at once, without a cache")
        if self.decoder is None or self.encoder is None:
            if source is not None:
                missing = "encoder" if self.encoder is None else "decoder"
                raise WeftError(f"this model has no {missing}, so that nothing reads a source; leave source out")
            return None
        if source is None:
            if not known:
                raise WeftError("this model writes after reading: give it a source")
            return None
        if known:
            raise WeftError("the cache holds a source already; go on without one, or begin a new cache")
        memory = source if isinstance(source, Memory) else self.encode(source)
        if len(memory.x_BSD) != inputs.shape[0]:
            raise WeftError(f"the source has {len(memory.x_BSD)} rows, the input {inputs.shape[0]}")
        if (memory.documents_BS is None) != (inputs.documents_BT is None):
            raise WeftError("documents are packed in the source or in the input only; pack both, or neither")
        return memory

    def new_cache(self, rows: int, *, slack: int = SLACK) -> Cache:
        """An empty cache for `rows` sequences; windows keep as much as lets one take back `slack` tokens.

        Raises WeftError when there is no decoder.
        """
        if self.decoder is None:
            raise WeftError("an encoder reads its text at once, without a cache")
        return self.decoder.new_cache(rows, slack=slack, keeps_tokens=self.embedding.looks_back)

    def limit(self) -> int | None:
        """The longest sequence that the positions can number, or None; an encoder-decoder's: of what it writes."""
        stack = self.decoder or self.encoder
        assert stack is not None, "a model has a stack"
        return stack.limit()

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


def _as_inputs(given: Tensor | Inputs) -> Inputs:
    return Inputs(tokens_BT=given) if isinstance(given, Tensor) else given
