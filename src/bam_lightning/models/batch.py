"""A minibatch: its texts as one row of tokens, and the examples of each task.

S texts, N tokens in all of them, n examples of one task, m items of these (an example, its choices or its words), K
outputs of its head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

ABSENT = -1e4  # logit of a choice or word that is not there; its probability is exactly 0 in float32


class TaskBatch(NamedTuple):
    """The examples of one task in a minibatch.

    An example has one item, unless there are ``offsets``: then it has its choices (a text each) or its words. What is
    said of examples below holds for words, too: ``m`` in place of ``n``.

    Attributes:
        positions: ``[m]`` numbers of their texts in the batch; of words, of their first tokens in the row of tokens.
        row_ids: ``[n]`` numbers of the examples in their split.
        labels: ``[n]`` class ids (int64) or scores (float32); ``[n, C]`` zeros and ones of a multi-label task; ``[m]``
            tags of words, -1 for none; ``[n, 2]`` first and last word of an answer.
        teacher: ``[n, K]`` logits of one teacher, ``[n, k, K]`` of an ensemble; ``None`` without a teacher.
        teacher_target: ``[n, K]`` teacher predictions already in the head's target space (probabilities), in place of
            ``teacher``.
        has_teacher: ``[n]`` whether the teacher predicted the row; ``None`` where it predicted all.
        has_gold: ``[n]`` whether the row has a gold label; ``None`` where all have one.
        weight: ``[n]`` factors on the example losses; ``None`` where all are 1.
        gold: ``[n, C]`` distributions over label names, in place of ``labels``; ``None`` where each row has one label.
        offsets: ``[n + 1]``: example i has the items from ``offsets[i]`` to ``offsets[i + 1]``; ``None``: one each.
        cut: ``[m]`` whether a word has no token, since its text was cut; its logits are ``ABSENT``, and it has no loss.
        references: what a metric compares text with, one for each example; on the host.
        second: ``[m]`` where the second text begins among a pair's tokens, 0 if it is not known.
        window_pooling: ``mean`` or ``max`` over an example's items, which are windows of a long text.
    """

    positions: Tensor
    row_ids: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    teacher_target: Tensor | None = None
    has_teacher: Tensor | None = None
    has_gold: Tensor | None = None
    weight: Tensor | None = None
    gold: Tensor | None = None
    offsets: Tensor | None = None
    cut: Tensor | None = None
    references: tuple[Any, ...] | None = None
    second: Tensor | None = None
    window_pooling: str | None = None

    @property
    def items(self) -> tuple[Tensor, ...]:
        """``offsets`` as arguments of a head's ``forward``: none where each example has one item or vector."""
        return () if self.offsets is None or self.window_pooling else (self.offsets,)

    @property
    def words(self) -> tuple[Tensor, ...]:
        """``offsets`` as arguments of its other methods: none where logits are of examples, and not of their words."""
        return self.items if self.cut is not None else ()


@dataclass
class Batch:
    """A minibatch without padding: its texts one after the other, shortest first.

    Attributes:
        input_ids: ``[N]`` token ids.
        position_ids: ``[N]`` positions of the tokens within their texts, from 0.
        token_type_ids: ``[N]`` segment ids, or ``None`` where the encoder has none.
        lengths: tokens of each of the S texts, on the host.
        tasks: task name -> its examples.
        index: number of the batch in its stream; it seeds dropout.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor | None
    lengths: tuple[int, ...]
    tasks: dict[str, TaskBatch]
    index: int = 0

    @property
    def size(self) -> int:
        """Number of examples, over all tasks."""
        return sum(len(part.row_ids) for part in self.tasks.values())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on ``device``."""
        if self.input_ids.device == torch.device(device):
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking or tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in pinned memory, from which copies to a GPU do not block."""
        return self._map(lambda tensor: tensor.pin_memory())

    def merge_equal_texts(self) -> Batch:
        """Return the batch with texts of equal tokens once; the examples of a task keep their order."""
        ends = torch.tensor(self.lengths).cumsum(0).tolist()
        known: dict[bytes, int] = {}
        kept: list[int] = []
        place: list[int] = []
        for number, (end, length) in enumerate(zip(ends, self.lengths, strict=True)):
            span = slice(end - length, end)
            key = self.input_ids[span].numpy().tobytes()
            if self.token_type_ids is not None:
                key += self.token_type_ids[span].numpy().tobytes()
            if key not in known:
                known[key] = len(kept)
                kept.append(number)
            place.append(known[key])
        if len(kept) == len(place):
            return self
        tokens = torch.cat([torch.arange(ends[number] - self.lengths[number], ends[number]) for number in kept])
        places = torch.tensor(place)
        lengths, kept_lengths = torch.tensor(self.lengths), torch.tensor([self.lengths[number] for number in kept])
        begins = (kept_lengths.cumsum(0) - kept_lengths)[places]  # of each text, where its tokens are now
        token = torch.repeat_interleave(begins, lengths) + self.position_ids

        def moved(part: TaskBatch) -> TaskBatch:
            return part._replace(positions=(places if part.cut is None else token)[part.positions])

        return replace(
            self,
            input_ids=self.input_ids[tokens],
            position_ids=self.position_ids[tokens],
            token_type_ids=None if self.token_type_ids is None else self.token_type_ids[tokens],
            lengths=tuple(self.lengths[number] for number in kept),
            tasks={task: moved(part) for task, part in self.tasks.items()},
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def part_of(part: TaskBatch) -> TaskBatch:
            changed: list[Any] = [change(value) if isinstance(value, Tensor) else value for value in part]
            return TaskBatch(*changed)

        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            token_type_ids=None if self.token_type_ids is None else change(self.token_type_ids),
            tasks={task: part_of(part) for task, part in self.tasks.items()},
        )
