"""Unigram: each piece has a probability of its own, and a text is cut into the pieces whose product is largest.

Kudo 2018, "Subword Regularization", section 3.2 (arXiv 1804.10959).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
from pydantic import Field, PositiveInt
from tokenizers import decoders, models, pre_tokenizers, trainers

from weft.errors import WeftError
from weft.text.alphabet import BYTE_TOKENS, WORDS
from weft.text.bpe import by_bytes
from weft.text.special import UNKNOWN
from weft.text.tokenizers import Tokenizer, TokenizerConfig, fewer, frequent, sample, sampled, special_names

STEP = 1e-4
"""By how much the trainer sets apart the characters that it puts back after it had removed them."""
DIGITS = 6
"""Digits of a log-probability that do not depend on the order in which the trainer's threads add."""

_BETWEEN, _BEYOND = "\ue000", "\ue001"
"""Two characters of private use that the trainer sees. In a text they have no token, nor has the trainer's own NUL."""


class Unigram(TokenizerConfig, kind="unigram"):
    """Pieces with probabilities of their own; the likeliest cut of a word is taken (Kudo 2018)."""

    vocab_size: int = Field(4096, ge=288)
    """number of tokens, special ones and bytes included; half of the others at most are single characters"""
    byte_fallback: bool = True
    """a character without a token is written in its bytes, so that no text is lost; else it is unknown"""
    sample_bytes: PositiveInt = 16_000_000
    """about how much of the training text it is trained on; documents are taken evenly from all of it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        names = [*special_names(special), UNKNOWN]
        first = [*names, *(BYTE_TOKENS if self.byte_fallback else ())]
        room = self.vocab_size - len(first)
        if room < 2:
            raise WeftError(
                f"data.tokenizer.vocab_size = {self.vocab_size}: {len(first)} special tokens and bytes leave no room"
            )
        kept = list(sample(texts, total_bytes, self.sample_bytes))
        characters, rare = frequent(kept, room // 2)
        pieces = learn(_counted(kept, set(characters) - {_BETWEEN, _BEYOND, "\0"}), room)
        model = models.Unigram(
            [*((token, 0.0) for token in first), *pieces], first.index(UNKNOWN), byte_fallback=self.byte_fallback
        )
        inner = tokenizers.Tokenizer(model)
        inner.pre_tokenizer = _words()
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        inner.add_special_tokens(names)
        lost = [f"tokenizer: {rare:,} rare characters have no token of their own and are unknown"] * bool(rare)
        return Tokenizer(inner, by_bytes(rare) if self.byte_fallback else lost)

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        short = fewer(tokenizer.vocab_size, self.vocab_size)
        return [*sampled(total_bytes, self.sample_bytes), *tokenizer.notes, *short]


def learn(words: Counter[str], room: int) -> list[tuple[str, float]]:
    """At most `room` pieces for counted words, each with its log-probability.

    The trainer takes its first pieces from the places where distinct words branch, so that a whole word is among them
    only if another word goes on from it. A sign after it makes one of each.
    """
    if not words:
        return []
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Split(_BETWEEN, "removed")
    inner.train_from_iterator(_fed(words), trainers.UnigramTrainer(vocab_size=room + 1, show_progress=False))
    return settled([item for item in json.loads(inner.to_str())["model"]["vocab"] if _BEYOND not in item[0]])


def _fed(words: Counter[str], at_once: int = 1000) -> Iterator[str]:
    """The words as often as they were counted, and each frequent one with a sign after it."""
    for word, count in sorted(words.items()):
        for start in range(0, count, at_once):
            yield _BETWEEN.join([word] * min(at_once, count - start))
        if count > 1 and len(word) > 1:
            yield word + _BEYOND


def settled(found: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The trainer's pieces without what chance did to them, likeliest first.

    Threads add in any order, which changes last digits. And characters that its selection removed are put back one
    after the other, from the lowest of all upwards in small steps, in any order: here they are in alphabetical order.
    """
    low = min(score for _, score in found)
    steps = {piece: (score - low) / STEP for piece, score in found if len(piece) == 1}
    back = sorted(piece for piece, step in steps.items() if abs(step - round(step)) < 0.01 and step < len(steps))
    scores = {piece: round(score, DIGITS) for piece, score in found}
    scores |= dict(zip(back, sorted((scores[piece] for piece in back), reverse=True), strict=True))
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _counted(texts: Iterable[str], characters: set[str]) -> Counter[str]:
    """The words of the texts, other characters than these cut out of them."""
    words: Counter[str] = Counter()
    if not characters:
        return words
    split = _words()
    others = re.compile(f"[^{re.escape(''.join(sorted(characters)))}]+")
    for text in texts:
        for word, _ in split.pre_tokenize_str(text):
            words.update(part for part in others.split(word) if part)
    return words


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
