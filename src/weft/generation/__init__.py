"""A trained model writes: sampling, rows that grow with a cache, stop strings, streaming."""

from weft.generation.generate import Piece, generate, stream
from weft.generation.rows import Rows
from weft.generation.sampling import Sampler, Sampling

__all__ = ["Piece", "Rows", "Sampler", "Sampling", "generate", "stream"]
