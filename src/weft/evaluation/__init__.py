"""What a model reaches: metrics, thin over the field's libraries, and a result for every example."""

from weft.evaluation import classification, language, sequence
from weft.evaluation.base import Plan, Result, evaluate

__all__ = ["Plan", "Result", "classification", "evaluate", "language", "sequence"]
