"""Make the manifest of a finished Run: what it is, its scores, and the versions and hardware behind them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import torch

from bam_lightning.config.data_config import TaskConfig, label_columns
from bam_lightning.config.job_config import Config
from bam_lightning.models import hardware
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.teachers import column_named
from bam_lightning.store.provenance import versions
from bam_lightning.store.run_spec import COLUMN, Run
from bam_lightning.training import distributed


def make_manifest(
    run: Run, context: Context, seconds: float, tokens: int, scores: dict[str, dict[str, float]], parameters: int
) -> dict[str, Any]:
    """Return the manifest of a finished Run.

    Args:
        seconds: Wall time of training.
        tokens: Real tokens trained on, padding left out.
        scores: Task -> metric -> dev score, as a fraction.
        parameters: Number of weights.
    """
    config = context.config
    return {
        "id": run.id,
        "stage": run.stage,
        "kind": run.kind.value,
        "tasks": list(run.tasks),
        "seed": run.seed,
        "steps": run.steps,
        "examples": run.examples,
        "train_seconds": seconds,
        "examples_per_second": run.examples / seconds,
        "tokens_per_second": tokens / seconds,
        "metrics": scores,
        "reads": {task: _reads(config.suite.tasks[task]) for task in run.tasks},
        "teachers": run.teacher_ids,
        "teacher_notes": [note for task in run.teachers for note in _describe_teachers(run, task, context)],
        "encoder": config.encoder.name,
        "parameters": parameters,
        "init_from": run.init_from,
        "spec": dict(run.spec),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        **conditions(config),
    }


def conditions(config: Config) -> dict[str, Any]:
    """Return what may make the same Run come out otherwise, by rounding: hardware, processes and versions."""
    return {
        "device": hardware.device_name(config.trainer),
        "device_kind": "cuda" if hardware.on_gpu(config.trainer) else "cpu",
        "precision": hardware.precision(config.trainer),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "versions": versions(),
    }


def _describe_teachers(run: Run, task: str, context: Context) -> Iterator[str]:
    """Yield what is to be said of each teacher of a task: where it came from, its size and its cost."""
    for name in run.teachers[task]:
        if name.startswith(COLUMN):
            yield from column_named(name, context.rows[task]).notes
            continue
        teacher = context.store.manifest(name)
        if "parameters" in teacher:
            yield (
                f"teacher of {task!r}, Run {name}: encoder {teacher['encoder']}, {teacher['parameters']:,} parameters, "
                f"trained in {teacher['train_seconds']:.0f} s"
            )


def _reads(task: TaskConfig) -> dict[str, Any]:
    """Return what prediction on new rows needs and the Run's id does not cover."""
    more = {name: value for name, value in (("choices", task.choices), ("kind", task.kind)) if value}
    more |= label_columns(task.label, task.annotators, task.label_separator)
    return {"text": task.text, "allow_empty_text": task.allow_empty_text, **more}
