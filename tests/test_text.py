"""Tokenizers: exact on every text, the same from the same text, plain files, and streams without broken characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from typer.testing import CliRunner

from weft.cli.tokenizer import app
from weft.config import load
from weft.errors import WeftError
from weft.text import END_OF_DOCUMENT, Bpe, Bytes, Characters, Tokenizer, TokenizerConfig, TokenizerFile, find
from weft.text.alphabet import BYTE_TO_CHARACTER, CHARACTER_TO_BYTE
from weft.text.show import fit, pieces
from weft.text.streaming import StreamDecoder
from weft.text.tokenizers import sample

TEXTS = [
    "Return the number of items in the list; raise ValueError when the list is empty.\n" * 20,
    "Tiếng Việt có dấu: đặc biệt, Nguyễn, thuở xưa.\n" * 20,
    "def walk(self):\r\n\tyield from self.parts  # 1234567\r\n" * 20,
]
NASTY = [
    "",
    " ",
    "\r",
    "a\rb\r\nc\n\n\n d",
    "\x00\x01\x1b\x7f\x85\xa0\u2028\ufeff\ufffd",
    "Việt Nam: ăn cơm chưa? — Tie\u0302\u0301ng Vie\u0323\u0302t",  # composed and decomposed
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\u200d",
    f"{END_OF_DOCUMENT}<|unknown|>{END_OF_DOCUMENT} <|end|",
    "   leading, trailing   \t\n ",
    "١٢٣٤٥ 12345678 ½ Ⅷ",
    "a" * 5000 + " " * 5000 + "=" * 5000,
    "\U0010ffff\u0378",  # unassigned
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def train(config: TokenizerConfig, texts: list[str] = TEXTS, special: tuple[str, ...] = ()) -> Tokenizer:
    return config.train(iter(texts), sum(len(text.encode()) for text in texts), special)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train(Bpe(vocab_size=350))


@pytest.fixture(scope="module")
def by_byte() -> Tokenizer:
    return train(Bytes())


@pytest.mark.parametrize("text", NASTY)
def test_byte_level_tokenizers_keep_every_text(bpe: Tokenizer, by_byte: Tokenizer, text: str) -> None:
    for tokenizer in (bpe, by_byte):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.exact(text)
        assert not set(ids) & set(tokenizer.special.values()), "no text becomes a special token"
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@given(any_text)
@settings(max_examples=200, deadline=None)
def test_bpe_keeps_any_text(bpe: Tokenizer, text: str) -> None:
    assert bpe.exact(text)
    assert bpe.encode_batch([text, text]) == [bpe.encode(text)] * 2


def test_bpe_has_the_asked_size_and_compresses(bpe: Tokenizer) -> None:
    assert bpe.vocab_size == 350
    assert bpe.special == {END_OF_DOCUMENT: bpe.end_of_document}
    assert fit(bpe, TEXTS[0]).bytes_per_token > 2


def test_words_keep_their_combining_marks_and_digits_come_in_threes(bpe: Tokenizer) -> None:
    cut = [text for text, _ in bpe.inner.pre_tokenizer.pre_tokenize_str("Vie\u0323\u0302t 1234567\n\nx")]
    shown = [bytes(CHARACTER_TO_BYTE[c] for c in piece).decode() for piece in cut]
    assert shown == ["Vie\u0323\u0302t", " ", "123", "456", "7", "\n\n", "x"]


def test_the_alphabet_is_the_published_one() -> None:
    assert sorted(BYTE_TO_CHARACTER) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert (BYTE_TO_CHARACTER[ord(" ")], BYTE_TO_CHARACTER[ord("\n")], BYTE_TO_CHARACTER[ord("a")]) == ("Ġ", "Ċ", "a")


def test_bytes_are_their_own_ids(by_byte: Tokenizer) -> None:
    assert by_byte.encode("aé🙂") == list("aé🙂".encode())
    assert (by_byte.vocab_size, by_byte.end_of_document) == (257, 256)


def test_special_tokens_that_an_objective_asks_for() -> None:
    for config in (Bpe(vocab_size=300), Characters(), Bytes()):
        tokenizer = train(config, special=("<|mask|>",))
        assert {END_OF_DOCUMENT, "<|mask|>"} <= tokenizer.special.keys()
        ids = [*tokenizer.encode("the"), tokenizer.special["<|mask|>"], tokenizer.end_of_document]
        assert tokenizer.decode(ids) == "the"
        assert tokenizer.decode(ids, skip_special=False) == f"the<|mask|>{END_OF_DOCUMENT}"


def test_characters_say_what_they_never_saw() -> None:
    tokenizer = train(Characters())
    assert all(tokenizer.exact(text) for text in TEXTS)
    assert len(tokenizer.encode(TEXTS[1])) == len(TEXTS[1])
    assert tokenizer.vocab_size == len(set("".join(TEXTS))) + 2
    ids = tokenizer.encode("the Ω the")
    assert ids.count(tokenizer.unknown) == 1
    assert not tokenizer.exact("the Ω the")
    found = fit(tokenizer, "the ΩΩ the")
    assert (found.unknown, found.exact) == (2, False)


def test_training_is_the_same_whatever_the_threads_and_hash_seeds(bpe: Tokenizer) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_text import Bpe, Characters, train;"
        "print(train(Bpe(vocab_size=350)).fingerprint, train(Characters()).fingerprint)"
    )
    for threads in ("1", "4"):
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        root = Path(__file__).parents[1]
        shown = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, capture_output=True, text=True)
        assert shown.stdout.split() == [bpe.fingerprint, train(Characters()).fingerprint], shown.stderr


def test_a_vocabulary_that_cannot_be_had() -> None:
    with pytest.raises(WeftError, match="at least 258"):
        train(Bpe(vocab_size=257), special=("<|mask|>",))
    small = Bpe(vocab_size=4096)
    notes = small.notes(train(small, ["ab"]), 2)
    assert len(notes) == 1
    assert "not 4096" in notes[0]
    assert "64.0 MB" in Bpe().notes(train(Bpe(vocab_size=300)), 10**9)[0], "the sample is stated"


def test_half_a_surrogate_pair_is_refused(bpe: Tokenizer) -> None:
    with pytest.raises(WeftError, match="character 1 is half a surrogate pair"):
        bpe.encode("a\ud800")


@pytest.mark.parametrize("config", [Bpe(vocab_size=300), Characters(), Bytes()])
def test_a_saved_tokenizer_is_plain(config: TokenizerConfig, tmp_path: Path) -> None:
    tokenizer = train(config)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special == tokenizer.special
    assert loaded.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])
    assert loaded.encode(END_OF_DOCUMENT) != [loaded.end_of_document]
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode(TEXTS[1]).ids == tokenizer.encode(TEXTS[1])
    assert plain.decode(plain.encode(TEXTS[1]).ids) == TEXTS[1]


def test_a_tokenizer_of_others(tmp_path: Path) -> None:
    inner = train(Bpe(vocab_size=300)).inner.to_str().replace(END_OF_DOCUMENT, "<|endoftext|>")
    folder = tmp_path / "runs" / "demo"
    for step in ("step-00000100", "step-00000200"):
        (folder / "checkpoints" / step).mkdir(parents=True)
        (folder / "checkpoints" / step / "tokenizer.json").write_text(inner, encoding="utf-8")
    assert find(folder).parent.name == "step-00000200"
    config = load(TokenizerConfig, str(find(folder)))
    assert isinstance(config, TokenizerFile)
    tokenizer = config.train(iter(()), 0, ("<|mask|>",))
    assert tokenizer.special["<|endoftext|>"] == tokenizer.end_of_document
    assert tokenizer.special["<|mask|>"] == 300
    assert config.notes(tokenizer, 0) == [f"tokenizer: <|mask|> added to {config.path}, which lacks it"]
    assert config.identity() == TokenizerFile(path=str(folder)).identity(), "known by content, not by place"


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    for content in ("{", '{"version": "1.0"}', ""):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(WeftError, match=r"not a tokenizer\.json"):
            Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(WeftError, match="no such file"):
        find(tmp_path / "absent.json")
    with pytest.raises(WeftError, match=r"no tokenizer\.json in this folder"):
        find(tmp_path.parent)


def test_a_sample_is_taken_evenly() -> None:
    texts = [f"{number:03d}" + "x" * 97 for number in range(1000)]
    taken = [int(text[:3]) for text in sample(texts, 100_000, 20_000)]
    assert 195 <= len(taken) <= 205
    assert [sum(start <= number < start + 250 for number in taken) for start in (0, 250, 500, 750)] == [50] * 4
    assert list(sample(texts, 100_000, 100_000)) == texts
    assert list(sample(texts, 100_000, 1)) == texts[:1]


@given(st.lists(st.integers(0, 349), max_size=40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_stream_says_what_decoding_says(bpe: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = StreamDecoder(bpe, skip_special=skip)
    assert "".join([*map(stream.push, ids), stream.finish()]) == bpe.decode(ids, skip_special=skip)


@given(any_text)
@settings(max_examples=100, deadline=None)
def test_a_stream_never_breaks_a_character(by_byte: Tokenizer, text: str) -> None:
    stream = StreamDecoder(by_byte)
    shown = ""
    for id in by_byte.encode(text):
        shown += stream.push(id)
        assert text.startswith(shown)
    assert shown == text
    assert stream.finish() == ""


def test_a_stream_that_ends_within_a_character(by_byte: Tokenizer) -> None:
    stream = StreamDecoder(by_byte)
    assert [stream.push(byte) for byte in "🙂".encode()[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


def test_a_stream_keeps_the_spaces_of_tokenizers_that_drop_the_first() -> None:
    vocabulary = {"▁hello": 0, "▁big": 1, "ger": 2, "▁world": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges=[], byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = Tokenizer(inner)
    ids = [0, 1, 2, *(4 + byte for byte in "đ🙂".encode()), 3]
    stream = StreamDecoder(tokenizer)
    shown = [stream.push(id) for id in ids]
    assert "".join(shown) == tokenizer.decode(ids) == "hello biggerđ🙂 world"
    assert not any("\ufffd" in text for text in shown)


def test_pieces_cover_the_text(bpe: Tokenizer) -> None:
    text = "Return 🙂\n"
    found = pieces(bpe, text)
    assert found[0].start == 0
    assert found[-1].end == len(text)
    assert "".join(piece.shown for piece in found).replace("<F0><9F><99><82>", "🙂") == text
    assert (fit(bpe, text).words, fit(bpe, text).bytes) == (2, 12)


def test_the_command_line_trains_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(TEXTS), encoding="utf-8")
    out = tmp_path / "tokenizer.json"
    call = ["train", str(tmp_path / "text.txt"), "--vocab-size", "300", "--out", str(out)]
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["vocab_size"] == 300
    whole = len("".join(TEXTS).encode())
    assert 0.85 * whole < result["train_bytes"] < 0.95 * whole, "the validation part is not trained on"
    again = CliRunner().invoke(app, call)
    assert isinstance(again.exception, WeftError)
    assert CliRunner().invoke(app, [*call, "--force", "--all"]).exit_code == 0

    shown = CliRunner().invoke(app, ["show", str(out), "Return", "đặc\tsản"]).stdout
    assert "exactly" in shown
    assert "\x1b" not in shown, "plain where it is no terminal"
    assert shown.splitlines()[0].replace("|", "").replace("⇥", "\t").startswith("Return ")
    data = json.loads(
        CliRunner().invoke(app, ["show", str(out), "--file", str(tmp_path / "text.txt"), "--json"]).stdout
    )
    assert data["exact"] is True
    assert data["bytes"] == whole
