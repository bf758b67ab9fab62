"""Read labelled rows and report how a model does on them.

N rows, K outputs of a head, C label names of a task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.data_config import metric_input
from bam_lightning.config.exceptions import ConfigError, ConfigPathError, DataError
from bam_lightning.config.validation import SIMILAR, listed, nearest, suggest
from bam_lightning.data.examples import TaskSplit
from bam_lightning.data.labels import read_labels
from bam_lightning.data.outcomes import compare
from bam_lightning.data.readers import missing_path, names_in, split_ending
from bam_lightning.data.sources import FileSource, HubSource, Source, TableSource
from bam_lightning.data.task import Task
from bam_lightning.inference.model_info import TaskInfo, check_rows
from bam_lightning.metrics.report import (
    bootstrap_intervals,
    confidence_and_correct,
    confusion_matrix,
    expected_calibration_error,
    per_class_scores,
    reliability,
)
from bam_lightning.metrics.scores import WORD_METRICS, scores
from bam_lightning.models.heads import decode
from bam_lightning.store.ragged import Ragged

if TYPE_CHECKING:
    import pyarrow as pa

    from bam_lightning.inference.predictor import Predictor

Report = dict[str, Any]
WORST = 20
FLAGS = {  # how options of a task are spelled on the command line
    "text": "--column",
    "label": "--label",
    "labels": "--label (the label names are those of the model)",
    "range": "the range of the model",
    "label_separator": "--separator",
    "split": "--split",
    "path": "--input",
}


@dataclass(kw_only=True)
class LabelledInput:
    """Where labelled rows are read. ``input`` is a file, a folder of splits or a hub dataset.

    ``label``, ``separator`` and ``columns`` are those of the task unless they are given.
    """

    input: str | None = None
    split: str | None = None
    subset: str | None = None
    label: str | None = None
    separator: str | None = None
    delimiter: str | None = None
    columns: Sequence[str] = field(default_factory=list)


class LabelledRows(NamedTuple):
    """Labelled rows of a task.

    Attributes:
        task: The task, with the columns of the input.
        rows: N rows of texts.
        gold: Encoded labels ``[N]`` or ``[N, C]``; ``Ragged`` tags or answers.
        where: Where they came from.
        columns: Further columns: name -> N values.
    """

    task: TaskInfo
    rows: list[tuple[str, ...]]
    gold: Any
    where: str
    columns: Mapping[str, list[Any]]

    @property
    def split(self) -> TaskSplit:
        """The rows as a split, without keys."""
        return TaskSplit(_texts_of(self.rows), self.gold, [b""] * len(self.rows), layout=self.task.layout)


def read_labelled(task: TaskInfo, options: LabelledInput, more: Sequence[str] = ()) -> LabelledRows:
    """Read labelled rows of a task from ``options.input``, and ``more`` columns of them.

    Raises:
        BamError: If the rows, a column or a label cannot be used.
    """
    if options.columns and len(options.columns) != len(task.columns):
        raise ConfigError(
            f"expected {len(task.columns)} columns, since task {task.name!r} reads {', '.join(task.columns)}; "
            f"got {len(options.columns)}"
        )
    task = task._replace(columns=tuple(options.columns) or task.columns)
    table, where, described = _read_table(task, options, more)
    rows = list(zip(*(table.column(column).to_pylist() for column in task.columns), strict=True))
    check_rows([task], rows)
    rows = [task.render(row) for row in rows]
    gold = read_labels(where, task.name, described, table, texts=_texts_of(rows))
    return LabelledRows(task, rows, gold, where, {column: table.column(column).to_pylist() for column in more})


def _texts_of(rows: Sequence[Sequence[str]]) -> tuple[list[str], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def _read_table(task: TaskInfo, options: LabelledInput, more: Sequence[str]) -> tuple[pa.Table, str, Task]:
    """Return the table, its origin for messages, and the task with which its labels are read."""
    assert options.input is not None
    path = Path(options.input).expanduser()
    source: Source
    read_by: dict[str, Any] = {"delimiter": options.delimiter, "delimiter_option": "--delimiter"}
    if path.is_file():
        if options.split is not None:
            raise ConfigError(f"input: {path} is a file, which has no splits; omit --split")
        split = path.stem
        source = FileSource({split: path}, **read_by)
    elif options.split is None and path.is_dir():
        splits = FileSource(path).split_names()
        raise ConfigError(
            f"input: {path} is a folder; give --split, one of: {', '.join(splits)}"
            if splits
            else f"input: no split in the folder {path}; expected files such as dev.csv"
        )
    elif options.split is None:
        if split_ending(path.name)[1] and not path.is_dir():
            raise ConfigPathError(f"input: {missing_path(path, 'set --input')}")
        near = suggest(path.name, [name for name in names_in(path.parent) if name != path.name], SIMILAR)
        raise ConfigPathError(f"input: no file {path}; name a split of a folder or hub dataset with --split{near}")
    else:
        split = options.split
        source = (
            FileSource(path, **read_by)
            if path.is_dir()
            else HubSource(options.input, options.subset, local_option="--input")
        )
    label = task.label if options.label is None else options.label
    described = _describe(task, source, FLAGS, label, options.separator or task.label_separator)
    table, columns, where = source.read(task.name, described, split, more)
    if not columns:  # an empty file of JSON lines
        raise DataError(f"{where}: expected labelled rows, found none")
    for column in [*described.columns, *more]:
        if column not in table.column_names:
            flag = "--label" if column == label else "--by" if column in more else "--column"
            hint = source.header_hint(columns) if isinstance(source, FileSource) else ""
            near = _nearest(column, task, columns) if column == label else suggest(column, columns)
            raise DataError(
                f"{where}: no column {column!r}; its columns: {listed(columns)}"
                f"{hint or f'; choose another with {flag}{near}'}"
            )
    if table.num_rows == 0:
        raise DataError(f"{where}: expected labelled rows, found none")
    return table, where, described


def _nearest(label: str, task: TaskInfo, columns: Sequence[str]) -> str:
    """Return a hint at the column that may hold a task's labels: named like it, like the task, or ``label``."""
    same = [column for name in (label, task.name, "label") for column in columns if column.lower() == name.lower()]
    near = same[0] if same else nearest(label, columns)
    return "" if near is None else f"; did you mean --label {shlex.quote(near)}?"


def _describe(
    info: TaskInfo, source: Source, spelled: Mapping[str, str], label: str = "label", separator: str = "|"
) -> Task:
    """Return the task with which labelled rows are read."""
    first = len(info.columns) - len(info.choices)
    return Task(
        source,
        info.text if first > len(info.text) else info.columns[:first],  # columns may have other names in a file
        label=label,
        labels=info.label_names or None,
        choices=info.columns[first:],
        kind=info.kind,
        range=(info.label_range[0], info.label_range[1]) if info.label_range else None,
        label_separator=separator,
        allow_empty_text=info.allow_empty_text,
        spelled=spelled,
    )


def encode_labels(info: TaskInfo, rows: Sequence[Sequence[Any]], labels: list[Any]) -> Any:
    """Return int64 class ids or float32 scores ``[N]``; for a multi-label task int64 indicators ``[N, C]``; ``Ragged``
    tags or answers of N rows.

    Raises:
        DataError: If a label does not belong to the task; the message names the row.
    """
    import pyarrow as pa

    if info.kind in ("multi_label", "tagging"):
        labels = [list(value) if isinstance(value, tuple) else value for value in labels]
    table = pa.table({"label": pa.array(labels)})
    described = _describe(info, TableSource({}, "the given labels"), {"labels": "the given labels"})
    return read_labels(f"task {info.name!r}", info.name, described, table, texts=_texts_of(rows))


def score_logits(model: Predictor, labelled: LabelledRows, logits: Any) -> dict[str, float]:
    """Return a task's metrics of the logits of labelled rows, the headline metric first."""
    found: dict[str, float] = {}
    for metric in labelled.task.metrics:
        classes = len(labelled.task.label_names) or None
        found |= scores(*compared(model, labelled, logits, metric), metric, classes)
    return found


def compared(
    model: Predictor, labelled: LabelledRows, logits: Any, metric: Any = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predictions and gold as a metric takes them, the headline metric unless another is given; of words, what
    they count in each row."""
    info = labelled.task
    metric = info.metrics[0] if metric is None else metric
    if info.metric in WORD_METRICS:
        return compare(metric, decode(model.head(info.name), logits), labelled.split, info.label_names)
    decoded, given = model.decode(info.name, logits), metric_input(metric)
    if given == "labels":
        return decoded.values, labelled.gold
    return decoded.probabilities if given == "probabilities" else decoded.probabilities[:, 1], labelled.gold


def make_report(
    model: Predictor, labelled: LabelledRows, logits: Any, by: str | None = None, worst: int = WORST
) -> Report:
    """Return metrics with intervals and the worst rows; for tasks with label names, class scores and calibration too.

    Args:
        model: The model.
        labelled: N labelled rows of one of its tasks.
        logits: ``[N, K]``, or ``Ragged`` ones of the words of N rows.
        by: Name of one of ``labelled.columns``; the metrics of the rows of each value are added.
        worst: Number of rows with the largest loss to list.
    """
    info = labelled.task
    of_words = info.metric in WORD_METRICS
    predictions, gold = compared(model, labelled, logits, "" if isinstance(info.metrics[0], Mapping) else None)
    answered = np.ones(len(gold), dtype=bool) if of_words else model.decode(info.name, logits).answered
    n_classes = 0 if of_words else len(info.label_names)
    pairs = [(metric, *compared(model, labelled, logits, metric)) for metric in info.metrics]

    def measure(rows: Any) -> Report:
        found: Report = {}
        for metric, values, truth in pairs:
            found |= _with_intervals(
                partial(scores, metric=metric, classes=n_classes or None), values[rows], truth[rows]
            )
        return found

    report: Report = {
        "run": model.info.id,
        "task": info.name,
        "input": labelled.where,
        "rows": len(gold),
        "metric": info.metric,
        "metrics": measure(slice(None)),
    }
    if not answered.all():
        report["answered"] = {"rows": int(answered.sum()), "share": float(answered.mean())}
        if answered.any():
            report["answered"]["metrics"] = measure(answered)
    if n_classes:
        probabilities = model.decode(info.name, logits).probabilities
        report["per_class"] = per_class_scores(predictions, gold, info.label_names)
        if gold.ndim == 1:
            counts = confusion_matrix(predictions, gold, n_classes)
            report["confusion_matrix"] = {"labels": list(info.label_names), "counts": counts.tolist()}
        decisions = confidence_and_correct(predictions, probabilities, gold)
        report["temperature"] = model.temperature(info.name)
        report["expected_calibration_error"] = expected_calibration_error(*decisions)
        report["reliability"] = reliability(*decisions)
    if info.label_range:
        report["mean_absolute_error"] = float(np.abs(predictions - gold).mean())
    report["worst_rows"] = [] if of_words else _worst_rows(model, labelled, logits, worst)
    if by is not None:
        values = np.asarray([str(value) for value in labelled.columns[by]])
        report["by"] = {
            "column": by,
            "groups": {
                str(value): {"rows": int((values == value).sum()), "metrics": measure(values == value)}
                for value in np.unique(values)
            },
        }
    return report


def _worst_rows(
    model: Predictor, labelled: LabelledRows, logits: NDArray[np.float32], count: int
) -> list[dict[str, Any]]:
    """Return the rows with the largest loss: number, texts, gold, prediction, its probability, loss.

    Of a regression: those with the largest error in the labels' units, in place of probability and loss.
    """
    name, is_score = labelled.task.name, bool(labelled.task.label_range)
    if is_score:
        losses = np.abs(model.decode(name, logits).values - labelled.gold)
    else:
        losses = model.losses(name, logits / model.temperature(name), labelled.gold)
    order = np.argsort(-losses, kind="stable")[:count]
    found = []
    for row, prediction in zip(order.tolist(), model.postprocess(name, logits[order]), strict=True):
        confidence = prediction.probabilities.get(prediction.label) if isinstance(prediction.label, str) else None
        loss = float(losses[row])
        found.append(
            {
                "row": row,
                "texts": list(labelled.rows[row]),
                "gold": gold_text(labelled, row),
                "predicted": text_of(prediction.label),
                **({"error": loss} if is_score else {"probability": confidence, "loss": loss}),
            }
        )
    return found


def gold_text(labelled: LabelledRows, row: int) -> str:
    """Return the gold label of a row as text: tags with commas between them, all right answers."""
    names, gold = labelled.task.label_names, labelled.gold
    if not isinstance(gold, Ragged):
        return label_text(gold[row], names)
    if labelled.task.kind == "tagging":
        return ", ".join("" if tag < 0 else names[tag] for tag in gold.row(row).tolist())
    return " | ".join(labelled.rows[row][1][start:end] for start, end in gold.row(row).tolist())


def label_text(value: Any, names: Sequence[str]) -> str:
    """Return an encoded label as text: a name, several names, or a number."""
    if not names:
        return f"{float(value):g}"
    if np.ndim(value):
        return text_of(tuple(name for name, present in zip(names, value, strict=True) if present))
    return names[int(value)]


def text_of(label: str | float | tuple[str | None, ...]) -> str:
    """Return the label of a prediction as text."""
    if isinstance(label, tuple):
        return ", ".join(str(name) for name in label) or "(none)"
    return label if isinstance(label, str) else f"{label:g}"


def _with_intervals(score: Any, predictions: NDArray[np.generic], gold: NDArray[np.generic]) -> Report:
    intervals = bootstrap_intervals(score, predictions, gold)
    return {
        name: {"value": value, "low": intervals[name].low, "high": intervals[name].high}
        for name, value in score(predictions, gold).items()
    }
