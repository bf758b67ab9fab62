"""Callbacks of recipes: checkpoints that survive a kill, the record of a Run, and progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.signals import SignalListener, Stopped
from bam_lightning.store.atomic_io import atomic_write, check_zip
from bam_lightning.store.provenance import differences
from bam_lightning.training.lightning import pl, rank_zero_info

CHECKPOINT = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name, then renames it: the file is whole or not there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint."""
        with atomic_write(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class RunCheckpoint(pl.Callback):
    """Writes ``last.ckpt`` every so many minutes or steps, at the end of an optimizer step.

    Where ``listener`` has noted a signal, it writes one at the end of the step, and ``Stopped`` ends the training.

    Args:
        folder: of the Run.
        minutes: between checkpoints.
        steps: between checkpoints; ``None``: by time only.
        listener: notes signals.
        conditions: hardware and versions. A checkpoint begun under others goes on with a sentence.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        steps: int | None,
        listener: SignalListener,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        self.conditions, self.changes = dict(conditions or {}), list[str]()
        self.path = folder / CHECKPOINT
        self.minutes, self.steps, self.listener = minutes, steps, listener
        self.started = self.saved = time.monotonic()
        self.before = 0.0

    @property
    def seconds(self) -> float:
        """Training time so far, earlier starts of the same Run included."""
        return self.before + time.monotonic() - self.started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks; take the signals back from Lightning. Say where a Run goes on."""
        if trainer.global_step:
            rank_zero_info(
                f"Run {self.path.parent.name} goes on after step {trainer.global_step:,} of {trainer.max_steps:,}"
            )
        self.started = self.saved = time.monotonic()
        self.listener.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time; save and stop where a signal asks for it."""
        if trainer.fit_loop._should_accumulate():
            return  # inside a window the gradient would be lost
        step, agree = trainer.global_step, trainer.strategy.reduce_boolean_decision
        due = (self.steps is not None and step % self.steps == 0) or self._late()
        # ranks hear signals and look at clocks at different moments, but must save and stop at the same step
        stop = agree(self.listener.signal is not None, all=False)
        if stop or agree(due and step < trainer.max_steps, all=False):
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()
        if stop:
            raise Stopped(self.listener.signal or signal.SIGTERM, step)

    def _late(self) -> bool:
        return time.monotonic() - self.saved >= 60 * self.minutes

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent, and whose checkpoint it is."""
        about = {"conditions": self.conditions, "changes": self.changes}
        return {"seconds": self.seconds, "run": self.path.parent.name, **about}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; say what has changed since the checkpoint."""
        self.before = state_dict["seconds"]
        self.changes = list(state_dict.get("changes", []))
        if change := differences(state_dict.get("conditions", {}), self.conditions):
            self.changes.append(change)
            rank_zero_info(
                f"Run {state_dict['run']} goes on from a checkpoint begun under other conditions: {change}; its "
                "weights are those of an undisturbed Run up to rounding only"
            )


class History(pl.Callback):
    """Keeps what a Run logs: a row of training metrics every so many steps, and of dev scores."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.scores: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the row that the module has logged in this step."""
        module: Any = pl_module
        if module.logged is not None:
            self.rows.append(module.logged)
            module.logged = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the dev scores."""
        if not trainer.sanity_checking:
            values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            self.scores.append({"step": float(trainer.global_step), **values})

    def state_dict(self) -> dict[str, Any]:
        """Return all rows."""
        return {"rows": self.rows, "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.rows, self.scores = list(state_dict["rows"]), list(state_dict["scores"])


class Progress(pl.Callback):
    """Tells a listener the optimizer step after each one, and the step a resumed Run starts at."""

    def __init__(self, listener: Callable[[int], None]) -> None:
        self.listener = listener

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the step to start at."""
        self.listener(trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the step just done."""
        self.listener(trainer.global_step)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint in a Run's folder, if it has one; remove what a killed process left half-written.

    Raises:
        StoreError: if it is damaged, or belongs to another Run.
    """
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)
    path, remedy = folder / CHECKPOINT, "delete it, and the Run starts from its beginning"
    if not path.is_file():
        return None
    check_zip(path, remedy)
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # it may come from a GPU
        run = kept["callbacks"]["RunCheckpoint"]["run"]
    except (RuntimeError, UnpicklingError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise StoreError(f"{path} is not a bam_lightning checkpoint ({reason}); {remedy}") from error
    if run != folder.name:
        raise StoreError(f"{path} is a checkpoint of Run {run!r}; {remedy}")
    return path
