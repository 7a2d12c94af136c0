"""What docs/studies.md says of error rates and power is what simulation gives, and the chosen methods keep within 7 %.

A rate of N simulated studies has the standard error sqrt(rate (1 - rate) / N); where two simulations are compared, or
one with a published figure, three of these are allowed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import studies_simulations as simulated
from scipy import stats
from studies_simulations import ITEMS, LEVEL, MIXES, SEEDS

from weft.studies import (
    CorpusScores,
    ItemScores,
    Noise,
    Question,
    compare,
    power,
    probed,
    seeds_for,
    smallest_difference,
)
from weft.studies.estimates import MeanSquares, crossed, over_seeds, paired, welch
from weft.studies.planning import equivalence_power
from weft.studies.resampling import sign_flip

PAGE = (Path(__file__).parent.parent / "docs" / "studies.md").read_text(encoding="utf-8")
MOST = 0.07
"""What a chosen method may err by, for a nominal 5 %."""


def three_errors(rate: float, studies: int) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * float(np.sqrt(rate * (1 - rate) / studies))


@pytest.fixture(scope="module")
def seed_rows() -> list[list[str]]:
    return simulated.seed_rows()


@pytest.fixture(scope="module")
def crossed_rows() -> list[list[str]]:
    return simulated.crossed_rows()


@pytest.fixture(scope="module")
def bootstrap_rows() -> list[list[str]]:
    return simulated.bootstrap_rows()


def assert_printed(rows: list[list[str]], names: int = 1) -> None:
    """Each row stands in the page, to the 0.3 points that other versions of NumPy and scipy may move a rate by."""
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    for row in rows:
        (line,) = [line for line in printed if line[:names] == row[:names] and len(line) == len(row)]
        near = [abs(float(was) - float(now)) for was, now in zip(line[names:], row[names:], strict=True)]
        assert max(near) <= 0.3, f"the page says {line}, simulated: {row}"


# ---- corpus metrics: M1, M2 ----


def test_over_seeds(seed_rows: list[list[str]]) -> None:
    """M1: paired t 6/5/5 %, Welch 4/4/5 % (1 % at a correlation of 0.5); the choice between them stays below 7 %."""
    assert_printed(seed_rows)
    rates = {float(row[0]): np.array(row[1:], dtype=float).reshape(3, 3) for row in seed_rows}  # methods x seeds
    np.testing.assert_allclose(rates[0.0][0], [5, 5, 5], atol=0.5)
    np.testing.assert_allclose(rates[0.0][1], [4, 4, 5], atol=1.0)
    np.testing.assert_allclose(rates[0.5][1], [1, 1, 1], atol=0.6)
    for r in (0.0, 0.5, 0.85):
        assert rates[r][2].max() <= 100 * MOST
    assert rates[-0.5][2].max() > 100 * MOST  # what the page warns of: the choice is not safe against such seeds
    assert rates[-0.5][0].max() < 5.5  # the paired test is


def test_bootstrap_over_seeds_is_rejected(bootstrap_rows: list[list[str]]) -> None:
    """M1: percentile 27/16/11/10 %, BCa 30/16/11/12 % at 3/5/8/10 seeds; within 3 points, as those were simulated."""
    assert_printed(bootstrap_rows)
    rates = {row[0]: np.array(row[1:], dtype=float) for row in bootstrap_rows}
    np.testing.assert_allclose(rates["percentile"][:4], [27, 16, 11, 10], atol=2.5)
    np.testing.assert_allclose(rates["BCa"][:4], [30, 16, 11, 12], atol=2.5)
    assert min(rates["percentile"][:3].min(), rates["BCa"][:3].min()) > 100 * MOST
    assert simulated.expanded_rate(20) <= MOST


def test_sign_flip_cannot_claim_with_few_pairs_and_is_exact_with_six() -> None:
    """M2: the smallest p is 0.25, 0.0625, 0.031 at 3, 5, 6 pairs."""
    least = [
        stats.permutation_test((np.arange(1.0, n + 1),), np.mean, permutation_type="samples").pvalue for n in (3, 5)
    ]
    assert (*least, sign_flip(np.arange(1.0, 7.0))) == (0.25, 0.0625, 0.03125)
    d_NS = np.random.default_rng(0).standard_normal((200, 6))
    rate = np.mean([sign_flip(d_S) <= LEVEL for d_S in d_NS])
    assert rate == pytest.approx(1 / 32, abs=three_errors(1 / 32, 200))


# ---- per-example metrics: M16, M4 ----


def test_crossed(crossed_rows: list[list[str]]) -> None:
    """M16: seed means alone 5-48 %, items alone 5-22 %, the sum of both 2-5 %, crossed 5-7 %; weft's at most 7 %."""
    assert_printed(crossed_rows, names=2)
    rates = np.array([row[2:] for row in crossed_rows], dtype=float)
    seeds_alone, items_alone, added, _, chosen = rates.T
    assert (seeds_alone.min(), seeds_alone.max()) == (pytest.approx(5, abs=0.5), pytest.approx(48, abs=5))
    assert (items_alone.min(), items_alone.max()) == (pytest.approx(5, abs=0.5), pytest.approx(22, abs=5))
    assert added.max() <= 100 * MOST
    assert chosen.max() <= 100 * MOST


def test_at_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any mix of noise: more than 10 % at 2 seeds, which are refused; between 7 and 8 % at 3; from 4 within 7 %."""
    monkeypatch.setattr("weft.studies.planning.FEWEST_SEEDS", 2)
    for seeds, least, most in ((2, 0.1, 0.13), (3, MOST, 0.08), (4, LEVEL, MOST), (10, LEVEL, 0.06)):
        rates = [
            simulated.chosen_rate(Noise((of_seeds / ITEMS) ** 0.5, (of_items / seeds) ** 0.5, 1.0), seeds)
            for of_seeds in (1, 4, 16, 100)
            for of_items in (0, 2, 8)
        ]
        assert least < max(rates) <= most


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("mix", MIXES)
def test_whole_tables_of_scores_give_the_same_rates(mix: str, seeds: int, crossed_rows: list[list[str]]) -> None:
    """The mean squares of items that were drawn one by one err as those that were drawn as a whole."""
    d_NSI = simulated.tables(np.random.default_rng(seeds), MIXES[mix], 1200, seeds, ITEMS)
    rate = simulated.rate(crossed(MeanSquares.of(d_NSI)).p_value())
    (expected,) = [float(row[-1]) / 100 for row in crossed_rows if row[:2] == [mix, str(seeds)]]
    assert rate == pytest.approx(expected, abs=three_errors(expected, 1200) + 0.002)


def test_right_or_wrong_of_one_recipe() -> None:
    """M4: a test over items calls two checkpoints of one recipe different; the crossed test does so in 7 % at most."""
    random = np.random.default_rng(0)
    skill_P1S1 = random.normal(0, 0.15, (2, 1500, 5, 1))
    easy_NI = random.normal(0.8, 1.5, (1500, 1, 200))
    chance = 1 / (1 + np.exp(-(easy_NI + skill_P1S1)))
    right = (random.random(chance.shape) < chance).astype(float)
    d_NSI = right[1] - right[0]
    assert simulated.rate(crossed(MeanSquares.of(d_NSI)).p_value()) <= MOST
    assert simulated.rate(paired(d_NSI[:, 0]).p_value()) > MOST + three_errors(MOST, 1500)


# ---- folds, several arms, several looks ----


def test_folds() -> None:
    rates = simulated.fold_rates(10)
    assert rates["t over folds"] == pytest.approx(0.15, abs=0.01)
    assert rates["chosen"] <= 0.055
    assert "in 15 % over ten folds" in PAGE


def test_three_arms_claim_no_more_than_one() -> None:
    """10,000 A/A studies of three arms: any claim at all, after Holm, in 5 % at most."""
    random = np.random.default_rng(0)
    base_NSI = random.standard_normal((10_000, 5, 20))
    p_AN = [crossed(MeanSquares.of(random.standard_normal(base_NSI.shape) - base_NSI)).p_value() for _ in range(3)]
    assert np.mean(np.min(p_AN, axis=0) <= LEVEL / 3) <= LEVEL + three_errors(LEVEL, 10_000)


def test_compare_claims_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through the whole of `compare`: 200 studies, two arms, verdicts in words."""
    monkeypatch.setattr("weft.studies.verdicts._needed", lambda *_: (None, None))  # the plan is slow, and not asked
    random, question = np.random.default_rng(0), Question("loss", "lower", "base", margin=0.1)
    claims = wrong = 0
    for _ in range(200):
        values_ASI = random.standard_normal((3, 4, 15))
        values_ASI[2] += question.margin or 0  # at the margin: "equivalent" is wrong in 5 % at most
        rope, alibi = compare(ItemScores(("base", "rope", "alibi"), (0, 1, 2, 3), values_ASI), question)
        claims += rope.verdict.kind in ("better", "worse")
        wrong += alibi.verdict.kind == "equivalent"
    assert claims <= 200 * (LEVEL + three_errors(LEVEL, 200))
    assert wrong <= 200 * (LEVEL + three_errors(LEVEL, 200))


def test_a_second_look_costs() -> None:
    """What the page says of adding seeds after a look, and its cure."""
    assert "in 8.6 % instead of 5 %" in PAGE
    assert simulated.look_rates(0.05) == pytest.approx(0.086, abs=0.003)
    assert simulated.look_rates(0.025) <= LEVEL


# ---- power: M3 ----


def test_power_is_the_published() -> None:
    """M3, in standard deviations: paired 3.3/1.7/1.2/1.0/0.7, independent arms 3.1/2.0/1.5/1.3/0.9.

    The latter are of a t with 2n - 2 degrees of freedom; Welch's, which the arms get, has fewer with 3 seeds.
    """
    seeds = (3, 5, 8, 10, 20)
    rows = {
        "independent arms": [smallest_difference(Noise.of_arms(1.0), n) for n in seeds],
        "paired": [smallest_difference(Noise(1.0), n) for n in seeds],
    }
    assert [round(x, 1) for x in rows["paired"]] == [3.3, 1.7, 1.2, 1.0, 0.7]
    published = [3.1, 2.0, 1.5, 1.3, 0.9]
    for n, difference in zip(seeds, published, strict=True):
        limit, distance = stats.t.isf(0.025, 2 * n - 2), difference / np.sqrt(2 / n)
        assert stats.nct.sf(limit, 2 * n - 2, distance) == pytest.approx(0.8, abs=0.03)
    np.testing.assert_allclose(rows["independent arms"][1:], published[1:], atol=0.1)
    assert rows["independent arms"][0] == pytest.approx(3.5, abs=0.05)
    for name, row in rows.items():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
        assert [float(cell) for cell in line.strip("|").split("|")[1:]] == [round(x, 1) for x in row]


@pytest.mark.parametrize("seeds", SEEDS)
def test_planted_differences_over_seeds_are_found(seeds: int) -> None:
    """The smallest detectable difference is found in 80 %: by Welch, the paired t, and the choice between them."""
    base_NS, arm_NS = simulated.arms(np.random.default_rng(seeds), 20_000, seeds)
    arm_NS = arm_NS + smallest_difference(Noise.of_arms(1.0), seeds)
    assert simulated.rate(welch(base_NS, arm_NS).p_value()) == pytest.approx(0.8, abs=three_errors(0.8, 20_000))
    assert simulated.rate(over_seeds(base_NS, arm_NS)[0].p_value()) == pytest.approx(0.81, abs=0.02)
    base_NS, arm_NS = simulated.arms(np.random.default_rng(seeds), 20_000, seeds, 0.7)
    d_NS = arm_NS + smallest_difference(Noise.of_arms(1.0, 0.7), seeds) - base_NS
    assert simulated.rate(paired(d_NS).p_value()) == pytest.approx(0.8, abs=three_errors(0.8, 20_000))


def test_pairing_pays_on_the_same_runs() -> None:
    base_NS, arm_NS = simulated.arms(np.random.default_rng(0), 4000, 5, 0.85)
    rates = [simulated.rate(x.p_value()) for x in (over_seeds(base_NS, arm_NS + 1.0)[0], welch(base_NS, arm_NS + 1.0))]
    assert rates[0] > rates[1] + 0.3


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("mix", MIXES)
def test_planted_differences_over_seeds_and_items_are_found(mix: str, seeds: int) -> None:
    """As planned, to 5 points: expected mean squares have more degrees of freedom than measured ones."""
    shift = smallest_difference(MIXES[mix], seeds, ITEMS)
    squares = simulated.squares_of(np.random.default_rng(seeds), MIXES[mix], seeds, 20_000, shift)
    rate = simulated.rate(crossed(squares).p_value())
    assert 0.75 <= rate <= 0.83


@pytest.mark.parametrize("noise", [Noise(1.0), Noise.of_arms(1.0), Noise(0.1, 1.0, 1.0)])
def test_power_grows_from_the_level_to_certainty(noise: Noise) -> None:
    for seeds in (3, 5, 1000):
        chances = [float(power(difference, noise, seeds, 500)) for difference in (0.0, 0.05, 0.5, 5.0, 5e3)]
        assert chances[0] == pytest.approx(LEVEL, abs=0.016)  # Welch at 3 seeds errs less
        assert chances[-1] == pytest.approx(1.0)
        assert chances == sorted(chances)


def test_equivalence_is_found() -> None:
    base_NS, arm_NS = simulated.arms(np.random.default_rng(0), 20_000, 8)
    noise = Noise(float(np.sqrt(2)))
    rate = simulated.rate(paired(arm_NS - base_NS).equivalence_p(1.8))
    assert rate == pytest.approx(float(equivalence_power(1.8, noise, 8)), abs=three_errors(0.8, 20_000))


def test_seeds_for_a_difference_are_the_fewest() -> None:
    for noise, items in ((Noise.of_arms(1.0), None), (Noise(1.0), None), (MIXES["both alike"], ITEMS)):
        difference = 0.7 if items is None else 0.15
        seeds = seeds_for(difference, noise, items)
        assert seeds is not None
        assert power(difference, noise, seeds, items) >= 0.8 > power(difference, noise, seeds - 1, items)
    assert seeds_for(0.05, MIXES["mostly items"], ITEMS) is None


def test_probed_noise_is_that_of_two_arms() -> None:
    """From one arm: the standard deviation of the difference of two, of seeds and of both together."""
    random = np.random.default_rng(0)
    values_SI = random.normal(0, 0.3, (200, 1)) + random.standard_normal((200, 300)) + 5 * random.standard_normal(300)
    noise = probed(ItemScores(("base",), tuple(range(200)), values_SI[None]), "base")
    assert (noise.seed, noise.both) == (pytest.approx(0.3 * 2**0.5, rel=0.15), pytest.approx(2**0.5, rel=0.02))
    assert noise.item == 0
    corpus = probed(CorpusScores(("base",), tuple(range(200)), values_SI.mean(1)[None]), "base")
    assert (corpus.independent, corpus.seed) == (True, pytest.approx(0.3 * 2**0.5, rel=0.15))
