"""WordPiece's longest match of one word (Wu et al. 2016; Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One place of a word: what was looked up there, from the longest on, and what was found."""

    tried: tuple[str, ...]
    found: str | None


@dataclass(frozen=True)
class WordPieceWord:
    """A word from left to right."""

    word: str
    trials: tuple[Trial, ...]
    tokens: tuple[str, ...]
    too_long: bool = False


class WordPiece:
    """The declared pieces."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self.declared, self.vocabulary = declared, declared["vocab"]

    def word(self, word: str) -> WordPieceWord:
        """The longest piece that begins the rest of the word, until none is left; else the whole word is unknown."""
        unknown = (self.declared["unk_token"],)
        if len(word) > self.declared["max_input_chars_per_word"]:
            return WordPieceWord(word, (), unknown, too_long=True)
        trials: list[Trial] = []
        tokens: list[str] = []
        start = 0
        while start < len(word):
            mark = self.declared["continuing_subword_prefix"] if start else ""
            candidates = [mark + word[start:end] for end in range(len(word), start, -1)]
            found = next((piece for piece in candidates if piece in self.vocabulary), None)
            if found is None:
                return WordPieceWord(word, (*trials, Trial(tuple(candidates), None)), unknown)
            trials.append(Trial(tuple(candidates[: candidates.index(found) + 1]), found))
            tokens.append(found)
            start += len(found) - len(mark)
        return WordPieceWord(word, tuple(trials), tuple(tokens))
