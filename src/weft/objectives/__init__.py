"""What is learned."""

from weft.objectives.base import Batch, BatchLoader, Learner, Objective
from weft.objectives.causal import Causal
from weft.objectives.classification import Classification
from weft.objectives.seq2seq import Seq2Seq

__all__ = ["Batch", "BatchLoader", "Causal", "Classification", "Learner", "Objective", "Seq2Seq"]
