"""From rows to padded blocks: a cheapest split by length, and every token in its place."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from bam_lightning.data.collate import Examples, collate, split_across_ranks, token_budget_batches
from bam_lightning.data.tokenization import Tokens


def cost(lengths: np.ndarray, groups: list, call_tokens: int) -> int:
    """Padded tokens, and what the calls cost."""
    return sum(len(group) * int(lengths[group].max()) + call_tokens for group in groups)


def contiguous(count: int) -> list[list[list[int]]]:
    """Return every way to cut 0 .. count - 1 into runs."""
    ways = []
    for cuts in product([False, True], repeat=count - 1):
        groups = [[0]]
        for number, cut in enumerate(cuts, start=1):
            groups.append([number]) if cut else groups[-1].append(number)
        ways.append(groups)
    return ways


def partitions(numbers: list[int]) -> list[list[list[int]]]:
    """Return every way to part the numbers into groups, runs or not."""
    if not numbers:
        return [[]]
    first, ways = numbers[0], []
    for rest in partitions(numbers[1:]):
        ways.append([[first], *rest])
        ways += [[*rest[:i], [first, *group], *rest[i + 1 :]] for i, group in enumerate(rest)]
    return ways


def draw(seed: int, largest_count: int = 9) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 40, rng.integers(1, largest_count + 1)), int(rng.integers(0, 60))


def test_contiguous_cuts_of_four_are_eight():
    assert len(contiguous(4)) == 8
    assert len(partitions([0, 1, 2, 3])) == 15  # Bell number


@pytest.mark.parametrize("seed", range(50))
def test_split_is_as_cheap_as_the_best_of_all_cuts_of_the_sorted_lengths(seed):
    lengths, call_tokens = draw(seed)
    groups = token_budget_batches(lengths, call_tokens)
    ordered = np.sort(lengths)
    best = min(cost(ordered, way, call_tokens) for way in contiguous(len(lengths)))
    assert cost(lengths, groups, call_tokens) == best


@pytest.mark.parametrize("seed", range(20))
def test_no_partition_at_all_is_cheaper(seed):
    lengths, call_tokens = draw(100 + seed, 6)
    best = min(cost(lengths, way, call_tokens) for way in partitions(list(range(len(lengths)))))
    assert cost(lengths, token_budget_batches(lengths, call_tokens), call_tokens) == best


@pytest.mark.parametrize("seed", range(50))
def test_split_respects_the_largest_call_and_is_the_best_that_does(seed):
    lengths, call_tokens = draw(seed)
    largest = int(np.random.default_rng([seed, 1]).integers(20, 120))

    def fits(lengths, groups):
        return all(len(group) == 1 or len(group) * lengths[group].max() <= largest for group in groups)

    groups = token_budget_batches(lengths, call_tokens, largest)
    ordered = np.sort(lengths)
    best = min(cost(ordered, way, call_tokens) for way in contiguous(len(lengths)) if fits(ordered, way))
    assert fits(lengths, groups)
    assert cost(lengths, groups, call_tokens) == best


@pytest.mark.parametrize("call_tokens", [0, 50, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_split_is_a_partition_and_never_dearer_than_one_group_or_one_per_row(seed, call_tokens):
    lengths = np.random.default_rng(seed).integers(3, 128, 128).astype(np.int32)
    groups = token_budget_batches(lengths, call_tokens)
    assert sorted(np.concatenate(groups).tolist()) == list(range(128))
    spent = cost(lengths, groups, call_tokens)
    assert spent <= 128 * int(lengths.max()) + call_tokens
    assert spent <= int(lengths.sum()) + 128 * call_tokens


@pytest.mark.parametrize(
    ("lengths", "call_tokens", "expected"),
    [
        ([9, 128, 10, 120], 50, [[0, 2], [3, 1]]),
        ([9, 128, 10, 120], 10_000, [[0, 2, 3, 1]]),  # a call dearer than all padding
        ([5, 5, 5], 0, [[0, 1, 2]]),  # equal lengths need no second call
        ([7], 50, [[0]]),
        ([], 50, []),
    ],
)
def test_split_of_a_few_rows(lengths, call_tokens, expected):
    groups = token_budget_batches(np.array(lengths, dtype=np.int32), call_tokens)
    assert [group.tolist() for group in groups] == expected


def test_one_row_longer_than_the_largest_call_stands_alone():
    groups = token_budget_batches(np.array([10, 500, 10]), call_tokens=1000, largest=100)
    assert [group.tolist() for group in groups] == [[0, 2], [1]]


def tokens(rows: list[list[int]], types: list[list[int]] | None) -> Tokens:
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    segments = None if types is None else np.array([kind for row in types for kind in row], dtype=np.uint8)
    return Tokens(flat, np.cumsum([0, *map(len, rows)], dtype=np.int32), segments)


def two_tasks(types: bool = True) -> dict[str, Examples]:
    """Return ``rte`` (classes, a teacher) and ``stsb`` (scores, none)."""
    rte = tokens([[11, 12], [13, 14, 15], [16]], [[0, 1], [0, 0, 1], [0]] if types else None)
    stsb = tokens([[21, 22, 23, 24], [25]], [[0, 1, 1, 1], [0]] if types else None)
    teacher = np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]], dtype=np.float32)
    return {
        "rte": Examples(rte, np.array([1, 0, 1]), teacher),
        "stsb": Examples(stsb, np.array([2.5, 5.0], dtype=np.float32)),
    }


def test_batch_of_two_tasks_has_every_token_label_and_teacher_in_its_place():
    batch = collate(two_tasks(), ["rte", "stsb", "rte"], np.array([2, 0, 1]), pad_id=99)
    expected = {
        "input_ids": [[16, 99, 99, 99], [21, 22, 23, 24], [13, 14, 15, 99]],
        "attention_mask": [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]],
        "token_type_ids": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0]],
    }
    assert {name: value.tolist() for name, value in batch.inputs.items()} == expected
    assert {value.dtype for value in batch.inputs.values()} == {torch.int64}
    assert {task: rows.tolist() for task, rows in batch.rows.items()} == {"rte": [0, 2], "stsb": [1]}
    assert {task: index.tolist() for task, index in batch.numbers.items()} == {"rte": [2, 1], "stsb": [0]}
    assert {task: labels.tolist() for task, labels in batch.labels.items()} == {"rte": [1, 0], "stsb": [2.5]}
    assert (batch.labels["rte"].dtype, batch.labels["stsb"].dtype) == (torch.int64, torch.float32)
    assert {task: rows.tolist() for task, rows in batch.teacher.items()} == {"rte": [[4.5, 5.5], [2.5, 3.5]]}


def test_batch_is_padded_to_its_own_longest_row():
    batch = collate(two_tasks(), ["stsb", "rte"], np.array([1, 0]), pad_id=0)
    assert batch.inputs["input_ids"].tolist() == [[25, 0], [11, 12]]


def test_a_task_that_is_not_in_the_batch_is_in_none_of_its_parts():
    batch = collate(two_tasks(), ["stsb"], np.array([0]), pad_id=0)
    assert [list(part) for part in (batch.rows, batch.numbers, batch.labels, batch.teacher)] == [["stsb"]] * 3 + [[]]


def test_the_same_row_may_stand_twice():
    batch = collate(two_tasks(), ["rte", "rte"], np.array([0, 0]), pad_id=0)
    assert batch.inputs["input_ids"].tolist() == [[11, 12], [11, 12]]
    assert batch.numbers["rte"].tolist() == [0, 0]


def test_an_encoder_without_segments_gets_none():
    batch = collate(two_tasks(types=False), ["rte"], np.array([1]), pad_id=0)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 7, 32, 33])
def test_processes_share_rows_and_tokens_evenly(rows, processes):
    lengths = np.random.default_rng(rows).integers(3, 128, rows)
    shares = [split_across_ranks(lengths, rank, processes) for rank in range(processes)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(rows))
    assert all((np.diff(one) > 0).all() for one in shares)
    counts, tokens = [len(one) for one in shares], [int(lengths[one].sum()) for one in shares]
    assert max(counts) - min(counts) <= 1
    assert max(tokens) - min(tokens) <= (lengths.max() if rows else 0)
