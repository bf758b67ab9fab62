"""Predictions from outside as a teacher's column: a file is read, checked, and matched to training rows by content.

N training rows, F rows of a file, C classes, K outputs of a head. Rows of words or of choices have several items: M in
all rows of the file. Other rows are one item."""

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
from bam_lightning.config.validation import listed
from bam_lightning.data.examples import TaskSplit, text_columns
from bam_lightning.data.labels import comma_hint, find_class
from bam_lightning.data.readers import Columns, TableFile, missing_path, read_columns, read_error, split_ending
from bam_lightning.data.task import Task
from bam_lightning.data.word_labels import words_of
from bam_lightning.store.ragged import Ragged, concatenate

SAME = 1e-4  # largest difference of predictions that count as equal
SUM_SLACK = 0.02  # probabilities are renormalized if their sum is at most this far from 1
ROUNDING = 1e-6  # of a sum; smaller differences are left as they are
ABSENT = -1e4  # logit of a word or choice that is not predicted, as in models.batch, which needs torch
SHOWN = 3  # answers that name no class
NEVER = -1e3  # logit of a word's probability of 0
WORDS = ("tagging", "span")
FORMS_OF = {
    "classification": ("logits", "probabilities", "labels", "votes", "top_logprobs"),
    "ordinal": ("logits", "probabilities", "labels", "votes", "top_logprobs"),
    "multi_label": ("logits", "probabilities", "labels"),
    "regression": ("logits", "values"),
    "choice": ("logits", "probabilities", "labels"),
    "tagging": ("logits", "probabilities", "labels"),
    "span": ("logits", "probabilities"),
}
Floats = NDArray[np.float64]
Key = tuple[str, ...]


class Column(NamedTuple):
    """A teacher's predictions on N training rows.

    Attributes:
        form: ``logits``, ``probabilities`` (of classes, or of each label) or ``values`` (in label units).
        values: float32 ``[N, K]`` logits, ``[N, C]`` probabilities or ``[N, 1]`` values; zeros where not covered.
            ``Ragged`` logits of the words of N rows, ``ABSENT`` for a word that is not predicted.
        covered: ``[N]`` whether the teacher predicted the row; ``None`` if it predicted all.
        notes: What was done, one sentence each.
    """

    form: str
    values: Any
    covered: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of form, values and coverage in row order, 16 hexadecimal digits: what a student can learn from."""
        shape = (self.values.values if isinstance(self.values, Ragged) else self.values).shape
        digest = hashlib.sha256(f"{self.form} {shape} ".encode())
        digest.update(self.values.tobytes())
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
    names = _column_names(where, source)
    form, columns = _find_form(where, name, task, source, names)
    texts = [*task.text_columns, *task.choices]
    by_text = all(column in names for column in texts)
    by_id = task.id_column in names and rows.ids is not None
    if not (by_text or by_id):
        wanted = ", ".join(texts) + (f", or {task.id_column}" if rows.ids is not None else "")
        raise DataError(
            f"{where}: no columns {wanted}, by which rows are matched; columns there: {listed(names)}; rename them"
        )
    key_columns = [*(texts if by_text else ()), *([str(task.id_column)] if by_id else ())]
    table = _read(where, source, [*columns.values(), *([source.confidence] if source.confidence else []), *key_columns])
    notes: list[str] = []
    values, present = _Reader(where, task, source, notes).read(form, columns, table)
    file_keys = _keys(
        [str(value) for value in table.column(str(task.id_column)).to_pylist()] if by_id else None,
        text_columns(where, task, table) if by_text else (),
    )
    keys = _keys(rows.ids if by_id else None, rows.texts if by_text else ())
    groups = _groups(file_keys, present, swap=task.symmetric and by_text)
    found, values = _match(where, source, keys, values, groups, texts_at=int(by_id), notes=notes)
    covered = found >= 0
    _check_coverage(where, source, keys, covered, alone)
    count = f"{int(covered.sum()):,} of {len(covered):,} training rows"
    notes.insert(0, count + ("; the others learn from gold alone" if alone and not covered.all() else ""))
    if not present.all():
        notes.append(f"{int((~present).sum()):,} rows of the file have no prediction")
    form = form if form in ("logits", "values") else "probabilities"
    return Column(
        "logits" if task.kind in WORDS else form,
        _in_row_order(where, task, rows, form, values, found),
        None if covered.all() else covered,
        tuple(f"{where}: {note}" for note in notes),
    )


def _in_row_order(
    where: str, task: Task, rows: TaskSplit, form: str, values: Ragged, found: NDArray[np.int64]
) -> NDArray[np.float32] | Ragged:
    """Return the values of N training rows, given ``[N]`` the row of the file of each, or -1.

    Raises:
        DataError: If a row has another number of words or choices than the file has predictions.
    """
    covered, counts = found >= 0, np.ones(len(found), dtype=np.int64)
    several = values.values.shape[1] == 1 and task.kind == "choice"  # else one row of C numbers, of hard labels
    if task.kind in WORDS:
        counts = np.array([len(words_of(text, str(task.kind))) for text in rows.texts[-1]], dtype=np.int64)
    elif several:
        counts = np.sum([list(map(bool, choice)) for choice in rows.texts[len(task.text) :]], axis=0)
    for row in np.flatnonzero(covered & (values.counts[found] != counts))[:1]:
        raise DataError(
            f"{where}, row {int(found[row])}: {int(values.counts[found[row]])} predictions, but the training row with "
            f"its text has {int(counts[row])} {'choices' if several else 'words'}; give one for each"
        )
    fill = ABSENT if form == "logits" and (several or task.kind in WORDS) else 0.0
    items = np.full((int(counts.sum()), values.values.shape[1]), fill, dtype=np.float32)
    items[np.repeat(covered, counts)] = values[found[covered]].values
    if task.kind in WORDS:
        if form != "logits":
            known = np.repeat(covered, counts)
            if task.kind == "tagging":
                known &= items.any(axis=1)
            with np.errstate(divide="ignore"):
                items = np.where(known[:, None], np.log(items).clip(NEVER), ABSENT)
        return Ragged.from_counts(items.astype(np.float32), counts)
    if not several:
        return items
    table = np.full((len(counts), len(task.labels or ())), fill, dtype=np.float32)
    table[np.arange(table.shape[1]) < counts[:, None]] = items[:, 0]
    return table


def _column_names(where: str, source: TeacherSource) -> list[str]:
    path = Path(source.path).expanduser()
    kind = split_ending(path.name)[1]
    if not path.is_file():
        raise DataPathError(f"{where}: {missing_path(path, 'give its path')}")
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
        if source.confidence is not None and task.kind not in ("classification", "ordinal"):
            raise DataError(
                f"{where}: confidence is for labels of classification and ordinal tasks, not of {task.kind}"
            )
        if not columns:
            raise DataError(f"{where}: no column {pattern!r} for {form}; columns there: {listed(names)}")
        if source.confidence not in (None, *names):
            raise DataError(f"{where}: no column {source.confidence!r} for confidence; columns there: {listed(names)}")
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
            and not set(columns.values()) & {*task.text_columns, *task.choices, task.label, task.id_column}
        ):
            found.setdefault(form, columns)
    if len(found) != 1:
        several = f"columns of several forms ({', '.join(found)})" if found else "no columns of predictions"
        options = ", ".join(f"{form}=" for form in possible)
        raise DataError(
            f"{where}: {several}; say which columns hold what with one of {options} as in "
            f"{possible[0]}='{possible[0]}_*'; columns there: {listed(names)}"
        )
    return next(iter(found.items()))


def _expand(pattern: str, names: Sequence[str]) -> dict[str, str]:
    if "*" not in pattern:
        return {"": pattern} if pattern in names else {}
    before, after = map(re.escape, pattern.split("*"))
    matches = ((re.fullmatch(f"{before}(.+){after}", name), name) for name in names)
    return {match[1]: name for match, name in matches if match}


class _Reader:
    """Reads the numbers ``[M, K]`` of a file; what is done to them is added to ``notes``."""

    def __init__(self, where: str, task: Task, source: TeacherSource, notes: list[str]) -> None:
        self.where, self.task, self.source, self.notes = where, task, source, notes
        self.classes = ["start", "end"] if task.kind == "span" else list(task.labels or ())
        self.row_of = np.empty(0, dtype=np.int64)  # [M] row of each item
        self.n_rows = 0  # F
        self.several = False  # whether rows have several items

    def read(self, form: str, columns: dict[str, str], table: pa.Table) -> tuple[Ragged, NDArray[np.bool_]]:
        """Return numbers of F rows, and ``[F]`` whether a row has some; items without a number have 0 or ``ABSENT``."""
        cells = {word: [_parsed(cell) for cell in table.column(name).to_pylist()] for word, name in columns.items()}
        self.n_rows = table.num_rows
        counts = np.ones(self.n_rows, dtype=np.int64)
        self.several = self.task.kind in WORDS or (self.task.kind == "choice" and form != "labels")
        if self.several:
            cells, counts = self._items(columns, cells)
        self.row_of = np.repeat(np.arange(len(counts)), counts)
        values, present = self._numbers(form, columns, cells)
        if self.source.confidence is not None:
            values = self._confident(values, present, table.column(self.source.confidence).to_pylist())
        whole = np.bincount(self.row_of[~present], minlength=len(counts)) == 0
        if self.several and self.task.kind != "tagging" and not whole.all():
            raise self._fault(int(np.flatnonzero(~present)[0]), "a number is missing; give each one, or an empty row")
        wrong = ~np.isfinite(values).all(axis=1) & present
        if wrong.any():
            item = int(np.flatnonzero(wrong)[0])
            raise self._fault(item, f"{form} {values[item].tolist()} are not all finite numbers; mend or empty them")
        checked = getattr(self, f"_{form}")(values, present)
        checked[~present] = ABSENT if self.several and form == "logits" else 0
        return Ragged.from_counts(checked, counts), np.bincount(self.row_of[present], minlength=len(counts)) > 0

    def _items(
        self, columns: dict[str, str], cells: dict[str, list[Any]]
    ) -> tuple[dict[str, list[Any]], NDArray[np.int64]]:
        """Return the items of all rows one after the other, and the number of items of each row ``[F]``."""
        if self.task.kind == "choice" and "" not in columns:  # a column for each choice, empty behind a row's last
            ordered = [list(cells.values())[place] for place in self._order(self._words(columns))]
            rows = zip(*ordered, strict=True)
            cells = {"": [[cell for cell in row if cell is not None and cell != ""] for row in rows]}
        counts = []
        for row, parts in enumerate(zip(*cells.values(), strict=True)):
            lists = [[] if part is None else part.split() if isinstance(part, str) else part for part in parts]
            for name, part in zip(columns.values(), lists, strict=False):
                if not isinstance(part, list) or len(part) != len(lists[0]):
                    raise DataError(
                        f"{self.where}, row {row}: column {name!r} holds {part!r}; give a list with an entry for each "
                        f"{self._item}"
                    )
            counts.append(len(lists[0]))
            for cell, part in zip(cells.values(), lists, strict=True):
                cell[row] = part
        flat = {word: [_parsed(item) for part in parts for item in part] for word, parts in cells.items()}
        return flat, np.array(counts, dtype=np.int64)

    def _fault(self, item: int, reason: str) -> DataError:
        row = int(self.row_of[item])
        place = f", {self._item} {item - int(np.searchsorted(self.row_of, row))}" if self.several else ""
        return DataError(f"{self.where}, row {row}{place}: {reason}")

    @property
    def _item(self) -> str:
        return "choice" if self.task.kind == "choice" else "word"

    def _numbers(
        self, form: str, columns: dict[str, str], cells: dict[str, list[Any]]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        if "" not in cells:
            if form in ("values", "labels", "top_logprobs"):
                raise DataError(f"{self.where}: {form} are read from one column; name it without *")
            order = self._order(self._words(columns))
            parts = [self._floats(cells[word], column) for word, column in columns.items()]
            values = np.stack([part for part, _ in parts], axis=1)[:, order]
            given = np.stack([known for _, known in parts], axis=1)
            half = given.any(axis=1) & ~given.all(axis=1)
            if half.any():
                item = int(np.flatnonzero(half)[0])
                empty = next(column for column, known in zip(columns.values(), given[item], strict=True) if not known)
                raise self._fault(item, f"column {empty!r} is empty, others are not; fill it, or empty all of the row")
            return values, np.asarray(given.any(axis=1), dtype=bool)
        if form == "labels":
            return self._hard(cells[""])
        return self._cells(form, columns.get("", ", ".join(columns.values())), cells[""])

    def _words(self, columns: dict[str, str]) -> list[str]:
        """Return the classes of several columns: what stands for ``*``, or ``classes`` where that is no class."""
        words, given = list(columns), list(self.source.classes)
        if not given or all(self._find(word) is not None for word in words):
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

    def _find(self, word: str) -> int | None:
        if self.task.kind == "span":
            return self.classes.index(word) if word in self.classes else None
        return find_class(self.task, word)

    def _answer(self, word: str) -> int | None:
        """Return the class that a label or the key of a mapping names, if need be but for case and white space."""
        number = self._find(word)
        if number is None and self.task.kind != "span":
            number = find_class(self.task, word.strip(), any_case=True)
        return number

    def _unknown(self, answers: Sequence[tuple[int, Any]]) -> DataError:
        """Return the error about (item, answer) pairs that name no class: the first, how many, and what to do."""
        item, answer = answers[0]
        rows = len({int(self.row_of[number]) for number, _ in answers})
        words = list(dict.fromkeys(repr(word) for _, word in answers))
        shown = ", ".join(words[:SHOWN]) + f" and {len(words) - SHOWN:,} more" * (len(words) > SHOWN)
        count = f" ({rows:,} of {self.n_rows:,} rows name none: {shown})" if rows > 1 else ""
        remedy = "with missing=gold: such rows then learn from gold alone"
        if self.task.kind == "tagging":
            remedy = "for such words, which then learn from gold alone"
        return self._fault(
            item,
            f"{answer!r} is no class of the task{count}; its classes are {', '.join(self.classes)}; rename it, or give "
            f"null {remedy}",
        )

    def _class(self, word: str) -> int:
        number = self._find(word)
        if number is None:
            raise DataError(
                f"{self.where}: {word!r} is no class of the task; its classes are {', '.join(self.classes)}; "
                "rename it, name other columns, or give the classes of the columns, in their order, with classes="
            )
        return number

    def _floats(self, cells: list[Any], title: str) -> tuple[Floats, NDArray[np.bool_]]:
        values = np.zeros(len(cells))
        known = np.ones(len(cells), dtype=bool)
        for row, cell in enumerate(cells):
            if cell is None or cell == "":
                known[row] = False
                continue
            values[row] = self._float(row, title, cell)
        return values, known

    def _cells(self, form: str, title: str, cells: list[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        """Read one column of numbers, of lists or of mappings."""
        plain = self.task.regression or form == "values" or self.task.kind == "choice"
        thresholds = form == "logits" and self.task.kind == "ordinal"  # an output for each, between two classes
        width = 1 if plain else len(self.classes) - thresholds
        order = self._order(self.source.classes) if self.source.classes and not (plain or thresholds) else None
        values, present = np.zeros((len(cells), width)), np.ones(len(cells), dtype=bool)
        unknown: list[tuple[int, Any]] = []
        for row, cell in enumerate(cells):
            if cell is None or cell == "" or cell == []:
                present[row] = False
            elif form == "top_logprobs":
                present[row] = self._spread(row, cell, values[row])
            elif isinstance(cell, Mapping) and not plain and not thresholds:
                named: set[int] = set()
                for word, number in cell.items():
                    if number is None:
                        continue
                    place = self._answer(str(word))
                    if place is None:
                        unknown.append((row, word))
                    elif place in named:
                        raise self._fault(row, f"{cell!r} has two numbers for class {self.classes[place]!r}; give one")
                    else:
                        named.add(place)
                        values[row, place] = self._float(row, title, number)
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
        if unknown:
            raise self._unknown(unknown)
        return values, present

    def _float(self, row: int, title: str, number: Any) -> float:
        try:
            return float(number)
        except (TypeError, ValueError):
            message = f"column {title!r} holds {number!r}, not a number{comma_hint(number)}"
            raise self._fault(row, message) from None

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
        several, unknown = self.task.multi_label, list[tuple[int, Any]]()
        for row, cell in enumerate(cells):
            if cell is None or (cell == "" and not several):
                present[row] = False
                continue
            if several and isinstance(cell, str):
                cell = [part.strip() for part in cell.split(self.task.label_separator) if part.strip()]
            for word in cell if several else [cell]:
                number = self._answer(str(word))
                if number is None:
                    unknown.append((row, word))
                else:
                    values[row, number] = 1
        if unknown:
            raise self._unknown(unknown)
        return values, present

    def _confident(self, values: Floats, present: NDArray[np.bool_], cells: list[Any]) -> Floats:
        """Give each label its probability, and the other classes equal parts of the rest."""
        title = str(self.source.confidence)
        numbers, known = self._floats(cells, title)
        for row in np.flatnonzero(present & ~known)[:1]:
            raise self._fault(int(row), f"column {title!r} is empty, but there is a label; fill it, or empty the label")
        for row in np.flatnonzero(present & ~((numbers >= 0) & (numbers <= 1)))[:1]:
            hint = "; divide percentages by 100" if numbers[row] > 1 else ""
            raise self._fault(
                int(row), f"column {title!r} holds {cells[row]!r}; expected a probability from 0 to 1{hint}"
            )
        left = (1 - numbers) / (len(self.classes) - 1)
        return np.where(values > 0, numbers[:, None], left[:, None])

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
        sums = self._sums(values)
        distance = np.abs(sums - 1).max(axis=1, initial=0.0)
        wrong = present & (distance > SUM_SLACK)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            shown, total = values[row].tolist(), sums[row, np.abs(sums[row] - 1).argmax()]
            if self.several and self.task.kind != "tagging":
                shown = values[self.row_of == self.row_of[row]].T.tolist()
            raise self._fault(row, f"the probabilities {shown} sum to {total:.4f}, not to 1")
        off = present & (distance > ROUNDING)
        if off.any():
            values = np.where(off[:, None], values / np.where(sums > 0, sums, 1), values)
            count = len(np.unique(self.row_of[off]))
            self.notes.append(f"the probabilities of {count:,} rows did not sum to 1 and were renormalized")
        return self._tempered(values)

    def _sums(self, values: Floats) -> Floats:
        """Return the sums that are 1 where the values are probabilities: over classes, or over a row's items."""
        if not self.several or self.task.kind == "tagging":
            return np.asarray(values.sum(axis=1, keepdims=True))
        sums = np.zeros((int(self.row_of.max(initial=-1)) + 1, values.shape[1]))
        np.add.at(sums, self.row_of, values)
        return np.asarray(sums[self.row_of])

    def _labels(self, values: Floats, present: NDArray[np.bool_]) -> Floats:
        return self._tempered(values)

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
        sums = self._sums(powers)
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
    values: Ragged,
    groups: Mapping[Key, list[int]],
    texts_at: int,
    notes: list[str],
) -> tuple[NDArray[np.int64], Ragged]:
    """Return the row ``[N]`` of values for each of the given keys, -1 where there is none; and values with means."""
    found = np.full(len(keys), -1, dtype=np.int64)
    known: dict[Key, int] = {}
    means: list[NDArray[Any]] = []
    used: set[int] = set()

    def take(row: int, key: Key, members: list[int]) -> None:
        if key not in known:
            known[key] = _merge(where, source, key, values, members, means)
            used.update(members)
        found[row] = known[key]

    for row, key in enumerate(keys):
        if key in groups:
            take(row, key, groups[key])
    rest = np.flatnonzero(found < 0).tolist()
    if rest and len(keys[0]) > texts_at:
        plain: dict[Key, list[int]] = {}
        for key, members in groups.items():
            plain.setdefault(_plain(key, texts_at), []).extend(members)
        for row in rest:
            key = _plain(keys[row], texts_at)
            if key in plain:
                take(row, ("normalized", *key), sorted(set(plain[key])))
        if similar := int((found[rest] >= 0).sum()):
            notes.append(f"{similar:,} of them by text in Unicode NFC, each run of white space made one space")
    if extra := len({row for members in groups.values() for row in members} - used):
        notes.append(f"{extra:,} other rows of the file are not used")
    return found, concatenate([values, Ragged.from_rows(means, np.float64, values.values.shape[1:])])


def _merge(
    where: str, source: TeacherSource, key: Key, values: Ragged, members: list[int], means: list[NDArray[Any]]
) -> int:
    """Return the row that stands for rows with one key, whatever their order in the file; a mean is one behind them."""
    parts = [values.row(member).ravel() for member in members]
    same = len({len(part) for part in parts}) == 1
    if same:
        rows = np.stack(parts)
        order = np.lexsort(rows.T[::-1])
        if (np.ptp(rows, axis=0) <= SAME).all():
            return members[order[0]]
    if source.duplicates == "error" or not same:
        raise DataError(
            f"{where}: rows {', '.join(map(str, members[:5]))} are of one text ({_shown(key)}) but have different "
            "predictions; keep one of them, or average them with duplicates=mean"
        )
    means.append(rows[order].mean(axis=0))
    return len(values) + len(means) - 1


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
