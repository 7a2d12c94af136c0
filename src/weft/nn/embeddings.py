"""Where a sequence enters the model: from tokens (or vectors that are there already) to x_BTD."""

from __future__ import annotations

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

    def build(self, dims: Dims) -> TokenEmbedding:
        return TokenEmbedding(self, dims)


class TokenEmbedding(Module):
    """x_BTD = tokens.weight[tokens_BT]."""

    taps = ("x",)

    def __init__(self, options: Tokens, dims: Dims) -> None:
        super().__init__()
        self.tied = options.tied
        self.tokens = Embedding(dims.vocab_size, dims.d_model, Normal(dims.init_std))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.tap("x", self.tokens(tokens_BT))
