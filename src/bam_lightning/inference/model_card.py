"""Write the model card: what a saved model does, its scores and its provenance, as Markdown for the hub."""

from __future__ import annotations

import math
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bam_lightning.config.escaping import markdown
from bam_lightning.inference.model_info import ModelInfo, TaskInfo
from bam_lightning.models.safe_loading import shapes
from bam_lightning.store.job_records import FINISHED, JobRecord, read_records
from bam_lightning.store.run_dir import WEIGHTS
from bam_lightning.store.run_store import Store

NAME = "README.md"
HEADER = """---
library_name: bam-lightning
pipeline_tag: text-classification
tags: [multi-task, knowledge-distillation, teacher-annealing]
---
"""
USAGE = """## Usage

```python
import bam_lightning as bam

model = bam.load(".")  # this folder, or its hub id
for prediction in model.predict([{row}], task="{task}"):
    print(prediction.label, prediction.probabilities)
```

`task="all"` predicts every task that reads this number of texts, in one pass of the encoder. This folder holds no code.
"""


def make_card(info: ModelInfo) -> str:
    """Return the model card. For a Run in its store, the card includes the scores of the other seeds.

    A model that was saved elsewhere keeps the card in its folder.
    """
    existing = info.run.path / NAME
    if existing.is_file():
        return existing.read_text(encoding="utf-8")
    job, manifests = _provenance(info)
    first = next(iter(info.tasks.values()))
    texts = ", ".join(['"..."'] * len(first.columns))
    row = texts if len(first.columns) == 1 else f"({texts})"
    sections = [
        HEADER + f"# {info.manifest['stage']} model of {len(info.tasks)} tasks",
        f"One text encoder with {len(info.tasks)} heads, trained by bam_lightning (after BAM!, Clark et al. 2019).",
        USAGE.format(row=row, task=first.name).strip(),
        "## Tasks\n\n" + _task_table(info.tasks, manifests),
        *(["## Calibration\n\n" + "\n".join(_calibration_lines(info))] if info.calibration else []),
        "## Training\n\n"
        + "\n".join(f"- {line}" for line in [_parameters(info), *_training_facts(info.manifest, job)]),
    ]
    return "\n\n".join(sections) + "\n"


def _provenance(info: ModelInfo) -> tuple[JobRecord | None, list[Mapping[str, Any]]]:
    """Return the job that trained the model, and the manifests of the same model for all seeds, including its own."""
    folder = info.run.path
    if folder.parent.name != "runs":
        return None, [info.manifest]
    store = Store(folder.parents[1], create=False)
    jobs = [job for job in read_records(store) if job.state == FINISHED]
    trained_by = next((job for job in jobs if info.id in job.runs), None)
    if trained_by is None:
        return None, [info.manifest]
    settings = (trained_by.settings, trained_by.data, trained_by.experiment)
    same_settings = [job for job in jobs if (job.settings, job.data, job.experiment) == settings]
    stage, tasks = info.manifest["stage"], info.manifest["tasks"]
    run_ids = dict.fromkeys(run_id for job in same_settings for run_id in job.stages.get(stage, ()))
    manifests = [store.manifest(run_id) for run_id in run_ids if store.finished(run_id)]
    return trained_by, [manifest for manifest in manifests if manifest["tasks"] == tasks]


def _task_table(tasks: Mapping[str, TaskInfo], manifests: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| task | columns | labels | metric | dev score x 100 | all seeds: n, median (min to max) |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks.values():
        several = "any of " if task.kind == "multi_label" else ""
        span = "a number from {:g} to {:g}".format(*task.label_range) if task.label_range else "text of the context"
        labels = several + ", ".join(task.label_names) or span
        score = task.scores.get(task.metric)
        seeds = [
            100 * manifest["metrics"][task.name][task.metric]
            for manifest in manifests
            if task.name in manifest["metrics"]
        ]
        spread = f"{len(seeds)}, {statistics.median(seeds):.1f} ({min(seeds):.1f} to {max(seeds):.1f})" if seeds else ""
        dev = "" if score is None else f"{100 * score:.1f}"
        cells = [task.name, " + ".join(task.columns), labels, task.metric, dev, spread]
        lines.append("| " + " | ".join(markdown(text) for text in cells) + " |")
    return "\n".join(lines)


def _calibration_lines(info: ModelInfo) -> list[str]:
    lines = []
    for name, task in info.calibration.items():
        line = f"- {name}: temperature {task.temperature:.3f}, fitted on {task.rows:,} rows"
        if task.before and task.after:
            errors = [scores["expected_calibration_error"] for scores in (task.before, task.after)]
            line += "; expected calibration error {:.3f} before, {:.3f} after".format(*errors)
        line += f"; {task.note}" if task.note else ""
        shown = ", ".join(
            f"{markdown(label)} {'never' if least is None else f'{least:.3f}'}"
            for label, least in task.thresholds.items()
        )
        lines.append(line + (f"; thresholds for {task.target}: {shown}" if shown else ""))
    return lines


def _parameters(info: ModelInfo) -> str:
    """Return the number of saved parameters, and the share that belongs to a single task (section 3.1)."""
    sizes = {name: math.prod(shape) for name, shape in shapes(info.run.file(WEIGHTS)).items()}
    total = sum(sizes.values())
    heads = sum(size for name, size in sizes.items() if name.startswith("heads."))
    return f"{total:,} parameters saved, of which {heads:,} ({100 * heads / total:.3g} %) are task-specific: the heads"


def _training_facts(manifest: Mapping[str, Any], job: JobRecord | None) -> list[str]:
    spec = manifest["spec"]
    versions = "versions: " + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    if "steps" not in manifest:  # saved by BamModule.save_pretrained: not a Run of a recipe
        return [f"texts cut to {spec['max_length']} tokens", versions]
    teachers = manifest.get("teachers") or {}
    lines = [
        f"Run {manifest['id']}, stage {manifest['stage']}, seed {manifest['seed']}: {manifest['examples']:,} examples "
        f"in {manifest['steps']:,} optimizer steps of {spec['batch_size']}, {manifest['train_seconds']:.0f} s on "
        f"{manifest['device']}",
        f"texts truncated to {spec['max_length']} tokens; learning rate {spec['learning_rate']:g}, layer-wise decay "
        f"{spec['layerwise_decay']:g}",
        "data fingerprints: " + ", ".join(f"{task} {settings['data']}" for task, settings in spec["tasks"].items()),
        "teachers: " + (", ".join(f"{task} from {run}" for task, run in teachers.items()) or "none, gold labels only"),
        *map(markdown, manifest.get("teacher_notes") or ()),
        versions,
    ]
    if job is not None:
        lines.append(f"encoder: {job.encoder.split()[0]}")
        lines.append(f"command: `{shlex.join(['python', '-m', 'bam_lightning.train', *_words(job)])}`")
    return lines


def _words(job: JobRecord) -> list[str]:
    """Return the command line of the job that trained the model; without Hydra's record, the main settings."""
    record = Path(job.output) / ".hydra" / "hydra.yaml"
    if not record.is_file():
        return [f"+experiment={job.experiment}", f"scale={job.scale}", f"seed={job.seed}"]
    hydra = yaml.safe_load(record.read_text(encoding="utf-8"))["hydra"]
    folders = [source["path"] for source in hydra["runtime"]["config_sources"] if source["provider"] == "command-line"]
    return [
        *(word for folder in folders for word in ("--config-dir", os.path.relpath(folder, hydra["runtime"]["cwd"]))),
        *(word for word in hydra["overrides"]["hydra"] if word.startswith("hydra.searchpath=")),
        *hydra["overrides"]["task"],
    ]
