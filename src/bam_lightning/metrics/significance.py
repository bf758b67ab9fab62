"""Statistics of the tables: tests between two sets of seeds, correction, effect sizes, intervals (section 4).

Samples are the scores of n seeds, ``[n]``. Tests are two-sided. What cannot be tested (fewer than two seeds on a
side of a bootstrap, no spread at all) is NaN, never a number that looks like a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
CHUNK = 10_000  # draws at a time, for the memory
EXACT = 60  # seeds on a side up to which Mann-Whitney's exact distribution is quick
Sample = Sequence[float]


class Interval(NamedTuple):
    """A 95 % confidence interval; NaN where the sample is too small for one."""

    low: float
    high: float


def bootstrap_test(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the p value that both samples have one mean, by a studentised bootstrap.

    Both samples are moved to the mean of all values and redrawn; p is the share of draws whose Welch statistic is
    at least as far from 0 as the one observed (Efron and Tibshirani 1993, algorithm 16.2). NaN with fewer than two
    seeds on a side, or where no seed differs from any other of its side.

    >>> bootstrap_test([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.0, 3.0]) > 0.5
    True
    """
    a, b = _arrays(first, second)
    if min(len(a), len(b)) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return math.nan
    observed = abs(float(_welch(a[None], b[None])[0]))
    centre = np.concatenate([a, b]).mean()
    rng = np.random.default_rng(seed)
    first_moved, second_moved, beyond = a - a.mean() + centre, b - b.mean() + centre, 0
    for begun in range(0, draws, CHUNK):
        count = min(CHUNK, draws - begun)
        drawn = _welch(_redrawn(first_moved, count, rng), _redrawn(second_moved, count, rng))
        beyond += int(np.sum(np.abs(drawn) >= observed * (1 - 1e-12)))
    return (1 + beyond) / (draws + 1)


def mann_whitney(first: Sample, second: Sample) -> float:
    """Return the p value of the Mann-Whitney U test: exact without ties, else by the normal approximation.

    Above 60 seeds on a side the approximation serves too. NaN if a side is empty or all values are the same.
    """
    from scipy.stats import mannwhitneyu

    a, b = _arrays(first, second)
    if not len(a) or not len(b) or np.ptp(np.concatenate([a, b])) == 0:
        return math.nan
    both = np.concatenate([a, b])
    exact = len(np.unique(both)) == len(both) and max(len(a), len(b)) <= EXACT
    return float(mannwhitneyu(a, b, alternative="two-sided", method="exact" if exact else "asymptotic").pvalue)


def mean_difference(first: Sample, second: Sample) -> float:
    """Return the difference of means, which the bootstrap tests."""
    a, b = _arrays(first, second)
    return float(a.mean() - b.mean()) if len(a) and len(b) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for a family of tests (Holm 1979); NaN stays NaN and is not counted.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = [place for place in np.argsort(p_values, kind="stable") if not math.isnan(p_values[place])]
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = highest
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
    """A test and the effect it is about: p(first, second), and a number above 0 where ``first`` is the better."""

    p: Callable[[Sample, Sample], float]
    effect: Callable[[Sample, Sample], float]


def known_tests(family: int) -> dict[str, Test]:
    """Return the known tests; the bootstrap draws often enough for p < .001 after correction over ``family`` tests."""
    draws = max(DRAWS, 2_000 * family)
    return {
        "bootstrap": Test(partial(bootstrap_test, draws=draws), mean_difference),
        "mann_whitney": Test(mann_whitney, cliffs_delta),
    }


TESTS = tuple(known_tests(1))


def median_interval(sample: Sample) -> Interval:
    """Return a 95 % interval of the median from order statistics, free of any distribution; it takes six seeds."""
    from scipy.stats import quantile_test

    values = np.asarray(sample, dtype=float)
    if len(values) < 6:
        return Interval(math.nan, math.nan)
    found = quantile_test(values, q=float(np.median(values)), p=0.5).confidence_interval(0.95)
    return Interval(float(found.low), float(found.high))


def difference_interval(first: Sample, second: Sample, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return a 95 % percentile-bootstrap interval of the difference of medians, ``first - second``."""
    a, b = _arrays(first, second)
    if min(len(a), len(b)) < 2:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = np.median(_redrawn(a, draws, rng), axis=1) - np.median(_redrawn(b, draws, rng), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(low), float(high))


def _arrays(first: Sample, second: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(first, dtype=float), np.asarray(second, dtype=float)


def _redrawn(sample: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``[draws, n]`` samples with replacement."""
    return sample[rng.integers(0, len(sample), (draws, len(sample)))]


def _welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Welch statistic of each row; infinite where rows without spread differ, 0 where they do not."""
    difference = a.mean(axis=1) - b.mean(axis=1)
    error = np.sqrt(a.var(axis=1, ddof=1) / a.shape[1] + b.var(axis=1, ddof=1) / b.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, difference / error, np.where(difference == 0, 0.0, np.inf))
