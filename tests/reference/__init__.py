"""The papers' formulas as plain loops in float64, without torch: what each part is tested against.

Every function works on one sequence (a list of T vectors) and follows the formula, not weft's code: it is slow, and has
no batch, no cache, no padding and no kernel. Numbers may be complex, so that `calculus.slope` differentiates exactly.
"""

from reference.attention import GATES, MASKS, SCORES, attention, cross_attention
from reference.calculus import slope
from reference.feedforward import FEEDFORWARDS
from reference.heads import HEADS, answer
from reference.model import BLOCKS, EMBEDDINGS, STOCHASTIC_DEPTH, loss, vectors
from reference.norms import NORMS
from reference.positions import POSITIONS, SCALINGS

REFERENCES = {
    "norm": NORMS,
    "feedforward": FEEDFORWARDS,
    "positions": POSITIONS,
    "scaling": SCALINGS,
    "score": SCORES,
    "mask": MASKS,
    "gate": GATES,
    "attention": {"dot-product": attention, "none": None},
    "block": BLOCKS,
    "stochastic_depth": STOCHASTIC_DEPTH,
    "embedding": EMBEDDINGS,
    "head": HEADS,
    "model": {"transformer": vectors},
}
"""Where each kind of each slot is written down a second time."""

__all__ = [
    "FEEDFORWARDS",
    "GATES",
    "HEADS",
    "MASKS",
    "NORMS",
    "POSITIONS",
    "REFERENCES",
    "SCALINGS",
    "SCORES",
    "STOCHASTIC_DEPTH",
    "answer",
    "attention",
    "cross_attention",
    "loss",
    "slope",
    "vectors",
]
