"""Make the manifest of a finished Run: what it is, its scores, and the versions and hardware behind them."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from typing import Any

import torch

from bam_lightning.config.data_config import TaskConfig
from bam_lightning.models import hardware
from bam_lightning.recipes.context import Context
from bam_lightning.store.provenance import versions
from bam_lightning.store.run_spec import COLUMN, Run
from bam_lightning.training import distributed


def make_manifest(
    run: Run, context: Context, seconds: float, tokens: int, scores: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Return the manifest of a finished Run.

    Args:
        seconds: Wall time of training.
        tokens: Real tokens trained on, padding left out.
        scores: Task -> metric -> dev score, as a fraction.
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
        "teacher_notes": [
            note
            for names in run.teachers.values()
            for name in names
            if name.startswith(COLUMN)
            for note in context.columns[name.removeprefix(COLUMN)].notes
        ],
        "init_from": run.init_from,
        "spec": dict(run.spec),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "device": hardware.device_name(config.trainer),
        "device_kind": "cuda" if hardware.on_gpu(config.trainer) else "cpu",
        "precision": hardware.precision(config.trainer),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "versions": versions(),
    }


def _reads(task: TaskConfig) -> dict[str, Any]:
    """Return what prediction on new rows needs and the Run's id does not cover."""
    return {"text": task.text, "allow_empty_text": task.allow_empty_text}
