"""Plugins: files of a user's own parts. A recipe names them; nothing else runs them unasked."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from weft.errors import WeftError

_loaded: set[str] = set()
"""SHA-256 of what was run in this process."""


def load_plugins(names: Iterable[str | Path], base: Path = Path()) -> dict[Path, str]:
    """Run these Python files (relative to `base`), so that their parts register; returns each one's SHA-256.

    Raises WeftError when a file is missing or fails.
    """
    return {base / name: _load(base / name) for name in names}


def _load(path: Path) -> str:
    name = str(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise WeftError(f"plugins: {name}: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    if digest in _loaded:
        return digest
    module_name = f"weft_plugin_{path.stem}_{digest[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise WeftError(f"plugins: {name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
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
