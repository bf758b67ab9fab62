"""Check a job without training it: its plan, its rows and their weak spots, and what training will take."""

from __future__ import annotations

import json
import resource
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bam_lightning.analysis.terminal import View, show
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config, StageKind
from bam_lightning.config.recheck import recheck
from bam_lightning.data.examples import TaskExamples, TaskSplit
from bam_lightning.data.tokenization import Tokens
from bam_lightning.models import hardware
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.fit import Prepared, check_trainable, new_tokenizer, prepare_run, tokens_of
from bam_lightning.recipes.planner import FEW_STEPS, more_steps
from bam_lightning.recipes.runner import plan_recipe
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.ragged import Ragged
from bam_lightning.store.run_spec import Run
from bam_lightning.training.distributed import launcher
from bam_lightning.training.lightning import pl
from bam_lightning.training.trainer import make_trainer

STEPS, SECONDS = 5, 30.0  # optimizer steps of a measurement, the first of which is not timed; most seconds
FEW_ROWS, FEW_DEV = 10, 50  # rows of a class; rows of a dev split
MAJORITY = 0.95  # share of one class
EXAMPLES, WIDTH, LABELS = 3, 100, 6  # rows shown, characters of a text, labels listed
FORWARD = 1 / 3  # cost of a prediction, as a share of that of a training step on the same tokens


def check_recipe(config: Config, output: Path) -> dict[str, Any]:
    """Read and check what the recipe needs, print the findings, and write them to ``output/check.json``.

    Time is estimated from a few real optimizer steps of each stage; their weights are thrown away.

    Returns:
        The content of ``check.json``: ``tasks``, ``weak_spots``, ``stages`` and ``peak_memory_bytes``.

    Raises:
        BamError: For what would stop the training job before its first step.
    """
    recheck(config)
    if launcher():
        raise ConfigError("check=true runs in one process; start it without torchrun and srun")
    hardware.prepare()
    view = View(config.run.progress)
    with view.messages():
        context, _, runs, error = plan_recipe(config, output, view)
        if error is not None:
            raise error
        check_trainable(config)
        tokenized = tokens_of(context, new_tokenizer(context))
        tasks = {name: describe_task(rows, tokenized) for name, rows in context.rows.items()}
        spots = [f"{name}: {spot}" for name, rows in context.rows.items() for spot in weak_spots(rows, tasks[name])]
        spots += _short_teachers(runs, config)
        open_runs = [run for run in runs if not context.store.finished(run.id)]
        lengths = {name: _mean_length(tokenized(rows.train), rows.train) for name, rows in context.rows.items()}
        stages = [
            _estimate([run for run in open_runs if run.stage == stage], context, lengths)
            for stage in dict.fromkeys(run.stage for run in open_runs)
        ]
        report = {
            "tasks": tasks,
            "weak_spots": spots,
            "stages": stages,
            "seconds": sum(stage["seconds"] for stage in stages),
            "peak_memory_bytes": _peak_memory(config),
        }
    _show(report, config)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "check.json", json.dumps(report, indent=1))
    print((output / "check.json").resolve())
    return report


def describe_task(rows: TaskExamples, tokenized: Callable[[TaskSplit], Tokens]) -> dict[str, Any]:
    """Return a task's numbers of rows, labels, three training rows, and lengths in tokens."""
    train, dev = tokenized(rows.train), tokenized(rows.dev)
    first = rows.train.take(np.arange(min(EXAMPLES, len(rows.train.keys))))
    texts = list(zip(*first.texts, strict=True))
    return {
        "rows": {"train": len(rows.train.keys), "dev": len(rows.dev.keys)},
        "labels": {"train": _labels(rows, rows.train), "dev": _labels(rows, rows.dev)},
        "examples": [
            {"texts": [str(text) for text in row], "label": _label(rows, first, number)}
            for number, row in enumerate(texts)
        ],
        "tokens": {
            name: int(np.quantile(train.lengths, share)) for name, share in (("median", 0.5), ("p95", 0.95), ("max", 1))
        },
        "cut": {"train": train.n_truncated, "dev": dev.n_truncated},
        "notes": rows.notes,
    }


def _labels(rows: TaskExamples, split: TaskSplit) -> dict[str, float]:
    """Return label name -> number of rows (of words for tags); of a regression its lowest, median and highest label."""
    names, labels = rows.label_names, split.labels
    if split.has_gold is not None:
        labels = labels[np.flatnonzero(split.has_gold)]
    if isinstance(labels, Ragged):
        values = labels.values[labels.values >= 0] if names else labels.values
        if not names:
            return {"answers": len(values)}
        return dict(zip(names, np.bincount(values, minlength=len(names)).tolist(), strict=True))
    if not names:
        values = np.asarray(labels, dtype=float)
        ends = {"lowest": 0.0, "median": 0.5, "highest": 1.0}
        return {name: float(np.quantile(values, share)) for name, share in ends.items()} if len(values) else {}
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels.astype(int), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _label(rows: TaskExamples, split: TaskSplit, row: int) -> str:
    names, labels = rows.label_names, split.labels
    if split.has_gold is not None and not split.has_gold[row]:
        return "(none)"
    if isinstance(labels, Ragged):
        items = labels.row(row).tolist()
        if names:
            return ", ".join("" if tag < 0 else names[tag] for tag in items)
        return " | ".join(split.texts[1][row][start:end] for start, end in items)
    if not names:
        return f"{float(labels[row]):g}"
    if labels.ndim == 2:
        return ", ".join(name for name, present in zip(names, labels[row], strict=True) if present) or "(none)"
    return names[int(labels[row])]


def weak_spots(rows: TaskExamples, description: Mapping[str, Any]) -> list[str]:
    """Return what makes a task hard to learn or to score, one sentence each."""
    spots = []
    train, dev = rows.train, rows.dev
    if rows.label_names:
        counts, tags = description["labels"], isinstance(train.labels, Ragged)
        for name, count in counts["train"].items():
            if count < FEW_ROWS:
                spots.append(f"label {name!r} has {_count(count, 'word' if tags else 'row')} in train")
            if not counts["dev"][name]:
                spots.append(f"label {name!r} has no {'word' if tags else 'row'} in dev, so no score is about it")
        most = max(counts["train"], key=counts["train"].__getitem__)
        if not tags and train.labels.ndim == 1 and counts["train"][most] > MAJORITY * len(train.keys):
            share = 100 * counts["train"][most] / len(train.keys)
            spots.append(f"{share:.0f} % of the training rows are {most!r}; accuracy will hardly tell models apart")
    if len(dev.keys) < FEW_DEV:
        spots.append(f"dev has {_count(len(dev.keys), 'row')}; below {FEW_DEV} a score says little")
    known = set(train.keys)
    if repeated := sum(key in known for key in dev.keys):
        spots.append(
            f"{_count(repeated, 'row')} of {len(dev.keys):,} in dev stand in train too; remove them from one of both"
        )
    if contradictory := _contradictory(train):
        what = "text stands" if contradictory == 1 else "texts stand"
        spots.append(f"{contradictory:,} {what} in train several times with different labels")
    cut = description["cut"]["train"]
    if cut:
        spots.append(
            f"{_count(cut, 'row')} of {len(train.keys):,} in train are cut at {description['tokens']['max']} tokens; "
            "data.max_length=N keeps more of them"
        )
    return spots


def _short_teachers(runs: Sequence[Run], config: Config) -> list[str]:
    """Return a sentence for each teacher with few optimizer steps."""
    return [
        f"{run.label} teaches after {_count(run.steps, 'optimizer step')}; "
        f"{more_steps(run, FEW_STEPS, config)} gives it more"
        for run in runs
        if run.teaches and run.steps < FEW_STEPS
    ]


def _contradictory(rows: TaskSplit) -> int:
    """Return the number of texts that have several labels."""
    labels: dict[bytes, set[bytes]] = {}
    for row, key in enumerate(rows.keys):
        if rows.has_gold is None or rows.has_gold[row]:
            label = rows.labels.row(row) if isinstance(rows.labels, Ragged) else np.asarray(rows.labels[row])
            labels.setdefault(key, set()).add(label.tobytes())
    return sum(len(found) > 1 for found in labels.values())


def _count(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'s'[: count != 1]}"


def _mean_length(tokens: Tokens, rows: TaskSplit) -> float:
    """Return the mean number of tokens of a row, all its choices or windows together."""
    return len(tokens.ids) / len(rows.keys)


class _Measured(NamedTuple):
    """A few optimizer steps of one Run: what the whole Run will read, and how fast."""

    tokens: float
    tokens_per_second: float
    steps: int


class _Stopwatch(pl.Callback):
    """Time optimizer steps; the first one warms up. Stop after ``SECONDS``."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float, int]] = []  # optimizer steps, seconds, tokens so far

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self.marks = [(0, time.monotonic(), 0)]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the time after a batch."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((trainer.global_step, time.monotonic(), self.marks[-1][2] + batch.input_ids.numel()))
        if self.marks[-1][1] - self.marks[0][1] > SECONDS:
            trainer.should_stop = True

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first step, or of the first one if there are no others."""
        warm = [mark for mark in self.marks if mark[0] >= 1]
        first = warm[0] if len(warm) > 1 else self.marks[0]
        last = self.marks[-1]
        return (last[2] - first[2]) / max(last[1] - first[1], 1e-9)


def _measure(run: Run, context: Context) -> _Measured:
    """Take a few optimizer steps of a Run, without teachers and from the encoder that every Run starts from."""
    alone = replace(run, teachers={}, init_from=None)
    rows = {  # a taught Run trains on rows without gold as well
        task: examples._replace(train=examples.train._replace(has_gold=None)) if task in run.teachers else examples
        for task, examples in context.rows.items()
    }
    prepared: Prepared = prepare_run(alone, replace(context, rows=rows))
    settings = context.config.trainer
    if hardware.precision(settings) == "64-true":
        prepared.module.double()
    settings = replace(settings, extra={**settings.extra, "limit_val_batches": 0})
    watch, steps = _Stopwatch(), min(STEPS, run.steps)
    trainer = make_trainer(settings, context.output, steps, callbacks=[watch])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(prepared.module, datamodule=prepared.data)
    return _Measured(prepared.tokens, watch.tokens_per_second, trainer.global_step)


def _estimate(runs: Sequence[Run], context: Context, lengths: Mapping[str, float]) -> dict[str, Any]:
    """Return what the Runs of one stage will take, from a few steps of the longest of them."""
    longest = max(runs, key=lambda run: run.examples)
    measured = _measure(longest, context)
    tokens = 0.0
    for run in runs:
        if len(run.tasks) == 1:
            tokens += run.examples * lengths[run.tasks[0]]
        else:
            tokens += measured.tokens * run.examples / longest.examples
        if run.kind is StageKind.finetune:
            tokens += FORWARD * _predicted_tokens(run, context, lengths)
    return {
        "stage": longest.stage,
        "runs": len(runs),
        "steps": sum(run.steps for run in runs),
        "measured_steps": measured.steps,
        "tokens_per_second": measured.tokens_per_second,
        "seconds": tokens / measured.tokens_per_second,
    }


def _predicted_tokens(run: Run, context: Context, lengths: Mapping[str, float]) -> float:
    """Return the tokens of the rows that a Run predicts: dev during and after training, train if it teaches."""
    times = context.config.run.validations + 1
    rows = {
        task: len(context.rows[task].dev.keys) * times + len(context.rows[task].train.keys) * run.teaches
        for task in run.tasks
    }
    return sum(count * lengths[task] for task, count in rows.items())


def _peak_memory(config: Config) -> int:
    """Return the most memory that was used so far: of the GPU, or of this process on a CPU."""
    if hardware.on_gpu(config.trainer):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def _show(report: Mapping[str, Any], config: Config) -> None:
    tasks = report["tasks"]
    head = ["task", "train", "dev", "labels in train", "tokens: median", "95 %", "longest", "cut in train", "in dev"]
    rows = []
    for name, task in tasks.items():
        counts, tokens, cut = task["rows"], task["tokens"], task["cut"]
        numbers = (tokens["median"], tokens["p95"], tokens["max"], cut["train"], cut["dev"])
        labels = _labels_text(task["labels"]["train"])
        rows.append([name, f"{counts['train']:,}", f"{counts['dev']:,}", labels, *(f"{value:,}" for value in numbers)])
    show(f"Rows, cut at {config.data.max_length} tokens", head, rows)
    show("Examples", ["task", "label", "texts"], list(_example_lines(tasks)))
    print("Weak spots:" if report["weak_spots"] else "No weak spots.")
    for spot in report["weak_spots"]:
        print(f"  {spot}")
    if report["stages"]:
        lines = [
            [s["stage"], str(s["runs"]), f"{s['steps']:,}", f"{s['tokens_per_second']:,.0f}", duration(s["seconds"])]
            for s in report["stages"]
        ]
        total = ["together", "", "", "", duration(report["seconds"])]
        show("To train", ["stage", "Runs", "steps", "tokens/s", "estimate"], [*lines, total], sums=1)
        processes = config.trainer.devices * config.trainer.num_nodes
        several = f", not divided by the {processes} processes of trainer.devices" if processes > 1 else ""
        print(
            f"Estimated from {STEPS} optimizer steps of each stage on {hardware.device_name(config.trainer)}{several}; "
            f"a prediction is counted as a third of a training step. Peak memory: "
            f"{report['peak_memory_bytes'] / 2**30:.1f} GiB."
        )
    else:
        print("Nothing to train: the store has every Run.")


def _labels_text(counts: Mapping[str, float]) -> str:
    named = [f"{name} {value:,g}" for name, value in counts.items()]
    return ", ".join(named[:LABELS]) + (f", ... ({len(named)} labels)" if len(named) > LABELS else "")


def _example_lines(tasks: Mapping[str, Mapping[str, Any]]) -> Iterable[list[str]]:
    for name, task in tasks.items():
        for example in task["examples"]:
            texts = (textwrap.shorten(text, WIDTH // len(example["texts"])) for text in example["texts"])
            yield [name, example["label"], " | ".join(texts)]


def duration(seconds: float) -> str:
    """Return a duration in two units at most.

    >>> duration(5400), duration(0.4)
    ('1 h 30 min', '1 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{max(1, rest)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
