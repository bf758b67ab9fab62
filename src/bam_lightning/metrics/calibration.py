"""Fit calibration on labelled rows: a temperature, and thresholds at an asked precision, recall or agreement.

N rows. A threshold lies halfway between the last confidence that counts and the next one, so that rounding moves no
row across it; 0 lets every row count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
LARGEST_TEMPERATURE = 20.0


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature T with the lowest loss of logits / T (Guo et al. 2017, section 4.2).

    Args:
        loss: Mean loss of the labelled rows at a temperature. Searched from 1/20 to 20.

    >>> round(fit_temperature(lambda t: (t - 2) ** 2), 3)
    2.0
    """
    from scipy.optimize import minimize_scalar

    bound = math.log(LARGEST_TEMPERATURE)
    found = minimize_scalar(lambda log: loss(math.exp(log)), bounds=(-bound, bound), method="bounded")
    return float(math.exp(found.x))


def precision_threshold(confidence: Values, correct: Values, precision: float) -> float | None:
    """Return the lowest threshold from which on the share of correct rows is at least ``precision``.

    Args:
        confidence: ``[N]`` probabilities of what was predicted.
        correct: ``[N]`` whether it was right.
        precision: The asked share.

    Returns:
        The threshold, or None if no threshold reaches the share.

    >>> precision_threshold(np.array([0.9, 0.8, 0.6]), np.array([1, 1, 0]), 1.0)
    0.7
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order].astype(float)
    share = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    last_of_ties = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    reached = np.flatnonzero((share >= precision) & last_of_ties)
    return _below(sorted_confidence, int(reached[-1])) if len(reached) else None


def recall_threshold(confidence: Values, right: Values, recall: float) -> float | None:
    """Return the highest threshold that at least the share ``recall`` of a label's rows passes.

    Args:
        confidence: ``[N]`` probability of the label where it is predicted, else -1.
        right: ``[N]`` whether a row has the label.
        recall: The asked share.

    Returns:
        The threshold, or None if fewer of them are predicted at all.

    >>> recall_threshold(np.array([0.9, 0.7, 0.6, -1.0]), np.array([1, 0, 1, 0]), 0.5)
    0.8
    """
    ordered = np.sort(confidence.astype(float))[::-1]
    of_label = np.sort(confidence[right == 1].astype(float))[::-1]
    needed = math.ceil(recall * len(of_label) - 1e-9)
    if not len(of_label) or of_label[needed - 1] < 0:
        return None
    return _below(ordered, int(np.flatnonzero(ordered == of_label[needed - 1])[-1]))


def _below(ordered: NDArray[np.float64], last: int) -> float:
    """Return the point between ``ordered[last]`` and the next lower value; 0 if there is none."""
    lower = ordered[last + 1 :]
    lower = lower[(lower < ordered[last]) & (lower >= 0)]
    return float((ordered[last] + lower[0]) / 2) if len(lower) else 0.0
