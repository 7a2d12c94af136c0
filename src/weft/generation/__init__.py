"""A trained model writes: sampling, rows that grow with a cache, stop strings, streaming, beams, probabilities."""

from weft.generation.answers import Answer, answer, surprise
from weft.generation.generate import generate
from weft.generation.likelihood import Likelihood
from weft.generation.rows import Rows
from weft.generation.sampling import Sampler, Sampling
from weft.generation.search import Hypothesis, Searching, search
from weft.generation.streaming import answers_sources, stream
from weft.generation.texts import Piece

__all__ = [
    "Answer",
    "Hypothesis",
    "Likelihood",
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
    "surprise",
]
