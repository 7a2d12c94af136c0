"""Beam search of decoders: all sequences tried one by one, a second slow search, stops, several texts, ragged rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from weft.checking.small import stir
from weft.errors import WeftError
from weft.generation import Answer, Hypothesis, Sampling, Searching, answer, generate, search
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import Inputs
from weft.text.tokenizers import Tokenizer, TokenizerConfig

LETTERS: Tokenizer = TokenizerConfig.choose("characters").train(["abcd" * 20], 80)
END = LETTERS.end_of_document
V = LETTERS.vocab_size
PROMPTS = ["ab", "d", "", "cabdca"]

Ends = Callable[[tuple[int, ...]], bool]


def small(seed: int = 0, end: float = 0.0, **decoder: Any) -> Transformer:
    """A random decoder over letters in float64, its weights so large that texts differ; `end` favours short ones."""
    declaration = {"d_model": 16, "max_length": 32, "vocab_size": V, "init_std": 0.5, "embedding": {"tied": False},
                   "decoder": {"n_layers": 2, "positions": "rotary", "block": {"attention": {"n_heads": 2}}, **decoder},
                   "heads": {"lm": {"kind": "lm", "bias": True}}}  # fmt: skip
    model = build(declaration, seed=seed).double().eval()
    stir(model)
    with torch.no_grad():
        model.heads["lm"].projection.bias[END] = end
    return model


def beginnings() -> list[list[int]]:
    return [LETTERS.encode(prompt) or [END] for prompt in PROMPTS]


def penalty(tokens: int, strength: float) -> float:
    return ((5 + tokens) / 6) ** strength


def never(tokens: tuple[int, ...]) -> bool:
    return False


def says(*strings: str) -> Ends:
    return lambda tokens: any(string in LETTERS.decode(tokens) for string in strings)


def all_of_them(
    model: Transformer, beginning: Sequence[int], max_tokens: int, strength: float, stops: Ends = never
) -> list[Hypothesis]:
    """Every sequence that ends within so many tokens, best first, scored one by one without a cache."""
    others = [token for token in range(V) if token != END]
    found = []
    for length in range(max_tokens + 1):
        texts = [text for text in itertools.product(others, repeat=length) if not stops(text[:-1])]
        ended = [(text, (END,)) for text in texts if not stops(text) and length < max_tokens]
        stopped = [(text, ()) for text in texts if stops(text)]
        for group in filter(None, (ended, stopped)):
            rows_BT = torch.tensor([[*beginning, *text, *end] for text, end in group])
            with torch.no_grad():
                log_p_BTV = model(rows_BT[:, :-1]).logits_BTV.log_softmax(-1)
            new_BT = rows_BT[:, len(beginning) :]
            totals = log_p_BTV[:, len(beginning) - 1 :].gather(2, new_BT[..., None]).sum((1, 2)).tolist()
            score = penalty(new_BT.shape[1], strength)
            found += [
                Hypothesis(text, total, total / score, True) for (text, _), total in zip(group, totals, strict=True)
            ]
    return sorted(found, key=lambda each: -each.score)


def same(found: Hypothesis | None, expected: Hypothesis) -> None:
    assert found is not None
    assert (found.tokens, found.finished) == (expected.tokens, expected.finished)
    assert (found.log_probability, found.score) == pytest.approx((expected.log_probability, expected.score), rel=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_beams_as_wide_as_everything_find_the_best_of_all_sequences(strength: float) -> None:
    model, texts = small(), set()
    found = search(model, beginnings(), end=END, max_tokens=4, beams=V**4, length_penalty=strength, number=7)
    for beginning, each in zip(beginnings(), found, strict=True):
        assert len(each) == 7
        for one, expected in zip(each, all_of_them(model, beginning, 4, strength), strict=False):
            same(one, expected)
        texts.add(each[0].tokens)
    assert len(texts) > 1, "the same text after all proves little"
    if strength == 3.0:
        assert max(map(len, texts)) > 1


def test_stop_strings_end_a_text_and_are_cut_off() -> None:
    model, stop = small(seed=3, end=-1.0), ("ba", "c", "dd")
    options = Searching(beams=V**4, length_penalty=0.6, max_tokens=4, stop=stop)
    finishes = set()
    for row, each in enumerate(answer(model, LETTERS, PROMPTS, options, number=12)):
        best = all_of_them(model, beginnings()[row], 4, 0.6, says(*stop))
        for one, expected in zip(each, best, strict=False):
            same(one.found, expected)
            text = LETTERS.decode(expected.tokens)
            at = min((text.find(string) for string in stop if string in text), default=len(text))
            assert one.text == text[:at]
            assert one.finish == ("end" if at == len(text) else "stop")
            assert one.tokens == expected.tokens + ((END,) if one.finish == "end" else ())
            finishes.add(one.finish)
    assert finishes == {"end", "stop"}


def slow(
    model: Transformer, beginning: Sequence[int], beams: int, max_tokens: int, strength: float, stops: Ends = never
) -> list[Hypothesis]:
    """Beam search to the last token, written a second time: no batch, no cache, no early end; all that it finds."""
    live, ended = [((), 0.0)], list[Hypothesis]()
    for length in range(1, max_tokens + 1):
        grown = []
        for tokens, total in live:
            with torch.no_grad():
                log_p_V = model(torch.tensor([[*beginning, *tokens]])).logits_BTV[0, -1].log_softmax(-1)
            grown += [((*tokens, token), total + more) for token, more in enumerate(log_p_V.tolist())]
        grown = sorted(grown, key=lambda each: -each[1])[: 2 * beams]
        live = []
        for rank, (tokens, total) in enumerate(grown):
            done = tokens[-1] == END or stops(tokens)
            if done and rank < beams:
                text = tokens[:-1] if tokens[-1] == END else tokens
                ended.append(Hypothesis(text, total, total / penalty(length, strength), True))
            elif not done and len(live) < beams:
                live.append((tokens, total))
    cut = [Hypothesis(tokens, total, total / penalty(max_tokens, strength), False) for tokens, total in live]
    return [*sorted(ended, key=lambda each: -each.score), *cut]


@pytest.mark.parametrize(("beams", "strength"), [(2, 0.0), (3, 0.6), (4, 2.0)])
@pytest.mark.parametrize("mask", ["none", {"kind": "window", "size": 2}], ids=str)
def test_narrow_beams_in_a_batch_find_what_each_prompt_s_own_search_finds(
    beams: int, strength: float, mask: Any
) -> None:
    """Prompts of unequal lengths, a number of tokens of each one's own, caches that branch; beyond a window's ring."""
    budgets = [7, 3, 20, 12]
    model = small(seed=7, block={"attention": {"n_heads": 2, "mask": mask}})
    found = search(model, beginnings(), end=END, max_tokens=budgets, beams=beams, length_penalty=strength, number=beams)
    for beginning, budget, each in zip(beginnings(), budgets, found, strict=True):
        assert len(each) == beams
        for one, expected in zip(each, slow(model, beginning, beams, budget, strength), strict=False):
            same(one, expected)
    kinds = {one.finished for each in found for one in each}
    assert kinds == {True, False}, "some end, some are cut"


def test_narrow_beams_with_stops() -> None:
    model, stop = small(seed=5, end=-3.0), ("ba", "dc", "bb")
    found = answer(model, LETTERS, PROMPTS, Searching(beams=3, max_tokens=9, stop=stop), number=3)
    for row, each in enumerate(found):
        for one, expected in zip(each, slow(model, beginnings()[row], 3, 9, 0.6, says(*stop)), strict=False):
            same(one.found, expected)
    assert {one.finish for each in found for one in each} >= {"stop", "length"}


@pytest.mark.parametrize("stop", [(), ("ba", "c")])
def test_one_beam_is_greedy(stop: tuple[str, ...]) -> None:
    model = small(seed=8, end=1.0)
    drawn = answer(model, LETTERS, PROMPTS, Sampling(temperature=0, max_tokens=12, stop=stop))
    found = answer(model, LETTERS, PROMPTS, Searching(beams=1, length_penalty=3.0, max_tokens=12, stop=stop))
    assert [plain(each) for (each,) in found] == [plain(each) for (each,) in drawn]
    assert {each.finish for (each,) in drawn} == {"length", "end", *(["stop"] if stop else [])}


def plain(each: Answer) -> tuple[object, ...]:
    return each.text, each.tokens, each.finish


def test_generate_searches_where_beams_are_asked_for() -> None:
    model = small()
    options = {"max_tokens": 6, "beams": 3, "length_penalty": 1.0}
    expected = answer(model, LETTERS, PROMPTS, Searching(**options))
    assert generate(model, LETTERS, PROMPTS, **options) == [each.text for (each,) in expected]
    assert generate(model, LETTERS, "ab", length_penalty=0.0) == answer(
        model, LETTERS, ["ab"], Searching(length_penalty=0.0)
    )[0][0].text  # fmt: skip
    assert generate(model, LETTERS, [], beams=2) == []
    with pytest.raises(WeftError, match=r"^temperature: no such option"):
        generate(model, LETTERS, "ab", beams=2, temperature=0.5)
    with pytest.raises(WeftError, match="use_cache"):
        generate(model, LETTERS, "ab", beams=2, use_cache=False)
    with pytest.raises(WeftError, match="number = 3: a search with beams = 2 finds from 1 to 2"):
        answer(model, LETTERS, ["ab"], Searching(beams=2), number=3)


def test_several_texts_are_drawn_as_so_many_prompts_would_be() -> None:
    model = small()
    options = Sampling(max_tokens=6)
    twice = answer(model, LETTERS, ["ab", "d"], options, number=2)
    alone = answer(model, LETTERS, ["ab", "ab", "d", "d"], options)
    assert [one for each in twice for one in each] == [one for (one,) in alone]
    assert twice[0][0] != twice[0][1]
    with pytest.raises(WeftError, match="number = 0: "):
        answer(model, LETTERS, ["ab"], options, number=0)


def test_where_positions_end() -> None:
    model = small(positions="learned")
    assert len(search(model, [[2] * 20], end=None, max_tokens=13, beams=2)[0][0].tokens) == 13
    with pytest.raises(WeftError, match="max_tokens = 14 after 20: the decoder's positions end at 32"):
        search(model, [[2], [2] * 20], end=None, max_tokens=14, beams=2)
    with pytest.raises(WeftError, match="a prompt of 20 tokens and max_tokens = 14 are 34: these positions end at 32"):
        generate(model, LETTERS, "a" * 20, beams=2, max_tokens=14)
    dynamic = small(positions={"kind": "rotary", "scaling": {"kind": "dynamic", "factor": 2, "original_length": 8}})
    with pytest.raises(WeftError, match="through a cache"):
        generate(dynamic, LETTERS, "ab", beams=2, max_tokens=8)


def test_without_an_end_a_text_is_as_long_as_may_be() -> None:
    (found,) = search(small(), [[2, 3]], end=None, max_tokens=5, beams=3, number=3)
    assert [(len(each.tokens), each.finished) for each in found] == [(5, False)] * 3
    assert [each.log_probability for each in found] == sorted((each.log_probability for each in found), reverse=True)
    assert all(each.score == pytest.approx(each.log_probability / penalty(5, 0.6)) for each in found)


def test_fewer_where_there_are_no_more() -> None:
    (found,) = search(small(), [[2]], end=END, max_tokens=1, beams=50, number=50)
    assert len(found) == V, "one that ended, and each other token"
    assert found[0].finished
    assert math.fsum(math.exp(each.log_probability) for each in found) == pytest.approx(1)


def test_who_cannot_write_or_reads_nothing() -> None:
    encoder = build({"vocab_size": V, "d_model": 16, "encoder": {"n_layers": 1}})
    with pytest.raises(WeftError, match="an encoder, which writes nothing"):
        search(encoder, [[2]], end=END, max_tokens=2)
    with pytest.raises(WeftError, match="nothing reads a source"):
        search(small(), [[2]], source=Inputs(tokens_BT=torch.tensor([[2]])), end=END, max_tokens=2)
