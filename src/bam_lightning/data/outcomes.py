"""Predictions and gold of a split in the form that metrics compare: as they are, or what words count in each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.items import answer_spans, answers_of
from bam_lightning.metrics.scores import WORD_METRICS, majority, row_counts, scores
from bam_lightning.store.ragged import Ragged


def compare(
    metric: Any, predictions: NDArray[Any], split: TaskSplit, label_names: Sequence[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predictions and gold as ``metrics.scores.scores`` takes them, one entry for each of N rows.

    Args:
        metric: Of the task.
        predictions: What ``models.heads.decode`` returns for the whole split: ``[N]``, ``[N, C]``, tags ``[M]`` or
            first and last words ``[N, 2]``.
        split: The rows.
        label_names: Of the task.
    """
    if metric not in WORD_METRICS:
        return predictions, split.labels
    references = answers_of(split) if split.layout.kind == "span" else None
    counts = row_counts(metric, predictions, split.labels.values, split.labels.offsets, label_names, references)
    return counts, counts


def majority_score(metric: Any, split: TaskSplit, label_names: Sequence[str] = ()) -> float:
    """Return the score of predicting the commonest label for every row: the commonest tag, or place of an answer."""
    if not isinstance(metric, str):
        from bam_lightning.metrics.own_metric import own_majority

        return own_majority(metric, split.labels, len(label_names))
    if metric not in WORD_METRICS:
        return majority(split.labels, metric)
    if split.layout.kind == "span":
        spans, counts = np.unique(answer_spans(split), axis=0, return_counts=True)
        predictions = np.broadcast_to(spans[counts.argmax()], (len(split.keys), 2))
    else:
        assert isinstance(split.labels, Ragged)
        tags = split.labels.values
        predictions = np.full_like(tags, np.bincount(tags[tags >= 0]).argmax())
    return scores(*compare(metric, predictions, split, label_names), metric)[metric]
