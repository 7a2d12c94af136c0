"""Writing so that a kill at any instant leaves what was there before, or what was meant, and nothing between."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.errors import WeftError

TEMPORARY = ".writing-"
"""How names of things half-written begin."""

_REFUSED = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG,
            errno.EIO, errno.EFBIG)  # fmt: skip


class DiskError(WeftError):
    """A disk that takes nothing more: what was there before is whole."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; on success it is synced to disk and becomes `path`.

    Raises DiskError when the disk is full; whatever goes wrong, `path` is not touched.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    try:
        with disk_errors(path):
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _sync(file)
            temporary.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            _sync(path.parent)
    except DiskError as error:
        raise DiskError(str(error).replace(str(temporary), str(path))) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step.

    Raises DiskError when the disk is full; the old file stays.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        except FileNotFoundError:  # the folder is there, but no place for files: /proc
            raise DiskError(f"{path}: cannot be written (nothing can be made in {path.parent})") from None
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the operating system says about a disk, as one line for a person."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"{path}: the disk is full; free some space") from None
        if error.errno in _REFUSED:
            raise DiskError(f"{path}: cannot be written ({error.strerror})") from None
        raise


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows syncs a folder with its files
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
