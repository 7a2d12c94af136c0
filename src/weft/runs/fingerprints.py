"""Content addresses: of files, of plain data, of weft's own code."""

from __future__ import annotations

import hashlib
import json
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
