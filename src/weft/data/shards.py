"""Token shards: a text's tokens and documents as named typed arrays on disk, mapped into memory.

train/tokens.npy       every document's tokens, one after the other, each document with its end-of-document token
train/offsets.npy      where each document begins in `tokens`, and where the last one ends
train/bytes.npy        how many bytes of UTF-8 each document has
train/ids.npy          all documents' names as UTF-8
train/id_offsets.npy   where each name begins
validation/...  tokenizer.json  meta.json

Where a task needs columns beside the text, the text and each column are kept as UTF-8 too (text.npy, text_offsets.npy,
label.npy, ...), and what is to be written, the target, also as tokens (target_tokens.npy, target_token_offsets.npy).
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weft.data.documents import Document
from weft.text.tokenizers import Tokenizer

BATCH = 250_000
"""Characters tokenised at a time: enough for all cores; in larger ones they wait for each other, in more memory."""


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """The tokens of one part of a text, and where its documents lie in them."""

    arrays: Mapping[str, NDArray[Any]]
    """tokens (N), offsets (D + 1), bytes (D), ids, id_offsets (D + 1); columns that a task needs"""
    lossless: bool = True
    """the tokens decode to the text exactly; where they do not, bits per byte would not be what it says"""

    @property
    def tokens(self) -> int:
        """Number of tokens, ends of documents included."""
        return len(self.arrays["tokens"])

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.arrays["bytes"])

    @cached_property
    def bytes(self) -> int:
        """Bytes of UTF-8 of all documents."""
        return int(self.arrays["bytes"].sum())

    @cached_property
    def ids(self) -> list[str]:
        """The documents' names."""
        return self._strings("ids", "id_offsets")

    def column(self, name: str) -> list[str]:
        """The text or another column of every document, where the shards were made for a task that needs it."""
        return self._strings(name, f"{name}_offsets")

    def _strings(self, name: str, offsets: str) -> list[str]:
        data, bounds = self.arrays[name].tobytes(), self.arrays[offsets].tolist()
        return [data[start:end].decode(errors="surrogateescape") for start, end in pairwise(bounds)]

    @cached_property
    def bytes_per_token(self) -> NDArray[np.float64]:
        """Each document's bytes of UTF-8 over its tokens, the one that ends it included."""
        return np.asarray(self.arrays["bytes"] / np.diff(self.arrays["offsets"]))


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Everything that training reads: tokens, the tokenizer that made them, and what to write down about them."""

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    fingerprint: str
    """SHA-256 over text, split and tokenizer: the same data, wherever and whenever prepared"""
    report: dict[str, Any]
    labels: tuple[str, ...] = ()
    """the classes, in the order of their numbers, where the task has labels"""


@dataclass
class Written:
    """What was written of one part."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    lossy: str | None = None
    """the first document that does not survive encoding and decoding"""


class _Array:
    """A .npy file that grows."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.dtype, self.length = np.dtype(dtype), 0
        self.file = path.open("wb")
        self._header()

    def append(self, values: Any) -> None:
        array = np.asarray(values, dtype=self.dtype)
        self.length += len(array)
        self.file.write(array.tobytes())

    def close(self) -> None:
        self.file.seek(0)
        self._header()  # numpy pads it, so that it may be written again with the true length
        self.file.close()

    def _header(self) -> None:
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, described)


class _Strings:
    """Texts one after the other, and where each begins."""

    def __init__(self, folder: Path, name: str, offsets: str) -> None:
        self.data, self.offsets = _Array(folder / f"{name}.npy", np.uint8), _Array(folder / f"{offsets}.npy", np.int64)
        self.offsets.append([0])

    def append(self, text: str) -> int:
        data = text.encode(errors="surrogateescape")
        self.data.append(np.frombuffer(data, np.uint8))
        self.offsets.append([self.data.length])
        return len(data)

    def close(self) -> None:
        self.data.close()
        self.offsets.close()


class _Tokens:
    """Texts as tokens one after the other, each with its end, and where each begins."""

    def __init__(self, folder: Path, name: str, offsets: str, tokenizer: Tokenizer) -> None:
        width = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        self.end = tokenizer.end_of_document
        self.data, self.offsets = _Array(folder / f"{name}.npy", width), _Array(folder / f"{offsets}.npy", np.int64)
        self.offsets.append([0])

    def append(self, ids: list[int]) -> int:
        self.data.append(ids)
        self.data.append([self.end])
        self.offsets.append([self.data.length])
        return len(ids) + 1

    def close(self) -> None:
        self.data.close()
        self.offsets.close()


def write_split(
    folder: Path, documents: Iterable[Document], tokenizer: Tokenizer, verify: bool, columns: Sequence[str] = ()
) -> Written:
    """Tokenise documents into `folder`, in constant memory; `verify` decodes them again to see whether they survive.

    `columns` are those that the task needs beside the text.
    """
    folder.mkdir()
    written = Written()
    kept = ("text", *columns) if columns else ()
    with ExitStack() as stack:
        tokens = stack.enter_context(closing(_Tokens(folder, "tokens", "offsets", tokenizer)))
        ids = stack.enter_context(closing(_Strings(folder, "ids", "id_offsets")))
        sizes = stack.enter_context(closing(_Array(folder / "bytes.npy", np.int64)))
        strings = {name: stack.enter_context(closing(_Strings(folder, name, f"{name}_offsets"))) for name in kept}
        targets = None
        if "target" in kept:
            targets = stack.enter_context(closing(_Tokens(folder, "target_tokens", "target_token_offsets", tokenizer)))
        for batch, encoded, encoded_targets in _encoded(documents, tokenizer, targets is not None):
            if targets is not None:
                for target in encoded_targets:
                    targets.append(target)
            for document, found in zip(batch, encoded, strict=True):
                if verify and written.lossy is None and tokenizer.decode(found, skip_special=False) != document.text:
                    written.lossy = document.id
                size = len(document.text.encode())
                ids.append(document.id)
                for name, array in strings.items():
                    array.append(document.text if name == "text" else document.fields[name])
                sizes.append([size])
                written.documents += 1
                written.bytes += size
                written.tokens += tokens.append(found)
    return written


def in_memory(texts: Sequence[str], tokenizer: Tokenizer) -> TokenSplit:
    """A few texts as a split that lies on no disk: their tokens, nothing else."""
    encoded = tokenizer.encode_batch(texts)
    end = tokenizer.end_of_document
    tokens = np.asarray([token for ids in encoded for token in (*ids, end)], np.int64)
    offsets = np.cumsum([0, *(len(ids) + 1 for ids in encoded)])
    sizes = np.asarray([len(text.encode()) for text in texts], np.int64)
    return TokenSplit({"tokens": tokens, "offsets": offsets, "bytes": sizes})


Encoded = tuple[list[Document], list[list[int]], list[list[int]]]
"""A batch of documents, the tokens of each one's text, and of its target where it is asked for."""


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer, with_targets: bool) -> Iterator[Encoded]:
    """Batches of documents with their tokens, in order; while one is written, the next ones are read and encoded."""

    def encode(batch: list[Document]) -> Encoded:
        targets = [document.fields["target"] for document in batch] if with_targets else []
        return batch, tokenizer.encode_batch([document.text for document in batch]), tokenizer.encode_batch(targets)

    # two at a time: the last long document of one leaves cores to the other
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[Future[Encoded]] = deque()
        for batch in _batches(documents):
            waiting.append(pool.submit(encode, batch))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    waiting = 0
    for document in documents:
        batch.append(document)
        waiting += len(document.text)
        if waiting >= BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Close a folder of shards: `meta`, and the size of each file, so that damage is noticed."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    (folder / "meta.json").write_text(json.dumps({**meta, "files": sizes}, indent=1), encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The meta data of a complete folder; None where there is none or a file has another size than was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = all(os.path.getsize(folder / name) == size for name, size in meta["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return meta if whole else None


def read_split(folder: Path, lossless: bool) -> TokenSplit:
    """A part that `write_split` wrote, mapped into memory."""
    arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
    return TokenSplit(arrays, lossless)
