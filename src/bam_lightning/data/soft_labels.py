"""Gold labels that are distributions: probabilities or counts in a column per class, or labels of several annotators.

Such a row is scored at its likeliest class. N rows, C label names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError
from bam_lightning.data.labels import find_class
from bam_lightning.data.readers import expand_columns
from bam_lightning.data.task import Task

Shares = dict[str, float]


def add_label_column(where: str, task: Task, table: pa.Table) -> pa.Table:
    """Return a table with a column ``task.label`` that holds the likeliest label of each row; none where there is none.

    Of equally likely labels it is the first in the task's order, or by name.
    """
    order = {name: place for place, name in enumerate(task.labels or ())}
    best = [
        min(shares, key=lambda name: (-shares[name], order.get(name, 0), name)) if shares else None
        for shares in _read_shares(where, task, table)
    ]
    kept = table.select([name for name in table.column_names if name != task.label])
    return kept.append_column(task.label, pa.array(best, pa.string()))


def soft_label_names(where: str, task: Task, table: pa.Table) -> tuple[str, ...]:
    """Return the names of all labels that a row may have, in the order of the columns, or sorted."""
    if not task.annotators:
        before, after = task.label.split("*")
        return tuple(column[len(before) : len(column) - len(after)] for column in _class_columns(task, table))
    return tuple(sorted({name for shares in _read_shares(where, task, table) for name in shares}))


def read_distributions(where: str, task: Task, table: pa.Table) -> NDArray[np.float32]:
    """Return the distribution of the labels of each row ``[N, C]``; zeros where there is no label.

    Raises:
        DataError: For a label that the task does not have.
    """
    gold = np.zeros((table.num_rows, len(task.labels or ())), dtype=np.float32)
    for row, shares in enumerate(_read_shares(where, task, table)):
        total = math.fsum(shares.values())
        for name, share in shares.items():
            number = find_class(task, name)
            if number is None:
                raise DataError(
                    f"{where}, row {row}: label {name!r} is none of {', '.join(task.labels or ())}; "
                    f"check {task.option('labels')}"
                )
            gold[row, number] += share / total
    return gold


def _read_shares(where: str, task: Task, table: pa.Table) -> list[Shares]:
    """Return label name -> count or probability above 0, of each row."""
    if task.annotators:
        cells = [table.column(column).to_pylist() for column in task.annotators]
        return [_count(row) for row in zip(*cells, strict=True)]
    before, after = task.label.split("*")
    columns = _class_columns(task, table)
    names = [column[len(before) : len(column) - len(after)] for column in columns]
    rows = zip(*(table.column(column).to_pylist() for column in columns), strict=True)
    return [_numbers(f"{where}, row {row}", names, cells) for row, cells in enumerate(rows)]


def _class_columns(task: Task, table: pa.Table) -> list[str]:
    return expand_columns([task.label], [name for name in table.column_names if name != task.label])


def _count(cells: Sequence[Any]) -> Shares:
    counts: Shares = {}
    for cell in cells:
        if cell is not None and cell != "" and cell == cell:
            counts[str(cell)] = counts.get(str(cell), 0) + 1
    return counts


def _numbers(where: str, names: Sequence[str], cells: Sequence[Any]) -> Shares:
    shares = {}
    for name, cell in zip(names, cells, strict=True):
        if cell is None or cell == "":
            continue
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise DataError(f"{where}: {cell!r} of class {name!r} is no probability or count; give a number from 0")
        if number:
            shares[name] = number
    return shares


def read_weights(where: str, task: Task, table: pa.Table) -> NDArray[np.float32]:
    """Return the factors ``[N]`` on the losses of training rows.

    Raises:
        DataError: For one that is missing, negative or not finite.
    """
    weights = np.zeros(table.num_rows, dtype=np.float32)
    for row, cell in enumerate(table.column(task.weight_column).to_pylist()):
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise DataError(
                f"{where}, row {row}: weight {cell!r} is no number from 0; mend column {task.weight_column!r}"
            )
        weights[row] = number
    if not weights.any():
        raise DataError(f"{where}: all weights are 0, so there is nothing to learn from")
    return weights
