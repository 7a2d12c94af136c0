"""Prepared data: split before anything is fitted, tokenised once, whole or not there at all, and told as it is."""

from __future__ import annotations

import errno
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.config import load
from weft.data import baselines, shards
from weft.data import config as preparing
from weft.data.cache import Cache, default_folder
from weft.data.config import DataConfig, prepare
from weft.data.shards import PreparedData, TokenSplit, write_split
from weft.data.survey import survey
from weft.errors import WeftError

ROOT = Path(__file__).parents[1]
WORDS = ["the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "they", "at", "one"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("WEFT_CACHE", str(folder))
    return folder


def prose(words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, k=words)) + ".\n"


def folder_of(path: Path, documents: int = 60, words: int = 100) -> Path:
    path.mkdir()
    for number in range(documents):
        file = path / f"{number:03d}.txt"
        file.write_text(prose(words, number), encoding="utf-8")
        os.utime(file, (time.time() - 100,) * 2)
    return path


def prepared(source: Path, *overrides: str, special: tuple[str, ...] = ()) -> PreparedData:
    return prepare(load(DataConfig, {"source": str(source)}, overrides or ["tokenizer=bytes"]), 64, special)


def decoded(data: PreparedData, split: TokenSplit) -> dict[str, str]:
    """Each document of a split by its name, from the tokens alone."""
    offsets, tokens = split.arrays["offsets"], split.arrays["tokens"]
    found = {}
    for number, id in enumerate(split.ids):
        ids = tokens[offsets[number] : offsets[number + 1]].tolist()
        assert ids[-1] == data.tokenizer.end_of_document
        found[id] = data.tokenizer.decode(ids)
        assert len(found[id].encode()) == split.arrays["bytes"][number]
    return found


# what is made


def test_every_document_is_on_one_side_whole(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data")
    data = prepared(source, "tokenizer.vocab_size=300")
    train, validation = decoded(data, data.train), decoded(data, data.validation)
    assert {**train, **validation} == {path.name: path.read_text() for path in source.iterdir()}
    assert not train.keys() & validation.keys()
    assert 1 <= len(validation) <= 15
    assert data.validation.documents == len(validation)
    assert data.validation.bytes == sum(len(text.encode()) for text in validation.values())
    assert data.train.arrays["tokens"].dtype == np.uint16
    again = prepared(source, "tokenizer.vocab_size=290")
    assert decoded(again, again.validation) == validation, "the split does not depend on the tokenizer"


def test_a_new_document_moves_no_other(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data")
    before = prepared(source).validation.ids
    (source / "new.txt").write_text(prose(50))
    assert set(before) <= set(prepared(source).validation.ids) <= {*before, "new.txt"}


def test_the_tokenizer_never_sees_the_validation_text(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data")
    held_out = prepared(source).validation.ids[0]
    (source / held_out).write_text("Ω" * 5000)
    data = prepared(source, "tokenizer=characters")
    assert "Ω" not in data.tokenizer.inner.get_vocab()
    assert not data.validation.lossless
    assert data.train.lossless
    assert any(held_out in note and "bits per byte" in note for note in data.report["warnings"])


def test_the_tail_is_exactly_the_last_tenth(tmp_path: Path) -> None:
    text = prose(20_000) + "Tiếng Việt có dấu.\n" * 700
    source = tmp_path / "input.txt"
    source.write_text(text, encoding="utf-8")
    border = int(len(text) * 0.9)
    cut = prepared(source, "source.max_document=7000", "tokenizer=bytes", "validation=tail")
    assert "".join(decoded(cut, cut.train).values()) == text[:border]
    assert "".join(decoded(cut, cut.validation).values()) == text[border:]
    assert cut.report["cut"] == cut.report["documents"] == 1
    assert cut.report["train"]["documents"] > 10

    asked = prepared(source)
    assert (asked.train.ids, asked.validation.ids) == (["input.txt"], ["input.txt:tail"])
    assert asked.report["validation"]["kind"] == "tail"
    assert any("hash splits between documents" in note and "tail" in note for note in asked.report["warnings"])


def test_a_share_of_the_training_text_is_part_of_a_larger_one(tmp_path: Path) -> None:
    source = tmp_path / "many.jsonl"
    source.write_text("".join(f'{{"body": "text number {i}"}}\n' for i in range(400)), encoding="utf-8")
    options = ["source.text=body", "tokenizer=bytes"]
    whole, half, tenth = (prepared(source, *options, f"share={share}") for share in (1, 0.5, 0.1))
    assert set(tenth.train.ids) < set(half.train.ids) < set(whole.train.ids)
    assert [len(one.train.ids) / len(whole.train.ids) for one in (half, tenth)] == pytest.approx([0.5, 0.1], abs=0.08)
    assert tenth.validation.ids == half.validation.ids == whole.validation.ids
    assert len({one.fingerprint for one in (whole, half, tenth)}) == 3
    assert any("10 % of it is used (data.share)" in note for note in tenth.report["warnings"])
    one = tmp_path / "one.txt"
    one.write_text(prose(20_000), encoding="utf-8")
    texts = ["".join(decoded(data, data.train).values()) for data in (
        prepared(one, "tokenizer=bytes", "validation=tail", f"share={share}") for share in (1, 0.25))]  # fmt: skip
    assert texts[0].startswith(texts[1])
    assert len(texts[1]) == len(texts[0]) // 4


def test_a_given_validation_text_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"body": "one two three"}\n{"body": "four"}\n')
    (tmp_path / "valid.jsonl").write_text('{"body": "five"}\n')
    options = ["source.text=body", "tokenizer=bytes", f"validation={{kind: file, path: {tmp_path / 'valid.jsonl'}}}"]
    data = prepared(tmp_path / "train.jsonl", *options)
    assert decoded(data, data.train) == {"train.jsonl#1": "one two three", "train.jsonl#2": "four"}
    assert decoded(data, data.validation) == {"valid.jsonl#1": "five"}
    assert data.report["validation"] == {"documents": 1, "bytes": 4, "tokens": 5, "kind": "file"}
    same = prepared(
        tmp_path / "train.jsonl", *options[:2], f"validation={{kind: file, path: {tmp_path / 'train.jsonl'}}}"
    )
    assert "validation: train.jsonl is the training text itself" in same.report["warnings"]


def test_the_report_says_what_there_is(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path / "data"), "tokenizer=bytes")
    report = data.report
    train, validation = decoded(data, data.train), decoded(data, data.validation)
    sides = ["\n".join(texts.values()).encode() for texts in (train, validation)]
    small, both = (
        len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (sides[0], sides[0] + b"\n" + sides[1])
    )
    assert list(report) == [
        "source", "fingerprint", "documents", "duplicates_removed", "cut", "tokenizer", "train", "validation",
        "baselines", "warnings",
    ]  # fmt: skip
    assert report["source"] == "data"
    assert (report["documents"], report["duplicates_removed"], report["cut"]) == (60, 0, 0)
    per_token = data.train.bytes / data.train.tokens
    assert report["tokenizer"] == {"kind": "bytes", "vocab_size": 257, "bytes_per_token": per_token}
    counts = {"documents": len(train), "bytes": data.train.bytes, "tokens": data.train.bytes + len(train)}
    assert report["train"] == counts
    assert report["baselines"]["xz"] == {
        "bits_per_byte": (both - small) * 8 / data.validation.bytes,
        "how": "xz -9e with the training text as its dictionary",
    }
    assert json.loads(json.dumps(report)) == report


def test_too_little_text_trains_and_says_so(tmp_path: Path) -> None:
    source = tmp_path / "small.txt"
    source.write_text(prose(8000)[:20_000])
    notes = prepared(source, "tokenizer=bpe").report["warnings"]
    assert [note.partition(":")[0] for note in notes] == [
        "validation", "tokenizer", "training text", "validation text", "tokenizer",
    ]  # fmt: skip
    assert "18.0 kB is too little" in notes[2]
    assert "2.0 kB is too little" in notes[3]
    assert "data.tokenizer.vocab_size" in notes[4]
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("ab")
    data = prepared(tiny)
    assert (data.train.tokens, data.validation.tokens) == (2, 2)
    assert any("shorter than one row (2 of 64 tokens)" in note for note in data.report["warnings"])
    tiny.write_text("a")
    with pytest.raises(WeftError, match="1 character is too little to split"):
        prepared(tiny)


def test_a_lopsided_hash_split_is_said(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data")
    held_out = prepared(source).validation.ids[0]
    (source / held_out).write_text(prose(100_000))
    assert any("% were asked for" in note for note in prepared(source).report["warnings"])


def test_xz_is_left_out_where_it_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "LARGEST", 10_000)
    report = prepared(folder_of(tmp_path / "data")).report
    assert report["baselines"] == {}
    assert any(note.startswith("baseline: xz is left out") for note in report["warnings"])


# fingerprints and reuse


def test_the_same_text_is_the_same_data_wherever_it_lies(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one")
    (tmp_path / "two").mkdir()
    two = folder_of(tmp_path / "two" / "one")
    first = prepared(one)
    assert prepared(two).fingerprint == first.fingerprint
    assert prepared(one, "tokenizer=characters").fingerprint != first.fingerprint
    assert prepared(one, "tokenizer=bytes", "validation.share=0.3").fingerprint != first.fingerprint
    assert prepared(one, "tokenizer=bytes", special=("<|mask|>",)).fingerprint != first.fingerprint
    assert prepared(one, "tokenizer=bytes", f"cache={tmp_path / 'other'}").fingerprint == first.fingerprint
    (one / "001.txt").write_text("changed")
    assert prepared(one).fingerprint != first.fingerprint


def test_unchanged_data_is_neither_tokenised_nor_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "data")
    # a change time within the last seconds is not held against a file whose modification time is old
    first = prepared(source)
    monkeypatch.setattr(preparing, "write_split", _never)
    monkeypatch.setattr(preparing, "survey", _never)
    second = prepared(source)
    assert second.report == first.report
    assert np.array_equal(second.train.arrays["tokens"], first.train.arrays["tokens"])
    assert isinstance(second.train.arrays["tokens"], np.memmap)
    monkeypatch.undo()


def test_touched_files_are_read_again_but_not_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    source = folder_of(tmp_path / "data")
    first = prepared(source)
    os.utime(source / "003.txt", (1, 1))
    monkeypatch.setattr(preparing, "write_split", _never)
    assert prepared(source).fingerprint == first.fingerprint


def test_what_other_code_made_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "data")
    first = prepared(source)
    monkeypatch.setattr(preparing, "_code", lambda config: "other code")
    calls = []
    monkeypatch.setattr(preparing, "survey", lambda *rest: calls.append("survey") or survey(*rest))
    monkeypatch.setattr(preparing, "write_split", lambda *rest: calls.append("write") or write_split(*rest))
    assert prepared(source).fingerprint == first.fingerprint
    assert calls == ["survey", "write", "write"]


def _never(*arguments: Any) -> Any:
    raise AssertionError("this was to be reused")


# what may go wrong


@pytest.mark.parametrize("damage", ["cut", "gone", "no-meta"])
def test_a_damaged_folder_is_made_again(tmp_path: Path, cache: Path, damage: str) -> None:
    source = folder_of(tmp_path / "data")
    first = prepared(source)
    expected = first.train.arrays["tokens"].tolist()
    (folder,) = (cache / "tokens").iterdir()
    tokens = folder / "train" / "tokens.npy"
    if damage == "cut":
        tokens.write_bytes(tokens.read_bytes()[:-10])
    elif damage == "gone":
        tokens.unlink()
    else:
        (folder / "meta.json").write_text("{")
    assert prepared(source).train.arrays["tokens"].tolist() == expected
    assert [entry.name for entry in (cache / "tokens").iterdir()] == [folder.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, number: int
) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    source = folder_of(tmp_path / "data")
    append = shards._Array.append

    def full(self: shards._Array, values: Any) -> None:
        if self.length > 500:
            raise OSError(number, os.strerror(number))
        append(self, values)

    monkeypatch.setattr(shards._Array, "append", full)
    with pytest.raises(WeftError, match=r"cache: the disk is full; .*WEFT_CACHE"):
        prepared(source)
    assert list((cache / "tokens").iterdir()) == []
    monkeypatch.setattr(shards._Array, "append", append)
    assert prepared(source).train.tokens > 500


def test_a_text_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    source = folder_of(tmp_path / "data")
    train = preparing.train_tokenizer

    def meanwhile(*arguments: Any) -> Any:
        with (source / "000.txt").open("a") as file:
            file.write("more")
        return train(*arguments)

    monkeypatch.setattr(preparing, "train_tokenizer", meanwhile)
    with pytest.raises(WeftError, match="the text changed while it was read"):
        prepared(source)
    assert list((cache / "tokens").iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "data")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(WeftError, match="set WEFT_CACHE"):
        prepared(source, "tokenizer=bytes", f"cache={tmp_path / 'locked' / 'cache'}")


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeftError, match=r"the cache folder cannot be made .*; set WEFT_CACHE"):
        prepared(folder_of(tmp_path / "data"), "tokenizer=bytes", f"cache={tmp_path / 'file' / 'cache'}")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_folder() == tmp_path / "cache"
    monkeypatch.delenv("WEFT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "weft"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_folder() == tmp_path / "local" / "weft" / "cache"


def test_leftovers_are_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    young, old = (cache / "tokens" / f".writing-{name}" for name in ("young", "old"))
    for folder in (young, old):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 100_000,) * 2)
    prepared(folder_of(tmp_path / "data"))
    assert young.exists()
    assert not old.exists()


SCRIPT = """
import sys
from weft.config import load
from weft.data.config import DataConfig, prepare
data = prepare(load(DataConfig, {"source": sys.argv[1], "tokenizer": "bytes"}), 64)
print(data.fingerprint, data.train.tokens, int(data.train.arrays["tokens"].sum()))
"""


def start(source: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(source)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_kill_leaves_nothing_half_made(tmp_path: Path, cache: Path) -> None:
    source = folder_of(tmp_path / "data", documents=100, words=1000)
    for attempt in range(3):
        process = start(source)
        deadline = time.monotonic() + 60
        while not list((cache / "tokens").glob("*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.04 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        complete = [folder for folder in (cache / "tokens").iterdir() if len(folder.name) == 64]
        assert all((folder / "meta.json").exists() for folder in complete)
        for leftover in (cache / "tokens").iterdir():
            os.rename(leftover, tmp_path / f"{attempt}-{leftover.name}")  # so that the next attempt begins anew
    data = prepared(source)
    texts = {**decoded(data, data.train), **decoded(data, data.validation)}
    assert texts == {path.name: path.read_text() for path in source.iterdir()}


def test_two_processes_at_once(tmp_path: Path, cache: Path) -> None:
    source = folder_of(tmp_path / "data", documents=100, words=1000)
    processes = [start(source) for _ in range(3)]
    shown = {process.communicate(timeout=100)[0] for process in processes}
    assert len(shown) == 1
    assert [process.returncode for process in processes] == [0] * 3
    assert len(list((cache / "tokens").iterdir())) == 1


def test_whoever_is_first_wins(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "c"))

    def fill(folder: Path) -> None:
        (folder / "x").write_text("mine")
        other = cache.folder_for("name")
        other.mkdir()
        (other / "x").write_text("theirs")

    made = cache.make("name", fill, lambda folder: (folder / "x").exists())
    assert (made / "x").read_text() == "theirs"
    assert [entry.name for entry in (tmp_path / "c").iterdir()] == ["name"]


# arrays


def test_bytes_per_token_of_each_document() -> None:
    arrays = {"tokens": np.arange(12), "offsets": np.array([0, 4, 6, 12]), "bytes": np.array([40, 10, 3])}
    assert TokenSplit(arrays).bytes_per_token.tolist() == [10, 5, 0.5]


def test_a_large_vocabulary_has_wide_tokens(tmp_path: Path) -> None:
    text = "".join(chr(0x10000 + number) for number in range(66_000))
    (tmp_path / "a.txt").write_text(text + "\n" + text, encoding="utf-8")
    data = prepared(tmp_path / "a.txt", "tokenizer=characters", "source.max_document=1000000", "validation=tail")
    assert data.train.arrays["tokens"].dtype == np.uint32
    assert "".join(decoded(data, data.validation).values()) == (text + "\n" + text)[int(132_001 * 0.9) :]
    assert data.validation.lossless
