"""Teachers of a recipe: read those from outside, and reject those that are not better than a constant prediction.

Fine-tuning on a small data set sometimes collapses to one class, and a student would learn that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bam_lightning.config.exceptions import DataError
from bam_lightning.config.job_config import Config
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.data.examples import TaskExamples
from bam_lightning.data.teacher_columns import WORDS, Column, check_covered
from bam_lightning.store.run_spec import COLUMN, Run
from bam_lightning.store.run_store import Store


def load_columns(task: str, config: Config, examples: TaskExamples) -> tuple[Column | None, ...]:
    """Return the predictions of each of ``teachers.TASK`` on the training rows; ``None`` for a Run.

    Raises:
        DataError: If a file does not fit the rows, or no member of an ensemble covers a row.
    """
    sources = teacher_sources(f"teachers.{task}", config.teachers[task])
    if examples.task.kind in WORDS and len({source.weight for source in sources}) > 1:
        raise DataError(f"teachers of the words of {task!r} count equally; leave out their weights")
    columns: list[Column | None] = []
    for source in sources:
        if source.is_run:
            columns.append(None)
        elif source.is_file:
            from bam_lightning.training.distillation import read_teacher

            columns.append(read_teacher(task, examples, source, alone=len(sources) == 1))
        else:
            from bam_lightning.training.datamodule import teacher_logits

            logits = teacher_logits(task, source.path, examples, Path(config.paths.cache))
            note = f"teacher of {task!r}, {source.path}: predicted {len(logits):,} training rows"
            columns.append(Column("logits", logits, notes=(note,)))
    masks = [column.covered for column in columns if column is not None and column.covered is not None]
    if len(masks) == len(columns):
        covered = np.any(np.stack(masks), axis=0)
        check_covered(task, None if covered.all() else covered, [source.missing for source in sources])
    return tuple(columns)


def notes(rows: Mapping[str, TaskExamples]) -> list[str]:
    """Return what is to be said of teachers from outside."""
    return [note for examples in rows.values() for column in examples.teachers if column for note in column.notes]


def column_named(name: str, examples: TaskExamples) -> Column:
    """Return the predictions that ``column:DIGEST`` stands for."""
    return next(column for column in examples.teachers if column and f"{COLUMN}{column.digest}" == name)


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
    from bam_lightning.data.outcomes import majority_score

    manifest = store.manifest(run_id)
    for task in tasks:
        settings = config.suite.tasks[task]
        metric = settings.metric_name
        score = manifest["metrics"].get(task, {}).get(metric)
        if score is None or not settings.in_average:
            continue
        base = majority_score(settings.metric, rows[task].dev, settings.head.label_names)
        if not score > base + margin:
            least = f"{base:.3f}" + (f" + {margin:g}" if margin else "")
            return (
                f"Run {run_id} ({name}) is not fit to teach {task!r}: after {manifest['steps']:,} steps its dev "
                f"{metric} is {score:.3f}, not above {least}, that of giving every row the commonest answer"
            )
    return None
