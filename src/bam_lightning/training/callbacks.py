"""What happens beside the training step: checkpoints that survive a kill, and the progress bar."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.signals import SignalListener, Stopped, ignore_signals
from bam_lightning.store.atomic_io import atomic_write, check_zip
from bam_lightning.training import distributed

CHECKPOINT = "last.ckpt"


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` every so many minutes or steps: beside first, then renamed, so it is always whole.

    Where ``stop`` has noted a signal, it is written at the end of the step, and ``Stopped`` ends the training.
    """

    def __init__(self, folder: Path, minutes: float, steps: int | None, stop: SignalListener) -> None:
        self.path = folder / CHECKPOINT
        self.minutes, self.steps, self.stop = minutes, steps, stop
        self.begun = self.saved = time.monotonic()
        self.before = 0.0

    @property
    def seconds(self) -> float:
        """Training time so far, earlier starts of the same Run included."""
        return self.before + time.monotonic() - self.begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks; take the signals back from Lightning."""
        self.begun = self.saved = time.monotonic()
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time; save and stop where a signal asks for it."""
        step, agree = trainer.global_step, trainer.strategy.reduce_boolean_decision
        due = (self.steps is not None and step % self.steps == 0) or self._late()
        # processes hear signals and look at clocks at different moments, but must save and stop at the same step
        wanted = agree(self.stop.signal is not None or (due and step < trainer.max_steps), all=False)
        if _sharded(pl_module):
            wanted = distributed.of_first(wanted)  # each has to give its share of the weights
        if not wanted:
            return
        self._save(trainer, pl_module)
        if agree(self.stop.signal is not None, all=False):
            raise Stopped(self.stop.signal or signal.SIGTERM, step)

    def _late(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.minutes

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if _sharded(module) and distributed.rank():
            states = [one.state_dict() for one in trainer.optimizers]
            module.on_save_checkpoint({"state_dict": module.state_dict(), "optimizer_states": states})
        elif trainer.is_global_zero:
            with atomic_write(self.path) as beside:
                trainer.save_checkpoint(beside)
        else:
            trainer.save_checkpoint(self.path)  # takes part; the first process writes
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, and whose checkpoint it is."""
        return {"seconds": self.seconds, "run": self.path.parent.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.before = state_dict["seconds"]


def _sharded(module: pl.LightningModule) -> bool:
    return bool(getattr(module, "sharded", False))


class SameStart(pl.Callback):
    """Sees to it that processes which train together begin at the same step with the same weights."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare steps, and take the first process's weights; leave it the signals, which Lightning has taken."""
        distributed.same_start(pl_module, trainer.global_step)
        if distributed.rank():
            ignore_signals()


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint in a Run's folder, if it has one; tidy up what a killed process left half-written.

    Raises:
        StoreError: if it is damaged, or another Run's.
    """
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)  # each process looks
    path, remedy = folder / CHECKPOINT, "delete it, and the Run starts from its beginning"
    if not path.is_file():
        return None
    check_zip(path, remedy)
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # be it of a GPU that is not here
        run = kept["callbacks"]["Checkpoints"]["run"]
    except (RuntimeError, UnpicklingError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is no checkpoint of ours ({str(error).splitlines()[0][:200]}); {remedy}") from error
    if run != folder.name:
        raise StoreError(f"{path} is a checkpoint of Run {run!r}; {remedy}")
    return path


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
