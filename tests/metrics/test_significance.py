"""Statistics against published examples, SciPy, and their own promise: 5 % false positives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bam_lightning.metrics.significance import (
    TESTS,
    bootstrap_test,
    cliffs_delta,
    difference_interval,
    holm,
    known_tests,
    mann_whitney,
    median_interval,
    stars,
)

P = {name: test.p for name, test in known_tests(1).items()}
TREATED = [94, 197, 16, 38, 99, 141, 23]  # survival of mice in days (Efron and Tibshirani 1993, table 2.1)
CONTROL = [52, 104, 146, 10, 51, 30, 40, 27, 46]


def test_bootstrap_gives_the_published_p_of_the_mouse_data():
    """Algorithm 16.2 gives a one-sided level of about .15 on these data; two-sided is about twice that."""
    assert bootstrap_test(TREATED, CONTROL, draws=50_000) == pytest.approx(0.30, abs=0.04)


def test_bootstrap_agrees_with_welch_on_large_normal_samples():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.1, 0.2, 0.3):
        first, second = rng.normal(0, 1, 200), rng.normal(shift, 2, 150)
        welch = stats.ttest_ind(first, second, equal_var=False).pvalue
        assert bootstrap_test(first, second) == pytest.approx(welch, abs=0.02)


def test_mann_whitney_is_exact_without_ties():
    """All 3 against all 3 above: 2 of the 20 orders are as extreme."""
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)


def test_mann_whitney_with_ties_is_scipys_normal_approximation():
    first, second = [1, 2, 2, 3, 3], [2, 3, 4, 4, 5]
    expected = stats.mannwhitneyu(first, second, method="asymptotic", alternative="two-sided").pvalue
    assert mann_whitney(first, second) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("shape", ["normal", "skewed", "rounded"])
def test_false_positives_come_at_the_nominal_rate(name, shape):
    """1,000 pairs of sweeps of 20 seeds with no difference between them: 3-7 % are called significant at .05."""
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda: rng.normal(70, 1.5, 20),
        "skewed": lambda: 72 - rng.gamma(4, 0.8, 20),
        "rounded": lambda: np.round(rng.normal(70, 1.5, 20) / 0.36) * 0.36,  # accuracies on 277 examples: ties
    }[shape]
    p_values = np.array([P[name](draw(), draw()) for _ in range(1000)])
    assert 0.03 <= np.mean(p_values < 0.05) <= 0.07


@pytest.mark.parametrize("name", TESTS)
def test_a_difference_is_found_and_the_order_does_not_matter(name):
    rng = np.random.default_rng(1)
    first, second = rng.normal(70, 1, 20), rng.normal(72, 1, 20)
    assert P[name](first, second) < 0.001
    assert P[name](first, second) == pytest.approx(P[name](second, first), abs=0.002)


@pytest.mark.parametrize("name", TESTS)
def test_what_cannot_be_tested_is_nan(name):
    assert math.isnan(P[name]([], [1.0, 2.0]))
    assert math.isnan(P[name]([1.0] * 5, [1.0] * 5))


def test_bootstrap_needs_two_seeds_on_a_side():
    assert math.isnan(bootstrap_test([1.0], [2.0, 3.0]))
    assert not math.isnan(bootstrap_test([1.0, 1.5], [2.0, 3.0, 4.0]))


def test_one_constant_side_can_be_tested():
    rng = np.random.default_rng(0)
    assert bootstrap_test([70.0] * 20, rng.normal(72, 1, 20)) < 0.001


def test_mann_whitney_takes_one_seed_against_many():
    assert mann_whitney([9.0], [1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_holms_own_kind_of_example():
    """Four tests: .005 x 4, .01 x 3, .03 x 2, and .04 may not fall below its predecessor."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_does_not_count_what_was_not_tested():
    adjusted = holm([0.02, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])


@pytest.mark.slow
def test_holm_keeps_the_whole_family_at_the_level():
    """Among 1,000 families of 10 true nulls at most 5 % (and the luck of the draw) have a false positive."""
    rng = np.random.default_rng(3)
    wrong = [min(holm(rng.random(10))) < 0.05 for _ in range(1000)]
    assert 0.03 <= np.mean(wrong) <= 0.07


def test_stars():
    assert [stars(p) for p in (0.5, 0.049, 0.0099, 0.00099, math.nan)] == ["", "*", "**", "***", ""]


def test_cliffs_delta_counts_pairs():
    assert cliffs_delta([1, 2, 3], [2, 2]) == pytest.approx((2 - 2) / 6)
    assert cliffs_delta([1, 2], [3, 4]) == -1.0


def test_intervals_hold_the_true_value_as_often_as_they_say():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        low, high = median_interval(rng.normal(0, 1, 20))
        held += low <= 0 <= high
    assert held / 400 >= 0.93


def test_intervals_of_too_few_seeds_are_nan():
    assert math.isnan(median_interval([1, 2, 3, 4, 5]).low)
    assert not math.isnan(median_interval([1, 2, 3, 4, 5, 6]).low)
    assert math.isnan(difference_interval([1.0], [1.0, 2.0]).low)


def test_the_interval_of_a_difference_lies_around_it():
    low, high = difference_interval([5.0, 6, 7, 8, 9], [1.0, 2, 3, 4, 5])
    assert low < 4.0 < high


def test_mann_whitney_is_exact_for_twenty_seeds_too():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 1, 20), rng.normal(1, 1, 20)
    expected = stats.mannwhitneyu(first, second, method="exact", alternative="two-sided").pvalue
    assert mann_whitney(first, second) == expected


def test_a_whole_table_can_reach_three_stars():
    """Table 1 on GLUE is a family of 30: the least p of its bootstrap, times 30, is below .001."""
    rng = np.random.default_rng(0)
    p = known_tests(30)["bootstrap"].p(rng.normal(0, 1, 20), rng.normal(9, 1, 20))
    assert stars(30 * p) == "***"
