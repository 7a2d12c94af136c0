"""hf:name: rows of a data set through the datasets library, and one clear line where there is none."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from weft.config import load
from weft.data.huggingface import HuggingFace
from weft.data.sources import Source
from weft.data.splits import FileValidation
from weft.errors import WeftError

ROWS = [
    {"id": 7, "text": "good film", "label": 1, "translation": {"en": "one", "vi": "một"}},
    {"id": 8, "text": "bad film", "label": 0, "translation": {"en": "two", "vi": "hai"}},
]


@dataclass
class Split:
    """As much of datasets.Dataset as is used."""

    rows: list[dict[str, Any]]
    cache_files: list[dict[str, str]] = field(default_factory=lambda: [{"filename": "/cache/0123/train.arrow"}])
    size_in_bytes = 123

    @property
    def column_names(self) -> list[str]:
        return list(self.rows[0])

    @property
    def features(self) -> dict[str, Any]:
        return {name: SimpleNamespace() for name in self.rows[0]} | {"label": SimpleNamespace(names=["neg", "pos"])}

    def select_columns(self, names: list[str]) -> Split:
        return Split([{name: row[name] for name in names} for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the library was asked for."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None = None, *, split: str, revision: str | None) -> Split:
        calls.append((name, config, split, revision))
        if name == "offline":
            raise ConnectionError("Couldn't reach 'offline' on the Hub\n(LocalEntryNotFoundError)")
        return Split(ROWS if split == "train" else ROWS[:1])

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_rows_of_a_data_set(asked: list[tuple[Any, ...]]) -> None:
    corpus = load(Source, "hf:some/films:small").build()
    corpus.need(("label",))
    assert [(d.id, d.text, d.fields) for d in corpus.documents()] == [
        ("train#1", "good film", {"label": "pos"}),
        ("train#2", "bad film", {"label": "neg"}),
    ]
    assert asked == [("some/films", "small", "train", None)]
    assert corpus.name == "hf:some/films:small"
    assert corpus.stamp() == [["/cache/0123/train.arrow"], 2, ["label"]]
    assert corpus.size() == 123
    pairs = load(Source, {"kind": "hf", "name": "pairs", "text": "translation.en", "target": "translation.vi"}).build()
    assert [d.fields["target"] for d in pairs.documents()] == ["một", "hai"]


def test_another_split_is_for_validation(asked: list[tuple[Any, ...]]) -> None:
    source = load(Source, {"kind": "hf", "name": "films", "revision": "v1"})
    given = FileValidation(path="validation").given(source)
    assert given is not None
    assert [document.id for document in given.documents()] == ["validation#1"]
    assert asked == [("films", None, "validation", "v1")]


def test_what_is_wrong_is_one_line(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(WeftError, match=r"hf:offline: cannot be loaded \(Couldn't reach 'offline' on the Hub \(Local"):
        HuggingFace(name="offline").build()
    with pytest.raises(WeftError, match=r"hf:films: no column 'body'; there are: id, text, label, translation"):
        list(HuggingFace(name="films", text="body").build().documents())


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the datasets library is installed")
def test_without_the_library() -> None:
    with pytest.raises(
        WeftError, match=r"hf:some/name: reading it needs the datasets library \(pip install 'weft\[hf\]'"
    ):
        load(Source, "hf:some/name").build()
