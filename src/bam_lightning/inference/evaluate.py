"""Score a trained model on labelled rows: ``Predictor.evaluate`` and ``bam evaluate``.

N rows, K outputs of a head, C label names of a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bam_lightning.config.data_config import SETS, Metric
from bam_lightning.config.escaping import markdown
from bam_lightning.config.exceptions import ConfigError, ConfigPathError, DataError
from bam_lightning.data.labels import read_labels
from bam_lightning.data.sources import FileSource, HubSource, Source, TableSource
from bam_lightning.data.task import Task
from bam_lightning.inference.model_info import TaskInfo, check_rows, find_model, read_model_info
from bam_lightning.metrics.report import (
    bootstrap_intervals,
    confusion_matrix,
    expected_calibration_error,
    per_class_scores,
)
from bam_lightning.metrics.scores import scores
from bam_lightning.store.atomic_io import write_text

if TYPE_CHECKING:
    import pyarrow as pa

    from bam_lightning.models.heads import Head

Report = dict[str, Any]


@dataclass(kw_only=True)
class EvaluateOptions:
    """Options of ``bam evaluate``; see its ``--help``."""

    run: str
    task: str
    input: str
    store: str = "store"
    split: str | None = None
    subset: str | None = None
    label: str = "label"
    separator: str = "|"
    columns: Sequence[str] = field(default_factory=list)
    by: str | None = None
    output: str | None = None
    device: str = "auto"
    precision: str = "auto"
    heads: Sequence[str] = field(default_factory=list)


def evaluate_file(options: EvaluateOptions) -> Report:
    """Score a model on labelled rows; print the report as Markdown, and write it as Markdown and JSON.

    Returns:
        The content of ``report.json``.

    Raises:
        BamError: If the model, the rows or a label cannot be used.
    """
    info = read_model_info(find_model(options.run, options.store))
    task = info.task(options.task)
    if options.columns and len(options.columns) != len(task.columns):
        raise ConfigError(
            f"expected {len(task.columns)} columns, since task {task.name!r} reads {', '.join(task.columns)}; "
            f"got {len(options.columns)}"
        )
    task = task._replace(columns=tuple(options.columns) or task.columns)
    table, where, gold = _read_rows(task, options)
    rows = list(zip(*(table.column(column).to_pylist() for column in task.columns), strict=True))
    check_rows([task], rows)
    from bam_lightning.inference.predictor import load

    model = load(info.run.path, device=options.device, precision=options.precision, heads=options.heads)
    logits = model.logits(rows, [task.name])[task.name]
    groups = None if options.by is None else [str(value) for value in table.column(options.by).to_pylist()]
    report = {
        "run": info.id,
        "task": task.name,
        "input": where,
        **make_report(task, model.head(task.name), logits, gold, options.by, groups),
    }
    text = format_markdown(report)
    print(text)
    if options.output is not None:
        folder = Path(options.output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
        write_text(folder / "report.md", text + "\n")
    return report


def _read_rows(task: TaskInfo, options: EvaluateOptions) -> tuple[pa.Table, str, NDArray[np.generic]]:
    """Return the table, its origin for messages, and the encoded gold labels ``[N]`` or ``[N, C]``."""
    path = Path(options.input).expanduser()
    source: Source
    if path.is_file():
        if options.split is not None:
            raise ConfigError(f"input: {path} is a file, which has no splits; omit --split")
        split = path.stem
        source = FileSource({split: path})
    elif options.split is None:
        raise ConfigPathError(f"input: no file {path}; name a split of a folder or hub dataset with --split")
    else:
        split = options.split
        source = FileSource(path) if path.is_dir() else HubSource(options.input, options.subset)
    described = _describe(task, source, options.label, options.separator)
    more = [] if options.by is None else [options.by]
    table, columns, where = source.read(task.name, described, split, more)
    if not columns:  # an empty file of JSON lines
        raise DataError(f"{where}: expected labelled rows, found none")
    for column in [*described.columns, *more]:
        if column not in table.column_names:
            raise DataError(
                f"{where}: no column {column!r}; its columns: {', '.join(columns)}; choose others with "
                "--column, --label or --by"
            )
    if table.num_rows == 0:
        raise DataError(f"{where}: expected labelled rows, found none")
    return table, where, read_labels(where, task.name, described, table)


def _describe(info: TaskInfo, source: Source, label: str = "label", separator: str = "|") -> Task:
    """Return the task with which labelled rows are read."""
    multi_label = Metric(info.metric) in SETS
    return Task(
        source,
        info.columns,
        label=label,
        labels=info.label_names or None,
        kind="regression" if info.label_range else "multi_label" if multi_label else "classification",
        range=(info.label_range[0], info.label_range[1]) if info.label_range else None,
        label_separator=separator,
        allow_empty_text=info.allow_empty_text,
    )


def encode_labels(info: TaskInfo, labels: list[Any]) -> NDArray[np.generic]:
    """Return int64 class ids or float32 scores ``[N]``; for a multi-label task int64 indicators ``[N, C]``.

    Raises:
        DataError: If a label does not belong to the task; the message names the row.
    """
    import pyarrow as pa

    if Metric(info.metric) in SETS:
        labels = [list(value) if isinstance(value, tuple) else value for value in labels]
    table = pa.table({"label": pa.array(labels)})
    described = _describe(info, TableSource({}, "the given labels"))
    return read_labels(f"task {info.name!r}", info.name, described, table)


def score_logits(
    info: TaskInfo, head: Head, logits: NDArray[np.float32], gold: NDArray[np.generic]
) -> dict[str, float]:
    """Return the task's metrics of logits ``[N, K]`` against gold labels, the headline metric first."""
    return scores(_decode(head, logits)[0], gold, info.metric, len(info.label_names) or None)


def make_report(
    info: TaskInfo,
    head: Head,
    logits: NDArray[np.float32],
    gold: NDArray[np.generic],
    by: str | None = None,
    groups: Sequence[str] | None = None,
) -> Report:
    """Return metrics with intervals and, for tasks with label names, class scores and calibration.

    Args:
        info: The task.
        head: Its head.
        logits: ``[N, K]``.
        gold: ``[N]`` class ids or scores; ``[N, C]`` indicators of a multi-label task.
        by: Name of the column that ``groups`` holds.
        groups: ``[N]`` values; the metrics of the rows of each value are added.
    """
    predictions, probabilities = _decode(head, logits)
    n_classes = len(info.label_names)
    score = partial(scores, metric=info.metric, classes=n_classes or None)
    report: Report = {"rows": len(gold), "metric": info.metric, "metrics": _with_intervals(score, predictions, gold)}
    if n_classes:
        report["per_class"] = per_class_scores(predictions, gold, info.label_names)
        if gold.ndim == 1:
            counts = confusion_matrix(predictions, gold, n_classes)
            report["confusion_matrix"] = {"labels": list(info.label_names), "counts": counts.tolist()}
            confidence = probabilities[np.arange(len(gold)), predictions.astype(int)]
            report["expected_calibration_error"] = expected_calibration_error(confidence, predictions == gold)
        else:  # N * C binary decisions
            report["expected_calibration_error"] = expected_calibration_error(probabilities.ravel(), gold.ravel())
    if groups is not None:
        values = np.asarray(groups)
        report["by"] = {
            "column": by,
            "groups": {
                value: {
                    "rows": int((values == value).sum()),
                    "metrics": _with_intervals(score, predictions[values == value], gold[values == value]),
                }
                for value in sorted(set(groups))
            },
        }
    return report


def _decode(head: Head, logits: NDArray[np.float32]) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Return predictions in the shape of the labels, and probabilities ``[N, C]`` (``[N, 0]`` for regression)."""
    tensor = torch.from_numpy(logits).to(next(head.parameters()).device)
    with torch.inference_mode():
        return head.decode(tensor).cpu().numpy(), head.probabilities(tensor).cpu().numpy()


def _with_intervals(score: Any, predictions: NDArray[np.generic], gold: NDArray[np.generic]) -> Report:
    intervals = bootstrap_intervals(score, predictions, gold)
    return {
        name: {"value": value, "low": intervals[name].low, "high": intervals[name].high}
        for name, value in score(predictions, gold).items()
    }


def format_markdown(report: Report) -> str:
    """Return a report as Markdown: one table of metrics, then classes, confusion matrix and groups."""
    parts = [
        f"# {report['task']}: Run {report['run']}",
        f"{report['rows']:,} rows of {markdown(report['input'])}. Intervals are 95% bootstrap intervals over the rows.",
        _table(["metric", "score", "interval"], [_metric_cells(*item) for item in report["metrics"].items()]),
    ]
    if "expected_calibration_error" in report:
        parts.append(f"Expected calibration error: {report['expected_calibration_error']:.4f}")
    if "per_class" in report:
        rows = [
            [name, *(f"{values[key]:.4f}" for key in ("precision", "recall", "f1")), f"{values['support']:,}"]
            for name, values in report["per_class"].items()
        ]
        parts += ["## Classes", _table(["label", "precision", "recall", "F1", "rows"], rows)]
    if "confusion_matrix" in report:
        labels, counts = report["confusion_matrix"]["labels"], report["confusion_matrix"]["counts"]
        rows = [[name, *(f"{count:,}" for count in row)] for name, row in zip(labels, counts, strict=True)]
        parts += ["## Confusion matrix", _table(["gold \\ predicted", *labels], rows)]
    if "by" in report:
        rows = [
            [
                value,
                f"{group['rows']:,}",
                *(cell for item in group["metrics"].items() for cell in _metric_cells(*item)[1:]),
            ]
            for value, group in report["by"]["groups"].items()
        ]
        head = [cell for name in report["metrics"] for cell in (name, "interval")]
        parts += [f"## By {markdown(report['by']['column'])}", _table([report["by"]["column"], "rows", *head], rows)]
    return "\n\n".join(parts)


def _metric_cells(name: str, values: Mapping[str, float]) -> list[str]:
    return [name, f"{values['value']:.4f}", f"{values['low']:.4f} to {values['high']:.4f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(markdown(cell) for cell in line)} |" for line in lines)
