"""The model card: what a saved model can do, how well, and where it comes from, as Markdown that the hub reads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bam_lightning.config.data_config import SETS
from bam_lightning.inference.model_info import ModelInfo, TaskInfo
from bam_lightning.store.job_records import FINISHED, JobRecord, read_records
from bam_lightning.store.run_store import Store

NAME = "README.md"
HEADER = """---
library_name: bam-lightning
pipeline_tag: text-classification
tags: [multi-task, knowledge-distillation, teacher-annealing]
---
"""
USE = """## Use

```python
import bam_lightning as bam

model = bam.load("FOLDER")  # this folder, or its hub id
model.predict([{row}], task="{task}")
```

`task="all"` asks every head that reads as many texts, in one pass of the encoder. Nothing in this folder is code.
"""


def make_card(saved: ModelInfo) -> str:
    """Return the card; of a Run that still lies in its store, with the scores of its other seeds.

    A model that was carried elsewhere keeps the card it came with.
    """
    kept = saved.run.path / NAME
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    job, peers = _origin(saved)
    first = next(iter(saved.tasks.values()))
    row = '"..."' if len(first.columns) == 1 else '("...", "...")'
    parts = [
        HEADER + f"# {saved.manifest['stage']} model of {len(saved.tasks)} tasks",
        f"One text encoder with {len(saved.tasks)} heads, trained by bam_lightning (after BAM!, Clark et al. 2019).",
        USE.format(row=row, task=first.name).strip(),
        "## Tasks\n\n" + _tasks(saved.tasks, peers),
        "## Training\n\n" + "\n".join(f"- {line}" for line in _training(saved.manifest, job)),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(saved: ModelInfo) -> tuple[JobRecord | None, list[Mapping[str, Any]]]:
    """Return the job that trained the model, and the manifests of the same model from all seeds, its own included."""
    folder = saved.run.path
    if folder.parent.name != "runs":
        return None, [saved.manifest]
    store = Store(folder.parents[1], create=False)
    jobs = [job for job in read_records(store) if job.state == FINISHED]
    mine = next((job for job in jobs if saved.id in job.runs), None)
    if mine is None:
        return None, [saved.manifest]
    alike = [
        job for job in jobs if (job.settings, job.data, job.experiment) == (mine.settings, mine.data, mine.experiment)
    ]
    stage, tasks = saved.manifest["stage"], saved.manifest["tasks"]
    runs = dict.fromkeys(run_id for job in alike for run_id in job.stages.get(stage, ()))
    found = [store.manifest(run_id) for run_id in runs if store.finished(run_id)]
    return mine, [one for one in found if one["tasks"] == tasks]


def _tasks(tasks: Mapping[str, TaskInfo], peers: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| task | reads | answers | metric | dev score x 100 | all seeds: n, median (lowest to highest) |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks.values():
        several = "any of " if task.metric in [metric.value for metric in SETS] else ""
        answers = several + ", ".join(task.label_names) or "a number from {:g} to {:g}".format(*task.label_range)
        own = task.scores.get(task.metric)
        every = [100 * one["metrics"][task.name][task.metric] for one in peers if task.name in one["metrics"]]
        spread = f"{len(every)}, {statistics.median(every):.1f} ({min(every):.1f} to {max(every):.1f})" if every else ""
        cells = [task.name, " + ".join(task.columns), answers, task.metric, "" if own is None else f"{100 * own:.1f}"]
        lines.append("| " + " | ".join(_cell(text) for text in [*cells, spread]) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escape what a stranger's label name could do to a table or a page."""
    for letter, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"), ("\n", " ")):
        text = text.replace(letter, safe)
    return text


def _training(manifest: Mapping[str, Any], job: JobRecord | None) -> list[str]:
    spec = manifest["spec"]
    teachers = manifest.get("teachers") or {}
    lines = [
        f"Run {manifest['id']}, stage {manifest['stage']}, seed {manifest['seed']}: {manifest['examples']:,} examples "
        f"in {manifest['steps']:,} optimizer steps of {spec['batch_size']}, {manifest['train_seconds']:.0f} s on "
        f"{manifest['device']}",
        f"texts cut to {spec['max_length']} tokens; learning rate {spec['learning_rate']:g}, layer-wise decay "
        f"{spec['layerwise_decay']:g}",
        "data, by the fingerprint of its rows: "
        + ", ".join(f"{task} {settings['data']}" for task, settings in spec["tasks"].items()),
        "teachers: " + (", ".join(f"{task} from {run}" for task, run in teachers.items()) or "none, gold labels only"),
        "versions: " + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    ]
    if job is not None:
        lines.append(f"encoder: {job.encoder.split()[0]}")
        lines.append(f"command: `python -m bam_lightning.train {' '.join(_words(job))}`")
    return lines


def _words(job: JobRecord) -> list[str]:
    """Return the words of the command line that trained a model; without Hydra's own record, what the job knows."""
    record = Path(job.output) / ".hydra" / "overrides.yaml"
    if record.is_file():
        return [str(word) for word in yaml.safe_load(record.read_text(encoding="utf-8")) or ()]
    return [f"+experiment={job.experiment}", f"scale={job.scale}", f"seed={job.seed}"]
