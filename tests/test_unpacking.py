"""Packed files and archives: the same text as unpacked, damage in one line, and hostile ones in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.config import load
from weft.data import archives, tables
from weft.data.documents import Corpus
from weft.data.sources import Source
from weft.errors import WeftError


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}
TEXT = "Trăm năm trong cõi người ta,\nchữ tài chữ mệnh khéo là ghét nhau.\n" * 10_000
TABLES = {
    "a.txt": TEXT,
    "a.jsonl": '{"text": "one", "label": "x"}\n',
    "a.csv": 'text,label\n"o\nne",x\n',
    "a.tsv": 'text\tlabel\no"ne\tx\n',
}


def opened(path: Path, **options: Any) -> Corpus:
    return load(Source, {"path": str(path), **options}).build()


def read(path: Path, **options: Any) -> dict[str, str]:
    return {document.id: document.text for document in opened(path, **options).documents()}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", PACK)
def test_packed_is_as_unpacked(tmp_path: Path, ending: str) -> None:
    for name, content in TABLES.items():
        plain = write(tmp_path / name, content.encode())
        packed = write(tmp_path / (name + ending.upper()), PACK[ending](content.encode()))
        assert [*read(packed).values()] == [*read(plain).values()]
    half = len(TEXT.encode()) // 2
    first, second = TEXT.encode()[:half], TEXT.encode()[half:]
    joined = write(tmp_path / f"b.txt{ending}", PACK[ending](first) + PACK[ending](b"") + PACK[ending](second))
    assert "".join(read(joined).values()) == TEXT, "packed files may be joined"
    assert opened(joined).size() == 3 * joined.stat().st_size


@pytest.mark.parametrize("ending", PACK)
def test_damaged_files_are_one_line(tmp_path: Path, ending: str) -> None:
    packed = PACK[ending](TEXT.encode())
    middle = len(packed) // 2
    cases = {
        "cut": packed[:-5],
        "half": packed[:middle],
        "start": packed[:3],
        "none": b"plain text that was never packed",
        "tail": packed + b"some words after the end",
        "changed": packed[: middle - 20] + bytes(40) + packed[middle + 20 :],
    }
    for name, data in cases.items():
        path = write(tmp_path / f"{name}.txt{ending}", data)
        with pytest.raises(WeftError, match=rf"{name}\.txt\{ending}: a damaged \{ending} file \(.+\)") as found:
            read(path)
        assert "\n" not in str(found.value)
    lying = write(tmp_path / "a.txt", packed)
    with pytest.raises(WeftError, match=rf"a\.txt: begins as a \{ending} file does, .* name it by its ending"):
        read(lying)


def test_a_small_file_may_hold_only_so_much(tmp_path: Path) -> None:
    for ending, pack in PACK.items():
        path = write(tmp_path / f"a.txt{ending}", pack(TEXT.encode()))
        most = len(TEXT.encode())
        assert "".join(read(path, max_unpacked=most).values()) == TEXT
        with pytest.raises(WeftError, match=r"unpacks to more than .*, set data\.source\.max_unpacked to more"):
            read(path, max_unpacked=most - 1)
    table = pa.table({"text": ["a" * 1000] * 100 + ["b" * 5000]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(WeftError, match=r"a\.parquet: holds .*, set data\.source\.max_unpacked to more"):
        read(tmp_path / "a.parquet", max_unpacked=5000)


def test_a_parquet_file_that_unpacks_to_far_more_than_text_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 2_000_000]}), path, compression="zstd", use_dictionary=False)
    assert len(read(path)) == 2
    monkeypatch.setattr(tables, "_BOMB", 1 << 20)
    with pytest.raises(WeftError, match=r"a\.parquet: \d+ B of 'text' unpack to 2\.0 MB: no text"):
        read(path)


# archives


def archive(path: Path, members: dict[str, bytes], mode: str = "w", **changes: dict[str, Any]) -> Path:
    """A tar file; `changes` are attributes of a member's header, by its name."""
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.get(name, {}).items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"])
def test_archives_are_read_in_their_order(tmp_path: Path, ending: str) -> None:
    members = {"./b/z.txt": TEXT.encode(), **{f"b/{name}": text.encode() for name, text in TABLES.items()}}
    members |= {
        f"b/{name}{how}": pack(TABLES[name].encode()) for name in ("a.csv", "a.txt") for how, pack in PACK.items()
    }
    plain = archive(tmp_path / "plain.tar", {"b/": b"", **members}, b={"type": tarfile.DIRTYPE})
    pack = {".tar": bytes, ".tgz": gzip.compress}.get(ending) or PACK[ending.removeprefix(".tar")]
    path = write(tmp_path / f"a{ending}", pack(plain.read_bytes()))
    found = read(path)
    assert [id.removesuffix("#1").removesuffix("#2") for id in found] == [name.removeprefix("./") for name in members]
    assert found["b/z.txt"] == found["b/a.txt"] == found["b/a.txt.zst"] == TEXT
    assert found["b/a.csv#2"] == found["b/a.csv.xz#2"] == "o\nne"
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / path.name)
    assert list(read(folder)) == [f"{path.name}/{id}" for id in found]
    assert [entry.name for entry in folder.iterdir()] == [path.name], "nothing is unpacked to disk"


def test_members_that_are_no_texts_of_the_archive_are_left_out(tmp_path: Path) -> None:
    names = (
        "/etc/a.txt",
        "../b.txt",
        "c/../../d.txt",
        "link.txt",
        "hard.txt",
        "pipe.txt",
        "._e.txt",
        ".f.txt",
        "g.bin",
    )
    types = {"link.txt": tarfile.SYMTYPE, "hard.txt": tarfile.LNKTYPE, "pipe.txt": tarfile.FIFOTYPE}
    changes = {name: {"type": type, "linkname": "/etc/passwd", "size": 0} for name, type in types.items()}
    path = archive(tmp_path / "a.tar", {"x.txt": b"one", **dict.fromkeys(names, b"odd"), "y.txt": b"two"}, **changes)
    archive(path, {"x.txt": b"again", "n" * 1001 + ".txt": b"long"}, "a")
    corpus = opened(path)
    assert {d.id: d.text for d in corpus.documents()} == {"x.txt": "one", "y.txt": "two", "x.txt@2": "again"}
    assert corpus.left_out == ("source: not read: 4 named for another place, 3 links or devices, 1 hidden, 1 .bin",)


def test_damaged_archives_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{letter}.txt": letter.encode() * 5000 for letter in "abc"}
    whole = archive(tmp_path / "a.tar", members).read_bytes()
    member = 512 + 5120
    cases = {
        "content": whole[: member + 2000],
        "header": whole[: member + 100],
        "between": whole[:member],
        "garbage": whole[:member] + b"no header " * 200,
        "none": b"plain text" * 200,
        "empty": b"\n",
    }
    for name, data in cases.items():
        with pytest.raises(WeftError, match=rf"{name}\.tar: a damaged \.tar file \(.+\)") as found:
            read(write(tmp_path / f"{name}.tar", data))
        assert "\n" not in str(found.value)
        packed = write(tmp_path / f"{name}.tar.zst", zstd(data))
        with pytest.raises(WeftError, match=rf"{name}\.tar\.zst: a damaged \.tar file"):
            read(packed)
    inner = archive(tmp_path / "inner.tar", {"a.txt.gz": gzip.compress(b"x" * 9999)[:-20]})
    with pytest.raises(WeftError, match=r"inner\.tar: a\.txt\.gz: a damaged \.gz file"):
        read(inner)
    outer = write(tmp_path / "outer.tar.xz", lzma.compress(whole)[:-40])
    with pytest.raises(WeftError, match=r"outer\.tar\.xz: a damaged \.xz file"):
        read(outer)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    with pytest.raises(WeftError, match=r"a\.tar: more than 2 files; make several archives"):
        read(tmp_path / "a.tar")


# hostile files

SPACES = b" " * (1 << 20)


def pax_bomb(path: Path) -> None:
    """An archive whose extended header claims, and has, 200 MB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 200 << 20
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(200):
            file.write(b"0" * (1 << 20))


def filled(open_: Callable[[Path], Any], start: bytes, part: bytes = SPACES) -> Callable[[Path], None]:
    """Writes 160 MB after `start`."""

    def make(path: Path) -> None:
        with open_(path) as file:
            file.write(start)
            for _ in range((160 << 20) // len(part)):
                file.write(part)

    return make


def gz(path: Path) -> Any:
    return gzip.open(path, "wb", 1)


def xz(path: Path) -> Any:
    return lzma.LZMAFile(path, "wb", preset=0)


def zst(path: Path) -> Any:
    return pa.CompressedOutputStream(str(path), "zstd")


def plain(path: Path) -> Any:
    return path.open("wb")


def dictionary(path: Path) -> None:
    """One text of 1 MB in 300 rows, which is stored once."""
    numbers = pa.array([0] * 300, pa.int32())
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 1_000_000]))}), path)


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "spaces.txt.gz": (filled(gz, b""), "1[67]\\d documents"),
    "zeros.txt.zst": (filled(zst, b"", bytes(1 << 20)), "NUL bytes"),
    "line.jsonl.zst": (filled(zst, b'{"text": "'), "line 1: the line is longer than 16,000,000"),
    "line.tsv": (filled(plain, b"text\tlabel\n"), "line 2: the line is longer"),
    "cell.csv.xz": (
        filled(xz, b'text,label\n"'),
        "line 2: the row is longer",
    ),
    "quote.csv.gz": (filled(gz, b'text,label\n"', b"abc,d\n" * 100_000), "line 2: the row .* not closed"),
    "header.tar.gz": (pax_bomb, "a header of more than"),
    "dictionary.parquet": (dictionary, "300 documents"),
}
READ = """
import resource, sys
from weft.config import load
from weft.data.sources import Source
from weft.errors import WeftError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(1 for _ in load(Source, sys.argv[1]).build().documents()), "documents")
except WeftError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
@pytest.mark.parametrize("name", BOMBS)
def test_hostile_files_are_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    make, expected = BOMBS[name]
    path = tmp_path / name
    make(path)
    run = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    said, kilobytes = run.stdout.strip().rsplit("\n", 1)
    assert re.search(expected, said), said
    assert int(kilobytes) < 100_000, f"{said}: {kilobytes} kB"
