"""Tokenizers: text to token ids and back, over the `tokenizers` library, and what every kind of them declares.

Whatever the kind, the result is a plain `tokenizer.json` that any program reads. The kinds stand in files of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import tokenizers
from tokenizers import Encoding, decoders, models

from weft.config import Part, semantic
from weft.errors import WeftError
from weft.report.formats import size
from weft.runs.atomic import write_text
from weft.text.alphabet import BYTE_TOKEN, to_bytes
from weft.text.special import END_OF_DOCUMENT, ROLES, Framed, bert_frame, filling, framed, longest_first, unfilled


class Tokenizer:
    """Text to token ids and back. A user's text never becomes a special token, even where it spells one."""

    def __init__(self, inner: tokenizers.Tokenizer, notes: Sequence[str] = ()) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # special tokens in a text are letters like any others
        self.inner = inner
        self.notes = tuple(notes)
        """what was noticed while it was made"""

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
        return self.role("end")

    def role(self, role: str) -> int:
        """The id of the special token for `role`, one of `weft.text.special.ROLES`, whatever its name here.

        Raises WeftError when the tokenizer has none.
        """
        name = filling(role, self.special)
        if name is None:
            what = "end-of-document" if role == "end" else role
            raise WeftError(f"the tokenizer has no {what} token (none of {', '.join(ROLES[role])})")
        return self.special[name]

    @cached_property
    def unknown(self) -> int | None:
        """The id that stands for what the tokenizer never saw, where it has one."""
        if isinstance(self.inner.model, models.Unigram):  # which does not tell
            return self.declaration["model"]["unk_id"]
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

    @cached_property
    def declaration(self) -> dict[str, Any]:
        """What tokenizer.json holds."""
        return json.loads(self.inner.to_str())

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
        if self.byte_level:
            return to_bytes(token)
        if (byte := BYTE_TOKEN.fullmatch(token)) and self.declaration["model"].get("byte_fallback"):
            return bytes([int(byte[1], 16)])
        return self.decode([id], skip_special=False).encode()

    def frame(self, text: str, second: str | None = None, length: int | None = None) -> Framed:
        """A text, or a pair of them, between special tokens: [CLS] A [SEP] B [SEP], of at most `length` tokens.

        Where that is too long the longer text loses its last tokens first. A tokenizer.json that says its own frame
        (RoBERTa's <s> A </s></s> B </s>) is followed.
        Raises WeftError when the tokenizer has no such special tokens, or `length` has no room for them.
        """
        return self.frame_batch([text], None if second is None else [second], length)[0]

    def frame_batch(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, length: int | None = None
    ) -> list[Framed]:
        """The same for many texts, or for the pairs of two equally long lists, on all cores."""
        paired = seconds is not None
        frame = self._frame
        around = frame.num_special_tokens_to_add(paired)
        if length is not None and length < around:
            raise WeftError(f"length = {length}: the {around} special tokens around a text need more")
        first, second = self._encodings(texts), self._encodings(seconds or ())
        if paired and len(first) != len(second):
            raise WeftError(f"{len(first)} texts cannot be paired with {len(second)}")
        rows = []
        for index, one in enumerate(first):
            other = second[index] if paired else None
            if length is not None:
                sizes = longest_first((len(one), len(other) if other is not None else 0), length - around)
                one.truncate(sizes[0])
                if other is not None:
                    other.truncate(sizes[1])
            rows.append(framed(frame.process(one, other, True)))
        return rows

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        return self.inner.encode_batch([checked(text) for text in texts], add_special_tokens=False)

    @cached_property
    def _frame(self) -> Any:
        """The tokenizer's own frame, or BERT's of its tokens for the two roles."""
        own = self.inner.post_processor
        if own is not None and own.num_special_tokens_to_add(True) > 1:
            return own
        first, separator = self.role("first"), self.role("separator")
        names = {id: name for name, id in self.special.items()}
        return bert_frame((names[first], first), (names[separator], separator))

    def with_special(self, names: Iterable[str]) -> Self:
        """The same tokenizer in which each of these tokens exists, or another for the same role (<mask> for [MASK]);
        new ones get the next free ids."""
        missing = unfilled(names, self.special)
        if not missing:
            return self
        inner = tokenizers.Tokenizer.from_str(self.inner.to_str())
        inner.add_special_tokens(missing)
        return type(self)(inner, self.notes)


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
        """A string that ends as a tokenizer's files do, or names a folder on its way, is a `file`."""
        if isinstance(raw, str) and raw not in cls.kinds and (raw.endswith((".json", ".txt", ".bpe")) or "/" in raw):
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
        return list(tokenizer.notes)

    def identity(self) -> Any:
        """What `train` depends on beside the text, as plain data."""
        return semantic(self)


def special_names(names: Sequence[str]) -> list[str]:
    """The special tokens of a tokenizer that weft makes: the one that ends a document, and what is asked for."""
    return list(dict.fromkeys([END_OF_DOCUMENT, *names]))


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


def frequent(texts: Iterable[str], most: int) -> tuple[list[str], int]:
    """The characters of `texts`, in order, at most the `most` frequent ones; and how many were left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:most]
    return sorted(kept), len(counts) - len(kept)


def sampled(total_bytes: int, sample_bytes: int) -> list[str]:
    """What is said where a tokenizer is trained on a part of the text."""
    if total_bytes <= sample_bytes:
        return []
    return [
        f"tokenizer: trained on about {size(sample_bytes)} of the {size(total_bytes)} of training text"
        " (data.tokenizer.sample_bytes), taken evenly from all of it"
    ]


def fewer(found: int, asked: int) -> list[str]:
    """What is said where a text has fewer tokens than were asked for."""
    return [f"tokenizer: the text has only {found} tokens, not {asked}"] if found < asked else []
