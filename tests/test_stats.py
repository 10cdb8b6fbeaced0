import itertools
import math

import numpy as np
import pytest
from scipy import stats as oracle

from bench.stats import (
    ALPHA,
    against_best,
    against_published,
    best_of,
    difference,
    holm,
    paired,
    paired_p,
    rejectable,
    spread,
    unbiased,
)


def runs(values, start=0):
    return dict(enumerate(values, start))


NOISE = np.random.default_rng(3).normal(0, 0.01, 10)
WIGGLE = np.random.default_rng(4).normal(0, 0.002, (4, 10))


def test_spread_by_hand():
    # 2 4 4 6: mean 4, sum of squares 8, std sqrt(8/3), t_3 = 3.18245
    s = spread(runs([2.0, 4.0, 4.0, 6.0]))
    assert (s.mean, s.n) == (4.0, 4)
    assert s.std == pytest.approx(math.sqrt(8 / 3))
    assert s.high - s.mean == pytest.approx(3.182446 * math.sqrt(8 / 3) / 2)


def test_spread_agrees_with_scipy():
    s = spread(runs(NOISE))
    expected = oracle.t.interval(0.95, 9, NOISE.mean(), oracle.sem(NOISE))
    assert (s.low, s.high) == pytest.approx(expected)


def test_spread_of_none_one_and_missing_runs():
    assert spread({}).n == 0
    assert math.isnan(spread({}).mean)
    one = spread({0: 0.5, 1: math.nan})
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.std)
    assert math.isnan(one.low)


def test_pairs_are_only_made_on_common_seeds():
    a = {0: 1.0, 1: 2.0, 2: math.nan, 3: 9.0}
    b = {1: 0.5, 2: 1.0, 3: 9.0, 4: 7.0}
    assert paired(a, b).tolist() == [0.0, 1.5]
    d = difference(a, b)
    assert (d.mean, d.n, d.wins, d.ties, d.losses) == (0.75, 2, 1, 1, 0)


def test_paired_interval_is_the_one_of_the_paired_t_test():
    a, b = NOISE, NOISE[::-1] + 0.01
    d = difference(runs(a), runs(b))
    low, high = oracle.ttest_rel(a, b).confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((low, high), rel=1e-5)


def test_signed_rank_p_by_hand():
    # six differences of one sign: two of 2^6 patterns are as extreme
    assert paired_p(runs(range(1, 7)), runs([0] * 6)) == 2 / 64
    # -1 2 3: |W - 3| = 2 for W in {1, 0, 5, 6}: 4 of 8 patterns
    assert paired_p(runs([-1, 2, 3]), runs([0] * 3)) == 0.5


@pytest.mark.parametrize("n", [5, 8, 10])
@pytest.mark.parametrize("ties", [False, True])
def test_signed_rank_p_agrees_with_scipy(n, ties):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    d = np.where(np.round(d) == 0, 1, np.round(d)) if ties else d
    every = oracle.PermutationMethod(n_resamples=np.inf)
    expected = oracle.wilcoxon(d, method=every if ties else "exact").pvalue
    assert paired_p(runs(d), runs([0.0] * n)) == pytest.approx(min(1.0, expected))


def test_many_pairs_are_scipys():
    d = np.random.default_rng(0).normal(0.3, 1, 30)
    assert paired_p(runs(d), runs([0.0] * 30)) == pytest.approx(oracle.wilcoxon(d).pvalue)


def test_identical_runs_and_no_common_run():
    assert paired_p(runs(NOISE), runs(NOISE)) == 1.0
    assert math.isnan(paired_p({0: 1.0}, {1: 1.0}))


def test_binary_noise_makes_no_differences():
    assert paired_p(runs([0.1 + 0.2] * 8), runs([0.3] * 8)) == 1.0


def test_holm_by_hand():
    # 0.01 * 3, 0.02 * 2, max(0.04, 0.03 * 1)
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.02, "none": math.nan})
    assert adjusted["b"] == pytest.approx(0.03)
    assert adjusted["c"] == pytest.approx(0.04)
    assert adjusted["a"] == pytest.approx(0.04)
    assert math.isnan(adjusted["none"])


def methods():
    return {
        "best": runs(0.81 + NOISE),
        "same": runs(0.8095 + NOISE + WIGGLE[0]),
        "worse": runs(0.79 + NOISE + WIGGLE[1]),
        "far": runs(0.60 + NOISE + WIGGLE[2]),
    }


def test_the_verdict_marks_what_cannot_be_told_apart():
    verdict = against_best(methods())
    assert verdict.best == "best"
    assert verdict.not_worse == ("same",)
    assert verdict.adjusted["far"] == pytest.approx(3 * 2 / 1024)


def test_the_order_of_runs_and_methods_changes_nothing():
    def flat(verdict):
        return verdict.best, dict(sorted(verdict.adjusted.items())), sorted(verdict.not_worse)

    expected = flat(against_best(methods()))
    for order in itertools.islice(itertools.permutations(methods().items()), 0, None, 5):
        turned = {name: dict(reversed(list(values.items()))) for name, values in order}
        assert flat(against_best(turned)) == expected


def test_adding_a_constant_to_all_changes_no_verdict():
    moved = {n: {k: v + 0.123 for k, v in r.items()} for n, r in methods().items()}
    assert against_best(moved) == against_best(methods())


def test_identical_methods_are_not_worse():
    verdict = against_best({name: runs(NOISE) for name in "abc"})
    assert verdict.best == "a"
    assert verdict.not_worse == ("b", "c")


def test_few_seeds_mark_nothing_and_say_why():
    few = {name: dict(list(r.items())[:5]) for name, r in methods().items()}
    assert against_best(few).unmarked == "fewer than 6 common seeds"
    six = {name: dict(list(r.items())[:6]) for name, r in methods().items()}
    assert "6 seeds cannot reach p < 0.05" in against_best(six).unmarked
    assert against_best(six).not_worse == ()
    assert not against_best({n: six[n] for n in ("best", "far")}).unmarked


@pytest.mark.parametrize(
    ("sizes", "tested"),
    [
        ((6,), (6,)),  # 1 / 32
        ((10, 6), (10,)),  # 2 / 32 is above 0.05
        ((10, 10, 7), (10, 10, 7)),  # 3 / 64
        ((10, 10, 7, 7), (10, 10)),  # 4 / 64
        ((9, 8, 7, 6, 6), (9, 8, 7)),  # 3 / 64 without the two
        ((10,) * 25, (10,) * 25),  # 25 / 512
        ((10,) * 26, ()),
        ((6, 6), ()),
        ((5,), ()),
        ((), ()),
    ],
)
def test_what_could_be_rejected_is_tested(sizes, tested):
    named = {str(i): n for i, n in enumerate(sizes)}
    assert tuple(named[name] for name in rejectable(named)) == tested


def adjusted_at_the_floor(sizes, name):
    """Holm's p of one comparison at its smallest p, where the others say nothing."""
    return holm({**dict.fromkeys(sizes, 1.0), name: 2.0 ** (1 - sizes[name])})[name]


def test_all_that_is_tested_could_be_rejected_and_nothing_is_left_out_in_vain():
    for numbers in itertools.combinations_with_replacement(range(6, 11), 4):
        sizes = {str(i): n for i, n in enumerate(numbers)}
        tested = {name: sizes[name] for name in rejectable(sizes)}
        assert all(adjusted_at_the_floor(tested, name) < ALPHA for name in tested)
        for n in {n for n in numbers if n < min(tested.values(), default=11)}:
            more = {name: size for name, size in sizes.items() if size >= n}
            assert max(adjusted_at_the_floor(more, name) for name in more) >= ALPHA


def test_methods_that_no_test_could_reject_have_no_mark_and_weaken_no_other():
    few = {name: {seed: 0.1 for seed in range(6)} for name in "xyz"}  # 70 points behind
    assert against_best(methods()).not_worse == ("same",)
    for names in ("xyz", "x"):
        assert against_best({**methods(), **{n: few[n] for n in names}}) == against_best(methods())
    six = {"best": methods()["best"], "x": few["x"]}
    assert against_best(six).adjusted == {"x": 2 / 2**6}


def test_a_lucky_single_run_is_not_the_best():
    assert against_best({**methods(), "lucky": {3: 0.99}}).best == "best"
    assert "lucky" not in against_best({**methods(), "lucky": {3: 0.99}}).adjusted


def test_a_method_ahead_on_the_common_seeds_is_not_worse():
    easy = {seed: 0.9 for seed in range(4)} | {seed: 0.5 for seed in range(4, 12)}
    hard = {seed: 0.51 for seed in range(4, 12)}
    verdict = against_best({"easy": easy, "hard": hard})
    assert verdict.best == "easy"
    assert verdict.not_worse == ("hard",)


def test_no_run_and_one_student():
    assert against_best({}).best is None
    assert against_best({"a": {0: math.nan}}).best is None
    assert against_best({"a": runs(NOISE)}).unmarked == "nothing to compare"


def test_the_difference_from_a_published_mean_is_welchs():
    theirs = np.random.default_rng(9).normal(0.8, 0.02, 10)
    ours = runs(0.81 + NOISE)
    d = against_published(ours, theirs.mean(), theirs.std(ddof=1), 10)
    test = oracle.ttest_ind(list(ours.values()), theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((low, high))
    assert d.mean == pytest.approx(0.81 + NOISE.mean() - theirs.mean())


def test_no_interval_without_a_published_spread():
    for std, n in ((None, 10), (0.01, None), (0.01, 1)):
        d = against_published(runs(NOISE), 0.0, std, n)
        assert math.isnan(d.low)
        assert d.mean == pytest.approx(NOISE.mean())


def test_a_population_std_becomes_unbiased():
    assert unbiased(float(np.std(NOISE)), 10) == pytest.approx(np.std(NOISE, ddof=1))
    assert unbiased(None, 10) is None
    assert unbiased(0.1, None) == 0.1


# ---- the best of n --------------------------------------------------------------------------


def test_the_best_of_n_draws_by_hand():
    """Of 1, 2, 3: two draws are {1,2}, {1,3} or {2,3}, with the best 2, 3, 3."""
    one, two, three = best_of([3.0, 1.0, 2.0])
    assert (one.n, one.mean, one.low, one.high) == (1, 2.0, 1.0, 3.0)
    assert (two.n, two.low, two.high) == (2, 2.0, 3.0)
    assert two.mean == pytest.approx(8 / 3)
    assert (three.n, three.mean, three.low, three.high) == (3, 3.0, 3.0, 3.0)


def test_the_best_of_n_draws_is_the_mean_over_all_subsets():
    values = [0.3, 0.9, 0.1, 0.4, 0.4, 0.8, 0.2]
    for found in best_of(values, 0.5):
        best = sorted(max(some) for some in itertools.combinations(values, found.n))
        assert found.mean == pytest.approx(sum(best) / len(best))
        quartiles = np.quantile(best, [0.25, 0.75], method="inverted_cdf")
        assert (found.low, found.high) == tuple(quartiles)


def test_the_best_of_thousands_of_draws_is_finite_and_rises():
    means = [found.mean for found in best_of(np.linspace(0, 1, 1500))]
    assert means[-1] == pytest.approx(1.0)
    assert np.all(np.diff(means) >= 0)
    assert best_of([]) == []
