"""Scores of predictions against gold, in [-1, 1] or [0, 1]; times 100 is for tables only. N examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torchmetrics.functional import classification

Values = NDArray[np.generic]


def accuracy(predictions: Values, gold: Values) -> float:
    """Return the share of equal class ids."""
    return float(np.mean(predictions == gold))


def matthews(predictions: Values, gold: Values) -> float:
    """Return Matthews' correlation (CoLA); 0 where either side is constant."""
    if np.ptp(predictions) == 0 or np.ptp(gold) == 0:
        return 0.0  # torchmetrics makes +-0.03 of it by an epsilon
    classes = int(max(predictions.max(), gold.max(), 1)) + 1
    return float(classification.multiclass_matthews_corrcoef(*_tensors(predictions, gold), num_classes=classes))


def f1(predictions: Values, gold: Values) -> float:
    """Return F1 of class 1 of two; 0 where it is neither predicted nor present."""
    return float(classification.binary_f1_score(*_tensors(predictions, gold)))


def spearman(predictions: Values, gold: Values) -> float:
    """Return Spearman's rank correlation, ties averaged; 0 where either side is constant, which ranks nothing.

    SciPy's: torchmetrics' overflows on ties among more than 65,000 rows.
    """
    return _correlation(stats.rankdata(predictions), stats.rankdata(gold))


def pearson(predictions: Values, gold: Values) -> float:
    """Return Pearson's correlation; 0 where either side is constant."""
    return _correlation(predictions.astype(np.float64), gold.astype(np.float64))


def _correlation(one: Values, two: Values) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(stats.pearsonr(one, two).statistic)


def _tensors(predictions: Values, gold: Values) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(predictions)), torch.from_numpy(np.ascontiguousarray(gold))


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
REGRESSION = ("spearman", "pearson")


def scores(predictions: Values, gold: Values, metric: str, classes: int | None = None) -> dict[str, float]:
    """Return the task's own metric first, then what else is commonly read beside it (F1 for two ``classes``).

    >>> scores(np.array([0, 1, 1]), np.array([0, 1, 0]), "matthews")
    {'matthews': 0.5, 'accuracy': 0.6666666666666666}
    """
    names = [metric, *(REGRESSION if metric in REGRESSION else ("accuracy",))]
    if metric == "accuracy" and (classes or int(max(predictions.max(), gold.max())) + 1) == 2:
        names.append("f1")
    return {name: METRICS[name](predictions, gold) for name in dict.fromkeys(names)}


def majority(gold: Values, metric: str) -> float:
    """Return the score of always predicting the commonest class; 0 for correlations."""
    if metric not in ("accuracy", "f1"):
        return 0.0
    values, counts = np.unique(gold, return_counts=True)
    return METRICS[metric](np.full_like(gold, values[counts.argmax()]), gold)
