"""What is read from outside: a split of a task (hub, Parquet, CSV, TSV, JSONL), plain text, encoder files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.hub import hub_or_offline
from bam_lightning.config.validation import check_choice, expand_path

if TYPE_CHECKING:
    from bam_lightning.data.task import Task

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
LONGEST_ROW = 1 << 20  # bytes: the block in which pyarrow parses CSV and JSON lines
DEEP = 200  # brackets in a row of JSON lines from which on their nesting is looked at


class Source(Protocol):
    """Where the splits of a task are read."""

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Return the rows of a split of task ``name`` and, for error messages, where they came from."""

    def paths(self, split: str) -> list[Path]:
        """Return the local files of a split; none if it is not read from files."""


@dataclass(frozen=True)
class FileSource:
    """Local files.

    Args:
        files: Split name -> file, a folder with one file per split, or the file of the training split.
        folder_of_splits: Look for the splits in the folder of ``files`` if that is a single file.
    """

    files: Mapping[str, Path] | Path
    folder_of_splits: bool = False

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        if isinstance(self.files, Mapping):
            return list(self.files)
        path = self.files.expanduser()
        if not self.folder_of_splits and not path.is_dir():
            return ["train"]
        folder = path.parent if path.is_file() else path
        if not folder.is_dir():
            raise DataPathError(f"no folder {folder}")
        return sorted({path.stem for path in folder.iterdir() if path.suffix in ENDINGS and path.is_file()})

    def _path(self, name: str, task: Task, split: str) -> Path:
        if isinstance(self.files, Mapping):
            if split not in self.files:
                raise DataPathError(
                    f"task {name!r}: no split {split!r}; splits given: {', '.join(self.files)}; "
                    f"name one with {_split_option(task)}"
                )
            path = expand_path(f"task {name!r}: the file of split {split!r}", str(self.files[split]))
        else:
            path = expand_path(task.option("path"), str(self.files))
            if self.folder_of_splits or (_there(path) and path.is_dir()):
                return split_file(name, task, path, split)
        if not (_there(path) and path.is_file()):
            raise DataPathError(f"task {name!r}: no file {path}")
        return path

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Return the rows of a split and their file.

        Raises:
            DataPathError: If there is no such file; the message lists those that exist.
            DataError: If the file cannot be parsed.
        """
        path = self._path(name, task, split)
        try:
            table = read_file(path, [*task.text, *[task.label] * task.multi_label])
            table.validate(full=True)  # damaged Parquet: invalid UTF-8, list offsets outside their values
            _ = table.column_names  # names are decoded here
        except (pa.ArrowException, ValueError, OSError) as error:
            reason = _why(path, error)
            raise DataError(f"task {name!r}: {path} cannot be read as {path.suffix[1:]}: {reason}") from error
        return table, str(path)

    def paths(self, split: str) -> list[Path]:
        """Return the file of a split, if it exists."""
        if isinstance(self.files, Mapping):
            return [self.files[split].expanduser()] if split in self.files else []
        path = self.files.expanduser()
        if not self.folder_of_splits and not path.is_dir():
            return [path]
        found = _find_split(path.parent if path.is_file() else path, split)
        return [] if found is None else [found]


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub."""

    path: str
    subset: str | None = None
    revision: str | None = None

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist.

        Raises:
            DataError: If the hub cannot be reached within five seconds.
        """
        hub_or_offline()
        from datasets import get_dataset_split_names

        try:
            return [str(split) for split in get_dataset_split_names(self.path, self.subset, revision=self.revision)]
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise DataError(
                f"{self.path} ({self.subset or 'default'}) could not be read from the hub: {reason}"
            ) from error

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Return the rows of a split.

        Raises:
            DataError: If the hub cannot be reached within five seconds; the message says how to use local files.
        """
        hub_or_offline()
        from datasets import load_dataset

        what = f"{self.path} ({self.subset or 'default'}, {split})"
        try:
            dataset = load_dataset(self.path, self.subset, split=split, revision=self.revision)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            what = f"{self.path} ({self.subset or 'default'}, split {split})"
            remedy = (
                f"; to use local files give data.root=DIR, holding {self.subset or name}/{split}.parquet "
                f"(or csv, tsv, jsonl), or {task.option('path')}=DIR"
                if task.config_key
                else "; to use local files, make the task with Task.from_file"
            )
            raise DataError(
                f"task {name!r}: {what} could not be read from the hub ({reason}), and {self.path} is no folder here"
                f"{remedy}"
            ) from error
        return _arrow_table(dataset), what

    def paths(self, split: str) -> list[Path]:
        """Return no files: ``datasets`` keeps its own cache."""
        return []


@dataclass(frozen=True, eq=False)
class TableSource:
    """Tables in memory; ``what`` names them in error messages."""

    tables: Mapping[str, pa.Table]
    what: str

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        return list(self.tables)

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Return the rows of a split."""
        if split not in self.tables:
            raise DataError(
                f"task {name!r}: {self.what} has no split {split!r}; splits: {', '.join(self.tables)}; "
                f"name one with {_split_option(task)}"
            )
        return self.tables[split], f"{self.what} ({split})"

    def paths(self, split: str) -> list[Path]:
        """Return no files."""
        return []


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """Splits of a ``datasets.DatasetDict``."""

    splits: Mapping[str, Any]

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        return list(self.splits)

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Return the rows of a split."""
        if split not in self.splits:
            raise DataError(
                f"task {name!r}: the data set has no split {split!r}; splits: {', '.join(self.splits)}; "
                f"name one with {_split_option(task)}"
            )
        return _arrow_table(self.splits[split]), f"the data set ({split})"

    def paths(self, split: str) -> list[Path]:
        """Return no files."""
        return []


@dataclass(frozen=True)
class DemoSource:
    """Generated rows of the demo suite. ``key`` is the prefix of the options that error messages name."""

    kind: str
    train_rows: int | None
    dev_rows: int | None
    seed: int
    key: str

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        return ["train", "validation"]

    def read(self, name: str, task: Task, split: str) -> tuple[pa.Table, str]:
        """Generate the rows of a split.

        Raises:
            DataError: For an unknown kind or split, or if the numbers of rows are not given.
        """
        from bam_lightning.data.demo_tasks import DEMO_TASKS, generate_splits

        check_choice(f"{self.key}.subset", self.kind, DEMO_TASKS)
        if self.train_rows is None or self.dev_rows is None:
            raise DataError(f"{self.key} is generated, so it needs train_rows and dev_rows")
        splits = generate_splits(self.kind, self.train_rows, self.dev_rows, self.seed)
        if split not in splits:
            raise DataError(f"{self.key} is generated and has no split {split!r}; splits: {', '.join(splits)}")
        return pa.table(splits[split]), f"the generated suite ({split})"

    def paths(self, split: str) -> list[Path]:
        """Return no files."""
        return []


def _split_option(task: Task) -> str:
    if task.config_key:
        return f"{task.config_key}.train_split=, .dev_split= or .test_split="
    return "split={'train': ..., 'dev': ..., 'test': ...}"


def _arrow_table(dataset: Any) -> pa.Table:
    """Return the rows of a ``datasets.Dataset`` in their order, with the features in the schema's metadata."""
    table = dataset.with_format(None).flatten_indices().data.table if dataset._indices is not None else (
        dataset.with_format(None).data.table
    )  # fmt: skip
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def local_path(name: str, path: str, subset: str | None, root: str | None) -> Path | None:
    """Return the folder or file that holds the task, or ``None`` if it comes from the hub."""
    local = expand_path(f"suite.tasks.{name}.path", path)
    if _there(local) or path.startswith((".", "/", "~")) or path.count("/") > 1 or local.suffix in ENDINGS:
        return local  # a hub id has at most one slash
    return expand_path("data.root", root) / (subset or name) if root is not None else None


def split_file(name: str, task: Task, folder: Path, split: str) -> Path:
    """Return the file of ``split`` in a folder: that very name, or the name with one of the known endings."""
    if folder.is_file():
        folder = folder.parent
    found = _find_split(folder, split)
    if found is not None:
        return found
    if not folder.is_dir():
        check = f"; check data.root and {task.option('subset')}" if task.config_key else ""
        raise DataPathError(f"task {name!r}: no folder {folder}{check}")
    there = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    raise DataPathError(
        f"task {name!r}: no split {split!r} in {folder} (looked for {', '.join(ENDINGS)}); files there: "
        f"{', '.join(there) or 'none'}; name one with {_split_option(task)}"
    )


def _find_split(folder: Path, split: str) -> Path | None:
    for candidate in (folder / split, *(folder / f"{split}{ending}" for ending in ENDINGS)):
        if candidate.suffix in ENDINGS and _there(candidate) and candidate.is_file():
            return candidate
    return None


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
