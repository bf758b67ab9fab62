"""Rows of different lengths as one array: the words of N texts, their tags, a teacher's logits on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ragged:
    """N rows of M items in all.

    Attributes:
        values: ``[M, ...]``; row i has ``values[offsets[i]:offsets[i + 1]]``.
        offsets: int64 ``[N + 1]``.

    >>> rows = Ragged.from_rows([[1, 2], [], [3]])
    >>> rows[np.array([2, 0])].values.tolist(), len(rows)
    ([3, 1, 2], 3)
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: Sequence[Any], dtype: Any = np.int64, shape: tuple[int, ...] = ()) -> Ragged:
        """Return rows that are sequences of items of the given shape."""
        parts = [np.asarray(row, dtype=dtype).reshape(-1, *shape) for row in rows]
        return cls.from_counts(np.concatenate([np.empty((0, *shape), dtype), *parts]), [len(part) for part in parts])

    @classmethod
    def from_counts(cls, values: NDArray[Any], counts: Any) -> Ragged:
        """Return rows of so many items each."""
        return cls(values, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Items of each row: ``[N]``."""
        return np.diff(self.offsets)

    def __getitem__(self, rows: NDArray[np.integer]) -> Ragged:
        """Return the rows of the given numbers, in that order."""
        counts = self.counts[rows]
        ends = np.cumsum(counts)
        before = self.offsets[:-1][rows] - (ends - counts)  # of a row here minus there
        items = np.arange(int(counts.sum())) + np.repeat(before, counts)
        return Ragged.from_counts(self.values[items], counts)

    def row(self, number: int) -> NDArray[Any]:
        """Return the items of one row."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def tobytes(self) -> bytes:
        """Return all that tells two of them apart, to be hashed."""
        return np.ascontiguousarray(self.values).tobytes() + self.offsets.tobytes()


def concatenate(parts: Sequence[Any]) -> Any:
    """Return the rows of arrays ``[N, ...]``, or of ``Ragged`` ones, one after the other."""
    if isinstance(parts[0], Ragged):
        values = np.concatenate([part.values for part in parts])
        return Ragged.from_counts(values, np.concatenate([part.counts for part in parts]))
    return np.concatenate(parts)
