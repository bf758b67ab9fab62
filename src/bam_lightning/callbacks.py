"""What happens beside the training step: checkpoints that survive a kill, and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

CHECKPOINT = "last.ckpt"


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` every so many minutes or steps: beside first, then renamed, so it is always whole."""

    def __init__(self, folder: Path, minutes: float, steps: int | None) -> None:
        self.path = folder / CHECKPOINT
        self.minutes, self.steps = minutes, steps
        self.begun = self.saved = time.monotonic()
        self.before = 0.0

    @property
    def seconds(self) -> float:
        """Training time so far, earlier starts of the same Run included."""
        return self.before + time.monotonic() - self.begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self.begun = self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time."""
        step = trainer.global_step
        due = self.steps is not None and step % self.steps == 0
        if not due and time.monotonic() - self.saved < 60 * self.minutes:
            return
        if step < trainer.max_steps:
            beside = self.path.with_suffix(".part")
            trainer.save_checkpoint(beside)
            if trainer.is_global_zero:
                beside.replace(self.path)
            self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.before = state_dict["seconds"]


class Advance(pl.Callback):
    """Tells a listener the optimizer step after each one, and the steps a resumed Run need not do again."""

    def __init__(self, listener: Callable[[int], None]) -> None:
        self.listener = listener

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the step to go on at."""
        self.listener(trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the step just done."""
        self.listener(trainer.global_step)
