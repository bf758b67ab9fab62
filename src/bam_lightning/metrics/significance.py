"""Statistics of the tables: significance tests between rows, Holm's correction, effect sizes and intervals (section 4).

A sample is the scores of n seeds, ``[n]``. Tests are two-sided. What cannot be computed (too few seeds, no spread at
all) is NaN. Below ``MIN_SEEDS`` seeds there is no interval: no 95 % interval of a median exists for fewer than six."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
CHUNK = 10_000  # draws at a time, to bound memory
EXACT = 60  # seeds per side up to which Mann-Whitney's exact distribution is quick
MIN_SEEDS = 6
LEVEL = 0.05
Sample = Sequence[float]


class Interval(NamedTuple):
    """A 95 % confidence interval; NaN if the sample is too small for one."""

    low: float
    high: float


NO_INTERVAL = Interval(math.nan, math.nan)


def bootstrap_test(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the p value of equal means, by a studentised bootstrap (Efron and Tibshirani 1993, algorithm 16.2).

    Both samples are shifted to the common mean and resampled; p is the share of draws whose Welch statistic is at least
    as far from 0 as the observed one. NaN with fewer than two seeds on a side, or if neither side has any spread.

    >>> bootstrap_test([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.0, 3.0]) > 0.5
    True
    """
    a, b = _arrays(first, second)
    if min(len(a), len(b)) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return math.nan
    observed = abs(float(_welch(a[None], b[None])[0]))
    centre = np.concatenate([a, b]).mean()
    rng = np.random.default_rng(seed)
    first_shifted, second_shifted, extreme = a - a.mean() + centre, b - b.mean() + centre, 0
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        statistics = _welch(_resample(first_shifted, count, rng), _resample(second_shifted, count, rng))
        extreme += int(np.sum(np.abs(statistics) >= observed * (1 - 1e-12)))
    return (1 + extreme) / (draws + 1)


def mann_whitney(first: Sample, second: Sample) -> float:
    """Return the p value of the Mann-Whitney U test: exact without ties, else by the normal approximation.

    Above 60 seeds on a side the approximation is used too. NaN if a side is empty or all values are equal.
    """
    from scipy.stats import mannwhitneyu

    a, b = _arrays(first, second)
    values = np.concatenate([a, b])
    if not len(a) or not len(b) or np.ptp(values) == 0:
        return math.nan
    exact = len(np.unique(values)) == len(values) and max(len(a), len(b)) <= EXACT
    return float(mannwhitneyu(a, b, alternative="two-sided", method="exact" if exact else "asymptotic").pvalue)


def sign_flip_test(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the p value of equal means for paired seeds, by flipping the signs of the differences.

    All ``2 ** n`` flips are counted if there are at most ``draws`` of them, else a random sample is. NaN if the
    samples differ in length or no pair differs.

    >>> sign_flip_test([2.0] * 6, [1.0] * 6) == 2 / 2**6
    True
    """
    from scipy.stats import permutation_test

    a, b = _arrays(first, second)
    if len(a) != len(b) or not len(a) or not np.any(a != b):
        return math.nan

    def difference(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.mean(x - y, axis=axis)

    result = permutation_test(
        (a, b), difference, permutation_type="samples", n_resamples=draws, batch=CHUNK, rng=np.random.default_rng(seed)
    )
    return float(result.pvalue)


def permutation_test(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the p value of equal means for independent seeds, by exchanging them between the samples.

    It needs no spread within a sample, as where a share is 0 in every seed. All exchanges are counted if there are at
    most ``draws`` of them. NaN if a side is empty or no value differs from any other.

    >>> round(permutation_test([0.0] * 6, [1.0] * 6), 4) == round(2 / 924, 4)
    True
    """
    from scipy import stats

    a, b = _arrays(first, second)
    if not len(a) or not len(b) or np.ptp(np.concatenate([a, b])) == 0:
        return math.nan

    def difference(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    rng = np.random.default_rng(seed)
    return float(stats.permutation_test((a, b), difference, n_resamples=draws, batch=CHUNK, rng=rng).pvalue)


def mcnemar(fixed: int, broken: int) -> float:
    """Return the p value of McNemar's exact test: are as many rows fixed as broken? (McNemar 1947)

    >>> mcnemar(0, 6)
    0.03125
    """
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else math.nan


def wilcoxon(first: Sample, second: Sample) -> float:
    """Return the p value of Wilcoxon's signed-rank test for paired seeds; NaN as in ``sign_flip_test``."""
    from scipy.stats import wilcoxon as signed_rank

    a, b = _arrays(first, second)
    if len(a) != len(b) or not len(a) or not np.any(a != b):
        return math.nan
    return float(signed_rank(a, b).pvalue)


def brown_forsythe(first: Sample, second: Sample) -> float:
    """Return the p value of equal spread: Levene's test around the medians. NaN with fewer than ``MIN_SEEDS`` seeds."""
    from scipy.stats import levene

    a, b = _arrays(first, second)
    if min(len(a), len(b)) < MIN_SEEDS or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return math.nan
    return float(levene(a, b, center="median").pvalue)


def equivalence_test(first: Sample, second: Sample, margin: float, paired: bool) -> float:
    """Return the p value of a difference of means outside ``±margin``: two one-sided t tests (Schuirmann 1987).

    A small p says that the means differ by less than ``margin``. NaN with fewer than ``MIN_SEEDS`` seeds or no spread.

    >>> first, second = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95], [1.0, 1.0, 1.1, 0.9, 1.0, 0.95]
    >>> equivalence_test(first, second, margin=1.0, paired=False) < 0.01
    True
    """
    from scipy.stats import ttest_1samp, ttest_ind

    a, b = _arrays(first, second)
    if min(len(a), len(b)) < MIN_SEEDS or (paired and len(a) != len(b)):
        return math.nan
    if paired:
        if np.ptp(a - b) == 0:
            return math.nan
        above = ttest_1samp(a - b, -margin, alternative="greater").pvalue
        below = ttest_1samp(a - b, margin, alternative="less").pvalue
    else:
        if np.ptp(a) == 0 and np.ptp(b) == 0:
            return math.nan
        above = ttest_ind(a + margin, b, equal_var=False, alternative="greater").pvalue
        below = ttest_ind(a - margin, b, equal_var=False, alternative="less").pvalue
    return float(max(above, below))


def mean_difference(first: Sample, second: Sample) -> float:
    """Return the difference of means, which the bootstrap and the sign-flip test are about."""
    a, b = _arrays(first, second)
    return float(a.mean() - b.mean()) if len(a) and len(b) else math.nan


def median_of_differences(first: Sample, second: Sample) -> float:
    """Return the median difference of paired seeds; NaN if the samples differ in length."""
    a, b = _arrays(first, second)
    return float(np.median(a - b)) if len(a) and len(a) == len(b) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for a family of tests (Holm 1979); NaN stays NaN and is not counted.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = [index for index in np.argsort(p_values, kind="stable") if not math.isnan(p_values[index])]
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def stars(p_value: float) -> str:
    """Return the paper's marks: one for p < .05, two for p < .01, three for p < .001."""
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))


def cliffs_delta(first: Sample, second: Sample) -> float:
    """Return P(first > second) - P(first < second), from -1 to 1: how far apart the two samples lie.

    >>> cliffs_delta([3, 4], [1, 2])
    1.0
    """
    a, b = _arrays(first, second)
    if not len(a) or not len(b):
        return math.nan
    return float(np.sign(a[:, None] - b[None]).mean())


class Test(NamedTuple):
    """A significance test.

    Attributes:
        title: Name for the legend of a table.
        p: p value of two samples.
        effect: What the test is about; above 0 if the first sample is the better one.
    """

    title: str
    p: Callable[[Sample, Sample], float]
    effect: Callable[[Sample, Sample], float]


def unpaired_tests(family: int) -> dict[str, Test]:
    """Return the tests of independent samples; the bootstrap draws enough for p < .001 after ``family`` corrections."""
    draws = max(DRAWS, 2_000 * family)
    return {
        "bootstrap": Test("studentised bootstrap of the means", partial(bootstrap_test, draws=draws), mean_difference),
        "mann_whitney": Test("Mann-Whitney U", mann_whitney, cliffs_delta),
    }


def paired_tests(family: int) -> dict[str, Test]:
    """Return, for each unpaired test, its counterpart for samples whose seeds are pairs."""
    draws = max(DRAWS, 2_000 * family)
    return {
        "bootstrap": Test(
            "sign-flip test of the mean difference", partial(sign_flip_test, draws=draws), mean_difference
        ),
        "mann_whitney": Test("Wilcoxon signed-rank", wilcoxon, median_of_differences),
    }


TESTS = tuple(unpaired_tests(1))


def median_interval(sample: Sample) -> Interval:
    """Return a distribution-free 95 % interval of the median, from order statistics."""
    from scipy.stats import quantile_test

    values = np.asarray(sample, dtype=float)
    if len(values) < MIN_SEEDS:
        return NO_INTERVAL
    interval = quantile_test(values, q=float(np.median(values)), p=0.5).confidence_interval(0.95)
    return Interval(float(interval.low), float(interval.high))


def difference_interval(
    first: Sample, second: Sample, paired: bool = False, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return a 95 % percentile-bootstrap interval of the difference of medians, ``first - second``.

    With ``paired`` the same seeds are drawn on both sides.
    """
    a, b = _arrays(first, second)
    if min(len(a), len(b)) < MIN_SEEDS or (paired and len(a) != len(b)):
        return NO_INTERVAL
    rng = np.random.default_rng(seed)
    if paired:
        index = rng.integers(0, len(a), (draws, len(a)))
        differences = np.median(a[index], axis=1) - np.median(b[index], axis=1)
    else:
        differences = np.median(_resample(a, draws, rng), axis=1) - np.median(_resample(b, draws, rng), axis=1)
    return _percentiles(differences)


def spread_ratio_interval(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return a 95 % percentile-bootstrap interval of the ratio of standard deviations, ``first / second``."""
    a, b = _arrays(first, second)
    if min(len(a), len(b)) < MIN_SEEDS or np.ptp(b) == 0:
        return NO_INTERVAL
    rng = np.random.default_rng(seed)
    first_sd, second_sd = _resample(a, draws, rng).std(axis=1, ddof=1), _resample(b, draws, rng).std(axis=1, ddof=1)
    return _percentiles(first_sd[second_sd > 0] / second_sd[second_sd > 0])


def contrast_test(
    groups: Sequence[Sample], weights: Sequence[float], paired: bool, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, Interval]:
    """Test a weighted sum of group means against 0, as an interaction with the weights 1, -1, -1, 1.

    The p value is that of a studentised bootstrap of the sum (Efron and Tibshirani 1993, chapter 16); with ``paired``
    the sum is taken within each seed first, and the sign-flip test is used.

    Returns:
        The sum of means, its p value, and a 95 % percentile-bootstrap interval; NaN below ``MIN_SEEDS`` seeds.
    """
    samples = [np.asarray(group, dtype=float) for group in groups]
    if not all(len(sample) for sample in samples):
        return math.nan, math.nan, NO_INTERVAL
    estimate = float(sum(weight * sample.mean() for weight, sample in zip(weights, samples, strict=True)))
    if min(map(len, samples)) < MIN_SEEDS:
        return estimate, math.nan, NO_INTERVAL
    rng = np.random.default_rng(seed)
    if paired:
        contrast = np.sum([weight * sample for weight, sample in zip(weights, samples, strict=True)], axis=0)
        drawn = _resample(contrast, draws, rng).mean(axis=1)
        return estimate, sign_flip_test(contrast, np.zeros_like(contrast), draws, seed), _percentiles(drawn)
    if all(np.ptp(sample) == 0 for sample in samples):
        return estimate, math.nan, NO_INTERVAL
    redrawn = [_resample(sample, draws, rng) for sample in samples]
    sums = np.sum([weight * draw.mean(axis=1) for weight, draw in zip(weights, redrawn, strict=True)], axis=0)
    errors = np.sqrt(
        np.sum(
            [weight**2 * d.var(axis=1, ddof=1) / d.shape[1] for weight, d in zip(weights, redrawn, strict=True)], axis=0
        )
    )
    error = math.sqrt(sum(w**2 * s.var(ddof=1) / len(s) for w, s in zip(weights, samples, strict=True)))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.abs(np.where(errors > 0, (sums - estimate) / errors, np.where(sums == estimate, 0.0, np.inf)))
    p = (1 + int(np.sum(statistics >= abs(estimate / error) * (1 - 1e-12)))) / (draws + 1)
    return estimate, p, _percentiles(sums)


def _percentiles(draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(low), float(high))


def _arrays(first: Sample, second: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(first, dtype=float), np.asarray(second, dtype=float)


def _resample(sample: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``[draws, n]`` samples with replacement."""
    return sample[rng.integers(0, len(sample), (draws, len(sample)))]


def _welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Welch statistic of each row; infinite if rows without spread differ, 0 if they do not."""
    difference = a.mean(axis=1) - b.mean(axis=1)
    error = np.sqrt(a.var(axis=1, ddof=1) / a.shape[1] + b.var(axis=1, ddof=1) / b.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, difference / error, np.where(difference == 0, 0.0, np.inf))
