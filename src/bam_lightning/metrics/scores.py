"""Scores of predictions against gold, in [-1, 1] or [0, 1]; times 100 is for tables only. N examples, C labels.

Multi-label metrics take 0 and 1 as ``[N, C]``, all others class ids or scores ``[N]``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torchmetrics.functional import classification

from bam_lightning.config import data_config

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


def quadratic_kappa(predictions: Values, gold: Values) -> float:
    """Return Cohen's kappa of class ids, weighted by squared distance; 0 where either side is constant.

    The squared distance over that of independent pairs (Cohen 1968); a constant agrees by chance alone.
    """
    one, two = predictions.astype(np.float64), gold.astype(np.float64)
    by_chance = one.var() + two.var() + (one.mean() - two.mean()) ** 2
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0  # of two equal constants 0 / 0
    return float(1 - np.mean((one - two) ** 2) / by_chance)


def micro_f1(predictions: Values, gold: Values) -> float:
    """Return F1 over all N C decisions together; 0 where no label is predicted or present."""
    return float(_f1_of_counts(predictions.ravel(), gold.ravel()))


def macro_f1(predictions: Values, gold: Values) -> float:
    """Return the mean of the labels' F1; 0 for a label that is neither predicted nor present, as scikit-learn has it.

    So a dev split without one of C labels has no score above 1 - 1 / C.
    """
    return float(np.mean(_f1_of_counts(predictions, gold)))


def exact_match(predictions: Values, gold: Values) -> float:
    """Return the share of rows with all labels right and no other."""
    return float(np.mean((predictions == gold).all(axis=-1)))


def _f1_of_counts(predictions: Values, gold: Values) -> NDArray[np.float64]:
    """Return 2 TP / (2 TP + FP + FN) along the first axis, 0 for 0 / 0."""
    right = np.logical_and(predictions, gold).sum(axis=0)
    return 2 * right / np.maximum(predictions.sum(axis=0) + gold.sum(axis=0), 1)


def _correlation(one: Values, two: Values) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(stats.pearsonr(one, two).statistic)


def _tensors(predictions: Values, gold: Values) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(predictions)), torch.from_numpy(np.ascontiguousarray(gold))


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "micro_f1": micro_f1,
    "pearson": pearson,
    "quadratic_kappa": quadratic_kappa,
    "spearman": spearman,
}
REGRESSION = ("spearman", "pearson")
SETS = tuple(metric.value for metric in data_config.SETS)
BESIDE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(REGRESSION, REGRESSION),
    **dict.fromkeys(SETS, SETS),
    "quadratic_kappa": ("accuracy", "spearman"),
}  # accuracy where nothing is said


def scores(predictions: Values, gold: Values, metric: str, classes: int | None = None) -> dict[str, float]:
    """Return the task's own metric first, then what else is commonly read beside it (F1 for two ``classes``).

    >>> scores(np.array([0, 1, 1]), np.array([0, 1, 0]), "matthews")
    {'matthews': 0.5, 'accuracy': 0.6666666666666666}
    """
    names = [metric, *BESIDE.get(metric, ("accuracy",))]
    if metric == "accuracy" and (classes or int(max(predictions.max(), gold.max())) + 1) == 2:
        names.append("f1")
    return {name: METRICS[name](predictions, gold) for name in dict.fromkeys(names)}


def majority(gold: Values, metric: str) -> float:
    """Return the score of always predicting the commonest class; 0 for correlations and kappa.

    Of multi-label tasks, that of always predicting the one set of labels that scores best.
    """
    if metric in SETS:
        return METRICS[metric](np.broadcast_to(_best_set(gold, metric), gold.shape), gold)
    if metric not in ("accuracy", "f1"):
        return 0.0
    values, counts = np.unique(gold, return_counts=True)
    return METRICS[metric](np.full_like(gold, values[counts.argmax()]), gold)


def _best_set(gold: Values, metric: str) -> Values:
    """Return the labels ``[C]``, 0 or 1, that score best if they are predicted for every row."""
    if metric == "exact_match":
        sets, counts = np.unique(gold, axis=0, return_counts=True)
        return sets[counts.argmax()]
    if metric == "macro_f1":  # each label for itself: any F1 is better than none
        return np.ones_like(gold[0])
    there = gold.sum(axis=0)
    often = np.argsort(-there, kind="stable")
    said = len(gold) * np.arange(1, len(there) + 1)
    size = np.argmax(np.cumsum(there[often]) / (said + there.sum())) + 1  # the best set of any size: the commonest
    best = np.zeros_like(gold[0])
    best[often[:size]] = 1
    return best
