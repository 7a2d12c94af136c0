"""Sources: what is read, under which names, in which memory; every file that cannot be read is one line that helps."""

from __future__ import annotations

import gzip
import json
import os
import sysconfig
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from weft.config import load
from weft.data.deduplicate import near_duplicates
from weft.data.documents import Document, cut, pieces
from weft.data.files import FileCorpus, Files
from weft.data.huggingface import HuggingFace
from weft.data.python_docs import PythonDocs, PythonDocsCorpus
from weft.data.sources import Source
from weft.errors import ConfigError, WeftError

VIETNAMESE = "Trăm năm trong cõi người ta,\nchữ tài chữ mệnh khéo là ghét nhau.\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, **options: Any) -> list[Document]:
    return list(Files(path=str(path), **options).build().documents())


def texts(path: Path, **options: Any) -> dict[str, str]:
    return {document.id: document.text for document in read(path, **options)}


# short forms


def test_a_path_is_short_for_files(tmp_path: Path) -> None:
    assert load(Source, "some/where.txt") == Files(path="some/where.txt")
    assert load(Source, {"path": "x.txt", "encoding": "latin-1"}) == Files(path="x.txt", encoding="latin-1")
    assert load(Source, "python-docs") == PythonDocs()
    assert load(Source, {"path": "x.tsv", "text": 1}) == Files(path="x.tsv", text="1")
    assert load(Source, "hf:some/name") == HuggingFace(name="some/name")
    assert load(Source, "hf:name:small") == HuggingFace(name="name", config="small")
    with pytest.raises(ConfigError, match="did you mean 'python-docs'"):
        load(Source, "python-doc")


# what is read


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    text = "one\r\ntwo\rthree\n\n\x0c four" + VIETNAMESE
    assert texts(write(tmp_path / "a.txt", text)) == {"a.txt": text}, "not a character is changed"
    assert texts(write(tmp_path / "b.txt.gz", text)) == {"b.txt.gz": text}


def test_jsonl_lines_are_documents(tmp_path: Path) -> None:
    lines = [{"text": VIETNAMESE, "id": 7}, {"text": " \n"}, {"text": "b\u2028c"}]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).replace("\n", "\r\n\r\n")
    expected = {"a.jsonl#1": VIETNAMESE, "a.jsonl#5": "b\u2028c"}
    assert texts(write(tmp_path / "a.jsonl", content)) == expected
    body = write(tmp_path / "b.jsonl.gz", '{"body": "x"}')
    assert texts(body, text="body") == {"b.jsonl.gz#1": "x"}


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.jsonl", "B.TXT", ".hidden.txt", ".git/x.txt", "notes.md", "a.rst", "t.csv"):
        write(tmp_path / "data" / name, "text\nx" if name == "t.csv" else '{"text": "x"}')
    write(tmp_path / "data" / "empty.txt", " \n")
    corpus = Files(path=str(tmp_path / "data")).build()
    assert [document.id for document in corpus.documents()] == ["B.TXT", "a/b/c.jsonl#1", "a/z.txt", "b.txt", "t.csv#2"]
    assert corpus.notes == ("source: not read in data, for their endings: 1 .rst, 1 .md",)
    assert corpus.name == "data"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.txt", "a")
    (tmp_path / "data" / "again.txt").symlink_to(tmp_path / "data" / "a.txt")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert texts(tmp_path / "data") == {"a.txt": "a"}
    (tmp_path / "data" / "out.txt").symlink_to(write(tmp_path / "secret.txt", "s"))
    with pytest.raises(WeftError, match=r"out\.txt: a link that leaves the folder"):
        read(tmp_path / "data")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1258"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "naïve café\n" * 50_000  # more than a block
    path = write(tmp_path / "a.txt", text.encode(encoding))
    given = "utf-8" if encoding == "utf-8-sig" else encoding
    assert "".join(texts(path, encoding=given).values()) == text


def test_an_unknown_encoding_is_refused() -> None:
    for name in ("utf-9", "hex"):
        with pytest.raises(ConfigError, match=r"encoding = .*no encoding that is known"):
            load(Source, {"kind": "files", "path": "a.txt", "encoding": name})


# long documents


def test_long_documents_are_cut_at_white_space(tmp_path: Path) -> None:
    text = "chữ tài chữ mệnh " * 1000
    path = write(tmp_path / "a.txt", text)
    found = read(path, max_document=1500)
    assert "".join(document.text for document in found) == text
    assert [document.id for document in found] == [f"a.txt:{number}" for number in range(len(found))]
    assert {document.together for document in found} == {"a.txt"}
    assert all(1450 < len(document.text.encode()) <= 1500 for document in found[:-1])
    assert all(document.text[-1].isspace() for document in found)
    line = json.dumps({"text": text})
    same = read(write(tmp_path / "a.jsonl", line), max_document=1500)
    assert [document.text for document in same] == [document.text for document in found]
    assert [document.id for document in same][:2] == ["a.jsonl#1:0", "a.jsonl#1:1"]


@pytest.mark.parametrize("text", ["x" * 5000, "ữ" * 5000, "🙂" * 5000, "   " + "x" * 5000, "\n" * 5000])
def test_text_without_a_good_place_is_cut_between_characters(text: str) -> None:
    found = list(pieces("a", text, 1000))
    assert "".join(document.text for document in found) == text
    assert all(0 < len(document.text.encode()) <= 1000 for document in found)
    assert cut("ab cd efgh", 8) == 6


def test_a_long_line_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(400):
            file.write("đặc biệt " * 10_000)  # one line of 52 MB
    corpus = Files(path=str(path)).build()
    tracemalloc.start()
    total = sum(len(document.text) for document in corpus.documents())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 400 * 90_000
    assert peak < 12_000_000


# what cannot be read


def test_problems_are_one_line_that_helps(tmp_path: Path) -> None:
    latin = write(tmp_path / "latin.txt", b"one\ntwo\nthr\xe9e\n")
    far = write(tmp_path / "far.txt", b"x" * 300_000 + "ữ\n".encode() * 10 + b"\xff")
    half = write(tmp_path / "half.txt", b"a" * ((1 << 18) - 1) + "é".encode()[:1])
    cases = {
        latin: r"latin\.txt line 3: byte 0xE9 at offset 11 is not utf-8 .*data\.source\.encoding",
        far: r"far\.txt line 11: byte 0xFF at offset 300,040 is not",
        half: r"half\.txt line 1: byte 0xC3 at offset 262,143 is not utf-8 \(unexpected end of data\)",
        write(tmp_path / "wide.txt", "text".encode("utf-16")): r"mark of UTF-16 \(FF FE\).*encoding=utf-16, or convert",
        write(tmp_path / "wide32.txt", "text".encode("utf-32")): r"mark of UTF-32",
        write(tmp_path / "bare.txt", "text".encode("utf-16-le")): r"NUL bytes.*utf-16-le",
        write(tmp_path / "image.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"): r"NUL bytes, so it is a binary file",
        write(tmp_path / "late.txt", b"a" * 600_000 + b"\x00"): r"NUL bytes",
        write(tmp_path / "empty.txt", b""): r"empty\.txt: the file is empty",
        write(tmp_path / "blank.txt", b" \n\n"): r"blank\.txt: holds no text",
        write(tmp_path / "page.html", b"a,b"): r"cannot read \.html; readable are .*\.jsonl.*data\.source\.format",
        write(tmp_path / "README", b"a"): r"cannot read a file without an ending; readable",
        write(tmp_path / "others" / "a.md", b"a"): r"others: nothing to read in this folder \(1 \.md\)",
        tmp_path / "latn.txt": r"latn\.txt: no such file or folder; did you mean .*latin\.txt\?",
        tmp_path / "no" / "such" / "file.txt": rf"of this path only {tmp_path} exists",
        write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": '): r"a\.jsonl line 2: not JSON",
        write(tmp_path / "b.jsonl", '{"body": "a", "title": "b"}'): r"line 1: no column 'text'; .* are: body, title",
        write(tmp_path / "c.jsonl", '["a"]'): r"line 1: should be an object",
        write(tmp_path / "d.jsonl", '{"text": null}'): r"line 1: 'text' should be text, not null",
        write(tmp_path / "e.jsonl", '{"text": "\\ud83d"}'): r"line 1: .*half a surrogate pair",
        write(tmp_path / "f.jsonl", "[" * 100_000): r"line 1: not JSON",
    }
    cut_short = gzip.compress(os.urandom(100_000).hex().encode())[:50_000]
    (tmp_path / "cut.txt.gz").write_bytes(cut_short)
    (tmp_path / "fake.txt.gz").write_bytes(b"plain text")
    cases[tmp_path / "cut.txt.gz"] = r"cut\.txt\.gz: a damaged \.gz file"
    cases[tmp_path / "fake.txt.gz"] = r"fake\.txt\.gz: a damaged \.gz file"
    for path, message in cases.items():
        path = path.parent if path.parent.name == "others" else path
        with pytest.raises(WeftError, match=message) as found:
            read(path)
        assert "\n" not in str(found.value)
    with pytest.raises(WeftError, match=r"hf:name: no file, but a source of its own: data\.source=hf:name"):
        Files(path="hf:name").build()
    read(write(tmp_path / "escaped.jsonl", '{"text": "a\\u0000b"}'))


# stamps


def test_a_stamp_changes_with_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "text")
    assert Files(path=str(path)).build().stamp() is None, "too young to be trusted"
    old = time.time() - 100
    os.utime(path, (old, old))
    corpus = Files(path=str(path)).build()
    stamp = corpus.stamp()
    assert stamp is not None
    assert corpus.stamp() == stamp
    os.utime(path, (old + 1, old + 1))
    assert corpus.stamp() != stamp


# python-docs


@pytest.fixture(scope="module")
def corpus() -> PythonDocsCorpus:
    return PythonDocs().build()


def test_python_docs_have_stable_names(corpus: PythonDocsCorpus) -> None:
    found = {document.id: document for document in corpus.documents()}
    assert list(found) == [document.id for document in corpus.documents()]
    walk = found["email.iterators.walk"]
    assert walk.text.startswith("Walk over the message tree, yielding each subpart.\n\nThe walk is performed in depth")
    assert walk.together == "email.iterators"
    assert "email.message.Message.get_payload" in found
    assert "pydoc_data.topics:lambda" in found
    assert not [id for id in found if id.startswith(("test.", "idlelib.", "site-packages", "numpy", "pytest"))]
    assert sum(len(document.text.encode()) for document in found.values()) > 1_000_000
    assert all(document.text == document.text.strip() and document.text for document in found.values())


@pytest.mark.slow
def test_python_docs_come_in_two_parts(corpus: PythonDocsCorpus) -> None:
    whole = {document.id for document in corpus.documents()}
    parts = [
        {document.id for document in PythonDocs(part=part).build().documents()} for part in ("reference", "docstrings")
    ]
    assert all(id.startswith("pydoc_data.topics:") for id in parts[0])
    assert not any(id.startswith("pydoc_data.topics:") for id in parts[1])
    assert whole <= parts[0] | parts[1]


def test_python_docs_hold_nothing_twice(corpus: PythonDocsCorpus) -> None:
    documents = list(corpus.documents())
    assert 300 < corpus.duplicates_removed < 3000
    ids = {document.id for document in documents}
    # each of these repeats another one nearly or wholly
    assert not {"_pydecimal.Decimal.__ceil__", "pydoc_data.topics:customization"} <= ids
    assert len({document.text for document in documents}) == len(documents)


def test_a_library_without_topics_or_tests_and_with_odd_files(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    write(
        library / "one.py", '"""Module one."""\nclass A:\n    """Class A."""\n    def f(self):\n        """Does f."""\n'
    )
    write(library / "two" / "__init__.py", 'raise SystemExit("imported!")\ndef g():\n    r"""About \\g here."""\n')
    write(library / "old.py", "print 'Python 2'\n")
    write(library / "latin.py", '# -*- coding: latin-1 -*-\n"""Caf\xe9 here."""\n'.encode("latin-1"))
    write(library / "test" / "test_x.py", '"""A test."""')
    write(library / "site-packages" / "x.py", '"""Not the library."""')
    write(
        library / "again.py",
        'if x:\n    def f():\n        """First of two."""\nelse:\n    def f():\n        """Other one."""\n',
    )
    corpus = PythonDocsCorpus(0.8, library)
    assert {document.id: document.text for document in corpus.documents()} == {
        "again.f": "First of two.",
        "again.f#2": "Other one.",
        "latin": "Café here.",
        "one": "Module one.",
        "one.A": "Class A.",
        "one.A.f": "Does f.",
        "two.g": "About \\g here.",
    }
    with pytest.raises(WeftError, match=r"standard library are not here; set data\.source"):
        PythonDocsCorpus(0.8, tmp_path / "nothing")


def test_python_docs_reads_where_this_python_lives() -> None:
    assert PythonDocs().build().library == Path(sysconfig.get_path("stdlib"))


def test_near_duplicates_are_found_exactly() -> None:
    base = " ".join(f"word{number}" for number in range(100))
    changed = base.replace("word50", "other")  # 95 of 98 runs of three words are the same
    half = " ".join(f"word{number}" for number in range(50)) + " " + " ".join(f"new{number}" for number in range(50))
    longer = base + " and " + " ".join(f"more{number}" for number in range(300))
    assert near_duplicates([base, changed, half, "a b", "a  B", "?", "?"], 0.8) == [
        False, True, False, False, True, False, True,
    ]  # fmt: skip
    assert near_duplicates([base, longer], 0.8) == [True, False], "what stands in a longer text is its repetition"
    assert near_duplicates([base, changed], 0.99) == [False, False]
    assert near_duplicates([], 0.8) == []


def test_a_corpus_of_files_knows_its_size(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "12345")
    write(tmp_path / "b.txt", "123")
    assert FileCorpus(Files(path=str(tmp_path))).size() == 8
