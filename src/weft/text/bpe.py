"""Byte-pair encoding: frequent neighbours become one token, over bytes or over characters.

Gage 1994; Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import tokenizers
from pydantic import Field, PositiveInt
from tokenizers import decoders, models, pre_tokenizers, trainers

from weft.errors import WeftError
from weft.text.alphabet import BYTE_TO_CHARACTER, BYTE_TOKENS, WORDS
from weft.text.tokenizers import Tokenizer, TokenizerConfig, fewer, frequent, sample, sampled, special_names


class Bpe(TokenizerConfig, kind="bpe"):
    """Byte-level byte-pair encoding: frequent runs of bytes, nothing is ever unknown (Sennrich et al. 2016)."""

    exact = True

    vocab_size: int = Field(4096, ge=257)
    """number of tokens, special ones and the 256 bytes included"""
    sample_bytes: PositiveInt = 64_000_000
    """about how much of the training text it is trained on; documents are taken evenly from all of it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        names = special_names(special)
        if self.vocab_size < 256 + len(names):
            raise WeftError(
                f"data.tokenizer.vocab_size = {self.vocab_size}: 256 bytes and {len(names)} special tokens need at"
                f" least {256 + len(names)}"
            )
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=names,
            initial_alphabet=sorted(BYTE_TO_CHARACTER),
            show_progress=False,
        )
        inner.train_from_iterator(sample(texts, total_bytes, self.sample_bytes), trainer)
        return Tokenizer(inner)

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        return [*sampled(total_bytes, self.sample_bytes), *fewer(tokenizer.vocab_size, self.vocab_size)]


class FallbackBpe(TokenizerConfig, kind="bpe-fallback"):
    """Byte-pair encoding of characters; one without a token falls back to its bytes (Touvron et al. 2023, Llama)."""

    exact = True

    vocab_size: int = Field(4096, ge=513)
    """number of tokens, special ones and the 256 bytes included; half of the others at most are single characters"""
    sample_bytes: PositiveInt = 64_000_000
    """about how much of the training text it is trained on; documents are taken evenly from all of it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        names = special_names(special)
        room = self.vocab_size - len(BYTE_TOKENS) - len(names)
        kept = list(sample(texts, total_bytes, self.sample_bytes))
        characters, rare = frequent(kept, room // 2)
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
        trainer = trainers.BpeTrainer(
            vocab_size=room,
            initial_alphabet=characters,
            limit_alphabet=len(characters),  # that the library keeps by count alone would depend on chance
            show_progress=False,
        )
        inner.train_from_iterator(kept, trainer)
        learned = json.loads(inner.to_str())["model"]
        order = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
        vocabulary = {token: id for id, token in enumerate([*names, *BYTE_TOKENS, *order])}
        merges = [(left, right) for left, right in learned["merges"]]
        inner.model = models.BPE(vocabulary, merges, byte_fallback=True)
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        inner.add_special_tokens(names)
        return Tokenizer(inner, by_bytes(rare))

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        short = fewer(tokenizer.vocab_size, self.vocab_size)
        return [*sampled(total_bytes, self.sample_bytes), *tokenizer.notes, *short]


def by_bytes(rare: int) -> list[str]:
    """What is said of characters that got no token."""
    return [f"tokenizer: {rare:,} rare characters have no token of their own and are written in bytes"] * bool(rare)
