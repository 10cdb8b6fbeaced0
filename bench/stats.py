"""Spread over seeds, paired comparisons, and what may be claimed from them.

The runs of one method are a mapping from a unit (the seed) to a number; NaN means "no run". Methods
are compared on the units that both have: the same seed means the same split and the same teacher.
All tests and quantiles are scipy's, Holm's correction is statsmodels'.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

Runs = Mapping[Hashable, float]

ALPHA = 0.05
MIN_PAIRS = 6  # 2 ** (1 - 6) is the first smallest p-value of the exact test below ALPHA
EXACT_PAIRS = 14  # up to here all 2 ** n sign patterns are counted
DECIMALS = (
    9  # differences are rounded to this, so that equal accuracies tie in spite of binary noise
)


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (ddof 1) and confidence interval of the mean over n runs."""

    mean: float
    std: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean difference with its confidence interval; wins, ties and losses where it is paired."""

    mean: float
    low: float
    high: float
    n: int
    wins: int = 0
    ties: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Verdict:
    """Which method has the best mean, and which ones cannot be told from it.

    `adjusted` holds Holm's adjusted p-value of every method that was tested against the best;
    `unmarked` is empty, or the sentence that says why nothing may be marked.
    """

    best: str | None
    adjusted: dict[str, float]
    unmarked: str = ""

    @property
    def not_worse(self) -> tuple[str, ...]:
        """The methods not significantly worse than the best one; empty where marks are barred."""
        if self.unmarked:
            return ()
        return tuple(name for name, p in self.adjusted.items() if p >= ALPHA)


def finite(runs: Runs) -> dict[Hashable, float]:
    """Return the runs that have a number."""
    return {unit: float(v) for unit, v in runs.items() if v is not None and math.isfinite(v)}


def spread(runs: Runs, level: float = 0.95) -> Spread:
    """Summarise runs: mean, std = sqrt(sum (x - mean)^2 / (n - 1)), mean -+ t_{n-1} std / sqrt(n).

    Without a run everything is NaN; with a single one the std and the interval are.
    """
    values = np.array(sorted(finite(runs).values()))  # sorted: the order of rows changes no bit
    n = len(values)
    if n == 0:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if n == 1:
        return Spread(mean, math.nan, math.nan, math.nan, 1)
    std = float(values.std(ddof=1))
    half = _t_quantile(level, n - 1) * std / math.sqrt(n)
    return Spread(mean, std, mean - half, mean + half, n)


def paired(a: Runs, b: Runs) -> np.ndarray:
    """Return the differences a - b on the common units, float64 [n], sorted by size."""
    left, right = finite(a), finite(b)
    common = [left[unit] - right[unit] for unit in left.keys() & right.keys()]
    return np.sort(np.round(np.array(common, dtype=float), DECIMALS)) + 0.0  # no negative zero


def difference(a: Runs, b: Runs, level: float = 0.95) -> Difference:
    """Return the paired difference a - b: mean(d) -+ t_{n-1} std(d) / sqrt(n), and who wins.

    A win is a unit on which `a` is larger. With one common unit the interval is NaN.
    """
    d = paired(a, b)
    whole = spread(dict(enumerate(d)), level)
    counts = [int(np.sum(d > 0)), int(np.sum(d == 0)), int(np.sum(d < 0))]
    return Difference(whole.mean, whole.low, whole.high, whole.n, *counts)


def paired_p(a: Runs, b: Runs) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test on the common units.

    Zero differences are dropped (Wilcoxon's own rule) and tied ones share their mean rank. Up to
    14 differences the p-value is exact, ties included: every sign pattern is counted. Beyond, scipy
    chooses. Identical runs give 1, no common unit gives NaN.

    Why not a paired t-test: accuracies over few random splits are skewed now and then by one bad
    split; ranks keep such a split from deciding, and with the ten seeds of the usual protocols the
    test still has power after Holm's correction. Below 6 pairs it can reject nothing.
    """
    d = paired(a, b)
    if not len(d):
        return math.nan
    moved = d[d != 0]
    if not len(moved):
        return 1.0
    if len(moved) > EXACT_PAIRS:
        return float(distributions.wilcoxon(moved).pvalue)
    return _exact_signed_rank_p(moved)


def _exact_signed_rank_p(moved: np.ndarray) -> float:
    """P(|W - E W| >= |w - E W|) over all sign patterns, W the sum of the positive ranks.

    scipy counts them too, but a hundred times slower (its general permutation test).
    """
    n = len(moved)
    ranks = distributions.rankdata(np.abs(moved))
    patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # [2^n, n]
    off_centre = np.abs(patterns @ ranks - ranks.sum() / 2)
    seen = abs(float(ranks[moved > 0].sum()) - float(ranks.sum()) / 2)
    return float(np.mean(off_centre >= seen))  # ranks are halves: sums are exact


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values: the k-th smallest of m times (m - k + 1), made monotone.

    NaN (nothing to compare) stays NaN and does not count as a comparison.
    """
    known = {name: p for name, p in p_values.items() if not math.isnan(p)}
    if not known:
        return dict(p_values)
    adjusted = multipletests(list(known.values()), method="holm")[1]
    return {**p_values, **dict(zip(known, map(float, adjusted), strict=True))}


def rejectable(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the comparisons that a test could reject, from the number of pairs of each.

    The smallest p-value of n pairs is 2^(1-n), and Holm multiplies it by up to the number of
    comparisons. Where that is not below ALPHA, the comparisons with the fewest pairs are left out,
    and again: whatever they show, they may stay above ALPHA, and they make the correction of
    the others harder. No run is looked at, so Holm's correction holds over those that stay.

    Source: after Tarone, "A Modified Bonferroni Method for Discrete Data", Biometrics 46 (1990).
    """
    left = dict(sizes)
    while left and len(left) * 2.0 ** (1 - min(left.values())) >= ALPHA:
        least = min(left.values())
        left = {name: n for name, n in left.items() if n > least}
    return tuple(left)


def against_best(methods: Mapping[str, Runs]) -> Verdict:
    """Compare every method with the one of the best mean (higher is better).

    Where some method has 6 runs or more, a method with fewer cannot be the best. One that shares
    fewer than 6 units with the best is not compared, nor is one that shares too few for Holm's
    correction (`rejectable`): "not significantly worse" would be an empty phrase. One that is ahead
    of the best on their common units (the means may be over different ones) has p = 1. Nothing is
    marked where no comparison is left.
    """
    spreads = {name: spread(runs) for name, runs in methods.items()}
    spreads = {name: s for name, s in spreads.items() if s.n}
    if not spreads:
        return Verdict(None, {}, "no finished run")
    most = max(s.n for s in spreads.values())
    able = [name for name, s in spreads.items() if s.n >= min(MIN_PAIRS, most)]
    best = max(sorted(able), key=lambda name: round(spreads[name].mean, DECIMALS))
    others = {name: paired(methods[best], methods[name]) for name in spreads if name != best}
    sizes = {name: len(d) for name, d in others.items() if len(d) >= MIN_PAIRS}
    if not others:
        return Verdict(best, {}, "nothing to compare")
    if not sizes:
        return Verdict(best, {}, f"fewer than {MIN_PAIRS} common seeds")
    tested = rejectable(sizes)
    if not tested:
        n = max(sizes.values())
        m = sum(size == n for size in sizes.values())
        why = f"{n} seeds cannot reach p < {ALPHA:g} after Holm's correction over {m} comparisons"
        return Verdict(best, {}, why)
    p = {
        name: paired_p(methods[best], methods[name]) if others[name].mean() > 0 else 1.0
        for name in tested
    }
    return Verdict(best, holm(p))


def against_published(runs: Runs, mean: float, std: float | None, n: int | None) -> Difference:
    """Return ours - published, with Welch's 95 % interval where both sides have a spread.

    se^2 = s1^2/n1 + s2^2/n2, df = se^4 / (s1^4/(n1^2 (n1-1)) + s2^4/(n2^2 (n2-1))). Seeds cannot be
    paired with a printed mean. The interval is NaN where the published side lacks std (ddof 1) or
    n, and where we have a single run.
    """
    ours = spread(runs)
    gap = ours.mean - mean
    if std is None or n is None or n < 2 or ours.n < 2:
        return Difference(gap, math.nan, math.nan, ours.n)
    parts = np.array([ours.std**2 / ours.n, std**2 / n])
    total = float(parts.sum())
    if total == 0:
        return Difference(gap, gap, gap, ours.n)
    df = total**2 / float(np.sum(parts**2 / np.array([ours.n - 1, n - 1])))
    half = _t_quantile(0.95, df) * math.sqrt(total)
    return Difference(gap, gap - half, gap + half, ours.n)


def order_agreement(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Return Kendall's tau-b of two scores over the names that both have.

    1 is the same order, -1 the reverse. NaN below three names, and where one side ties them all.
    """
    common = [name for name in a if name in b]
    if len(common) < 3:
        return math.nan
    left, right = ([round(side[name], DECIMALS) for name in common] for side in (a, b))
    if len(set(left)) < 2 or len(set(right)) < 2:
        return math.nan
    return float(distributions.kendalltau(left, right).statistic)


def unbiased(std: float | None, n: int | None) -> float | None:
    """Turn a population std (ddof 0) of n runs into ddof 1: std sqrt(n / (n - 1))."""
    return std * math.sqrt(n / (n - 1)) if std is not None and n is not None and n > 1 else std


@dataclass(frozen=True)
class BestOf:
    """The best of n values drawn: its mean, and the interval that holds it at the level asked."""

    n: int
    mean: float
    low: float
    high: float


def best_of(values: Sequence[float], level: float = 0.8) -> list[BestOf]:
    """Return what the best of n = 1 ... N values is, drawn from these N without replacement.

    With the values in rising order, P(best <= v_i) = C(i, n) / C(N, n): all n are among the first
    i. So E[best] = sum_i v_i (C(i, n) - C(i - 1, n)) / C(N, n). The interval goes from the
    (1 - level) / 2 quantile to the (1 + level) / 2 one; for n = N it is the maximum alone.

    Source: Dodge et al., "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019,
    who draw with replacement; without, the mean is unbiased for independent trials (Tang et al.,
    "Showing Your Work Doesn't Always Work", ACL 2020).

    Args:
        values: what a search found, higher is better, one for each trial; finite.
        level: of the interval.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    total = len(ordered)
    found = []
    below = np.ones(total)  # P(best <= v_i) with i = 1 ... N, of no draw
    for n in range(1, total + 1):
        # C(i, n) / C(N, n) = C(i, n-1) / C(N, n-1) times (i - n + 1) / (N - n + 1)
        ranks = np.arange(1, total + 1)
        below = below * np.maximum(ranks - n + 1, 0) / (total - n + 1)
        mean = float(ordered @ np.diff(below, prepend=0.0))
        tails = np.searchsorted(np.round(below, 12), [(1 - level) / 2, (1 + level) / 2])
        low, high = (float(ordered[min(i, total - 1)]) for i in tails)
        found.append(BestOf(n, mean, low, high))
    return found


def _t_quantile(level: float, df: float) -> float:
    return float(distributions.t.ppf(0.5 + level / 2, df))
