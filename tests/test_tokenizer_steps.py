"""Steps: what weft tells of a tokenizer is what `tokenizers` does, on any text, for every kind that weft knows."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from typer.testing import CliRunner

from weft.cli.tokenizer import app
from weft.errors import WeftError
from weft.text import Bpe, Bytes, Characters, FallbackBpe, Tokenizer, Unigram, WordPiece
from weft.text.steps import LONGEST, account
from weft.text.steps.bpe import BpeWord, Merge
from weft.text.steps.split import GPT2
from weft.text.steps.unicode import SPACES, UnsupportedError, cut, translated
from weft.text.steps.unigram import Unigram as UnigramModel
from weft.text.steps.wordpiece import Trial, WordPieceWord

TEXTS = [
    "Bà ba bán ba cái bánh; đặc biệt là Nguyễn, thuở xưa ở Việt Nam.\n" * 5,
    "The longest word of the newest list isn't lower; 1234567 walkers walked, they'll say.\n" * 5,
]
LLAMA3 = (  # its published expression
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
P, N = pre_tokenizers, normalizers


def others(model: Any, trainer: Any, normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """A tokenizer that weft does not make itself."""
    inner = tokenizers.Tokenizer(model)
    if normalizer is not None:
        inner.normalizer = normalizer
    if pre_tokenizer is not None:
        inner.pre_tokenizer = pre_tokenizer
    inner.train_from_iterator(TEXTS, trainer)
    return Tokenizer(inner)


def bpe(**options: Any) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=320, show_progress=False, **options)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MAKE: dict[str, Callable[[], Tokenizer]] = {
    **{
        f"{config.kind} {config}": lambda config=config: config.train(iter(TEXTS), 10_000)  # type: ignore[misc]
        for config in [
            Bpe(vocab_size=320),
            FallbackBpe(vocab_size=600),
            WordPiece(vocab_size=200),
            WordPiece(vocab_size=200, casing="uncased-accents"),
            WordPiece(vocab_size=200, casing="cased"),
            Unigram(vocab_size=420),
            Unigram(vocab_size=288, byte_fallback=False),
            Characters(),
            Bytes(),
        ]
    },
    "gpt-2": lambda: others(models.BPE(), bpe(initial_alphabet=P.ByteLevel.alphabet()), None, P.ByteLevel(True)),
    "llama-3": lambda: others(
        models.BPE(ignore_merges=True),
        bpe(initial_alphabet=P.ByteLevel.alphabet()),
        None,
        P.Sequence([P.Split(Regex(LLAMA3), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ),
    "llama-2": lambda: others(
        models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
        bpe(special_tokens=["<unk>", *BYTES]),
        N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]),
    ),
    "metaspace": lambda: others(
        models.BPE(unk_token="<unk>", fuse_unk=True), bpe(special_tokens=["<unk>"]), None, P.Metaspace()
    ),
    "t5": lambda: others(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
        N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]),
        P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="always")]),
    ),
    "gpt-1": lambda: others(
        models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"),
        bpe(special_tokens=["[UNK]"], end_of_word_suffix="</w>"),
        N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase(), N.Strip()]),
        P.Sequence([P.WhitespaceSplit(), P.Digits(True)]),
    ),
    "continued": lambda: others(
        models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"),
        bpe(special_tokens=["[UNK]"], continuing_subword_prefix="##"),
        N.BertNormalizer(lowercase=False),
        P.Sequence([P.BertPreTokenizer(), P.Digits(False)]),
    ),
    "spaces kept out": lambda: others(
        models.BPE(unk_token="[UNK]"),
        bpe(special_tokens=["[UNK]"]),
        N.NFKD(),
        P.Sequence([P.Split(" ", "removed"), P.Split(Regex(r"\d|\p{Lu}"), "removed", invert=False)]),
    ),
    "bytes first": lambda: others(models.BPE(), bpe(initial_alphabet=P.ByteLevel.alphabet()), N.ByteLevel()),
    "the library's": lambda: others(
        models.BPE(unk_token="[UNK]"), bpe(special_tokens=["[UNK]"]), N.Nmt(), P.Whitespace()
    ),
}


def settled_in_unicode(character: str) -> bool:
    """Whether the character's class has been the same since Unicode 3.2: tables of other versions agree on it."""
    return unicodedata.ucd_3_2_0.category(character) == unicodedata.category(character) != "Cn"


lively = st.sampled_from(list("abc ABC'\ts  12.,#ếệđĐ\n\u0301\u0302'tll▁½Ⅷ中文🙂ſİΣﬁ\x00\x1f\x85\u3000thelowbán"))
anything = st.characters(exclude_categories=["Cs", "Cn"]).filter(settled_in_unicode)
any_text = st.text(st.one_of(lively, lively, lively, anything), max_size=40)
words = st.lists(st.sampled_from(" ".join(TEXTS).split()), max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def made() -> dict[str, Tokenizer]:
    return {name: make() for name, make in MAKE.items()}


@given(text=st.one_of(any_text, words))
@example(text="ΟΔΟΣ İI ﬁ\u0345 it's they'LL\x1f\x85 x")
@settings(max_examples=150, deadline=None)
def test_the_library_does_the_same_on_any_text(made: dict[str, Tokenizer], text: str) -> None:
    for name, tokenizer in made.items():
        told = account(tokenizer, text)
        assert not told.problems, f"{name}: {told.problems}"
        assert told.ids == tokenizer.encode(text)
        own = name != "the library's"
        assert all(stage.told == own for stage in [*told.normalized, *told.split]), name


@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]).filter(settled_in_unicode), max_size=40))
@settings(max_examples=100, deadline=None)
def test_python_cuts_as_the_library_does(text: str) -> None:
    for pattern in (GPT2, LLAMA3, r"\p{Lu}\p{Ll}*|\P{L}", r"[^\S\n]+|\D\d?", r"\p{^N}+"):
        theirs = P.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
        assert [part.text for part in cut(pattern, text)] == [piece for piece, _ in theirs]


def test_white_space_is_the_librarys() -> None:
    every = [chr(code) for code in range(0x3100)]
    gone = N.Replace(Regex(r"\s"), "").normalize_str("".join(every))
    assert set(every) - set(gone) == SPACES


def test_an_expression_that_python_reads_otherwise_is_left_to_the_library() -> None:
    for pattern in (r"\w+", r"[a[b]]", r"\p{Greek}", r"\bx", r"(?<=a+)b"):
        with pytest.raises(UnsupportedError):
            cut(pattern, "abc")
    assert re.fullmatch(translated(r"\p{L}+\s[^\p{N}]", "Vi 1ệt"), "Việt V")


def test_merges_are_told_one_by_one() -> None:
    vocabulary = {token: id for id, token in enumerate(["l", "o", "w", "e", "r", "lo", "low", "er"])}
    merges = [("l", "o"), ("e", "r"), ("lo", "w")]
    told = account(Tokenizer(tokenizers.Tokenizer(models.BPE(vocabulary, merges))), "lower")
    assert told.words == [
        BpeWord(
            "lower",
            ("l", "o", "w", "e", "r"),
            (
                Merge(0, ("l", "o"), ("lo", "w", "e", "r")),
                Merge(1, ("e", "r"), ("lo", "w", "er")),
                Merge(2, ("lo", "w"), ("low", "er")),
            ),
            ("low", "er"),
        )
    ]
    assert told.ids == [6, 7]


def test_the_leftmost_of_equal_pairs_goes_first_and_a_new_pair_may_go_before_the_next() -> None:
    vocabulary = {"a": 0, "b": 1, "aa": 2, "aab": 3}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [("aa", "b"), ("a", "a")]))
    for text in ("aaaa", "aaabaa", "aabaab", "aaa"):
        told = account(Tokenizer(tokenizer), text)
        assert not told.problems
    assert account(Tokenizer(tokenizer), "aabaa").tokens == ["aab", "aa"]
    (word,) = account(Tokenizer(tokenizer), "aabaa").words
    assert isinstance(word, BpeWord)
    assert [merge.rank for merge in word.merges] == [1, 0, 1]


def test_the_longest_match_is_told_with_what_was_tried() -> None:
    names = ["[UNK]", "un", "##aff", "##able", "##a"]
    model = models.WordPiece({token: id for id, token in enumerate(names)}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = P.WhitespaceSplit()
    told = account(Tokenizer(inner), "unaffable unb")
    assert told.words[0] == WordPieceWord(
        "unaffable",
        (
            Trial(("unaffable", "unaffabl", "unaffab", "unaffa", "unaff", "unaf", "una", "un"), "un"),
            Trial(("##affable", "##affabl", "##affab", "##affa", "##aff"), "##aff"),
            Trial(("##able",), "##able"),
        ),
        ("un", "##aff", "##able"),
    )
    assert told.words[1].tokens == ("[UNK]",)
    assert told.ids == [1, 2, 3, 0]


def test_the_likeliest_path_is_that_of_all_cuts() -> None:
    """Against every way to cut a word."""
    scores = {"<unk>": 0.0, "a": -1.5, "b": -2.0, "ab": -3.0, "ba": -2.5, "aba": -4.75, "bb": -5.0}
    model = UnigramModel({"vocab": list(scores.items()), "unk_id": 0, "byte_fallback": False})

    def best(word: str) -> float:
        heads = [(word[:n], word[n:]) for n in range(1, len(word) + 1)]
        return max((scores[head] + best(tail) for head, tail in heads if head in scores), default=0.0)

    for word in ("a", "ab", "abab", "babba", "aababb"):
        told = model.word(word)
        assert told.score == best(word)
        assert "".join(edge.piece for edge in told.path) == word
        assert told.score == sum(edge.score for edge in told.path)
    even = tokenizers.Tokenizer(models.Unigram([("?", 0.0), ("a", -1.0), ("b", -1.0), ("ab", -2.0), ("ba", -2.0)], 0))
    for word in ("ab", "aba", "abab", "baab"):
        told = account(Tokenizer(even), word)
        assert not told.problems, "of equal paths the library's"
    assert len(model.word("aba").lattice) == 6, "a, ab, aba; b, ba; a"
    (unknown,) = model.word("c").path
    assert (unknown.known, unknown.score) == (False, -15.0)
    assert model.word("cca").tokens == ("<unk>", "a")


def test_a_difference_is_said(made: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage in turn is made wrong."""
    uncased = next(tokenizer for name, tokenizer in made.items() if name.startswith("wordpiece"))
    monkeypatch.setattr("weft.text.steps.normalize.SPACES", frozenset(" \x85"))
    monkeypatch.setattr("weft.text.steps.normalize.IDEOGRAPHS", ((0x61, 0x61),))
    told = account(uncased, "bán xa")
    assert len(told.problems) == 1
    assert told.problems[0].startswith("normalisation: these steps give")
    assert "U+0061" in told.problems[0]
    monkeypatch.setattr("weft.text.steps.split.is_punctuation", lambda character: character == "n")
    assert account(uncased, "bn").problems[0].startswith("pieces: these steps give")
    gpt2 = made["gpt-2"]
    monkeypatch.setattr("weft.text.steps.bpe.pairwise", lambda symbols: list(pairwise(symbols))[:-1])
    problems = account(gpt2, "they walked").problems
    assert [problem.partition(":")[0] for problem in problems][-1] == "tokens"
    assert any("walked" in problem for problem in problems[:-1])


def test_what_cannot_be_told_is_refused() -> None:
    level = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(WeftError, match="no steps of WordLevel can be shown"):
        account(Tokenizer(level), "a")
    by_chance = tokenizers.Tokenizer(models.BPE({"a": 0}, [], dropout=0.1))
    with pytest.raises(WeftError, match="left out by chance"):
        account(Tokenizer(by_chance), "a")
    by_chance.add_tokens(["<tab>"])
    with pytest.raises(WeftError, match="takes out before any step"):
        account(Tokenizer(by_chance), "a<tab>")
    with pytest.raises(WeftError, match="too many"):
        account(Tokenizer(level), "a" * (LONGEST + 1))


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["show", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_the_command_line_tells_the_steps() -> None:
    text = "low lower lowest newer newest"
    shown = call("bpe", text, "--vocab-size", "270", "--steps")
    for line in ("Normalisation", "none: letters as they are", "finds the same pieces and ids", "␣ l o w e r"):
        assert line in shown
    assert re.search(r"rank +\d+  l \+ o +lo w", shown)
    assert "cut by [^" in shown
    assert "\x1b" not in shown
    shown = call("wordpiece", "Café newest", "--vocab-size", "300", "--steps", "--beside", "unigram")
    assert "accents dropped" in shown
    assert re.search(r"cafe(.* > \w+)* is there", shown)
    assert re.search(r"at +0 .* -> −\d", call("unigram", text, "--vocab-size", "300", "--steps"))
    assert "best path: " in shown
    told = json.loads(call("bpe", text, "--vocab-size", "270", "--steps", "--json"))
    assert told["problems"] == []
    assert told["words"][0]["word"] == "low"


def test_a_long_text_is_told_from_its_beginning() -> None:
    assert "(the first 400 of 900 characters)" in call("bytes", "a b" * 300, "--steps")
    letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    small = "{kind: wordpiece, casing: cased, vocab_size: 32}"
    assert "is not there either: the whole word is [UNK]" in call(small, letters, "--steps")


def test_a_disagreement_is_an_error_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.text.steps.bpe.pairwise", lambda symbols: list(pairwise(symbols))[:-1])
    done = CliRunner().invoke(app, ["show", "bpe", "newest newer newest", "--steps"])
    assert done.exit_code == 1
    assert "error: " in done.stdout
    assert "tokenizers gives" in done.stdout
