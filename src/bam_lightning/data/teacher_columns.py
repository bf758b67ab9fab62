"""Predictions from outside as a teacher's column: a file is read, checked, and matched to training rows by content.

N training rows, F rows of a file, C classes, K outputs of a head."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError, DataPathError
from bam_lightning.config.teacher_config import FORMS, TeacherSource
from bam_lightning.data.examples import TaskSplit, text_columns
from bam_lightning.data.labels import find_class
from bam_lightning.data.readers import Columns, TableFile, read_columns, read_error, split_ending
from bam_lightning.data.task import Task

SAME = 1e-4  # largest difference of predictions that count as equal
SUM_SLACK = 0.02  # probabilities are renormalized if their sum is at most this far from 1
ROUNDING = 1e-6  # of a sum; smaller differences are left as they are
FORMS_OF = {
    "classification": ("logits", "probabilities", "labels", "votes", "top_logprobs"),
    "ordinal": ("logits", "probabilities", "labels", "votes", "top_logprobs"),
    "multi_label": ("logits", "probabilities", "labels"),
    "regression": ("logits", "values"),
}
Floats = NDArray[np.float64]
Key = tuple[str, ...]


class Column(NamedTuple):
    """A teacher's predictions on N training rows.

    Attributes:
        form: ``logits``, ``probabilities`` (of classes, or of each label) or ``values`` (in label units).
        values: float32 ``[N, K]`` logits, ``[N, C]`` probabilities or ``[N, 1]`` values; zeros where not covered.
        covered: ``[N]`` whether the teacher predicted the row; ``None`` if it predicted all.
        notes: What was done, one sentence each.
    """

    form: str
    values: NDArray[np.float32]
    covered: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of form, values and coverage in row order, 16 hexadecimal digits: what a student can learn from."""
        digest = hashlib.sha256(f"{self.form} {self.values.shape} ".encode())
        digest.update(np.ascontiguousarray(self.values).tobytes())
        if self.covered is not None:
            digest.update(self.covered.tobytes())
        return digest.hexdigest()[:16]


def read_column(name: str, task: Task, rows: TaskSplit, source: TeacherSource, alone: bool = True) -> Column:
    """Read a file of predictions and match it to training rows.

    Rows are matched by their texts, and by their ids where the task has an ``id_column`` that the file has too: exactly
    first, then with texts in Unicode NFC with each run of white space made one space.

    Args:
        name: Name of the task.
        task: The task, with its kind and labels.
        rows: N training rows.
        source: The file, and how to read it.
        alone: Whether no other teacher covers the rows that this one leaves out.

    Raises:
        DataError: If the file cannot be read, has no or wrong predictions, or does not match the rows; the message
            names file, row and column.
    """
    where = f"teacher of {name!r}, {source.path}"
    if task.kind not in FORMS_OF:
        raise DataError(f"{where}: a file can teach tasks of kind {', '.join(FORMS_OF)}; this one is {task.kind!r}")
    names = _column_names(where, source)
    form, columns = _find_form(where, name, task, source, names)
    by_text = all(column in names for column in task.text_columns)
    by_id = task.id_column in names and rows.ids is not None
    if not (by_text or by_id):
        wanted = ", ".join(task.text_columns) + (f", or {task.id_column}" if rows.ids is not None else "")
        raise DataError(
            f"{where}: no columns {wanted}, by which rows are matched; columns there: {', '.join(names)}; rename them"
        )
    key_columns = [*(task.text_columns if by_text else ()), *([str(task.id_column)] if by_id else ())]
    table = _read(where, source, [*columns.values(), *key_columns])
    notes: list[str] = []
    values, present = _Reader(where, task, source, notes).read(form, columns, table)
    file_keys = _keys(
        [str(value) for value in table.column(str(task.id_column)).to_pylist()] if by_id else None,
        text_columns(where, task, table) if by_text else (),
    )
    keys = _keys(rows.ids if by_id else None, rows.texts if by_text else ())
    groups = _groups(file_keys, present, swap=task.symmetric and by_text)
    matched, covered = _match(where, source, keys, values, groups, texts_at=int(by_id), notes=notes)
    _check_coverage(where, source, keys, covered, alone)
    count = f"{int(covered.sum()):,} of {len(covered):,} training rows"
    notes.insert(0, count + ("; the others learn from gold alone" if alone and not covered.all() else ""))
    if not present.all():
        notes.append(f"{int((~present).sum()):,} rows of the file have no prediction")
    column = Column(
        form if form in ("logits", "values") else "probabilities",
        matched.astype(np.float32),
        None if covered.all() else covered,
        tuple(f"{where}: {note}" for note in notes),
    )
    if source.check_agreement and task.in_average:
        check_agreement(where, task, rows, column)
    return column


def _column_names(where: str, source: TeacherSource) -> list[str]:
    path = Path(source.path).expanduser()
    kind = split_ending(path.name)[1]
    if not path.is_file():
        raise DataPathError(f"{where}: no such file; give its path")
    if kind in ("csv", "tsv", "parquet"):
        try:
            return list(TableFile(str(path), kind).schema() or ())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{where} cannot be read as {kind}: {read_error(error)}") from error
    return _columns(where, source, []).names


def _columns(where: str, source: TeacherSource, wanted: Sequence[str]) -> Columns:
    path = Path(source.path).expanduser()
    try:
        return read_columns(path, wanted)
    except (pa.ArrowException, ValueError, OSError, EOFError) as error:
        raise DataError(f"{where} cannot be read: {read_error(error)}") from error


def _read(where: str, source: TeacherSource, wanted: Sequence[str]) -> pa.Table:
    table = _columns(where, source, wanted).table
    if not table.num_rows:
        raise DataError(f"{where}: the file has no rows")
    return table


def _find_form(
    where: str, name: str, task: Task, source: TeacherSource, names: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return the form of the predictions, and what stands for ``*`` -> column; without ``*`` the key is empty."""
    possible = FORMS_OF[str(task.kind)]
    if source.forms:
        ((form, pattern),) = source.forms.items()
        if form not in possible:
            raise DataError(f"{where}: a {task.kind} task learns from {', '.join(possible)}, not from {form}")
        columns = _expand(pattern, names)
        if not columns:
            raise DataError(f"{where}: no column {pattern!r} for {form}; columns there: {', '.join(names)}")
        return form, columns
    guesses = [
        *((form, pattern) for form in FORMS for pattern in (form, f"{form}_*")),
        ("probabilities", "p_*"),
        ("probabilities", f"{name}.*"),  # as bam predict writes them
        ("values", f"{name}.score"),
    ]
    found: dict[str, dict[str, str]] = {}
    for form, pattern in guesses:
        columns = {word: column for word, column in _expand(pattern, names).items() if column != f"{name}.label"}
        if (
            form in possible
            and columns
            and not set(columns.values()) & {*task.text_columns, task.label, task.id_column}
        ):
            found.setdefault(form, columns)
    if len(found) != 1:
        several = f"columns of several forms ({', '.join(found)})" if found else "no columns of predictions"
        options = ", ".join(f"{form}=" for form in possible)
        raise DataError(
            f"{where}: {several}; say which columns hold what with one of {options} as in "
            f"{possible[0]}='{possible[0]}_*'; columns there: {', '.join(names)}"
        )
    return next(iter(found.items()))


def _expand(pattern: str, names: Sequence[str]) -> dict[str, str]:
    if "*" not in pattern:
        return {"": pattern} if pattern in names else {}
    before, after = map(re.escape, pattern.split("*"))
    matches = ((re.fullmatch(f"{before}(.+){after}", name), name) for name in names)
    return {match[1]: name for match, name in matches if match}


class _Reader:
    """Reads the numbers ``[F, C]`` of a file; what is done to them is added to ``notes``."""

    def __init__(self, where: str, task: Task, source: TeacherSource, notes: list[str]) -> None:
        self.where, self.task, self.source, self.notes = where, task, source, notes
        self.classes = list(task.labels or ())

    def read(self, form: str, columns: dict[str, str], table: pa.Table) -> tuple[Floats, NDArray[np.bool_]]:
        """Return numbers ``[F, C]``, zero where there are none, and ``[F]`` whether a row has some."""
        values, present = self._numbers(form, columns, table)
        wrong = ~np.isfinite(values).all(axis=1) & present
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise self._fault(row, f"{form} {values[row].tolist()} are not all finite numbers; mend or empty them")
        checked = getattr(self, f"_{form}")(values, present)
        checked[~present] = 0
        return checked, present

    def _fault(self, row: int, reason: str) -> DataError:
        return DataError(f"{self.where}, row {row}: {reason}")

    def _numbers(self, form: str, columns: dict[str, str], table: pa.Table) -> tuple[Floats, NDArray[np.bool_]]:
        if "" not in columns:
            if form in ("values", "labels", "top_logprobs"):
                raise DataError(f"{self.where}: {form} are read from one column; name it without *")
            order = self._order(self._words(columns))
            parts = [self._floats(table.column(column), column) for column in columns.values()]
            values = np.stack([part for part, _ in parts], axis=1)[:, order]
            given = np.stack([known for _, known in parts], axis=1)
            half = given.any(axis=1) & ~given.all(axis=1)
            if half.any():
                row = int(np.flatnonzero(half)[0])
                empty = next(column for column, known in zip(columns.values(), given[row], strict=True) if not known)
                raise self._fault(row, f"column {empty!r} is empty, others are not; fill it, or empty all of the row")
            return values, np.asarray(given.any(axis=1), dtype=bool)
        if form == "labels":
            return self._hard(table.column(columns[""]).to_pylist())
        return self._cells(form, columns[""], table.column(columns[""]))

    def _words(self, columns: dict[str, str]) -> list[str]:
        """Return the classes of several columns: what stands for ``*``, or ``classes`` where that is no class."""
        words, given = list(columns), list(self.source.classes)
        if not given or all(find_class(self.task, word) is not None for word in words):
            return words
        if len(given) != len(words):
            raise DataError(
                f"{self.where}: classes names {len(given)} classes for {len(words)} columns, "
                f"{', '.join(columns.values())}; name one for each, in this order"
            )
        return given

    def _order(self, names: Sequence[str]) -> list[int]:
        """Return for each class of the task the position of its name among ``names``."""
        if not self.classes:
            raise DataError(f"{self.where}: a {self.task.kind} task has no classes, so name one column, without *")
        found: dict[int, int] = {}
        for position, word in enumerate(names):
            number = self._class(word)
            if number in found:
                raise DataError(f"{self.where}: class {self.classes[number]!r} has two columns; name them without one")
            found[number] = position
        for number, label in enumerate(self.classes):
            if number not in found:
                raise DataError(f"{self.where}: no numbers for class {label!r}, only for {', '.join(names)}")
        return [found[number] for number in range(len(self.classes))]

    def _class(self, word: str) -> int:
        number = find_class(self.task, word)
        if number is None:
            raise DataError(
                f"{self.where}: {word!r} is no class of the task; its classes are {', '.join(self.classes)}; "
                "rename it, name other columns, or give the classes of the columns, in their order, with classes="
            )
        return number

    def _floats(self, column: pa.ChunkedArray, title: str) -> tuple[Floats, NDArray[np.bool_]]:
        cells = column.to_pylist()
        values = np.zeros(len(cells))
        known = np.ones(len(cells), dtype=bool)
        for row, cell in enumerate(cells):
            if cell is None or cell == "":
                known[row] = False
                continue
            try:
                values[row] = float(cell)
            except (TypeError, ValueError):
                raise self._fault(row, f"column {title!r} holds {cell!r}, not a number") from None
        return values, known

    def _cells(self, form: str, title: str, column: pa.ChunkedArray) -> tuple[Floats, NDArray[np.bool_]]:
        """Read one column of numbers, of lists or of mappings, which may be JSON text."""
        cells = [_parsed(cell) for cell in column.to_pylist()]
        plain = self.task.regression or form == "values"
        thresholds = form == "logits" and self.task.kind == "ordinal"  # an output for each, between two classes
        width = 1 if plain else len(self.classes) - thresholds
        order = self._order(self.source.classes) if self.source.classes and not (plain or thresholds) else None
        values, present = np.zeros((len(cells), width)), np.ones(len(cells), dtype=bool)
        for row, cell in enumerate(cells):
            if cell is None or cell == "" or cell == []:
                present[row] = False
            elif form == "top_logprobs":
                present[row] = self._spread(row, cell, values[row])
            elif isinstance(cell, Mapping) and not plain and not thresholds:
                for word, number in cell.items():
                    if number is not None:
                        values[row, self._class(word)] = self._float(row, title, number)
            elif isinstance(cell, (list, tuple)):
                if len(cell) != width:
                    raise self._fault(row, f"column {title!r} has {len(cell)} numbers, expected {width}")
                if order is None and not (plain or thresholds):
                    raise DataError(
                        f"{self.where}: column {title!r} holds lists; give the classes of their numbers, in their "
                        f"order, with classes=[{', '.join(self.classes)}]"
                    )
                numbers = [self._float(row, title, number) for number in cell]
                values[row] = numbers if order is None else [numbers[position] for position in order]
            elif width == 1:
                values[row] = self._float(row, title, cell)
            else:
                raise self._fault(
                    row, f"column {title!r} holds {cell!r}; expected a list or a mapping of {width} numbers"
                )
        return values, present

    def _float(self, row: int, title: str, number: Any) -> float:
        try:
            return float(number)
        except (TypeError, ValueError):
            raise self._fault(row, f"column {title!r} holds {number!r}, not a number") from None

    def _spread(self, row: int, cell: Any, values: Floats) -> bool:
        """Fill in the probabilities of classes among the likeliest tokens; spread what is left over the others."""
        pairs = cell.items() if isinstance(cell, Mapping) else map(_token, cell if isinstance(cell, list) else [cell])
        listed: set[int] = set()
        for pair in pairs:
            if pair is None:
                raise self._fault(row, f"{cell!r} is neither a mapping nor a list of token and logprob")
            word, logprob = pair
            if logprob is None:
                continue
            number = find_class(self.task, str(word).strip(), any_case=True)
            value = self._float(row, "logprob", logprob)
            if not value <= SAME:
                raise self._fault(row, f"log-probability {value:g} of {word!r} is above 0")
            if number is not None:
                values[number] += np.exp(min(value, 0.0))
                listed.add(number)
        left, others = 1 - values.sum(), [n for n in range(len(values)) if n not in listed]
        if left < -SUM_SLACK:
            raise self._fault(row, f"the probabilities of the classes sum to {values.sum():.4f}, more than 1")
        if others:
            values[others] = max(left, 0.0) / len(others)
        if listed:
            values /= values.sum()
        return bool(listed)  # no class among the tokens: nothing is known

    def _hard(self, cells: list[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        values, present = np.zeros((len(cells), len(self.classes))), np.ones(len(cells), dtype=bool)
        several = self.task.multi_label
        for row, cell in enumerate(cells):
            if cell is None or (cell == "" and not several):
                present[row] = False
                continue
            if several and isinstance(cell, str):
                cell = [part.strip() for part in cell.split(self.task.label_separator) if part.strip()]
            for word in cell if several else [cell]:
                values[row, self._class(str(word))] = 1
        return values, present

    def _logits(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        return values / self.source.temperature if self.source.temperature != 1 else values

    def _values(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        assert self.task.range is not None
        low, high = self.task.range
        outside = present & ((values < low) | (values > high)).any(axis=1)
        far = present & ((values < low - SUM_SLACK * (high - low)) | (values > high + SUM_SLACK * (high - low)))[:, 0]
        if far.any():
            row = int(np.flatnonzero(far)[0])
            raise self._fault(row, f"{values[row, 0]:g} is no value from {low:g} to {high:g}, the range of the labels")
        if outside.any():
            self.notes.append(f"{int(outside.sum()):,} values just outside of {low:g} to {high:g} were moved into it")
        return values.clip(low, high)

    def _probabilities(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        out = present & ((values < -ROUNDING) | (values > 1 + SUM_SLACK)).any(axis=1)
        if out.any():
            row = int(np.flatnonzero(out)[0])
            raise self._fault(
                row, f"{values[row].tolist()} are no probabilities, which lie from 0 to 1; are they logits?"
            )
        values = values.clip(0, None)
        if self.task.multi_label:
            return self._tempered_labels(values.clip(0, 1))
        sums = values.sum(axis=1)
        wrong = present & (np.abs(sums - 1) > SUM_SLACK)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise self._fault(row, f"the probabilities {values[row].tolist()} sum to {sums[row]:.4f}, not to 1")
        off = present & (np.abs(sums - 1) > ROUNDING)
        if off.any():
            values[off] /= sums[off, None]
            self.notes.append(f"the probabilities of {int(off.sum()):,} rows did not sum to 1 and were renormalized")
        return self._tempered(values)

    def _labels(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        return values

    def _top_logprobs(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        return self._tempered(values)

    def _votes(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        sums = values.sum(axis=1)
        wrong = present & ((values < 0).any(axis=1) | (sums <= 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise self._fault(
                row, f"{values[row].tolist()} are no votes: give counts from 0, at least one of them above"
            )
        return self._tempered(values / np.where(present, sums, 1)[:, None])

    def _tempered(self, values: Floats) -> Floats:
        if self.source.temperature == 1:
            return values
        powers = values ** (1 / self.source.temperature)
        sums = powers.sum(axis=1, keepdims=True)
        return powers / np.where(sums > 0, sums, 1)

    def _tempered_labels(self, values: Floats) -> Floats:
        if self.source.temperature == 1:
            return values
        yes, no = values ** (1 / self.source.temperature), (1 - values) ** (1 / self.source.temperature)
        return yes / (yes + no)


def _parsed(cell: Any) -> Any:
    """Return what a cell holds; JSON in text is read."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _token(entry: Any) -> tuple[str, Any] | None:
    if isinstance(entry, Mapping) and {"token", "logprob"} <= entry.keys():
        return entry["token"], entry["logprob"]
    if isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str):
        return entry[0], entry[1]
    return None


def _keys(ids: Sequence[str] | None, texts: tuple[Sequence[str], ...]) -> list[Key]:
    """Return what rows are matched by: the id, if there is one, then the texts."""
    return list(zip(*([ids] if ids is not None else []), *texts, strict=True))


def _groups(keys: Sequence[Key], present: NDArray[np.bool_], swap: bool) -> dict[Key, list[int]]:
    """Return key -> rows of the file that have predictions; pairs in the other order too, where ``swap`` is set."""
    groups: dict[Key, list[int]] = {}
    for row in np.flatnonzero(present).tolist():
        groups.setdefault(keys[row], []).append(row)
    if swap:
        for key, members in list(groups.items()):
            groups.setdefault((*key[:-2], key[-1], key[-2]), members)
    return groups


def _plain(key: Key, texts_at: int) -> Key:
    texts = (" ".join(unicodedata.normalize("NFC", text).split()) for text in key[texts_at:])
    return (*key[:texts_at], *texts)


def _match(
    where: str,
    source: TeacherSource,
    keys: Sequence[Key],
    values: Floats,
    groups: Mapping[Key, list[int]],
    texts_at: int,
    notes: list[str],
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the values ``[N, C]`` of the rows with the given keys, or zeros, and ``[N]`` whether there are some."""
    matched, covered = np.zeros((len(keys), values.shape[1])), np.zeros(len(keys), dtype=bool)
    known: dict[Key, Floats] = {}
    used: set[int] = set()

    def take(row: int, key: Key, members: list[int]) -> None:
        if key not in known:
            known[key] = _merge(where, source, key, values, members)
            used.update(members)
        matched[row], covered[row] = known[key], True

    for row, key in enumerate(keys):
        if key in groups:
            take(row, key, groups[key])
    rest = np.flatnonzero(~covered).tolist()
    if rest and len(keys[0]) > texts_at:
        plain: dict[Key, list[int]] = {}
        for key, members in groups.items():
            plain.setdefault(_plain(key, texts_at), []).extend(members)
        for row in rest:
            key = _plain(keys[row], texts_at)
            if key in plain:
                take(row, ("normalized", *key), sorted(set(plain[key])))
        if similar := int(covered[rest].sum()):
            notes.append(f"{similar:,} of them by text in Unicode NFC, each run of white space made one space")
    if extra := len({row for members in groups.values() for row in members} - used):
        notes.append(f"{extra:,} other rows of the file are not used")
    return matched, covered


def _merge(where: str, source: TeacherSource, key: Key, values: Floats, members: list[int]) -> Floats:
    """Return the prediction of rows with one key, whatever their order in the file."""
    rows = values[members]
    rows = rows[np.lexsort(rows.T[::-1])]
    if (np.ptp(rows, axis=0) <= SAME).all():
        first: Floats = rows[0]
        return first
    if source.duplicates == "error":
        raise DataError(
            f"{where}: rows {', '.join(map(str, members[:5]))} are of one text ({_shown(key)}) but have different "
            "predictions; keep one of them, or average them with duplicates=mean"
        )
    mean: Floats = rows.mean(axis=0)
    return mean


def _shown(key: Key) -> str:
    text = " / ".join(key)
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _check_coverage(
    where: str, source: TeacherSource, keys: Sequence[Key], covered: NDArray[np.bool_], alone: bool
) -> None:
    """Raise ``DataError`` for a file of other rows, or for rows without a prediction that nobody allowed."""
    missing = np.flatnonzero(~covered)
    if not len(missing):
        return
    first = int(missing[0])
    if len(missing) == len(covered):
        raise DataError(
            f"{where}: none of the {len(covered):,} training rows stands in the file (the first is "
            f"{_shown(keys[first])}); is it a file of other rows, or of other columns?"
        )
    if alone and source.missing == "error":
        raise DataError(
            f"{where}: {len(missing):,} of {len(covered):,} training rows have no prediction, training row {first} "
            f"({_shown(keys[first])}) is the first; predict them too, or let them learn from gold alone with "
            "missing=gold"
        )


def check_covered(task: str, covered: NDArray[np.bool_] | None, missing: Sequence[str]) -> None:
    """Raise ``DataError`` if no member of an ensemble covers a row, unless one of them has ``missing="gold"``."""
    if covered is not None and "gold" not in missing:
        raise DataError(
            f"teachers of {task!r}: {int((~covered).sum()):,} of {len(covered):,} training rows have no prediction of "
            "any member; predict them too, or let them learn from gold alone with missing=gold"
        )


def check_agreement(where: str, task: Task, rows: TaskSplit, column: Column) -> None:
    """Refuse predictions that are no nearer to gold than the commonest label is, or the mean of a regression task.

    Raises:
        DataError: With both counts.
    """
    known = np.ones(len(rows.keys), dtype=bool) if column.covered is None else column.covered
    if rows.has_gold is not None:
        known = known & rows.has_gold
    labels, values = rows.labels[known].astype(np.float64), column.values[known]
    if not len(labels):
        return
    if task.regression:
        assert task.range is not None
        low, high = task.range
        if column.form == "logits":
            head = task.head_config
            linear = isinstance(head, Mapping) and not head.get("sigmoid", True)
            values = low + (high - low) * (values if linear else 1 / (1 + np.exp(-values)))
        error, base = float(np.square(values[:, 0] - labels).mean()), float(np.var(labels))
        found, least, bad = f"mean squared error is {error:.4g}", f"{base:.4g}, that of the mean", error >= base > 0
    else:
        above = 0.0 if column.form == "logits" else 0.5
        if task.multi_label:
            right, total = int(((values > above) == labels).sum()), labels.size
            common = int(np.maximum(labels.sum(axis=0), len(labels) - labels.sum(axis=0)).sum())
        else:
            ordinal = task.kind == "ordinal" and column.form == "logits"
            predicted = (values > 0).sum(axis=1) if ordinal else values.argmax(axis=1)
            right, total = int((predicted == labels).sum()), len(labels)
            common = int(np.bincount(labels.astype(np.int64)).max())
        found, least = f"agreement is {right:,} of {total:,} labels", f"{common:,}, that of the commonest label"
        bad = right <= common < total
    if bad:
        raise DataError(
            f"{where}: its {found}, no better than {least}; are classes or rows mixed up? If it is to teach all the "
            "same, give check_agreement=false"
        )
