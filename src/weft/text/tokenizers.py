"""Tokenizers: text to token ids and back, over the `tokenizers` library, and the kinds that a recipe can ask for.

Whatever the kind, the result is a plain `tokenizer.json` that any program reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import tokenizers
from pydantic import Field, PositiveInt
from tokenizers import decoders, models, pre_tokenizers, trainers

from weft.config import Part, semantic
from weft.errors import WeftError
from weft.report.formats import size
from weft.runs.atomic import write_text
from weft.text.alphabet import BYTE_TO_CHARACTER, WORDS, to_bytes

END_OF_DOCUMENT = "<|end|>"
"""The token after each document, and before the first."""
UNKNOWN = "<|unknown|>"

_ENDS = (END_OF_DOCUMENT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""What ends a document in tokenizers of others, by how likely it is meant so."""


class Tokenizer:
    """Text to token ids and back. A user's text never becomes a special token, even where it spells one."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # special tokens in a text are letters like any others
        self.inner = inner

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer that a tokenizer.json holds.

        Raises WeftError when there is none or it is damaged.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise WeftError(f"{path}: {reason}; a tokenizer.json is needed") from None
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare Exception
            raise WeftError(f"{path}: not a tokenizer.json ({error})") from None

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, in one step."""
        write_text(Path(path), self.inner.to_str(pretty=True) + "\n")

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens and their ids; no text contains them."""
        added = self.inner.get_added_tokens_decoder()
        return {token.content: id for id, token in sorted(added.items()) if token.special}

    @cached_property
    def end_of_document(self) -> int:
        """The id of the token after each document.

        Raises WeftError when the tokenizer has none.
        """
        for name in _ENDS:
            if name in self.special:
                return self.special[name]
        raise WeftError(f"the tokenizer has no end-of-document token (none of {', '.join(_ENDS)})")

    @cached_property
    def unknown(self) -> int | None:
        """The id that stands for what the tokenizer never saw, where it has one."""
        name = getattr(self.inner.model, "unk_token", None)
        return self.inner.token_to_id(name) if name else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what tokenizer.json holds."""
        return hashlib.sha256(self.inner.to_str().encode()).hexdigest()

    @cached_property
    def byte_level(self) -> bool:
        """Whether tokens are runs of bytes, in the alphabet of `weft.text.alphabet`."""
        return isinstance(self.inner.decoder, decoders.ByteLevel)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without any special token.

        Raises WeftError when the text is no Unicode (half a surrogate pair).
        """
        ids: list[int] = self.inner.encode(checked(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, on all cores."""
        encodings = self.inner.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids; a character of which bytes are missing shows as U+FFFD."""
        text: str = self.inner.decode([int(id) for id in ids], skip_special_tokens=skip_special)
        return text

    def exact(self, text: str) -> bool:
        """Whether the text survives encoding and decoding unchanged."""
        return self.decode(self.encode(text), skip_special=False) == text

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, which for a byte-level tokenizer may be a part of a character."""
        token = self.inner.id_to_token(id)
        if token is None or id in self.special.values():
            return (token or "").encode()
        return to_bytes(token) if self.byte_level else self.decode([id], skip_special=False).encode()

    def with_special(self, names: Iterable[str]) -> Self:
        """The same tokenizer in which each of these tokens exists; new ones get the next free ids."""
        missing = [name for name in dict.fromkeys(names) if name not in self.special]
        if not missing:
            return self
        inner = tokenizers.Tokenizer.from_str(self.inner.to_str())
        inner.add_special_tokens(missing)
        return type(self)(inner)


def checked(text: str) -> str:
    """The text itself, if it can be written down as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WeftError(f"character {error.start} is half a surrogate pair, no Unicode text: {text[:40]!r}") from None
    return text


class TokenizerConfig(Part, slot="tokenizer", default="bpe"):
    """How text becomes tokens."""

    exact: ClassVar[bool] = False
    """Whether every text survives, by construction."""

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """A string that ends in .json is a `file`."""
        if isinstance(raw, str) and raw not in cls.kinds and raw.endswith(".json"):
            return {"kind": "file", "path": raw}
        return super().expand_short(raw)

    @classmethod
    def short_schema(cls) -> dict[str, Any]:
        """A kind's name, or a path."""
        return {"anyOf": [super().short_schema(), {"type": "string"}]}

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        """The tokenizer for `texts`, which hold `total_bytes` of UTF-8; `special` tokens are added to the one that
        ends a document. `texts` is read at most once, lazily. The same texts give the same tokenizer.

        Raises WeftError when these options cannot be had.
        """
        raise NotImplementedError

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        """What a person should hear about the tokenizer that was made."""
        return []

    def identity(self) -> Any:
        """What `train` depends on beside the text, as plain data."""
        return semantic(self)


class Bpe(TokenizerConfig, kind="bpe"):
    """Byte-level byte-pair encoding: frequent runs of bytes, nothing is ever unknown (Sennrich et al. 2016)."""

    exact = True

    vocab_size: int = Field(4096, ge=257)
    """number of tokens, special ones and the 256 bytes included"""
    sample_bytes: PositiveInt = 64_000_000
    """about how much of the training text it is trained on; documents are taken evenly from all of it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        names = _special(special)
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
        said = []
        if total_bytes > self.sample_bytes:
            said.append(
                f"tokenizer: trained on about {size(self.sample_bytes)} of the {size(total_bytes)} of training text"
                " (data.tokenizer.sample_bytes), taken evenly from all of it"
            )
        if tokenizer.vocab_size < self.vocab_size:
            said.append(f"tokenizer: the text has only {tokenizer.vocab_size} tokens, not {self.vocab_size}")
        return said


class Characters(TokenizerConfig, kind="characters"):
    """Each character of the training text is a token; another character is unknown, and lost."""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        found: set[str] = set()
        for text in texts:
            found.update(text)
        names = [*_special(special), UNKNOWN]
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
        inner.add_special_tokens(_special(special))
        return Tokenizer(inner)


class TokenizerFile(TokenizerConfig, kind="file"):
    """A tokenizer.json that exists."""

    path: str
    """the tokenizer.json, or a folder that holds one"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        return self._load(special)

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        added = tokenizer.special.keys() - Tokenizer.load(find(self.path)).special.keys()
        return [f"tokenizer: {', '.join(sorted(added))} added to {self.path}, which lacks it"] if added else []

    def identity(self) -> Any:
        return {"kind": self.kind, "content": self._load(()).fingerprint}

    def _load(self, special: Sequence[str]) -> Tokenizer:
        tokenizer = Tokenizer.load(find(self.path))
        ends = any(name in tokenizer.special for name in _ENDS)
        return tokenizer.with_special([*(() if ends else (END_OF_DOCUMENT,)), *special])


def _special(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([END_OF_DOCUMENT, *names]))


def find(path: str | Path) -> Path:
    """The tokenizer.json that `path` is or holds: a file, a model folder, or a run (its newest checkpoint).

    Raises WeftError when there is none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return place
    inside = [place / "tokenizer.json", *sorted(place.glob("checkpoints/step-*/tokenizer.json"), reverse=True)]
    for candidate in inside:
        if candidate.is_file():
            return candidate
    raise WeftError(f"{path}: {'no tokenizer.json in this folder' if place.is_dir() else 'no such file'}")


def sample(texts: Iterable[str], total_bytes: int, wanted_bytes: int) -> Iterator[str]:
    """Texts taken evenly from `texts`, which hold `total_bytes`, until about `wanted_bytes` are reached."""
    share = wanted_bytes / max(total_bytes, 1)
    seen = taken = 0
    for text in texts:
        length = len(text.encode())
        if taken <= share * seen:
            taken += length
            yield text
        seen += length
