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
from bam_lightning.models.batch import ABSENT, Batch, TaskBatch
from bam_lightning.store.ragged import Ragged

PREDICT_TOKENS = 8_192  # padded tokens in a batch to predict on


class Examples(NamedTuple):
    """A task's rows, ready for the model. N rows, K outputs of the head, W words in all where the head reads words.

    Attributes:
        tokens: of the texts of N rows.
        labels: ``[N]``, or ``[N, C]`` of a multi-label task, as in ``TaskSplit``; tags of N rows of words; ``[N, 2]``
            first and last word of the answers.
        teacher: float32 logits ``[N, K]`` of one teacher, ``[N, k, K]`` of an ensemble, or ``None``; of words
            ``Ragged``.
        teacher_target: float32 predictions ``[N, K]`` in the head's target space, in place of ``teacher``.
        has_teacher: ``[N]`` whether the teacher predicted the row; ``None`` where it predicted all.
        has_gold: ``[N]`` whether the row has a gold label; ``None`` where all have one.
        weight: float32 ``[N]`` factors on the example losses; ``None`` where all are 1.
        gold: float32 ``[N, C]`` gold labels that are distributions over label names, in place of ``labels``.
        references: what a metric compares text with, one for each row; for rows that are scored.
    """

    tokens: Tokens
    labels: Any
    teacher: Any = None
    teacher_target: Any = None
    has_teacher: NDArray[np.bool_] | None = None
    has_gold: NDArray[np.bool_] | None = None
    weight: NDArray[np.float32] | None = None
    gold: NDArray[np.float32] | None = None
    references: Sequence[Any] | None = None

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

    def take(
        self, positions: NDArray[np.int64], rows: NDArray[np.integer], counts: NDArray[np.int64] | None = None
    ) -> TaskBatch:
        """Return the examples of the given ``[n]`` rows.

        Args:
            positions: ``[m]`` of their items in the minibatch, -1 for a word without a token.
            rows: ``[n]``.
            counts: items of each row, if not one.
        """

        def column(values: Any) -> Any:
            if values is None:
                return None
            part = values[rows]
            return torch.from_numpy(part.values if isinstance(part, Ragged) else part)

        labels, weight = column(self.labels), column(self.weight)
        teacher, target = column(self.teacher), column(self.teacher_target)
        has_teacher, has_gold = column(self.has_teacher), column(self.has_gold)
        offsets = cut = None
        if counts is not None:
            offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        if self.tokens.words is not None:
            assert counts is not None
            cut = torch.from_numpy(positions < 0)
            has_gold = ~cut if has_gold is None else has_gold.repeat_interleave(torch.from_numpy(counts)) & ~cut
            if isinstance(self.labels, Ragged):
                has_gold &= labels >= 0
            if teacher is not None:
                has_teacher = (teacher > ABSENT).flatten(1).any(dim=-1) & ~cut
        references = None if self.references is None else tuple(self.references[row] for row in rows)
        second = self.tokens.second if self.tokens.rows is None else None
        return TaskBatch(
            torch.from_numpy(np.maximum(positions, 0)),
            torch.from_numpy(rows),
            labels,
            teacher,
            target,
            has_teacher,
            has_gold,
            weight,
            column(self.gold),
            offsets,
            cut,
            references,
            column(second),
            self.tokens.window_pooling,
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


def unit_lengths(tasks: Mapping[str, Examples], shared: Mapping[str, SharedRows]) -> NDArray[np.int64]:
    """Return the tokens of each row that a stream draws from, in the order of ``stream_units``."""
    parts = [
        shared[name].lengths(tasks) if name in shared else tasks[name].tokens.lengths
        for name in stream_units(tasks, shared)
    ]
    return np.concatenate(parts)


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


def length_batches(lengths: NDArray[np.integer], max_tokens: int = PREDICT_TOKENS) -> list[NDArray[np.int64]]:
    """Sort rows of the given ``[N]`` lengths and cut them into batches to predict on; return their positions.

    Each has ``max_tokens`` padded tokens or fewer, or one row.

    >>> [batch.tolist() for batch in length_batches(np.array([5000, 10, 4500]))]
    [[1], [2], [0]]
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    start = 0
    for place, length in enumerate(lengths[order].tolist()):
        if (place + 1 - start) * length > max_tokens and place > start:
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
    first, last = zip(*(_texts_of(source, row) for source, row in zip(sources, rows, strict=True)), strict=True)
    owner = np.repeat(np.arange(len(rows)), np.subtract(last, first))  # [S] row of each text
    texts = np.concatenate([np.arange(*bounds) for bounds in zip(first, last, strict=True)])
    starts = np.array([sources[i].offsets[text] for i, text in zip(owner, texts, strict=True)], dtype=np.int64)
    ends = np.array([sources[i].offsets[text + 1] for i, text in zip(owner, texts, strict=True)], dtype=np.int64)
    order = np.argsort(ends - starts, kind="stable")
    lengths = (ends - starts)[order]
    ids = np.concatenate([sources[owner[i]].ids[starts[i] : ends[i]] for i in order])
    types = None
    if sources[0].types is not None:
        types = np.concatenate([sources[owner[i]].types[starts[i] : ends[i]] for i in order])
    offsets = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(offsets, lengths)
    place = np.argsort(order)  # [S] of each text in the batch
    names = np.asarray(task_of, dtype=object)
    parts = {}
    for task, examples in tasks.items():
        own = np.flatnonzero(names[owner] == task)  # texts, row by row
        if examples.tokens.rows is None:
            own = own[np.argsort(place[own])]  # shortest first
            parts[task] = examples.take(place[own], np.asarray(rows)[owner[own]])
            continue
        numbers = np.flatnonzero(names == task)
        taken = np.asarray(rows)[numbers]
        if examples.tokens.words is None:
            parts[task] = examples.take(place[own], taken, np.bincount(owner[own], minlength=len(rows))[numbers])
            continue
        words = examples.tokens.words[taken]
        parts[task] = examples.take(
            _place_words(words, owner[own], numbers, lengths[place[own]], offsets[place[own]]), taken, words.counts
        )
    return Batch(
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(positions),
        None if types is None else torch.from_numpy(types.astype(np.int64)),
        tuple(lengths.tolist()),
        parts,
        index,
    )


def _texts_of(tokens: Tokens, row: int) -> tuple[int, int]:
    """Return the first text of a row, and the first one behind it."""
    return (row, row + 1) if tokens.rows is None else (int(tokens.rows[row]), int(tokens.rows[row + 1]))


def _place_words(
    words: Ragged,
    owner: NDArray[np.int64],
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the tokens of words in the row of tokens of a minibatch, -1 for words without one.

    Args:
        words: of the rows, tokens counted from the row's first.
        owner: row of each text.
        numbers: of the rows.
        lengths: tokens of each text.
        offsets: where it begins in the minibatch.
    """
    passed = np.cumsum(lengths) - lengths  # tokens of this task before each text, row by row
    begins = passed[np.searchsorted(owner, numbers)]  # of each row's first text
    token = words.values + np.repeat(begins, words.counts)
    text = np.searchsorted(passed, token, side="right") - 1
    return np.where(words.values < 0, -1, token - passed[text] + offsets[text])


def empty_batch(tasks: Mapping[str, Examples], index: int = 0) -> Batch:
    """Return a batch of one dummy token and no example, for a rank that must take part without rows of its own."""
    blank = torch.zeros(1, dtype=torch.long)
    none = np.empty(0, dtype=np.int64)
    parts = {
        task: examples.take(none, none, none if examples.tokens.rows is not None else None)
        for task, examples in tasks.items()
    }
    types = any(examples.tokens.types is not None for examples in tasks.values())
    return Batch(blank, blank.clone(), blank.clone() if types else None, (1,), parts, index)
