"""Token shards: a text's tokens and documents as named typed arrays on disk, mapped into memory.

train/tokens.npy       every document's tokens, one after the other, each document with its end-of-document token
train/offsets.npy      where each document begins in `tokens`, and where the last one ends
train/bytes.npy        how many bytes of UTF-8 each document has
train/ids.npy          all documents' names as UTF-8
train/id_offsets.npy   where each name begins
validation/...  tokenizer.json  meta.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from weft.data.documents import Document
from weft.text.tokenizers import Tokenizer

BATCH = 2_000_000
"""Characters tokenised at a time: enough for all cores, little enough for a small machine's memory."""


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """The tokens of one part of a text, and where its documents lie in them."""

    arrays: Mapping[str, NDArray[Any]]
    """tokens (N), offsets (D + 1), bytes (D), ids, id_offsets (D + 1)"""
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
        names, offsets = self.arrays["ids"].tobytes(), self.arrays["id_offsets"].tolist()
        return [names[start:end].decode(errors="surrogateescape") for start, end in pairwise(offsets)]

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


def write_split(folder: Path, documents: Iterable[Document], tokenizer: Tokenizer, verify: bool) -> Written:
    """Tokenise documents into `folder`, in constant memory; `verify` decodes them again to see whether they survive."""
    folder.mkdir()
    width = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    types = {"tokens": width, "offsets": np.int64, "bytes": np.int64, "ids": np.uint8, "id_offsets": np.int64}
    arrays = {name: _Array(folder / f"{name}.npy", dtype) for name, dtype in types.items()}
    written = Written()
    try:
        arrays["offsets"].append([0])
        arrays["id_offsets"].append([0])
        for batch in _batches(documents):
            texts = [document.text for document in batch]
            encoded = tokenizer.encode_batch(texts)
            for document, ids in zip(batch, encoded, strict=True):
                if verify and written.lossy is None and tokenizer.decode(ids, skip_special=False) != document.text:
                    written.lossy = document.id
                name, size = document.id.encode(errors="surrogateescape"), len(document.text.encode())
                arrays["tokens"].append(ids)
                arrays["tokens"].append([tokenizer.end_of_document])
                arrays["ids"].append(np.frombuffer(name, np.uint8))
                written.documents += 1
                written.bytes += size
                written.tokens += len(ids) + 1
                arrays["offsets"].append([written.tokens])
                arrays["bytes"].append([size])
                arrays["id_offsets"].append([arrays["ids"].length])
    finally:
        for array in arrays.values():
            array.close()
    return written


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
