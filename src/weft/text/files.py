"""Tokenizers that exist: a tokenizer.json, and the files that GPT-2, RoBERTa and BERT were published with.

| files | read as |
|---|---|
| tokenizer.json | what it says |
| encoder.json (or vocab.json) and vocab.bpe (or merges.txt) | byte-level BPE (GPT-2, Radford et al. 2019; RoBERTa) |
| vocab.txt | WordPiece (Devlin et al. 2019) |
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from weft.errors import WeftError
from weft.text.accents import accents_lost
from weft.text.alphabet import BYTE_TO_CHARACTER
from weft.text.special import BERT, END_OF_DOCUMENT, ROLES, filling
from weft.text.tokenizers import Tokenizer, TokenizerConfig
from weft.text.wordpiece import Casing, bert_like

VOCABULARIES = ("encoder.json", "vocab.json")
MERGES = ("vocab.bpe", "merges.txt")
PIECES = "vocab.txt"
MOST_BYTES = 64_000_000
"""Size of a vocabulary's file beyond which it is taken for something else."""
MOST_TOKENS = 2_000_000
READ_ALIKE = ("GPT2Tokenizer", "RobertaTokenizer", "BertTokenizer")
"""Classes in a tokenizer_config.json whose files are read as here."""


class TokenizerFile(TokenizerConfig, kind="file"):
    """A tokenizer that exists: a tokenizer.json, GPT-2's encoder.json + vocab.bpe, or BERT's vocab.txt."""

    path: str
    """the file, or a folder that holds it"""

    def train(self, texts: Iterable[str], total_bytes: int, special: Sequence[str] = ()) -> Tokenizer:
        found = self._load(special)
        lost = accents_lost(found, islice(texts, 1000))
        return Tokenizer(found.inner, [*found.notes, *([lost] if lost else ())])

    def notes(self, tokenizer: Tokenizer, total_bytes: int) -> list[str]:
        added = tokenizer.special.keys() - open_tokenizer(self.path).special.keys()
        said = [f"tokenizer: {', '.join(sorted(added))} added to {self.path}, which lacks it"] if added else []
        return [*tokenizer.notes, *said]

    def identity(self) -> Any:
        return {"kind": self.kind, "content": self._load(()).fingerprint}

    def _load(self, special: Sequence[str]) -> Tokenizer:
        tokenizer = open_tokenizer(self.path)
        ends = filling("end", tokenizer.special)
        return tokenizer.with_special([*(() if ends else (END_OF_DOCUMENT,)), *special])


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that `path` is or holds: one of these files, a folder with them, or a run (its newest checkpoint).

    Raises WeftError when there is none, or it is damaged.
    """
    found = find(path)
    if found.name.endswith(PIECES):
        return _bert(found)
    if found.name.endswith((*VOCABULARIES, *MERGES)):
        return _gpt2(found)
    return Tokenizer.load(found)


def find(path: str | Path) -> Path:
    """The file of a tokenizer that `path` is or holds: a file, a model folder, or a run (its newest checkpoint).

    Raises WeftError when there is none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return place
    inside = [place / "tokenizer.json", *sorted(place.glob("checkpoints/step-*/tokenizer.json"), reverse=True)]
    published = [place / name for name in (*VOCABULARIES, *MERGES, PIECES)]
    for candidate in [*inside, *published]:
        if candidate.is_file():
            return candidate
    names = f"({', '.join(VOCABULARIES)} with {' or '.join(MERGES)}; {PIECES})"
    raise WeftError(
        f"{path}: no tokenizer.json in this folder, nor the files of GPT-2 or BERT {names}"
        if place.is_dir()
        else f"{path}: no such file"
    )


def _gpt2(path: Path) -> Tokenizer:
    """Byte-level BPE from its two files: token to id, and the merges by rank."""
    _known_class(path.parent)
    vocabulary_file, merges_file = _partner(path, VOCABULARIES), _partner(path, MERGES)
    vocabulary = _vocabulary(vocabulary_file)
    merges = _merges(merges_file, vocabulary)
    missing = [character for character in BYTE_TO_CHARACTER if character not in vocabulary]
    if missing:
        raise WeftError(
            f"{vocabulary_file}: {len(missing)} of the 256 characters that stand for bytes are missing (such as"
            f" {missing[0]!r}): no byte-level vocabulary; give its tokenizer.json"
        )
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    special = [name for name in dict.fromkeys(chain.from_iterable(ROLES.values())) if name in vocabulary]
    inner.add_special_tokens(sorted(special, key=vocabulary.__getitem__))
    if "<s>" in vocabulary and "</s>" in vocabulary:  # RoBERTa's frame: <s> A </s></s> B </s>, all of one segment
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B:0 </s>",
            special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])],
        )
    return Tokenizer(inner)


def _partner(path: Path, names: Sequence[str]) -> Path:
    """`path` itself where it is one of these files; else the one beside it, with the same beginning (`gpt2-`)."""
    for name in names:
        if path.name.endswith(name):
            return path
    ending = next(known for known in (*VOCABULARIES, *MERGES) if path.name.endswith(known))
    beside = [path.with_name(path.name.removesuffix(ending) + name) for name in names]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    what = "merges are" if names is MERGES else "vocabulary is"
    raise WeftError(f"{path}: its {what} missing: no {' or '.join(file.name for file in beside)} beside it")


def _vocabulary(path: Path) -> dict[str, int]:
    """Token to id, each id once, from a JSON object."""
    try:
        data = json.loads(_text(path))
    except ValueError as error:
        raise WeftError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict) or not data:
        raise WeftError(f'{path}: should be an object from tokens to ids, such as {{"a": 0}}')
    owners: dict[int, str] = {}
    for token, id in data.items():
        if type(id) is not int or not 0 <= id < MOST_TOKENS:
            raise WeftError(f"{path}: token {token!r} has the id {id!r}, which is no number from 0 to {MOST_TOKENS:,}")
        if id in owners:
            raise WeftError(f"{path}: tokens {owners[id]!r} and {token!r} have the same id {id}")
        owners[id] = token
    return data


def _merges(path: Path, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs in the order in which they were merged; a first line that begins with #version is none."""
    merges = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise WeftError(f"{path} line {number}: should be two tokens with a space between, not {line[:60]!r}")
        unknown = [token for token in (*pair, "".join(pair)) if token not in vocabulary]
        if unknown:
            hint = "; </w> marks the ends of words, as GPT-1 and CLIP do: give its tokenizer.json" * ("</w>" in line)
            raise WeftError(f"{path} line {number}: {unknown[0]!r} is no token of the vocabulary beside it{hint}")
        merges.append((pair[0], pair[1]))
    return merges


def _bert(path: Path) -> Tokenizer:
    """WordPiece from a list of pieces, a line each, whose number is the id."""
    settings = _known_class(path.parent)
    vocabulary: dict[str, int] = {}
    lines = _text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        token = line.removesuffix("\r")
        if not token:
            raise WeftError(f"{path} line {number}: is empty; each line holds a token")
        if token in vocabulary:
            raise WeftError(f"{path} line {number}: {token!r} stands in line {vocabulary[token] + 1} already")
        vocabulary[token] = number - 1
    if "[UNK]" not in vocabulary:
        raise WeftError(f"{path}: has no [UNK], so it is no vocabulary of BERT's")
    if len(vocabulary) > MOST_TOKENS:
        raise WeftError(f"{path}: {len(vocabulary):,} tokens are more than {MOST_TOKENS:,}")
    said = {key: settings[key] for key in ("do_lower_case", "strip_accents") if isinstance(settings.get(key), bool)}
    casing, why = _casing(vocabulary)
    if said:
        why = "its tokenizer_config.json says so"
    if said.get("do_lower_case") is False:
        casing = "cased"
    elif said:
        casing = "uncased" if said.get("strip_accents", True) else "uncased-accents"
    # ids are the vocabulary's own: adding what it lacks is for whoever asks
    special = [name for name in BERT if name in vocabulary]
    return bert_like(vocabulary, casing, special, [f"tokenizer: {path} is read as {casing}: {why}"])


def _casing(vocabulary: Iterable[str]) -> tuple[Casing, str]:
    """What the letters of a vocabulary tell of how its text was normalised."""
    words = [token for token in vocabulary if token not in BERT]
    if any(character.lower() != character for word in words for character in word):
        return "cased", "some of its tokens have capitals"
    if any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", "".join(words)) if ord(c) < 0x370):
        return "uncased-accents", "its tokens have accents and no capitals"
    return "uncased", "none of its tokens has a capital or an accent"


def _known_class(folder: Path) -> dict[str, Any]:
    """What the tokenizer_config.json beside a vocabulary says, if there is one.

    Raises WeftError when it names a class that reads its files otherwise.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(_text(path))
    except ValueError as error:
        raise WeftError(f"{path}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise WeftError(f"{path}: should be an object")
    name = settings.get("tokenizer_class")
    if name is not None and str(name).removesuffix("Fast") not in READ_ALIKE:
        raise WeftError(
            f"{path}: {name} reads its vocabulary in its own way; weft knows {', '.join(READ_ALIKE)}: give a"
            " tokenizer.json"
        )
    return settings


def _text(path: Path) -> str:
    """A file of at most MOST_BYTES, as UTF-8."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise WeftError(f"{path}: {path.stat().st_size:,} bytes are no vocabulary (at most {MOST_BYTES:,})")
        return path.read_bytes().decode()  # line ends as they are
    except UnicodeDecodeError as error:
        raise WeftError(f"{path}: byte {error.start:,} is not UTF-8") from None
    except OSError as error:
        raise WeftError(f"{path}: {error.strerror}") from None
