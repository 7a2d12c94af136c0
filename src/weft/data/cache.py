"""Where prepared data lies: folders named by what they were made from, complete or not there at all."""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from weft.errors import WeftError
from weft.runs.atomic import DiskError, new_folder, write_text

_STALE = 24 * 3600
"""Seconds after which what a killed process left is removed."""


class Cache:
    """A folder that any number of processes share. It may be deleted at any time when none runs."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder else default_folder()

    def note(self, name: str) -> str | None:
        """The text kept under `name`, if there is one."""
        try:
            return (self.folder / f"{name}.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def keep_note(self, name: str, text: str) -> None:
        """Keep a text under `name`."""
        self._writable()
        write_text(self.folder / f"{name}.json", text)

    def folder_for(self, name: str) -> Path:
        """Where the folder called `name` is, or would be."""
        return self.folder / name

    def make(self, name: str, fill: Callable[[Path], None], complete: Callable[[Path], bool]) -> Path:
        """The folder called `name`, filled by `fill` unless `complete` says that it is there.

        Another process may make the same one meanwhile: whoever is first wins.
        Raises WeftError when the folder cannot be written, DiskError when the disk is full; then nothing is left.
        """
        target = self.folder_for(name)
        if complete(target):
            return target
        self._writable()
        self._sweep(target.parent)
        mine = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            with new_folder(mine) as temporary:
                fill(temporary)
        except DiskError:
            raise DiskError(
                f"{self.folder}: the disk is full; free some space, or set WEFT_CACHE to a folder on another"
            ) from None
        try:
            mine.rename(target)
        except OSError:  # there is one already
            if not complete(target):
                shutil.rmtree(target, ignore_errors=True)
                mine.rename(target)
            shutil.rmtree(mine, ignore_errors=True)
        return target

    def _writable(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WeftError(
                f"{self.folder}: the cache folder cannot be made ({error.strerror}); set WEFT_CACHE to another"
            ) from None

    def _sweep(self, parent: Path) -> None:
        for entry in parent.glob("*.*"):
            if entry.is_dir() and entry.stat().st_mtime < time.time() - _STALE:
                shutil.rmtree(entry, ignore_errors=True)


def default_folder() -> Path:
    """$WEFT_CACHE, or where this system keeps caches."""
    if os.environ.get("WEFT_CACHE"):
        return Path(os.environ["WEFT_CACHE"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "weft" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "weft"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft"
