"""Detailed scores of one task's predictions: bootstrap intervals, confusion matrix, per-class scores, calibration.

N rows, C labels. The arithmetic of the scores is scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support

from bam_lightning.metrics.significance import Interval

Values = NDArray[np.generic]
DRAWS = 1_000
BINS = 15  # as in Guo et al. 2017


def bootstrap_intervals(
    statistics: Callable[[Values, Values], Mapping[str, float]],
    predictions: Values,
    gold: Values,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95% percentile-bootstrap intervals of statistics over rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistics: Function from predictions and gold labels to named scores.
        predictions: ``[N]`` or ``[N, C]``.
        gold: The same shape.
        draws: Number of resamples of N rows with replacement.
        seed: Seed of the resampling.

    >>> bootstrap_intervals(lambda p, g: {"accuracy": float((p == g).mean())}, np.array([0, 1]), np.array([0, 1]))
    {'accuracy': Interval(low=1.0, high=1.0)}
    """
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(draws):
        rows = rng.integers(0, len(gold), len(gold))
        samples.append(statistics(predictions[rows], gold[rows]))
    return {
        name: Interval(*(float(bound) for bound in np.quantile([sample[name] for sample in samples], [0.025, 0.975])))
        for name in samples[0]
    }


def confusion_matrix(predictions: Values, gold: Values, n_classes: int) -> NDArray[np.int64]:
    """Return counts ``[C, C]``: row = gold class id, column = predicted class id.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    counts: NDArray[np.int64] = sklearn_confusion_matrix(gold, predictions, labels=np.arange(n_classes))
    return counts


def per_class_scores(predictions: Values, gold: Values, label_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return label name -> precision, recall, F1 and support (number of rows with this gold label).

    Args:
        predictions: Class ids ``[N]``, or indicators ``[N, C]`` of a multi-label task.
        gold: The same shape.
        label_names: C names in the order of the class ids.

    >>> per_class_scores(np.array([0, 1, 1]), np.array([0, 0, 1]), ["no", "yes"])["no"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    columns = precision_recall_fscore_support(gold, predictions, labels=np.arange(len(label_names)), zero_division=0)
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(label_names, *columns, strict=True)
    }


def expected_calibration_error(confidence: Values, correct: Values, bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy over equal-width bins (Guo et al. 2017, equation 3).

    Args:
        confidence: ``[N]`` predicted probabilities in [0, 1].
        correct: ``[N]`` whether the prediction was right, 0 or 1.
        bins: Number of bins of [0, 1], each open below and closed above.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([1, 0, 1])), 4)
    0.4
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # [N]
    gaps = np.bincount(bin_of, weights=confidence.astype(float) - correct.astype(float), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
