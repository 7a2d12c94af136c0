"""Content addresses: of files, of plain data, of weft's own code."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import weft


def of_data(data: Any) -> str:
    """SHA-256 of plain data, whatever the order of its mappings."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_code() -> str:
    """SHA-256 over weft's own source files."""
    root = Path(weft.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml"))
    return of_data({path.relative_to(root).as_posix(): of_file(path) for path in files})


def of_modules(names: Iterable[str], without: Iterable[str] = ()) -> str:
    """SHA-256 over the code of these modules and of every module of weft that they use, by their imports.

    Code is the syntax tree without docstrings and comments, so that an edited comment is the same code. `without`: the
    packages and modules that count for nothing, with all that they alone use.
    """
    root, left, seen = Path(weft.__file__).parent, list(names), {"weft"}  # which only passes names on
    excluded = tuple(without)
    while left:
        name = left.pop()
        if name not in seen and not any(name == other or name.startswith(f"{other}.") for other in excluded):
            seen.add(name)
            left += _used(root, name)
    seen.remove("weft")
    return of_data({name: _read(path).code for name in seen if (path := _file(root, name))})


def code_of(text: str) -> str:
    """SHA-256 of a module's syntax tree: what the interpreter sees, but for docstrings."""
    return _module(text).code


@dataclass(frozen=True)
class _Module:
    code: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    """each module of weft that it imports, with the names taken from it; those for type checkers alone left out"""


def _read(path: Path) -> _Module:
    return _read_once(path, path.stat().st_mtime_ns)


@cache
def _read_once(path: Path, changed: int) -> _Module:
    return _module(path.read_text(encoding="utf-8"))


def _module(text: str) -> _Module:
    tree, imports = ast.parse(text), list[tuple[str, tuple[str, ...]]]()
    tree.body = _cleaned(tree.body, imports)
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports))


def _cleaned(body: list[ast.stmt], imports: list[tuple[str, tuple[str, ...]]], typing: bool = False) -> list[ast.stmt]:
    """Statements without strings that stand alone (docstrings), here and below; adds to `imports`."""
    kept = [line for line in body if not _is_text(line)]
    for line in kept:
        if isinstance(line, ast.ImportFrom) and (line.module or "").split(".")[0] == "weft" and not typing:
            imports.append((line.module or "", tuple(alias.name for alias in line.names)))
        elif isinstance(line, ast.Import) and not typing:
            imports += [(alias.name, ()) for alias in line.names if alias.name.split(".")[0] == "weft"]
        checked = isinstance(line, ast.If) and isinstance(line.test, ast.Name) and line.test.id == "TYPE_CHECKING"
        for holder in (line, *getattr(line, "handlers", ()), *getattr(line, "cases", ())):
            for field in ("body", "orelse", "finalbody"):
                if isinstance(below := getattr(holder, field, None), list):
                    setattr(holder, field, _cleaned(below, imports, typing or checked))
    return kept


def _is_text(node: ast.AST) -> bool:
    """A string on a line of its own: a docstring, of a module, class, function or option."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _file(root: Path, name: str) -> Path | None:
    """The source of a module of weft; None for what is none (a user's plugin has its own hash)."""
    place = root.joinpath(*name.split(".")[1:]) if name.split(".")[0] == "weft" else None
    if place is None:
        return None
    found = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return found if found.is_file() else None


def _used(root: Path, name: str) -> list[str]:
    """The modules of weft that a module imports, at its top or later; a name that a package passes on is looked up."""
    path = _file(root, name)
    if path is None:
        return []
    found: list[str] = []
    for module, names in _read(path).imports:
        found += [_home(root, module, name) for name in names] if names else [module]
        if names and (package := _file(root, module)) is not None and package.name == "__init__.py":
            found += _side_effects(root, module, package)
    return found


def _home(root: Path, module: str, name: str) -> str:
    """Where `from module import name` finds it: a submodule, or what the package's __init__ has it from."""
    if _file(root, f"{module}.{name}") is not None:
        return f"{module}.{name}"
    path = _file(root, module)
    if path is not None and path.name == "__init__.py":
        for other, names in _read(path).imports:
            if name in names and other != module:
                return _home(root, other, name)
    return module


def _side_effects(root: Path, module: str, package: Path) -> list[str]:
    """Submodules that a package imports whole: they register what they hold."""
    whole = [f"{other}.{name}" for other, names in _read(package).imports if other == module for name in names]
    return [name for name in whole if _file(root, name) is not None]
