"""Task metrics as ``torchmetrics.Metric``: gather predictions over ranks, then compute with SciPy or scikit-learn.

torchmetrics' own formulas differ from these on tied and constant predictions; see ``scores``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bam_lightning.config.data_config import metric_input, metric_name
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice
from bam_lightning.metrics.own_metric import build_metric
from bam_lightning.metrics.scores import METRICS, WORD_METRICS, points, row_counts


class TaskMetric(Metric):
    """Score the predictions of one task over a whole split, as a fraction.

    Every rank must call ``update`` at least once before ``compute``. A rank without rows passes empty tensors of the
    same dtype and the same number of columns as the other ranks.

    Args:
        metric: A key of ``METRICS``, such as ``"accuracy"``, or a ``_target_`` form; see ``own_metric``.
        n_classes: Number of classes or labels, for the size check of ``f1``; None for regression.
        label_names: Names of the tags, for metrics of spans of tags.

    Raises:
        ConfigError: If the metric is unknown, or is F1 of a task that does not have two classes.

    >>> import torch
    >>> metric = TaskMetric("matthews", n_classes=2)
    >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    >>> metric.update(torch.tensor([1]), torch.tensor([0]))
    >>> round(metric.compute(), 6)
    0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    predictions: list[Tensor]
    labels: list[Tensor]

    def __init__(self, metric: Any, n_classes: int | None = None, label_names: Sequence[str] = ()) -> None:
        if isinstance(metric, str):
            check_choice("metric", metric, sorted(METRICS))
        else:
            build_metric("metric", metric)
        if metric == "f1" and n_classes not in (None, 2):
            raise ConfigError(f"metric: f1 needs two classes, but the task has {n_classes}; use accuracy or matthews")
        super().__init__()
        self.metric, self.metric_name = metric, metric_name(metric)
        self.n_classes, self.label_names = n_classes, tuple(label_names)
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(
        self,
        predictions: Tensor,
        labels: Tensor,
        offsets: Tensor | None = None,
        references: Sequence[Any] | None = None,
    ) -> None:
        """Add one batch of n rows.

        Args:
            predictions: Class ids or values in label units ``[n]``; for multi-label metrics 0 and 1, ``[n, C]``; tags
                ``[m]`` of words; first and last words of answers ``[n, 2]``.
            labels: Gold labels of the same shape.
            offsets: ``[n + 1]``: row i has the words from ``offsets[i]`` to ``offsets[i + 1]``.
            references: What answers are compared with; see ``metrics.words``.

        Raises:
            ValueError: If the shapes differ.
        """
        if predictions.shape != labels.shape and metric_input(self.metric) == "labels":
            raise ValueError(
                f"metric {self.metric_name}: predictions have shape {list(predictions.shape)}, "
                f"labels {list(labels.shape)}; they must be equal"
            )
        if self.metric_name in WORD_METRICS:
            counts = row_counts(
                self.metric_name,
                _on_cpu(predictions).numpy(),
                _on_cpu(labels).numpy(),
                None if offsets is None else _on_cpu(offsets).numpy(),
                self.label_names,
                references,
            )
            predictions = labels = torch.from_numpy(counts).to(predictions.device)
        self.predictions.append(predictions.detach())
        self.labels.append(labels.detach())

    def compute(self) -> float:
        """Return the score of all rows, of all ranks; NaN if there are none."""
        if not len(self.predictions):
            return math.nan
        predictions, labels = dim_zero_cat(self.predictions), dim_zero_cat(self.labels)  # after a sync: tensors already
        if not len(labels):
            return math.nan
        return points(_on_cpu(predictions).numpy(), _on_cpu(labels).numpy(), self.metric) / 100


def _on_cpu(values: Tensor) -> Tensor:
    """Return ``values`` on the CPU, in a dtype that NumPy has: bfloat16 and float16 become float64."""
    return values.cpu().double() if values.is_floating_point() else values.cpu()
