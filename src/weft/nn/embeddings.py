"""Where a sequence enters the model: from tokens (or vectors that are there already) to x_BTD.

The embedding's vectors are E wide, and so are the positions that a stack adds to them and its `embedding_norm`; what
the first block gets is D wide. E is D, unless the table is factorised.
"""

from __future__ import annotations

import math

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from weft.config import Part
from weft.errors import WeftError
from weft.nn.initialization import Normal
from weft.nn.linear import Embedding, Linear, Transposed
from weft.nn.module import Dims, Module


class Embeddings(Part, slot="embedding", default="tokens"):
    """How a sequence becomes vectors."""

    def build(self, dims: Dims) -> TokenEmbedding:
        """The embedding into vectors of width d_model."""
        raise NotImplementedError


class Tokens(Embeddings, kind="tokens"):
    """One learned vector a token, and one a segment where there are segments."""

    tied: bool = True
    """the language model head uses the same table (Press and Wolf 2017)"""
    scaled: bool = False
    """multiply the tokens' vectors by the root of their width (Vaswani et al. 2017, section 3.4)"""
    n_segments: NonNegativeInt = 0
    """kinds of segments, such as a first and a second text, a learned vector each (Devlin et al. 2019, section 3.2)"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of what enters that is dropped in training, positions added; the model's dropout unless given"""

    def build(self, dims: Dims) -> TokenEmbedding:
        return TokenEmbedding(self, dims, dims.d_model)


class Factorized(Tokens, kind="factorized"):
    """A narrow table, V x E, then a matrix E x D: fewer parameters (Lan et al. 2020, ALBERT, section 3.1).

    Positions, segments and the stack's `embedding_norm` are E wide. All stacks have one such matrix, and a tied head
    goes back through it.
    """

    width: PositiveInt = 128
    """width E of the table"""

    def build(self, dims: Dims) -> FactorizedEmbedding:
        return FactorizedEmbedding(self, dims)


class TokenEmbedding(Module):
    """x_BTD = scale tokens.weight[tokens_BT] + segments.weight[segments_BT]."""

    taps = ("x",)

    def __init__(self, options: Tokens, dims: Dims, width: int) -> None:
        super().__init__()
        self.tied = options.tied
        self.width = width
        self.scale = math.sqrt(width) if options.scaled else 1.0
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.tokens = Embedding(dims.vocab_size, width, Normal(dims.init_std))
        self.segments = Embedding(options.n_segments, width, Normal(dims.init_std)) if options.n_segments else None

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """x_BTE, before positions; every token is of segment 0 unless said otherwise.

        Raises WeftError for segments that the model does not know.
        """
        x_BTE: Tensor = self.tokens(tokens_BT)
        x_BTE = x_BTE if self.scale == 1.0 else x_BTE * self.scale
        if self.segments is not None:
            x_BTE = x_BTE + self.segments(tokens_BT.new_zeros(()) if segments_BT is None else segments_BT)
        elif segments_BT is not None:
            raise WeftError("segments are given, but embedding.n_segments = 0: this model tells none apart")
        return self.tap("x", x_BTE)

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
