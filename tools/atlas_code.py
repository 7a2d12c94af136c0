"""The lines of code of a part, for its page: its declaration, and what computes it, without what it tells of itself."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from atlas_parts import ours

from weft.nn import Mask, Module
from weft.nn.part import ModelPart

TOLD = frozenset({"equations", "words", "named", "derived", "bend", "symbol", "formula", "trials"})
"""What a declaration tells of itself for equations, drawings and tests: the page shows it already, or need not."""
PLAIN = (*Module.__mro__, Mask, ModelPart)
"""Bases of all parts."""
Declared = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Code:
    """Lines of one file."""

    file: str
    """below src/"""
    names: tuple[str, ...]
    text: str

    @property
    def count(self) -> int:
        """Lines that are not empty."""
        return sum(1 for line in self.text.splitlines() if line.strip())


def declaration(part: type[ModelPart]) -> list[Code]:
    """The class of the options, and those of its slot that it has options or ways from."""
    return _by_file(_declaring(part))


def _declaring(part: type[ModelPart]) -> list[type]:
    base = next(above for above in part.__mro__ if vars(above).get("slot") == part.slot)
    return [cls for cls in part.__mro__ if cls not in base.__mro__ and ours(cls)]


def computing(made: Iterable[Any], part: type[ModelPart]) -> list[Code]:
    """What the part becomes, and what that calls in its own file."""
    found = dict.fromkeys(kind for thing in made for kind in _classes(thing))
    found |= dict.fromkeys(helper for cls in [*found, *_declaring(part)] for helper in _helpers(cls))
    return _by_file(thing for thing in found if thing not in part.__mro__)


def below(made: Iterable[Any], part: type[ModelPart]) -> list[Code]:
    """The classes that those of `computing` are built upon."""
    classes = dict.fromkeys(kind for thing in made for kind in _classes(thing))
    bases = dict.fromkeys(base for cls in classes for base in cls.__mro__ if base not in PLAIN and ours(base))
    return _by_file(base for base in bases if base not in classes and base not in part.__mro__)


def _classes(thing: Any) -> list[type]:
    return list(_masks(thing)) if isinstance(thing, Mask) else [type(thing)]


def _masks(mask: Mask) -> Iterator[type]:
    """The classes of a mask and of those that it is made of."""
    for inside in getattr(mask, "pair", ()):
        yield from _masks(inside)
    yield type(mask)


@cache
def _helpers(thing: Any) -> list[Any]:
    """Functions and small classes of the same file that are named in the lines that are shown."""
    module, node = sys.modules[thing.__module__], _stated(thing)
    cut = {id(inside) for item in _telling(node) for inside in ast.walk(item)}
    named = [item.id for item in ast.walk(node) if isinstance(item, ast.Name) and id(item) not in cut]
    found = [vars(module).get(name) for name in dict.fromkeys(named)]
    return [item for item in found if _small(item) and item.__module__ == thing.__module__ and item is not thing]


def _small(thing: Any) -> bool:
    """Whether it is a function, or a class that computes nothing by itself."""
    whole = ModelPart | Module | Mask
    return isinstance(thing, FunctionType) or (isinstance(thing, type) and not issubclass(thing, whole))


@cache
def _file(path: str) -> tuple[list[str], dict[str, Declared]]:
    """A file's lines, and the classes and functions in it by name."""
    text = Path(path).read_text(encoding="utf-8")
    kinds = (ast.ClassDef, ast.FunctionDef)
    return text.splitlines(), {item.name: item for item in ast.parse(text).body if isinstance(item, kinds)}


def _stated(thing: Any) -> Declared:
    """The class or function as its file states it."""
    return _file(inspect.getsourcefile(thing) or "")[1][thing.__name__]


def _telling(node: Declared) -> list[ast.stmt]:
    """What a class tells of itself."""
    inside = node.body if isinstance(node, ast.ClassDef) else []
    return [
        item for item in inside if TOLD & set([item.name] if isinstance(item, ast.FunctionDef) else _assigned(item))
    ]


@cache
def shown(thing: Any) -> str:
    """The source of a class or a function without the methods that tell of it."""
    lines, node = _file(inspect.getsourcefile(thing) or "")[0], _stated(thing)
    cut = {number for item in _telling(node) for number in range(_first(item), (item.end_lineno or 0) + 1)}
    kept = [lines[number - 1] for number in range(_first(node), (node.end_lineno or 0) + 1) if number not in cut]
    return "\n".join(_single(kept)).rstrip()


def _first(node: ast.stmt) -> int:
    """The line on which it begins, decorators included."""
    return min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])


def _assigned(item: ast.stmt) -> list[str]:
    """Names that a statement gives a value."""
    targets = item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _single(lines: Iterable[str]) -> Iterator[str]:
    """The lines with one empty line where there are several."""
    before = "."
    for line in lines:
        if line.strip() or before.strip():
            yield line
        before = line


def _by_file(things: Iterable[Any]) -> list[Code]:
    """The sources, file by file, in the order in which they stand there."""
    files: dict[str, list[Any]] = {}
    for thing in things:
        files.setdefault(f"{thing.__module__.replace('.', '/')}.py", []).append(thing)
    found = []
    for path, inside in files.items():
        inside.sort(key=lambda thing: _stated(thing).lineno)
        names = tuple(thing.__name__ for thing in inside)
        found.append(Code(path, names, "\n\n\n".join(map(shown, inside))))
    return found
