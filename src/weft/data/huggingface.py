"""Data sets of the Hugging Face hub, through the `datasets` library: `hf:name`, or `hf:name:configuration`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from weft.data.columns import LeftOut, Row, RowCorpus, Rows, Tabular
from weft.data.documents import Document
from weft.data.tables import named
from weft.errors import WeftError


class HuggingFace(Tabular, kind="hf"):
    """A data set of the Hugging Face hub; `hf:NAME` and `hf:NAME:CONFIGURATION` for short."""

    name: str
    """as on the hub: glue, SetFit/sst2"""
    config: str | None = None
    """which configuration, where the data set has several"""
    split: str = "train"
    """which of its splits"""
    revision: str | None = None
    """which version (a tag or a commit); the newest unless given"""

    def elsewhere(self, path: str) -> HuggingFace:
        return self.model_copy(update={"split": path})

    def build(self) -> HubCorpus:
        return HubCorpus(self)


class HubCorpus(RowCorpus):
    """The rows of one split. Ids: the split's name and `#row`."""

    def __init__(self, config: HuggingFace) -> None:
        self.config: HuggingFace = config
        self.name = ":".join(filter(None, ("hf", config.name, config.config)))
        self._data = _load(config, self.name)

    def read(self, rows: Rows, left_out: LeftOut) -> Iterator[Document]:
        yield from rows.documents(self._rows(rows), self.config.split, f"{self.name} {self.config.split}", "row")

    def stamp(self) -> Any:
        """The files of the library's own cache, whose names hold the version."""
        files = [str(file["filename"]) for file in self._data.cache_files]
        return [files, len(self._data), list(self.needed)] if files else None

    def size(self) -> int:
        return int(getattr(self._data, "size_in_bytes", None) or 0)

    def _rows(self, rows: Rows) -> Iterator[Row]:
        used = self._data.select_columns(rows.columns(self._data.column_names, self.name))
        features: Mapping[str, Any] = self._data.features
        names = {column: list(feature.names) for column, feature in features.items() if hasattr(feature, "names")}
        for number, cells in enumerate(used, start=1):
            yield Row(number, named(dict(cells), names))


def _load(config: HuggingFace, name: str) -> Any:
    """The data set, from the library's cache or from the network.

    Raises WeftError when the library is not installed, or has no such data set.
    """
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise WeftError(f"{name}: reading it needs the datasets library (pip install 'weft[hf]')") from None
    try:
        return library.load_dataset(config.name, config.config, split=config.split, revision=config.revision)
    except Exception as error:  # whatever the library and those below it raise: no network, no such name, no such split
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeftError(f"{name}: cannot be loaded ({reason}); files of your own need none") from None
