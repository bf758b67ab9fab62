"""Detailed scores: intervals of a binomial, calibration by its definition, classes against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from bam_lightning.metrics.report import (
    bootstrap_intervals,
    confusion_matrix,
    expected_calibration_error,
    per_class_scores,
)


def accuracy(predictions, gold):
    return {"accuracy": float(np.mean(predictions == gold))}


def test_the_interval_of_an_accuracy_is_that_of_a_binomial():
    gold = np.zeros(400, dtype=np.int64)
    predictions = np.repeat([0, 1], [320, 80])
    interval = bootstrap_intervals(accuracy, predictions, gold, draws=4_000)["accuracy"]
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert interval == pytest.approx((0.8 - half, 0.8 + half), abs=0.006)  # two steps of 1 / 400, and sampling error
    assert bootstrap_intervals(accuracy, predictions, gold, draws=4_000)["accuracy"] == interval


def test_rows_of_labels_are_resampled_together():
    gold = np.array([[1, 0], [0, 1], [1, 1]])
    interval = bootstrap_intervals(lambda p, g: {"match": float((p == g).all(-1).mean())}, gold, gold)["match"]
    assert interval == (1.0, 1.0)


def test_rows_of_the_matrix_are_gold_and_absent_classes_are_kept():
    predictions, gold = np.array([0, 2, 2, 1]), np.array([0, 0, 2, 2])
    assert confusion_matrix(predictions, gold, 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(300,), (300, 3)])
def test_class_scores_are_those_of_one_class_against_the_rest(shape):
    rng = np.random.default_rng(0)
    predictions, gold = rng.integers(0, 3 if len(shape) == 1 else 2, (2, *shape))
    found = per_class_scores(predictions, gold, ["a", "b", "c"])
    for column, name in enumerate(found):
        binary = [values == column if len(shape) == 1 else values[:, column] for values in (gold, predictions)]
        expected = {"precision": precision_score(*binary), "recall": recall_score(*binary), "f1": f1_score(*binary),
                    "support": binary[0].sum()}  # fmt: skip
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_calibration_is_the_weighted_gap_of_the_bins():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([1, 1, 1, 0, 1, 0])
    expected = 4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5)
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_almost_none_and_bounds_belong_to_a_bin():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    assert expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.005
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0
