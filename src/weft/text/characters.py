"""Tokenizers without training: a character a token, or a byte a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from weft.text.alphabet import BYTE_TO_CHARACTER
from weft.text.special import UNKNOWN
from weft.text.tokenizers import Tokenizer, TokenizerConfig, special_names


class Characters(TokenizerConfig, kind="characters"):
    """Each character of the training text is a token; another character is unknown, and lost."""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        found: set[str] = set()
        for text in texts:
            found.update(text)
        names = [*special_names(special), UNKNOWN]
        vocabulary = {token: id for id, token in enumerate([*names, *sorted(found)])}
        inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False))
        inner.decoder = decoders.Fuse()
        inner.add_special_tokens(names)
        return Tokenizer(inner)


class Bytes(TokenizerConfig, kind="bytes"):
    """Each byte of UTF-8 is a token, whose id is the byte."""

    exact = True

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        vocabulary = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}
        inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens(special_names(special))
        return Tokenizer(inner)
