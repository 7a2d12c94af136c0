"""The lattice of a word's cuts and its likeliest path, by Viterbi's algorithm (Kudo 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.text.steps.unicode import UnsupportedError

UNKNOWN_PENALTY = 10.0
"""How much less likely than the least likely piece a character without a piece is, in nats."""


@dataclass(frozen=True)
class Edge:
    """A piece at its place."""

    start: int
    end: int
    piece: str
    score: float
    """its log-probability"""
    best: float
    """that of the likeliest cut up to its end which ends with it"""
    known: bool = True


@dataclass(frozen=True)
class UnigramWord:
    """A word, every piece that stands somewhere in it, and the likeliest cut."""

    word: str
    lattice: tuple[Edge, ...]
    path: tuple[Edge, ...]
    score: float
    """log-probability of the path"""
    tokens: tuple[str, ...]


class Unigram:
    """The declared pieces with their log-probabilities."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        if declared["unk_id"] is None:
            raise UnsupportedError("a Unigram model without an unknown token")
        self.declared = declared
        self.scores: dict[str, float] = dict(declared["vocab"])
        self.vocabulary = {piece: id for id, (piece, _) in enumerate(declared["vocab"])}
        self.longest = max(map(len, self.scores))
        self.unknown = declared["vocab"][declared["unk_id"]][0]
        self.unknown_score = min(self.scores.values()) - UNKNOWN_PENALTY

    def word(self, word: str) -> UnigramWord:
        """From left to right: the best way to each place is the best way to a piece's start, and that piece."""
        ways: list[Edge | None] = [None] * (len(word) + 1)
        lattice = []
        for start in range(len(word)):
            way = ways[start]
            before = way.best if way else 0.0
            for edge in self._edges(word, start, before):
                lattice.append(edge)
                known = ways[edge.end]
                if known is None or edge.best > known.best:
                    ways[edge.end] = edge
        path: list[Edge] = []
        while way := ways[path[0].start if path else len(word)]:
            path.insert(0, way)
        return UnigramWord(word, tuple(lattice), tuple(path), path[-1].best if path else 0.0, self._tokens(path))

    def _edges(self, word: str, start: int, before: float) -> list[Edge]:
        """The pieces that begin at a place; a single character is always among them."""
        found = []
        for end in range(start + 1, min(len(word), start + self.longest) + 1):
            piece = word[start:end]
            if piece in self.scores:
                score = self.scores[piece]
                found.append(Edge(start, end, piece, score, score + before))
        if not found or found[0].end > start + 1:
            piece, score = word[start], self.unknown_score
            found.append(Edge(start, start + 1, piece, score, score + before, known=False))
        return found

    def _tokens(self, path: list[Edge]) -> tuple[str, ...]:
        """The path's tokens: unknown characters side by side are one run, which is one unknown token or bytes."""
        runs: list[tuple[str, bool]] = []
        for edge in path:
            if not edge.known and runs and not runs[-1][1]:
                runs[-1] = (runs[-1][0] + edge.piece, False)
            else:
                runs.append((edge.piece, edge.known))
        tokens: list[str] = []
        for run, known in runs:
            in_bytes = [f"<0x{byte:02X}>" for byte in run.encode()]
            if known or run in self.vocabulary:
                tokens.append(run)
            elif self.declared["byte_fallback"] and all(byte in self.vocabulary for byte in in_bytes):
                tokens += in_bytes
            else:
                tokens.append(self.unknown)
        return tuple(tokens)
