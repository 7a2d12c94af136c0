"""Sampling: each step keeps exactly the right tokens, draws have the right frequencies, streams repeat and differ."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from weft.config import load
from weft.errors import WeftError
from weft.generation.sampling import (
    Sampler,
    Sampling,
    chain,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    scale,
)


def scores(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def kept(logits_BV: Tensor) -> list[int]:
    """Ids of the tokens that are not ruled out in a single row."""
    return logits_BV[0].isfinite().nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4]), (99, [0, 1, 2, 3, 4])],
)
def test_top_k_keeps_exactly_k_and_of_equals_the_lower_ids(k: int, expected: list[int]) -> None:
    logits_BV = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]])
    after_BV = keep_top_k(logits_BV, k)
    assert kept(after_BV) == expected
    assert torch.equal(after_BV[0, expected], logits_BV[0, expected])


def test_top_k_ranks_each_row_by_itself() -> None:
    after_BV = keep_top_k(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), 2)
    assert after_BV.isfinite().tolist() == [[False, True, True], [True, True, False]]


@pytest.mark.parametrize(
    ("p", "expected"),
    [(1e-9, [2]), (0.39, [2]), (0.41, [2, 3]), (0.71, [0, 2, 3]), (0.85, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3, 4])],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_p(p: float, expected: list[int]) -> None:
    assert kept(keep_top_p(scores(0.1, 0.1, 0.4, 0.3, 0.1), p)) == expected


def test_top_p_keeps_one_of_many_equals_and_all_for_one() -> None:
    even_BV = torch.zeros(1, 50_000)
    assert kept(keep_top_p(even_BV, 1e-6)) == [0]
    assert kept(keep_top_p(even_BV, 0.5)) == list(range(25_000))
    assert kept(keep_top_p(even_BV[:, :4], 0.5)) == [0, 1], "two of four reach a half exactly"
    assert len(kept(keep_top_p(even_BV, 1.0))) == 50_000
    assert kept(keep_top_p(torch.tensor([[0.0, 50.0]]), 1.0)) == [0, 1]


@pytest.mark.parametrize(("p", "expected"), [(0.01, [0, 1, 2, 3]), (0.2, [0, 1, 2]), (0.45, [0, 2]), (1.0, [2])])
def test_min_p_is_relative_to_the_likeliest(p: float, expected: list[int]) -> None:
    assert kept(keep_min_p(scores(0.3, 0.15, 0.5, 0.05), p)) == expected


def test_min_p_of_one_keeps_all_that_are_likeliest() -> None:
    assert kept(keep_min_p(torch.tensor([[5.0, 1.0, 5.0]]), 1.0)) == [0, 2]


def test_repetition_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    logits_BV = torch.tensor([[2.0, -2.0, 0.0, 2.0, -2.0], [2.0, -2.0, 0.0, 2.0, -2.0]])
    seen_BV = torch.tensor([[True, True, True, False, False], [False, False, False, True, True]])
    expected = [[1.6, -2.5, 0.0, 2.0, -2.0], [2.0, -2.0, 0.0, 1.6, -2.5]]
    assert torch.allclose(penalize_repetition(logits_BV, seen_BV, 1.25), torch.tensor(expected))


def test_repetition_penalty_counts_the_prompt_and_what_was_chosen_row_by_row() -> None:
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=10), [[0], [], [0, 1, 2]], 3)
    logits_BV = torch.tensor([[3.0, 2.0, 1.0]]).expand(3, 3)
    assert sampler.choose(logits_BV).tolist() == [1, 0, 0]  # row 2 has seen everything: the order is as before
    assert sampler.choose(logits_BV).tolist() == [2, 1, 0]
    sampler.select([1])
    assert sampler.choose(logits_BV[:1]).tolist() == [2]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 0.5, 2.0, 1e30])
def test_temperature_divides_and_never_overflows(temperature: float) -> None:
    logits_BV = torch.tensor([[80.0, 100.0, -100.0, 100.0]])
    probabilities = scale(logits_BV, temperature).double().softmax(-1)[0]
    powers = [math.exp(max(-700.0, (x - 100) / temperature)) for x in logits_BV[0].tolist()]
    assert probabilities.tolist() == pytest.approx([x / sum(powers) for x in powers], rel=1e-5, abs=1e-12)


def test_the_steps_come_in_the_documented_order() -> None:
    # at temperature 1 the first token alone has 0.8; flattened to temperature 4, three are needed for 0.7
    logits_BV = scores(0.8, 0.1, 0.06, 0.04)
    assert kept(chain(logits_BV, Sampling(temperature=1, top_p=0.7))) == [0]
    assert kept(chain(logits_BV, Sampling(temperature=4, top_p=0.7))) == [0, 1, 2]
    # top-k first: of the two that are left, the first has 0.63, so 0.6 needs one only
    assert kept(chain(logits_BV, Sampling(temperature=4, top_p=0.6, top_k=2))) == [0]
    # the penalty first: the third token becomes the likeliest
    seen_BV = torch.tensor([[True, True, False, False]])
    assert kept(chain(logits_BV + 4, Sampling(temperature=1, top_k=1, repetition_penalty=4), seen_BV)) == [2]
    assert kept(chain(logits_BV, Sampling(temperature=1, min_p=0.1))) == [0, 1]
    assert kept(chain(logits_BV, Sampling(temperature=4, min_p=0.1))) == [0, 1, 2, 3]


def test_draws_have_the_frequencies_of_the_softmax() -> None:
    probabilities = [0.5, 0.25, 0.0, 0.15, 0.07, 0.03]
    uniform_N = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = draw(scores(*probabilities).expand(len(uniform_N), -1), uniform_N).bincount(minlength=6).tolist()
    for count, p in zip(drawn, probabilities, strict=True):
        assert abs(count - 40_000 * p) <= 4 * math.sqrt(40_000 * p * (1 - p))


def test_draws_at_the_ends_of_the_interval_are_possible_tokens() -> None:
    logits_BV = scores(0.0, 0.3, 0.7, 0.0).expand(3, -1)
    ends_B = torch.tensor([0.0, 0.3 - 1e-6, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits_BV, ends_B).tolist() == [1, 1, 2]


def sampled(options: Sampling, logits_BV: Tensor, steps: int, vocab_size: int | None = None) -> list[list[int]]:
    """Rows of tokens drawn from scores that stay the same."""
    sampler = Sampler(options, [[]] * len(logits_BV), vocab_size or logits_BV.shape[1])
    return torch.stack([sampler.choose(logits_BV) for _ in range(steps)], dim=1).tolist()


def test_seeds_repeat_and_differ_and_so_do_rows() -> None:
    even_BV = torch.zeros(3, 1000)
    first = sampled(Sampling(seed=0), even_BV, 20)
    assert first == sampled(Sampling(seed=0), even_BV, 20)
    other = sampled(Sampling(seed=1), even_BV, 20)
    assert len({tuple(row) for row in [*first, *other]}) == 6


def test_a_row_draws_the_same_whichever_rows_leave() -> None:
    even_BV = torch.zeros(3, 1000)
    whole = sampled(Sampling(), even_BV, 10)
    sampler = Sampler(Sampling(), [[]] * 3, 1000)
    together = torch.stack([sampler.choose(even_BV) for _ in range(5)], dim=1).tolist()
    sampler.select([2])
    alone = [sampler.choose(even_BV[:1]).item() for _ in range(5)]
    assert together[2] + alone == whole[2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padded_vocabulary_is_never_chosen_and_changes_nothing(temperature: float) -> None:
    logits_BV = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    padded_BV = torch.cat([logits_BV, torch.full((2, 5), 50.0)], dim=1)
    options = Sampling(temperature=temperature, top_k=5, top_p=0.95)
    assert sampled(options, padded_BV, 50, vocab_size=7) == sampled(options, logits_BV, 50)


def test_greedy_takes_the_first_of_equals() -> None:
    assert sampled(Sampling(temperature=0), torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]), 1) == [[1], [0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_refused(bad: float, temperature: float) -> None:
    logits_BV = torch.zeros(2, 4)
    logits_BV[1, 2] = bad
    with pytest.raises(WeftError, match="not finite"):
        sampled(Sampling(temperature=temperature), logits_BV, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, ["temperature = -1", "greater than or equal to 0"]),
        ({"temperature": math.nan}, ["temperature"]),
        ({"top_p": 0}, ["top_p = 0", "greater than 0"]),
        ({"top_p": 1.5, "min_p": 2, "top_k": 0}, ["top_p = 1.5", "min_p = 2", "top_k = 0"]),
        ({"stop": ["a", ""]}, ["stop", "empty"]),
        ({"temprature": 1}, ["did you mean 'temperature'"]),
    ],
)
def test_options_without_sense_are_refused_by_name(options: dict[str, object], said: Sequence[str]) -> None:
    with pytest.raises(WeftError) as caught:
        load(Sampling, options)
    for words in said:
        assert words in str(caught.value)
