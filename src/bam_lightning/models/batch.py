"""What the data side hands to the model side: examples of several tasks in one padded block.

B examples, T tokens, n examples of one task, K outputs of its head, C labels of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A micro-batch. An optimizer step is a list of them; its loss is the sum over all their examples."""

    inputs: dict[str, Tensor]  # encoder inputs: [B, T] each
    rows: dict[str, Tensor]  # task -> [n] positions in this batch
    numbers: dict[str, Tensor]  # task -> [n] row numbers in the task's split
    labels: dict[str, Tensor]  # task -> [n] class ids (int64) or scores (float32); 0, 1 of C labels: [n, C]
    teacher: dict[str, Tensor]  # task -> [n, K] teacher logits; absent: the task has no teacher
    lengths: tuple[int, ...] = ()  # B: tokens of each row, which stay on the host
