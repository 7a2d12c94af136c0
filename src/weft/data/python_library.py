"""The standard library that every Python installation brings, as text: its source files and what their docstrings say.

Source files are read, never imported, so that what a module does on import does not matter.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.data.deduplicate import near_duplicates
from weft.data.documents import Corpus, Document
from weft.errors import WeftError

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
_NOT_FOR_USE = {"test", "tests", "idle_test", "idlelib", "turtledemo"}  # tests, and programs that only live here
NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Described:
    """A module, class or function that has a docstring."""

    id: str
    """dotted name: `email.message.Message.walk`; a later one of the same name gets `#2`"""
    node: ast.Module | NAMED
    text: str
    """the docstring, without its indentation"""


@dataclass(frozen=True)
class Module:
    """A source file of the library."""

    file: str
    """path within the library"""
    source: str

    @property
    def name(self) -> str:
        """The name that imports it."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """The name before the first dot; that of `decimal` for `_pydecimal`, which is what it is written in."""
        return self.name.partition(".")[0].removeprefix("_py")

    def tree(self) -> ast.Module:
        """The syntax tree; an empty one for what this Python cannot read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings
            try:
                return ast.parse(self.source)
            except (SyntaxError, ValueError):
                return ast.Module(body=[], type_ignores=[])

    def described(self) -> Iterator[Described]:
        """Everything with a docstring, by line, outer before inner."""
        used: Counter[str] = Counter()
        for name, node in _walk(self.tree(), self.name):
            text = (ast.get_docstring(node) or "").strip()
            if text:
                used[name] += 1
                yield Described(f"{name}#{used[name]}" if used[name] > 1 else name, node, text)


class LibraryCorpus(Corpus):
    """Documents made from the library's files, held in memory: some megabytes, however large a user's text is."""

    def __init__(self, similarity: float, library: Path) -> None:
        self.similarity = similarity
        self.library = library
        self.files = python_files(library)
        if not self.files:
            raise WeftError(
                f"{library}: the source files of Python's standard library are not here; set data.source to a text"
                " file of your own"
            )

    def found(self) -> Iterator[Document]:
        """The documents, near-duplicates among them."""
        raise NotImplementedError

    def documents(self) -> Iterator[Document]:
        yield from self._documents

    def stamp(self) -> Any:
        stats = [(name, (self.library / name).stat()) for name in self.files]
        files = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]
        return [sys.version, str(self.library), files]

    def modules(self) -> Iterator[Module]:
        """The source files, decoded as each says itself (PEP 263); one that is not what it says is passed over."""
        for file in self.files:
            try:
                with tokenize.open(self.library / file) as source:
                    yield Module(file, source.read())
            except (SyntaxError, UnicodeDecodeError):
                continue

    @cached_property
    def _documents(self) -> list[Document]:
        found = list(self.found())
        duplicate = near_duplicates([document.text for document in found], self.similarity)
        self.duplicates_removed = sum(duplicate)
        return [document for document, repeated in zip(found, duplicate, strict=True) if not repeated]


def standard_library() -> Path:
    """Where this Python's library lies."""
    return Path(sysconfig.get_path("stdlib"))


def python_files(library: Path) -> list[str]:
    """Source files of the library, by path within it, in an order that is the same on every system."""
    found = []
    for folder, folders, names in os.walk(library):
        skipped = _NOT_THE_LIBRARY | _NOT_FOR_USE
        folders[:] = [name for name in folders if name not in skipped and name.isidentifier()]
        inside = Path(folder).relative_to(library)
        found += [(inside / name).as_posix() for name in names if name.endswith(".py") and name[:-3].isidentifier()]
    return sorted(found)


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Module | NAMED]]:
    """The module, classes and functions at and below `node`, with their dotted names."""
    if isinstance(node, NAMED):
        name = f"{name}.{node.name}"
    if isinstance(node, ast.Module | NAMED):
        yield name, node
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):  # expressions have no docstrings within
        for child in getattr(node, block, ()):
            yield from _walk(child, name)
