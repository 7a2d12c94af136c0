"""Byte-pair encoding of one word, merge by merge (Sennrich et al. 2016, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from weft.text.steps.unicode import UnsupportedError


@dataclass(frozen=True)
class Merge:
    """Two neighbours that become one."""

    rank: int
    """how early the pair was learned; the lowest goes first"""
    pair: tuple[str, str]
    symbols: tuple[str, ...]
    """the word after it"""


@dataclass(frozen=True)
class BpeWord:
    """A word from its characters to its tokens."""

    word: str
    symbols: tuple[str, ...]
    """its characters, or what stands for those without a token"""
    merges: tuple[Merge, ...]
    tokens: tuple[str, ...]
    whole: bool = False
    """the word is a token itself, and this model looks for that first"""


class Bpe:
    """The declared merges, by rank."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        if declared["dropout"]:
            raise UnsupportedError("merges left out by chance (dropout)")
        self.declared, self.vocabulary = declared, declared["vocab"]
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in declared["merges"])
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        self.prefix: str = declared["continuing_subword_prefix"] or ""

    def word(self, word: str) -> BpeWord:
        """Merge the pair of lowest rank, the leftmost where there are several, until no pair is known."""
        if self.declared["ignore_merges"] and word in self.vocabulary:
            return BpeWord(word, (word,), (), (word,), whole=True)
        symbols = start = self._symbols(word)
        merges = []
        while found := [(self.ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self.ranks]:
            rank, at = min(found)
            left, right = symbols[at : at + 2]
            symbols = (*symbols[:at], left + right.removeprefix(self.prefix), *symbols[at + 2 :])
            merges.append(Merge(rank, (left, right), symbols))
        return BpeWord(word, start, tuple(merges), symbols)

    def _symbols(self, word: str) -> tuple[str, ...]:
        """The word's characters; one without a token as its bytes, or as unknown, or not at all."""
        symbols: list[str] = []
        unknown, fused = self.declared["unk_token"], False
        for index, character in enumerate(word):
            symbol = (self.prefix if index else "") + character
            symbol += (self.declared["end_of_word_suffix"] or "") if index == len(word) - 1 else ""
            in_bytes = [f"<0x{byte:02X}>" for byte in symbol.encode()]
            if symbol in self.vocabulary:
                symbols.append(symbol)
            elif self.declared["byte_fallback"] and all(byte in self.vocabulary for byte in in_bytes):
                symbols += in_bytes
            elif unknown is not None:
                if not (fused and self.declared["fuse_unk"]):
                    symbols.append(unknown)
                fused = True
                continue
            fused = False
        return tuple(symbols)
