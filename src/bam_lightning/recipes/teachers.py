"""Reject teachers that are not better than a constant prediction.

Fine-tuning on a small data set sometimes collapses to one class, and a student would learn that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bam_lightning.config.job_config import Config
from bam_lightning.data.examples import TaskExamples
from bam_lightning.store.run_spec import Run
from bam_lightning.store.run_store import Store


def rejected_teachers(
    runs: Sequence[Run], config: Config, rows: Mapping[str, TaskExamples], store: Store
) -> dict[str, str]:
    """Return id -> reason of the finished teachers that must not teach."""
    rejected = {}
    for run in runs:
        if run.teaches and store.finished(run.id):
            reason = rejection_reason(run.id, run.tasks, f"{run.label}, seed {run.seed}", config, rows, store)
            if reason:
                rejected[run.id] = reason
    return rejected


def rejection_reason(
    run_id: str, tasks: Sequence[str], name: str, config: Config, rows: Mapping[str, TaskExamples], store: Store
) -> str | None:
    """Return why a finished Run must not teach one of ``tasks``, or None.

    Its dev score must exceed that of the most frequent class by more than ``distillation.teacher_margin``. Tasks
    outside the average, such as WNLI, are not checked, since no method learns them.
    """
    margin = config.distillation.teacher_margin
    if margin is None:
        return None
    from bam_lightning.metrics.scores import majority

    for task in tasks:
        settings = config.suite.tasks[task]
        metric = settings.metric.value
        score = store.manifest(run_id)["metrics"].get(task, {}).get(metric)
        if score is None or not settings.in_average:
            continue
        base = majority(rows[task].dev.labels, metric)
        if not score > base + margin:
            least = f"{base:.3f}" + (f" + {margin:g}" if margin else "")
            return (
                f"Run {run_id} ({name}) is not fit to teach {task!r}: its dev {metric} is {score:.3f}, not above "
                f"{least}, that of giving every row the commonest answer"
            )
    return None
