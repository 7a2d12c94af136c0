"""Generation: the greedy loop, cached = uncached in ragged batches, ends of texts, streaming, lengths, and manners."""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from weft.errors import WeftError
from weft.generation import Piece, Rows, Sampler, Sampling, generate, stream
from weft.generation.stops import Stops
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import Positions
from weft.text.tokenizers import Tokenizer, TokenizerConfig

BYTES: Tokenizer = TokenizerConfig.choose("bytes").train((), 0)
END = BYTES.end_of_document
PROMPTS = ["Once upon a time", "Hé", "", "two"]


def small(positions: Any = "rotary", max_length: int = 64, dropout: float = 0.0, **block: Any) -> Transformer:
    """A random model over bytes, in float64, with weights so large that its texts are varied."""
    block = {"attention": {"n_heads": 4, "n_kv_heads": 2}, **block}
    decoder = {"n_layers": 2, "positions": positions, "block": block}
    # beside sines of length 1 a token is heard only where its vector is scaled, as their paper does
    embedding = {"tied": False, "scaled": positions == "sinusoidal"}
    declaration = {"d_model": 16, "max_length": max_length, "vocab_size": 260, "init_std": 0.4, "dropout": dropout,
                   "embedding": embedding, "decoder": decoder}  # fmt: skip
    return build(declaration).double().eval()


def chain_of(successors: Mapping[str | int, str | int]) -> Transformer:
    """A model that says after each byte the one that the mapping names: its texts are known beforehand."""
    block = {"attention": "none", "feedforward": "none"}
    declaration = {"d_model": 257, "vocab_size": 257, "max_length": 64, "embedding": {"tied": False},
                   "decoder": {"n_layers": 1, "norm": "none", "block": block}}  # fmt: skip
    model = build(declaration)
    codes = {_code(before): _code(after) for before, after in successors.items()}
    with torch.no_grad():
        model.embedding.tokens.weight.copy_(torch.eye(257))
        model.heads["lm"].projection.weight.zero_()
        for before, after in codes.items():
            model.heads["lm"].projection.weight[after, before] = 100
    return model


def _code(symbol: str | int) -> int:
    return symbol if isinstance(symbol, int) else ord(symbol)


def alphabet() -> Transformer:
    return chain_of({chr(code): chr(code + 1) for code in range(ord("a"), ord("z"))} | {"z": "a", END: "h"})


# --- the tokens ---


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_the_loop_of_argmax(prompt: str) -> None:
    model = small()
    tokens = BYTES.encode(prompt) or [END]
    expected = []
    for _ in range(20):
        expected.append(int(model(torch.tensor([tokens + expected])).logits_BTV[0, -1, : BYTES.vocab_size].argmax()))
    got = [piece.token for piece in stream(model, BYTES, [prompt], Sampling(temperature=0, max_tokens=20))]
    assert len(set(expected)) > 3
    assert got == expected[: len(got)]
    assert len(got) == 20 or got[-1] == END


class Recorder(Sampler):
    """Keeps the scores of every step."""

    def __init__(self, options: Sampling, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(options, prompts, BYTES.vocab_size)
        self.heard: list[Tensor] = []

    def choose(self, logits_BV: Tensor) -> Tensor:
        self.heard.append(logits_BV)
        return super().choose(logits_BV)


SURROUNDINGS = [
    *({"positions": kind} for kind in sorted(Positions.kinds)),
    {"attention": {"n_heads": 4, "mask": {"kind": "window", "size": 3}}},
    {"positions": "none", "attention": {"n_heads": 2, "positions": {"kind": "rotary", "share": 0.5}}},
    {"kind": "post"},
]


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.2}]
)
@pytest.mark.parametrize("surroundings", SURROUNDINGS, ids=str)
def test_cached_is_uncached_in_ragged_batches_whose_rows_leave(
    surroundings: dict[str, Any], options: dict[str, Any]
) -> None:
    model, sampling = small(**surroundings), Sampling(**options)
    prompts = [BYTES.encode(prompt) or [END] for prompt in PROMPTS]
    texts, scores = [], []
    for use_cache in (True, False):
        sampler = Recorder(sampling, prompts)
        rows = Rows(model, prompts, sampler, use_cache=use_cache)
        left = []
        for step in range(24):
            rows.step()
            if step in (7, 15):  # the longest row leaves, then another
                left.append(rows.tokens[0])
                rows.select(range(1, len(rows.tokens)))
        texts.append([*left, *rows.tokens])
        scores.append(torch.cat(sampler.heard))
    assert texts[0] == texts[1]
    assert len({token for row in texts[0] for token in row[17:]}) > 5, "a text of one token shows nothing"
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-10)


def test_generate_is_the_same_without_a_cache() -> None:
    for options in ({"temperature": 0.0}, {"temperature": 1.2, "seed": 3, "repetition_penalty": 1.1}):
        model = small("learned").float()
        cached = generate(model, BYTES, PROMPTS, max_tokens=30, **options)
        assert cached == generate(model, BYTES, PROMPTS, max_tokens=30, use_cache=False, **options)
        assert len(set(cached)) == len(PROMPTS)


def test_a_row_does_not_depend_on_what_stands_beside_it() -> None:
    model = small()
    together = generate(model, BYTES, PROMPTS, max_tokens=20)
    assert generate(model, BYTES, PROMPTS[0], max_tokens=20) == together[0]
    others = generate(model, BYTES, ["x", PROMPTS[1], "a much longer prompt than before"], max_tokens=20)
    assert others[1] == together[1]
    assert others[0] != together[0]


def test_the_same_seed_repeats_and_rows_of_one_prompt_differ() -> None:
    model = small()
    first = generate(model, BYTES, ["Once"] * 3, max_tokens=20)
    assert generate(model, BYTES, ["Once"] * 3, max_tokens=20) == first
    assert len(set(first + generate(model, BYTES, ["Once"] * 3, max_tokens=20, seed=1))) == 6


@pytest.mark.parametrize("use_cache", [True, False])
def test_rows_that_are_done_leave_the_batch(use_cache: bool) -> None:
    model, sizes = alphabet(), []
    model.register_forward_pre_hook(lambda module, given: sizes.append(tuple(given[0].shape)))
    texts = generate(model, BYTES, ["abc", "x", "m"], temperature=0, stop=["z", "p"], max_tokens=6, use_cache=use_cache)
    assert texts == ["defghi", "y", "no"]
    fed = [1] * 5 if use_cache else [4, 5, 6, 7, 8]  # tokens of the longest row, after the prompts
    assert sizes == [(3, 3), *zip([3, 2, 1, 1, 1], fed, strict=True)]


# --- the end of a text ---


def test_a_text_ends_with_its_document() -> None:
    model = chain_of({"a": "b", "b": "c", "c": END, END: "h", "h": "i", "i": END})
    pieces = list(stream(model, BYTES, ["a", ""], Sampling(temperature=0)))
    assert [(piece.row, piece.text, piece.finish) for piece in pieces] == [
        (0, "b", None), (1, "h", None), (0, "c", None), (1, "i", None), (0, "", "end"), (1, "", "end"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["ef"], "bcd"),
        (["e"], "bcd"),
        (["zz", "bcdefgh"], ""),
        (["cdefgX", "fg"], "bcde"),
        (["defg", "ef"], "bcd"),
        (["efg", "fg"], "bcd"),
        (["ab"], "bcdefghijk"),
    ],
)
def test_stop_strings_span_tokens_and_are_cut_off(stop: list[str], text: str) -> None:
    pieces = list(stream(alphabet(), BYTES, ["a"], Sampling(temperature=0, stop=tuple(stop), max_tokens=10)))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + ["length" if len(text) == 10 else "stop"]
    assert generate(alphabet(), BYTES, "a", temperature=0, stop=stop, max_tokens=10) == text


def test_one_stop_string_needs_no_list() -> None:
    assert generate(alphabet(), BYTES, "a", temperature=0, stop="ef") == "bcd"


def test_the_beginning_of_a_stop_string_waits_until_it_is_none() -> None:
    options = Sampling(temperature=0, stop=("deX", "ijk"), max_tokens=9)
    pieces = [piece.text for piece in stream(alphabet(), BYTES, ["a"], options)]
    assert pieces == ["b", "c", "", "", "def", "g", "h", "", "ij"]


def test_stops_find_the_same_however_the_text_is_cut() -> None:
    draw = random.Random(0)
    stopped = 0
    for _ in range(3000):
        text = "".join(draw.choices("ab", k=draw.randint(0, 12)))
        strings = ["".join(draw.choices("ab", k=draw.randint(1, 5))) for _ in range(draw.randint(0, 3))]
        ends = [n for n in range(1, len(text) + 1) if text[:n].endswith(tuple(strings))] if strings else []
        expected = text
        if ends:
            longest = max(len(string) for string in strings if text[: ends[0]].endswith(string))
            expected = text[: ends[0] - longest]
        assert through(Stops(strings), text, draw) == (expected, bool(ends))
        stopped += bool(ends)
    assert 500 < stopped < 2900


def through(stops: Stops, text: str, draw: random.Random) -> tuple[str, bool]:
    """What comes out when the text goes in in random pieces."""
    shown = ""
    while text:
        cut = draw.randint(1, 4)
        piece, text = text[:cut], text[cut:]
        new, stopped = stops.push(piece)
        shown += new
        if stopped:
            return shown, True
    return shown + stops.flush(), False


# --- streaming ---

VIETNAMESE = "Tiếng€"  # ế and € are three bytes each


def in_bytes(text: str) -> Transformer:
    codes = [ord(">"), *text.encode()]
    assert len(set(codes)) == len(codes), "each byte may have one successor only"
    return chain_of(dict(zip(codes, [*codes[1:], END], strict=True)))


def test_no_half_character_is_ever_shown() -> None:
    pieces = [piece.text for piece in stream(in_bytes(VIETNAMESE), BYTES, [">"], Sampling(temperature=0))]
    assert pieces == ["T", "i", "", "", "ế", "n", "g", "", "", "€", ""]


@pytest.mark.parametrize(("tokens", "text"), [(3, "Ti"), (4, "Ti"), (5, "Tiế"), (8, "Tiếng"), (9, "Tiếng")])
def test_a_character_cut_by_the_number_of_tokens_is_left_out(tokens: int, text: str) -> None:
    assert generate(in_bytes(VIETNAMESE), BYTES, ">", temperature=0, max_tokens=tokens) == text


def test_pieces_make_up_the_text_and_come_before_the_next_step() -> None:
    model, steps = alphabet(), []
    model.register_forward_pre_hook(lambda module, given: steps.append(1))
    pieces: Iterator[Piece] = stream(model, BYTES, ["a", "b"], Sampling(temperature=0, max_tokens=3))
    assert not steps
    assert (next(pieces).text, next(pieces).text, len(steps)) == ("b", "c", 1)
    assert (next(pieces).text, len(steps)) == ("c", 2)
    assert [piece.text for piece in pieces] == ["d", "d", "e"]


def test_a_tokenizer_that_marks_spaces_keeps_the_one_after_the_prompt() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"▁Hello": 0, "▁world": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    model = chain_of({0: 1, 1: 0})
    assert generate(model, Tokenizer(inner), "Hello", temperature=0, max_tokens=3) == " world Hello world"
    with pytest.raises(WeftError, match="no end-of-document token"):
        generate(model, Tokenizer(inner), "", temperature=0, max_tokens=3)


# --- lengths ---


def test_more_than_learned_positions_number_is_refused_before_anything_is_computed() -> None:
    model = small("learned")
    model.register_forward_pre_hook(lambda module, given: pytest.fail("computed"))
    with pytest.raises(WeftError) as caught:
        stream(model, BYTES, ["a", "b" * 40], Sampling(max_tokens=25))
    assert str(caught.value) == (
        "a prompt of 40 tokens and max_tokens = 25 are 65: these positions end at 64; max_tokens = 24 fits"
    )
    with pytest.raises(WeftError, match="a prompt of 64 tokens: these positions end at 64; shorten the prompt"):
        generate(model, BYTES, "a" * 64)


def test_what_no_cache_can_hold_is_refused_at_once_and_written_without_one() -> None:
    model = small({"kind": "rotary", "scaling": {"kind": "dynamic", "factor": 2, "original_length": 8}})
    with pytest.raises(WeftError, match=r"9 tokens through a cache: .*use_cache=False"):
        stream(model, BYTES, ["abcd"], Sampling(max_tokens=5))
    within = {"max_tokens": 4, "temperature": 0}
    assert generate(model, BYTES, "abcd", **within) == generate(model, BYTES, "abcd", use_cache=False, **within)
    assert len(list(stream(model, BYTES, ["abcd"], Sampling(max_tokens=5), use_cache=False))) == 5


def test_as_many_as_learned_positions_number_are_written() -> None:
    model = small("learned")
    for options in ({"max_tokens": 24}, {}):
        pieces = list(stream(model, BYTES, ["b" * 40], Sampling(temperature=0, **options)))
        assert pieces[-1].finish == "end" or len(pieces) == 24


def test_without_a_number_the_trained_length_is_filled_row_by_row() -> None:
    pieces = list(stream(alphabet(), BYTES, ["a", "abcd"], Sampling(temperature=0)))
    counts = [sum(piece.row == row for piece in pieces) for row in (0, 1)]
    assert counts == [63, 60]


def test_beyond_the_trained_length_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = alphabet()
    with caplog.at_level(logging.WARNING, logger="weft"):
        assert len(generate(model, BYTES, "a", temperature=0, max_tokens=63)) == 63
        assert not caplog.records
        assert len(generate(model, BYTES, "a", temperature=0, max_tokens=100)) == 100
        generate(model, BYTES, "a", temperature=0, max_tokens=70)
    assert [record.getMessage() for record in caplog.records] == [
        "up to 101 tokens, beyond the 64 that this model was trained for: what it writes there may be worse"
    ]


# --- manners ---


def test_dropout_is_off_and_each_module_is_left_as_it_was() -> None:
    expected = generate(small(), BYTES, PROMPTS, max_tokens=10)
    model = small(dropout=0.5)
    model.decoder.train()
    flags = [module.training for module in model.modules()]
    assert len(set(flags)) == 2
    model.register_forward_pre_hook(lambda module, given: seen_gradients.append(torch.is_grad_enabled()))
    seen, seen_gradients = [], []
    for piece in stream(model, BYTES, PROMPTS, Sampling(max_tokens=10)):
        seen.append(piece)
        assert [module.training for module in model.modules()] == flags, "between two tokens"
        assert torch.is_grad_enabled()
    texts = ["".join(piece.text for piece in seen if piece.row == row) for row in range(len(PROMPTS))]
    assert texts == expected
    assert set(seen_gradients) == {False}


def test_the_flags_come_back_after_an_error() -> None:
    model = small().train()
    with torch.no_grad():
        model.heads["lm"].projection.weight[5, 5] = float("nan")
    with pytest.raises(WeftError, match="not finite"):
        generate(model, BYTES, "a")
    assert all(module.training for module in model.modules())


def test_models_that_cannot_write_are_refused() -> None:
    model = small()
    model.heads = nn.ModuleDict()
    with pytest.raises(WeftError, match=r"no language model head `lm` \(heads: none\)"):
        generate(model, BYTES, "a")
    narrow = build({"d_model": 16, "vocab_size": 200, "decoder": {"n_layers": 1}})
    with pytest.raises(WeftError, match="the tokenizer has 257 tokens, the model 200"):
        generate(narrow, BYTES, "a")


def test_one_prompt_gives_one_text_and_a_list_a_list() -> None:
    model = alphabet()
    assert generate(model, BYTES, "a", temperature=0, max_tokens=2) == "bc"
    assert generate(model, BYTES, ["a"], temperature=0, max_tokens=2) == ["bc"]
    assert generate(model, BYTES, []) == []
    with pytest.raises(WeftError, match="did you mean 'max_tokens'"):
        generate(model, BYTES, "a", max_token=2)
