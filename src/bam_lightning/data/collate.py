"""From rows of several tasks to a minibatch: one row of tokens, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bam_lightning.config.exceptions import DataError
from bam_lightning.data.tokenization import Tokens
from bam_lightning.models.batch import Batch, TaskBatch

PREDICT_TOKENS = 8_192  # padded tokens in a batch to predict on


class Examples(NamedTuple):
    """A task's rows, ready for the model. N rows, K outputs of the head.

    Attributes:
        tokens: of the N texts or pairs.
        labels: ``[N]``, or ``[N, C]`` of a multi-label task, as in ``TaskSplit``.
        teacher: float32 logits ``[N, K]`` of one teacher, ``[N, k, K]`` of an ensemble, or ``None``.
        teacher_target: float32 predictions ``[N, K]`` in the head's target space, in place of ``teacher``.
        has_teacher: ``[N]`` whether the teacher predicted the row; ``None`` where it predicted all.
        has_gold: ``[N]`` whether the row has a gold label; ``None`` where all have one.
        weight: float32 ``[N]`` factors on the example losses; ``None`` where all are 1.
        gold: float32 ``[N, C]`` gold labels that are distributions over label names, in place of ``labels``.
    """

    tokens: Tokens
    labels: NDArray[np.generic]
    teacher: NDArray[np.float32] | None = None
    teacher_target: NDArray[np.float32] | None = None
    has_teacher: NDArray[np.bool_] | None = None
    has_gold: NDArray[np.bool_] | None = None
    weight: NDArray[np.float32] | None = None
    gold: NDArray[np.float32] | None = None

    def check_targets(self, task: str) -> None:
        """Raise ``DataError`` for a row that has neither gold nor a teacher's prediction."""
        if self.has_gold is None:
            return
        taught = np.full(len(self.labels), self.teacher is not None or self.teacher_target is not None)
        if self.has_teacher is not None:
            taught &= self.has_teacher
        if (bare := np.flatnonzero(~taught & ~self.has_gold)).size:
            raise DataError(
                f"task {task!r}: {len(bare):,} training rows have neither a gold label nor a teacher's prediction, "
                f"the first is row {int(bare[0])}; give one of the two, or remove them"
            )

    def take(self, positions: NDArray[np.int64], rows: NDArray[np.integer]) -> TaskBatch:
        """Return the examples of the given ``[n]`` rows, whose texts have the given positions in the minibatch."""

        def column(values: NDArray[Any] | None) -> torch.Tensor | None:
            return None if values is None else torch.from_numpy(values[rows])

        return TaskBatch(
            torch.from_numpy(positions),
            torch.from_numpy(rows),
            torch.from_numpy(self.labels[rows]),
            *map(column, (self.teacher, self.teacher_target, self.has_teacher, self.has_gold, self.weight, self.gold)),
        )


@dataclass(frozen=True)
class SharedRows:
    """Rows of one source that several tasks label: a drawn row brings all its labels. N rows.

    Attributes:
        rows: task -> ``[N]`` number of the row among the task's examples, -1 where it has no label.
    """

    rows: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.rows.values())))

    def lengths(self, tasks: Mapping[str, Examples]) -> NDArray[np.int64]:
        """Return the tokens of each row ``[N]``."""
        found = np.zeros(len(self), dtype=np.int64)
        for task, numbers in self.rows.items():
            found[numbers >= 0] = tasks[task].tokens.lengths[numbers[numbers >= 0]]
        return found


def stream_units(tasks: Mapping[str, Examples], shared: Mapping[str, SharedRows]) -> dict[str, int]:
    """Return what a stream draws from, and its size: sources that tasks share, and tasks with rows of their own."""
    source_of = {task: source for source, part in shared.items() for task in part.rows}
    units: dict[str, int] = {}
    for task, examples in tasks.items():
        source = source_of.get(task)
        units.setdefault(source or task, len(shared[source]) if source else len(examples.labels))
    return units


def split_across_ranks(lengths: NDArray[np.integer], rank: int, world_size: int) -> NDArray[np.int64]:
    """Return the positions of one rank's rows: as many rows as any other's, and as many tokens but for a row's.

    Ranks wait for each other at every step, so the one with the most tokens would delay all.

    >>> [split_across_ranks(np.array([9, 128, 10, 120]), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    lap, seat = np.divmod(np.arange(len(lengths)), world_size)
    owner = np.where(lap % 2 == 0, seat, world_size - 1 - seat)  # dealt out longest first, to and fro
    mine: NDArray[np.int64] = np.sort(np.argsort(-lengths, kind="stable")[owner == rank])
    return mine


def length_batches(lengths: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Sort rows of the given ``[N]`` lengths and cut them into batches to predict on; return their positions.

    >>> [batch.tolist() for batch in length_batches(np.array([5000, 10, 4500]))]
    [[1], [2], [0]]
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    start = 0
    for place, length in enumerate(lengths[order].tolist()):
        if (place + 1 - start) * length > PREDICT_TOKENS and place > start:
            batches.append(order[start:place])
            start = place
    return [*batches, order[start:]] if len(order) else []


def collate(
    tasks: Mapping[str, Examples],
    task_of: Sequence[str] | NDArray[np.object_],
    rows: NDArray[np.integer],
    index: int = 0,
) -> Batch:
    """Return the minibatch of the given rows; every task in ``tasks`` has an entry, if need be an empty one.

    Args:
        tasks: the examples to choose from.
        task_of: ``[B]`` task names.
        rows: ``[B]`` row numbers within those tasks; at least one.
        index: number of the batch in its stream.
    """
    sources = [tasks[task].tokens for task in task_of]
    starts = np.array([source.offsets[row] for source, row in zip(sources, rows, strict=True)], dtype=np.int64)
    ends = np.array([source.offsets[row + 1] for source, row in zip(sources, rows, strict=True)], dtype=np.int64)
    order = np.argsort(ends - starts, kind="stable")
    lengths = (ends - starts)[order]
    ids = np.concatenate([sources[i].ids[starts[i] : ends[i]] for i in order])
    types = None
    if sources[0].types is not None:
        types = np.concatenate([sources[i].types[starts[i] : ends[i]] for i in order])
    offsets = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(offsets, lengths)
    names = np.asarray(task_of, dtype=object)[order]
    parts = {}
    for task, examples in tasks.items():
        places = np.flatnonzero(names == task)
        parts[task] = examples.take(places, np.asarray(rows)[order[places]])
    return Batch(
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(positions),
        None if types is None else torch.from_numpy(types.astype(np.int64)),
        tuple(lengths.tolist()),
        parts,
        index,
    )


def empty_batch(tasks: Mapping[str, Examples], index: int = 0) -> Batch:
    """Return a batch of one dummy token and no example, for a rank that must take part without rows of its own."""
    blank = torch.zeros(1, dtype=torch.long)
    none = np.empty(0, dtype=np.int64)
    parts = {task: examples.take(none, none) for task, examples in tasks.items()}
    types = any(examples.tokens.types is not None for examples in tasks.values())
    return Batch(blank, blank.clone(), blank.clone() if types else None, (1,), parts, index)
