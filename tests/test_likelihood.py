"""Log-probabilities of tokens: against one forward over the whole text, whichever way it was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import tokenizers
import torch
from test_generation import BYTES, END, PROMPTS, small
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from weft.errors import WeftError
from weft.generation import Answer, Likelihood, Sampling, Searching, answer, stream, surprise
from weft.generation.likelihood import likelihoods, read
from weft.generation.sampling import chain
from weft.models.build import build
from weft.text.show import read_on
from weft.text.tokenizers import Tokenizer, TokenizerConfig

V = BYTES.vocab_size


def whole(model: Any, beginning: Sequence[int], tokens: Sequence[int], source: Tensor | None = None) -> Tensor:
    """Scores before each of the tokens by one forward without a cache: T x V."""
    text_BT = torch.tensor([[*beginning, *tokens]])
    with torch.no_grad():
        return model(text_BT, source=source).logits_BTV[0, len(beginning) - 1 : -1, :V]


def check(told: Sequence[Likelihood], tokens: Sequence[int], logits_TV: Tensor, logprobs: int) -> None:
    """Written a second time, by sorting."""
    assert [each.token for each in told] == list(tokens)
    for each, logits_V in zip(told, logits_TV.tolist(), strict=True):
        most = max(logits_V)
        total = most + math.log(math.fsum(math.exp(score - most) for score in logits_V))
        ranked = sorted(range(V), key=lambda token: (-logits_V[token], token))
        assert each.log_probability == pytest.approx(logits_V[each.token] - total, abs=1e-12)
        assert each.rank == ranked.index(each.token) + 1
        assert [token for token, _ in each.alternatives] == ranked[:logprobs]
        expected = [logits_V[token] - total for token in ranked[:logprobs]]
        assert [value for _, value in each.alternatives] == pytest.approx(expected, abs=1e-12)


OPTIONS = {"temperature": 1.3, "top_k": 40, "typical_p": 0.9, "eta_cutoff": 1e-3, "repetition_penalty": 1.4}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("options", [{"temperature": 0}, OPTIONS], ids=["greedy", "drawn"])
def test_each_token_written_is_as_probable_as_one_forward_says(options: dict[str, Any], use_cache: bool) -> None:
    """By the model itself, whatever it was drawn from; in a ragged batch that rows leave."""
    model, sampling = small(), Sampling(max_tokens=15, stop=("%", "\x1a"), **options)
    told = answer(model, BYTES, PROMPTS, sampling, logprobs=4, use_cache=use_cache)
    lengths = set()
    for prompt, (one,) in zip(PROMPTS, told, strict=True):
        beginning = BYTES.encode(prompt) or [END]
        logits_TV = whole(model, beginning, one.tokens)
        check(one.likelihoods, one.tokens, logits_TV, 4)
        for place, each in enumerate(one.likelihoods):
            seen_BV = torch.zeros(1, V, dtype=torch.bool)
            seen_BV[0, [*BYTES.encode(prompt), *one.tokens[:place]]] = True
            drawn_BV = chain(logits_TV[place : place + 1].float(), sampling, seen_BV).double().log_softmax(-1)
            assert each.drawn == pytest.approx(float(drawn_BV[0, each.token]), abs=1e-5)
        lengths.add(len(one.tokens))
    assert len(lengths) > 1, "rows leave at different steps"
    if sampling.greedy:
        assert {each.drawn for (one,) in told for each in one.likelihoods} == {0.0}
        assert {each.rank for (one,) in told for each in one.likelihoods} == {1}
    else:
        assert max(each.rank for (one,) in told for each in one.likelihoods) > 3
        assert any(abs(each.drawn - each.log_probability) > 0.1 for (one,) in told for each in one.likelihoods)


def test_telling_changes_no_text_and_costs_nothing_unasked() -> None:
    model = small()
    plain = list(stream(model, BYTES, PROMPTS, Sampling(max_tokens=9, repetition_penalty=1.4)))
    told = list(stream(model, BYTES, PROMPTS, Sampling(max_tokens=9, repetition_penalty=1.4), logprobs=0))
    assert [(each.row, each.token, each.text) for each in plain] == [(each.row, each.token, each.text) for each in told]
    assert {each.likelihood for each in plain} == {None}
    assert {each.likelihood.alternatives for each in told} == {()}


def test_float32_is_as_tight_as_its_scores() -> None:
    model = small().float()
    (one,) = answer(model, BYTES, ["Once"], Sampling(max_tokens=12), logprobs=2)[0]
    expected_TV = whole(model.double(), BYTES.encode("Once"), one.tokens).log_softmax(-1)
    found = torch.tensor([each.log_probability for each in one.likelihoods]).double()
    torch.testing.assert_close(found, expected_TV[torch.arange(12), list(one.tokens)], rtol=1e-5, atol=2e-5)


def test_what_a_search_finds_is_told_too() -> None:
    model = small()
    found = answer(model, BYTES, PROMPTS, Searching(beams=3, max_tokens=8), number=3, logprobs=5)
    for prompt, each in zip(PROMPTS, found, strict=True):
        for one in each:
            check(one.likelihoods, one.tokens, whole(model, BYTES.encode(prompt) or [END], one.tokens), 5)
            total(one)
            assert {word.drawn for word in one.likelihoods} == {None}


def total(one: Answer) -> None:
    assert one.found is not None
    together = math.fsum(each.log_probability for each in one.likelihoods)
    assert together == pytest.approx(one.found.log_probability, abs=1e-10)


def test_answers_of_an_encoder_decoder_are_told_too() -> None:
    stack = {"n_layers": 1, "positions": "rotary", "block": {"attention": {"n_heads": 2}}}
    model = build({"d_model": 16, "max_length": 32, "vocab_size": 260, "init_std": 0.4, "encoder": stack,
                   "decoder": stack, "embedding": {"tied": False}}).double().eval()  # fmt: skip
    for text, (one,) in zip(PROMPTS, answer(model, BYTES, PROMPTS, Searching(max_tokens=6), logprobs=3), strict=True):
        source = torch.tensor([[*BYTES.encode(text), END]])
        check(one.likelihoods, one.tokens, whole(model, [END], one.tokens, source), 3)
        total(one)
    with pytest.raises(WeftError, match="after a source only"):
        surprise(model, BYTES, "a")


def test_a_text_s_own_surprise() -> None:
    model, text = small(), "Tiếng Việt"
    check(surprise(model, BYTES, text, 3), BYTES.encode(text), whole(model, [END], BYTES.encode(text)), 3)
    assert surprise(model, BYTES, "") == []
    with pytest.raises(WeftError, match="65 tokens are more than"):
        surprise(small("learned"), BYTES, "a" * 65)


def test_equals_and_what_is_impossible() -> None:
    scores_NV = torch.tensor([[2.0, 3.0, 3.0, -math.inf, 2.0], [0.0] * 5])
    first, second = likelihoods(scores_NV, torch.tensor([4, 3]), 4)
    assert (first.rank, [token for token, _ in first.alternatives]) == (3, [1, 2, 0, 4])
    assert (second.rank, [token for token, _ in second.alternatives]) == (1, [0, 1, 2, 3])
    assert second.log_probability == pytest.approx(-math.log(5), abs=1e-15)
    (many,) = likelihoods(scores_NV[:1], torch.tensor([0]), 99)
    assert [token for token, _ in many.alternatives] == [1, 2, 0, 4], "of five one is impossible"
    (none,) = likelihoods(scores_NV[:1], torch.tensor([3]), 0)
    assert (none.log_probability, none.rank, none.alternatives) == (-math.inf, 5, ())


def test_what_makes_no_sense_is_refused() -> None:
    for call in (answer, stream):
        with pytest.raises(WeftError, match="logprobs = -1: "):
            call(small(), BYTES, ["a"], logprobs=-1)
    with pytest.raises(WeftError, match="logprobs = -1: "):
        surprise(small(), BYTES, "a", -1)
    damaged = small()
    with torch.no_grad():
        damaged.heads["lm"].projection.weight[5, 5] = math.nan
    with pytest.raises(WeftError, match="not finite"):
        surprise(damaged, BYTES, "a")


def test_reading_leaves_dropout_as_it_was() -> None:
    model = small(dropout=0.5).train()
    expected = read(small(), [END], [65, 66], 2)
    assert read(model, [END], [65, 66], 2) == expected
    assert all(module.training for module in model.modules())


def test_a_token_reads_as_after_another() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"▁Hello": 0, "▁world": 1, "ly": 2, "<unk>": 3}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert [read_on(Tokenizer(inner), id) for id in range(3)] == [" Hello", " world", "ly"]
    assert [read_on(BYTES, id) for id in (ord("a"), ord(" "), 10, 0xC3)] == ["a", " ", "\n", "<C3>"]
    assert read_on(BYTES, END) in BYTES.special
    pieces = TokenizerConfig.choose({"kind": "wordpiece", "vocab_size": 60}).train(["going gone goer"] * 9, 200)
    ids = pieces.encode("goner")
    assert "".join(read_on(pieces, id) for id in ids) == " goner"
    assert len(ids) > 1
