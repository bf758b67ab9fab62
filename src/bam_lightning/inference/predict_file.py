"""Score the rows of a file with a trained model: ``bam predict``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bam_lightning.config.exceptions import (
    DISK_FULL,
    ConfigError,
    ConfigPathError,
    DataError,
    DataPathError,
    OutputExistsError,
)
from bam_lightning.config.validation import check_delimiter, header_hint, listed, suggest
from bam_lightning.data.items import ITEM_KINDS
from bam_lightning.data.readers import CHUNK_ROWS, DELIMITER, STREAM, Record, TableFile, chunks, format_of, missing_path
from bam_lightning.data.writers import Writer, make_writer
from bam_lightning.inference.calibration import ABSTAIN
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, find_model, read_model_info
from bam_lightning.store.atomic_io import WriteError, explain

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor

ERROR_COLUMN = "prediction_error"
EMBEDDING = "embedding"
MAX_REASONS = 3  # reasons printed on the terminal


@dataclass(kw_only=True)
class PredictOptions:
    """Options of ``bam predict``; see its ``--help``."""

    run: str
    store: str = "store"
    task: Sequence[str] = field(default_factory=list)
    input: str = STREAM
    output: str = STREAM
    input_format: str | None = None
    output_format: str | None = None
    delimiter: str | None = None
    columns: Sequence[str] = field(default_factory=list)
    escape_formulas: bool = False
    device: str = "auto"
    precision: str = "auto"
    heads: Sequence[str] = field(default_factory=list)
    overwrite: bool = False
    embeddings: bool = False


def predict_file(options: PredictOptions) -> int:
    """Score the rows of a file. Return 1 if no row could be scored, else 0.

    Raises:
        BamError: If the model, the input or the output cannot be used; nothing is written then.
    """
    input_format = format_of("input", options.input, options.input_format)
    stream_format = "jsonl" if input_format in ("json", "parquet") else input_format
    given = options.output_format or (stream_format if options.output == STREAM else None)
    output_format = format_of("output", options.output, given)
    check_delimiter("--delimiter", options.delimiter)
    _check_paths(options)
    source = TableFile(options.input, input_format, options.delimiter)
    batches = chunks(source)
    first = next(batches, [])
    info = read_model_info(find_model(options.run, options.store))
    available = _column_names(source, [record for record in first if not record.fault])
    every = [column for task in info.tasks.values() for column in task.columns]  # for an input without rows
    sample = next((record.values for record in first if not record.fault), {})
    plan = _plan_tasks(info, options, available or every, sample)
    from bam_lightning.inference.predictor import load

    model = load(info.run.path, device=options.device, precision=options.precision, heads=options.heads)
    if options.embeddings and len(set(plan.values())) > 1:
        raise ConfigError(f"--embeddings needs one text or pair per row; choose a task with --task: {', '.join(plan)}")
    added = [column for task in plan for column in _output_columns(info.tasks[task])]
    if options.embeddings:
        added = [EMBEDDING]
        if EMBEDDING in available:
            raise DataError(f"input has a column {EMBEDDING!r}, which the output needs; rename it")
    for column in added:
        if added.count(column) > 1:
            raise DataError(f"the output would have two columns {column!r}, since that task has a label named 'label'")
        if column in available:
            raise DataError(f"input has a column {column!r}, which the output needs; rename it")
    types = _column_types(source, output_format)
    copied = [column for column in dict.fromkeys([*_column_names(source, first), *types]) if column != ERROR_COLUMN]
    numeric = [column for column in added if not column.endswith((".label", ".scores")) and column != EMBEDDING]
    layout = {}
    if output_format == input_format and source.found:  # a spreadsheet opens the output as it did the input
        layout = {"delimiter": source.found.delimiter, "byte_order_mark": source.byte_order_mark}
    with _open_output(options, output_format, [*copied, *added, ERROR_COLUMN], numeric, types, layout) as writer:
        counts = _score_batches(model, plan, first, batches, writer, _file_size(options.input), options.embeddings)
    _print_summary(counts, options.output)
    return 1 if counts.rows and counts.failed == counts.rows else 0


def _column_names(source: TableFile, records: Sequence[Record]) -> list[str]:
    """Return the columns of the header and of the given records, in order."""
    return list(dict.fromkeys([*source.columns, *(name for record in records for name in record.values)]))


def _column_types(source: TableFile, to_kind: str) -> dict[str, Any]:
    """Return the input's columns and their types, if the output's header or schema needs them ahead of the rows."""
    rows_have_columns = source.kind in ("json", "jsonl")
    if not (to_kind == "parquet" or (rows_have_columns and to_kind != "jsonl")):
        return {}
    types = source.schema()
    if types is None and rows_have_columns:
        print(
            f"standard input cannot be read ahead: a column that first appears after {CHUNK_ROWS:,} rows will be left "
            "out; --output-format jsonl keeps all",
            file=sys.stderr,
        )
    return types or {}


def _check_paths(options: PredictOptions) -> None:
    source, target = Path(options.input).expanduser(), Path(options.output).expanduser()
    if options.input != STREAM and not source.is_file():
        raise DataPathError(f"input: {missing_path(source, 'set --input')}")
    if options.output == STREAM:
        return
    if options.input != STREAM and target.resolve() == source.resolve():
        raise ConfigError(f"output: {target} is the input; give another file")
    if target.exists() and not options.overwrite:
        raise OutputExistsError(f"output: {target} exists; give another file, or --overwrite")
    if not target.parent.is_dir():
        raise ConfigPathError(f"output: no folder {target.parent}")


def _plan_tasks(
    info: ModelInfo, options: PredictOptions, available: Sequence[str], sample: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """Return task -> the input columns that hold its texts; ``sample`` is the first row of the input."""
    if options.task and list(options.task) != ["all"]:
        selected = [info.task(name) for name in options.task]
        for task in selected:
            if options.columns and len(options.columns) != len(task.columns):
                raise ConfigError(
                    f"--column names {len(options.columns)}, but task {task.name!r} reads {len(task.columns)}: "
                    f"{', '.join(task.columns)}"
                )
    elif options.columns:
        selected = info.select_tasks("all", [sample.get(column) for column in options.columns])
    else:
        selected = [task for task in info.tasks.values() if set(task.columns) <= set(available)]
    plan = {task.name: tuple(options.columns) or task.columns for task in selected}
    unmet = next((task for task in selected if not set(plan[task.name]) <= set(available)), None)
    if unmet is None and plan:
        return plan
    hint = ""
    if format_of("input", options.input, options.input_format) in DELIMITER:
        hint = header_hint(available, "--delimiter", options.delimiter)
    if unmet is not None and options.columns:
        missing = next(column for column in options.columns if column not in available)
        hint = hint or suggest(missing, available)
        raise DataError(
            f"input: no column {missing!r}, which --column names; the file's columns: {listed(available)}{hint}"
        )
    problem = f"task {unmet.name!r} reads {', '.join(plan[unmet.name])}" if unmet else "no task's columns are in it"
    example = unmet or next(iter(info.tasks.values()))
    names = " ".join(f"--column {shlex.quote(column)}" for column in example.columns)
    raise DataError(
        f"input: {problem}; the file's columns: {listed(available)}"
        f"{hint or f'; name those to read, as in --task {example.name} {names}'}"
    )


def _output_columns(task: TaskInfo) -> list[str]:
    if task.label_range:
        return [f"{task.name}.score"]
    details = {"tagging": ("scores",), "span": ("start", "end", "score")}.get(task.kind)
    if details:
        return [f"{task.name}.label", *(f"{task.name}.{name}" for name in details)]
    return [f"{task.name}.label", *(f"{task.name}.{name}" for name in task.label_names)]


class _Counts(NamedTuple):
    """How many rows were read, how many could not be scored, the first few reasons, and task -> rows that abstain."""

    rows: int
    failed: int
    reasons: list[str]
    abstained: Mapping[str, int]


def _score_batches(
    model: Predictor,
    plan: Mapping[str, tuple[str, ...]],
    first: list[Record],
    rest: Iterator[list[Record]],
    writer: Writer,
    size: int | None,
    embeddings: bool,
) -> _Counts:
    """Score and write one batch at a time, with a progress bar: a file may be larger than memory."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    rows, failed, batch = 0, 0, first
    reasons: list[str] = []
    labels = {
        task: f"{task}.label"
        for task, calibration in model.calibration.items()
        if task in plan and calibration.thresholds and model.tasks[task].kind != "multi_label" and not embeddings
    }
    abstained = dict.fromkeys(labels, 0)
    columns = (TextColumn("{task.fields[rows]:,} rows"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("", total=size, rows=0)
        while batch:
            scored = score_records(model, plan, batch, embeddings)
            positions = [position for position, row in enumerate(scored) if ERROR_COLUMN in row]
            reasons += [
                f"row {rows + position}: {scored[position][ERROR_COLUMN]}"
                for position in positions[: MAX_REASONS - len(reasons)]
            ]
            failed += len(positions)
            for task, column in labels.items():
                abstained[task] += sum(row.get(column) == ABSTAIN for row in scored)
            writer.write(scored)
            rows += len(batch)
            progress.update(bar, completed=batch[-1].place, rows=rows)
            batch = next(rest, [])
    return _Counts(rows, failed, reasons, abstained)


def score_records(
    model: Predictor, plan: Mapping[str, tuple[str, ...]], records: Sequence[Record], embeddings: bool = False
) -> list[dict[str, Any]]:
    """Return the records with the predictions, or the reason why there is none, as additional columns.

    With ``embeddings`` the pooled vectors are added instead.

    Tasks that read the same columns share one pass of the encoder.
    """
    rows = [{name: value for name, value in record.values.items() if name != ERROR_COLUMN} for record in records]
    infos = {task: model.tasks[task] for task in plan}
    read = {
        task: (columns, infos[task].text, infos[task].kind in ITEM_KINDS and infos[task].kind)
        for task, columns in plan.items()
    }
    for source in dict.fromkeys(read.values()):
        tasks, columns = [task for task, other in read.items() if other == source], source[0]
        info = model.tasks[tasks[0]]._replace(columns=columns)  # reasons name the input's columns
        texts, positions = [], []
        for position, record in enumerate(records):
            row: list[Any] = [record.values.get(name) for name in columns]
            reason = record.fault or info.rejection_reason(row)
            if reason:
                rows[position].setdefault(ERROR_COLUMN, reason)
            else:
                texts.append(row)
                positions.append(position)
        if embeddings:
            for position, vector in zip(positions, model.embed([info.render(row) for row in texts]), strict=True):
                rows[position][EMBEDDING] = vector.astype(str).astype(float).tolist()  # see _shortest
            continue
        logits = model.row_logits(texts, tasks)
        for task in tasks:
            added = _output_columns(model.tasks[task])
            for position, prediction in zip(positions, model.postprocess(task, logits[task], texts), strict=True):
                values = (prediction.label, *prediction.probabilities.values(), *(prediction.details or {}).values())
                rows[position] |= dict(zip(added, map(_shortest, values), strict=True))
    return rows


def _shortest(value: Any) -> Any:
    """Return a number of a model as the one with the fewest digits that is the same in float32; other values as is."""
    if isinstance(value, list):
        return [_shortest(each) for each in value]
    return float(str(np.float32(value))) if isinstance(value, float) else value


@contextmanager
def _open_output(
    options: PredictOptions,
    kind: str,
    columns: Sequence[str],
    numeric: Sequence[str],
    types: Mapping[str, Any],
    layout: Mapping[str, Any],
) -> Iterator[Writer]:
    """Yield a writer to a temporary file, which is renamed on success. After a failure the temporary file remains."""
    errors = "backslashreplace" if kind == "jsonl" else "surrogateescape"  # copy bytes that are not UTF-8 as they are
    if options.output == STREAM:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors=errors, newline="")
        writer = make_writer(sys.stdout, kind, columns, options.escape_formulas, **layout)
        yield writer
        writer.close()
        return
    path = Path(options.output).expanduser()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    stream = None if kind == "parquet" else temporary.open("w", encoding="utf-8", errors=errors, newline="")
    writer = make_writer(stream or temporary, kind, columns, options.escape_formulas, numeric, types, **layout)
    try:
        try:
            yield writer
        finally:
            writer.close()
            if stream:
                stream.close()
    except BaseException as error:
        print(f"stopped; the rows scored so far are in {temporary}", file=sys.stderr)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise WriteError(explain(temporary, error)) from error
        raise
    temporary.replace(path)


def _file_size(name: str) -> int | None:
    return None if name == STREAM else Path(name).expanduser().stat().st_size


def _print_summary(counts: _Counts, output: str) -> None:
    path = "" if output == STREAM else f": {Path(output).expanduser().resolve()}"
    scored = counts.rows - counts.failed
    abstained = "".join(f", {count:,} of {task!r} abstain" for task, count in counts.abstained.items())
    print(f"{counts.rows:,} row{'s'[: counts.rows != 1]}, {scored:,} scored{abstained}{path}", file=sys.stderr)
    for line in counts.reasons:
        print(f"  {line}", file=sys.stderr)
    if counts.failed > len(counts.reasons):
        print(f"  and {counts.failed - len(counts.reasons):,} more; see column {ERROR_COLUMN}", file=sys.stderr)
