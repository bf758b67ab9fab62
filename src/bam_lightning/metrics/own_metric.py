"""Metrics from elsewhere: any ``torchmetrics.Metric`` by its ``_target_`` form. N rows, C label names.

The form may have two keys of ours beside ``_target_`` and its arguments: ``name``, under which the score is kept, and
``input``, which says what it compares with gold: ``labels`` (predicted class ids, values or label sets),
``probabilities`` ``[N, C]``, or ``positive``, the probability ``[N]`` of the second of two classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.instantiate import instantiate

Values = NDArray[np.generic]


def build_metric(key: str, metric: Mapping[str, Any], headline: bool = False) -> Metric:
    """Build the metric of a ``_target_`` form.

    Raises:
        ConfigError: If it cannot be built, or is the headline and not higher for better predictions.
    """
    form = {name: value for name, value in metric.items() if name not in ("name", "input")}
    built: Metric = instantiate(key, form, Metric)
    if headline and built.higher_is_better is False:
        raise ConfigError(
            f"{key}: {metric['_target_']} is lower for better predictions, but teachers and students are compared by "
            "the headline metric; give it as one of secondary_metrics"
        )
    return built


def own_score(metric: Mapping[str, Any], predictions: Values, gold: Values) -> float:
    """Return the score of N predictions, in the form that ``input`` asks for.

    >>> form = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 2, "average": "micro"}
    >>> own_score(form, np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    built = build_metric("metric", metric)
    try:
        built.update(*(torch.from_numpy(np.array(values)) for values in (predictions, gold)))
        value = built.compute()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"metric {metric['_target_']} cannot compare predictions {list(predictions.shape)} with gold "
            f"{list(gold.shape)}: {reason}"
        ) from error
    if not isinstance(value, (int, float)) and getattr(value, "numel", lambda: 0)() != 1:
        shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ConfigError(f"metric {metric['_target_']} must compute one number, got {shape}; give it an average")
    return float(value)


def own_majority(metric: Mapping[str, Any], gold: Values, n_classes: int) -> float:
    """Return the score of one answer for all rows: the commonest class or label set, the mean value, or the classes'
    shares; 0 if it has none."""
    given, answer = metric.get("input", "labels"), gold.mean(axis=0)
    if given == "labels" and gold.ndim == 1 and n_classes:
        answer = np.bincount(gold.astype(np.int64)).argmax()
    elif given == "labels" and gold.ndim == 2:
        answer = answer > 0.5
    elif gold.ndim == 1 and given == "probabilities":
        answer = np.bincount(gold.astype(np.int64), minlength=n_classes) / len(gold)
    kind = np.float32 if given != "labels" else gold.dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant has no correlation
        score = own_score(metric, np.broadcast_to(answer, (len(gold), *answer.shape)).astype(kind), gold)
    return 0.0 if math.isnan(score) else score
