"""One encoder with a head per task: the model that training, prediction, export and serving share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.models.batch import ABSENT, Batch, TaskBatch
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.heads import Head
from bam_lightning.models.unpadding import embedding_rows


class MultiTaskModel(nn.Module):
    """An encoder and the heads of all its tasks.

    Args:
        encoder: returns ``[S, D]`` for a batch of S texts; with ``tokens=True`` also ``[N, D]`` for its N tokens.
        heads: task name -> head.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(dict(heads))

    def head(self, task: str) -> Head:
        """Return the head of a task."""
        return cast(Head, self.heads[task])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return task -> logits for the tasks of the batch: ``[n, K]``, or ``[m, K]`` of the words of n examples."""
        states: Tensor | None = None
        if any(self.head(task).uses != "pooled" for task in batch.tasks):
            pooled, states = self.encoder(batch, tokens=True)  # [S, D], [N, D]
        else:
            pooled = self.encoder(batch)
        found = {}
        for task, part in batch.tasks.items():
            head = self.head(task)
            if states is not None and head.uses == "pairs":
                found[task] = head(states, *text_bounds(batch, part))
                continue
            vectors = (states if states is not None and head.uses == "tokens" else pooled)[part.positions]
            logits = head(pool_windows(vectors, part), *part.items)
            found[task] = logits if part.cut is None else logits.masked_fill(part.cut.unsqueeze(-1), ABSENT)
        return found

    def freeze_unreached(self) -> list[str]:
        """Set ``requires_grad=False`` for trained parameters that no task's logits depend on; return their names."""
        text = torch.arange(4, device=self.device) % embedding_rows(self.encoder.body)
        types = torch.zeros_like(text) if getattr(self.encoder.config, "type_vocab_size", 0) else None
        blank = torch.zeros(1, dtype=torch.long, device=self.device)
        parts = {task: TaskBatch(blank, blank, blank) for task in self.heads}
        logits = self(Batch(text, torch.arange(4, device=self.device), types, (4,), parts))
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        total = torch.stack([values.float().sum() for values in logits.values()]).sum()
        gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        names = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
        for name in names:
            trained[name].requires_grad_(False)
        return names

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device


def pool_windows(vectors: Tensor, part: TaskBatch) -> Tensor:
    """Return the mean or the maximum ``[n, D]`` of each example's windows ``[m, D]``; other vectors as they are."""
    if part.window_pooling is None:
        return vectors
    assert part.offsets is not None
    return torch.segment_reduce(vectors, part.window_pooling, offsets=part.offsets)


def text_bounds(batch: Batch, part: TaskBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return where each example's text begins, its second text begins, and it ends in the row of tokens: 3 x ``[n]``.

    Raises:
        ConfigError: for rows that are read in windows.
    """
    if part.offsets is not None:
        raise ConfigError("a head that reads pairs needs each of them whole; use data.truncation=longest_first")
    lengths = torch.tensor(batch.lengths, device=part.positions.device)
    ends = lengths.cumsum(0)[part.positions]
    begins = ends - lengths[part.positions]
    return begins, begins if part.second is None else begins + part.second, ends
