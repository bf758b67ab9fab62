"""From rows to padded blocks, with as little padding as is worth it.

A mixed minibatch holds texts of 8 tokens beside texts of 128. Padded to the longest, most of the arithmetic is
waste; so it is split by length, each part padded to its own longest. B rows, T tokens of the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bam_lightning.data.tokenization import Tokens
from bam_lightning.models.batch import Batch

LARGEST_CALL = 16_384  # padded tokens in one encoder call: bounds the memory of a large minibatch
ONE_CALL = 1 << 30  # as ``call_tokens``, for an encoder that leaves padding out: no split but for memory
PREDICT_TOKENS = 8_192  # padded tokens in a block to predict on


class Examples(NamedTuple):
    """A task's rows, ready for the model: ``labels`` as in ``sources.Rows``, ``teacher`` logits float32 or none.

    The logits of one teacher are ``[N, K]``, those of an ensemble of k ``[N, k, K]``.
    """

    tokens: Tokens
    labels: NDArray[np.generic]
    teacher: NDArray[np.float32] | None = None


def token_budget_batches(
    lengths: NDArray[np.integer], call_tokens: int, largest: int = LARGEST_CALL
) -> list[NDArray[np.int64]]:
    """Return positions grouped so that padded tokens plus ``call_tokens`` per group are fewest.

    Args:
        lengths: ``[B]`` tokens of each row.
        call_tokens: what one more encoder call costs, in tokens.
        largest: padded tokens a group may hold, unless a single row is longer.

    >>> [group.tolist() for group in token_budget_batches(np.array([9, 128, 10, 120]), call_tokens=50)]
    [[0, 2], [3, 1]]
    """
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order].astype(np.int64)
    count = len(ordered)
    best = np.zeros(count + 1, dtype=np.int64)
    cut = np.zeros(count + 1, dtype=np.int64)
    starts = np.arange(count)
    for end in range(1, count + 1):
        padded = (end - starts[:end]) * ordered[end - 1]
        costs = best[:end] + padded + np.where((padded > largest) & (starts[:end] < end - 1), 1 << 40, 0)
        cut[end] = int(np.argmin(costs))
        best[end] = costs[cut[end]] + call_tokens
    groups = []
    end = count
    while end:
        groups.append(order[cut[end] : end])
        end = int(cut[end])
    return groups[::-1]


def split_across_ranks(lengths: NDArray[np.integer], rank: int, processes: int) -> NDArray[np.int64]:
    """Return the positions of one process's rows, in order: as many rows as any other's, and as many tokens but for a
    row's. Processes wait for each other at every step, so the one with most tokens would hold up all.

    >>> [split_across_ranks(np.array([9, 128, 10, 120]), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    lap, seat = np.divmod(np.arange(len(lengths)), processes)
    owner = np.where(lap % 2 == 0, seat, processes - 1 - seat)  # dealt out, longest first, to and fro
    mine: NDArray[np.int64] = np.sort(np.argsort(-lengths, kind="stable")[owner == rank])
    return mine


def length_batches(lengths: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Return the positions of rows of the given ``[N]`` lengths, sorted by length and cut into blocks to predict on.

    >>> [block.tolist() for block in length_batches(np.array([5000, 10, 4500]))]
    [[1], [2], [0]]
    """
    order = np.argsort(lengths, kind="stable")
    blocks = []
    start = 0
    for place, length in enumerate(lengths[order].tolist()):
        if (place + 1 - start) * length > PREDICT_TOKENS and place > start:
            blocks.append(order[start:place])
            start = place
    return [*blocks, order[start:]] if len(order) else []


def collate(tasks: Mapping[str, Examples], task_of: Sequence[str], rows: NDArray[np.integer], pad_id: int) -> Batch:
    """Return the block of the given rows, padded to the longest of them.

    Args:
        tasks: the rows to choose from.
        task_of: B task names.
        rows: ``[B]`` row numbers within those tasks.
        pad_id: token id that fills up.
    """
    places: dict[str, list[int]] = {}
    for place, task in enumerate(task_of):
        places.setdefault(task, []).append(place)
    numbers = {task: rows[where] for task, where in places.items()}
    inputs, lengths = _inputs(tasks, task_of, rows, pad_id)
    return Batch(
        inputs=inputs,
        rows={task: torch.tensor(where) for task, where in places.items()},
        numbers={task: torch.as_tensor(own) for task, own in numbers.items()},
        labels={task: torch.from_numpy(tasks[task].labels[own]) for task, own in numbers.items()},
        teacher={
            task: torch.from_numpy(teacher[own])
            for task, own in numbers.items()
            if (teacher := tasks[task].teacher) is not None
        },
        lengths=lengths,
    )


def _inputs(
    tasks: Mapping[str, Examples], task_of: Sequence[str], rows: NDArray[np.integer], pad_id: int
) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    spans = []
    for task, row in zip(task_of, rows, strict=True):
        tokens = tasks[task].tokens
        spans.append((tokens, tokens.offsets[row], tokens.offsets[row + 1]))
    lengths = tuple(int(end - start) for _, start, end in spans)
    longest = max(lengths)
    ids = np.full((len(spans), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(spans), longest), dtype=np.int64)
    types = np.zeros((len(spans), longest), dtype=np.int64) if spans[0][0].types is not None else None
    for place, (tokens, start, end) in enumerate(spans):
        ids[place, : end - start] = tokens.ids[start:end]
        mask[place, : end - start] = 1
        if types is not None and tokens.types is not None:
            types[place, : end - start] = tokens.types[start:end]
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if types is not None:
        inputs["token_type_ids"] = torch.from_numpy(types)
    return inputs, lengths
