"""The rows of a task: texts, gold labels and content keys, checked before anything is trained.

A row's key is a hash of its texts, its task's text columns and label map: never of its position, so a teacher's
column finds its row whatever the order of the file. Training rows are put in the order of their keys, so that
permuting a file changes nothing. N rows, C label names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bam_lightning.config.data_config import DataConfig, TaskConfig
from bam_lightning.config.exceptions import DataError
from bam_lightning.config.validation import wrong_separator
from bam_lightning.data.labels import UNLABELLED, read_labels
from bam_lightning.data.lazy_texts import LateTexts
from bam_lightning.data.readers import read_split


class TaskSplit(NamedTuple):
    """One split. ``texts``: one or two columns of N strings; ``labels``: int64 class ids or float32 scores ``[N]``, of
    a multi-label task int64 0 and 1 ``[N, C]``; ``keys``: N hashes of 16 bytes."""

    texts: tuple[Sequence[str], ...]
    labels: NDArray[np.generic]
    keys: list[bytes]

    def take(self, order: NDArray[np.int64]) -> TaskSplit:
        """Return the rows at the positions ``order``, in that order."""
        places = order.tolist()
        picked = tuple(
            column.take(order) if isinstance(column, LateTexts) else [column[i] for i in places]
            for column in self.texts
        )
        return TaskSplit(picked, self.labels[order], [self.keys[i] for i in places])

    @property
    def fingerprint(self) -> str:
        """Hash of keys and labels in their order."""
        digest = hashlib.sha256(b"".join(self.keys))
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()[:16]


class TaskExamples(NamedTuple):
    """The training rows, in the order of their keys, and the dev rows, in the order of the file."""

    train: TaskSplit
    dev: TaskSplit

    @property
    def fingerprint(self) -> str:
        """Hash of all that a Run learns from and is scored on, whatever the order of the files."""
        keys, labels = self.dev.keys, self.dev.labels
        order = sorted(range(len(keys)), key=lambda row: (keys[row], str(labels[row])))
        dev = self.dev.take(np.asarray(order, dtype=np.int64)).fingerprint
        return hashlib.sha256(f"{self.train.fingerprint}{dev}".encode()).hexdigest()[:16]


def load_examples(name: str, task: TaskConfig, data: DataConfig) -> TaskExamples:
    """Read and check the training and dev rows of one task.

    Raises:
        DataError: see ``read_split``.
        ValueError: naming task, split, row and column, for rows that cannot be learned from.
    """
    assert task.train_split is not None
    assert task.dev_split is not None
    train = load_split(name, task, data, task.train_split, task.train_rows)
    dev = load_split(name, task, data, task.dev_split, task.dev_rows)
    if data.double_symmetric and task.symmetric:
        train = doubled(name, task, train)
    return sort_by_key(train, dev)[1]


def sort_by_key(train: TaskSplit, dev: TaskSplit) -> tuple[NDArray[np.int64], TaskExamples]:
    """Return the order of the training rows by key, then by label, and the rows of a task in it."""
    halves = np.frombuffer(b"".join(train.keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    labels = train.labels.reshape(len(train.labels), -1)
    order = np.lexsort((*labels.T[::-1], halves[:, 1], halves[:, 0]))  # the last of them counts first
    pa.default_memory_pool().release_unused()  # of the tables that texts were read from
    return order, TaskExamples(train.take(order), dev)


def load_split(name: str, task: TaskConfig, data: DataConfig, split: str, limit: int | None) -> TaskSplit:
    """Read and check one labelled split; ``limit`` keeps its first rows."""
    table, where = _table(name, task, data, split, [task.label_column])
    if limit is not None:
        table = table.slice(0, limit)
    texts = _all_texts(where, name, task, table)
    return TaskSplit(texts, read_labels(where, name, task, table), row_keys(name, task, texts))


def load_unlabelled(name: str, task: TaskConfig, data: DataConfig, split: str, in_order: bool = False) -> TaskSplit:
    """Read and check a split without looking at labels, which a test split does not have; all are -1.

    ``in_order`` refuses rows that are not sorted by their ids: a submission counts them.
    """
    table, where = _table(name, task, data, split, [])
    if in_order and task.id_column:
        ids = table.column(task.id_column).to_pylist()
        for row, (one, following) in enumerate(pairwise(ids)):
            if one > following:
                raise DataError(
                    f"{where}: id {following} follows {one} in row {row + 1}, so the rows are not in their official "
                    "order, which a submission needs; sort the file by its ids"
                )
    texts = _all_texts(where, name, task, table)
    return TaskSplit(texts, np.full(len(texts[0]), UNLABELLED), row_keys(name, task, texts))


def _table(name: str, task: TaskConfig, data: DataConfig, split: str, more: list[str]) -> tuple[pa.Table, str]:
    """Return a split that has rows, unique ids, the text columns and ``more``; and where it comes from."""
    if task.path == "generated":
        table, where = _generated(name, task, data, split), f"the generated suite ({split})"
    else:
        table, where = read_split(name, task, data, split)
    where = f"task {name!r}, {where}"
    if table.num_rows == 0:
        raise DataError(f"{where}: the split is empty; check the file, or choose another split")
    there = table.column_names
    for column in [*task.text_columns, *more, *([task.id_column] if task.id_column else [])]:
        if column not in there:
            raise DataError(
                f"{where}: no column {column!r}; columns there: {', '.join(there)}"
                f"{wrong_separator(there, where.rpartition('.')[2])}; "
                f"set text_columns, label_column or id_column (null: none) under suite.tasks.{name}"
            )
        if there.count(column) > 1:
            raise DataError(f"{where}: {there.count(column)} columns have the name {column!r}; rename all but one")
    if task.id_column:
        _check_ids(where, name, table.column(task.id_column))
    return table, where


def row_keys(name: str, task: TaskConfig, texts: tuple[Sequence[str], ...]) -> list[bytes]:
    """Return the content key of each row: 16 bytes over task, label map and texts."""
    prefix = json.dumps([name, task.head.label_names, [float(x) for x in task.head.label_range]]).encode()
    base = hashlib.blake2b(prefix, digest_size=16)
    keys = []
    for row in zip(*texts, strict=True):
        digest = base.copy()
        digest.update(f"[{', '.join(map(encode_basestring_ascii, row))}]".encode())  # json.dumps, faster
        keys.append(digest.digest())
    return keys


def hash_texts(texts: Sequence[str]) -> list[bytes]:
    """Return the content key of each text that belongs to no task."""
    return row_keys("", TaskConfig(), (texts,))


def doubled(name: str, task: TaskConfig, rows: TaskSplit) -> TaskSplit:
    """Return the rows followed by their pairs in the other order (reference code: MRPC and STS-B)."""
    swapped = (rows.texts[1], rows.texts[0])
    both = tuple([*one, *two] for one, two in zip(rows.texts, swapped, strict=True))
    labels = np.concatenate([rows.labels, rows.labels])
    return TaskSplit(both, labels, rows.keys + row_keys(name, task, swapped))


def _generated(name: str, task: TaskConfig, data: DataConfig, split: str) -> pa.Table:
    from bam_lightning.config.validation import check_choice
    from bam_lightning.data.demo_tasks import DEMO_TASKS, generate_splits

    check_choice(f"suite.tasks.{name}.subset", task.subset or "", DEMO_TASKS)
    if task.train_rows is None or task.dev_rows is None:
        raise DataError(f"suite.tasks.{name} is generated, so it needs train_rows and dev_rows")
    splits = generate_splits(task.subset or "", task.train_rows, task.dev_rows, data.seed)
    if split not in splits:
        raise DataError(f"suite.tasks.{name} is generated and has no split {split!r}; splits: {', '.join(splits)}")
    return pa.table(splits[split])


def _check_ids(where: str, name: str, column: pa.ChunkedArray) -> None:
    if pa.types.is_nested(column.type):
        raise DataError(
            f"{where}: the id column holds {column.type}; ids are numbers or texts; set "
            f"suite.tasks.{name}.id_column to another column, or to null"
        )
    counts = column.value_counts()
    for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()[:1]:
        rows = [i for i, value in enumerate(column.to_pylist()) if value == entry["values"]]
        raise DataError(
            f"{where}: id {entry['values']} stands in rows {rows[0]} and {rows[1]}; ids must be "
            f"unique; mend the file, or set suite.tasks.{name}.id_column=null"
        )


def _all_texts(where: str, name: str, task: TaskConfig, table: pa.Table) -> tuple[list[str], ...]:
    return tuple(_texts(where, name, task, column, table.column(column)) for column in task.text_columns)


def _texts(where: str, name: str, task: TaskConfig, title: str, column: pa.ChunkedArray) -> list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if (kind != column.type and pa.types.is_string(kind)) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"{where}: column {title!r} holds {column.type}, not text; check text_columns")
    texts: list[str] = column.to_pylist()
    for row, text in enumerate(texts):
        if text is None:
            raise DataError(f"{where}, row {row}: column {title!r} has no value; fill it or remove the row")
        if not text.strip() and not task.allow_empty_text:
            raise DataError(
                f"{where}, row {row}: column {title!r} is empty; fill it, remove the row, or allow it "
                f"with suite.tasks.{name}.allow_empty_text=true"
            )
    return texts
