"""Teachers of a recipe: read those from outside, and reject those that are not better than a constant prediction.

Fine-tuning on a small data set sometimes collapses to one class, and a student would learn that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bam_lightning.config.job_config import Config
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.data.examples import TaskExamples
from bam_lightning.data.teacher_columns import Column, check_covered, read_column
from bam_lightning.store.run_spec import Run
from bam_lightning.store.run_store import Store


def load_columns(config: Config, rows: Mapping[str, TaskExamples]) -> dict[tuple[str, int], Column]:
    """Return (task, place in ``teachers.TASK``) -> predictions of a teacher from outside that is no Run.

    Raises:
        DataError: If a file does not fit the rows, or no member of an ensemble covers a row.
    """
    columns: dict[tuple[str, int], Column] = {}
    for task, value in config.teachers.items():
        sources, examples = teacher_sources(f"teachers.{task}", value), rows[task]
        for place, source in enumerate(sources):
            if source.is_file:
                column = read_column(task, examples.task, examples.train, source, alone=len(sources) == 1)
            elif source.is_run:
                continue
            else:
                from bam_lightning.training.datamodule import teacher_logits

                logits = teacher_logits(task, source.path, examples.train, Path(config.paths.cache))
                note = f"teacher of {task!r}, {source.path}: predicted {len(logits):,} training rows"
                column = Column("logits", logits, notes=(note,))
            columns[task, place] = column
        members = [columns[key].covered for key in columns if key[0] == task]
        if len(members) == len(sources) and all(mask is not None for mask in members):
            covered = np.any(np.stack([mask for mask in members if mask is not None]), axis=0)
            check_covered(task, None if covered.all() else covered, [source.missing for source in sources])
    return columns


def digests(config: Config, columns: Mapping[tuple[str, int], Column]) -> dict[str, tuple[str, ...]]:
    """Return task -> the digest of each of its teachers from outside; that of a Run is empty."""
    found = {}
    for task, value in config.teachers.items():
        places = [(task, place) for place in range(len(teacher_sources(f"teachers.{task}", value)))]
        found[task] = tuple(columns[place].digest if place in columns else "" for place in places)
    return found


def by_digest(columns: Mapping[tuple[str, int], Column]) -> dict[str, Column]:
    """Return digest -> predictions."""
    return {column.digest: column for column in columns.values()}


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
