"""Scores of predictions against gold labels, as fractions in [-1, 1] or [0, 1]. N rows, C labels.

The formulas are SciPy's and scikit-learn's, without their checks at each call, which are nine tenths of its time: a
bootstrap makes thousands. Multi-label metrics take 0 and 1, ``[N, C]``; metrics of words take what
``row_counts`` returns, as predictions and as gold; all others take class ids or values in label units, ``[N]``. A score
that is 0 / 0 is 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config import data_config
from bam_lightning.config.data_config import metric_name
from bam_lightning.metrics.words import answer_scores, tag_counts

Values = NDArray[np.generic]


def accuracy(predictions: Values, gold: Values) -> float:
    """Return the share of rows whose class id is right."""
    return float(np.mean(predictions == gold))


def matthews(predictions: Values, gold: Values) -> float:
    """Return Matthews' correlation coefficient; 0 if either side is constant (of C classes: Gorodkin 2004)."""
    predicted, present = _class_counts(predictions, gold)
    rows = float(len(gold))
    covariance = float(np.sum(predictions == gold)) * rows - float(predicted @ present)
    variances = (rows**2 - float(predicted @ predicted)) * (rows**2 - float(present @ present))
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def f1(predictions: Values, gold: Values) -> float:
    """Return F1 of class 1 of two; 0 if class 1 is neither predicted nor present."""
    return float(_label_f1(predictions, gold))


def spearman(predictions: Values, gold: Values) -> float:
    """Return Spearman's rank correlation with averaged ties; 0 if either side is constant."""
    return _correlate(_ranks(predictions), _ranks(gold))


def pearson(predictions: Values, gold: Values) -> float:
    """Return Pearson's correlation; 0 if either side is constant."""
    return _correlate(predictions.astype(np.float64), gold.astype(np.float64))


def quadratic_kappa(predictions: Values, gold: Values) -> float:
    """Return Cohen's kappa of class ids, weighted by squared distance; 0 if either side is constant (Cohen 1968)."""
    if _is_constant(predictions) or _is_constant(gold):
        return 0.0  # two equal constants are 0 / 0, and a constant agrees by chance alone
    predicted, present = _class_counts(predictions, gold)
    ids = np.arange(len(present))
    found = np.sum((predictions.astype(np.float64) - gold.astype(np.float64)) ** 2)
    chance = present @ np.subtract.outer(ids, ids) ** 2 @ predicted / len(gold)
    return float(1 - found / chance)


def micro_f1(predictions: Values, gold: Values) -> float:
    """Return F1 over all N * C decisions together; 0 if no label is predicted or present."""
    return f1(predictions, gold)


def macro_f1(predictions: Values, gold: Values) -> float:
    """Return the mean F1 of the C labels; a label that is neither predicted nor present counts as 0. Of class ids it is
    the mean over the classes that are predicted or present.

    If a dev split lacks one of C labels, no prediction scores above 1 - 1 / C.
    """
    if gold.ndim == 2:
        return float(_label_f1(predictions, gold, axis=0).mean())
    predicted, present = _class_counts(predictions, gold)
    right = np.bincount(gold[predictions == gold].astype(np.int64), minlength=len(present))
    return float(_f1(right, predicted, present)[predicted + present > 0].mean())


def exact_match(predictions: Values, gold: Values) -> float:
    """Return the share of rows whose C labels are all right."""
    return float(np.mean((predictions == gold).all(axis=-1)))


def span_f1(counts: Values, _: Values) -> float:
    """Return F1 of the spans of tags, over all rows together: a span counts if its words and its type are right."""
    return float(_f1(*counts[:, :3].sum(axis=0)))


def span_precision(counts: Values, _: Values) -> float:
    """Return the share of predicted spans that are right."""
    return float(counts[:, 0].sum() / max(counts[:, 1].sum(), 1))


def span_recall(counts: Values, _: Values) -> float:
    """Return the share of gold spans that were found."""
    return float(counts[:, 0].sum() / max(counts[:, 2].sum(), 1))


def tag_accuracy(counts: Values, _: Values) -> float:
    """Return the share of words whose tag is right."""
    return float(counts[:, 3].sum() / max(counts[:, 4].sum(), 1))


def squad_f1(counts: Values, _: Values) -> float:
    """Return the mean F1 of the words of predicted and right answers (Rajpurkar et al. 2016)."""
    return float(counts[:, 1].mean())


def squad_exact_match(counts: Values, _: Values) -> float:
    """Return the share of answers that equal a right one, but for case, punctuation and articles."""
    return float(counts[:, 0].mean())


def _ranks(values: Values) -> NDArray[np.float64]:
    if np.isnan(values.astype(np.float64)).any():
        return np.full(len(values), np.nan)  # as SciPy says it
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if _is_constant(first) or _is_constant(second):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _class_counts(predictions: Values, gold: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each of C class ids is predicted, and how often it is present: ``[C]`` each."""
    count = int(max(predictions.max(), gold.max())) + 1
    predicted, present = (np.bincount(ids.astype(np.int64), minlength=count) for ids in (predictions, gold))
    return predicted.astype(np.float64), present.astype(np.float64)


def _label_f1(predictions: Values, gold: Values, axis: int | None = None) -> NDArray[np.float64]:
    """Return F1 of the decisions for 1, over all of them or along an axis."""
    flags = (predictions == 1) & (gold == 1), predictions == 1, gold == 1
    return _f1(*(one.sum(axis=axis) for one in flags))


def _f1(right: Any, predicted: Any, present: Any) -> NDArray[np.float64]:
    """Return F1 from counts of one label or ``[C]``: 0 where it is neither predicted nor present."""
    return np.asarray(2 * right / np.maximum(predicted + present, 1), dtype=np.float64)


def _is_constant(values: Values) -> bool:
    return bool(np.ptp(values) == 0)


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "micro_f1": micro_f1,
    "pearson": pearson,
    "quadratic_kappa": quadratic_kappa,
    "span_f1": span_f1,
    "span_precision": span_precision,
    "span_recall": span_recall,
    "spearman": spearman,
    "squad_exact_match": squad_exact_match,
    "squad_f1": squad_f1,
    "tag_accuracy": tag_accuracy,
}
REGRESSION = ("spearman", "pearson")
MULTI_LABEL = tuple(metric.value for metric in data_config.SETS)
TAGS = tuple(metric.value for metric in data_config.TAGS)
ANSWERS = tuple(metric.value for metric in data_config.ANSWERS)
WORD_METRICS = (*TAGS, *ANSWERS)
SECONDARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(REGRESSION, REGRESSION),
    **dict.fromkeys(MULTI_LABEL, MULTI_LABEL),
    "quadratic_kappa": ("accuracy", "spearman"),
    **dict.fromkeys(TAGS, ("span_f1", "span_precision", "span_recall", "tag_accuracy")),
    **dict.fromkeys(ANSWERS, ANSWERS),
}  # headline metric -> metrics shown beside it; accuracy for those that are not listed


def row_counts(
    metric: str,
    predictions: NDArray[np.int64],
    gold: NDArray[np.int64],
    offsets: NDArray[np.int64] | None = None,
    label_names: Sequence[str] = (),
    references: Sequence[Any] | None = None,
) -> Values:
    """Return what a metric of words counts in each row: ``[N, 5]`` of tags, ``[N, 2]`` of answers; see ``words``.

    Args:
        metric: One of ``WORD_METRICS``.
        predictions: Tags ``[M]``, or first and last words ``[N, 2]``.
        gold: Tags ``[M]``.
        offsets: ``[N + 1]``: row i has the words from ``offsets[i]`` to ``offsets[i + 1]``.
        label_names: Names of the tags.
        references: What answers are compared with.
    """
    if metric in TAGS:
        assert offsets is not None
        return tag_counts(predictions, gold, offsets, label_names)
    assert references is not None
    return answer_scores(predictions, references)


def scores(predictions: Values, gold: Values, metric: Any, classes: int | None = None) -> dict[str, float]:
    """Return the headline metric first, then the secondary ones (F1 if accuracy has two ``classes``).

    A metric by its ``_target_`` form stands alone; see ``own_metric``.

    >>> scores(np.array([0, 1, 1]), np.array([0, 1, 0]), "matthews")
    {'matthews': 0.5, 'accuracy': 0.6666666666666666}
    """
    if not isinstance(metric, str):
        return {metric_name(metric): points(predictions, gold, metric) / 100}
    secondary = ("accuracy",) if metric == "macro_f1" and gold.ndim == 1 else SECONDARY.get(metric, ("accuracy",))
    names = [metric, *secondary]
    if metric == "accuracy" and (classes or int(max(predictions.max(), gold.max())) + 1) == 2:
        names.append("f1")
    return {name: METRICS[name](predictions, gold) for name in dict.fromkeys(names)}


def points(predictions: Values, gold: Values, metric: Any) -> float:
    """Return one metric x 100, without the secondary ones: what is called for each draw of a bootstrap.

    >>> points(np.array([0, 1, 1]), np.array([0, 1, 0]), "matthews")
    50.0
    """
    if not isinstance(metric, str):
        from bam_lightning.metrics.own_metric import own_score

        return 100 * own_score(metric, predictions, gold)
    return 100 * METRICS[metric](predictions, gold)


def majority(gold: Values, metric: str) -> float:
    """Return the score of predicting the most frequent class for every row; 0 for correlations and kappa.

    For multi-label metrics it is the best score of any label set predicted for every row.
    """
    if gold.ndim == 2:
        return METRICS[metric](np.broadcast_to(_best_label_set(gold, metric), gold.shape), gold)
    if metric not in ("accuracy", "f1", "macro_f1"):
        return 0.0
    values, counts = np.unique(gold, return_counts=True)
    return METRICS[metric](np.full_like(gold, values[counts.argmax()]), gold)


def _best_label_set(gold: Values, metric: str) -> Values:
    """Return the labels ``[C]``, 0 or 1, that score best if they are predicted for every row."""
    if metric == "exact_match":
        label_sets, counts = np.unique(gold, axis=0, return_counts=True)
        return label_sets[counts.argmax()]
    if metric == "macro_f1":  # the labels' F1 are independent, and any F1 is at least 0
        return np.ones_like(gold[0])
    frequency = gold.sum(axis=0)  # [C]
    by_frequency = np.argsort(-frequency, kind="stable")
    predicted = len(gold) * np.arange(1, len(frequency) + 1)  # decisions for 1 to C labels
    # The best set of k labels holds the k most frequent ones, so one k per size is enough.
    size = np.argmax(np.cumsum(frequency[by_frequency]) / (predicted + frequency.sum())) + 1
    best = np.zeros_like(gold[0])
    best[by_frequency[:size]] = 1
    return best
