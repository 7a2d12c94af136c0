"""The `data` section of a recipe, and `prepare`: from a source to token shards, reused while nothing changed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console

import weft.data
import weft.text
from weft.config import EXECUTION, Section, Slot, semantic
from weft.data import baselines
from weft.data.cache import Cache
from weft.data.documents import Corpus
from weft.data.examples import cut_count, labels_of
from weft.data.packing import Packing, Windows
from weft.data.progress import Progress
from weft.data.python_docs import PythonDocs
from weft.data.shards import PreparedData, TokenSplit, Written, read_meta, read_split, write_meta, write_split
from weft.data.sources import Source
from weft.data.splits import HashValidation, Split, Surveyed, Validation
from weft.data.survey import Survey, survey
from weft.data.task_report import baselines as task_baselines_of
from weft.data.task_report import examples_report
from weft.errors import WeftError
from weft.report.formats import size
from weft.runs.fingerprints import of_data, of_file
from weft.text.bpe import Bpe
from weft.text.tokenizers import Tokenizer, TokenizerConfig

LITTLE_TRAINING = 200_000
LITTLE_VALIDATION = 20_000
"""Bytes below which a text is said to be too little; a measure on 20 kB is good to a few hundredths of a bit."""
FEW_SIGHTS = 20
"""Training tokens for each token of the vocabulary below which most of them are hardly seen."""


class DataConfig(Section):
    """Which text, and how it becomes rows of tokens."""

    source: Slot[Source] = PythonDocs()
    """where the text comes from: a kind, or the path of a file or folder"""
    tokenizer: Slot[TokenizerConfig] = Bpe()
    """how text becomes tokens"""
    packing: Slot[Packing] = Windows()
    """how tokens become rows of equal length"""
    validation: Slot[Validation] = HashValidation()
    """which text is held out"""
    share: float = Field(1.0, gt=0, le=1)
    """part of the training documents that is used, chosen by a hash of their names; of one document, its beginning"""
    cache: Annotated[str | None, EXECUTION] = None
    """folder that keeps prepared data; $WEFT_CACHE or the system's unless given"""


def prepare(
    config: DataConfig,
    length: int,
    special: Sequence[str] = (),
    console: Console | None = None,
    columns: Sequence[str] = (),
) -> PreparedData:
    """The tokens of both parts of the text, made now or read from the cache.

    `length` is the rows' T, for what is said about them; `special` tokens are added to the tokenizer; `columns` are
    what the task needs beside the text.
    Raises WeftError when the text cannot be read or is too little, or the cache cannot be written.
    """
    cache = Cache(config.cache)
    with Progress(console) as progress:
        text, given = _both(config, cache, progress, columns)
        content = [text.survey.fingerprint, given.survey.fingerprint if given else None, config.validation.identity()]
        key = of_data([_code(config), content, config.tokenizer.identity(), config.share, list(special), list(columns)])
        folder = cache.make(
            f"tokens/{key}",
            lambda folder: _fill(folder, config, text, given, special, progress, columns),
            lambda folder: read_meta(folder) is not None,
        )
    meta = read_meta(folder)
    assert meta is not None, f"{folder} is complete"
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    train = read_split(folder / "train", meta["lossless"]["train"])
    validation = read_split(folder / "validation", meta["lossless"]["validation"])
    part = [] if config.share == 1 else [config.share]
    fingerprint = of_data([*content, tokenizer.fingerprint, *part])
    shape = _cut(train, length) if columns else config.packing.notes(train, length)
    read = [*text.notes, *(given.notes if given else ())]
    notes = [*read, *meta["report"]["warnings"], *shape]
    report = {"source": text.corpus.name, "fingerprint": fingerprint, **meta["report"], "warnings": notes}
    labels = labels_of(train) if "label" in columns else ()
    if labels:
        report["labels"] = list(labels)
    return PreparedData(tokenizer, train, validation, fingerprint, report, labels)


def _both(
    config: DataConfig, cache: Cache, progress: Progress, columns: Sequence[str]
) -> tuple[Surveyed, Surveyed | None]:
    """The source, and the text given for validation where there is one; both with the columns that are needed."""
    corpora = [config.source.build(), config.validation.given(config.source)]
    for corpus in corpora:
        if corpus is not None:
            corpus.need(columns)
    text, given = (None if corpus is None else _surveyed(corpus, config, cache, progress) for corpus in corpora)
    assert text is not None, "a source opens a corpus"
    return text, given


def _cut(train: TokenSplit, length: int) -> list[str]:
    """What is said of examples that are longer than the model."""
    cut = cut_count(train, length)
    return [f"data: {cut:,} of {train.documents:,} training examples are longer than {length} tokens, and cut"] * bool(
        cut
    )


def _surveyed(corpus: Corpus, config: DataConfig, cache: Cache, progress: Progress) -> Surveyed:
    """What is known of a corpus: from the cache while its files are as they were, else from one reading."""
    stamp = corpus.stamp()
    name = f"surveys/{of_data([_code(config), stamp, semantic(config.source), semantic(config.validation)])}"
    if stamp is not None and (kept := cache.note(name)) is not None:
        return Surveyed(corpus, Survey(**json.loads(kept)))
    found = survey(corpus, config.validation.holds_out, progress)
    if stamp is not None:
        cache.keep_note(name, json.dumps(asdict(found)))
    return Surveyed(corpus, found)


def _code(config: DataConfig) -> str:
    """Which code reads and tokenises: what other code made is not reused."""
    files = set()
    for part in (config.source, config.tokenizer, config.validation):
        with suppress(TypeError, OSError):  # a part that was typed into a session has no file
            files.add(Path(inspect.getfile(type(part))))
    for package in (weft.data, weft.text):
        files.update(Path(package.__path__[0]).glob("*.py"))
    return of_data({"/".join(path.parts[-2:]): of_file(path) for path in files})


def _fill(
    folder: Path,
    config: DataConfig,
    text: Surveyed,
    given: Surveyed | None,
    special: Sequence[str],
    progress: Progress,
    columns: Sequence[str],
) -> None:
    """Everything that lies in a folder of shards."""
    split = _split(config, text, given)
    tokenizer = train_tokenizer(config.tokenizer, split, special, progress)
    tokenizer.save(folder / "tokenizer.json")
    total = text.survey.bytes + (given.survey.bytes if given else 0)
    verify = not config.tokenizer.exact
    with baselines.Xz(split, total) if not columns else nullcontext() as xz:
        training = progress.track(split.train(), "tokenising", split.train_bytes)
        train = write_split(folder / "train", training, tokenizer, verify, columns)
        held_out = progress.track(split.validation(), "tokenising the validation text", split.validation_bytes)
        validation = write_split(folder / "validation", held_out, tokenizer, verify, columns)
        if config.share == 1 and train.bytes + validation.bytes != total:
            raise WeftError(f"data.source = {text.corpus.name}: the text changed while it was read; run this again")
        bits = xz.bits_per_byte(progress) if xz else None
    measured: dict[str, Any] = {} if bits is None else {"xz": {"bits_per_byte": bits, "how": baselines.HOW}}
    examples: dict[str, Any] = {}
    if columns:
        parts = read_split(folder / "train", True), read_split(folder / "validation", True)
        progress.update("looking at the examples", 0, 0)
        examples = {"examples": examples_report(*parts, columns)}
        progress.update("measuring simple methods", 0, 0)
        measured = task_baselines_of(*parts, columns)
    notes = [
        *split.notes,
        *config.tokenizer.notes(tokenizer, train.bytes),
        *(_too_little(train, validation, tokenizer) if not columns else ()),
        *_lossy(config.tokenizer.kind, train, validation),
        *(xz.notes if xz else ()),
    ]
    report = {
        "documents": text.survey.documents + (given.survey.documents if given else 0),
        "duplicates_removed": text.survey.duplicates_removed,
        "cut": text.survey.cut + (given.survey.cut if given else 0),
        "tokenizer": {
            "kind": config.tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "bytes_per_token": train.bytes / train.tokens,
        },
        "train": _counts(train),
        "validation": {**_counts(validation), "kind": split.kind},
        "baselines": measured,
        "warnings": notes,
        **examples,
    }
    lossless = {"train": train.lossy is None, "validation": validation.lossy is None}
    write_meta(folder, {"lossless": lossless, "report": report})


def _split(config: DataConfig, text: Surveyed, given: Surveyed | None) -> Split:
    """The two parts of the text, the training part as large as asked."""
    split = config.validation.split(text, given)
    return split if config.share == 1 else split.with_share(config.share, text.survey.documents == 1)


def train_tokenizer(config: TokenizerConfig, split: Split, special: Sequence[str], progress: Progress) -> Tokenizer:
    """The tokenizer for the training part of a text."""
    documents = progress.track(split.train(), "training the tokenizer", split.train_bytes)
    texts = (text for document in documents for text in (document.text, document.fields.get("target")) if text)
    return config.train(texts, split.train_bytes, special)


def fit_tokenizer(
    config: DataConfig, whole: bool, console: Console | None = None
) -> tuple[Tokenizer, Split, list[str]]:
    """The tokenizer that `prepare` would train, or with `whole` one for all of the text; the parts of the text; and
    what a person should hear."""
    cache = Cache(config.cache)
    with Progress(console) as progress:
        text, given = _both(config, cache, progress, ())
        split = _split(config, text, given)
        if whole:
            split = replace(split, train=text.corpus.documents, train_bytes=text.survey.bytes)
        tokenizer = train_tokenizer(config.tokenizer, split, (), progress)
    return tokenizer, split, [*text.notes, *config.tokenizer.notes(tokenizer, split.train_bytes)]


def _counts(written: Written) -> dict[str, Any]:
    return {"documents": written.documents, "bytes": written.bytes, "tokens": written.tokens}


def _too_little(train: Written, validation: Written, tokenizer: Tokenizer) -> list[str]:
    """What is too little, and what follows from it."""
    said = []
    if train.bytes < LITTLE_TRAINING:
        said.append(
            f"training text: {size(train.bytes)} is too little to learn a language from (at least"
            f" {size(LITTLE_TRAINING)}, better some MB): a model will soon know it by heart"
        )
    if validation.bytes < LITTLE_VALIDATION:
        said.append(
            f"validation text: {size(validation.bytes)} is too little for an exact measure (at least"
            f" {size(LITTLE_VALIDATION)}): small differences between runs are chance"
        )
    if train.tokens < FEW_SIGHTS * tokenizer.vocab_size:
        said.append(
            f"tokenizer: {tokenizer.vocab_size:,} tokens are many for {train.tokens:,} tokens of training text, most"
            " are hardly seen: a smaller data.tokenizer.vocab_size, or data.tokenizer=bytes, learns more from it"
        )
    return said


def _lossy(kind: str, train: Written, validation: Written) -> list[str]:
    found = {"training": train.lossy, "validation": validation.lossy}
    return [
        f"tokenizer: {kind} does not keep all of the {part} text (first in {document}); bits per byte of such a text"
        " would be wrong"
        for part, document in found.items()
        if document is not None
    ]
