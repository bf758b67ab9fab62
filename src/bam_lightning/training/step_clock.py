"""One clock for lam, learning rate and dropout: the trainer's count of optimizer steps.

A counter of our own would not survive a resume; this one is in Lightning's checkpoint."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch

from bam_lightning.training import distributed


def progress(trainer: pl.Trainer) -> float:
    """Return the share of the Run's optimizer steps already done, in [0, 1)."""
    return trainer.global_step / trainer.estimated_stepping_batches


def seed_step(trainer: pl.Trainer, seed: int) -> None:
    """Make all randomness of the next step a function of (seed, process, optimizer step), resumed or not."""
    place = [seed, distributed.rank(), trainer.global_step]
    # torch's CPU generator keeps 32 bits of a seed, so the three are hashed rather than packed into one number
    number = int(np.random.SeedSequence(place).generate_state(1)[0])
    if trainer.strategy.root_device.type == "cpu":
        torch.default_generator.manual_seed(number)  # to look for other devices takes longer than to seed them
    else:
        torch.manual_seed(number)
