"""A trained model writes: sampling, rows that grow with a cache, stop strings, streaming, beam search."""

from weft.generation.generate import Piece, answer, answers_sources, generate, stream
from weft.generation.rows import Rows
from weft.generation.sampling import Sampler, Sampling
from weft.generation.search import Hypothesis, Searching, search

__all__ = [
    "Hypothesis",
    "Piece",
    "Rows",
    "Sampler",
    "Sampling",
    "Searching",
    "answer",
    "answers_sources",
    "generate",
    "search",
    "stream",
]
