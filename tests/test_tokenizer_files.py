"""The files that GPT-2, RoBERTa and BERT were published with: read as transformers reads them; damage is named.

Real files are looked for in $WEFT_TEST_DATA (else ../shared/data): tokenizer-gpt2/, tokenizer-bert-uncased/.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.config import load
from weft.errors import WeftError
from weft.text import Bpe, Tokenizer, TokenizerConfig, TokenizerFile, WordPiece, find, open_tokenizer
from weft.text.alphabet import BYTE_TO_CHARACTER
from weft.text.special import BERT

transformers = pytest.importorskip("transformers")

DATA = Path(os.environ.get("WEFT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
TEXTS = [
    "",
    "Hello, world! It's 1234 o'clock; they'll've gone.",
    "  two  spaces\n\nand\tlines \r\n ",
    "Tiếng Việt có dấu: đặc biệt, Nguyễn, thuở xưa. NGÀY MƯA",
    "Vie\u0323\u0302t e\u0301 — decomposed",
    "中文和日本語 한국어 mixed文字",
    "🙂👩‍👩‍👧‍👦 \u200b\u200d½ Ⅷ ① ﬁ",
    "def f(x):\n    return x ** 2  # naïve [MASK] <|endoftext|> [CLS]",
    "unaffable " * 3 + "x" * 120,
    "\x00\x01\x1b\ufffd\xa0\u2028\ufeff|",
    "Русский текст; Ελληνικά ΣΑΣ; العربية ١٢٣; हिन्दी",
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def real(name: str) -> Path:
    """A folder of real files."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs the published files: no {folder} (WEFT_TEST_DATA names the folder that holds {name})")
    return folder


def small_gpt2(folder: Path, **changes: str | None) -> Path:
    """The two files of a small byte-level vocabulary, or with other contents; None leaves one out."""
    text = ["the lowest of the newest, Việt Nam's 42 walkers\n" * 20]
    model = Bpe(vocab_size=320).train(iter(text), 1000).declaration["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    vocabulary = json.dumps({"<|endoftext|>" if id == 0 else token: id for token, id in model["vocab"].items()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ({"encoder.json": vocabulary, "vocab.bpe": merges} | changes).items():
        if content is not None:
            (folder / name).write_text(content, encoding="utf-8", newline="")
    return folder


def gpt2_of_transformers(folder: Path) -> Any:
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    return transformers.GPT2Tokenizer(vocab=vocabulary, merges=[tuple(line.split(" ")) for line in lines if line])


def bert_of_transformers(folder: Path, **options: bool) -> Any:
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {line: number for number, line in enumerate(lines) if line}
    return transformers.BertTokenizer(vocab=vocabulary, **options)


def same(tokenizer: Tokenizer, witness: Any, text: str) -> None:
    """The same ids; where a text spells a special token, weft alone reads letters."""
    if not any(name in text for name in tokenizer.special):
        assert tokenizer.encode(text) == witness(text, add_special_tokens=False)["input_ids"], text


def test_gpt2s_own_files() -> None:
    folder = real("tokenizer-gpt2")
    tokenizer, witness = open_tokenizer(folder), gpt2_of_transformers(folder)
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (50257, 50256)
    assert tokenizer.encode("Hello world") == [15496, 995]
    for text in TEXTS:
        same(tokenizer, witness, text)
        assert tokenizer.exact(text)
    assert open_tokenizer(folder / "vocab.bpe").fingerprint == tokenizer.fingerprint

    @given(any_text)
    @settings(max_examples=150, deadline=None)
    def on_any_text(text: str) -> None:
        same(tokenizer, witness, text)

    on_any_text()


def test_berts_own_file() -> None:
    folder = real("tokenizer-bert-uncased")
    tokenizer, witness = open_tokenizer(folder), bert_of_transformers(folder)
    assert tokenizer.vocab_size == 30522
    assert tokenizer.notes[0].endswith("is read as uncased: none of its tokens has a capital or an accent")
    assert [tokenizer.special[name] for name in BERT] == [0, 100, 101, 102, 103]
    for text in TEXTS:
        same(tokenizer, witness, text)

    @given(any_text, any_text, st.integers(3, 40))
    @settings(max_examples=150, deadline=None)
    def on_any_text(text: str, second: str, length: int) -> None:
        same(tokenizer, witness, text)
        row = tokenizer.frame(text, second or None, length)  # transformers takes an empty text for none
        theirs = witness(text, second, truncation="longest_first", max_length=length)
        if "[" not in text + second:
            assert (row.tokens, row.segments) == (theirs["input_ids"], theirs["token_type_ids"])

    on_any_text()


def test_a_small_byte_level_vocabulary(tmp_path: Path) -> None:
    folder = small_gpt2(tmp_path)
    tokenizer, witness = open_tokenizer(folder), gpt2_of_transformers(folder)
    for text in TEXTS:
        same(tokenizer, witness, text)
        assert tokenizer.exact(text)
    crlf = small_gpt2(tmp_path / "crlf", **{"vocab.bpe": (folder / "vocab.bpe").read_text().replace("\n", "\r\n")})
    assert open_tokenizer(crlf).fingerprint == tokenizer.fingerprint
    (tmp_path / "named").mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(folder / name, tmp_path / "named" / f"gpt2-{name}")
    assert open_tokenizer(tmp_path / "named" / "gpt2-vocab.bpe").fingerprint == tokenizer.fingerprint


def test_merges_need_no_line_of_their_version(tmp_path: Path) -> None:
    vocabulary = {token: id for id, token in enumerate([*BYTE_TO_CHARACTER, "##", "ab"])}
    merges = {"encoder.json": json.dumps(vocabulary), "vocab.bpe": "# #\na b"}
    assert open_tokenizer(small_gpt2(tmp_path, **merges)).encode("##ab") == [256, 257]


def test_robertas_files_have_their_own_frame(tmp_path: Path) -> None:
    names = ["<s>", "<pad>", "</s>", "<unk>", *BYTE_TO_CHARACTER, "th", "the", "<mask>"]
    vocabulary = {token: id for id, token in enumerate(names)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    tokenizer, witness = open_tokenizer(tmp_path), transformers.RobertaTokenizer.from_pretrained(str(tmp_path))
    for pair in [("the đ", "a"), ("the", None), ("", "x")]:
        theirs = witness(*pair)["input_ids"]
        assert tokenizer.frame(*pair).tokens == theirs
    assert set(tokenizer.frame("the", "a").segments) == {0}
    assert tokenizer.special == {name: vocabulary[name] for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    assert tokenizer.role("mask") == vocabulary["<mask>"]


@pytest.mark.parametrize("casing", ["uncased", "uncased-accents", "cased"])
def test_how_a_vocabulary_was_normalised(casing: Any, tmp_path: Path) -> None:
    text = ["Đặc biệt, Nguyễn và Việt Nam; The Lowest one of Hà Nội\n" * 5]
    words = WordPiece(vocab_size=150, casing=casing).train(iter(text), 1000).declaration["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n", encoding="utf-8")
    tokenizer = open_tokenizer(tmp_path)
    assert f"read as {casing}:" in tokenizer.notes[0]
    options = {"do_lower_case": casing != "cased", "strip_accents": casing == "uncased"}
    witness = bert_of_transformers(tmp_path, **options)
    for each in [*TEXTS, *text]:
        same(tokenizer, witness, each)
    other = {"do_lower_case": True, "strip_accents": casing != "uncased"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizerFast", **other}))
    said = open_tokenizer(tmp_path)
    assert said.notes[0].endswith("its tokenizer_config.json says so")
    for each in text:
        same(said, bert_of_transformers(tmp_path, **other), each)


def test_a_recipe_names_them(tmp_path: Path) -> None:
    folder = small_gpt2(tmp_path / "gpt2")
    config = load(TokenizerConfig, str(folder / "vocab.bpe"))
    assert isinstance(config, TokenizerFile)
    assert config.identity() == load(TokenizerConfig, f"{folder}/").identity(), "a folder too, known by content"
    assert find(folder).name == "encoder.json"
    tokenizer = config.train(iter(()), 0, ("[CLS]", "[SEP]"))
    assert tokenizer.end_of_document == tokenizer.special["<|endoftext|>"]
    assert config.notes(tokenizer, 0) == [f"tokenizer: [CLS], [SEP] added to {config.path}, which lacks it"]
    assert len(tokenizer.frame("the", "a").tokens) == 5
    pieces = tmp_path / "vocab.txt"
    pieces.write_text("\n".join([*BERT, *"abcdđeghiklmnoprstuvxy", *(f"##{c}" for c in "abcdđeghiklmnoprstuvxy")]))
    bert = load(TokenizerConfig, str(pieces))
    found = bert.train(iter(["má mà mả, bán bàn"]), 30)
    assert any("strips accents" in note for note in bert.notes(found, 30))


WHOLE = {character: id for id, character in enumerate(BYTE_TO_CHARACTER)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab.bpe": None}, r"encoder\.json: its merges are missing: no .*vocab\.bpe or .*merges\.txt beside it"),
        ({"encoder.json": None}, r"vocab\.bpe: its vocabulary is missing: no .*encoder\.json or .*vocab\.json"),
        ({"encoder.json": "{"}, "not JSON"),
        ({"encoder.json": "[1]"}, "should be an object from tokens to ids"),
        ({"encoder.json": "{}"}, "should be an object from tokens to ids"),
        ({"encoder.json": '{"a": "x"}'}, "token 'a' has the id 'x'"),
        ({"encoder.json": '{"a": true}'}, "token 'a' has the id True"),
        ({"encoder.json": '{"a": -1}'}, "token 'a' has the id -1"),
        ({"encoder.json": '{"a": 99999999}'}, "no number from 0 to 2,000,000"),
        ({"encoder.json": '{"a": 1, "b": 1}'}, "tokens 'a' and 'b' have the same id 1"),
        ({"encoder.json": '{"a": 1, "b": 2, "ab": 3}', "vocab.bpe": "a b\n"}, "256 of the 256|254 of the 256"),
        ({"encoder.json": json.dumps(WHOLE), "vocab.bpe": "#version\na b c\n"}, "line 2: should be two tokens"),
        ({"encoder.json": json.dumps(WHOLE), "vocab.bpe": "a  b\n"}, "line 1: should be two tokens"),
        ({"encoder.json": json.dumps(WHOLE), "vocab.bpe": "a b\n"}, "line 1: 'ab' is no token of the vocabulary"),
        ({"encoder.json": json.dumps(WHOLE), "vocab.bpe": "a b</w>\n"}, "GPT-1 and CLIP"),
        ({"tokenizer_config.json": '{"tokenizer_class": "Qwen2Tokenizer"}'}, "Qwen2Tokenizer reads its vocabulary"),
        ({"tokenizer_config.json": "[]"}, "should be an object"),
        ({"tokenizer_config.json": "}"}, "not JSON"),
    ],
)
def test_damaged_files_of_gpt2(changes: dict[str, str | None], said: str, tmp_path: Path) -> None:
    folder = small_gpt2(tmp_path, **changes)
    with pytest.raises(WeftError, match=said) as error:
        open_tokenizer(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[UNK]\na\n\nb\n", "line 3: is empty"),
        (b"[UNK]\na\nb\na\n", "line 4: 'a' stands in line 2 already"),
        (b"a\nb\n", r"has no \[UNK\]"),
        (b"", r"has no \[UNK\]"),
        (b"[UNK]\n\xff\n", "byte 6 is not UTF-8"),
    ],
)
def test_damaged_files_of_bert(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(WeftError, match=said) as error:
        open_tokenizer(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.text.files.MOST_BYTES", 100)
    small_gpt2(tmp_path)
    with pytest.raises(WeftError, match=r"bytes are no vocabulary \(at most 100\)"):
        open_tokenizer(tmp_path)
