"""The gold labels of a split, checked: class ids, scores, or which of C labels each of N rows has."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError
from bam_lightning.config.validation import SIMILAR, suggest
from bam_lightning.data.task import Task
from bam_lightning.data.word_labels import read_answers, read_tags

UNLABELLED = -1
_UNLABELLED = (UNLABELLED, "-1", "-1.0")
MOST_CLASSES = 1_000  # inferred ones; more of them are scores, ids or texts
SHOWN_NAMES = 8
SHOWN_VALUES = 3  # unknown ones
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0+\Z")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)\Z")
_COMMA = re.compile(r"\s*-?[0-9]+(,[0-9]+)+\s*\Z")
_THOUSANDS = re.compile(r"\s*-?[0-9]{1,3}(,[0-9]{3})+\s*\Z")


def infer_labels(where: str, name: str, task: Task, table: pa.Table) -> tuple[Task, str]:
    """Fill in what a task leaves open of its kind, label names and range, from its training split.

    Strings, ``ClassLabel`` features, integers and booleans are classes, floats are regression, lists are multi-label.
    Text, as every column of CSV is, counts as integers or floats if all of it reads as such. Label names are
    in the order of the features, else by number, else sorted. Where no row has a label, names or a range that are given
    decide.

    Args:
        where: What error messages begin with.
        name: Name of the task.
        task: The task.
        table: Its training split.

    Returns:
        The task, and a sentence that says what was inferred; empty if nothing was.

    Raises:
        DataError: If no kind or order fits; the message names the option that decides.
    """
    if task.kind == "span" or (task.kind is not None and (task.labels is not None or task.range is not None)):
        return task.resolve(task.kind, task.labels, task.range), ""
    column = table.column(task.label)
    stored = _stored_names(task, table.schema)
    values = [value for value in column.to_pylist() if value is not None and value == value and value != ""]
    if not values and task.labels is None and task.range is None and not stored:
        raise _nothing_to_infer(where, task)
    text = table.schema.field(task.text_columns[0]).type
    kind = task.kind or _infer_kind(where, task, column.type, values, stored, text)
    if kind == "span":
        return task.resolve(kind, None, None), "" if task.kind else f"span (inferred from column {task.label!r})"
    if kind == "regression":
        return _infer_range(where, task, values) if task.range is None else (
            task.resolve(kind, None, task.range),
            "regression (inferred from the range)",
        )  # fmt: skip
    if task.labels is not None:
        return task.resolve(kind, task.labels, None), f"{kind} (inferred)"
    names = stored or _infer_names(where, task, kind, column.type, values)
    if kind == "choice" and not stored:
        names = _name_choices(where, task, table, names)
    if len(names) < 2:
        raise DataError(
            f"{where}: all labels are {names[0]!r}; a {kind} task needs at least 2; give all names with "
            f"{task.option('labels')}"
        )
    shown = ", ".join(names[:SHOWN_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN_NAMES else "")
    return task.resolve(kind, names, None), f"{kind} with labels {shown} (inferred from column {task.label!r})"


def _nothing_to_infer(where: str, task: Task) -> DataError:
    """Return the error about a column without any label, of a task whose classes or range are not given."""
    names = f"name the classes with {task.option('labels')}"
    if task.kind == "regression":
        names = f"give the range with {task.option('range')}=[lowest, highest]"
    elif task.kind is None:
        names += f", and the kind with {task.option('kind')} unless it is classification"
    return DataError(
        f"{where}: column {task.label!r} has no label; choose another with {task.option('label')}, or, if a teacher "
        f"alone is to teach the task, {names}"
    )


def _infer_kind(
    where: str, task: Task, kind: pa.DataType, values: list[Any], stored: list[str] | None, text: pa.DataType
) -> str:
    if task.range is not None:
        return "regression"
    if pa.types.is_list(text) or pa.types.is_large_list(text):
        return "tagging"
    if pa.types.is_struct(kind):
        return "span"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "multi_label"
    if stored or task.labels is not None:
        return "classification"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "regression"
    if _is_text(kind) and all(map(_DECIMAL.match, values)) and not all(map(_INTEGER.match, values)):
        return "regression"
    if (
        _is_text(kind)
        and task.label_separator != ","
        and all(_COMMA.match(one) or _DECIMAL.match(one) for one in values)
    ):
        comma = next(filter(_COMMA.match, values), None)
        if comma is not None:
            raise DataError(
                f"{where}: column {task.label!r} holds numbers with commas, such as {comma}{comma_hint(comma)}; if "
                f"they are names, set {task.option('kind')} to classification, if several labels, to multi_label and "
                f"{task.option('label_separator')} to a comma"
            )
    return "classification"


def _infer_range(where: str, task: Task, values: list[Any]) -> tuple[Task, str]:
    numbers = [number for value in values if (number := _number(value)) is not None and math.isfinite(number)]
    if len(numbers) < len(values):
        wrong = next(value for value in values if _number(value) is None or not math.isfinite(float(value)))
        raise DataError(f"{where}: label {wrong!r} is not a number, as a regression task needs{comma_hint(wrong)}")
    low, high = min(numbers), max(numbers)
    if low == high:
        option = task.option("range")
        raise DataError(f"{where}: all labels are {low:g}; give the range with {option}=[lowest, highest]")
    said = f"regression in the range {low:g} to {high:g} of the training rows (inferred from column {task.label!r})"
    return task.resolve("regression", None, (low, high)), said


def _infer_names(where: str, task: Task, kind: str, stored_as: pa.DataType, values: list[Any]) -> list[str]:
    if kind == "tagging":
        values = [tag for value in values for tag in (value.split() if isinstance(value, str) else value)]
        values = [tag for tag in values if tag not in (None, -1, -100)]
    elif kind == "multi_label":
        if _is_text(stored_as):
            values = [part.strip() for value in values for part in value.split(task.label_separator) if part.strip()]
        else:
            values = [part for value in values for part in value]
    names = {str(value) for value in values}
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{where}: column {task.label!r} has {len(names):,} different labels in {len(values):,} rows; choose "
            f"another column with {task.option('label')}, or a number to predict with kind='regression'"
        )
    if all(_INTEGER.match(name) for name in names):
        return sorted(names, key=int)
    if kind == "ordinal":
        raise DataError(
            f"{where}: the order of {', '.join(sorted(names)[:SHOWN_NAMES])} is not known; give all names from "
            f"lowest to highest with {task.option('labels')}"
        )
    return sorted(names)


def _name_choices(where: str, task: Task, table: pa.Table, names: list[str]) -> list[str]:
    """Return a name for each choice: their numbers from 0, unless the labels are other names."""
    count = len(task.choices)
    if count == 1:
        count = max(len(row or ()) for row in table.column(task.choices[0]).to_pylist())
    if set(names) <= {str(number) for number in range(count)}:
        return [str(number) for number in range(count)]
    if len(names) != count:
        raise DataError(
            f"{where}: {count} choices, but {len(names)} different labels ({', '.join(names[:SHOWN_NAMES])}); name the "
            f"choices in their order with {task.option('labels')}"
        )
    return names


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def comma_hint(value: Any) -> str:
    """Return a hint where a number has a comma."""
    if not (isinstance(value, str) and _COMMA.match(value)):
        return ""
    if _THOUSANDS.match(value):
        return f"; write {value.replace(',', '')} or {value.replace(',', '.', 1)} in the file, whichever is meant"
    return f"; write {value.replace(',', '.')}, with a point, in the file"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def has_labels(task: Task, table: pa.Table) -> bool:
    """Return whether a test split has labels: the column exists and is not -1 or empty in every row."""
    if table.column_names.count(task.label) != 1:
        return False
    values = table.column(task.label).to_pylist()
    return any(isinstance(value, (list, dict)) or value not in (None, "", *_UNLABELLED) for value in values)


def read_labels(
    where: str,
    name: str,
    task: Task,
    table: pa.Table,
    check_range: bool = True,
    texts: tuple[Sequence[str], ...] = (),
    rows: Sequence[int] | None = None,
    may_lack: bool = False,
) -> Any:
    """Return int64 class ids or float32 scores ``[N]``; of a multi-label task int64 0 and 1 ``[N, C]``.

    Tags of words and answers are ``Ragged``, see ``word_labels``; rows of these may have none.

    Args:
        where: What error messages begin with: the task and the file.
        name: Name of the task.
        task: The task, with its kind and its names or range.
        table: The split.
        check_range: Refuse scores outside the range.
        texts: Columns of texts, for tags and answers.
        rows: Numbers of the rows in the file, for error messages; default: from 0.
        may_lack: Whether ``allow_missing_labels`` would accept rows without a label, as it does in training rows.

    Raises:
        DataError: If a label is missing or unknown to the task; the message names row and label.
    """
    rows = range(table.num_rows) if rows is None else rows
    _check_names(where, task, table.schema)
    column = table.column(task.label)
    if task.kind == "tagging":
        return read_tags(where, task.label, column, texts[0], partial(_numbered, where, task, rows=rows))
    if task.kind == "span":
        return read_answers(where, task.label, column, texts[1])
    if task.multi_label:
        return _sets(where, name, task, column, rows, may_lack)
    values = column.to_pylist()
    bare = [row for row, value in zip(rows, values, strict=True) if value is None or value != value or value == ""]
    if bare:
        raise missing_labels(where, task, bare, len(values), may_lack)
    if all(value in _UNLABELLED for value in values):
        under = f"under {task.config_key}" if task.config_key else f"with {task.spelled.get('split', 'split=')}"
        raise DataError(
            f"{where}: all labels are -1, so this is an unlabelled test split, which can be neither "
            f"trained on nor scored; choose another split {under}"
        )
    if task.regression:
        return _scores(where, task, values, check_range, rows)
    return np.asarray([number for _, _, number in _numbered(where, task, enumerate(values), rows)], dtype=np.int64)


def missing_labels(
    where: str, task: Task, bare: Sequence[int], total: int, may_lack: bool, empty: str = "fill or remove such rows"
) -> DataError:
    """Return the error about rows without a label: the first of them, how many of how many, and what to do."""
    accept = f", or set {task.setting('allow_missing_labels', True)}: a teacher alone then teaches them"
    return DataError(
        f"{where}, row {bare[0]}: the label is missing ({len(bare):,} of {total:,} rows "
        f"{'has' if len(bare) == 1 else 'have'} none); {empty}{accept if may_lack else ''}"
    )


def _stored_names(task: Task, schema: pa.Schema) -> list[str] | None:
    """Return the class names that Hugging Face's ``datasets`` keeps in the metadata of a schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[task.label]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # of lists: their items'
        names = feature.get("names")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # another tool's metadata, or damaged; the labels themselves are checked
    return [str(one) for one in names] if isinstance(names, list) and names else None


def _check_names(where: str, task: Task, schema: pa.Schema) -> None:
    """Refuse a file whose own class names are in another order than the task's."""
    stored = _stored_names(task, schema)
    if stored and task.labels and stored != list(task.labels):
        raise DataError(
            f"{where}: the file's class names are {stored}, but {task.option('labels')} is "
            f"{list(task.labels)}; the order gives the class ids, so they must agree"
        )


def _numbered(
    where: str, task: Task, labels: Iterable[tuple[int, Any]], rows: Sequence[int], more: str = ""
) -> Iterator[tuple[int, Any, int]]:
    """Yield (position, label, class id) for each (position, label).

    A label is a name. If no name is a number from 0 to C - 1, it may be a class id instead, so that no label has two
    meanings. ``1.0`` is 1, and ``True`` is ``true``.

    Args:
        where: What error messages begin with.
        task: The task.
        labels: Positions and labels.
        rows: The row of each position, for error messages.
        more: Ends the message about an unknown label.
    """
    ids, pairs = _class_ids(task), iter(labels)
    for position, label in pairs:
        word = label if isinstance(label, str) else str(label)
        if word not in ids:
            word = _spell(word, ids)
        if word not in ids:
            raise _unknown_label(where, task, [(position, label), *pairs], rows, more)
        yield position, label, ids[word]


def _unknown_label(
    where: str, task: Task, labels: Sequence[tuple[int, Any]], rows: Sequence[int], more: str
) -> DataError:
    """Return the error about unknown labels, of which the first is one: row, label, what is near it, how many rows."""
    names, ids = task.labels or (), _class_ids(task)
    unknown = [(position, label) for position, label in labels if find_class(task, str(label)) is None]
    position, label = unknown[0]
    numbers = f" nor a class id from 0 to {len(names) - 1}"
    known = f"neither one of {', '.join(names)}{numbers}" if len(ids) > len(names) else f"none of {', '.join(names)}"
    several = len({position for position, _ in unknown})
    values = list(dict.fromkeys(repr(label) for _, label in unknown))
    shown = ", ".join(values[:SHOWN_VALUES]) + (
        f" and {len(values) - SHOWN_VALUES:,} more" * (len(values) > SHOWN_VALUES)
    )
    count = f"; {several:,} rows have unknown labels: {shown}" if several > 1 else ""
    hint = ""
    if "True" in names:
        hint = "; YAML reads yes, no, on and off as truth values, so quote them"
    elif str(label).lower() in ("true", "false") and len(ids) > len(names):
        hint = ", or write class ids for truth values"
    return DataError(
        f"{where}, row {rows[position]}: label {label!r} is {known}{count}; "
        f"check {task.option('labels')}{hint}{more}{suggest(str(label), names, SIMILAR)}"
    )


def _class_ids(task: Task) -> dict[str, int]:
    names = task.labels or ()
    ids = {label: number for number, label in enumerate(names)}
    if not any(str(number) in ids for number in range(len(names))):
        ids |= {str(number): number for number in range(len(names))}
    return ids


def find_class(task: Task, word: str, any_case: bool = False) -> int | None:
    """Return the class id of a label name, or of a class id where names are no numbers; ``None`` if there is none."""
    ids = _class_ids(task)
    if word not in ids:
        word = _spell(word, ids)
    if word not in ids and any_case:
        same = [name for name in ids if name.casefold() == word.casefold()]
        word = same[0] if len(same) == 1 else word
    return ids.get(word)


def _spell(word: str, known: Iterable[str]) -> str:
    """Return another spelling of a number or truth value that is known: ``1`` for ``1.0``, ``true`` for ``True``."""
    if word.lower() in ("true", "false"):
        same = [name for name in known if name.lower() == word.lower()]
        return same[0] if len(same) == 1 else word
    return word.partition(".")[0] if _WHOLE.match(word) else word


def _scores(where: str, task: Task, values: list, check_range: bool, rows: Sequence[int]) -> NDArray[np.generic]:
    assert task.range is not None
    low, high = task.range
    numbers = [_number(value) for value in values]
    for row, value, number in zip(rows, values, numbers, strict=True):
        if number is None or not math.isfinite(number) or (check_range and not low <= number <= high):
            option = task.option("range").rpartition(".")[2]
            raise DataError(
                f"{where}, row {row}: label {value!r} is not a number from {low:g} to {high:g} ({option})"
                f"{comma_hint(value)}"
            )
    return np.asarray(numbers, dtype=np.float32)


def _sets(
    where: str, name: str, task: Task, column: pa.ChunkedArray, rows: Sequence[int], may_lack: bool
) -> NDArray[np.int64]:
    text = _is_text(column.type)
    if not text and not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise DataError(
            f"{where}: column {task.label!r} holds {column.type}, but a row of {name!r} may have any number of "
            "labels; give lists of names or ids, or text with the label_separator between them"
        )
    sets: list[Any] = column.to_pylist()
    bare = [row for row, labels in zip(rows, sets, strict=True) if labels is None]
    if bare:
        empty = f"give an empty {'text' if text else 'list'} where a row has no label, remove such rows"
        raise missing_labels(where, task, bare, len(sets), may_lack, empty)
    sets = _split(where, task, sets) if text else sets
    more = f", and {task.option('label_separator')}, now {task.label_separator!r}" if text else ""
    pairs = ((row, label) for row, labels in enumerate(sets) for label in labels)
    found = np.zeros((len(sets), len(task.labels or ())), dtype=np.int64)
    for row, label, number in _numbered(where, task, pairs, rows, more):
        if found[row, number]:
            raise DataError(
                f"{where}, row {rows[row]}: label {label!r} stands there twice; a row holds the names or ids of its "
                "labels, each once (not a 0 or 1 for every label); mend the file"
            )
        found[row, number] = 1
    if not found.any():
        flags = task.spelled.get("split", "split="), task.spelled.get("label", "label=")
        other = f"or label under {task.config_key}" if task.config_key else "with {}, or column with {}".format(*flags)
        raise DataError(
            f"{where}: no row has a label, so it can be neither trained on nor scored; choose another split {other}"
        )
    return found


def _split(where: str, task: Task, texts: Sequence[str]) -> list[list[str]]:
    """Return the labels of each text; those of an empty one are none."""
    separator = task.label_separator
    for label in task.labels or ():
        if separator in label:
            names = task.option("labels").removeprefix(f"{task.config_key}.")
            raise DataError(
                f"{where}: column {task.label!r} is text, but label {label!r} of {names} holds its "
                f"separator {separator!r}; use another in the file and as {task.option('label_separator')}"
            )
    return [[part.strip() for part in text.split(separator)] if text.strip() else [] for text in texts]
