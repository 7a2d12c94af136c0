"""Content addresses: of files, of plain data, of weft's own code."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
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
        if name in seen or any(name == other or name.startswith(f"{other}.") for other in excluded):
            continue
        seen.add(name)
        left += used_modules(root, name)
    seen.remove("weft")
    return of_data({name: code_of(path.read_text(encoding="utf-8")) for name in seen if (path := _file(root, name))})


@cache
def code_of(text: str) -> str:
    """SHA-256 of a module's syntax tree: what the interpreter sees, but for docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


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


def used_modules(root: Path, name: str) -> list[str]:
    """The modules of weft that a module imports, at its top or later; a name that a package passes on is looked up."""
    path = _file(root, name)
    if path is None:
        return []
    found: list[str] = []
    for module, names in _imports(path, path.stat().st_mtime_ns):
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
        for other, names in _imports(path, path.stat().st_mtime_ns):
            if name in names and other != module:
                return _home(root, other, name)
    return module


def _side_effects(root: Path, module: str, package: Path) -> list[str]:
    """Submodules that a package imports whole: they register what they hold."""
    lines = _imports(package, package.stat().st_mtime_ns)
    whole = [f"{other}.{name}" for other, names in lines if other == module for name in names]
    return [name for name in whole if _file(root, name) is not None]


@cache
def _imports(path: Path, changed: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each import of weft's modules, with the names taken from it; those for type checkers alone left out."""
    return tuple(_weft_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _weft_imports(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "weft":
            yield child.module or "", tuple(alias.name for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from ((alias.name, ()) for alias in child.names if alias.name.split(".")[0] == "weft")
        else:
            yield from _weft_imports(child)
