"""The statistics of studies, against scipy, hand-made cases and what must not change them; refusals; verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from weft.errors import WeftError
from weft.studies import CorpusScores, FoldScores, ItemScores, Noise, Question, compare, probed, selfcheck
from weft.studies.estimates import Estimate, MeanSquares, correlation, crossed, over_folds, over_seeds, paired, welch
from weft.studies.planning import equivalence_power, power, seeds_for, smallest_difference
from weft.studies.resampling import bootstrap, holm, sign_flip
from weft.studies.scores import Numbers
from weft.studies.selfchecks import _halves

RANDOM = np.random.default_rng(0)
D_SI = np.array([[1.0, 2.0, 6.0, 3.0], [2.0, 5.0, 4.0, 1.0], [0.0, 3.0, 7.0, 2.0]])
LOSS = Question("loss", "lower", "base")


def close(left: Any, right: Any) -> None:
    np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-13)


def items_of(seeds: int = 5, items: int = 60, shift: float = 0.0, arms: int = 2, seed: int = 0) -> ItemScores:
    """Arms that share items; all but the first are worse by `shift` where lower is better."""
    random = np.random.default_rng(seed)
    values_ASI = random.standard_normal((arms, seeds, items)) + 2 * random.standard_normal(items)
    values_ASI[1:] += shift
    return ItemScores(("base", "rope", "alibi")[:arms], tuple(range(seeds)), values_ASI)


# ---- closed forms ----


def test_paired_and_welch_are_scipy_s() -> None:
    base_S, arm_S = RANDOM.standard_normal((2, 7))
    ours, theirs = paired(arm_S - base_S), stats.ttest_rel(arm_S, base_S)
    close(ours.p_value(), theirs.pvalue)
    close(ours.interval(), theirs.confidence_interval())
    ours, theirs = welch(base_S[:4], arm_S), stats.ttest_ind(arm_S, base_S[:4], equal_var=False)
    close(ours.p_value(), theirs.pvalue)
    close(ours.interval(0.9), theirs.confidence_interval(0.9))
    close(correlation(base_S, arm_S), stats.pearsonr(base_S, arm_S).statistic)


def test_equivalence_is_two_one_sided_tests() -> None:
    d_S = 0.1 + RANDOM.standard_normal(9)
    sides = [stats.ttest_1samp(d_S, null, alternative=way).pvalue for null, way in ((-1, "greater"), (1, "less"))]
    close(paired(d_S).equivalence_p(1.0), max(sides))


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    """By hand: mean 3; seed means 3, 3, 3; item means 1, 10/3, 17/3, 2."""
    squares = MeanSquares.of(D_SI)
    item_I = np.array([1, 10 / 3, 17 / 3, 2])
    rest_SI = D_SI - item_I[None]  # seed means are all the mean, so nothing else is taken off
    close(squares.effect, 3.0)
    close(squares.seed, 0.0)
    close(squares.item, 3 * ((item_I - 3) ** 2).sum() / 3)
    close(squares.both, (rest_SI**2).sum() / 6)


def test_crossed_by_hand() -> None:
    """Components 2 (both), (8-2)/4 (seed) and (5-2)/3 (item); variance 1.5/3 + 1/4 + 2/12 = 11/12."""
    squares = MeanSquares(*map(np.asarray, (1.0, 8.0, 5.0, 2.0)), 3, 4)
    estimate = crossed(squares)
    close(estimate.error**2, 11 / 12)
    close(estimate.df, 11**2 / (8**2 / 2 + 5**2 / 3 + 2**2 / 6))
    noise = Noise.of_squares(squares)
    close([noise.seed**2, noise.item**2, noise.both**2], [1.5, 1.0, 2.0])
    close(noise.error(3, 4), [estimate.error, estimate.df])
    floored = crossed(MeanSquares(*map(np.asarray, (1.0, 1.0, 0.5, 2.0)), 3, 4))  # both components below 0
    close(floored.error**2, 2 / 12)


def test_without_noise_of_items_the_crossed_test_is_the_paired_one() -> None:
    d_S = RANDOM.standard_normal(6)
    d_SI = d_S[:, None] + np.zeros(8)
    close(crossed(MeanSquares.of(d_SI)).p_value(), stats.ttest_1samp(d_S, 0).pvalue)
    close(crossed(MeanSquares.of(d_SI.T)).p_value(), stats.ttest_1samp(d_S, 0).pvalue)


def test_folds_have_the_corrected_variance() -> None:
    d_K = np.array([1.0, 2.0, 4.0, 1.0, 2.0])
    estimate = over_folds(d_K, 0.2)
    close(estimate.error, np.sqrt((1 / 5 + 0.2 / 0.8) * d_K.var(ddof=1)))
    close(estimate.df, 4)


def test_paired_only_where_the_correlation_is_positive() -> None:
    base_S, step_S = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0])
    for arm_S, expected in ((base_S + step_S, "paired"), (base_S[::-1] + step_S, "welch")):
        estimate, r = over_seeds(base_S, arm_S)
        wanted = paired(arm_S - base_S) if expected == "paired" else welch(base_S, arm_S)
        assert (r > 0) == (expected == "paired")
        close([estimate.error, estimate.df], [wanted.error, wanted.df])


def test_sign_flip_by_hand() -> None:
    assert sign_flip(np.arange(1.0, 7.0)) == pytest.approx(2 / 64)
    # of the 64 sums of +-1, +-1, ..., those as far from 0 as 4: all alike (2), one different (12)
    assert sign_flip(np.array([1.0, 1, 1, 1, 1, -1])) == pytest.approx(14 / 64)
    assert 0 < sign_flip(0.3 + np.random.default_rng(3).standard_normal(40)) < 1


def test_the_bootstrap_is_as_long_as_student_s_interval() -> None:
    """For normal scores: without its expansion it would be 7 % shorter at 20 seeds, without one of both parts 2.5 %."""
    d_NS = np.random.default_rng(0).standard_normal((40, 20))
    lengths = [high - low for low, high in (bootstrap(d_NS), paired(d_NS).interval())]
    assert np.mean(lengths[0] / lengths[1]) == pytest.approx(1.0, abs=0.01)


def test_holm_by_hand() -> None:
    close(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    close(holm([0.6, 0.9]), [1.0, 1.0])
    close(holm([0.02, np.nan]), [0.04, np.nan])  # a comparison that failed was declared all the same


@pytest.mark.parametrize(("df", "limit"), [(2, 4.303), (10, 2.228)])
def test_intervals_have_student_s_quantiles(df: int, limit: float) -> None:
    low, high = Estimate(np.asarray(1.0), np.asarray(2.0), np.asarray(float(df))).interval()
    assert (low, high) == (pytest.approx(1 - 2 * limit, abs=2e-3), pytest.approx(1 + 2 * limit, abs=2e-3))


# ---- what must not change a result ----

SHIFTS = st.floats(-5, 5).map(lambda x: round(x, 3))
SCALES = st.floats(0.1, 10).map(lambda x: round(x, 3))


@settings(max_examples=25, deadline=None)
@given(SHIFTS, SCALES, st.integers(0, 1000))
def test_shift_scale_swap_and_order(shift: float, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    base_SI, arm_SI = random.standard_normal((2, 4, 9))

    def both(base_SI: Numbers, arm_SI: Numbers) -> Numbers:
        one, other = crossed(MeanSquares.of(arm_SI - base_SI)), over_seeds(base_SI.mean(1), arm_SI.mean(1))[0]
        return np.array([[x.effect, x.error, x.p_value()] for x in (one, other)])

    plain = both(base_SI, arm_SI)
    np.testing.assert_allclose(both(base_SI + shift, arm_SI + shift), plain, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(both(scale * base_SI, scale * arm_SI), plain * [scale, scale, 1], rtol=1e-9)
    np.testing.assert_allclose(both(arm_SI, base_SI), plain * [-1, 1, 1], rtol=1e-11)
    seeds, items = random.permutation(4), random.permutation(9)
    np.testing.assert_allclose(both(base_SI[seeds][:, items], arm_SI[seeds][:, items]), plain, rtol=1e-9, atol=1e-12)


def test_many_studies_at_once_are_one_by_one() -> None:
    d_NSI = RANDOM.standard_normal((3, 4, 5))
    together = crossed(MeanSquares.of(d_NSI)).p_value()
    close(together, [crossed(MeanSquares.of(d_SI)).p_value() for d_SI in d_NSI])


# ---- refusals, a line each ----


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compare(items_of(), Question("loss", "lower", "rotary")), "baseline: 'rotary' is not among"),
        (lambda: compare(items_of(arms=1), LOSS), "only the baseline"),
        (lambda: compare(items_of(seeds=2), LOSS), "seeds: 2 given, at least 3 needed"),
        (lambda: compare(items_of(seeds=1).means(), LOSS), "1 given, at least 2 needed: one seed says nothing"),
        (lambda: compare(items_of(items=1), LOSS), "items: 1 given"),
        (lambda: compare(FoldScores(("base", "rope"), np.ones((2, 1)), 0.1), LOSS), "t over folds: 1 given"),
        (lambda: compare(FoldScores(("base", "rope"), np.full((2, 5), np.nan), 0.1), LOSS), "a fold has no score"),
        (lambda: FoldScores(("base",), np.ones((1, 5)), 1.0), "test_share=1.0 is no share"),
        (
            lambda: sign_flip(np.arange(5.0)),
            "5 pairs given, at least 6 needed: the smallest p that 5 can give is 0.0625",
        ),
        (lambda: bootstrap(np.arange(19.0)), "19 seeds given, at least 20 needed"),
        (lambda: Question("loss", "less", "base"), "better: 'less' is no direction"),  # type: ignore[arg-type]
        (lambda: Question("loss", "lower", "base", margin=0.0), "margin: 0.0 cannot be a margin"),
        (lambda: Question("loss", "lower", "base", alpha=5), "alpha: 5 is no error rate"),
        (lambda: CorpusScores(("a", "a"), (0,), np.ones((2, 1))), "arms named twice: a"),
        (lambda: CorpusScores(("a",), (0, 1), np.ones((1, 1))), "2 seeds are named, but the scores have 1"),
        (lambda: CorpusScores(("a",), (0,), np.ones(1)), "shape (1,) where arms x seeds is wanted"),
        (lambda: CorpusScores(("a",), (0,), [["x"]]), "not an array of numbers"),  # type: ignore[arg-type]
        (lambda: ItemScores(("a",), (7,), np.array([[[1, np.nan]]])), "arm 'a', seed 7, item 1 is nan"),
        (lambda: Noise(0.0), "numbers above 0"),
        (lambda: Noise.of_arms(1.0, 1.0), "correlation=1.0"),
        (lambda: smallest_difference(Noise(1.0), 1), "seeds: 1 given, at least 2 needed"),
        (lambda: smallest_difference(Noise(1.0, 1.0), 5), "items: None given"),
        (lambda: smallest_difference(Noise(1.0), 5, target=0.01), "power: 0.01 asked"),
        (lambda: seeds_for(0.0, Noise(1.0)), "difference: 0 cannot be found"),
        (lambda: probed(items_of(), "rotary"), "arm: 'rotary' is not among"),
        (lambda: probed(items_of(seeds=1).means(), "base"), "arm 'base' has 1 seeds"),
        (lambda: selfcheck(items_of(seeds=5)), "two groups of 3 seeds need 6 runs of each arm, 5 are there"),
        (lambda: selfcheck(items_of(seeds=9), group=5), "two groups of 5 seeds need 10 runs of each arm, 9 are there"),
    ],
)
def test_refused_in_one_line(call: Any, words: str) -> None:
    with pytest.raises(WeftError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- verdicts ----


def corpus(*d_S: float, base: float = 5.0, **options: Any) -> CorpusScores:
    """A baseline of wide spread and an arm that follows it but for these differences."""
    base_S = base + np.arange(len(d_S))
    return CorpusScores(("base", "rope"), tuple(range(len(d_S))), np.stack([base_S, base_S + d_S]), **options)


def words_of(scores: Any, better: Any = "lower", margin: float | None = None) -> str:
    (found,) = compare(scores, Question("loss", better, "base", margin))
    return found.verdict.words


def test_verdicts_in_words() -> None:
    scores = corpus(-0.30, -0.20, -0.25)  # mean -0.25, sd 0.05, t 4.303: half an interval is 0.1242
    assert words_of(scores) == "better by 0.25 (0.13 to 0.37)"
    assert words_of(scores, "higher") == "worse by 0.25 (0.13 to 0.37)"
    assert words_of(scores, margin=0.5) == "equivalent within 0.5: better by 0.25 (0.13 to 0.37), less than matters"
    near = corpus(-0.05, 0.05, -0.03)
    (found,) = compare(near, Question("loss", "lower", "base", margin=0.09))
    assert found.p_equivalence is not None
    assert 0.05 < found.p_equivalence < 0.1
    assert found.verdict.kind == "undecided"
    assert words_of(near, margin=0.5) == "equivalent within 0.5: measured better by 0.01 (-0.12 to 0.14)"
    assert words_of(corpus(0.1, 0.1, 0.1)) == "untested: the difference is 0.1 at every seed, so no noise was measured"
    assert words_of(corpus(0.0, 0.0, 0.0), margin=1.0).startswith("untested: the difference is 0 ")
    (found,) = compare(corpus(0.1, 0.1, 0.1), Question("loss", "lower", "base", margin=1.0))  # equal but for rounding
    assert np.isnan([found.p, found.p_holm, found.p_equivalence]).all()


def test_undecided_says_how_many_more_seeds() -> None:
    scores = corpus(-0.3, 0.1, -0.2)
    (found,) = compare(scores, LOSS)
    noise = Noise(float(np.std([-0.3, 0.1, -0.2], ddof=1)))
    more = found.verdict.more_seeds
    assert (
        found.verdict.words == f"undecided: about {more} more seeds would tell; measured better by 0.13 (-0.38 to 0.65)"
    )
    assert more is not None
    effect = abs(found.effect)
    assert power(effect, noise, 3 + more) >= 0.8 > power(effect, noise, 3 + more - 1)


def test_undecided_where_more_seeds_do_not_help() -> None:
    assert "1000 seeds would not tell a difference this small; a margin would say" in words_of(
        corpus(-0.3, 0.3, -0.001)
    )
    folds = FoldScores(("base", "rope"), np.stack([np.zeros(5), [0.1, -0.1, 0.2, 0.1, -0.2]]), 0.2)
    assert "undecided: more folds of the same data would not tell, more data would" in words_of(folds)
    items_I = 5 * np.random.default_rng(0).standard_normal(60)
    values_SI = np.random.default_rng(1).standard_normal((5, 60)) + items_I - items_I.mean() + 0.8
    (found,) = compare(ItemScores(("base", "rope"), tuple(range(5)), np.stack([0 * values_SI, values_SI])), LOSS)
    assert found.verdict.more_seeds is None
    assert found.verdict.more_items is not None
    assert f"on these 60 items, about {found.verdict.more_items} more items would" in found.verdict.words
    noise, more = Noise.of_squares(MeanSquares.of(values_SI)), found.verdict.more_items
    assert power(found.effect, noise, 5, 60 + more) >= 0.8 > power(found.effect, noise, 5, 59 + more)


def test_among_several_arms_more_seeds_are_needed() -> None:
    """Two arms that are both undecided: each must reach half the level."""
    base_S, d_AS = 9 * np.arange(4.0), np.array([[0.1, -0.05, 0.2, 0.1], [0.1, 0.15, -0.1, 0.05]])
    scores = CorpusScores(("base", "rope", "alibi"), (0, 1, 2, 3), np.stack([base_S, *(base_S + d_AS)]))
    for found, d_S in zip(compare(scores, LOSS), d_AS, strict=True):
        needed = seeds_for(float(d_S.mean()), Noise(float(d_S.std(ddof=1))), alpha=0.025)
        assert needed is not None
        assert (found.verdict.kind, found.verdict.more_seeds) == ("undecided", needed - 4)


def test_with_a_margin_enough_seeds_tell_either_way() -> None:
    (found,) = compare(corpus(-0.3, 0.1, 0.2, -0.1), Question("loss", "lower", "base", 0.15))
    noise, more = Noise(float(np.std([-0.3, 0.1, 0.2, -0.1], ddof=1))), found.verdict.more_seeds
    assert more is not None
    chances = [(power(0.15, noise, n), equivalence_power(0.15, noise, np.asarray(n))) for n in (3 + more, 4 + more)]
    assert min(chances[1]) >= 0.8 > min(chances[0])


# ---- a whole comparison ----


def test_items_and_seeds_are_reported_side_by_side() -> None:
    scores = items_of(seeds=7, shift=0.8, arms=3)
    rope, alibi = compare(scores, LOSS)
    d_SI = scores.values_ASI[1] - scores.values_ASI[0]
    estimate, seeds_only = crossed(MeanSquares.of(d_SI)), paired(d_SI.mean(1))
    assert (rope.arm, alibi.arm, rope.verdict.kind) == ("rope", "alibi", "worse")
    close([rope.interval.low, rope.interval.high], estimate.interval())
    assert rope.interval.label == "on data like these"
    assert rope.on_this_test_set is not None
    close([rope.on_this_test_set.low, rope.on_this_test_set.high], seeds_only.interval())
    assert rope.on_this_test_set.label == "on this test set"
    close([rope.p_holm, alibi.p_holm], holm([rope.p, alibi.p]))
    assert rope.method.startswith("crossed variance of 7 seeds and 60 items")
    assert rope.correlation is not None
    assert rope.correlation.interval is not None
    assert rope.sign_flip == pytest.approx(sign_flip(d_SI.mean(1)))
    assert rope.bootstrap is None
    (many,) = compare(items_of(seeds=20).means(), LOSS)
    assert many.bootstrap is not None
    assert many.interval.low == pytest.approx(many.bootstrap.low, abs=0.1)


def test_several_arms_must_stand_together() -> None:
    """p = 0.03 alone is a difference; beside a second comparison it is not, and the words say why."""
    base_S = np.arange(4.0)
    arm_S = base_S + np.array([-0.2, -0.05, -0.15, -0.1])
    noise_S = base_S + np.array([0.1, -0.1, 0.05, -0.04])
    alone = CorpusScores(("base", "rope"), (0, 1, 2, 3), np.stack([base_S, arm_S]))
    beside = CorpusScores(("base", "rope", "alibi"), (0, 1, 2, 3), np.stack([base_S, arm_S, noise_S]))
    assert 0.025 < compare(alone, LOSS)[0].p < 0.05
    assert compare(alone, LOSS)[0].verdict.kind == "better"
    rope = compare(beside, LOSS)[0]
    assert rope.verdict.kind == "undecided"
    assert rope.verdict.words.endswith("which does not stand among several comparisons (Holm)")


def test_failed_cells_stay_out_and_are_named() -> None:
    cells = {("base", 0): 1.0, ("base", 1): 2.0, ("base", 2): 3.5, ("rope", 0): 1.5, ("rope", 2): 3.0, ("rope", 4): 9.0}
    scores = CorpusScores.of_cells(cells)
    (found,) = compare(scores, LOSS)
    assert (found.seeds, found.missing) == (2, (1, 4))
    close(found.effect, 0.0)
    (own,) = compare(CorpusScores.of_cells(cells, shared_seeds=False), LOSS)
    close(own.p, stats.ttest_ind([1.5, 3.0, 9.0], [1.0, 2.0, 3.5], equal_var=False).pvalue)
    assert own.correlation is None
    values_ASI = items_of(seeds=6).values_ASI.copy()
    values_ASI[1, 2] = np.nan
    (found,) = compare(ItemScores(("base", "rope"), tuple(range(6)), values_ASI), LOSS)
    kept = np.delete(values_ASI[1] - values_ASI[0], 2, axis=0)
    close(found.p, crossed(MeanSquares.of(kept)).p_value())
    assert found.missing == (2,)


def test_an_arm_without_seeds_is_untested_and_the_others_are_not() -> None:
    base_S = np.arange(4.0)
    values_AS = np.stack([base_S, base_S + 0.1 * np.array([1, 2, 1, 2]), [1.0, np.nan, np.nan, np.nan]])
    rope, alibi = compare(CorpusScores(("base", "rope", "alibi"), (0, 1, 2, 3), values_AS), LOSS)
    assert rope.verdict.kind == "worse"
    assert rope.p_holm == pytest.approx(2 * rope.p)  # the comparison that failed was declared
    assert alibi.verdict.words.startswith("untested: paired t over seeds: 1 given, at least 2 needed")
    assert np.isnan([alibi.effect, alibi.p, alibi.p_holm]).all()


def test_folds_are_corrected() -> None:
    values_AK = RANDOM.standard_normal((2, 10))
    (found,) = compare(FoldScores(("base", "rope"), values_AK, 0.1), LOSS)
    close(found.p, over_folds(values_AK[1] - values_AK[0], 0.1).p_value())


# ---- selfcheck ----


def test_halves_share_no_run() -> None:
    chosen = _halves(np.random.default_rng(0), 200, 9, 4)
    assert all(len(set(split.ravel())) == 8 for split in chosen)
    assert set(chosen.ravel()) == set(range(9))
    every = _halves(np.random.default_rng(0), 280, 8, 3)  # all of them: 8 over 6, times 10
    assert len({frozenset(map(frozenset, split.tolist())) for split in every}) == 280
    assert all(len(set(split.ravel())) == 6 for split in every)


def test_selfcheck_counts_what_is_claimed() -> None:
    """Runs in two camps: scipy's tests on the same splits, one at a time, claim as often."""
    runs_S = np.array([0.0, 0.2, 0.1, 0.3, 9.0, 9.1, 9.3, 9.2])
    found = selfcheck(CorpusScores(("base",), tuple(range(8)), runs_S[None]), group=3, splits=1000)
    assert (found.splits, found.runs, found.group) == (280, 8, 3)  # there are no more
    claims = 0
    for one, other in _halves(np.random.default_rng(0), 280, 8, 3):
        alike = stats.pearsonr(runs_S[one], runs_S[other]).statistic > 0
        test = stats.ttest_rel if alike else lambda a, b: stats.ttest_ind(a, b, equal_var=False)
        claims += test(runs_S[one], runs_S[other]).pvalue <= 0.05
    assert found.claims == claims > 0
    assert (found.low, found.high) == tuple(stats.binomtest(claims, 280).proportion_ci())


def test_selfcheck_of_items_takes_all_arms() -> None:
    found = selfcheck(items_of(seeds=15, items=20, shift=50.0), splits=2001)  # an arm is compared with itself alone
    assert (found.splits, found.runs, found.group) == (2001, 30, 5)
    assert found.low < found.rate <= 0.07
    assert "dependent" in found.words()
    assert found == selfcheck(items_of(seeds=15, items=20, shift=50.0), splits=2001)
    assert found != selfcheck(items_of(seeds=15, items=20, shift=50.0), splits=2001, seed=1)
