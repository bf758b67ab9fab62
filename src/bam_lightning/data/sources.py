"""Where the splits of a task are read: files, the Hugging Face hub, tables in memory, the demo suite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.hub import hub_or_offline
from bam_lightning.config.validation import check_choice, check_delimiter, expand_path, header_hint, nearest
from bam_lightning.data.readers import (
    FORMATS,
    SHOWN_FILES,
    Columns,
    expand_columns,
    list_names,
    missing_path,
    names_in,
    no_format,
    path_exists,
    read_columns,
    read_error,
    split_ending,
)

if TYPE_CHECKING:
    from bam_lightning.data.task import Task

SIMILAR_PATH = 0.8  # of a local name that was meant in place of an id of the hub
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\Z")


class Rows(NamedTuple):
    """A split as it was read.

    Attributes:
        table: The columns that were asked for, those that exist.
        columns: Names of all columns of the source.
        where: Where the rows came from, for error messages.
    """

    table: pa.Table
    columns: list[str]
    where: str


class Source(Protocol):
    """Where the splits of a task are read."""

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Return the columns of a split that task ``name`` needs, and ``more`` of them."""

    def paths(self, split: str) -> list[Path]:
        """Return the local files of a split; none if it is not read from files."""


@dataclass(frozen=True)
class FileSource:
    """Local files.

    Args:
        files: Split name -> file, a folder with one file (or one set of shards) per split, or the file of the
            training split.
        folder_of_splits: Look for the splits in the folder of ``files`` if that is a single file.
        subset: Subfolder to look in first, as data sets of the hub with several configurations have them.
        delimiter: Of CSV and TSV; ``None`` finds it.
        quoting: Whether ``"`` quotes fields of TSV; ``None`` finds out.
        delimiter_option: How the user sets ``delimiter``.
        remedy: What to do if ``files`` are not there; default: set the path.
    """

    files: Mapping[str, Path] | Path
    folder_of_splits: bool = False
    subset: str | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    delimiter_option: str = "delimiter"
    remedy: str = ""

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for a delimiter that the csv module does not take."""
        check_delimiter(self.delimiter_option, self.delimiter)

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        if isinstance(self.files, Mapping):
            return list(self.files)
        path = self.files.expanduser()
        if not self.folder_of_splits and not path.is_dir():
            return ["train"]
        folder = path.parent if path.is_file() else path
        if not folder.is_dir():
            raise DataPathError(missing_path(folder, self.remedy or "set path"))
        return sorted({split for split, _ in _split_files(folder, self.subset)})

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Return the columns of a split that the task needs.

        Raises:
            DataPathError: If there is no such file; the message lists those that exist.
            DataError: If a file cannot be parsed.
        """
        paths = self._find(name, task, split)
        parts = [self._read_file(name, path, [*task.columns, *more], more) for path in paths]
        for path, part in zip(paths[1:], parts[1:], strict=True):
            if part.table.schema.names != parts[0].table.schema.names:
                raise DataError(
                    f"task {name!r}: {path} has the columns {', '.join(part.names)}, but {paths[0]} has "
                    f"{', '.join(parts[0].names)}; all shards need the same"
                )
        try:
            table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise DataError(f"task {name!r}: the shards of split {split!r} have different types: {reason}") from error
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more shards"
        return Rows(table, parts[0].names, where)

    def _read_file(self, name: str, path: Path, columns: Sequence[str], mixed: Sequence[str]) -> Columns:
        kind = split_ending(path.name)[1]
        if not kind:
            raise DataError(f"task {name!r}: {path} {no_format(path.name)}")
        try:
            return read_columns(path, columns, self.delimiter, self.quoting, self.delimiter_option, mixed)
        except (pa.ArrowException, ValueError, OSError, EOFError) as error:
            reason = read_error(error).replace(f"{path} ", "it ", 1)
            raise DataError(f"task {name!r}: {path} cannot be read as {kind}: {reason}") from error

    def _find(self, name: str, task: Task, split: str) -> list[Path]:
        if isinstance(self.files, Mapping):
            if split not in self.files:
                raise DataPathError(
                    f"task {name!r}: no split {split!r}; splits given: {', '.join(self.files)}; "
                    f"name one with {_split_option(task)}"
                )
            path = expand_path(f"task {name!r}: the file of split {split!r}", str(self.files[split]))
        else:
            path = expand_path(task.option("path"), str(self.files))
            if self.folder_of_splits or (path_exists(path) and path.is_dir()):
                return find_split(name, task, path, split, self.subset, self.remedy)
        if not (path_exists(path) and path.is_file()):
            remedy = self.remedy or f"set {task.option('path')}"
            raise DataPathError(f"task {name!r}: {missing_path(path, remedy)}")
        return [path]

    def header_hint(self, columns: Sequence[str]) -> str:
        """Return a hint where names of columns look like several, put apart by another separator."""
        return header_hint(columns, self.delimiter_option, self.delimiter)

    def paths(self, split: str) -> list[Path]:
        """Return the files of a split, if they exist."""
        if isinstance(self.files, Mapping):
            return [self.files[split].expanduser()] if split in self.files else []
        path = self.files.expanduser()
        if not self.folder_of_splits and not path.is_dir():
            return [path]
        return _find_split(path.parent if path.is_file() else path, split, self.subset)


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hugging Face hub.

    Args:
        path: Its id.
        subset: Name of its configuration.
        revision: Commit, branch or tag.
        local_option: How the user set ``path``, if it might also be a file or folder, with a slip of the pen.
    """

    path: str
    subset: str | None = None
    revision: str | None = None
    local_option: str = ""

    def _check_path(self, where: str) -> None:
        """Raise ``DataPathError`` where a file or folder of a similar name is here, before the hub is asked."""
        if not self.local_option or "/" in self.path:
            return
        stems = {split_ending(name)[0]: name for name in reversed(names_in(Path.cwd()))}
        near = nearest(self.path, stems, SIMILAR_PATH)
        if near is not None:
            raise DataPathError(
                f"{where}no file or folder {self.path!r} in {Path.cwd()}; set {self.local_option}, for a data set of "
                f"the hub to OWNER/NAME; did you mean {stems[near]!r}?"
            )

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist.

        Raises:
            DataError: If the hub cannot be reached within five seconds.
        """
        self._check_path("")
        hub_or_offline()
        from datasets import get_dataset_split_names

        try:
            return [str(split) for split in get_dataset_split_names(self.path, self.subset, revision=self.revision)]
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise DataError(
                f"{self.path} ({self.subset or 'default'}) could not be read from the hub: {reason}"
            ) from error

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Return the rows of a split.

        Raises:
            DataError: If the hub cannot be reached within five seconds; the message says how to use local files.
        """
        self._check_path(f"task {name!r}: ")
        hub_or_offline()
        from datasets import load_dataset

        what = f"{self.path} ({self.subset or 'default'}, {split})"
        try:
            dataset = load_dataset(self.path, self.subset, split=split, revision=self.revision)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            what = f"{self.path} ({self.subset or 'default'}, split {split})"
            made = "make the task with Task.from_file"
            remedy = (
                f"; to use local files give data.root=DIR, holding {self.subset or name}/{split}.parquet "
                f"(or csv, tsv, jsonl), or {task.option('path')}=DIR"
                if task.config_key
                else f"; to use local files, {f'set {self.local_option}' if self.local_option else made}"
            )
            raise DataError(
                f"task {name!r}: {what} could not be read from the hub ({reason}), and {self.path} is no folder here"
                f"{remedy}"
            ) from error
        return _select(_arrow_table(dataset), [*task.columns, *more], what)

    def paths(self, split: str) -> list[Path]:
        """Return no files: ``datasets`` keeps its own cache."""
        return []


@dataclass(frozen=True, eq=False)
class TableSource:
    """Tables in memory; ``what`` names them in error messages."""

    tables: Mapping[str, pa.Table]
    what: str
    names: Mapping[str, list[str]] = field(default_factory=dict)  # of all columns, where tables leave some out

    def split_names(self) -> list[str]:
        """Return the names of the splits that exist."""
        return list(self.tables)

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Return the rows of a split."""
        if split not in self.tables:
            raise DataError(
                f"task {name!r}: {self.what} has no split {split!r}; splits: {', '.join(self.tables)}; "
                f"name one with {_split_option(task)}"
            )
        rows = _select(self.tables[split], [*task.columns, *more], f"{self.what} ({split})")
        return rows._replace(columns=self.names.get(split, rows.columns))

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

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Return the rows of a split."""
        if split not in self.splits:
            raise DataError(
                f"task {name!r}: the data set has no split {split!r}; splits: {', '.join(self.splits)}; "
                f"name one with {_split_option(task)}"
            )
        return _select(_arrow_table(self.splits[split]), [*task.columns, *more], f"the data set ({split})")

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

    def read(self, name: str, task: Task, split: str, more: Sequence[str] = ()) -> Rows:
        """Generate the rows of a split.

        Raises:
            DataError: For an unknown kind or split, or if the numbers of rows are not given.
        """
        from bam_lightning.data.demo_kinds import DEMO_KINDS, generate_rows
        from bam_lightning.data.demo_tasks import DEMO_TASKS, generate_splits

        check_choice(f"{self.key}.subset", self.kind, (*DEMO_TASKS, *DEMO_KINDS))
        if self.train_rows is None or self.dev_rows is None:
            raise DataError(f"{self.key} is generated, so it needs train_rows and dev_rows")
        splits: Mapping[str, Any]
        if self.kind in DEMO_KINDS:
            generated = generate_rows(self.kind, self.train_rows, self.dev_rows, self.seed)
            splits = {name: pa.Table.from_pylist(rows) for name, rows in generated.items()}
        else:
            columns = generate_splits(self.kind, self.train_rows, self.dev_rows, self.seed)
            splits = {name: pa.table(part) for name, part in columns.items()}
        if split not in splits:
            raise DataError(f"{self.key} is generated and has no split {split!r}; splits: {', '.join(splits)}")
        return _select(splits[split], [*task.columns, *more], f"the generated suite ({split})")

    def paths(self, split: str) -> list[Path]:
        """Return no files."""
        return []


def _select(table: pa.Table, columns: Sequence[str], where: str) -> Rows:
    """Return the columns of the given names, those that exist once."""
    names = table.column_names
    wanted = expand_columns(columns, names)
    return Rows(table.select([column for column in wanted if names.count(column) == 1]), names, where)


def _split_option(task: Task) -> str:
    if task.config_key:
        return f"{task.config_key}.train_split=, .dev_split= or .test_split="
    return task.spelled.get("split", "split={'train': ..., 'dev': ..., 'test': ...}")


def _arrow_table(dataset: Any) -> pa.Table:
    """Return the rows of a ``datasets.Dataset`` in their order, with the features in the schema's metadata."""
    table = dataset.with_format(None).flatten_indices().data.table if dataset._indices is not None else (
        dataset.with_format(None).data.table
    )  # fmt: skip
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def local_path(name: str, path: str, subset: str | None, root: str | None) -> Path | None:
    """Return the folder or file that holds the task, or ``None`` if it comes from the hub."""
    local = expand_path(f"suite.tasks.{name}.path", path)
    if path_exists(local) or path.startswith((".", "/", "~")) or path.count("/") > 1 or split_ending(local.name)[1]:
        return local  # a hub id has at most one slash
    return expand_path("data.root", root) / (subset or name) if root is not None else None


def find_split(
    name: str, task: Task, folder: Path, split: str, subset: str | None = None, remedy: str = ""
) -> list[Path]:
    """Return the files of a split in a folder: that very name, the name with an ending, or its shards.

    Args:
        name: Name of the task.
        task: The task.
        folder: The folder, or a file in it.
        split: Name of the split.
        subset: Subfolder to look in first.
        remedy: What to do if there is no such folder; default: set the path.

    Raises:
        DataPathError: If there is none, or a shard is missing.
    """
    if not path_exists(folder):
        remedy = remedy or f"set {task.option('path')}"
        raise DataPathError(f"task {name!r}: {missing_path(folder, remedy)}")
    file = folder if folder.is_file() else None
    folder = folder.parent if file else folder
    found = _find_split(folder, split, subset)
    if found:
        _check_shards(name, found)
        return found
    if file:
        dev = split in (task.split.get("train"), task.split.get("dev"))
        second = task.split.get("dev")
        missing = second if dev and second and not _find_split(folder, second, subset) else split
        fix = f"set {task.option('dev_split')}=null to take the dev rows from it" if dev else "add its file"
        raise DataPathError(
            f"task {name!r}: {file.name} is one file, and there is no split {missing!r} beside it in "
            f"{folder.absolute()}; {fix}, or name a table beside it with {_split_option(task)}; tables there: "
            f"{list_names(names_in(folder, tables=True), SHOWN_FILES)}"
        )
    raise DataPathError(
        f"task {name!r}: no split {split!r} in {folder} (looked for {', '.join(f'.{kind}' for kind in FORMATS)}); "
        f"files there: {list_names(names_in(folder), 2 * SHOWN_FILES)}; name one with {_split_option(task)}"
    )


def _find_split(folder: Path, split: str, subset: str | None) -> list[Path]:
    files = list(_split_files(folder, subset))
    exact = [path for _, path in files if path.name == split]
    if exact:
        return exact
    named = [path for stem, path in files if stem == split]
    if not named:
        return []
    if _SHARD.match(split_ending(named[0].name)[0]):
        return sorted(path for path in named if path.parent == named[0].parent)
    return named[:1]


def _split_files(folder: Path, subset: str | None) -> Iterator[tuple[str, Path]]:
    """Yield the split and the path of each table in a folder, and in the folders that the hub's layout has in it.

    Among files of one split, Parquet comes first, then the other formats by name.
    """
    folders = [folder / subset] if subset else []
    for place in [*folders, folder, folder / "data"]:
        if not place.is_dir():
            continue
        tables = [path for path in place.iterdir() if split_ending(path.name)[1] and path.is_file()]
        for path in sorted(tables, key=lambda path: (split_ending(path.name)[1] != "parquet", path.name)):
            stem = split_ending(path.name)[0]
            shard = _SHARD.match(stem)
            yield (shard["split"] if shard else stem), path


def _check_shards(name: str, paths: list[Path]) -> None:
    shard = _SHARD.match(split_ending(paths[0].name)[0])
    if shard and len(paths) != int(shard["count"]):
        there = ", ".join(path.name for path in paths)
        raise DataPathError(
            f"task {name!r}: {len(paths)} of {int(shard['count'])} shards of split {shard['split']!r} are in "
            f"{paths[0].parent}: {there}; add the others"
        )
