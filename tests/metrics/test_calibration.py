"""Temperature and thresholds against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from bam_lightning.metrics.calibration import fit_temperature, precision_threshold, recall_threshold
from bam_lightning.metrics.report import (
    confidence_and_correct,
    expected_calibration_error,
    paired_bootstrap,
    reliability,
)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_scaled_logits_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000) * 2
    gold = rng.random(20_000) < 1 / (1 + np.exp(-logits))  # labels drawn from the calibrated model

    def loss(temperature: float) -> float:
        scaled = logits * true / temperature
        return float(np.mean(np.logaddexp(0, scaled) - gold * scaled))

    assert fit_temperature(loss) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 1.0])
def test_a_precision_threshold_is_the_lowest_that_reaches_the_share(seed, share):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(1, 20, 30) / 20  # with ties
    correct = rng.random(30) < confidence
    reached = [t for t in np.unique(confidence) if correct[confidence >= t].mean() >= share]
    found = precision_threshold(confidence, correct, share)
    if not reached:
        assert found is None
        return
    assert (confidence >= found).tolist() == (confidence >= min(reached)).tolist()
    assert found not in confidence or found == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 1.0])
def test_a_recall_threshold_is_the_highest_that_reaches_the_share(seed, share):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(1, 20, 30) / 20
    confidence[rng.random(30) < 0.2] = -1  # another label is predicted
    right = rng.random(30) < 0.5
    reached = [t for t in np.unique(confidence[confidence >= 0]) if (confidence[right] >= t).mean() >= share]
    found = recall_threshold(confidence, right, share)
    if not reached:
        assert found is None
        return
    assert (confidence >= found).tolist() == (confidence >= max(reached)).tolist()  # of all rows, also of other labels


def test_the_bars_of_a_reliability_diagram_sum_to_the_calibration_error():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    bars = reliability(confidence, correct)
    assert sum(bar["rows"] for bar in bars) == 500
    gap = sum(bar["rows"] * abs(bar["confidence"] - bar["accuracy"]) for bar in bars) / 500
    assert gap == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-6)


def test_decisions_of_a_multi_label_row_are_one_per_label():
    probabilities, gold = np.array([[0.9, 0.2], [0.4, 0.6]]), np.array([[1, 0], [1, 1]])
    confidence, correct = confidence_and_correct((probabilities > 0.5).astype(int), probabilities, gold)
    assert (confidence.tolist(), correct.tolist()) == ([0.9, 0.2, 0.4, 0.6], [1, 0, 1, 1])


def test_a_paired_bootstrap_has_the_spread_of_paired_differences():
    rng = np.random.default_rng(0)
    gold = np.zeros(400, dtype=int)
    old, new = (rng.random(400) < 0.3).astype(int), (rng.random(400) < 0.25).astype(int)
    differences = (new == gold).astype(float) - (old == gold).astype(float)
    draws = paired_bootstrap(lambda p, g: float((p == g).mean()), old, new, gold, draws=2000)
    assert draws.mean() == pytest.approx(differences.mean(), abs=0.003)
    assert draws.std() == pytest.approx(differences.std() / 20, rel=0.06)
