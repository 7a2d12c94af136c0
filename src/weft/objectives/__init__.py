"""What is learned."""

from weft.objectives.base import Batch, Learner, Objective
from weft.objectives.causal import Causal

__all__ = ["Batch", "Causal", "Learner", "Objective"]
