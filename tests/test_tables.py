"""Rows as documents: columns by name, bad rows counted or refused, files that belong together line by line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.config import load
from weft.data.cache import Cache
from weft.data.columns import RowCorpus
from weft.data.config import DataConfig, prepare
from weft.data.documents import Corpus, Document, pieces
from weft.data.sources import Source
from weft.data.splits import FileValidation, Surveyed, TailValidation
from weft.data.survey import survey
from weft.errors import ConfigError, WeftError

SHARED = Path(os.environ.get("WEFT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Public data sets in the formats in which they are published."""


def shared(*names: str) -> Path:
    path = SHARED.joinpath(*names)
    if not path.exists():
        pytest.skip(f"{path} is not here (WEFT_SHARED_DATA)")
    return path


def opened(raw: Any, *needed: str) -> Corpus:
    corpus = load(Source, raw).build()
    corpus.need(needed)
    return corpus


def read(raw: Any, *needed: str) -> dict[str, tuple[str, dict[str, str]]]:
    found = list(opened(raw, *needed).documents())
    assert len({document.id for document in found}) == len(found)
    return {document.id: (document.text, dict(document.fields)) for document in found}


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


# documents


def test_fields_belong_to_a_text(tmp_path: Path) -> None:
    def fingerprint(*documents: Document) -> str:
        corpus = Corpus()
        corpus.documents = lambda: iter(documents)  # type: ignore[method-assign]
        return survey(corpus, lambda document: False, NoProgress()).fingerprint  # type: ignore[arg-type]

    plain = Document("a", "text")
    found = [
        fingerprint(plain),
        fingerprint(Document("a", "text", fields={"label": "x"})),
        fingerprint(Document("a", "text", fields={"label": "y"})),
        fingerprint(Document("a", "text", fields={"target": "x"})),
        fingerprint(Document("a", "text", fields={"label": "x", "target": "x"})),
    ]
    assert len(set(found)) == len(found)
    # texts without fields have the fingerprint that they had before there were fields
    assert found[0] == hashlib.sha256(b"1 4\natext").hexdigest()
    assert hash(Document("a", "text", fields={"label": "x"})), "documents go into sets"
    cut = list(pieces("a", "word " * 1000, 1000, fields={"label": "x"}))
    assert len(cut) == 5
    assert all(document.fields == {"label": "x"} for document in cut)


class NoProgress:
    def track(self, documents: Any, label: str, total: int) -> Any:
        return documents


# tables


def test_csv_quotes_as_the_csv_module_does(tmp_path: Path) -> None:
    rows = [["text", "label"], ['says "no",\r\ntwice', "a"], ["", ""], ["tab\there", " b "], ["x", "1,5"]]
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    path = write(tmp_path / "a.csv", "\ufeff" + file.getvalue() + "\r\n\r\n")
    expected = {
        "a.csv#2": ('says "no",\ntwice', {"label": "a"}),
        "a.csv#5": ("tab\there", {"label": "b"}),
        "a.csv#6": ("x", {"label": "1,5"}),
    }
    assert read(path) == expected, "an empty row is no text"
    with pytest.raises(WeftError, match=r"a\.csv line 4: the text \('text'\) is empty; .*on_bad_row=skip"):
        read(path, "label")
    assert read({"path": path, "on_bad_row": "skip"}, "label") == expected
    semicolons = write(tmp_path / "b.csv", 'text;label\n"a;b";c\n')
    assert read({"path": semicolons, "delimiter": ";"}) == {"b.csv#2": ("a;b", {"label": "c"})}
    with pytest.raises(WeftError, match=r"are: text;label .*another delimiter than ','\? set data\.source\.delimiter"):
        read(semicolons)


def test_tsv_takes_every_character_for_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'id\ttext\tlabel\n1\t"Run!" he said\tx\n2\t"open\ty\r\n3\ta""b\tz\n')
    assert read(path, "label") == {
        "a.tsv#2": ('"Run!" he said', {"label": "x"}),
        "a.tsv#3": ('"open', {"label": "y"}),
        "a.tsv#4": ('a""b', {"label": "z"}),
    }
    quoted = {"path": write(tmp_path / "b.tsv", 'text\tlabel\n"a\tb"\tx\n'), "format": "csv", "delimiter": "\t"}
    assert read(quoted) == {"b.tsv#2": ("a\tb", {"label": "x"})}


def test_tables_without_header_and_with_endings_that_lie(tmp_path: Path) -> None:
    path = write(tmp_path / "vie.txt", "Run!\tChạy!\tsomeone\nRun!\tChạy đi!\tsomeone\n")
    raw = {"path": path, "format": "tsv", "header": False, "text": 1, "target": "2"}
    corpus = opened(raw, "target")
    found = list(corpus.documents())
    assert [(d.id, d.text, d.fields) for d in found] == [
        ("vie.txt#1", "Run!", {"target": "Chạy!"}),
        ("vie.txt#2", "Run!", {"target": "Chạy đi!"}),
    ]
    assert {document.together for document in found} == {"Run!"}, "one text is never on both sides of a split"
    assert read({"path": write(tmp_path / "notes.md", "# Title"), "format": "txt"}) == {"notes.md": ("# Title", {})}
    with pytest.raises(WeftError, match=r"no column '4'; there are: 1, 2, 3 \(set data\.source\.text"):
        read({**raw, "text": "4"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_missing_column_is_one_line_that_lists_the_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"id": [1], "text": ["x"], "category": ["y"]}), path)
    elif name == "a.jsonl":
        write(path, '{"id": 1, "text": "x", "category": "y"}')
    else:
        mark = "," if name == "a.csv" else "\t"
        write(path, mark.join(["id", "text", "category"]) + "\n" + mark.join("1xy"))
    row = {"a.parquet": "a.parquet#1", "a.jsonl": "a.jsonl#1"}.get(name, f"{name}#2")
    assert read(str(path)) == {row: ("x", {})}
    assert read({"path": str(path), "label": "category"}, "label") == {row: ("x", {"label": "y"})}
    message = (
        r"no column 'label'; there are: id, text, category \(set data\.source\.label to the one that holds the label"
    )
    corpus = load(Source, str(path)).build()
    with pytest.raises(WeftError, match=message) as found:
        corpus.need(("label",))
    assert "\n" not in str(found.value)


def test_a_need_that_cannot_be_met_is_said_at_once(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.txt", "text")
    with pytest.raises(WeftError, match=r"a\.txt: plain text has no label, which this task needs; .*kind=aligned"):
        opened(plain, "label")
    with pytest.raises(WeftError, match=r"python-docs: no target, which this task needs \(it is text alone\)"):
        opened("python-docs", "target")
    with pytest.raises(WeftError, match=r"no label, which this task needs; set data\.source\.label to the file"):
        opened({"kind": "aligned", "path": str(tmp_path), "text": "a.txt"}, "label")


def test_columns_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text, label ,label\na,b,c\n")
    with pytest.raises(WeftError, match=r"a\.csv: two columns are called 'label'"):
        read(path)
    with pytest.raises(ConfigError, match="delimiter"):
        load(Source, {"path": path, "delimiter": '"'})
    with pytest.raises(ConfigError, match="true or false"):
        load(Source, {"path": path, "text": True})


def test_fields_of_json(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"a.b": "exact", "label": 3},
        {"a": {"b": "below"}, "label": True},
        {"a": {"b": ["First.", "Second."]}, "label": 0.5, "target": ["one", "two"]},
        {"a": {"b": "no label"}, "label": None},
        {"a": {"b": "no word"}, "label": " "},
        {"a": {"b": "no number"}, "label": ["x", "y"]},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert list(read({"path": path, "text": "a.b"}).values()) == [
        ("exact", {"label": "3"}),
        ("below", {"label": "true"}),
        ("First. Second.", {"label": "0.5"}),
        ("no label", {}),
        ("no word", {}),
        ("no number", {}),
    ]
    skipping = {"path": path, "text": "a.b", "on_bad_row": "skip"}
    assert list(read(skipping, "label")) == ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"]
    assert read({**skipping, "target": "target.1"}, "target") == {
        "a.jsonl#3": ("First. Second.", {"label": "0.5", "target": "two"})
    }
    with pytest.raises(WeftError, match=r"'target' holds 2 texts; data\.source\.target=target\.0 takes the first"):
        read({"path": write(tmp_path / "b.jsonl", '{"text": "a", "target": ["b", "c"]}')}, "target")


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["one", None, "three", "a" * 3000], pa.large_string()),
            "pair": [
                {"en": "1", "vi": "một"},
                {"en": "2", "vi": "hai"},
                {"en": "3", "vi": "ba"},
                {"en": "4", "vi": ""},
            ],
            "words": [["a", "b"], ["c"], [], ["d"]],
            "label": pa.array([0, 1, 1, 7], pa.int64()),
        }
    )
    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    raw = {"path": str(path), "on_bad_row": "skip"}
    corpus = opened(raw, "label")
    found = {document.id: (document.text, document.fields) for document in corpus.documents()}
    assert found == {
        "a.parquet#1": ("one", {"label": "bad"}),
        "a.parquet#3": ("three", {"label": "good"}),
        "a.parquet#4": ("a" * 3000, {"label": "7"}),
    }
    assert corpus.left_out == (f"source: 1 bad row was left out: {path} row 2: 'text' should be text, not null",)
    pairs = read({**raw, "text": "pair.en", "target": "pair.vi"}, "target")
    assert pairs["a.parquet#2"] == ("2", {"label": "good", "target": "hai"})
    assert len(pairs) == 3
    assert read({**raw, "text": "words"})["a.parquet#1"][0] == "a b"
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-20])
    (tmp_path / "middle.parquet").write_bytes(path.read_bytes().replace(b"three", b"thr\xffe"))
    (tmp_path / "none.parquet").write_bytes(b"text\nabc\n")
    for name in ("cut", "middle", "none"):
        with pytest.raises(WeftError, match=rf"{name}\.parquet: a damaged \.parquet file") as error:
            read({**raw, "path": str(tmp_path / f"{name}.parquet")})
        assert "\n" not in str(error.value)


# bad rows

BAD = {
    "a.csv": ("text,label\na,x\nb\nc,x,y\n,x\nd,\n" + '"' + "e" * 2000 + '",x\nf,x\n"never,\nclosed\n', "af", 6),
    "a.tsv": ("text\tlabel\na\tx\nb\nc\tx\ty\n\tx\nd\t\n" + "e" * 2000 + "\tx\nf\tx\n", "af", 5),
    "a.jsonl": (
        '{"text": "a", "label": "x"}\n{"text": \n["b"]\n{"text": "c"}\n{"label": "x"}\n{"text": 5, "label": "x"}\n'
        '{"text": " ", "label": "x"}\n' + json.dumps({"text": "e" * 2000, "label": "x"}) + "\n"
        '{"text": "f", "label": "x"}\n',
        "af",
        7,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_refused_or_counted(tmp_path: Path, name: str) -> None:
    content, good, bad = BAD[name]
    raw = {"path": write(tmp_path / name, content), "max_line": 1000}
    with pytest.raises(WeftError, match=rf"{name} line [23]: .*on_bad_row=skip leaves such rows out"):
        list(opened(raw, "label").documents())
    corpus = opened({**raw, "on_bad_row": "skip"}, "label")
    assert "".join(document.text for document in corpus.documents()) == good
    (note,) = corpus.left_out
    assert note.startswith(f"source: {bad} bad rows were left out: the first {raw['path']} line ")
    assert note.count(f"{raw['path']} line ") == 3
    nothing = {"path": write(tmp_path / f"none-{name}", content.splitlines()[0].replace("a", "")), "on_bad_row": "skip"}
    with pytest.raises(WeftError, match=r"holds no text|no column"):
        list(opened(nothing, "label").documents())


def test_what_is_wrong_with_a_row_is_said(tmp_path: Path) -> None:
    cases = {
        "text,label\na,b,c\n": r"line 2: 3 cells, where there are 2 columns",
        'text,label\na,b\n"c,\n\nd\n': r"line 3: a quotation mark \(\"\) is opened here and never closed",
        "text,label\n"
        + "a" * 1500
        + ",b\n": r"line 2: the row is longer than 1,000 characters \(data\.source\.max_line\)",
        'text,label\n"a\n' + "b,c\n" * 500: r"line 2: the row is longer .* a quotation mark that is not closed\?",
        "text,label\na\rb,c\n": r"line 2: not CSV",
        "x" * 1500 + "\n": r"a\.csv line 1: the row is longer",
    }
    for content, message in cases.items():
        with pytest.raises(WeftError, match=message):
            read({"path": write(tmp_path / "a.csv", content), "max_line": 1000})


def test_csv_goes_on_after_a_bad_row(tmp_path: Path) -> None:
    content = 'text,label\na,x\n"b' + "\nc,d" * 300 + '"\ne,x\nf\rg,x\nh,x\n'
    path = write(tmp_path / "a.csv", content)
    found = list(read({"path": path, "on_bad_row": "skip"}))
    assert found == ["a.csv#2", "a.csv#304", "a.csv#306"], "line 3 begins a row of one cell, line 305 holds a return"


def test_what_was_left_out_is_known_from_the_cache_too(tmp_path: Path) -> None:
    line = json.dumps({"text": "Some words of a text that goes on. " * 20})
    path = write(tmp_path / "a.jsonl", "\n".join([line, "{", *[line] * 50]))
    old = time.time() - 100
    os.utime(path, (old, old))
    raw = {"source": {"path": path, "on_bad_row": "skip"}, "tokenizer": "bytes", "cache": str(tmp_path / "cache")}
    notes = []
    for _ in range(2):
        data = prepare(load(DataConfig, raw), 16)
        notes.append([note for note in data.report["warnings"] if "left out" in note])
    assert len(list((Path(Cache(str(tmp_path / "cache")).folder) / "surveys").iterdir())) == 1
    assert notes[0] == notes[1]
    assert notes[0][0].startswith(f"source: 1 bad row was left out: {path} line 2: not JSON")


# examples are whole


def test_examples_are_never_cut(tmp_path: Path) -> None:
    rows = [{"text": f"{letter} " * 1000, "label": "x"} for letter in "abcd"]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    raw = {"path": path, "max_document": 1500}
    assert len(read(raw)) == 8, "without a task it is text"
    corpus = opened(raw, "label")
    found = list(corpus.documents())
    assert [len(document.text) for document in found] == [2000] * 4
    text = Surveyed(corpus, survey(corpus, lambda document: False, NoProgress()))  # type: ignore[arg-type]
    for share, held_out in {0.01: 1, 0.3: 2, 0.6: 3, 0.99: 3}.items():
        split = TailValidation(share=share).split(text, None)
        train, validation = list(split.train()), list(split.validation())
        assert [*train, *validation] == found
        assert len(validation) == held_out
    one = opened(write(tmp_path / "b.jsonl", json.dumps(rows[0])), "label")
    text = Surveyed(one, survey(one, lambda document: False, NoProgress()))  # type: ignore[arg-type]
    with pytest.raises(WeftError, match="1 example is too little to split"):
        TailValidation().split(text, None)


def test_a_stamp_knows_what_was_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\na\tb\n")
    os.utime(path, (1, 1))
    assert opened(path).stamp() != opened(path, "label").stamp() is not None


# aligned


def test_aligned_files(tmp_path: Path) -> None:
    write(tmp_path / "train" / "sents.txt", "một\nhai ba\n\nbốn\n")
    write(tmp_path / "train" / "labels.txt", "0\n1\n2\n2")
    write(tmp_path / "dev" / "sents.txt", "năm\n")
    write(tmp_path / "dev" / "labels.txt", "0\n")
    raw = {"kind": "aligned", "path": str(tmp_path / "train"), "text": "sents.txt", "label": "labels.txt"}
    assert read(raw) == {
        "sents.txt#1": ("một", {"label": "0"}),
        "sents.txt#2": ("hai ba", {"label": "1"}),
        "sents.txt#4": ("bốn", {"label": "2"}),
    }
    with pytest.raises(WeftError, match=r"train line 3: the text \('sents\.txt'\) is empty; .*on_bad_row=skip"):
        read(raw, "label")
    assert len(read({**raw, "on_bad_row": "skip"}, "label")) == 3
    source = load(Source, raw)
    given = FileValidation(path=str(tmp_path / "dev")).given(source)
    assert given is not None
    assert [document.text for document in given.documents()] == ["năm"]
    with pytest.raises(WeftError, match=r"label\.txt: no such file or folder; did you mean .*labels\.txt"):
        load(Source, {**raw, "label": "label.txt"}).build()


def test_parallel_text_by_the_beginning_of_its_names(tmp_path: Path) -> None:
    write(tmp_path / "train.en", "one\ntwo\n")
    write(tmp_path / "train.vi", "một\nhai\n")
    raw = {"kind": "aligned", "path": str(tmp_path / "train"), "text": ".en", "target": ".vi"}
    assert read(raw, "target") == {
        "train.en#1": ("one", {"target": "một"}),
        "train.en#2": ("two", {"target": "hai"}),
    }
    write(tmp_path / "train.vi", "một\nhai\nba\nbốn\n")
    corpus = opened(raw)
    with pytest.raises(WeftError, match=r"different numbers of them: \.en 2, \.vi 4"):
        list(corpus.documents())


def test_a_long_line_of_aligned_files_is_a_bad_row(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "x" * 1001 + "\nb\n")
    write(tmp_path / "b.txt", "0\n1\n")
    raw = {"kind": "aligned", "path": str(tmp_path), "text": "a.txt", "label": "b.txt", "max_line": 1000}
    with pytest.raises(WeftError, match=r"line 1: a line of a\.txt is longer than 1,000 characters"):
        read(raw)
    assert list(read({**raw, "on_bad_row": "skip"})) == ["a.txt#2"]


# data sets as they are published


def test_published_data_sets() -> None:
    sizes = {"train": 11_426, "dev": 1_583, "test": 3_166}
    for part, size in sizes.items():
        folder = str(shared("cls-uit-vsfc", part))
        raw = {"kind": "aligned", "path": folder, "text": "sents.txt", "label": "sentiments.txt"}
        found = list(opened(raw, "label").documents())
        assert len(found) == size
        assert {document.fields["label"] for document in found} == {"0", "1", "2"}
    for language in ("eng_Latn", "vie_Latn"):
        raw = {"path": str(shared("cls-sib200", language, "train.tsv")), "label": "category"}
        assert len(read(raw, "label")) == 701
    raw = {"path": str(shared("mt-tatoeba-en-vi", "vie.txt")), "format": "tsv", "header": False}
    found = list(opened({**raw, "text": "1", "target": "2"}, "target").documents())
    assert len(found) == 9_426
    assert len({document.together for document in found}) == 7_387
    raw = {"path": str(shared("sum-scitldr", "train.jsonl.gz")), "text": "source"}
    assert len(read(raw, "target")) == 1_992
    raw = {"path": str(shared("pair-sick2014", "SICK_train.txt")), "format": "tsv", "text": "sentence_A"}
    assert len(read({**raw, "label": "entailment_judgment"}, "label")) == 4_500


def test_an_archive_as_it_is_published() -> None:
    corpus = opened(str(shared("viwiki", "viwiki-part.tar.xz")))
    assert isinstance(corpus, RowCorpus)
    found = list(corpus.documents())
    assert len(found) == 1_912
    assert found[0].id == "viwiki/(9976) 1993 tq.txt"
    assert corpus.left_out == ("source: not read: 2 hidden, 1 without ending",)
