"""From rows to one row of tokens: every token, label and teacher in its place, shortest text first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from bam_lightning.data.collate import (
    PREDICT_TOKENS,
    Examples,
    collate,
    empty_batch,
    length_batches,
    split_across_ranks,
)
from bam_lightning.data.tokenization import Tokens


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
    batch = collate(two_tasks(), ["rte", "stsb", "rte"], np.array([2, 0, 1]), index=7)
    assert batch.lengths == (1, 3, 4)
    assert batch.input_ids.tolist() == [16, 13, 14, 15, 21, 22, 23, 24]
    assert batch.position_ids.tolist() == [0, 0, 1, 2, 0, 1, 2, 3]
    assert batch.token_type_ids.tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert {row.dtype for row in (batch.input_ids, batch.position_ids, batch.token_type_ids)} == {torch.int64}
    rte, stsb = batch.tasks["rte"], batch.tasks["stsb"]
    assert (rte.positions.tolist(), stsb.positions.tolist()) == ([0, 1], [2])
    assert (rte.row_ids.tolist(), stsb.row_ids.tolist()) == ([2, 1], [0])
    assert (rte.labels.tolist(), stsb.labels.tolist()) == ([1, 0], [2.5])
    assert (rte.labels.dtype, stsb.labels.dtype) == (torch.int64, torch.float32)
    assert rte.teacher.tolist() == [[4.5, 5.5], [2.5, 3.5]]
    assert stsb.teacher is None
    assert (batch.size, batch.index) == (3, 7)


def test_texts_of_one_length_keep_the_order_of_their_rows():
    batch = collate(two_tasks(), ["stsb", "rte", "stsb"], np.array([1, 2, 1]))
    assert batch.input_ids.tolist() == [25, 16, 25]
    assert batch.tasks["stsb"].positions.tolist() == [0, 2]


def test_a_task_that_is_not_in_the_batch_has_no_examples():
    batch = collate(two_tasks(), ["stsb"], np.array([0]))
    part = batch.tasks["rte"]
    assert [len(part.positions), len(part.row_ids), len(part.labels)] == [0, 0, 0]
    assert part.teacher.shape == (0, 2)
    assert batch.size == 1


def test_the_same_row_may_stand_twice():
    batch = collate(two_tasks(), ["rte", "rte"], np.array([0, 0]))
    assert batch.input_ids.tolist() == [11, 12, 11, 12]
    assert batch.tasks["rte"].row_ids.tolist() == [0, 0]


def test_an_encoder_without_segments_gets_none():
    assert collate(two_tasks(types=False), ["rte"], np.array([1])).token_type_ids is None
    assert empty_batch(two_tasks(types=False)).token_type_ids is None


def test_an_empty_batch_is_a_batch_of_one_token_without_examples():
    tasks = two_tasks()
    empty, full = empty_batch(tasks, index=3), collate(tasks, ["rte"], np.array([0]))
    assert (empty.lengths, empty.size, empty.index) == ((1,), 0, 3)
    assert empty.input_ids.shape == empty.position_ids.shape == empty.token_type_ids.shape == (1,)
    for name, part in empty.tasks.items():
        for found, other in zip(part, full.tasks[name], strict=True):
            assert (found is None) is (other is None)
            if found is not None:
                assert (found.dtype, found.shape[1:], len(found)) == (other.dtype, other.shape[1:], 0)


def test_a_batch_moves_with_all_its_tensors():
    batch = collate(two_tasks(), ["rte", "stsb"], np.array([0, 1]))
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    tensors = [moved.input_ids, moved.position_ids, moved.token_type_ids]
    tensors += [value for part in moved.tasks.values() for value in part if value is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.lengths, moved.size) == (batch.lengths, batch.size)


def test_batches_to_predict_on_hold_every_row_once_and_none_is_longer_than_one_of_the_next():
    lengths = np.random.default_rng(0).integers(1, 60, 3000)
    batches = length_batches(lengths)
    assert sorted(np.concatenate(batches).tolist()) == list(range(3000))
    assert lengths[np.concatenate(batches)].tolist() == sorted(lengths.tolist())


def test_batches_to_predict_on_hold_so_many_padded_tokens_and_one_row_more_would_be_too_many():
    lengths = np.random.default_rng(0).integers(1, 60, 3000)
    shapes = [(len(batch), int(lengths[batch].max()), int(lengths[batch].min())) for batch in length_batches(lengths)]
    assert len(shapes) > 5
    assert max(rows * longest for rows, longest, _ in shapes) <= PREDICT_TOKENS
    for (rows, _, _), (_, _, following) in pairwise(shapes):
        assert (rows + 1) * following > PREDICT_TOKENS


@pytest.mark.parametrize("length", [PREDICT_TOKENS, PREDICT_TOKENS + 1])
def test_a_row_as_long_as_a_batch_stands_alone(length):
    assert [batch.tolist() for batch in length_batches(np.array([length, length]))] == [[0], [1]]


def test_no_rows_are_no_batches():
    assert length_batches(np.array([], dtype=np.int64)) == []


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
