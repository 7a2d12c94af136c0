"""Sampling: each step keeps exactly the right tokens, draws have the right frequencies, streams repeat and differ."""

import math
from collections.abc import Callable, Sequence

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
    keep_eta,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
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


def probabilities_of(scores: Sequence[float]) -> list[float]:
    """The softmax, in plain floats."""
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def entropy_of(probabilities: Sequence[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def typical_by_hand(scores: Sequence[float], mass: float) -> list[int]:
    """Meister et al. 2022: the tokens nearest to the expected surprise, until they have so much probability."""
    probabilities = probabilities_of(scores)
    entropy, together, found = entropy_of(probabilities), 0.0, []
    possible = [token for token, p in enumerate(probabilities) if p > 0]
    for token in sorted(possible, key=lambda token: (abs(entropy + math.log(probabilities[token])), token)):
        found.append(token)
        together += probabilities[token]
        if together >= mass:
            break
    return sorted(found)


def eta_by_hand(scores: Sequence[float], epsilon: float) -> list[int]:
    """Hewitt et al. 2022: tokens above min(epsilon, sqrt(epsilon) exp(-entropy)), or else the likeliest."""
    probabilities = probabilities_of(scores)
    eta = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy_of(probabilities)))
    return [token for token, p in enumerate(probabilities) if p > eta or p == max(probabilities)]


BY_HAND = {keep_typical_p: typical_by_hand, keep_eta: eta_by_hand}


@pytest.mark.parametrize("keep", BY_HAND, ids=lambda keep: keep.__name__)
def test_typical_and_eta_keep_what_the_papers_say(keep: Callable[[Tensor, float], Tensor]) -> None:
    """Flat and steep rows, some tokens impossible; what is kept keeps its score."""
    generator, sizes = torch.Generator().manual_seed(0), set()
    for spread in (0.1, 1.0, 4.0, 30.0):
        logits_BV = spread * torch.randn(8, 40, generator=generator)
        logits_BV[3:, ::7] = -math.inf
        for share in (1e-4, 0.01, 0.2, 0.6, 0.95, 0.999):
            after_BV = keep(logits_BV, share)
            for row_V, after_V in zip(logits_BV, after_BV, strict=True):
                assert after_V.isfinite().nonzero()[:, 0].tolist() == BY_HAND[keep](row_V.tolist(), share)
                assert torch.equal(after_V[after_V.isfinite()], row_V[after_V.isfinite()])
                sizes.add(int(after_V.isfinite().sum()))
    assert {1, 34, 40} < sizes, "one token, all that are possible, all"


def test_typical_and_eta_are_hugging_face_s() -> None:
    theirs = pytest.importorskip("transformers.generation.logits_process")
    logits_BV = 3 * torch.randn(50, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for share in (0.001, 0.05, 0.3, 0.9, 0.99):
        assert torch.equal(keep_typical_p(logits_BV, share), theirs.TypicalLogitsWarper(share)(None, logits_BV))
        assert torch.equal(keep_eta(logits_BV, share), theirs.EtaLogitsWarper(share)(None, logits_BV))


def test_typical_may_rule_out_the_likeliest_and_of_equals_keeps_the_lower_ids() -> None:
    # entropy 1.75 nats; surprises 0.92 (of 0.4) and 2.30 (of 0.1): the rare ones are nearer to what is expected
    logits_BV = scores(0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert kept(keep_typical_p(logits_BV, 0.05)) == [0]
    assert kept(keep_typical_p(logits_BV, 0.25)) == [0, 2, 3]
    assert kept(keep_typical_p(logits_BV, 0.55)) == [0, 2, 3, 4, 5, 6]
    assert kept(keep_typical_p(logits_BV, 0.7)) == list(range(7))
    even_BV = torch.zeros(1, 1000)
    assert kept(keep_typical_p(even_BV, 0.25)) == list(range(250))
    assert kept(keep_typical_p(even_BV, 1e-9)) == [0]
    assert len(kept(keep_typical_p(even_BV, 1.0))) == 1000


def test_eta_keeps_all_of_many_equals_and_more_the_less_is_certain() -> None:
    assert len(kept(keep_eta(torch.zeros(1, 50_000), 0.999999))) == 50_000, "each has less than epsilon"
    # the same 1 % beside one sure token, and beside twenty likely ones
    sure, unsure = [0.97, 0.01, 0.01, 0.01], [0.01, *[0.99 / 20] * 20]
    assert kept(keep_eta(scores(*sure), 0.02)) == [0]
    assert len(kept(keep_eta(scores(*unsure), 0.02))) == 21


@pytest.mark.parametrize("keep", BY_HAND, ids=lambda keep: keep.__name__)
def test_the_only_possible_token_stays(keep: Callable[[Tensor, float], Tensor]) -> None:
    alone_BV = torch.tensor([[-math.inf, -3.0, -math.inf], [-1000.0, 1000.0, -math.inf]])
    for share in (1e-9, 0.5, 1 - 1e-16):
        assert keep(alone_BV, share).isfinite().tolist()[0] == [False, True, False]
        assert keep(alone_BV, share)[1].softmax(-1).tolist() == [0.0, 1.0, 0.0]


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
    # typical of what min-p left, flattened: entropy 0.91 nats, nearest the second token's surprise of 1.08
    assert kept(chain(logits_BV, Sampling(temperature=4, top_k=3, typical_p=0.2))) == [1]
    assert kept(chain(logits_BV, Sampling(temperature=1, typical_p=0.2))) == [0]
    assert kept(chain(logits_BV, Sampling(temperature=1, eta_cutoff=0.05))) == [0, 1, 2]
    assert kept(chain(logits_BV, Sampling(temperature=4, eta_cutoff=0.05))) == [0, 1, 2, 3]
    # eta last: what is left of four equals after top-k has a half each
    assert kept(chain(torch.zeros(1, 4), Sampling(temperature=1, top_k=2, eta_cutoff=0.9))) == [0, 1]


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
        ({"typical_p": 0, "eta_cutoff": 1}, ["typical_p = 0", "greater than 0", "eta_cutoff = 1", "less than 1"]),
        ({"typical_p": 1.01, "eta_cutoff": 0}, ["typical_p = 1.01", "eta_cutoff = 0"]),
        ({"stop": ["a", ""]}, ["stop", "empty"]),
        ({"temprature": 1}, ["did you mean 'temperature'"]),
    ],
)
def test_options_without_sense_are_refused_by_name(options: dict[str, object], said: Sequence[str]) -> None:
    with pytest.raises(WeftError) as caught:
        load(Sampling, options)
    for words in said:
        assert words in str(caught.value)
