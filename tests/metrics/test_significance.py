"""Statistics against published examples, SciPy, and their own promise: 5 % false positives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bam_lightning.metrics.significance import (
    TESTS,
    bootstrap_test,
    brown_forsythe,
    cliffs_delta,
    contrast_test,
    difference_interval,
    equivalence_test,
    holm,
    mann_whitney,
    median_interval,
    paired_tests,
    sign_flip_test,
    spread_ratio_interval,
    stars,
    unpaired_tests,
    wilcoxon,
)

P = {name: test.p for name, test in unpaired_tests(1).items()}
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


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("shape", ["normal", "skewed", "rounded"])
def test_false_positives_come_at_the_nominal_rate(name, shape):
    """500 pairs of sweeps of 20 seeds with no difference between them: 3-7 % are called significant at .05."""
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda: rng.normal(70, 1.5, 20),
        "skewed": lambda: 72 - rng.gamma(4, 0.8, 20),
        "rounded": lambda: np.round(rng.normal(70, 1.5, 20) / 0.36) * 0.36,  # accuracies on 277 examples: ties
    }[shape]
    p_values = np.array([P[name](draw(), draw()) for _ in range(500)])
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


@pytest.mark.release
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
    assert math.isnan(difference_interval([1.0, 2, 3, 4, 5], [1.0, 2, 3, 4, 5, 6]).low)
    assert not math.isnan(difference_interval([1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6]).low)


def test_the_interval_of_a_difference_lies_around_it():
    low, high = difference_interval([5.0, 6, 7, 8, 9, 10], [1.0, 2, 3, 4, 5, 6])
    assert low < 4.0 < high


def test_mann_whitney_is_exact_for_twenty_seeds_too():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 1, 20), rng.normal(1, 1, 20)
    expected = stats.mannwhitneyu(first, second, method="exact", alternative="two-sided").pvalue
    assert mann_whitney(first, second) == expected


def test_a_whole_table_can_reach_three_stars():
    """Table 1 on GLUE is a family of 30: the least p of its bootstrap, times 30, is below .001."""
    rng = np.random.default_rng(0)
    p = unpaired_tests(30)["bootstrap"].p(rng.normal(0, 1, 20), rng.normal(9, 1, 20))
    assert stars(30 * p) == "***"


DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]  # eighths of an inch


def test_sign_flips_give_fishers_p_of_darwins_maize():
    """Fisher (1935, section 21): 863 of the 2 ** 15 sign changes give a sum at least as large; two-sided 1726."""
    p = sign_flip_test(DARWIN, [0.0] * 15, draws=2**15)
    assert p == pytest.approx(1726 / 2**15, abs=1e-9)


def test_wilcoxon_is_scipys_and_exact_for_few_pairs():
    first, second = [1.1, 2.3, 3.2, 4.4, 5.6, 6.9], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert wilcoxon(first, second) == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("name", TESTS)
def test_paired_tests_see_what_unpaired_ones_cannot(name):
    """A gain of 0.5 in each seed, while seeds spread by 3 points."""
    rng = np.random.default_rng(3)
    base = rng.normal(70, 3, 20)
    better = base + 0.5 + rng.normal(0, 0.2, 20)
    assert paired_tests(1)[name].p(better, base) < 0.001
    assert unpaired_tests(1)[name].p(better, base) > 0.05
    assert paired_tests(1)[name].effect(better, base) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("name", TESTS)
def test_paired_tests_of_samples_that_cannot_be_paired_are_nan(name):
    test = paired_tests(1)[name].p
    assert math.isnan(test([1.0, 2.0], [1.0]))
    assert math.isnan(test([1.0, 2.0], [1.0, 2.0]))
    assert math.isnan(test([], []))


def test_paired_false_positives_come_at_the_nominal_rate():
    rng = np.random.default_rng(5)
    differences = [sign_flip_test(rng.normal(0, 1, 8), np.zeros(8)) for _ in range(400)]
    assert 0.03 <= np.mean(np.array(differences) < 0.05) <= 0.07


def test_brown_forsythe_is_levenes_around_the_medians_by_hand():
    """One-way analysis of variance of |x - median|, with F(1, 10)."""
    first, second = [1.0, 2, 3, 4, 5, 6], [0.0, 4, 8, 12, 16, 30]
    groups = [np.abs(np.array(sample) - np.median(sample)) for sample in (first, second)]
    assert brown_forsythe(first, second) == pytest.approx(stats.f_oneway(*groups).pvalue, abs=1e-12)
    assert math.isnan(brown_forsythe([1.0, 2, 3, 4, 5], second))


def test_the_interval_of_a_ratio_of_spreads_lies_around_it():
    rng = np.random.default_rng(0)
    low, high = spread_ratio_interval(rng.normal(0, 1, 50), rng.normal(0, 2, 50))
    assert low < 0.5 < high < 1


@pytest.mark.parametrize("paired", [False, True])
def test_equivalence_needs_more_than_no_significant_difference(paired):
    rng = np.random.default_rng(1)
    base = rng.normal(70, 0.2, 20)
    close, wide = base + rng.normal(0, 0.1, 20), rng.normal(70, 5, 20)
    assert equivalence_test(close, base, 0.5, paired) < 0.001
    assert equivalence_test(base + 1, base + rng.normal(0, 0.01, 20), 0.5, paired) > 0.99
    assert unpaired_tests(1)["bootstrap"].p(wide, base) > 0.05  # not different ...
    assert equivalence_test(wide, base, 0.5, paired) > 0.05  # ... and not shown to be equal
    assert math.isnan(equivalence_test(base[:5], base[:5], 0.5, paired))


def test_a_contrast_of_two_groups_is_the_difference_of_means():
    rng = np.random.default_rng(4)
    first, second = rng.normal(70, 1, 20), rng.normal(71, 1.5, 20)
    estimate, p, interval = contrast_test([first, second], (1, -1), paired=False)
    assert estimate == pytest.approx(first.mean() - second.mean())
    assert p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=0.01)
    assert interval.low < estimate < interval.high


@pytest.mark.parametrize("paired", [False, True])
def test_an_interaction_by_hand(paired):
    """Gains of 3 and of 1: the interaction is 2, however high the rows are."""
    rng = np.random.default_rng(6)
    base = rng.normal(0, 0.3, 20)
    rows = [base + level + rng.normal(0, 0.1, 20) for level in (73, 70, 51, 50)]
    estimate, p, interval = contrast_test(rows, (1, -1, -1, 1), paired)
    assert estimate == pytest.approx(2, abs=0.15)
    assert p < 0.001
    assert interval.low > 1.5
    estimate, p, interval = contrast_test([row[:5] for row in rows], (1, -1, -1, 1), paired)
    assert math.isnan(p)
    assert math.isnan(interval.low)
