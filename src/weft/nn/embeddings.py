"""Where a sequence enters the model: from tokens (or vectors that are there already) to x_BTD."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from weft.config import Part
from weft.nn.cache import Cache
from weft.nn.context import Inputs
from weft.nn.initialization import Constant, Normal
from weft.nn.linear import Embedding
from weft.nn.module import Dims, Module


class Embeddings(Part, slot="embedding", default="tokens"):
    """How a sequence becomes vectors."""

    def build(self, dims: Dims) -> SequenceEmbedding:
        """The embedding into vectors of width d_model."""
        raise NotImplementedError


class SequenceEmbedding(Module):
    """From a sequence to vectors, without the order that positions tell."""

    looks_back = False
    """Whether a token's vector depends on the token before it, so that a cache must keep that."""

    def forward(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        """The vectors of the inputs' tokens, B x T x D; `cache` holds what came before them."""
        raise NotImplementedError


class Tokens(Embeddings, kind="tokens"):
    """One learned vector a token."""

    tied: bool = True
    """the language model head uses the same table (Press and Wolf 2017)"""
    scaled: bool = False
    """multiply the vectors by the root of d_model (Vaswani et al. 2017, section 3.4)"""

    def build(self, dims: Dims) -> TokenEmbedding:
        return TokenEmbedding(self, dims)


class Bigrams(Tokens, kind="bigrams"):
    """One learned vector a token, and one for the pair of it and the token before it.

    All pairs share a table of `rows` vectors, found by a hash: n-grams of bytes in Pagnoni et al. 2024 (arXiv
    2412.09871, section 3.2.1), pairs of tokens in the open records of training a small GPT (modded-nanogpt, 2025). It
    costs parameters and next to no time; pairs that meet in one row share what is learned there.
    """

    rows: PositiveInt = 16_384
    """vectors for pairs; where all pairs fit each has its own"""

    def build(self, dims: Dims) -> BigramEmbedding:
        return BigramEmbedding(self, dims)


class TokenEmbedding(SequenceEmbedding):
    """x_BTD = scale tokens.weight[tokens_BT]."""

    taps = ("x",)

    def __init__(self, options: Tokens, dims: Dims) -> None:
        super().__init__()
        self.tied = options.tied
        self.scale = math.sqrt(dims.d_model) if options.scaled else 1.0
        self.tokens = Embedding(dims.vocab_size, dims.d_model, Normal(dims.init_std))

    def forward(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        x_BTD = self.embed(inputs, cache)
        return self.tap("x", x_BTD if self.scale == 1.0 else x_BTD * self.scale)

    def embed(self, inputs: Inputs, cache: Cache | None) -> Tensor:
        """The same, not yet scaled."""
        x_BTD: Tensor = self.tokens(inputs.tokens_BT)
        return x_BTD


class BigramEmbedding(TokenEmbedding):
    """x_BTD = scale (tokens.weight[tokens_BT] + pairs.weight[hash(token before, token)])."""

    looks_back = True

    def __init__(self, options: Bigrams, dims: Dims) -> None:
        super().__init__(options, dims)
        self.rows, self.vocab_size = options.rows, dims.vocab_size
        self.pairs = Embedding(options.rows, dims.d_model, Constant(0.0))  # begins as `tokens`

    def embed(self, inputs: Inputs, cache: Cache | None) -> Tensor:
        assert inputs.tokens_BT is not None, "an embedding needs tokens"
        if cache is not None:
            cache.check_rows(len(inputs.tokens_BT))
        before_BT = tokens_before(inputs, None if cache is None else cache.last_tokens())
        x_BTD: Tensor = super().embed(inputs, cache) + self.pairs(self.row_of(before_BT, inputs.tokens_BT))
        return x_BTD

    def row_of(self, before_BT: Tensor, tokens_BT: Tensor) -> Tensor:
        """The row of each pair; before_BT is -1 where a text begins."""
        pair_BT = (before_BT + 1) * self.vocab_size + tokens_BT
        if (self.vocab_size + 1) * self.vocab_size <= self.rows:
            return pair_BT
        # Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4): 2^32 over the golden ratio
        return ((pair_BT * 2_654_435_769 & 0xFFFF_FFFF) * self.rows) >> 32


def tokens_before(inputs: Inputs, last_B: Tensor | None = None) -> Tensor:
    """The token before each in its own text, B x T: padding does not count; -1 where a text begins.

    last_B is what stood before the rows' first tokens, -1 where nothing did.
    """
    tokens_BT = inputs.tokens_BT
    assert tokens_BT is not None, "vectors that are there already have no tokens"
    rows, length = tokens_BT.shape
    last_B = tokens_BT.new_full((rows,), -1) if last_B is None else last_B
    known_BS = torch.cat([last_B[:, None], tokens_BT], dim=1)
    place_BT = torch.arange(length, device=tokens_BT.device).expand(rows, -1)  # of the token before, in known_BS
    if inputs.valid_BT is not None:
        counted_BT = torch.where(inputs.valid_BT, place_BT + 1, 0).cummax(1).values
        place_BT = torch.cat([counted_BT.new_zeros(rows, 1), counted_BT[:, :-1]], dim=1)
    before_BT = known_BS.gather(1, place_BT)
    if inputs.documents_BT is not None:
        documents_BS = torch.cat([inputs.documents_BT[:, :1], inputs.documents_BT], dim=1)
        before_BT = torch.where(documents_BS.gather(1, place_BT) == inputs.documents_BT, before_BT, -1)
    return before_BT
