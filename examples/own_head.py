"""Train a task with a head of your own, save it and load it again.

Usage: python own_head.py ENCODER
"""

import sys
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from reviews import make_tasks
from torch import Tensor, nn

import bam_lightning as bam


class TwoLayerHead(bam.ClassificationHead):
    """Softmax over the labels, after a hidden layer. A head decides forward, loss, targets and decoding."""

    def __init__(self, width: int, hidden: int = 64, **options: Any) -> None:
        super().__init__(hidden, **options)
        self.hidden = nn.Linear(width, hidden)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits [n, K] of pooled vectors [n, D]."""
        return super().forward(torch.tanh(self.hidden(pooled.float())))


def main() -> None:
    """Train, save, load and predict."""
    tasks = make_tasks()
    # by name, so that a checkpoint and a saved folder know it too
    tasks["good"] = replace(tasks["good"], head={"_target_": "own_head.TwoLayerHead", "hidden": 32})
    data = bam.MultiTaskDataModule(tasks, encoder=sys.argv[1], batch_size=32, max_length=32)
    module = bam.BamModule(data, learning_rate=1e-3)
    pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module, data)
    module.save_pretrained("model")
    model = bam.load("model", heads=["own_head.TwoLayerHead"])  # code is run only if you name it
    print(type(model.head("good")).__name__, model.predict(["the film was good"], task="good"))


if __name__ == "__main__":
    main()
