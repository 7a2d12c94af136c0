"""The English that every Python installation brings: the language reference and the docstrings of its library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from weft.data.documents import Document
from weft.data.python_library import LibraryCorpus, Module, standard_library
from weft.data.sources import Source

TOPICS = "pydoc_data/topics.py"


class PythonDocs(Source, kind="python-docs"):
    """English from the Python installation: `pydoc_data.topics` and every docstring of the standard library."""

    similarity: float = Field(0.8, gt=0, le=1)
    """a document of whose runs of three words this share stands in one other document is left out"""

    part: Literal["all", "reference", "docstrings"] = "all"
    """all of it, the language reference alone, or the docstrings alone"""

    def build(self) -> PythonDocsCorpus:
        return PythonDocsCorpus(self.similarity, standard_library(), self.part)


class PythonDocsCorpus(LibraryCorpus):
    """Topics, then docstrings by module and line. Ids: `pydoc_data.topics:for`, `email.message.Message.walk`."""

    name = "python-docs"

    def __init__(self, similarity: float, library: Path, part: str = "all") -> None:
        super().__init__(similarity, library)
        self.part = part

    def found(self) -> Iterator[Document]:
        modules = list(self.modules())
        for module in modules:
            if module.file == TOPICS and self.part != "docstrings":
                yield from _topics(module)
        for module in modules:
            if module.file != TOPICS and self.part != "reference":
                for item in module.described():
                    yield Document(item.id, item.text, group=module.name)


def _topics(module: Module) -> Iterator[Document]:
    """The chapters that `help("for")` shows."""
    for node in module.tree().body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                if text.strip():
                    yield Document(f"{module.name}:{topic}", text.strip())
