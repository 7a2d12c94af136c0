"""Bytes on disk to text, block by block: encodings, byte-order marks, gzip; what is wrong is said with its place."""

from __future__ import annotations

import codecs
import difflib
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from weft.errors import WeftError

BLOCK = 1 << 18
"""Bytes read at a time."""

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which begins alike
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def blocks(path: Path, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file, plain or .gz, in blocks; line ends stay as they are, a byte-order mark is dropped.

    Raises WeftError with the line, the offset and the byte of what is not in that encoding.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(encoding) else encoding)()
    line, offset = 1, 0
    with _open(path, name) as file:
        while True:
            data = file.read(BLOCK)
            if offset == 0:
                _check_start(data, name, encoding)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # what the decoder held back stands before this block
                raise _not_in(encoding, name, line, offset - waiting, error) from None
            if "\0" in text:
                raise _binary(name)
            line += text.count("\n")
            offset += len(data)
            if text:
                yield text
            if not data:
                return


def lines(path: Path, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file without their ends; only LF and CR LF end a line."""
    begun: list[str] = []  # of a line that goes on in the next block
    for block in blocks(path, name, encoding):
        first, *others = block.split("\n")
        begun.append(first)
        for following in others:
            yield "".join(begun).removesuffix("\r")
            begun = [following]
    if last := "".join(begun):
        yield last


def missing(path: Path) -> WeftError:
    """One line on a path that does not exist: what is near."""
    parent = path.parent
    if parent.is_dir():
        near = difflib.get_close_matches(path.name, sorted(entry.name for entry in parent.iterdir()), n=1)
        hint = f"did you mean {parent / near[0]}?" if near else f"the folder {parent} holds no such name"
    else:
        while not parent.is_dir() and parent != parent.parent:
            parent = parent.parent
        hint = f"of this path only {parent} exists"
    return WeftError(f"{path}: no such file or folder; {hint}")


def known_encoding(encoding: str) -> str:
    """The encoding's name, if Python can read text in it.

    Raises ValueError.
    """
    try:
        if codecs.lookup(encoding)._is_text_encoding:
            return encoding
    except LookupError:
        pass
    raise ValueError("no encoding that is known (such as utf-8, utf-16, latin-1, cp1252, cp1258, gb18030)")


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


@contextmanager
def _open(path: Path, name: str) -> Iterator[BinaryIO]:
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WeftError(f"{name}: a damaged .gz file ({error}); get it again") from None
    except OSError as error:
        raise WeftError(f"{name}: cannot be read ({error.strerror or error})") from None


def _check_start(data: bytes, name: str, encoding: str) -> None:
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if wide:
        return
    for mark, found in _MARKS.items():
        if data.startswith(mark):
            raise WeftError(
                f"{name}: begins with the mark of {found.upper()} ({mark.hex(' ').upper()}), not {encoding}; set"
                f" data.source.encoding={found}, or convert it to UTF-8 (iconv -f {found} -t utf-8)"
            )
    if b"\0" in data:
        raise _binary(name)


def _binary(name: str) -> WeftError:
    return WeftError(
        f"{name}: holds NUL bytes, so it is a binary file, no text (or UTF-16 without a mark: then set"
        " data.source.encoding=utf-16-le)"
    )


def _not_in(encoding: str, name: str, line: int, base: int, error: UnicodeDecodeError) -> WeftError:
    before = error.object[: error.start].decode(encoding, errors="ignore").count("\n")
    byte = f"byte 0x{error.object[error.start]:02X} at offset {base + error.start:,}"
    return WeftError(
        f"{name} line {line + before}: {byte} is not {encoding} ({error.reason}); set data.source.encoding to what"
        " the file is written in (latin-1, cp1252, cp1258, utf-16, ...), or convert it to UTF-8"
    )
