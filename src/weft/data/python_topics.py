"""Text classification that every Python installation brings: which module of the library a docstring belongs to.

The names of the modules are masked in the texts, so that a docstring does not tell where it stands by naming it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, field_validator

from weft.config.slot import did_you_mean
from weft.data.documents import Document
from weft.data.python_library import LibraryCorpus, Module, standard_library
from weft.data.sources import Source
from weft.errors import WeftError

# those with many docstrings in every Python from 3.11 on
MODULES = (
    *("asyncio", "decimal", "email", "http", "importlib", "inspect", "logging", "mailbox", "multiprocessing"),
    *("tarfile", "tkinter", "turtle", "typing", "unittest", "urllib", "xml"),
)
LEAST_WORDS = 5
"""Words that a docstring must have: fewer say too little to tell modules apart."""


class PythonTopics(Source, kind="python-topics"):
    """Classification: docstrings of the standard library, and which module (the label) each belongs to."""

    modules: tuple[str, ...] = MODULES
    """the labels: modules or packages of the library, by the name before the first dot"""
    similarity: float = Field(0.8, gt=0, le=1)
    """a docstring of whose runs of three words this share stands in one other docstring is left out"""

    @field_validator("modules")
    @classmethod
    def _at_least_two(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(modules)) < 2:
            raise ValueError("names fewer than two modules, which leaves nothing to tell apart")
        return modules

    def build(self) -> PythonTopicsCorpus:
        return PythonTopicsCorpus(self.similarity, standard_library(), self.modules)


class PythonTopicsCorpus(LibraryCorpus):
    """Docstrings by module and line, those of the same own name not torn apart. Ids: `email.message.Message.walk`."""

    name = "python-topics"
    fields = ("label",)

    def __init__(self, similarity: float, library: Path, labels: tuple[str, ...] = MODULES) -> None:
        super().__init__(similarity, library)
        here = {Module(file, "").package for file in self.files}
        self.labels = tuple(label for label in labels if label in here)
        absent = [label for label in labels if label not in here]
        for label in absent:
            if label not in MODULES:
                raise WeftError(
                    f"data.source.modules: no module {label!r} in this Python's library{did_you_mean(label, here)}"
                )
        if len(self.labels) < 2:
            raise WeftError(f"{library}: too little of Python's standard library is here to tell its modules apart")
        if absent:  # some systems leave out what needs a display
            self.notes = (f"source: {self.name} does without {', '.join(absent)}, not in this Python's library",)

    def found(self) -> Iterator[Document]:
        names = re.compile(rf"\b({'|'.join(map(re.escape, self.labels))})\b", re.IGNORECASE)
        for module in self.modules():
            if module.package in self.labels:
                for item in module.described():
                    text = names.sub("_", item.text)
                    own = item.id.rpartition(".")[2].partition("#")[0]
                    if len(re.findall(r"[^\W_]+", text)) >= LEAST_WORDS:
                        yield Document(item.id, text, group=own, fields={"label": module.package})
