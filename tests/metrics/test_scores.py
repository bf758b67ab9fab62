"""Scores against scikit-learn and SciPy, on random, tied and constant predictions."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from bam_lightning.config.data_config import Metric
from bam_lightning.metrics.scores import (
    METRICS,
    MULTI_LABEL,
    WORD_METRICS,
    accuracy,
    f1,
    majority,
    matthews,
    pearson,
    scores,
    spearman,
)

SEEDS = range(30)
kappa = METRICS["quadratic_kappa"]


def classes(seed, count=2, size=97):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, count, size)
    right = rng.random(size) < rng.random()  # from chance to nearly perfect
    return np.where(right, gold, rng.integers(0, count, size)), gold


def ranks(seed, tied, size=101):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 26, size) / 5  # STS-B's steps of 0.2
    noisy = gold + rng.normal(size=size) * 3 * rng.random()
    return (np.round(noisy) if tied else noisy).astype(np.float32), gold.astype(np.float32)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_is_scikit_learns(seed, count):
    predictions, gold = classes(seed, count)
    assert accuracy(predictions, gold) == pytest.approx(sklearn.accuracy_score(gold, predictions), abs=1e-12)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_matthews_is_scikit_learns(seed, count):
    predictions, gold = classes(seed, count)
    expected = sklearn.matthews_corrcoef(gold, predictions)
    assert matthews(predictions, gold) == pytest.approx(expected, abs=1e-6)


def test_matthews_by_hand():
    """2 true positives, 1 true negative, 1 false positive: (2 * 1 - 1 * 0) / sqrt(3 * 2 * 2 * 1)."""
    found = matthews(np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0]))
    assert found == pytest.approx(1 / math.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_f1_is_scikit_learns_of_class_one(seed):
    predictions, gold = classes(seed)
    assert f1(predictions, gold) == pytest.approx(sklearn.f1_score(gold, predictions), abs=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_is_scipys(seed, tied):
    predictions, gold = ranks(seed, tied)
    expected = stats.spearmanr(predictions, gold).statistic
    assert spearman(predictions, gold) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_pearson_is_numpys(seed, tied):
    predictions, gold = ranks(seed, tied)
    assert pearson(predictions, gold) == pytest.approx(np.corrcoef(predictions, gold)[0, 1], abs=1e-6)


def test_spearman_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15)."""
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([0.2, 0.1, 9, 5])) == pytest.approx(0.6, abs=1e-12)


def test_spearman_of_a_tied_input_as_large_as_qqp_is_scipys():
    """torchmetrics' overflows on ties past 65,000 rows; QQP has 363,846 training rows."""
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 400_000)
    predictions = np.where(rng.random(400_000) < 0.8, gold, 1 - gold) + rng.integers(0, 3, 400_000)
    expected = stats.spearmanr(predictions, gold).statistic
    assert expected > 0.1
    assert spearman(predictions, gold) == pytest.approx(expected, abs=1e-6)


def test_a_value_that_is_no_number_is_no_score():
    assert np.isnan(spearman(np.array([0.1, np.nan, 0.3]), np.array([0.0, 1.0, 2.0])))


@pytest.mark.parametrize("share", [0.5, 0.505, 0.9])
def test_matthews_of_an_input_as_large_as_qqp_is_scikit_learns(share):
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 400_000)
    predictions = np.where(rng.random(400_000) < share, gold, 1 - gold)
    expected = sklearn.matthews_corrcoef(gold, predictions)
    assert matthews(predictions, gold) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("ones", [3, 5, 7])
def test_matthews_of_a_constant_prediction_is_zero_as_scikit_learns(value, ones):
    gold = np.array([1] * ones + [0] * (10 - ones))
    predictions = np.full(10, value)
    assert sklearn.matthews_corrcoef(gold, predictions) == 0
    assert matthews(predictions, gold) == 0
    assert matthews(gold, predictions) == 0


@pytest.mark.parametrize(("predicted", "gold"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_matthews_is_zero_where_both_sides_are_constant_as_scikit_learns(predicted, gold):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a single label
        assert sklearn.matthews_corrcoef([gold] * 4, [predicted] * 4) == 0
    assert matthews(np.full(4, predicted), np.full(4, gold)) == 0


@pytest.mark.parametrize("measure", [spearman, pearson])
def test_correlation_of_a_constant_is_zero_where_scipy_has_nan(measure):
    """A head that always says the same ranks nothing; nan would go into the mean over tasks."""
    constant, gold = np.full(8, 2.5, dtype=np.float32), np.arange(8, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(stats.spearmanr(constant, gold).statistic)
        assert math.isnan(stats.pearsonr(constant, gold).statistic)
    assert measure(constant, gold) == 0
    assert measure(gold, constant) == 0


def test_f1_is_zero_where_class_one_is_neither_predicted_nor_present():
    assert f1(np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)) == 0
    assert f1(np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.int64)) == 0


PREDICTIONS, GOLD = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", {"accuracy": 0.75, "f1": 2 / 3}),
        ("f1", {"f1": 2 / 3, "accuracy": 0.75}),
        ("matthews", {"matthews": 1 / math.sqrt(3), "accuracy": 0.75}),
    ],
)
def test_scores_give_the_tasks_own_metric_first(metric, expected):
    found = scores(PREDICTIONS, GOLD, metric)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-6)


def test_scores_of_regression_are_both_correlations():
    predictions, gold = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    found = scores(predictions, gold, "spearman")
    assert list(found) == ["spearman", "pearson"]
    expected = {"spearman": 0.5, "pearson": np.corrcoef(predictions, gold)[0, 1]}
    assert found == pytest.approx(expected, abs=1e-6)


def test_scores_of_three_classes_have_no_f1():
    assert scores(np.array([0, 1, 2]), np.array([0, 1, 1]), "accuracy") == {"accuracy": pytest.approx(2 / 3)}


def test_scores_of_every_metric_of_a_config_are_plain_numbers_that_json_can_keep():
    words = {"span_precision", "span_recall", *WORD_METRICS}  # test_words has them
    for metric in {*METRICS, *(metric.value for metric in Metric)} - words:
        sides = (one.reshape(2, 2) if metric in MULTI_LABEL else one for one in (PREDICTIONS, GOLD))
        assert all(type(value) is float for value in scores(*sides, metric).values())


def test_majority_is_the_share_of_the_commonest_class():
    assert majority(np.array([2, 0, 2, 1, 2]), "accuracy") == 0.6


@pytest.mark.parametrize("metric", ["matthews", "spearman", "pearson", "quadratic_kappa"])
def test_majority_of_a_correlation_is_zero(metric):
    assert majority(np.array([0, 1, 1]), metric) == 0


@pytest.mark.parametrize(("gold", "expected"), [([1, 1, 0], 0.8), ([0, 0, 1], 0.0)])
def test_majority_f1_is_that_of_always_predicting_the_commonest_class(gold, expected):
    """Always 1 on [1, 1, 0]: precision 2/3, recall 1, so 2 * (2/3) / (5/3) = 0.8. Always 0 finds no 1."""
    assert majority(np.array(gold), "f1") == pytest.approx(expected, abs=1e-6)


def label_sets(seed, labels=5, size=61):
    """Return predicted and gold sets; every third seed with a label that is always, one that is never there."""
    rng = np.random.default_rng(seed)
    gold = (rng.random((size, labels)) < rng.random(labels)).astype(np.int64)
    predictions = np.where(rng.random((size, labels)) < rng.random(), gold, rng.integers(0, 2, (size, labels)))
    if seed % 3 == 0:
        for side in (gold, predictions):
            side[:, 0], side[:, 1] = 1, 0
    return predictions, gold


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_of_label_sets_are_scikit_learns(seed):
    predictions, gold = label_sets(seed)
    expected = {
        **{f"{a}_f1": sklearn.f1_score(gold, predictions, average=a, zero_division=0) for a in ("micro", "macro")},
        "exact_match": sklearn.accuracy_score(gold, predictions),
    }
    assert scores(predictions, gold, "micro_f1") == pytest.approx(expected, abs=1e-12)


def test_scores_of_label_sets_by_hand():
    """3 labels found, 1 missed, 1 wrong: 6 / 8; per label 1, 2 / 3 and 2 / 3; one row of three whole."""
    predictions, gold = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]]), np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    expected = {"micro_f1": 6 / 8, "macro_f1": 7 / 9, "exact_match": 1 / 3}
    for metric in MULTI_LABEL:
        found = scores(predictions, gold, metric)
        assert list(found) == [metric, *(name for name in MULTI_LABEL if name != metric)]
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", [METRICS["micro_f1"], METRICS["macro_f1"]])
def test_f1_of_label_sets_is_zero_where_nothing_is_predicted_or_present(measure):
    none, every = np.zeros((4, 3), dtype=np.int64), np.ones((4, 3), dtype=np.int64)
    assert [measure(none, none), measure(none, every), measure(every, none), measure(every, every)] == [0, 0, 0, 1]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_quadratic_kappa_is_scikit_learns(seed, count):
    predictions, gold = classes(seed, count)
    expected = sklearn.cohen_kappa_score(gold, predictions, labels=range(count), weights="quadratic")
    assert kappa(predictions, gold) == pytest.approx(expected, abs=1e-12)


def test_quadratic_kappa_is_one_minus_one_and_zero_at_its_ends():
    grades = np.arange(5)
    assert kappa(grades, grades) == pytest.approx(1, abs=1e-12)
    assert kappa(grades[::-1], grades) == pytest.approx(-1, abs=1e-12)
    for constant in (np.full(5, grade) for grade in grades):
        assert [kappa(constant, grades), kappa(grades, constant), kappa(constant, constant)] == [0, 0, 0]


def test_scores_of_grades_have_accuracy_and_spearman_beside_kappa():
    """Mean squared distance 1/2, variances 27/16 and 11/16, equal means: 1 - 8 / 38; ranks 1.5 1.5 3 4, 1 2 3.5 3.5."""
    predictions, gold = np.array([0, 0, 2, 3]), np.array([0, 1, 2, 2])
    found = scores(predictions, gold, "quadratic_kappa")
    assert list(found) == ["quadratic_kappa", "accuracy", "spearman"]
    expected = {"quadratic_kappa": 15 / 19, "accuracy": 0.5, "spearman": stats.spearmanr(predictions, gold).statistic}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", MULTI_LABEL)
@pytest.mark.parametrize("seed", SEEDS)
def test_majority_of_label_sets_is_the_best_that_any_constant_set_scores(seed, metric):
    _, gold = label_sets(seed, labels=4, size=9)
    every = [np.broadcast_to(np.array([n >> k & 1 for k in range(4)]), gold.shape) for n in range(16)]
    assert majority(gold, metric) == pytest.approx(max(METRICS[metric](one, gold) for one in every), abs=1e-12)
