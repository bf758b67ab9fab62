"""The gold labels of a split, checked: class ids, scores, or which of C labels each of N rows has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.data_config import TaskConfig
from bam_lightning.config.exceptions import DataError

UNLABELLED = -1


def read_labels(where: str, name: str, task: TaskConfig, table: pa.Table) -> NDArray[np.generic]:
    """Return int64 class ids or float32 scores ``[N]``; of a multi-label task int64 0 and 1 ``[N, C]``.

    Args:
        where: what error messages begin with: the task and the file.
        name: the task's name in the suite.
        task: its label column, and its names or range.
        table: the split.

    Raises:
        DataError: naming the row and its label, if it is missing or none of those the task knows.
    """
    _check_names(where, name, task, table.schema)
    column = table.column(task.label_column)
    if task.multi_label:
        return _sets(where, name, task, column)
    values = column.to_pylist()
    for row, value in enumerate(values):
        if value is None or value != value or value == "":
            raise DataError(f"{where}, row {row}: the label is missing; fill it or remove the row")
    if all(value == UNLABELLED for value in values):
        raise DataError(
            f"{where}: all labels are -1, so this is an unlabelled test split, which can be neither "
            f"trained on nor scored; choose another split under suite.tasks.{name}"
        )
    if task.regression:
        return _scores(where, task, values)
    return np.asarray([number for _, _, number in _numbered(where, name, task, enumerate(values))], dtype=np.int64)


def _check_names(where: str, name: str, task: TaskConfig, schema: pa.Schema) -> None:
    """Refuse a file whose own class names (Hugging Face keeps them in Parquet) are in another order than ours."""
    try:
        kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = kept["info"]["features"][task.label_column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # of lists: their items'
        own = feature.get("names")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # another tool's note, or a damaged one; the labels themselves are checked
    if isinstance(own, list) and own and task.head.label_names and list(own) != list(task.head.label_names):
        raise DataError(
            f"{where}: the file's class names are {own}, but suite.tasks.{name}.head.label_names is "
            f"{task.head.label_names}; the order gives the class ids, so they must agree"
        )


def _numbered(
    where: str, name: str, task: TaskConfig, labels: Iterable[tuple[int, Any]], more: str = ""
) -> Iterator[tuple[int, Any, int]]:
    """Yield (row, label, class id) for each (row, label); ``more`` ends the message about an unknown label."""
    names = task.head.label_names
    ids = {label: number for number, label in enumerate(names)}
    if not any(str(number) in ids for number in range(len(names))):  # names that are numbers are names first
        ids |= {str(number): number for number in range(len(names))}
    hint = "; YAML reads yes, no, on and off as truth values, so quote them" if "True" in names else ""
    for row, label in labels:
        word = label if isinstance(label, str) else str(label)
        if word not in ids:
            raise DataError(
                f"{where}, row {row}: label {label!r} is neither one of {', '.join(names)} nor a class "
                f"id from 0 to {len(names) - 1}; check suite.tasks.{name}.head.label_names"
                f"{hint}{more}"
            )
        yield row, label, ids[word]


def _scores(where: str, task: TaskConfig, values: list) -> NDArray[np.generic]:
    low, high = task.head.label_range
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or not low <= value <= high:
            raise DataError(
                f"{where}, row {row}: label {value!r} is not a number from {low:g} to {high:g} (label_range)"
            )
    return np.asarray(values, dtype=np.float32)


def _sets(where: str, name: str, task: TaskConfig, column: pa.ChunkedArray) -> NDArray[np.int64]:
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    rows = _split(where, name, task, column) if text else _lists(where, name, task, column)
    more = f", and suite.tasks.{name}.label_separator, now {task.label_separator!r}" if text else ""
    pairs = ((row, label) for row, labels in enumerate(rows) for label in labels)
    found = np.zeros((len(rows), len(task.head.label_names)), dtype=np.int64)
    for row, label, number in _numbered(where, name, task, pairs, more):
        if found[row, number]:
            raise DataError(
                f"{where}, row {row}: label {label!r} stands there twice; a row holds the names or ids of its labels, "
                "each once (not a 0 or 1 for every label); mend the file"
            )
        found[row, number] = 1
    if not found.any():
        raise DataError(
            f"{where}: no row has a label, so it can be neither trained on nor scored; choose another split or "
            f"label_column under suite.tasks.{name}"
        )
    return found


def _lists(where: str, name: str, task: TaskConfig, column: pa.ChunkedArray) -> list[list]:
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise DataError(
            f"{where}: column {task.label_column!r} holds {column.type}, but a row of {name!r} may have any number of "
            "labels; give lists of names or ids, or text with the label_separator between them"
        )
    rows: list[list] = column.to_pylist()
    for row, labels in enumerate(rows):
        if labels is None:
            raise DataError(
                f"{where}, row {row}: the labels are missing; give an empty list if it has none, or remove the row"
            )
    return rows


def _split(where: str, name: str, task: TaskConfig, column: pa.ChunkedArray) -> list[list[str]]:
    """Return the labels of each text; those of an empty one are none."""
    separator = task.label_separator
    for label in task.head.label_names:
        if separator in label:
            raise DataError(
                f"{where}: column {task.label_column!r} is text, but label {label!r} of head.label_names holds its "
                f"separator {separator!r}; use another in the file and as suite.tasks.{name}.label_separator"
            )
    texts: list[str] = column.to_pylist()
    for row, text in enumerate(texts):
        if text is None:
            raise DataError(
                f"{where}, row {row}: the labels are missing; give an empty text if it has none, or remove the row"
            )
    return [[part.strip() for part in text.split(separator)] if text.strip() else [] for text in texts]
