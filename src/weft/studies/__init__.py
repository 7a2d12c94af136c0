"""Studies: is one arm better than another, by how much, how sure are we; here the statistics (docs/studies.md)."""

from weft.studies.comparing import Comparison, compare
from weft.studies.planning import Noise, power, probed, seeds_for, smallest_difference
from weft.studies.scores import CorpusScores, FoldScores, ItemScores
from weft.studies.selfchecks import SelfCheck, selfcheck
from weft.studies.verdicts import Interval, Question, Verdict

__all__ = [
    "Comparison",
    "CorpusScores",
    "FoldScores",
    "Interval",
    "ItemScores",
    "Noise",
    "Question",
    "SelfCheck",
    "Verdict",
    "compare",
    "power",
    "probed",
    "seeds_for",
    "selfcheck",
    "smallest_difference",
]
