"""Predict with a Run: dev rows for its scores, training rows for its students, test rows for a submission.

Logits are computed once, in eval mode, and stored by row content. N rows, K outputs of a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.job_config import Config
from bam_lightning.data.collate import Examples
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.outcomes import compare
from bam_lightning.metrics import scores
from bam_lightning.models.heads import build_head, decode
from bam_lightning.recipes.context import Context
from bam_lightning.store.run_spec import DEV, PredictionRequest, Run
from bam_lightning.store.run_store import load_logits
from bam_lightning.training.datamodule import ExamplesDataModule, logits_in_order, whole_prediction
from bam_lightning.training.module import BamModule


def predict_logits(module: BamModule, trainer: Any, examples: Examples, head: str) -> Any:
    """Return the logits of ``head`` in the order of the examples; see ``logits_in_order``. The ranks share the rows."""
    data = ExamplesDataModule({}, predict={head: examples})
    with whole_prediction(trainer):
        parts: list[Any] = trainer.predict(module, datamodule=data) or []
    return logits_in_order(parts, head, examples)


def write_predictions(
    run_id: str, requests: Sequence[PredictionRequest], context: Context, logits_of: Callable[[TaskSplit, str], Any]
) -> None:
    """Predict the rows of all requests and store the logits.

    ``logits_of(rows, head)`` is called on every rank; rank 0 writes.
    """
    for request in requests:
        rows = context.rows_of(request)
        logits = logits_of(rows, request.head)
        if context.is_rank_zero:
            context.store.write_predictions(run_id, request.task, request.split, rows.keys, logits)


def score_run(run: Run, context: Context) -> dict[str, dict[str, float]]:
    """Return task -> dev scores, computed from the stored logits."""
    results = {}
    for task in run.tasks:
        rows = context.rows[task].dev
        logits = load_logits(context.store, run.id, task, DEV, rows.keys, rows.texts)
        settings = context.config.suite.tasks[task]
        names, found = settings.head.label_names, dict[str, float]()
        for metric in settings.metrics:
            values = compare(metric, decode_logits(task, logits, context.config, metric), rows, names)
            found = {**scores.scores(*values, metric, len(names) or None), **found}
        results[task] = {settings.metric_name: found[settings.metric_name], **found}
    return results


def decode_logits(task: str, logits: Any, config: Config, metric: Any = "") -> NDArray[np.generic]:
    """Return predictions of a task's logits as a metric compares them with gold; see ``models.heads.decode``."""
    head = build_head(f"suite.tasks.{task}.head", 1, config.suite.tasks[task].head.arguments())
    return decode(head, logits, metric)
