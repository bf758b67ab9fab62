"""Two tiny tasks in memory, and how the tests of this folder train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn.utils import parameters_to_vector

import bam_lightning as bam
from conftest import sentences

SIZES = {"mood": 48, "size": 33}
DEV, BATCH, STEPS = 23, 16, 6  # STEPS of an epoch: ceil(81 / 16)
QUIET = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def tasks() -> dict[str, bam.Task]:
    """Return a classification and a regression task, without dropout, each with train, dev and test rows."""

    def mood(text: str) -> str:
        return "good" if "good" in text or "cat" in text else "bad"

    def size(text: str) -> float:
        return float(len(text.split()))

    splits = {"train": 0, "dev": 1, "test": 2}
    return {
        name: bam.Task.from_list(
            {
                part: [
                    {"text": text, "label": label(text)}
                    for text in sentences(SIZES[name] if part == "train" else DEV, seed)
                ]
                for part, seed in splits.items()
            },
            text="text",
            dropout=0.0,
            **options,
        )
        for name, label, options in (("mood", mood, {}), ("size", size, {"range": [1.0, 12.0]}))
    }


def logits(task: str, seed: int = 0) -> np.ndarray:
    """Return random logits for the training rows of a task."""
    return np.random.default_rng(seed).normal(size=(SIZES[task], 2 if task == "mood" else 1)).astype(np.float32)


def data_of(encoder: str | Path, cache: str | Path, taught: bool = True, **options) -> bam.MultiTaskDataModule:
    """Return the data module of both tasks, with random teachers unless ``taught`` is False."""
    options = {"batch_size": BATCH, "max_length": 32, "seed": 0, "cache_dir": cache, **options}
    data = bam.MultiTaskDataModule(tasks(), encoder, **options)
    for task in SIZES if taught else ():
        data.teach(task, logits(task))
    return data


def module_of(data: bam.MultiTaskDataModule, **options) -> bam.BamModule:
    """Return an untrained module; the same for the same data."""
    return bam.BamModule(data, **{"learning_rate": 1e-3, "layerwise_decay": 0.9, "seed": 0, **options})


def fit(data: bam.MultiTaskDataModule, module=None, **options) -> tuple[pl.Trainer, bam.BamModule]:
    """Train a module, a new one by default, and return its Trainer and the module."""
    module = module or module_of(data)
    trainer = pl.Trainer(**{**QUIET, **options})
    trainer.fit(module, data)
    return trainer, module


def weights(module: torch.nn.Module) -> torch.Tensor:
    """Return all parameters as one vector."""
    return parameters_to_vector(module.parameters()).detach()


class Memory(pl.loggers.logger.Logger):
    """Keeps all metrics, and the hyper-parameters."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.hparams: dict = {}

    def log_metrics(self, metrics, step=None):
        """Add a row."""
        self.rows.append({**metrics, "step": step})

    def log_hyperparams(self, params, *args, **kwargs):
        """Keep them."""
        self.hparams = dict(params)

    def column(self, name: str) -> list[float]:
        """Return all values of a metric."""
        return [row[name] for row in self.rows if name in row]
