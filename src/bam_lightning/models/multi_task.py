"""One encoder with a head per task: the model that training, prediction, export and serving share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from bam_lightning.models.batch import Batch
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.heads import Head


class MultiTaskModel(nn.Module):
    """An encoder and the heads of all its tasks.

    Args:
        encoder: returns ``[S, D]`` for a batch of S texts.
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
        """Return task -> logits ``[n, K]`` for the tasks of the batch."""
        pooled = self.encoder(batch)  # [S, D]
        return {task: self.head(task)(pooled[part.positions]) for task, part in batch.tasks.items()}

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device
