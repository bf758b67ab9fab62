"""What a Run logs: a row every so many optimizer steps, kept with the Run and sent to the loggers.

Losses stay on the device until a row is due, so that a step waits for no copy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from bam_lightning.config.exceptions import TrainingError


class Record:
    """Example losses summed per task since the last row, examples seen per task, and the rows so far."""

    def __init__(self, tasks: Iterable[str], every: int) -> None:
        self.every = every
        self.history: list[dict[str, float]] = []
        self.seen: dict[str, int] = dict.fromkeys(tasks, 0)
        self._losses: dict[str, Tensor | float] = {}  # numbers after a restart: they take the type of what is added
        self._counts: dict[str, int] = {}
        self._lost: Tensor | None = None  # the first step whose gradient was no number, 0 if there was none
        self._step, self._rate = 0, 0.0

    def add(self, task: str, loss: Tensor, count: int) -> None:
        """Add ``loss``, the sum over ``count`` examples of ``task``."""
        loss = loss.detach()
        self._losses[task] = self._losses[task] + loss if task in self._losses else loss
        self._counts[task] = self._counts.get(task, 0) + count
        self.seen[task] += count

    def write(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor]) -> None:
        """Write a row if one is due at this step: ``values``, mean losses per example, examples seen.

        Raises:
            TrainingError: if a loss or the gradient is no longer a number, naming step, tasks and learning rate; on a
                CPU at the step itself, elsewhere when a row is due or a checkpoint is to be written.
        """
        step, norm = trainer.global_step, values["gradient_norm"]
        due = step % self.every == 0 or step == trainer.max_steps
        self._watch(step, torch.as_tensor(norm), float(values["learning_rate"]))
        if not due:
            return
        self.check()
        row = {"step": float(step)} | {name: float(value) for name, value in values.items()}
        means = self._means()
        row["loss"] = sum(float(loss) for loss in self._losses.values()) / max(1, sum(self._counts.values()))
        row |= {f"loss/{task}": mean for task, mean in means.items()}
        row |= {f"examples/{task}": float(seen) for task, seen in self.seen.items()}
        self.history.append(row)
        self._losses, self._counts = {}, {}
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in row.items() if name != "step"}, step=step)

    def _watch(self, step: int, norm: Tensor, rate: float) -> None:
        """Note the first step whose gradient is no number, on its own device: to look at it would wait for it."""
        lost = torch.where(torch.isfinite(norm), 0, step)
        self._lost = lost if self._lost is None else torch.where(self._lost > 0, self._lost, lost)
        self._step, self._rate = step, rate
        if norm.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise ``TrainingError`` if a loss or a gradient so far is no number."""
        lost = [task for task, mean in self._means().items() if not math.isfinite(mean)]
        at = int(self._lost) if self._lost is not None else 0
        if at or lost:
            raise TrainingError(
                f"the loss is no longer a number: task {', '.join(lost) or 'none, but the gradient'}, optimizer step "
                f"{at or self._step}, learning rate {self._rate:.3g}; "
                "try a lower optimization.learning_rate, or trainer.precision=float32"
            )

    def _means(self) -> dict[str, float]:
        return {task: float(loss) / max(1, self._counts[task]) for task, loss in self._losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as plain numbers; raise what ``check`` does, so that no bad checkpoint is written."""
        self.check()
        losses = {task: float(loss) for task, loss in self._losses.items()}
        return {"history": self.history, "seen": self.seen, "losses": losses, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.history, self.seen, self._counts = (list(state["history"]), dict(state["seen"]), dict(state["counts"]))
        self._losses = dict(state["losses"])
