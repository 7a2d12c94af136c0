"""Plugins: files of a user's own parts. A recipe names them; nothing else runs them unasked."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from weft.errors import WeftError

_loaded: set[str] = set()
"""SHA-256 of what was run in this process."""


class _Loader(SourceFileLoader):
    """Runs the bytes that were read, never a compiled copy beside the file, and leaves none in a run's folder."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.source, self.path)
        return code


def load_plugins(names: Iterable[str | Path], base: Path = Path()) -> dict[Path, str]:
    """Run these Python files (relative to `base`), so that their parts register; returns each one's SHA-256.

    Raises WeftError when a file is missing or fails.
    """
    return {base / name: _load(base / name) for name in names}


def _load(path: Path) -> str:
    name = str(path)
    if path.suffix != ".py":
        raise WeftError(f"plugins: {name}: not a Python file (.py)")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise WeftError(f"plugins: {name}: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    if digest in _loaded:
        return digest
    module_name = f"weft_plugin_{path.stem}_{digest[:8]}"
    loader = _Loader(module_name, path.resolve(), source)
    spec = importlib.util.spec_from_loader(module_name, loader)
    assert spec is not None, "a loader was given"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except WeftError as error:
        raise WeftError(f"plugins: {name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise WeftError(f"plugins: {name}: {type(error).__name__}: {error}") from error
    _loaded.add(digest)
    return digest


def require(needed: Mapping[str, str], folder: Path) -> None:
    """Make sure that the plugins which the run or model in `folder` was made with are loaded, the same bytes of them.

    Raises WeftError otherwise, naming the copy that the run keeps; it never runs them itself.
    """
    missing = [name for name, digest in needed.items() if digest not in _loaded]
    if not missing:
        return
    copies = [next(filter(Path.is_file, (above / name for above in (folder, *folder.parents[:3]))), Path(name))
              for name in missing]  # fmt: skip
    options = " ".join(f"--plugins {path}" for path in copies)
    raise WeftError(
        f"{folder}: made with {', '.join(missing)}, which is not loaded (or only another version of it); a plugin's"
        f" code runs only when asked for: {options}"
    )


def copies_of(loaded: Mapping[Path, str]) -> dict[str, Path]:
    """Where a run keeps its plugins, given with their SHA-256: path in its folder -> file.

    Raises WeftError when two files have one name.
    """
    copies: dict[str, Path] = {}
    for plugin, digest in loaded.items():
        other = copies.setdefault(f"plugins/{plugin.name}", plugin)
        if loaded[other] != digest:
            raise WeftError(f"plugins: {other} and {plugin} are different files of one name; rename one")
    return copies
