"""The English that every Python installation brings: the language reference and the docstrings of its library.

Source files are read, never imported, so that what a module does on import does not matter.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from weft.data.deduplicate import near_duplicates
from weft.data.documents import Corpus, Document
from weft.data.sources import Source
from weft.errors import WeftError

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
_NOT_ITS_PROSE = {"test", "tests", "idle_test", "idlelib", "turtledemo"}  # tests, and programs that only live here
_TOPICS = "pydoc_data/topics.py"
_NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonDocs(Source, kind="python-docs"):
    """English from the Python installation: `pydoc_data.topics` and every docstring of the standard library."""

    similarity: float = Field(0.8, gt=0, le=1)
    """a document of whose runs of three words this share stands in one other document is left out"""

    def build(self) -> PythonDocsCorpus:
        return PythonDocsCorpus(self.similarity, Path(sysconfig.get_path("stdlib")))


class PythonDocsCorpus(Corpus):
    """Topics, then docstrings by module and line. Ids: `pydoc_data.topics:for`, `email.message.Message.walk`."""

    name = "python-docs"

    def __init__(self, similarity: float, library: Path) -> None:
        self.similarity = similarity
        self.library = library
        self.files = [name for name in _python_files(library) if name != _TOPICS]
        if not self.files:
            raise WeftError(
                f"{library}: the source files of Python's standard library are not here; set data.source to a text"
                " file of your own"
            )

    def documents(self) -> Iterator[Document]:
        yield from self._documents

    def stamp(self) -> Any:
        stats = [(name, (self.library / name).stat()) for name in [*self.files, *self._topics_file()]]
        files = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]
        return [sys.version, str(self.library), files]

    @cached_property
    def _documents(self) -> list[Document]:
        found = [*self._topics(), *self._docstrings()]  # some megabytes, and the same however large a user's text is
        duplicate = near_duplicates([document.text for document in found], self.similarity)
        self.duplicates_removed = sum(duplicate)
        return [document for document, repeated in zip(found, duplicate, strict=True) if not repeated]

    def _topics_file(self) -> list[str]:
        return [_TOPICS] if (self.library / _TOPICS).is_file() else []

    def _topics(self) -> Iterator[Document]:
        """The chapters that `help("for")` shows."""
        for name in self._topics_file():
            for node in _parse(self.library / name).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                    for topic, text in sorted(ast.literal_eval(node.value).items()):
                        if text.strip():
                            yield Document(f"pydoc_data.topics:{topic}", text.strip())

    def _docstrings(self) -> Iterator[Document]:
        for name in self.files:
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            used: Counter[str] = Counter()
            for path, text in _described(_parse(self.library / name), (module,)):
                used[path] += 1
                again = f"#{used[path]}" if used[path] > 1 else ""
                yield Document(path + again, text, group=module)


def _python_files(library: Path) -> list[str]:
    """Source files of the library, by path within it, in an order that is the same on every system."""
    found = []
    for folder, folders, names in os.walk(library):
        skipped = _NOT_THE_LIBRARY | _NOT_ITS_PROSE
        folders[:] = [name for name in folders if name not in skipped and name.isidentifier()]
        inside = Path(folder).relative_to(library)
        found += [(inside / name).as_posix() for name in names if name.endswith(".py") and name[:-3].isidentifier()]
    return sorted(found)


def _parse(path: Path) -> ast.Module:
    """The syntax tree of a source file; an empty one for what this Python cannot read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _described(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every docstring at and below `node`, outer before inner, with the dotted name of what it describes."""
    if isinstance(node, _NAMED):
        path = (*path, node.name)
    if isinstance(node, ast.Module | _NAMED):
        text = ast.get_docstring(node)
        if text and text.strip():
            yield ".".join(path), text.strip()
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):  # expressions have no docstrings within
        for child in getattr(node, block, ()):
            yield from _described(child, path)
