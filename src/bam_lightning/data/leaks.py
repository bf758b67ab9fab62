"""Splits that do not leak: dev rows by group or by time, and dev rows that stand in training rows are counted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError

if TYPE_CHECKING:
    from bam_lightning.data.examples import TaskExamples, TaskSplit

_NOT_LETTERS = re.compile(r"[\W_]+")
Texts = tuple[str, ...]


def join_groups(where: str, title: str, values: Sequence[Any], keys: Sequence[bytes]) -> list[bytes]:
    """Return the name of each row's unit: rows of one group are one, and so are rows of equal texts.

    Raises:
        DataError: For a row without a group.
    """
    parent = list(range(len(values)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[Any, int] = {}
    for row, (value, key) in enumerate(zip(values, keys, strict=True)):
        if value is None or value == "" or value != value:
            raise DataError(f"{where}, row {row}: column {title!r}, which groups rows, is empty; fill it")
        for name in (("group", str(value)), ("text", key)):
            parent[find(row)] = find(first.setdefault(name, row))
    names: dict[int, str] = {}
    for row, value in enumerate(values):
        names[find(row)] = min(names.get(find(row), str(value)), str(value))  # whatever the order of the rows
    return [names[find(row)].encode("utf-8", "surrogatepass") for row in range(len(values))]


def latest_rows(where: str, title: str, values: Sequence[Any], wanted: int) -> NDArray[np.bool_]:
    """Return ``[N]`` whether a row is one of the latest, about ``wanted`` of them; rows of one time stay together.

    Raises:
        DataError: For a value that is neither a number nor an ISO 8601 date, or if all are equal.
    """
    times = np.array([_time(f"{where}, row {row}", title, value) for row, value in enumerate(values)])
    order = np.sort(times)
    border = order[len(order) - wanted]
    late = times >= border
    if late.all():
        late = times > border
    if not late.any():
        raise DataError(f"{where}: column {title!r} has one time only, so there are no later rows to set aside")
    return np.asarray(late, dtype=bool)


def _time(where: str, title: str, value: Any) -> float:
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            value = datetime.fromisoformat(value)
        if hasattr(value, "isoformat"):
            moment = datetime.fromisoformat(value.isoformat())
            return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() - (
                moment.utcoffset().total_seconds() if moment.utcoffset() else 0.0  # type: ignore[union-attr]
            )
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"{where}: {value!r} in column {title!r} is neither a number nor a date such as 2026-05-31")
    return number


def plain_text(text: str) -> str:
    """Return a text in NFKC and one case, without punctuation and white space.

    >>> plain_text("It's  GOOD!") == plain_text("its good")
    True
    """
    return _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold())


def count_leaks(rows: Mapping[str, TaskExamples]) -> list[str]:
    """Say for each task how many dev rows stand in the training rows of any task, and how many nearly do.

    Nearly: equal in NFKC and one case, without punctuation and white space.
    """
    exact: dict[Texts, str] = {}
    near: dict[Texts, str] = {}
    for name, examples in rows.items():
        for texts in _texts_of(examples.train):
            exact.setdefault(texts, name)
            near.setdefault(tuple(map(plain_text, texts)), name)
    lines = []
    for name, examples in rows.items():
        found: dict[str, int] = {}
        similar: dict[str, int] = {}
        for texts in _texts_of(examples.dev):
            if texts in exact:
                found[exact[texts]] = found.get(exact[texts], 0) + 1
            elif (plain := tuple(map(plain_text, texts))) in near and any(plain):
                similar[near[plain]] = similar.get(near[plain], 0) + 1
        if found or similar:
            lines.append(
                f"task {name!r}: of {len(examples.dev.keys):,} dev rows "
                + " and ".join(
                    f"{_shown(counts, name)} {how}"
                    for counts, how in (
                        (found, "stand in training rows"),
                        (similar, "nearly do (but for case, punctuation and white space)"),
                    )
                    if counts
                )
            )
    return lines


def _texts_of(split: TaskSplit) -> Iterable[Texts]:
    return zip(*split.texts, strict=True)


def _shown(counts: Mapping[str, int], own: str) -> str:
    """Return the sum of counts, with those of each task unless it is the task itself alone."""
    tasks = ", ".join(f"{count:,} of {name!r}" for name, count in counts.items())
    return f"{sum(counts.values()):,}" + ("" if list(counts) == [own] else f" ({tasks})")
