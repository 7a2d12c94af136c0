"""Where a sequence enters the model: from tokens (or vectors that are there already) to x_BTD."""

from __future__ import annotations

import math

from torch import Tensor

from weft.config import Part
from weft.nn.initialization import Normal
from weft.nn.linear import Embedding
from weft.nn.module import Dims, Module


class Embeddings(Part, slot="embedding", default="tokens"):
    """How a sequence becomes vectors."""

    def build(self, dims: Dims) -> Module:
        """The embedding into vectors of width d_model."""
        raise NotImplementedError


class Tokens(Embeddings, kind="tokens"):
    """One learned vector a token."""

    tied: bool = True
    """the language model head uses the same table (Press and Wolf 2017)"""
    scaled: bool = False
    """multiply the vectors by the root of d_model (Vaswani et al. 2017, section 3.4)"""

    def build(self, dims: Dims) -> TokenEmbedding:
        return TokenEmbedding(self, dims)


class TokenEmbedding(Module):
    """x_BTD = scale tokens.weight[tokens_BT]."""

    taps = ("x",)

    def __init__(self, options: Tokens, dims: Dims) -> None:
        super().__init__()
        self.tied = options.tied
        self.scale = math.sqrt(dims.d_model) if options.scaled else 1.0
        self.tokens = Embedding(dims.vocab_size, dims.d_model, Normal(dims.init_std))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD: Tensor = self.tokens(tokens_BT)
        return self.tap("x", x_BTD if self.scale == 1.0 else x_BTD * self.scale)
