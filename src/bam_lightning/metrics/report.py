"""Detailed scores of one task's predictions: bootstrap intervals, confusion matrix, per-class scores, calibration.

N rows, C labels. The arithmetic of the scores is scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bam_lightning.metrics.significance import Interval

Values = NDArray[np.generic]
DRAWS = 1_000
BINS = 15  # as in Guo et al. 2017


def bootstrap_intervals(
    statistics: Callable[[Values, Values], Mapping[str, float]],
    predictions: Values,
    gold: Values,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % percentile-bootstrap intervals of statistics over rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistics: Function from predictions and gold labels to named scores.
        predictions: ``[N]`` or ``[N, C]``.
        gold: The same shape.
        draws: Number of resamples of N rows with replacement; default ``DRAWS``.
        seed: Seed of the resampling.

    >>> bootstrap_intervals(lambda p, g: {"accuracy": float((p == g).mean())}, np.array([0, 1]), np.array([0, 1]))
    {'accuracy': Interval(low=1.0, high=1.0)}
    """
    from sklearn import config_context

    rng = np.random.default_rng(seed)
    samples = []
    with config_context(skip_parameter_validation=True):
        for _ in range(draws or DRAWS):
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
    from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

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
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(gold, predictions, labels=np.arange(len(label_names)), zero_division=0)
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(label_names, *columns, strict=True)
    }


def paired_bootstrap(
    statistic: Callable[[Values, Values], float],
    first: Values,
    second: Values,
    gold: Values,
    draws: int | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return ``[draws]`` differences of a statistic, ``second - first``, on the same resampled rows.

    Args:
        statistic: Function from predictions and gold labels to a score.
        first: Predictions of one model, ``[N]`` or ``[N, C]``.
        second: Predictions of the other model on the same rows.
        gold: The same shape.
        draws: Number of resamples of N rows with replacement; default ``DRAWS``.
        seed: Seed of the resampling.

    >>> same, gold = np.array([1, 0]), np.array([1, 1])
    >>> float(paired_bootstrap(lambda p, g: float((p == g).mean()), same, same, gold).max())
    0.0
    """
    from sklearn import config_context

    rng = np.random.default_rng(seed)
    differences = []
    with config_context(skip_parameter_validation=True):
        for _ in range(draws or DRAWS):
            rows = rng.integers(0, len(gold), len(gold))
            differences.append(statistic(second[rows], gold[rows]) - statistic(first[rows], gold[rows]))
    return np.asarray(differences)


def confidence_and_correct(predictions: Values, probabilities: Values, gold: Values) -> tuple[Values, Values]:
    """Return the probability of each decision, and whether it was right.

    Args:
        predictions: Class ids ``[N]``; of a multi-label task indicators ``[N, C]``, which are N * C decisions.
        probabilities: ``[N, C]``.
        gold: The shape of the predictions.
    """
    if gold.ndim == 2:
        return probabilities.ravel(), gold.ravel()
    return probabilities[np.arange(len(gold)), predictions.astype(int)], predictions == gold


def reliability(confidence: Values, correct: Values, bins: int = BINS) -> list[dict[str, float]]:
    """Return the mean confidence and the accuracy of each bin that has rows (a reliability diagram's bars).

    >>> reliability(np.array([0.9, 0.9, 0.6]), np.array([1, 0, 1]), bins=2)
    [{'low': 0.5, 'high': 1.0, 'rows': 3, 'confidence': 0.8, 'accuracy': 0.6666666666666666}]
    """
    bin_of = _bin_of(confidence, bins)
    found = []
    for number in np.unique(bin_of):
        rows = bin_of == number
        found.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "rows": int(rows.sum()),
                "confidence": round(float(confidence[rows].astype(float).mean()), 6),
                "accuracy": float(correct[rows].astype(float).mean()),
            }
        )
    return found


def _bin_of(confidence: Values, bins: int) -> NDArray[np.int64]:
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def expected_calibration_error(confidence: Values, correct: Values, bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy over equal-width bins (Guo et al. 2017, equation 3).

    Args:
        confidence: ``[N]`` predicted probabilities in [0, 1].
        correct: ``[N]`` whether the prediction was right, 0 or 1.
        bins: Number of bins of [0, 1], each open below and closed above.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([1, 0, 1])), 4)
    0.4
    """
    gaps = np.bincount(
        _bin_of(confidence, bins), weights=confidence.astype(float) - correct.astype(float), minlength=bins
    )
    return float(np.abs(gaps).sum() / len(confidence))
