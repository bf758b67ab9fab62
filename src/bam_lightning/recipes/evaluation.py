"""Judge trained models on labelled rows: ``bam evaluate``, ``bam calibrate`` and ``bam compare``.

The rows are those of a file, or the dev rows of the job that trained the model. N rows, C label names of a task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bam_lightning.analysis import evaluation_report
from bam_lightning.analysis.terminal import show
from bam_lightning.config.data_config import metric_input
from bam_lightning.config.escaping import csv_cell
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.validation import check_choice
from bam_lightning.data import row_cache
from bam_lightning.data.writers import make_writer
from bam_lightning.inference.calibration import Target, TaskCalibration, update_calibration
from bam_lightning.inference.evaluate import (
    WORST,
    LabelledInput,
    LabelledRows,
    Report,
    compared,
    gold_text,
    label_text,
    make_report,
    read_labelled,
    text_of,
)
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, find_model, read_model_info
from bam_lightning.metrics.report import paired_bootstrap
from bam_lightning.metrics.scores import WORD_METRICS, points
from bam_lightning.metrics.significance import mcnemar
from bam_lightning.recipes.job_file import JOB, read_job
from bam_lightning.store.atomic_io import atomic_write, write_text
from bam_lightning.store.job_records import read_records
from bam_lightning.store.run_store import Store

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor

FEW_ANSWERS = 10  # rows
MOVED = 0.1  # share of the range by which a score must move to count as changed


@dataclass(kw_only=True)
class JudgeOptions(LabelledInput):
    """Options that evaluating, calibrating and comparing share."""

    store: str = "store"
    task: Sequence[str] = field(default_factory=list)
    device: str = "auto"
    precision: str = "auto"
    heads: Sequence[str] = field(default_factory=list)

    def load(self, run: str) -> Predictor:
        """Load a model."""
        from bam_lightning.inference.predictor import load

        return load(run, self.store, device=self.device, precision=self.precision, heads=self.heads)

    def select(self, info: ModelInfo) -> list[TaskInfo]:
        """Return the chosen tasks; all if none is named and the rows are those of the model's job."""
        if self.task:
            return [info.task(name) for name in self.task]
        if self.input is not None and len(info.tasks) > 1:
            raise ConfigError(f"name the task of the rows with --task; tasks: {', '.join(info.tasks)}")
        return list(info.tasks.values())


def labelled_rows(info: ModelInfo, task: TaskInfo, options: JudgeOptions, more: Sequence[str] = ()) -> LabelledRows:
    """Return the rows of ``options.input``, or the dev rows of the job that trained the model.

    Raises:
        BamError: If they cannot be used, or the job is not known or has other data by now.
    """
    if options.input is not None:
        return read_labelled(task, options, more)
    if options.split is not None or options.columns or more:
        raise ConfigError("--split, --column and --by choose among the rows of --input; give that too")
    job = job_file_of(info)
    config = read_job(job)
    rows = row_cache.load(task.name, config.suite.tasks[task.name], config.data, Path(config.paths.cache))
    if rows.fingerprint != info.manifest["spec"]["tasks"][task.name]["data"]:
        raise DataError(
            f"the data of task {task.name!r} in {job} are no longer those that Run {info.id} was trained on; "
            "give labelled rows with --input"
        )
    texts = list(zip(*rows.dev.texts, strict=True))
    return LabelledRows(task, texts, rows.dev.labels, f"the dev rows of {job.parent}", {})


def job_file_of(info: ModelInfo) -> Path:
    """Return the configuration file of the job that trained a Run.

    Raises:
        ConfigError: If it is not known.
    """
    folder = info.run.path
    if folder.parent.name == "runs":
        store = Store(folder.parents[1], create=False)
        last = {record.output: record for record in read_records(store)}  # a later job may have written there
        for record in reversed(list(last.values())):
            path = Path(record.output) / JOB
            if info.id in record.runs and path.is_file():
                return path
    raise ConfigError(
        f"the job that trained {folder} is not known here, so its rows are not; give labelled rows with --input"
    )


@dataclass(kw_only=True)
class EvaluateOptions(JudgeOptions):
    """Options of ``bam evaluate``; see its ``--help``."""

    run: str
    by: str | None = None
    worst: int = WORST
    output: str | None = None


def evaluate(options: EvaluateOptions) -> list[Report]:
    """Score a model on labelled rows; print a report for each task, and write it as JSON, Markdown and HTML."""
    info = read_model_info(find_model(options.run, options.store))
    more = [] if options.by is None else [options.by]
    labelled = [labelled_rows(info, task, options, more) for task in options.select(info)]
    model, reports = options.load(options.run), []
    for rows in labelled:
        logits = model.logits(rows.rows, [rows.task.name])[rows.task.name]
        reports.append(make_report(model, rows, logits, options.by, options.worst))
        evaluation_report.print_report(reports[-1])
        if options.output is not None:
            folder = Path(options.output).expanduser() / rows.task.name
            evaluation_report.save(reports[-1], folder)
            print(f"report: {(folder / 'report.html').resolve()}\n")
    return reports


@dataclass(kw_only=True)
class CalibrateOptions(JudgeOptions):
    """Options of ``bam calibrate``; see its ``--help``."""

    run: str
    target: Target = field(default_factory=Target)
    force: bool = False


def calibrate(options: CalibrateOptions) -> dict[str, TaskCalibration]:
    """Calibrate a model on labelled rows, keep the result beside its weights, print it and return it by task."""
    info = read_model_info(find_model(options.run, options.store))
    selected = options.select(info)
    tasks = [task for task in selected if not task.calibration_problem()]
    problems = [(task.name, problem) for task in selected if (problem := task.calibration_problem())]
    refused = [f"task {name!r}: {problem}; name other tasks" for name, problem in problems if options.task]
    if not tasks and refused:
        raise ConfigError("; ".join(refused))
    if not tasks:
        reasons = "; ".join(f"task {name!r}: {problem}" for name, problem in problems)
        raise ConfigError(f"no task of this model can be calibrated: {reasons}")
    for name, problem in problems:
        if not options.task:
            print(f"task {name!r} is skipped: {problem}")
    labelled = [labelled_rows(info, task, options) for task in tasks]
    model = options.load(options.run)
    found, lines, notes = {}, [], list[str]()
    for rows in labelled:
        name = rows.task.name
        logits = model.logits(rows.rows, [name])[name]
        try:
            found[name] = model.fit_calibration(name, logits, rows.gold, options.target, rows.where, options.force)
        except ConfigError as error:
            refused.append(f"task {name!r}: {error}")
            continue
        lines += _calibration_rows(model, rows, logits)
        notes += [f"{name}: {note}" for note in _threshold_notes(model, rows, logits)]
    if refused and not found:
        raise ConfigError("; ".join(refused))
    update_calibration(info.run, {name: task.label_names for name, task in info.tasks.items()}, found)
    errors = "calibration error"
    show(
        f"Calibration of {info.id}" + (f", thresholds for {options.target}" if str(options.target) else ""),
        [
            "task",
            "rows",
            "temperature",
            f"{errors} before",
            "after (held-out rows)",
            "label",
            "threshold",
            "precision",
            "recall",
        ],
        lines,
    )
    print(*notes, sep="\n", end="\n" if notes else "")
    for name, calibration in found.items():
        if calibration.note:
            hint = "; --force uses it all the same" if calibration.temperature == 1.0 else ""
            print(f"{name}: {calibration.note}{hint}")
    if refused:  # the others are saved
        raise ConfigError("; ".join(refused))
    return found


def _calibration_rows(model: Predictor, labelled: LabelledRows, logits: NDArray[np.float32]) -> list[list[str]]:
    """Return the rows of the table: a line for the task, with its first label, and one for each other label."""
    name, error = labelled.task.name, "expected_calibration_error"
    calibration = model.calibration[name]
    head = [
        name,
        f"{calibration.rows:,}",
        f"{calibration.temperature:.3f}",
        f"{calibration.before[error]:.4f}",
        f"{calibration.after[error]:.4f}",
    ]
    if not calibration.thresholds:
        return [[*head, "", "", "", ""]]
    lines = []
    for label, given, right in _given_and_right(model, labelled, logits):
        threshold, hits = calibration.thresholds[label], int((given & right).sum())
        shares = [f"{hits / count:.4f}" if (count := int(rows.sum())) else "" for rows in (given, right)]
        lines.append([label, "never" if threshold is None else f"{threshold:.4f}", *shares])
    return [[*(head if number == 0 else [""] * len(head)), *line] for number, line in enumerate(lines)]


def _given_and_right(
    model: Predictor, labelled: LabelledRows, logits: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield each label that has a threshold, which rows are given it and which have it ``[N]``."""
    values, _, answered = model.decode(labelled.task.name, logits)
    for label in model.calibration[labelled.task.name].thresholds:
        index = labelled.task.label_names.index(label)
        several = values.ndim == 2
        given = values[:, index] == 1 if several else (values == index) & answered
        yield label, given, labelled.gold[:, index] == 1 if several else labelled.gold == index


def _threshold_notes(model: Predictor, labelled: LabelledRows, logits: NDArray[np.float32]) -> Iterator[str]:
    """Yield what thresholds leave of the rows: how many are answered, and labels that rest on few of them or none."""
    name, thresholds = labelled.task.name, model.calibration[labelled.task.name].thresholds
    answered = model.decode(name, logits).answered
    if thresholds and labelled.gold.ndim == 1:
        count, total = int(answered.sum()), len(answered)
        yield f"answered {count:,} of {total:,} ({count / total:.0%})".replace("%", " %")
        if count < FEW_ANSWERS:
            few = f"the threshold rests on {count} row{'s' * (count > 1)}" if count else "no row is answered"
            yield f"{few}: it says little about other rows; ask for less, or calibrate on more rows"
    for label, given, right in _given_and_right(model, labelled, logits):
        if thresholds[label] is None:
            yield f"no threshold of {label!r} reaches what was asked, so it is never predicted; ask for less"
        elif not (given & right).any():
            yield f"with its threshold no row is rightly given {label!r}; ask for less, or train on more rows of it"


@dataclass(kw_only=True)
class CompareOptions(JudgeOptions):
    """Options of ``bam compare``; see its ``--help``."""

    old: str
    new: str
    margin: float = 0.5
    output: str = "compare"


@dataclass(frozen=True)
class Comparison:
    """A task's scores x 100 of two models on the same rows.

    Attributes:
        difference: New minus old, in points.
        low: The difference is at least this, at 95 % (paired bootstrap over the rows, one-sided).
        high: The difference is at most this, likewise.
        verdict: ``not worse`` if ``low`` is at least ``-margin``, ``worse`` if ``high`` is below it, else
            ``undetermined``.
        fixed: Rows that only the new model has right; of a regression task those whose score moved nearer.
        broken: Rows that only the old model has right.
        mcnemar: p value of McNemar's exact test; NaN if it does not apply.
    """

    task: str
    metric: str
    rows: int
    old: float
    new: float
    difference: float
    low: float
    high: float
    margin: float
    verdict: str
    fixed: int
    broken: int
    mcnemar: float


def compare(options: CompareOptions) -> int:
    """Compare two models on the same rows; return 1 unless the new one is shown to be not worse on every task."""
    if options.margin < 0:
        raise ConfigError(f"margin must be at least 0, got {options.margin:g}")
    old_info, new_info = (read_model_info(find_model(name, options.store)) for name in (options.old, options.new))
    common = [name for name in new_info.tasks if name in old_info.tasks]
    for name in options.task:
        check_choice("task", name, common)
    if not common:
        raise ConfigError(
            f"the models have no task in common: {', '.join(old_info.tasks)}; {', '.join(new_info.tasks)}"
        )
    if not options.task and options.input is None:
        options.task = common
    labelled = [labelled_rows(new_info, task, options) for task in options.select(new_info)]
    for rows in labelled:
        _check_same_labels(old_info.task(rows.task.name), rows.task)
    answers = [_answer(options.load(name), labelled) for name in (options.old, options.new)]
    comparisons, flipped = [], []
    for rows in labelled:
        old, new = (found[rows.task.name] for found in answers)
        changes = _changes(rows, old, new)
        comparisons.append(_compare(rows, old, new, changes, options.margin))
        flipped += [_flipped_row(rows, row, old, new, change) for row, change in enumerate(changes) if change]
    _write_comparison(comparisons, flipped, options)
    return int(any(comparison.verdict != "not worse" for comparison in comparisons))


def _check_same_labels(old: TaskInfo, new: TaskInfo) -> None:
    names, other = list(new.label_names), list(old.label_names)
    if new.kind == "classification" and metric_input(new.metrics[0]) == "labels":
        names, other = sorted(names), sorted(other)  # class ids are translated
    if names != other or (old.label_range, old.metric) != (new.label_range, new.metric):
        raise ConfigError(
            f"task {new.name!r} has other labels or another metric in the two models: "
            f"{', '.join(old.label_names) or old.label_range} ({old.metric}); "
            f"{', '.join(new.label_names) or new.label_range} ({new.metric}); "
            "train both with the same labels in the same order, or name other tasks with --task"
        )


class _Answers(NamedTuple):
    """A model's answers to N rows.

    Attributes:
        values: Predictions as metrics take them; of words, what they count in each row.
        gold: Gold labels in the same form.
        right: ``[N]``.
        texts: N predicted labels.
    """

    values: NDArray[Any]
    gold: NDArray[Any]
    right: NDArray[np.bool_]
    texts: list[str]


def _answer(model: Predictor, labelled: Sequence[LabelledRows]) -> dict[str, _Answers]:
    answers = {}
    for rows in labelled:
        name, names = rows.task.name, rows.task.label_names
        logits = model.logits(rows.rows, [name])[name]
        values, gold = compared(model, rows, logits)
        if rows.task.metric in WORD_METRICS:
            right = values[:, 3] == values[:, 4] if rows.task.kind == "tagging" else values[:, 0] == 1
            texts = [text_of(prediction.label) for prediction in model.postprocess(name, logits, rows.rows)]
        else:
            labels = model.decode(name, logits).values
            if (own := model.tasks[name].label_names) != names:
                places = np.array([names.index(label) for label in own])
                values, labels = places[values], places[labels]
            right = (labels == gold).reshape(len(labels), -1).all(axis=1)
            texts = [label_text(value, names) for value in labels]
        answers[name] = _Answers(values, gold, right, texts)
    return answers


def _compare(labelled: LabelledRows, old: _Answers, new: _Answers, changes: Sequence[str], margin: float) -> Comparison:
    task = labelled.task
    score = partial(points, metric=task.metrics[0])
    draws = paired_bootstrap(score, old.values, new.values, new.gold)
    low, high = (float(bound) for bound in np.quantile(draws, [0.05, 0.95]))
    verdict = "not worse" if low >= -margin else "worse" if high < -margin else "undetermined"
    fixed, broken = changes.count("fixed"), changes.count("broken")
    before, after = score(old.values, old.gold), score(new.values, new.gold)
    p_value = float("nan") if task.label_range else mcnemar(fixed, broken)
    return Comparison(
        task.name, task.metric, len(old.right), before, after, after - before, low, high, margin, verdict, fixed,
        broken, p_value,
    )  # fmt: skip


def _changes(labelled: LabelledRows, old: _Answers, new: _Answers) -> list[str]:
    """Return for each row ``fixed``, ``broken``, ``changed`` (both wrong), or nothing if its answer is the same."""
    span = labelled.task.label_range
    if span:
        moved = np.abs(new.values - old.values) >= MOVED * (span[1] - span[0])
        nearer = np.abs(new.values - new.gold) < np.abs(old.values - new.gold)
        return [("fixed" if near else "broken") if far else "" for far, near in zip(moved, nearer, strict=True)]
    changes = []
    for was_right, is_right, before, after in zip(old.right, new.right, old.texts, new.texts, strict=True):
        if was_right != is_right:
            changes.append("fixed" if is_right else "broken")
        else:
            changes.append("" if before == after else "changed")
    return changes


def _flipped_row(labelled: LabelledRows, row: int, old: _Answers, new: _Answers, change: str) -> list[str]:
    texts = [*labelled.rows[row], ""][:2]
    return [labelled.task.name, str(row), change, gold_text(labelled, row), old.texts[row], new.texts[row], *texts]


COLUMNS_OF_COMPARE = (
    "difference: new minus old, in points; at least: the lower end of its 95 % interval over the rows; fixed, broken: "
    "rows that only the new, only the old model has right (scores: that moved nearer to gold, away from it)"
)


def _write_comparison(
    comparisons: Sequence[Comparison], flipped: Sequence[Sequence[str]], options: CompareOptions
) -> None:
    heading = ["task", "metric", "rows", "old", "new", "difference", "at least", "margin", "verdict"]
    heading += ["fixed", "broken", "McNemar p"]
    lines = [
        [
            one.task,
            one.metric,
            f"{one.rows:,}",
            f"{one.old:.1f}",
            f"{one.new:.1f}",
            f"{one.difference:+.1f}",
            f"{one.low:+.1f}",
            f"{one.margin:g}",
            one.verdict,
            f"{one.fixed:,}",
            f"{one.broken:,}",
            "" if np.isnan(one.mcnemar) else f"{one.mcnemar:.4f}",
        ]
        for one in comparisons
    ]
    title = f"{options.new} against {options.old}"
    show(title, heading, lines)
    print(COLUMNS_OF_COMPARE)
    folder = Path(options.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# {evaluation_report.markdown(title)}\n\n{evaluation_report.markdown_table(heading, lines)}\n"
    write_text(folder / "compare.md", f"{text}\n{COLUMNS_OF_COMPARE}\n")
    write_text(folder / "compare.json", json.dumps(_json(comparisons, options), indent=1) + "\n")
    with atomic_write(folder / "flipped.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        columns = ["task", "row", "change", "gold", "old", "new", "text", "text_pair"]
        writer = make_writer(stream, "csv", columns, escape=False)
        writer.write([dict(zip(columns, map(csv_cell, row), strict=True)) for row in flipped])
    print(f"{len(flipped):,} changed rows: {(folder / 'flipped.csv').resolve()}")
    if any(one.verdict == "undetermined" for one in comparisons):
        print("undetermined: too few rows to show a difference within the margin; give more, or a larger margin")


def _json(comparisons: Sequence[Comparison], options: CompareOptions) -> Mapping[str, Any]:
    tasks = [
        {name: None if value != value else value for name, value in asdict(comparison).items()}
        for comparison in comparisons
    ]
    return {"old": options.old, "new": options.new, "tasks": tasks}
