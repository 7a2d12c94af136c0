"""The files of a tar archive, one after another as they stand in it, in bounded memory; nothing is written to disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, cast

from weft.data.unpacking import BLOCK, Readable
from weft.errors import WeftError

MOST_MEMBERS = 2_000_000
"""Files of one archive: their names are remembered, so that none is used twice."""
_LONGEST_NAME = 1_000
_HEADER = 1 << 20
"""Bytes that may be read before a member begins: long names, extended attributes, maps of holes."""


def members(file: Readable, name: str, left_out: Callable[[str], None]) -> Iterator[tuple[str, str, Readable]]:
    """Each file of an archive: its id, its name within it, and its bytes, to be read before the next is asked for.

    Hidden files, links, devices, and names that lead out of the archive are left out, and told to `left_out`. An id is
    the name, with a number where it comes again: `a.txt@2`.
    Raises tarfile.TarError when the archive is damaged, which `opened` makes a WeftError of.
    """
    stream = _Forward(file, name)
    seen: dict[int, int] = {}
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
        for member in _each(archive, stream):
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or len(member.name) > _LONGEST_NAME:
                left_out("named for another place")
            elif member.isdir() or path.name.startswith("._"):
                continue  # the second are what a Mac adds to each file
            elif any(part.startswith(".") for part in path.parts):
                left_out("hidden")
            elif not member.isreg() or member.issparse():
                left_out("links or devices")
            elif content := archive.extractfile(member):
                again = seen[hash(path)] = seen.get(hash(path), 0) + 1
                if len(seen) > MOST_MEMBERS:
                    raise WeftError(f"{name}: more than {MOST_MEMBERS:,} files; make several archives of them")
                yield f"{path}@{again}" if again > 1 else str(path), str(path), cast(Readable, content)
    stream.check_end()


def _each(archive: tarfile.TarFile, stream: _Forward) -> Iterator[tarfile.TarInfo]:
    """The members, forgotten once they were read."""
    while True:
        stream.header = 0
        member = archive.next()
        stream.header = None
        if member is None:
            return
        archive.members = []  # type: ignore[attr-defined]
        yield member


class _Forward(io.RawIOBase):
    """A stream as tarfile wants it: with places to go to, forward only, and a bound on what is read of a header."""

    def __init__(self, file: Readable, name: str) -> None:
        self._file, self._name = file, name
        self._at = 0
        self._last = b""
        self.header: int | None = 0
        """bytes read since the last file's content; None while a content is read"""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if self.header is not None:
            self.header += size
            if self.header > _HEADER or size < 0:
                raise WeftError(f"{self._name}: a header of more than {_HEADER:,} bytes; this is no archive of texts")
        parts = []
        while size > 0 and (part := self._file.read(min(size, BLOCK))):
            parts.append(part)
            size -= len(part)
        self._last = b"".join(parts)
        self._at += len(self._last)
        return self._last

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == 0, "tarfile counts from the start"
        assert place >= self._at, "members are read in order"
        while self._at < place and (part := self._file.read(min(place - self._at, BLOCK))):
            self._at += len(part)
        return self._at

    def check_end(self) -> None:
        """tarfile takes damage after the first member, and a file that was cut between two, for the end."""
        if len(self._last) != tarfile.BLOCKSIZE or any(self._last):
            raise tarfile.ReadError("it ends without its end mark")
