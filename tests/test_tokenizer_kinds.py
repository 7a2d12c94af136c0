"""WordPiece, Unigram and BPE with byte fallback: what they promise; texts framed for BERT; accents that get lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from weft.cli.tokenizer import app
from weft.config import load
from weft.data.config import DataConfig, prepare
from weft.errors import ConfigError, WeftError
from weft.text import Bpe, FallbackBpe, Tokenizer, TokenizerConfig, Unigram, WordPiece
from weft.text.accents import accents_lost
from weft.text.show import fit, pieces
from weft.text.special import BERT, END_OF_DOCUMENT, longest_first
from weft.text.streaming import StreamDecoder
from weft.text.unigram import STEP, settled

VIETNAMESE = [
    "Bà ba bán ba cái bánh bà Ba; bạn bè bàn bạc, ban đầu ai cũng bận.\n" * 5,
    "Tiếng Việt có dấu: đặc biệt, Nguyễn, thuở xưa, má mà mả mã mạ.\n" * 5,
]
ENGLISH = ["The longest word of the newest list is lower than the lowest one; 1234567 walkers walked.\n" * 10]
TEXTS = [*VIETNAMESE, *ENGLISH]
KINDS: list[TokenizerConfig] = [
    FallbackBpe(vocab_size=600),
    Unigram(vocab_size=420),
    Unigram(vocab_size=200 + 88, byte_fallback=False),
    WordPiece(vocab_size=250),
    WordPiece(vocab_size=250, casing="uncased-accents"),
    WordPiece(vocab_size=250, casing="cased"),
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def train(config: TokenizerConfig, texts: list[str] = TEXTS, special: tuple[str, ...] = ()) -> Tokenizer:
    return config.train(iter(texts), sum(len(text.encode()) for text in texts), special)


@pytest.fixture(scope="module")
def trained() -> dict[TokenizerConfig, Tokenizer]:
    return {config: train(config) for config in KINDS}


@given(text=any_text)
@settings(max_examples=100, deadline=None)
def test_byte_fallback_keeps_every_text(trained: dict[TokenizerConfig, Tokenizer], text: str) -> None:
    for config, tokenizer in trained.items():
        ids = tokenizer.encode(text)
        assert not set(ids) & (set(tokenizer.special.values()) - {tokenizer.unknown}), "no text is a special token"
        if isinstance(config, FallbackBpe) or (isinstance(config, Unigram) and config.byte_fallback):
            assert tokenizer.decode(ids) == text
            assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
            assert fit(tokenizer, text).unknown == 0
        assert [piece.id for piece in pieces(tokenizer, text)] == ids


def test_a_special_token_in_a_text_is_letters(trained: dict[TokenizerConfig, Tokenizer]) -> None:
    for tokenizer in trained.values():
        for name in tokenizer.special:
            assert tokenizer.special[name] not in tokenizer.encode(f"a {name}") or name in ("[UNK]", "<|unknown|>")


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_training_depends_on_the_text_alone(trained: dict[TokenizerConfig, Tokenizer], config: TokenizerConfig) -> None:
    """The library breaks ties by chance for WordPiece, and orders Unigram's rare characters so."""
    assert {train(config).fingerprint for _ in range(3)} == {trained[config].fingerprint}


def test_training_is_the_same_in_other_processes(trained: dict[TokenizerConfig, Tokenizer]) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_tokenizer_kinds import KINDS, train;"
        "print(*(train(config).fingerprint for config in KINDS))"
    )
    env = {**os.environ, "RAYON_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "4"}
    root = Path(__file__).parents[1]
    shown = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, capture_output=True, text=True)
    assert shown.stdout.split() == [tokenizer.fingerprint for tokenizer in trained.values()], shown.stderr


def test_sizes_are_kept_and_common_words_are_tokens(trained: dict[TokenizerConfig, Tokenizer]) -> None:
    for config, tokenizer in trained.items():
        asked = config.vocab_size  # type: ignore[attr-defined]
        assert tokenizer.vocab_size <= asked
        ids = tokenizer.encode("the longest word of the newest list")
        assert len(ids) < 14, f"{config}: {tokenizer.inner.encode('the longest word').tokens}"
    words = {piece.token for piece in pieces(trained[KINDS[1]], TEXTS[2])}
    assert " the" in words, "whole words are among Unigram's pieces"


def test_what_the_trainer_put_back_by_chance_is_put_in_order() -> None:
    low = -9.123456789
    kept = [("a", -2.0), (" the", -3.0000000001), ("xy", low)]
    one = [*kept, ("q", low), ("z", low + STEP), ("é", low + 2 * STEP)]
    other = [*kept, ("é", low), ("q", low + STEP + 1e-14), ("z", low + 2 * STEP)]
    assert settled(one) == settled(other)
    assert [piece for piece, _ in settled(one)] == ["a", " the", "q", "z", "xy", "é"]
    assert settled(one)[1] == (" the", -3.0)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_a_saved_one_is_plain(
    trained: dict[TokenizerConfig, Tokenizer], config: TokenizerConfig, tmp_path: Path
) -> None:
    tokenizer, path = trained[config], tmp_path / "tokenizer.json"
    tokenizer.save(path)
    text = "Bà ba bán 12 ☂ newest"
    assert Tokenizer.load(path).fingerprint == tokenizer.fingerprint
    plain = tokenizers.Tokenizer.from_file(str(path))
    assert plain.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    stream = StreamDecoder(tokenizer)
    ids = tokenizer.encode(text)
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)
    again = load(TokenizerConfig, config.dump())
    assert again == config


def test_casing(trained: dict[TokenizerConfig, Tokenizer]) -> None:
    uncased, accents, cased = (trained[config] for config in KINDS[3:])
    for text in ("Bánh", "Ba\u0301nh"):  # composed and decomposed
        assert uncased.decode(uncased.encode(text)) == "banh"
        assert accents.decode(accents.encode(text)) == "bánh"
        assert cased.decode(cased.encode("B" + text[1:])) in ("Bánh", "[UNK]")
    assert accents.encode("Ba\u0301nh") == accents.encode("Bánh") == accents.encode("bánh")
    assert cased.encode("Bà") != cased.encode("bà")


def test_words_that_differ_by_accents_are_counted(trained: dict[TokenizerConfig, Tokenizer]) -> None:
    note = next(note for note in KINDS[3].notes(trained[KINDS[3]], 1) if "accents" in note)
    assert "strips accents" in note
    assert "uncased-accents" in note
    assert not any("accents" in note for note in KINDS[4].notes(trained[KINDS[4]], 1))
    assert accents_lost(trained[KINDS[3]], ENGLISH) is None
    counted = accents_lost(trained[KINDS[3]], ["má mà Mả mẹ the The"])
    assert counted is not None
    assert "67 % of the words" in counted
    assert "mà, má, mả all become ma" in counted
    assert accents_lost(trained[KINDS[5]], VIETNAMESE) is None


def test_rare_characters_are_said_to_be_unknown_or_bytes() -> None:
    text = ["".join(chr(0x4E00 + i) * (2 if i >= 250 else 1) for i in range(300)) + " the" * 50]
    for config, said in [
        (Unigram(vocab_size=400), "written in bytes"),
        (Unigram(vocab_size=300, byte_fallback=False), "are unknown"),
        (FallbackBpe(vocab_size=520), "written in bytes"),
        (WordPiece(vocab_size=105), "are unknown"),
    ]:
        tokenizer = train(config, text)
        assert tokenizer.vocab_size <= config.vocab_size
        assert tokenizer.inner.token_to_id(chr(0x4E00 + 250)) is not None, "frequent"
        assert tokenizer.inner.token_to_id(chr(0x4E00 + 249)) is None, "rare"
        assert any(said in note for note in config.notes(tokenizer, 1)), config.notes(tokenizer, 1)
    assert Unigram().notes(train(Unigram(vocab_size=300), text), 10**9)[0].startswith("tokenizer: trained on about")


@pytest.mark.parametrize("texts", [[], ["a"], ["   \n"], ["\x00\ue000\ue001"], ["aaaa"]])
def test_hardly_any_text(texts: list[str]) -> None:
    for config in KINDS:
        tokenizer = train(config, texts)
        tokenizer.encode("".join(texts))
        assert config.notes(tokenizer, 1)


def test_options_that_cannot_be_had() -> None:
    with pytest.raises(WeftError, match="leave no room"):
        train(Unigram(vocab_size=288), special=tuple(f"<|{i}|>" for i in range(40)))
    with pytest.raises(ConfigError, match="casing"):
        load(TokenizerConfig, {"kind": "wordpiece", "casing": "upper"})
    with pytest.raises(ConfigError, match="vocab_size"):
        load(TokenizerConfig, {"kind": "bpe-fallback", "vocab_size": 300})


# frames


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return train(KINDS[3])


def test_a_pair_is_framed_as_bert_reads_it(bert: Tokenizer) -> None:
    first, second = bert.encode("the longest"), bert.encode("newest")
    cls, sep = bert.special["[CLS]"], bert.special["[SEP]"]
    row = bert.frame("the longest", "newest")
    assert row.tokens == [cls, *first, sep, *second, sep]
    assert row.segments == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert row.special == [True, *[False] * len(first), True, *[False] * len(second), True]
    assert row.offsets[1] == (0, 3)
    single = bert.frame("the longest")
    assert single.tokens == [cls, *first, sep]
    assert set(single.segments) == {0}
    assert (bert.role("mask"), bert.role("padding"), bert.role("unknown")) == (4, 0, 1)
    assert bert.end_of_document == sep


@given(st.integers(0, 12), st.integers(0, 12), st.integers(3, 20))
@settings(max_examples=150, deadline=None)
def test_the_longer_text_is_cut_first_as_the_library_does(bert: Tokenizer, one: int, two: int, length: int) -> None:
    texts = " ".join(["the"] * one), " ".join(["ba"] * two)
    row = bert.frame(*texts, length)
    theirs = tokenizers.Tokenizer.from_str(bert.inner.to_str())
    theirs.enable_truncation(length, strategy="longest_first")
    encoding = theirs.encode(*texts)
    assert row.tokens == encoding.ids
    assert row.segments == encoding.type_ids
    assert len(row.tokens) == min(length, one + two + 3)


def test_longest_first_takes_from_the_longer_until_they_are_equal() -> None:
    assert longest_first((10, 3), 8) == (5, 3)
    assert longest_first((3, 10), 8) == (3, 5)
    assert longest_first((10, 10), 8) == (4, 4)
    assert longest_first((10, 9), 7) == (4, 3)
    assert longest_first((2, 3), 8) == (2, 3)
    assert longest_first((7, 0), 4) == (4, 0)


def test_any_tokenizer_frames_once_it_has_the_tokens() -> None:
    plain = train(Bpe(vocab_size=300))
    with pytest.raises(WeftError, match="no first token"):
        plain.frame("a", "b")
    tokenizer = train(Bpe(vocab_size=300), special=("[CLS]", "[SEP]", "[MASK]"))
    row = tokenizer.frame("ab", "c", 4)
    cls, sep = tokenizer.special["[CLS]"], tokenizer.special["[SEP]"]
    assert row.tokens == [cls, *tokenizer.encode("ab")[: 4 - 3], sep, sep]
    assert tokenizer.end_of_document == tokenizer.special[END_OF_DOCUMENT]
    added = plain.with_special(["[CLS]", "[SEP]"])
    assert added.frame("ab").segments == [0] * (len(plain.encode("ab")) + 2)


def test_frames_that_cannot_be(bert: Tokenizer) -> None:
    with pytest.raises(WeftError, match="length = 2: the 3 special tokens"):
        bert.frame("a", "b", 2)
    with pytest.raises(WeftError, match="2 texts cannot be paired with 1"):
        bert.frame_batch(["a", "b"], ["c"])
    with pytest.raises(WeftError, match="surrogate"):
        bert.frame("a\ud800")


def test_a_role_that_is_filled_is_not_filled_again(bert: Tokenizer) -> None:
    assert bert.with_special(["<mask>", "</s>", *BERT]) is bert
    more = bert.with_special(["<mask>", "<|new|>"])
    assert more.special.keys() - bert.special.keys() == {"<|new|>"}
    assert train(KINDS[3], special=("<mask>", "<|new|>")).special == {**bert.special, "<|new|>": 5}
    plain = train(Bpe(vocab_size=300))
    assert plain.with_special(["[SEP]"]).special.keys() == {END_OF_DOCUMENT, "[SEP]"}, "an end is no separator"


# the command line


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_kinds_are_trained_and_compared_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    en, vi = tmp_path / "en.txt", tmp_path / "vi.txt"
    en.write_text("".join(ENGLISH), encoding="utf-8")
    vi.write_text("".join(VIETNAMESE), encoding="utf-8")
    out = tmp_path / "tokenizer.json"
    call("train", str(en), "--kind", "{kind: wordpiece, casing: cased, vocab_size: 120}", "--all", "--out", str(out))
    arguments = ["show", str(out), "--beside", "bpe", "--train-on", str(en), "--vocab-size", "280"]
    found = json.loads(call(*arguments, "--file", str(en), "--file", str(vi), "--json"))
    assert [(each["text"], each["tokenizer"]) for each in found] == [
        (str(en), str(out)), (str(en), "bpe"), (str(vi), str(out)), (str(vi), "bpe"),
    ]  # fmt: skip
    by = {(each["text"], each["tokenizer"]): each for each in found}
    assert by[str(vi), str(out)]["unknown_rate"] > 0.3, "English pieces for Vietnamese"
    assert by[str(vi), "bpe"]["unknown_rate"] == 0
    assert by[str(en), "bpe"]["bytes_per_token"] > 1.5 * by[str(vi), "bpe"]["bytes_per_token"]
    assert by[str(en), "bpe"]["vocab_size"] == 280
    for each in found:
        assert each["pieces_per_word"] == each["tokens"] / each["words"]
    shown = call(*arguments, "--file", str(en), "--file", str(vi)).splitlines()
    assert "bytes a token" in shown[-5]
    assert [line.split()[-1] for line in shown[-4:]] == ["part", "exactly", "part", "exactly"]


def test_the_data_of_a_run_say_what_is_lost(tmp_path: Path) -> None:
    text = tmp_path / "vi.txt"
    text.write_text("".join(f"{number} {VIETNAMESE[number % 2]}" for number in range(30)), encoding="utf-8")
    for tokenizer, said, lossless in [
        ({"kind": "wordpiece", "vocab_size": 200}, "strips accents", False),
        ({"kind": "unigram", "vocab_size": 400}, "too little", True),
        ({"kind": "bpe-fallback", "vocab_size": 600}, "too little", True),
    ]:
        config = load(DataConfig, {"source": str(text), "tokenizer": tokenizer, "validation": "tail"})
        data = prepare(config, 16, special=("[MASK]",))
        assert any(said in warning for warning in data.report["warnings"]), data.report["warnings"]
        assert data.train.lossless == lossless
        assert data.tokenizer.role("mask") in data.tokenizer.special.values()


def test_a_terminal_shows_colours_and_marks_what_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    cased = "{kind: wordpiece, casing: cased, vocab_size: 32}"
    text = "Bà ba bán cái xe đạp nhỏ ở đường phố Hà Nội, ngày mưa rất to quá"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = call("show", cased, text)
    assert "\x1b[30;4" in shown
    assert re.search(r"\x1b\[1;37;41m\w+", shown), "unknown: bold white on red"
    assert "<unknown" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert "<unknown: " in call("show", cased, text)
    assert not re.search(r"\x1b\[[0-9;]*[34]\dm", call("show", cased, text, "--steps"))


def test_pieces_of_several_are_shown_with_what_is_unknown() -> None:
    shown = call("show", "wordpiece", "Bà ba bán bánh", "--beside", "unigram", "--vocab-size", "300")
    assert "wordpiece: trained on the very text that it is shown on" in shown
    assert "strips accents" in shown
    assert shown.count("ids: ") == 2
    assert "\x1b" not in shown
    cased = "{kind: wordpiece, casing: cased, vocab_size: 32}"
    assert "<unknown: " in call("show", cased, "Bà ba bán cái xe đạp nhỏ ở đường phố Hà Nội, ngày mưa rất to quá")


def test_what_cannot_be_shown_is_said_in_one_line(tmp_path: Path) -> None:
    for arguments, said in [
        (["wordpeice", "a"], "did you mean 'wordpiece'"),
        (["unigram"], "give --train-on DATA, or a text"),
        (["{kind: bpe, vocab: 3}", "a"], "no such option"),
        (["{3: bpe}", "a"], "should be a kind's name"),
        ([str(tmp_path), "a"], "no tokenizer.json in this folder"),
        ([str(tmp_path / "absent.txt"), "a"], "no such file"),
        (["bpe", "a", "--file", str(Path(__file__))], "give one of them"),
        (["bpe", "--file", str(tmp_path / "absent")], "no such file"),
    ]:
        with pytest.raises(WeftError) as error:
            call("show", *arguments)
        assert said in str(error.value)
        assert len(str(error.value).splitlines()) == 1
