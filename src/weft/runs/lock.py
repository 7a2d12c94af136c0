"""One at a time: whoever works in a folder holds it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weft.errors import WeftError
from weft.runs.atomic import disk_errors

LOCK = ".lock"
"""The file in a folder that is held; the system lets go of it when a process ends, however that ends."""


@contextmanager
def held(folder: Path, taken: str) -> Iterator[None]:
    """Work in `folder`, which is there, as the only process.

    Raises WeftError when another one does: `taken` says what it does, and what can be done about it.
    """
    lock = FileLock(folder / LOCK)
    try:
        with disk_errors(folder):
            lock.acquire(blocking=False)
    except Timeout:
        raise WeftError(f"{folder}: {taken}") from None
    try:
        yield
    finally:
        lock.release()
