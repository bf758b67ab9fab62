"""A temperature that makes held-out probabilities worse is not used."""

import numpy as np
import pytest
from scipy import special

from bam_lightning.inference.calibration import Decoded, Target, TaskCalibration, fit_calibration

NAMES = ["a", "b", "c"]


def fit(logits, gold, **options):
    """Calibrate rows of fixed logits."""

    def decode(calibration: TaskCalibration) -> Decoded:
        shares = special.softmax(logits / calibration.temperature, axis=1)
        return Decoded(shares.argmax(axis=1), shares, np.ones(len(shares), dtype=bool))

    def losses(temperature):
        return -special.log_softmax(logits / temperature, axis=1)[np.arange(len(gold)), gold]

    return fit_calibration(NAMES, gold, decode, losses, Target(), "rows", **options)


def test_a_temperature_that_makes_the_error_larger_is_not_used_unless_forced():
    """Confidence 0.8 is right in 80 %. The others are of the least likely class: their loss asks for a flatter one."""
    logits = np.tile(np.log([0.8, 0.19, 0.01]), (100, 1))
    gold = np.array([0] * 80 + [2] * 20)
    kept = fit(logits, gold)
    assert kept.temperature == 1.0
    assert kept.before == kept.after
    assert kept.before["expected_calibration_error"] == pytest.approx(0, abs=1e-12)
    forced = fit(logits, gold, force=True)
    assert forced.temperature > 1.5
    assert forced.note == ""
    assert forced.after["loss"] < forced.before["loss"]
    error = forced.after["expected_calibration_error"]
    assert error > 0.1
    assert kept.note == (
        f"temperature {forced.temperature:.3f} is not used: on held-out rows the expected calibration error is "
        f"{error:.4f} with it and 0.0000 without"
    )


def test_the_error_is_that_of_rows_that_the_temperature_was_not_fitted_on():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 3)) * 2
    gold = np.array([rng.choice(3, p=row) for row in special.softmax(logits, axis=1)])
    found = fit(logits * 4, gold)
    assert found.temperature == pytest.approx(4, rel=0.2)
    assert found.note == ""
    assert found.after["expected_calibration_error"] < found.before["expected_calibration_error"] / 2
    few = fit(logits[:3] * 4, gold[:3], force=True)  # too few to hold any out
    assert few.rows == 3


def test_a_temperature_at_the_end_of_the_search_range_is_said():
    rng = np.random.default_rng(0)
    logits, gold = rng.normal(size=(300, 3)) * 30, rng.integers(0, 3, 300)  # sure of itself, and no better than chance
    found = fit(logits, gold)
    assert found.temperature == pytest.approx(20, rel=0.01)
    assert found.note == "temperature at the end of the search range, 20: the confidences of this task say little"
    right = fit(logits * 0.01, (logits * 0.01).argmax(axis=1))
    assert right.temperature == pytest.approx(0.05, rel=0.01)
    assert right.note == (
        "temperature at the end of the search range, 0.05: these rows do not bound the confidences; calibrate on "
        "more rows"
    )
