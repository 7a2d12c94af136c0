"""Where a sequence enters the model: from tokens (or vectors that are there already) to x_BTD.

The embedding's vectors are E wide, and so are the positions that a stack adds to them and its `embedding_norm`; what
the first block gets is D wide. E is D, unless the table is factorised.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from weft.errors import WeftError
from weft.nn.cache import Cache
from weft.nn.context import Inputs
from weft.nn.initialization import Constant, Normal
from weft.nn.linear import Embedding, Linear, Transposed
from weft.nn.module import Dims, Module
from weft.nn.part import Equations, ModelPart, size, tex


class Embeddings(ModelPart, slot="embedding", default="tokens"):
    """How a sequence becomes vectors."""

    def entering(self, x: str) -> str:
        """What the first block gets, in LaTeX, of x with its positions."""
        return x

    def leaving(self, x: str) -> str:
        """What a tied head multiplies with the table, in LaTeX."""
        return x

    def build(self, dims: Dims) -> TokenEmbedding:
        """The embedding into vectors of width d_model."""
        raise NotImplementedError


class Tokens(Embeddings, kind="tokens"):
    """One learned vector a token (Bengio et al. 2003, section 2), and one a segment where there are segments."""

    tied: bool = True
    """the language model head uses the same table (Press and Wolf 2017)"""
    scaled: bool = False
    """multiply the tokens' vectors by the root of their width (Vaswani et al. 2017, section 3.4)"""
    n_segments: NonNegativeInt = 0
    """kinds of segments, such as a first and a second text, a learned vector each (Devlin et al. 2019, section 3.2)"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of what enters that is dropped in training, positions added; the model's dropout unless given"""

    def table(self, dims: Dims) -> int:
        """Width of the table."""
        return dims.d_model

    def vector(self) -> str:
        """A token's vector, in LaTeX."""
        return "E_{t_i}"

    def equations(self, dims: Dims) -> Equations:
        width = self.table(dims)
        scaled = rf"\sqrt{{{width}}} \, {self.vector()}" if self.scaled else self.vector()
        segments = (" + S_{s_i}", rf", \quad S \in {size(self.n_segments, width)}") if self.n_segments else ("", "")
        return (rf"x_i &= {scaled}{segments[0]}, \quad E \in {size(dims.vocab_size, width)}{segments[1]}",)

    def words(self, dims: Dims) -> str:
        more = f", {self.n_segments} segments" if self.n_segments else ""
        return f"{dims.vocab_size:,} x {self.table(dims):,}{more}"

    def build(self, dims: Dims) -> TokenEmbedding:
        return TokenEmbedding(self, dims, dims.d_model)


class Factorized(Tokens, kind="factorized"):
    """A narrow table, V x E, then a matrix E x D: fewer parameters (Lan et al. 2020, ALBERT, section 3.1).

    Positions, segments and the stack's `embedding_norm` are E wide. All stacks have one such matrix, and a tied head
    goes back through it.
    """

    trials = {"width": (12,)}  # of few channels a norm leaves the signs

    width: PositiveInt = 128
    """width E of the table"""

    def table(self, dims: Dims) -> int:
        return self.width

    def equations(self, dims: Dims) -> Equations:
        matrix = size(self.width, dims.d_model)
        return (*super().equations(dims), rf"W_E &\in {matrix}")

    def entering(self, x: str) -> str:
        return f"{x} W_E + b_E"

    def leaving(self, x: str) -> str:
        return rf"{x} W_E^\top"

    def build(self, dims: Dims) -> FactorizedEmbedding:
        return FactorizedEmbedding(self, dims)


class Bigrams(Tokens, kind="bigrams"):
    """One learned vector a token, and one for the pair of it and the token before it.

    All pairs share a table of `rows` vectors, found by a hash: n-grams of bytes in Pagnoni et al. 2024 (arXiv
    2412.09871, section 3.2.1), pairs of tokens in the open records of training a small GPT (modded-nanogpt, 2025). It
    costs parameters and next to no time; pairs that meet in one row share what is learned there.
    """

    rows: PositiveInt = 16_384
    """vectors for pairs; where all pairs fit each has its own"""

    def vector(self) -> str:
        return r"\left(E_{t_i} + B_{\eta(t_{i-1}, t_i)}\right)"

    def equations(self, dims: Dims) -> Equations:
        pair = rf"p = {tex(dims.vocab_size)} (u + 1) + t"
        mixed = rf"\left({tex(2_654_435_769)} \, p \bmod 2^{{32}}\right)"
        row = rf"\left\lfloor \frac{{{tex(self.rows)}}}{{2^{{32}}}} {mixed} \right\rfloor"
        if (dims.vocab_size + 1) * dims.vocab_size <= self.rows:
            row = "p"
        before = r"t_{-1} = -1"
        return (
            *super().equations(dims),
            rf"\eta(u, t) &= {row}, \quad {pair}, \quad {before}, \quad B \in {size(self.rows, dims.d_model)}",
        )

    def words(self, dims: Dims) -> str:
        return f"{super().words(dims)}, {self.rows:,} rows for pairs"

    def build(self, dims: Dims) -> BigramEmbedding:
        return BigramEmbedding(self, dims)


class TokenEmbedding(Module):
    """x_BTD = scale tokens.weight[tokens_BT] + segments.weight[segments_BT]."""

    taps = ("x",)
    looks_back = False
    """Whether a token's vector depends on the token before it, so that a cache must keep that."""
    by_token: ClassVar[tuple[str, ...]] = ("tokens",)
    """Names of the tables that tokens choose rows of: with another tokenizer's tokens they mean nothing."""

    def __init__(self, options: Tokens, dims: Dims, width: int) -> None:
        super().__init__()
        self.tied = options.tied
        self.width = width
        self.scale = math.sqrt(width) if options.scaled else 1.0
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.tokens = Embedding(dims.vocab_size, width, Normal(dims.init_std))
        self.segments = Embedding(options.n_segments, width, Normal(dims.init_std)) if options.n_segments else None

    def forward(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        """x_BTE, before positions; `cache` holds what came before, every token is of segment 0 unless said otherwise.

        Raises WeftError for segments that the model does not know.
        """
        x_BTE = self.looked_up(inputs, cache)
        x_BTE = x_BTE if self.scale == 1.0 else x_BTE * self.scale
        if self.segments is not None:
            segments_BT = x_BTE.new_zeros((), dtype=torch.long) if inputs.segments_BT is None else inputs.segments_BT
            x_BTE = x_BTE + self.segments(segments_BT)
        elif inputs.segments_BT is not None:
            raise WeftError("segments are given, but embedding.n_segments = 0: this model tells none apart")
        return self.tap("x", x_BTE)

    def looked_up(self, inputs: Inputs, cache: Cache | None) -> Tensor:
        """The tokens' own vectors, x_BTE."""
        x_BTE: Tensor = self.tokens(inputs.tokens_BT)
        return x_BTE

    def from_width(self) -> nn.Module:
        """What leads from the table's width to the blocks'; each stack has it."""
        return nn.Identity()

    def to_width(self) -> Module | None:
        """What leads back from the blocks' width, for a head tied to the table; None where they are the same."""
        return None


class FactorizedEmbedding(TokenEmbedding):
    """x_BTD = W x_BTE + b, with x_BTE from a table of width E."""

    def __init__(self, options: Factorized, dims: Dims) -> None:
        super().__init__(options, dims, options.width)
        # in a tuple, and no module of this one: it stands, and is counted, where it computes
        self._projection = (Linear(options.width, dims.d_model, Normal(dims.init_std), bias=True),)

    def from_width(self) -> Linear:
        return self._projection[0]

    def to_width(self) -> Transposed:
        return Transposed(self._projection[0])


class BigramEmbedding(TokenEmbedding):
    """x_BTD = scale (tokens.weight[tokens_BT] + pairs.weight[hash(token before, token)]) + segments."""

    looks_back = True
    by_token = ("tokens", "pairs")

    def __init__(self, options: Bigrams, dims: Dims) -> None:
        super().__init__(options, dims, dims.d_model)
        self.rows, self.vocab_size = options.rows, dims.vocab_size
        self.pairs = Embedding(options.rows, dims.d_model, Constant(0.0))  # begins as `tokens`

    def looked_up(self, inputs: Inputs, cache: Cache | None) -> Tensor:
        assert inputs.tokens_BT is not None, "an embedding needs tokens"
        if cache is not None:
            cache.check_rows(len(inputs.tokens_BT))
        before_BT = tokens_before(inputs, None if cache is None else cache.last_tokens())
        x_BTD: Tensor = super().looked_up(inputs, cache) + self.pairs(self.row_of(before_BT, inputs.tokens_BT))
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
