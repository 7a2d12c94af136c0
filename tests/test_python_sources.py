"""Sources made from the standard library: what is a document, under which name, with which label or target."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from weft.config import load
from weft.data.documents import Document
from weft.data.python_library import LibraryCorpus, standard_library
from weft.data.python_source import PythonSource, PythonSourceCorpus
from weft.data.python_summary import PythonSummary, PythonSummaryCorpus, summary
from weft.data.python_topics import MODULES, PythonTopics, PythonTopicsCorpus
from weft.data.sources import Source
from weft.data.splits import HashValidation
from weft.errors import ConfigError, WeftError


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def held_out(corpus: LibraryCorpus) -> tuple[list[Document], list[Document]]:
    """The training and the validation part, as the default split has them."""
    parts: tuple[list[Document], list[Document]] = ([], [])
    for document in corpus.documents():
        parts[HashValidation().holds_out(document)].append(document)
    return parts


def test_the_sources_are_there_by_name() -> None:
    assert load(Source, "python-source") == PythonSource()
    assert load(Source, {"kind": "python-topics", "modules": ["json", "csv"]}) == PythonTopics(modules=("json", "csv"))
    assert load(Source, {"kind": "python-summary", "max_characters": 100}) == PythonSummary(max_characters=100)
    with pytest.raises(ConfigError, match="fewer than two modules"):
        load(Source, {"kind": "python-topics", "modules": ["json", "json"]})


@pytest.mark.parametrize("source", [PythonSource(), PythonTopics(), PythonSummary()])
def test_an_empty_library_is_one_line(source: Source, tmp_path: Path) -> None:
    corpus = type(source.build())
    with pytest.raises(WeftError, match=r"standard library are not here; set data\.source"):
        corpus(0.8, tmp_path)  # type: ignore[call-arg, arg-type]


# python-source


def test_code_is_read_as_each_file_declares(tmp_path: Path) -> None:
    code = "# -*- coding: latin-1 -*-\r\nname = 'caf\xe9'\r\n"
    write(tmp_path / "latin.py", code.encode("latin-1"))
    write(tmp_path / "marked.py", b"\xef\xbb\xbf" + "tên = 1\n".encode())
    write(tmp_path / "old.py", "print 'Python 2 is text, too'\n")
    write(tmp_path / "wrong.py", b"name = 'caf\xe9'\n")
    write(tmp_path / "odd.py", "# coding: no-such-encoding\n")
    write(tmp_path / "empty.py", "\n\n")
    write(tmp_path / "pack" / "__init__.py", "one = 1\n")
    write(tmp_path / "pack" / "sub" / "part.py", "two = 2\n")
    write(tmp_path / "pack" / "tests" / "test_part.py", "assert True\n")
    write(tmp_path / "encodings" / "cp1.py", "table = 'x'\n")
    write(tmp_path / "_pypack.py", "three = 3\n")
    found = {document.id: document for document in PythonSourceCorpus(0.8, tmp_path).documents()}
    assert {id: document.text for id, document in found.items()} == {
        "_pypack.py": "three = 3\n",
        "latin.py": code.replace("\r\n", "\n"),
        "marked.py": "tên = 1\n",
        "old.py": "print 'Python 2 is text, too'\n",
        "pack/__init__.py": "one = 1\n",
        "pack/sub/part.py": "two = 2\n",
    }
    assert {found[id].together for id in ("_pypack.py", "pack/__init__.py", "pack/sub/part.py")} == {"pack"}


def test_a_file_nearly_in_another_is_left_out(tmp_path: Path) -> None:
    lines = [f"name_{number} = {number} + other_{number}\n" for number in range(50)]
    write(tmp_path / "long.py", "".join(lines))
    write(tmp_path / "short.py", "".join(lines[:30]))
    write(tmp_path / "third.py", "".join(lines[:10]) + "def f(a, b): return a * b, f(b, a), a - b, b - a\n" * 3)
    corpus = PythonSourceCorpus(0.8, tmp_path)
    assert [document.id for document in corpus.documents()] == ["long.py", "third.py"]
    assert corpus.duplicates_removed == 1


def test_the_library_as_code() -> None:
    corpus = PythonSource().build()
    documents = {document.id: document for document in corpus.documents()}
    assert 300 < len(documents) < 2000
    assert sum(len(document.text.encode()) for document in documents.values()) > 5_000_000
    assert "def walk(self):" in documents["email/iterators.py"].text
    assert documents["email/iterators.py"].group == "email"
    train, validation = held_out(corpus)
    assert not {document.together for document in train} & {document.together for document in validation}
    assert corpus.stamp() == PythonSource().build().stamp() != None  # noqa: E711 (both at once)


# python-topics


def test_docstrings_are_labelled_and_masked(tmp_path: Path) -> None:
    write(tmp_path / "json" / "__init__.py", '"""JSON as json.dumps and jsonlib write it; not CSV."""\n')
    write(
        tmp_path / "csv.py",
        'class Reader:\n    """Reads rows of a table from a file."""\n'
        '    def read(self):\n        """Give the next row as a list."""\n'
        '    def close(self):\n        """Shut it."""\n'
        'if x:\n    def read(self):\n        """Another reader for quite other tables."""\n',
    )
    write(tmp_path / "other.py", '"""No label for this one, whatever it says."""\n')
    corpus = PythonTopicsCorpus(0.8, tmp_path, ("csv", "json"))
    found = list(corpus.documents())
    assert [(document.id, document.group, document.fields["label"]) for document in found] == [
        ("csv.Reader", "Reader", "csv"),
        ("csv.Reader.read", "read", "csv"),
        ("csv.read", "read", "csv"),
        ("json", "json", "json"),
    ]
    assert found[3].text == "_ as _.dumps and jsonlib write it; not _."
    with pytest.raises(WeftError, match="no module 'jsn' in this Python's library; did you mean 'json'"):
        PythonTopicsCorpus(0.8, tmp_path, ("csv", "jsn"))
    with pytest.raises(WeftError, match="too little of Python's standard library"):
        PythonTopicsCorpus(0.8, tmp_path)


def test_a_module_that_a_system_leaves_out_is_told(tmp_path: Path) -> None:
    for name in MODULES:
        if name != "tkinter":
            write(tmp_path / f"{name}.py", f'"""What is said about number {MODULES.index(name)} is short."""\n')
    corpus = PythonTopicsCorpus(0.8, tmp_path)
    assert corpus.notes == ("source: python-topics does without tkinter, not in this Python's library",)
    assert "tkinter" not in {document.fields["label"] for document in corpus.documents()}


def test_the_library_as_topics() -> None:
    train, validation = held_out(PythonTopics().build())
    labels = Counter(document.fields["label"] for document in train + validation)
    assert len(labels) >= len(MODULES) - 1, "tkinter may be missing"
    assert min(labels.values()) > 40
    assert max(labels.values()) < 0.3 * len(train + validation), "no class is most of it"
    assert 150 < len(validation) < len(train) / 4
    mask = re.compile(rf"\b({'|'.join(MODULES)})\b", re.IGNORECASE)
    assert not [document.id for document in train + validation if mask.search(document.text)]
    assert not {document.group for document in train} & {document.group for document in validation}
    decimal = {document.id for document in train + validation if document.fields["label"] == "decimal"}
    assert any(id.startswith("_pydecimal.") for id in decimal)


# python-summary


def test_summaries_are_first_lines_that_stand_alone() -> None:
    assert summary("Walk over the tree.") == "Walk over the tree."
    assert summary("Walk over the tree\n\n   in depth.") == "Walk over the tree"
    assert summary("Walk over the tree.\nIn depth.") == "Walk over the tree."
    assert summary("Walk over\nthe tree.") is None
    assert summary("Walk over  the \nbig tree.") is None
    assert summary("Walks it.") is None


FUNCTIONS = '''\
class Tree:
    """A tree of things."""
    @property
    def size(self):
        """How many leaves it has.

        All of them.
        """
        # leaves know it
        def inner(leaf):
            """The size of one leaf."""
            return leaf.size
        return sum(inner(leaf) for leaf in self.leaves)  # a sum
    def walk(self): "Go from leaf to leaf."; return iter(self.leaves)
    def late(self):
        """To be written one day."""
        raise NotImplementedError
    def bare(self):
        """Nothing but a docstring here."""
    async def thin(self):
        """Tells."""
        return 1
    async def wait(self, other):
        "Wait for the other tree."  # a comment
        text = """
    left of it
"""
        await other.wait(text)
'''


def test_functions_lose_their_docstrings_and_indentation(tmp_path: Path) -> None:
    write(tmp_path / "trees.py", FUNCTIONS)
    found = list(PythonSummaryCorpus(0.8, tmp_path).documents())
    assert [(document.id, document.fields["target"]) for document in found] == [
        ("trees.Tree.size", "How many leaves it has."),
        ("trees.Tree.wait", "Wait for the other tree."),
    ], "what is inside another function is its repetition"
    assert found[0].text == (
        "@property\ndef size(self):\n    # leaves know it\n    def inner(leaf):\n        return leaf.size\n"
        "    return sum(inner(leaf) for leaf in self.leaves)  # a sum"
    )
    assert found[1].text == 'async def wait(self, other):\n    text = """\nleft of it\n"""\n    await other.wait(text)'
    assert found[0].together == found[0].text


def test_long_functions_end_with_a_line(tmp_path: Path) -> None:
    body = "".join(f"    step_{number} = more(step_{number - 1})\n" for number in range(1, 40))
    write(tmp_path / "long.py", f'def f(step_0):\n    """One step after the other."""\n{body}')
    (whole,) = PythonSummaryCorpus(0.8, tmp_path, 10_000).documents()
    assert whole.text == f"def f(step_0):\n{body}".strip()
    (short,) = PythonSummaryCorpus(0.8, tmp_path, 100).documents()
    lines = whole.text.split("\n")
    assert short.text == "\n".join(lines[:4])
    assert len(short.text) <= 100 < len("\n".join(lines[:5]))
    (exact,) = PythonSummaryCorpus(0.8, tmp_path, len(short.text)).documents()
    assert exact.text == short.text, "a line that just fits is not lost"


@pytest.mark.slow
def test_the_library_as_summaries() -> None:
    train, validation = held_out(PythonSummary().build())
    every = {document.id: document for document in train + validation}
    walk = every["email.message.Message.get_payload"]
    assert walk.fields["target"] == "Return a reference to the payload."
    assert walk.text.startswith("def get_payload(self, i=None, decode=False):\n")
    assert 2000 < len(every) < 20_000
    assert 200 < len(validation) < len(train) / 4
    assert not {document.text for document in train} & {document.text for document in validation}
    for document in every.values():
        target = document.fields["target"]
        assert "\n" not in target
        assert len(target.split()) > 0
        assert len(document.text) <= 600
        assert document.text == document.text.strip()
    told = [document.id for document in every.values() if document.fields["target"] in document.text]
    assert len(told) < 0.005 * len(every), "a source hardly ever holds its own target"


def test_it_is_this_python_that_is_read() -> None:
    assert PythonSource().build().library == standard_library()
