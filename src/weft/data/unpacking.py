"""Packed files as streams of bytes, in bounded memory: gzip, xz, bzip2, Zstandard; damage is said in one line."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from weft.errors import WeftError
from weft.report.formats import size

BLOCK = 1 << 18
"""Bytes read at a time."""
MOST = 100_000_000_000
"""Bytes to which one file may unpack unless said otherwise."""
_XZ_MEMORY = 1 << 28
"""Bytes that a .xz file may make its reader set aside; `xz -9` asks for a quarter of it."""
PACKINGS = (".gz", ".xz", ".zst", ".bz2")
"""The last ending of a packed file, which says how."""

Readable = BinaryIO | io.RawIOBase


def packing_of(name: str) -> str:
    """The ending of a packed file, or nothing."""
    return next((ending for ending in PACKINGS if name.lower().endswith(ending)), "")


@contextmanager
def opened(path: Path, name: str, packing: str = "", most: int = MOST) -> Iterator[Readable]:
    """A file's bytes, unpacked, to be read in the `with`; at most `most` of them if it is packed.

    Raises WeftError when it cannot be read, is damaged, or is larger unpacked.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise WeftError(f"{name}: cannot be read ({error.strerror or error})") from None
    with file, reading(name):
        yield unpacked(file, name, packing, most)


@contextmanager
def reading(name: str, packing: str = "") -> Iterator[None]:
    """What goes wrong while bytes of `name` are read, as one line."""
    try:
        yield
    except tarfile.TarError as error:
        raise _damaged(name, ".tar", error) from None
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(name, packing, error) from None
    except OSError as error:
        if packing and error.errno is None:  # not the system's word, but bzip2's or Zstandard's
            raise _damaged(name, packing, error) from None
        raise WeftError(f"{name}: cannot be read ({error.strerror or error})") from None


def unpacked(file: Readable, name: str, packing: str, most: int = MOST) -> Readable:
    """What a packed stream holds, as a stream of at most `most` bytes."""
    if not packing:
        return file
    source = cast(BinaryIO, file)
    if packing == ".gz":
        inner: Any = gzip.GzipFile(fileobj=source)
    elif packing == ".zst":
        arrow = pyarrow(name)
        inner = arrow.CompressedInputStream(arrow.PythonFile(file, mode="r"), "zstd")
    else:
        inner = _Joined(source, bz2.BZ2Decompressor if packing == ".bz2" else _xz)
    return _Unpacked(inner, name, packing, most)


def pyarrow(name: str, module: str = "pyarrow") -> Any:
    """A module of pyarrow, which takes a while to import and is needed by few.

    Raises WeftError when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise WeftError(f"{name}: reading it needs pyarrow (pip install pyarrow)") from None


class _Unpacked(io.RawIOBase):
    """A stream that says what is damaged, and ends where a small file turns out to hold more than anyone meant."""

    def __init__(self, inner: Any, name: str, packing: str, most: int) -> None:
        self._inner, self._name, self._packing, self._most, self._done = inner, name, packing, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with reading(self._name, self._packing):
            data = self._inner.read(len(buffer))
        self._done += len(data)
        if self._done > self._most:
            raise WeftError(
                f"{self._name}: unpacks to more than {size(self._most)}; if it is meant to be that large, set"
                " data.source.max_unpacked to more"
            )
        buffer[: len(data)] = data
        return len(data)


class _Joined:
    """The streams of a .bz2 or .xz file, which may follow one another, as one."""

    def __init__(self, file: BinaryIO, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._file, self._new, self._decoder = file, new, new()

    def read(self, most: int) -> bytes:
        while True:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data.lstrip(b"\0") or self._file.read(BLOCK).lstrip(b"\0")  # .xz is padded
                if not data:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input and not (data := self._file.read(BLOCK)):
                raise EOFError("it ends before its end mark")
            if found := self._decoder.decompress(data, most):
                return found


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


def _damaged(name: str, packing: str, error: Exception) -> WeftError:
    if isinstance(error, lzma.LZMAError) and "limit" in str(error):
        return WeftError(
            f"{name}: needs more than {size(_XZ_MEMORY)} of memory to be unpacked; pack it by xz -9 or less"
        )
    return WeftError(f"{name}: a damaged {packing} file ({error}); get it again")
