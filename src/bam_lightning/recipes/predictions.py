"""Predict with a Run: dev rows for its scores, training rows for its students, test rows for a submission.

Logits are computed once, in eval mode, and stored by row content. N rows, K outputs of a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.job_config import Config
from bam_lightning.data.collate import Examples
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.outcomes import compare
from bam_lightning.metrics import scores
from bam_lightning.metrics.report import DRAWS, paired_bootstrap
from bam_lightning.metrics.scores import points
from bam_lightning.metrics.significance import LEVEL, mcnemar
from bam_lightning.models.heads import build_head, decode
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.planner import required_predictions
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


def requests_of(run: Run, context: Context) -> list[PredictionRequest]:
    """Return what a Run is to predict once it is trained: what the recipe needs, and what its heads only score."""
    heads = {name: context.config.suite.tasks[name].head_of for name in context.scored}
    scored = [PredictionRequest(name, head, DEV) for name, head in heads.items() if head in run.tasks]
    return [*required_predictions(run, context.config), *scored]


def score_run(run: Run, context: Context) -> dict[str, dict[str, float]]:
    """Return task -> dev scores, computed from the stored logits."""
    results = {}
    for request in requests_of(run, context):
        if request.split != DEV:
            continue
        task, head, rows = request.task, request.head, context.rows_of(request)
        logits = load_logits(context.store, run.id, task, DEV, rows.keys, rows.texts)
        settings = context.config.suite.tasks[head]
        names, found = settings.head.label_names, dict[str, float]()
        for metric in settings.metrics:
            values = compare(metric, decode_logits(head, logits, context.config, metric), rows, names)
            found = {**scores.scores(*values, metric, len(names) or None), **found}
        results[task] = {settings.metric_name: found[settings.metric_name], **found}
    return results


def differences_over_rows(run: Run, context: Context) -> dict[str, str]:
    """Return task -> how far a Run is from its teacher on the dev rows, and whether another set of rows may differ.

    Only tasks with one teacher that is a Run and has predicted the dev rows. See ``describe_difference``.
    """
    found = {}
    for task, teachers in run.teachers.items():
        rows = context.rows[task].dev
        ids = [run.id, *teachers]
        if len(ids) != 2 or not all(context.store.has_predictions(run_id, task, DEV, rows.keys) for run_id in ids):
            continue
        settings = context.config.suite.tasks[task]
        metric, names = settings.metric, settings.head.label_names
        if not isinstance(metric, str):
            continue  # a thousand draws of a torchmetrics class take long
        logits = [load_logits(context.store, run_id, task, DEV, rows.keys, rows.texts) for run_id in ids]
        student, teacher = (
            compare(metric, decode_logits(task, values, context.config, metric), rows, names) for values in logits
        )
        found[task] = describe_difference(metric, teacher[0], *student)
    return found


def describe_difference(metric: str, first: NDArray[Any], second: NDArray[Any], gold: NDArray[Any]) -> str:
    """Return how far ``second`` is from ``first`` over N rows: McNemar's test of accuracies, else a paired bootstrap.

    >>> right = np.zeros(56)
    >>> describe_difference("accuracy", right, np.where(np.arange(56) < 1, 1, right), right)
    '-1 of 56 rows: within noise'
    """
    if metric == "accuracy" and gold.ndim == 1:
        fixed, broken = int(np.sum((first != gold) & (second == gold))), int(np.sum((first == gold) & (second != gold)))
        p_value = mcnemar(fixed, broken)
        verdict = f"p = {p_value:.2g}" if p_value < LEVEL else "within noise"
        return f"{fixed - broken:+d} of {len(gold):,} rows: {verdict}"
    differences = paired_bootstrap(partial(points, metric=metric), first, second, gold, DRAWS)
    low, high = np.quantile(differences, [0.025, 0.975])
    return f"{low:+.1f} to {high:+.1f}: {'within noise' if low <= 0 <= high else 'p < .05'}"


def decode_logits(task: str, logits: Any, config: Config, metric: Any = "") -> NDArray[np.generic]:
    """Return predictions of a task's logits as a metric compares them with gold; see ``models.heads.decode``."""
    head = build_head(f"suite.tasks.{task}.head", 1, config.suite.tasks[task].head.arguments())
    return decode(head, logits, metric)
