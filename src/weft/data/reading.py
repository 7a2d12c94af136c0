"""Bytes to text, block by block: encodings, byte-order marks, lines; what is wrong is said with its place."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from weft.data.unpacking import BLOCK, Readable, opened, packing_of
from weft.errors import WeftError

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which begins alike
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SIGNS = {
    b"\x1f\x8b": ".gz",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"PAR1": ".parquet",
    b"PK\x03\x04": ".zip",
}
"""How files begin that are something else than text."""


def blocks(path: Path, name: str, encoding: str = "utf-8") -> Generator[str, None, None]:
    """The text of a file, plain or packed, as `decoded` gives it."""
    with opened(path, name, packing_of(path.name)) as file:
        yield from decoded(file, name, encoding)


def decoded(file: Readable, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a stream in blocks; line ends stay as they are, a byte-order mark is dropped.

    Raises WeftError with the line, the offset and the byte of what is not in that encoding.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(encoding) else encoding)()
    line, offset = 1, 0
    while True:
        data = file.read(BLOCK) or b""
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


def lines(texts: Iterable[str], most: int) -> Iterator[str | None]:
    """The lines of a text that comes in blocks, without their ends; only LF and CR LF end a line.

    None stands for a line of more than `most` characters, as soon as that is known; it is never held whole.
    """
    begun: list[str] = []  # of a line that goes on in the next block
    length, dropped = 0, False
    for block in texts:
        first, *others = block.split("\n")
        length += len(first)
        if not dropped:
            begun.append(first)
            if length > most:
                dropped, begun = True, []
                yield None
        if others:
            if not dropped:
                yield "".join(begun).removesuffix("\r")
            *whole, last = others
            for line in whole:
                yield line.removesuffix("\r") if len(line) <= most else None
            begun, length, dropped = [last], len(last), False
    if length and not dropped:
        yield "".join(begun) if length <= most else None


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
    for sign, ending in _SIGNS.items():
        if data.startswith(sign) and (not sign.isascii() or b"\0" in data):
            raise WeftError(f"{name}: begins as a {ending} file does, and is no text; name it by its ending ({ending})")
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
