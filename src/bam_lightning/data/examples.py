"""The rows of a task: texts, gold labels and content keys, checked before anything is trained.

A row's key is a hash of its texts, its task's name and label map: never of its position, so a teacher's column finds
its row whatever the order of the file. Training rows are sorted by their keys, so that permuting a file changes
nothing. N rows, C label names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError, TasksError
from bam_lightning.config.text_fields import is_template, render, text_columns_of
from bam_lightning.config.validation import SIMILAR, listed, suggest
from bam_lightning.data.labels import UNLABELLED, has_labels, infer_labels, missing_labels, read_labels
from bam_lightning.data.lazy_texts import LateTexts
from bam_lightning.data.leaks import join_groups, latest_rows
from bam_lightning.data.readers import expand_columns
from bam_lightning.data.soft_labels import add_label_column, read_distributions, read_weights, soft_label_names
from bam_lightning.data.sources import FileSource
from bam_lightning.data.task import CUTS, Layout, Task
from bam_lightning.data.word_labels import blank_labels, join_words
from bam_lightning.store.ragged import Ragged, concatenate

if TYPE_CHECKING:
    from bam_lightning.data.teacher_columns import Column

DEV_SHARE, DEV_LEAST, DEV_MOST = 0.1, 50, 5_000
DEV_LARGEST_SHARE = 1 / 3  # of a tiny data set
MOST_ERRORS = 10  # of tasks that cannot be read; after these no more are read
T = TypeVar("T")


class TaskSplit(NamedTuple):
    """One split. N rows, C label names.

    Attributes:
        texts: One or more columns of N strings, and a column for each choice, '' for one that a row does not have.
            Words to tag are separated by white space.
        labels: int64 class ids or float32 scores ``[N]``, of a multi-label task int64 0 and 1 ``[N, C]``; tags and
            answers are ``Ragged``, see ``word_labels``. Rows without gold hold a value that means nothing.
        keys: N hashes of 16 bytes.
        ids: The task's ``id_column``, as text; ``None`` without one.
        has_gold: ``[N]`` whether the row has a label; ``None`` where all have one.
        weight: float32 ``[N]`` factors on the losses of training rows; ``None`` where all are 1.
        gold: float32 ``[N, C]`` gold labels that are distributions; ``labels`` are their likeliest classes.
        layout: How the texts are encoded.
    """

    texts: tuple[Sequence[str], ...]
    labels: Any
    keys: list[bytes]
    ids: Sequence[str] | None = None
    has_gold: NDArray[np.bool_] | None = None
    weight: NDArray[np.float32] | None = None
    gold: NDArray[np.float32] | None = None
    layout: Layout = Layout()

    def take(self, order: NDArray[np.int64]) -> TaskSplit:
        """Return the rows at the positions ``order``, in that order."""
        positions = order.tolist()

        def texts_of(column: Sequence[str]) -> Sequence[str]:
            return column.take(order) if isinstance(column, LateTexts) else [column[i] for i in positions]

        return TaskSplit(
            tuple(map(texts_of, self.texts)),
            self.labels[order],
            [self.keys[i] for i in positions],
            None if self.ids is None else texts_of(self.ids),
            None if self.has_gold is None else self.has_gold[order],
            None if self.weight is None else self.weight[order],
            None if self.gold is None else self.gold[order],
            self.layout,
        )

    def labelled(self) -> TaskSplit:
        """Return the rows that have gold."""
        return self if self.has_gold is None else self.take(np.flatnonzero(self.has_gold))._replace(has_gold=None)

    @property
    def fingerprint(self) -> str:
        """Hash of keys and labels in their order."""
        digest = hashlib.sha256(b"".join(self.keys))
        digest.update(self.labels.tobytes())
        for column in (self.has_gold, self.weight, self.gold):
            if column is not None:
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]


class TaskExamples(NamedTuple):
    """The checked rows of a task.

    Attributes:
        train: Training rows, sorted by key.
        dev: Dev rows, in the order of their source; those of a dev split that was cut from train, sorted by key.
        test: Test rows in the order of their source, or ``None``. Labels are -1 if the source has none.
        task: The task with its kind, labels, range and metric filled in.
        notes: What was inferred, one sentence each.
        teachers: Predictions on the training rows of each of ``teachers.TASK`` in a recipe; ``None`` for a Run.
    """

    train: TaskSplit
    dev: TaskSplit
    test: TaskSplit | None
    task: Task
    notes: list[str]
    teachers: tuple[Column | None, ...] = ()

    @property
    def label_names(self) -> list[str]:
        """Label names in the order of their class ids; empty for regression."""
        return list(self.task.labels or ())

    @property
    def label_range(self) -> tuple[float, float] | None:
        """Lowest and highest label of a regression task."""
        return self.task.range

    @property
    def fingerprint(self) -> str:
        """Hash of all that a Run learns from and is scored on, whatever the order of the files."""
        keys, labels = self.dev.keys, self.dev.labels
        order = sorted(range(len(keys)), key=lambda row: (keys[row], str(row_label(labels, row))))
        dev = self.dev.take(np.asarray(order, dtype=np.int64)).fingerprint
        return hashlib.sha256(f"{self.train.fingerprint}{dev}".encode()).hexdigest()[:16]


def load_examples(name: str, task: Task, seed: int = 0) -> TaskExamples:
    """Read and check the rows of a task, and infer what it leaves open.

    Args:
        name: Name of the task; part of the content keys.
        task: What to read.
        seed: Decides which rows become the dev split if the source has none. Use the seed of the data, never the
            seed of training: a teacher would otherwise train on the student's dev rows.

    Raises:
        DataError: If a split cannot be found or reached.
        DataError: If rows cannot be learned from; the message names task, split, row and column.
    """
    splits = split_names(name, task)
    notes: list[str] = []
    train_table, where = read_table(name, task, _required(splits, name, task, "train"), _train_columns(task))
    train_table = _first_rows(train_table, task.train_rows)
    if task.soft and task.labels is None:
        task = replace(task, labels=soft_label_names(where, task, train_table), kind=task.kind or "classification")
    task, said = infer_labels(where, name, task, train_table)
    notes += [f"task {name!r}: {said}"] * bool(said)
    train = _make_train(where, name, task, train_table, check_range=True)
    if task.row_group and train.ids is None:
        train = train._replace(ids=[str(row) for row in range(len(train.keys))])
    if task.weight_column:
        train = train._replace(weight=read_weights(where, task, train_table))
    if task.soft:
        train = train._replace(gold=read_distributions(where, task, train_table))
    if splits["dev"] is None:
        train, dev, how = _cut(where, name, train, task, seed, train_table)
        notes.append(
            f"task {name!r}: no dev split, so {len(dev.keys):,} of {len(dev.keys) + len(train.keys):,} training rows "
            f"were set aside as one ({how})"
        )
    else:
        dev = load_split(name, task, "dev", splits["dev"])
    if task.row_group and not task.allow_missing_labels:
        train = train.labelled()
    if splits["unlabelled"] is not None:
        more = load_unlabelled(name, task, splits["unlabelled"])
        if task.row_group:
            more = more._replace(ids=[f"unlabelled {row}" for row in range(len(more.keys))])
        train = _add_unlabelled(train, more)
    for split, part in (("training", train), ("dev", dev)):
        if not len(part.keys):
            raise DataError(f"task {name!r}: no {split} row has a label; choose another with {task.option('label')}")
    if train.has_gold is not None:
        notes.append(
            f"task {name!r}: {int((~train.has_gold).sum()):,} of {len(train.keys):,} training rows have no gold label; "
            "a teacher alone teaches them, and they are left out where there is none"
        )
    if task.symmetric:
        train = doubled(name, task, train)
    test = None
    if splits["test"] is not None and not task.config_key:  # recipes read test rows on demand (``data.test``)
        test = load_unlabelled(name, task, splits["test"], labels_if_there=True)
    return TaskExamples(sort_by_key(train)[1], dev, test, task, notes)


def read_each(names: Iterable[str], read: Callable[[str], T]) -> dict[str, T]:
    """Return name -> what ``read`` returns of it. What is wrong inside files is said of all names at once.

    Raises:
        DataError: If one cannot be read, at once if its path or the hub is the reason: then others have it too.
        TasksError: If several cannot be read.
    """
    found: dict[str, T] = {}
    errors: list[DataError] = []
    for name in names:
        try:
            found[name] = read(name)
        except DataError as error:
            errors.append(error)
            if len(errors) == MOST_ERRORS or isinstance(error, OSError) or isinstance(error.__cause__, OSError):
                break
    if len(errors) > 1:
        raise TasksError(errors)
    if errors:
        raise errors[0]
    return found


def _train_columns(task: Task) -> list[str]:
    more = (task.weight_column, *(task.split.get(part) for part in sorted(CUTS)))
    return [*task.label_columns, *(column for column in more if column)]


def _cut(
    where: str, name: str, train: TaskSplit, task: Task, seed: int, table: pa.Table
) -> tuple[TaskSplit, TaskSplit, str]:
    """Cut dev rows from training rows, by group, time or content; return both, and how it was done."""
    group, time = task.split.get("group"), task.split.get("time")
    if task.row_group and not (group or time):  # the same rows for all tasks that label them
        units = row_keys("", (), (), train.texts)
        rank = {unit: hashlib.blake2b(unit + f"dev {seed}".encode(), digest_size=16).digest() for unit in units}
        first = set(sorted(rank, key=rank.__getitem__)[: _dev_rows(len(rank))])
        chosen = np.array([unit in first for unit in units])
        dev = sort_by_key(train.take(np.flatnonzero(chosen)).labelled())[1]
        if not len(dev.keys) or chosen.all():
            raise DataError(f"{where}: too few labelled rows to set some aside as dev rows; give a dev split")
        return train.take(np.flatnonzero(~chosen)), dev, f"the same rows for all their tasks, by data seed {seed}"
    if group:
        units = join_groups(where, group, table.column(group).to_pylist(), train.keys)
        return *cut_dev(where, name, train, task, seed, units), f"whole groups of column {group!r}, by data seed {seed}"
    if time:
        late = latest_rows(where, time, table.column(time).to_pylist(), _dev_rows(len(train.keys)))
        if train.has_gold is not None and not train.has_gold[late].any():
            raise DataError(
                f"{where}: none of the {int(late.sum()):,} latest rows by column {time!r} has a label, so none can be "
                f"a dev row; give a dev split, or name the rows without labels as {task.option('split')}.unlabelled"
            )
        dev = sort_by_key(train.take(np.flatnonzero(late)).labelled())[1]
        return train.take(np.flatnonzero(~late)), dev, f"the latest by column {time!r}"
    return *cut_dev(where, name, train, task, seed), f"chosen by content and data seed {seed}"


def _dev_rows(total: int) -> int:
    return max(1, min(max(round(DEV_SHARE * total), DEV_LEAST), DEV_MOST, int(DEV_LARGEST_SHARE * total)))


def split_names(name: str, task: Task) -> dict[str, str | None]:
    """Return the names of the ``train``, ``dev``, ``test`` and ``unlabelled`` split; ``None`` for a missing one."""
    parts = ("train", "dev", "test", "unlabelled")
    try:
        existing = [] if all(part in task.split for part in parts[:3]) else task.source.split_names()
    except DataError as error:
        raise type(error)(f"task {name!r}: {error}") from error
    return {part: task.split_name(part, existing) for part in parts}


def _required(splits: dict[str, str | None], name: str, task: Task, part: str) -> str:
    split = splits[part]
    if split is None:
        raise DataError(
            f"task {name!r}: no {part} split; splits there: {', '.join(task.source.split_names()) or 'none'}; "
            f"name one with {task.option('split')}={{'{part}': ...}}"
        )
    return split


def _first_rows(table: pa.Table, limit: int | None) -> pa.Table:
    return table if limit is None else table.slice(0, limit)


def row_label(labels: Any, row: int) -> Any:
    """Return the label of a row, of whatever kind."""
    return labels.row(row).tolist() if isinstance(labels, Ragged) else labels[row]


def share_rows(splits: Mapping[str, TaskSplit]) -> dict[str, NDArray[np.int64]]:
    """Return task -> ``[N]`` number among its rows of each row of a source, -1 where the task does not have it.

    Args:
        splits: Task -> its rows, whose ids are those of the source's rows; the N rows are in an order of their content.
    """
    numbers: dict[str, dict[tuple[str, str], int]] = {}
    texts: dict[tuple[str, str], bytes] = {}
    for name, split in splits.items():
        rows = list(zip(split.ids or (), split.texts[0], strict=True))  # a pair and its other order have one id
        numbers[name] = {row: place for place, row in enumerate(rows)}
        texts |= dict(zip(rows, row_keys("", (), (), split.texts), strict=True))
    order = sorted(texts, key=lambda row: (texts[row], row))
    return {name: np.array([known.get(row, -1) for row in order]) for name, known in numbers.items()}


def sort_by_key(rows: TaskSplit) -> tuple[NDArray[np.int64], TaskSplit]:
    """Return the order of the rows by key, then by label, and the rows in that order."""
    halves = np.frombuffer(b"".join(rows.keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    labels = rows.labels
    if isinstance(labels, Ragged):
        labels = np.array([str(row_label(labels, row)) for row in range(len(labels))])
    labels = labels[:, None] if labels.ndim == 1 else labels
    last = () if rows.ids is None or isinstance(rows.ids, LateTexts) else (np.asarray(rows.ids),)
    gold: list[Any] = [column for column in (rows.has_gold, rows.weight) if column is not None]
    gold += [] if rows.gold is None else list(rows.gold.T)
    order = np.lexsort((*last, *gold, *labels.T[::-1], halves[:, 1], halves[:, 0]))  # the last key counts first
    pa.default_memory_pool().release_unused()  # of the tables that texts were read from
    return order, rows.take(order)


def cut_dev(
    where: str, name: str, rows: TaskSplit, task: Task, seed: int, units: Sequence[bytes] | None = None
) -> tuple[TaskSplit, TaskSplit]:
    """Split training rows into training and dev rows, by content and seed.

    A tenth of the rows, at least 50 and at most 5,000, becomes the dev split, but never more than a third. Each class
    gives its share. Rows of equal texts stay together, so that no dev text is trained on. Rows without gold are trained
    on, unless a dev row has their text. ``units`` are ``[N]`` names of what stays together, if not equal texts alone;
    then classes do not matter.

    Raises:
        DataError: If there are fewer than 4 different rows.
    """
    groups: dict[bytes, list[int]] = {}
    names = rows.keys if units is None else units
    whole = rows.has_gold is None or bool(task.row_group)  # tasks that share rows set the same ones aside
    gold = np.ones(len(rows.keys), dtype=bool) if whole else np.asarray(rows.has_gold)
    for row in np.flatnonzero(gold).tolist():
        groups.setdefault(names[row], []).append(row)
    if len(groups) < 4:
        raise DataError(
            f"{where}: {len(groups)} different rows are too few to set some aside as dev rows; give a dev split"
        )
    total = int(gold.sum())
    wanted = _dev_rows(total)
    strata: dict[int, list[bytes]] = {}
    by_class = units is None and task.kind in ("classification", "ordinal")
    for key, members in groups.items():
        strata.setdefault(int(min(rows.labels[row] for row in members)) if by_class else 0, []).append(key)
    if all(len(keys) == 1 for keys in strata.values()):
        strata = {0: list(groups)}  # every class has one text: nothing to stratify by
    rank = {key: hashlib.blake2b(key + f"dev {seed}".encode(), digest_size=16).digest() for key in groups}
    ordered = {label: sorted(keys, key=rank.__getitem__) for label, keys in sorted(strata.items())}
    shares = {label: wanted * sum(len(groups[key]) for key in keys) / total for label, keys in ordered.items()}
    quotas = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(
        (label for label in shares if len(ordered[label]) > 1), key=lambda label: quotas[label] - shares[label]
    )
    for label in by_remainder[: wanted - sum(quotas.values())]:
        quotas[label] += 1
    dev: list[int] = []
    for label, keys in ordered.items():
        taken: list[int] = []
        for key in keys[:-1]:  # each class keeps at least one training text
            if len(taken) >= quotas[label]:
                break
            taken += groups[key]
        dev += taken
    held_out = {names[row] for row in dev}
    chosen = np.array([name in held_out for name in names])
    return rows.take(np.flatnonzero(~chosen)), sort_by_key(rows.take(np.flatnonzero(chosen)).labelled())[1]


def folds_of(keys: Sequence[bytes], count: int) -> NDArray[np.int64]:
    """Return the fold of each row ``[N]``, from 0 to ``count - 1``, by content: rows of equal texts are in one fold.

    >>> sorted(folds_of([b"a", b"b", b"a", b"c", b"d"], 2)[[0, 1, 3, 4]].tolist())
    [0, 0, 1, 1]
    """
    ranked = sorted(set(keys), key=lambda key: hashlib.blake2b(b"fold" + key, digest_size=16).digest())
    fold = {key: rank % count for rank, key in enumerate(ranked)}
    return np.array([fold[key] for key in keys], dtype=np.int64)


def load_split(name: str, task: Task, part: str, split: str | None = None) -> TaskSplit:
    """Read and check a labelled split.

    Args:
        name: Name of the task.
        task: The task; its kind and labels must be known.
        part: ``train``, ``dev`` or ``test``.
        split: Name of the split in the source, if known.
    """
    split = split or _required(split_names(name, task), name, task, part)
    table, where = read_table(name, task, split, task.label_columns)
    limit = {"train": task.train_rows, "dev": task.dev_rows}.get(part)
    # a range that was inferred from the training rows need not hold for others
    make = _make_train if part == "train" or task.row_group else _make_split
    rows = make(where, name, task, _first_rows(table, limit), check_range=not task.range_inferred)
    return rows if part == "train" else rows.labelled()


def load_unlabelled(
    name: str, task: Task, split: str, in_order: bool = False, labels_if_there: bool = False
) -> TaskSplit:
    """Read and check a test split. Its labels are -1, which also means: not looked at.

    Args:
        name: Name of the task.
        task: The task.
        split: Name of the split in the source.
        in_order: Refuse rows that are not sorted by their ids: a submission counts them.
        labels_if_there: Read the labels of a split that has them.
    """
    table, where = read_table(name, task, split, [])
    if in_order and task.id_column:
        ids = table.column(task.id_column).to_pylist()
        if all(isinstance(one, str) and one.isdecimal() for one in ids):
            ids = [int(one) for one in ids]  # columns of CSV are text
        for row, (one, following) in enumerate(pairwise(ids)):
            if one > following:
                raise DataError(
                    f"{where}: id {following} follows {one} in row {row + 1}, so the rows are not in their official "
                    "order, which a submission needs; sort the file by its ids"
                )
    if (
        labels_if_there
        and task.soft
        and set(expand_columns(task.label_columns, table.column_names)) & {*table.column_names}
    ):
        table = add_label_column(where, task, table)
    if labels_if_there and has_labels(task, table):
        return _make_split(where, name, task, table, check_range=not task.range_inferred)
    texts = text_columns(where, task, table)
    blank = np.full(len(texts[0]), UNLABELLED)
    labels = blank_labels(task.kind, texts) if task.kind in ("tagging", "span") else blank
    return TaskSplit(texts, labels, task_keys(name, task, texts), layout=task.layout)


def _make_split(
    where: str, name: str, task: Task, table: pa.Table, check_range: bool, may_lack: bool = False
) -> TaskSplit:
    texts = text_columns(where, task, table)
    labels = read_labels(where, name, task, table, check_range, texts, may_lack=may_lack)
    if isinstance(labels, Ragged) and (bare := np.flatnonzero(~_with_gold(labels)).tolist()):
        raise missing_labels(where, task, bare, table.num_rows, may_lack)
    if task.kind == "choice":
        _check_choices(where, task, texts, labels)
    return TaskSplit(texts, labels, task_keys(name, task, texts), row_ids(task, table), layout=task.layout)


def _check_choices(
    where: str, task: Task, texts: tuple[list[str], ...], labels: NDArray[np.int64], has_gold: Any = None
) -> None:
    """Raise ``DataError`` for a label that names a choice that its row does not have."""
    for row, label in enumerate(labels.tolist()):
        if (has_gold is None or has_gold[row]) and not texts[len(task.text) + label][row]:
            raise DataError(f"{where}, row {row}: label {(task.labels or ())[label]!r} names a choice that is empty")


def row_ids(task: Task, table: pa.Table) -> list[str] | None:
    """Return the ids of a task's rows as text, or ``None`` if it has none."""
    return None if task.id_column is None else [str(value) for value in table.column(task.id_column).to_pylist()]


def _make_train(where: str, name: str, task: Task, table: pa.Table, check_range: bool) -> TaskSplit:
    """Return training rows, which need no gold where the task allows that."""
    if not (task.allow_missing_labels or task.row_group):
        return _make_split(where, name, task, table, check_range, may_lack=True)
    if task.kind in ("tagging", "span"):
        texts = text_columns(where, task, table)
        labels = read_labels(where, name, task, table, check_range, texts)
        known = _with_gold(labels)
        keys, gold = task_keys(name, task, texts), None if known.all() else known
        return TaskSplit(texts, labels, keys, row_ids(task, table), gold, layout=task.layout)
    values = table.column(task.label).to_pylist()
    empty = (None,) if task.multi_label else (None, "")
    has_gold = np.array([value not in empty and value == value for value in values])
    if has_gold.all():
        return _make_split(where, name, task, table, check_range)
    texts = text_columns(where, task, table)
    labels = np.zeros((len(values), len(task.labels or ())) if task.multi_label else len(values), dtype=np.int64)
    if has_gold.any():
        rows = np.flatnonzero(has_gold)
        given = read_labels(where, name, task, table.take(rows), check_range, rows=rows.tolist())
        labels = np.repeat(given[:1], len(values), axis=0)  # some value where there is none
        labels[rows] = given
    elif task.regression:
        labels = np.full(len(values), task.range[0] if task.range else 0.0, dtype=np.float32)
    if task.kind == "choice":
        _check_choices(where, task, texts, labels, has_gold)
    return TaskSplit(texts, labels, task_keys(name, task, texts), row_ids(task, table), has_gold, layout=task.layout)


def _with_gold(labels: Ragged) -> NDArray[np.bool_]:
    """Return ``[N]`` whether a row has a tag, or an answer."""
    known = Ragged(labels.values.reshape(len(labels.values), -1)[:, 0] >= 0, labels.offsets)
    return np.array([known.row(row).any() for row in range(len(labels))], dtype=bool)


def _add_unlabelled(train: TaskSplit, more: TaskSplit) -> TaskSplit:
    """Return training rows followed by rows of the same task that have no gold."""
    known = np.ones(len(train.keys), dtype=bool) if train.has_gold is None else train.has_gold
    texts = tuple([*first, *second] for first, second in zip(train.texts, more.texts, strict=True))
    filler = more.labels
    if not isinstance(filler, Ragged):
        filler = np.broadcast_to(train.labels[:1], (len(more.keys), *train.labels.shape[1:]))
    return TaskSplit(
        texts,
        concatenate([train.labels, filler]),
        train.keys + more.keys,
        None if train.ids is None or more.ids is None else [*train.ids, *more.ids],
        np.concatenate([known, np.zeros(len(more.keys), dtype=bool)]),
        None if train.weight is None else np.concatenate([train.weight, np.ones(len(more.keys), dtype=np.float32)]),
        None if train.gold is None else np.pad(train.gold, ((0, len(more.keys)), (0, 0))),
        train.layout,
    )


def read_table(name: str, task: Task, split: str, more: Sequence[str]) -> tuple[pa.Table, str]:
    """Return a split that has rows, unique ids, the text columns and ``more``; and where it comes from."""
    table, there, where = task.source.read(name, task, split)
    where = f"task {name!r}, {where}"
    if not there:
        raise DataError(f"{where}: the split is empty; check the file, or choose another split")
    for column in [*task.text_columns, *task.choices, *more, *([task.id_column] if task.id_column else [])]:
        if not any(there.count(name) > 1 or name in table.column_names for name in expand_columns([column], there)):
            options = (
                f"text, label or id_column (null: none) under {task.config_key}"
                if task.config_key
                else "text=, label= or id_column="
            )
            hint = task.source.header_hint(there) if isinstance(task.source, FileSource) else ""
            raise DataError(
                f"{where}: no column {column!r}; columns there: {listed(there)}"
                f"{hint or f'; set {options}{suggest(column, there, SIMILAR)}'}"
            )
        if there.count(column) > 1:
            raise DataError(f"{where}: {there.count(column)} columns have the name {column!r}; rename all but one")
    if table.num_rows == 0:
        raise DataError(f"{where}: the split is empty; check the file, or choose another split")
    if task.id_column:
        _check_ids(where, task, table.column(task.id_column))
    if task.soft and more:
        table = add_label_column(where, task, table)
    return table, where


def task_keys(name: str, task: Task, texts: tuple[Sequence[str], ...]) -> list[bytes]:
    """Return the content keys of a task's rows."""
    return row_keys(name, task.labels or (), task.range or (), texts)


def row_keys(name: str, labels: Sequence[str], span: Sequence[float], texts: tuple[Sequence[str], ...]) -> list[bytes]:
    """Return the content key of each row: 16 bytes over task, label map and texts."""
    prefix = json.dumps([name, list(labels), [float(end) for end in span]]).encode()
    base = hashlib.blake2b(prefix, digest_size=16)
    keys = []
    for row in zip(*texts, strict=True):
        digest = base.copy()
        digest.update(f"[{', '.join(map(encode_basestring_ascii, row))}]".encode())  # json.dumps, faster
        keys.append(digest.digest())
    return keys


def hash_texts(texts: Sequence[str]) -> list[bytes]:
    """Return the content key of each text that belongs to no task."""
    return row_keys("", (), (), (texts,))


def doubled(name: str, task: Task, rows: TaskSplit) -> TaskSplit:
    """Return the rows followed by their pairs in the other order (reference code: MRPC and STS-B)."""
    swapped = (rows.texts[1], rows.texts[0])
    both = tuple([*one, *two] for one, two in zip(rows.texts, swapped, strict=True))
    labels = np.concatenate([rows.labels, rows.labels])
    keys = rows.keys + task_keys(name, task, swapped)
    ids = None if rows.ids is None else [*rows.ids, *rows.ids]
    columns: tuple[Any, ...] = (rows.has_gold, rows.weight, rows.gold)
    has_gold, weight, gold = (None if column is None else np.concatenate([column, column]) for column in columns)
    return TaskSplit(both, labels, keys, ids, has_gold, weight, gold, rows.layout)


def _check_ids(where: str, task: Task, column: pa.ChunkedArray) -> None:
    if pa.types.is_nested(column.type):
        raise DataError(
            f"{where}: the id column holds {column.type}; ids are numbers or texts; set "
            f"{task.option('id_column')} to another column, or to {'null' if task.config_key else 'None'}"
        )
    counts = column.value_counts()
    for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()[:1]:
        rows = [i for i, value in enumerate(column.to_pylist()) if value == entry["values"]]
        raise DataError(
            f"{where}: id {entry['values']} stands in rows {rows[0]} and {rows[1]}; ids must be "
            f"unique; mend the file, or set {task.setting('id_column', None)}"
        )


def text_columns(where: str, task: Task, table: pa.Table) -> tuple[list[str], ...]:
    """Return the texts of a task's rows, checked.

    Raises:
        DataError: If a text is missing, empty or no text; ``where`` begins the message.
    """
    plain = {field for field in task.text if not is_template(field)}
    columns = {
        name: _texts(where, task, name, table.column(name), part=name not in plain) for name in task.text_columns
    }
    texts = [columns[field] if field in plain else _filled(where, task, field, columns) for field in task.text]
    if len(task.choices) == 1:
        return (*texts, *_choices_of_lists(where, task, table.column(task.choices[0])))
    choices = [_texts(where, task, column, table.column(column)) for column in task.choices]
    for row, given in enumerate(zip(*choices, strict=True)):
        count = sum(map(bool, given))
        if count < 2 or not all(given[:count]):
            raise DataError(f"{where}, row {row}: choices {list(given)}; give at least 2, and empty ones last")
    return (*texts, *choices)


def _choices_of_lists(where: str, task: Task, column: pa.ChunkedArray) -> list[list[str]]:
    """Return a column for each choice, '' for one that a row does not have."""
    rows: list[list[str]] = column.to_pylist()
    most = len(task.labels or ())
    for row, choices in enumerate(rows):
        if not isinstance(choices, list) or not all(isinstance(text, str) and text.strip() for text in choices):
            raise DataError(f"{where}, row {row}: {choices!r} in column {task.choices[0]!r} is no list of choices")
        if not 2 <= len(choices) <= most:
            raise DataError(
                f"{where}, row {row}: {len(choices)} choices in column {task.choices[0]!r}; expected 2 to {most}, one "
                f"for each of {task.option('labels')}"
            )
    return [[row[number] if number < len(row) else "" for row in rows] for number in range(most)]


def _filled(where: str, task: Task, field: str, columns: Mapping[str, list[str]]) -> list[str]:
    names = text_columns_of([field])
    rows = zip(*(columns[name] for name in names), strict=True)
    texts = [render([field], dict(zip(names, row, strict=True)))[0] for row in rows]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty and not task.allow_empty_text:
        raise DataError(
            f"{where}, row {empty[0]}: template {field!r} gives an empty text; fill a column, remove the row, or allow "
            f"it with {task.setting('allow_empty_text', True)}"
        )
    return texts


def _texts(where: str, task: Task, title: str, column: pa.ChunkedArray, part: bool = False) -> list[str]:
    """Return a column of texts, checked; of a part of a template, no value is an empty text."""
    if task.kind == "tagging" and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        column = pa.chunked_array([pa.array(join_words(where, title, column), pa.string())])
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if (kind != column.type and pa.types.is_string(kind)) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        check = task.option("text").rpartition(".")[2]
        raise DataError(f"{where}: column {title!r} holds {column.type}, not text; check {check}")
    texts: list[str] = column.to_pylist()
    if part:
        return [text or "" for text in texts]
    for row, text in enumerate(texts):
        if text is None:
            remedy = "write an empty text" if task.allow_empty_text else "fill it"
            raise DataError(f"{where}, row {row}: column {title!r} has no value; {remedy} or remove the row")
        if not text.strip() and not task.allow_empty_text:
            raise DataError(
                f"{where}, row {row}: column {title!r} is empty; fill it, remove the row, or allow it "
                f"with {task.setting('allow_empty_text', True)}"
            )
    return texts
