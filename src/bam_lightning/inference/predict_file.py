"""Score a file of texts with a trained model: ``bam predict run=RUN_ID input=FILE output=FILE``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bam_lightning.config.exceptions import ConfigError, ConfigPathError, DataError, DataPathError, OutputExistsError
from bam_lightning.config.options import StoreOptions, command, option
from bam_lightning.config.validation import wrong_separator
from bam_lightning.data.records import STREAM, Record, Source, chunks, format_of
from bam_lightning.data.writers import Writer, make_writer
from bam_lightning.inference.model_info import ModelInfo, TaskInfo, find_model
from bam_lightning.inference.model_info import read_model_info as read_saved

if TYPE_CHECKING:
    from bam_lightning.inference.predictor import Predictor

USAGE = """
Score texts with a trained model: labels and probabilities by name, in the order of the rows.

  bam predict run=RUN_ID task=rte input=pairs.csv output=out.csv
  bam predict run=RUN_ID input=texts.jsonl output=out.parquet      all tasks whose columns are there
  ... | bam predict run=RUN_ID task=sst2 input_format=jsonl | ...   standard input and output

Files may be larger than memory. All columns are kept; new ones are TASK.label and TASK.NAME, the probability of each
label name (TASK.score for numbers). A row that cannot be scored says why in `prediction_error`, and the others go on;
rows are counted from 1, without the header.
"""
ERROR = "prediction_error"
SHOWN = 3  # faults said on the terminal


@dataclass
class PredictOptions(StoreOptions):
    """Options of the command."""

    run: str = option("???", "a Run, a folder, or a hub id")
    task: list[str] = field(
        default_factory=list, metadata={"help": "names of tasks; none: all whose columns are there"}
    )
    input: str = option(STREAM, "a CSV, TSV, JSON lines or Parquet file; -: standard input")
    output: str = option(STREAM, "as input; -: standard output")
    input_format: str | None = option(None, "csv, tsv, jsonl or parquet, where the ending does not say")
    output_format: str | None = option(None, "as input_format; of standard output: that of the input")
    columns: list[str] = field(default_factory=list, metadata={"help": "columns of the texts, if not the task's own"})
    escape_formulas: bool = option(False, "CSV, TSV: put ' before cells that a spreadsheet would run (= + - @)")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    precision: str = option("auto", "auto (as it was trained), bf16-mixed or 32-true")
    heads: list[str] = field(default_factory=list, metadata={"help": "dotted names of your own head classes to trust"})
    overwrite: bool = option(False, "replace a file that is there")


def job(options: PredictOptions) -> int:
    """Score a file; return 1 if no row of it could be scored."""
    kind = format_of("input", options.input, options.input_format)
    fallback = "jsonl" if kind == "parquet" else kind
    to_kind = format_of(
        "output", options.output, options.output_format or (fallback if options.output == STREAM else None)
    )
    _check_paths(options)
    source = Source(options.input, kind)
    parts = chunks(source)
    first = next(parts, [])
    saved = read_saved(find_model(options.run, options.store))
    readable = list(dict.fromkeys([*source.columns, *(name for one in first if not one.fault for name in one.values)]))
    plan = _plan(saved, options, readable or next(iter(saved.tasks.values())).columns)
    from bam_lightning.inference.predictor import load

    model = load(saved.run.path, device=options.device, precision=options.precision, heads=options.heads)
    added = [name for task in plan for name in _names(saved.tasks[task])]
    for name in added:
        if added.count(name) > 1:
            raise DataError(f"the output would have two columns {name!r}: a class of that task has the name 'label'")
        if name in readable:
            raise DataError(f"input has a column {name!r} already, which the output needs; rename it")
    kept = [name for name in dict.fromkeys([*source.columns, *(name for one in first for name in one.values)])
            if name != ERROR]  # fmt: skip
    numbers = [name for name in added if not name.endswith(".label")]
    with _output(options.output, to_kind, [*kept, *added, ERROR], options.escape_formulas, numbers) as writer:
        rows, bad, faults = _run(model, plan, first, parts, writer, _size(options.input))
    _report(rows, bad, faults, options.output)
    return 1 if rows and bad == rows else 0


def _check_paths(options: PredictOptions) -> None:
    source, target = Path(options.input).expanduser(), Path(options.output).expanduser()
    if options.input != STREAM and not source.is_file():
        raise DataPathError(f"input: no file {source}")
    if options.output == STREAM:
        return
    if options.input != STREAM and target.resolve() == source.resolve():
        raise ConfigError(f"output: {target} is the input; give another file")
    if target.exists() and not options.overwrite:
        raise OutputExistsError(f"output: {target} is there; give another file, or overwrite=true")
    if not target.parent.is_dir():
        raise ConfigPathError(f"output: no folder {target.parent}")


def _plan(saved: ModelInfo, options: PredictOptions, there: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return task -> the columns of its texts in the input."""
    if options.task and options.task != ["all"]:
        chosen = [saved.task(name) for name in options.task]
        for task in chosen:
            if options.columns and len(options.columns) != len(task.columns):
                raise ConfigError(
                    f"columns names {len(options.columns)}, task {task.name!r} reads {len(task.columns)}: "
                    f"{', '.join(task.columns)}"
                )
    elif options.columns:
        chosen = saved.named("all", len(options.columns))
    else:
        chosen = [task for task in saved.tasks.values() if set(task.columns) <= set(there)]
    plan = {task.name: tuple(options.columns) or task.columns for task in chosen}
    wrong = next((task for task in chosen if not set(plan[task.name]) <= set(there)), None)
    if wrong is None and plan:
        return plan
    wanted = f"task {wrong.name!r} reads {', '.join(plan[wrong.name])}" if wrong else "no task has its columns there"
    hint = wrong_separator(there, format_of("input", options.input, options.input_format))
    example = wrong or next(iter(saved.tasks.values()))
    raise DataError(
        f"input: {wanted}; columns there: {', '.join(there) or 'none'}{hint}; "
        f"say which to read, as in task={example.name} columns=[{','.join(example.columns)}]"
    )


def _names(task: TaskInfo) -> list[str]:
    if task.label_range:
        return [f"{task.name}.score"]
    return [f"{task.name}.label", *(f"{task.name}.{name}" for name in task.label_names)]


def _run(
    model: Predictor,
    plan: Mapping[str, tuple[str, ...]],
    first: list[Record],
    rest: Iterator[list[Record]],
    writer: Writer,
    size: int | None,
) -> tuple[int, int, list[str]]:
    """Score every part as it comes; return how many rows there were, how many of them not scored, and the first few of
    the reasons: a file may be larger than memory, and bad in all its rows."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    rows, bad, part = 0, 0, first
    faults: list[str] = []
    columns = (TextColumn("{task.fields[rows]:,} rows"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        shown = bar.add_task("", total=size, rows=0)
        while part:
            scored = score(model, plan, part)
            places = [place for place, one in enumerate(scored) if ERROR in one]
            faults += [f"row {rows + place + 1}: {scored[place][ERROR]}" for place in places[: SHOWN - len(faults)]]
            bad += len(places)
            writer.write(scored)
            rows += len(part)
            bar.update(shown, completed=part[-1].place, rows=rows)
            part = next(rest, [])
    return rows, bad, faults


def score(model: Predictor, plan: Mapping[str, tuple[str, ...]], part: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the rows with what the model says of them, or why it says nothing; one encoder pass for like columns."""
    rows = [{name: value for name, value in record.values.items() if name != ERROR} for record in part]
    for columns in dict.fromkeys(plan.values()):
        names = [name for name, own in plan.items() if own == columns]
        reader = model.tasks[names[0]]._replace(columns=columns)  # for faults in the input's own words
        texts, places = [], []
        for place, record in enumerate(part):
            row: list[Any] = [record.values.get(name) for name in columns]
            fault = record.fault or reader.fault(row)
            if fault:
                rows[place].setdefault(ERROR, fault)
            else:
                texts.append(row)
                places.append(place)
        logits = model.logits(texts, names)
        for name in names:
            added = _names(model.tasks[name])
            for place, said in zip(places, model.say(name, logits[name]), strict=True):
                rows[place] |= dict(zip(added, (said.label, *said.probabilities.values()), strict=True))
    return rows


@contextmanager
def _output(name: str, kind: str, columns: Sequence[str], escape: bool, numbers: Sequence[str]) -> Iterator[Writer]:
    """Yield a writer into a file beside, which takes its name when all is written; what fails leaves what was done."""
    errors = "backslashreplace" if kind == "jsonl" else "surrogateescape"  # what was no UTF-8 comes out as it came in
    if name == STREAM:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors=errors, newline="")
        writer = make_writer(sys.stdout, kind, columns, escape)
        yield writer
        writer.close()
        return
    path = Path(name).expanduser()
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    stream = None if kind == "parquet" else beside.open("w", encoding="utf-8", errors=errors, newline="")
    writer = make_writer(stream or beside, kind, columns, escape, numbers)
    try:
        yield writer
    except BaseException:
        print(f"stopped; the rows done so far lie in {beside}", file=sys.stderr)
        raise
    finally:
        writer.close()
        if stream:
            stream.close()
    beside.replace(path)


def _size(name: str) -> int | None:
    return None if name == STREAM else Path(name).expanduser().stat().st_size


def _report(rows: int, bad: int, faults: Sequence[str], output: str) -> None:
    where = "" if output == STREAM else f": {Path(output).expanduser().resolve()}"
    print(f"{rows:,} row{'s'[: rows != 1]}, {rows - bad:,} of them scored{where}", file=sys.stderr)
    for line in faults:
        print(f"  {line}", file=sys.stderr)
    if bad > len(faults):
        print(f"  and {bad - len(faults):,} more; column {ERROR} says why", file=sys.stderr)


def main() -> None:
    """Entry point."""
    command(PredictOptions, USAGE, job)


if __name__ == "__main__":
    main()
