"""The model side of Lightning: the encoder, a head per task, and the step of section 3.

B examples, n examples of one task, D width of the encoder, K outputs of a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.batch import Batch
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.heads import Head
from bam_lightning.models.kernels.sparse_embedding_grad import SparseEmbeddingGrad
from bam_lightning.training import sharding, step_clock
from bam_lightning.training.distillation import ensemble_mean, mix_targets
from bam_lightning.training.distributed import Losses, most, processes, sum_step
from bam_lightning.training.history import Record
from bam_lightning.training.optimizer import (
    build_optimizer,
    clip_gradients,
    go_back,
    local_gradients,
    parameter_groups,
    set_rates,
)
from bam_lightning.training.schedules import RATES

Schedule = Callable[[float], float]


class BamModule(pl.LightningModule):
    """One encoder with the heads of all its tasks.

    Args:
        encoder: gives ``[B, D]``.
        heads: task name -> head.
        schedule: progress -> lam, the weight of gold.
        optimization: optimizer settings.
        learning_rate: of the heads, at its peak.
        layerwise_decay: alpha of section 4.
        weights: task name -> factor on its example losses (1 unless the stream says otherwise).
        seed: of dropout, which is a pure function of (seed, optimizer step), so that a resumed run is the same run.
        log_every: optimizer steps.
        sharded: whether each process keeps but its share of the encoder while it trains.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, Head],
        schedule: Schedule,
        optimization: OptimizationConfig,
        learning_rate: float,
        layerwise_decay: float,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        log_every: int = 10,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = encoder
        self.heads = nn.ModuleDict(dict(heads))
        self.schedule, self.optimization = schedule, optimization
        self.learning_rate, self.layerwise_decay = learning_rate, layerwise_decay
        self.weights = dict(weights or {})
        self.seed = seed
        self.record = Record(heads, log_every)
        self.sharded = sharded
        self.words: SparseEmbeddingGrad | None = None
        self.blanks: list[Encoder] = []  # what a shared encoder is put together in; a list, so it is no part of this

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; rates are set at each step. Weights are in place by now, so they can be shared out."""
        if self.sharded:
            self.blanks.append(sharding.shard(self.encoder))
        groups = parameter_groups(self.encoder, self.heads, self.layerwise_decay, self.optimization.weight_decay)
        return build_optimizer(groups, self.optimization)

    def head(self, task: str) -> Head:
        """Return the head of a task."""
        return cast(Head, self.heads[task])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return task -> logits ``[n, K]``."""
        pooled = self.encoder(batch.inputs, batch.lengths)  # [B, D]
        return {task: self.head(task)(pooled[rows]) for task, rows in batch.rows.items()}

    def task_losses(self, batch: Batch, lam: float) -> dict[str, Tensor]:
        """Return task -> loss summed over its examples, against the target of section 3.2.

        The sum over tasks is "the summed loss across all tasks" of section 3.1; a mean per task would undo the
        sampling of section 4.
        """
        losses = {}
        for task, logits in self(batch).items():
            head = self.head(task)
            gold = head.encode(batch.labels[task])
            teacher = ensemble_mean(head.outputs(batch.teacher[task])) if task in batch.teacher else None
            target = mix_targets(gold, teacher, lam).to(logits.dtype)
            losses[task] = head.loss(logits, target).sum()
        return losses

    def training_step(self, step: list[Batch], _: int) -> None:
        """Take one optimizer step on a minibatch that comes in parts of like length."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        progress = step_clock.progress(self.trainer)
        lam = self.schedule(progress)
        rate = self.learning_rate * RATES[self.optimization.shape.value](progress, self.optimization.warmup)
        set_rates(optimizer.optimizer, rate)
        step_clock.seed_step(self.trainer, self.seed)
        own: Losses = []
        calls = most(len(step), self) if self.sharded else len(step)
        with local_gradients(self):
            for batch in step:
                losses = self.task_losses(batch, lam)
                own += [(task, loss.detach(), len(batch.rows[task])) for task, loss in losses.items()]
                go_back(self, torch.stack([self.weights.get(t, 1.0) * loss for t, loss in losses.items()]).sum())
        self._take_part(calls - len(step))
        for task, loss, count in sum_step(self, list(self.heads), own):
            self.record.add(task, loss, count)
        norm = clip_gradients(self.parameters(), self.optimization.clip_norm, optimizer.optimizer)
        with self.words.whole() if self.words else nullcontext():
            optimizer.step()
        optimizer.zero_grad()
        logged: dict[str, float | Tensor] = {
            "progress": progress,
            "lam": lam,
            "learning_rate": rate,
            "gradient_norm": norm,
        }
        self.record.write(self.trainer, logged)

    def _take_part(self, calls: int) -> None:
        """Put the encoder's layers together and apart with the processes that have more rows, or longer ones."""
        for _ in range(calls):
            token = torch.ones((1, 1), dtype=torch.long, device=self.device)
            vector = self.encoder({"input_ids": token, "attention_mask": token})
            go_back(self, (vector * 0.0).sum())

    def on_train_start(self) -> None:
        """Share out what a checkpoint brought; spare whole gradients of words, on a CPU what small steps wait for."""
        if self.sharded:
            sharding.share_states(self.trainer.optimizers[0])
        if self.device.type == "cpu" and processes() == 1:
            self.words = SparseEmbeddingGrad(self.encoder)

    def on_train_end(self) -> None:
        """Put the encoder together for good, while it is still on its device."""
        if self.words:
            self.words.close()
            self.words = None
        if self.blanks:
            self.trainer.optimizers[0].state.clear()
            self.encoder = sharding.join(self.encoder, self.blanks.pop())

    def on_fit_end(self) -> None:
        """Do so where no step was left to be done, so that training has neither begun nor ended."""
        if self.blanks:
            self.encoder.to(self.trainer.strategy.root_device)
            self.on_train_end()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        """Return task -> (row numbers ``[n]``, float32 logits ``[n, K]``)."""
        return {task: (batch.numbers[task], logits) for task, logits in self(batch).items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is logged, so that a resumed run's record is whole; and whole tensors, whoever resumes it."""
        checkpoint["record"] = self.record.state_dict()
        if self.sharded:
            for part in ("state_dict", "optimizer_states"):
                checkpoint[part] = sharding.whole(checkpoint[part], torch.device("cpu"))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the record up again."""
        self.record.load_state_dict(checkpoint["record"])
