"""What is read from outside: a split of a task (hub, Parquet, CSV, TSV, JSONL), plain text, encoder files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from bam_lightning.config.data_config import DataConfig, TaskConfig
from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.hub import hub_or_offline
from bam_lightning.config.validation import expand_path

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
LONGEST_ROW = 1 << 20  # bytes: the block in which pyarrow parses CSV and JSON lines
DEEP = 200  # brackets in a row of JSON lines from which on their nesting is looked at


def read_split(name: str, task: TaskConfig, data: DataConfig, split: str) -> tuple[pa.Table, str]:
    """Return the rows of ``split`` and, for error messages, where they came from.

    Local files are read when ``data.root`` is given or ``task.path`` is a file or folder; else the hub is asked.

    Raises:
        DataError: if there is no such file, naming what lies there.
        OSError: if the hub cannot be reached within five seconds, saying how to use local files.
        ValueError: if the file cannot be parsed.
    """
    local = local_path(name, task, data)
    if local is None:
        return _from_hub(name, task, split), f"{task.path} ({task.subset or 'default'}, {split})"
    path = split_file(name, local, split)
    try:
        table = read_file(path, [*task.text_columns, *[task.label_column] * task.multi_label])
        table.validate(full=True)  # of damaged Parquet: what is no UTF-8 text, lists that lead out of their values
        _ = table.column_names  # they are decoded only now
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"task {name!r}: {path} cannot be read as {path.suffix[1:]}: {_why(path, error)}") from error
    return table, str(path)


def local_path(name: str, task: TaskConfig, data: DataConfig) -> Path | None:
    """Return the folder or file that holds the task, or ``None`` if it comes from the hub."""
    own = expand_path(f"suite.tasks.{name}.path", task.path)
    if _there(own) or task.path.startswith((".", "/", "~")) or task.path.count("/") > 1 or own.suffix in ENDINGS:
        return own  # an id of the hub has one slash at most
    return expand_path("data.root", data.root) / (task.subset or name) if data.root is not None else None


def split_file(name: str, folder: Path, split: str) -> Path:
    """Return the file of ``split``: that very name, or the name with one of the known endings."""
    if folder.is_file():
        folder = folder.parent
    for candidate in (folder / split, *(folder / f"{split}{ending}" for ending in ENDINGS)):
        if candidate.suffix in ENDINGS and _there(candidate) and candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise DataPathError(f"task {name!r}: no folder {folder}; check data.root and suite.tasks.{name}.subset")
    there = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    raise DataPathError(
        f"task {name!r}: no split {split!r} in {folder} (looked for {', '.join(ENDINGS)}); files there: "
        f"{', '.join(there) or 'none'}; name one with suite.tasks.{name}.train_split=, .dev_split= or .test_split="
    )


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file's, say
        return False


def _why(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, in the words of who wrote it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.suffix != ".parquet":
        with path.open("rb") as source:
            start = source.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "it is UTF-16 text, not UTF-8; save it as UTF-8"
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in reason:
        return f"{reason}; save it as UTF-8"
    if "straddl" in reason:
        return f"a row is longer than {LONGEST_ROW >> 20} MiB, by a quote that is never closed perhaps; mend that row"
    if "Column() changed from" in reason:
        return "each line must be one row as a JSON object, {...}, not a list or a value"
    return reason


def read_file(path: Path, text_columns: list[str]) -> pa.Table:
    """Read one file; in CSV and TSV the columns named are text, whatever they look like.

    TSV is unquoted, as GLUE's files are.
    """
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path)
    if path.suffix == ".jsonl":
        from pyarrow import json

        _check_depth(path)
        return json.read_json(path)
    from pyarrow import csv

    tabs = path.suffix == ".tsv"
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(
            delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(text_columns, pa.string()),
            true_values=[],
            false_values=[],  # class names
        ),
    )


def _check_depth(path: Path) -> None:
    """Raise ``DataError`` for a row of lists in lists in lists, which would end the process in pyarrow's parser."""
    from json import loads

    with path.open("rb") as source:
        for row, line in enumerate(source):
            if line.count(b"[") + line.count(b"{") > DEEP:
                try:
                    loads(line)
                except RecursionError as error:
                    raise DataError(f"row {row} is nested too deeply; mend it") from error
                except ValueError:
                    pass  # pyarrow says it better


def _from_hub(name: str, task: TaskConfig, split: str) -> pa.Table:
    hub_or_offline()
    from datasets import load_dataset

    try:
        return load_dataset(task.path, task.subset, split=split).with_format(None).data.table
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        what = f"{task.path} ({task.subset or 'default'}, split {split})"
        raise DataError(
            f"task {name!r}: {what} could not be read from the hub ({reason}), and {task.path} is no folder here; "
            f"to use local files give data.root=DIR, holding {task.subset or name}/{split}.parquet "
            f"(or csv, tsv, jsonl), or suite.tasks.{name}.path=DIR"
        ) from error


def read_texts(files: Iterable[str]) -> list[str]:
    """Return the non-empty lines of the files, one text each.

    Raises:
        DataError: naming the file that is missing, not UTF-8, or empty.
    """
    texts: list[str] = []
    for name in files:
        path = expand_path("encoder.pretraining.text", name)
        if not (_there(path) and path.is_file()):
            raise DataPathError(f"encoder.pretraining.text: no file {path}; give text files, one text a line")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise DataError(f"encoder.pretraining.text: {path} is not UTF-8 text: {error}") from error
        if not any(lines):
            raise DataError(f"encoder.pretraining.text: {path} has no text in it")
        texts += [line for line in lines if line]
    return texts
