"""The Lightning module: one encoder, a head per task, and the loss of section 3 of Clark et al. (2019).

S texts, n examples of one task, K outputs of its head."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchmetrics.utilities.distributed import gather_all_tensors

from bam_lightning.config.exceptions import ConfigError, TrainingError
from bam_lightning.metrics.own_metric import build_metric
from bam_lightning.metrics.torch_metrics import TaskMetric
from bam_lightning.models.batch import Batch
from bam_lightning.models.heads import Head, predictions_for
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.training.distillation import example_losses
from bam_lightning.training.lightning import pl, rank_zero_info, rank_zero_warn
from bam_lightning.training.loaders import EvalLoader, TrainLoader
from bam_lightning.training.optimizer import clip_gradients, parameter_groups
from bam_lightning.training.plain import from_plain, to_plain
from bam_lightning.training.schedules import LR_SCHEDULES, ConstantAnnealing, LinearAnnealing, Schedule
from bam_lightning.training.spec import build_model, save_folder

SUPPORTED_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")
LOW_PRECISION = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")


class BamModule(pl.LightningModule):
    """Train one encoder with the heads of all its tasks, each taught by its teacher's predictions where it has some.

    The loss is "the summed loss across all tasks" (section 3.1): a sum over examples, so that the sampling of section 4
    decides how much a task counts. Each example's target is ``lam * gold + (1 - lam) * teacher`` (section 3.2), where
    ``lam`` follows ``annealing`` over the optimizer steps of the fit.

    Args:
        data: the data module; the model and the tasks are built from it.
        spec: what ``data.spec()`` returns, in place of ``data``: used by ``load_from_checkpoint``.
        model: a model that is already built, in place of both.
        learning_rate: of the heads, at its peak.
        layerwise_decay: factor on the learning rate from each layer to the one below (alpha of section 4).
        annealing: progress in [0, 1] -> lam, the weight of gold; default ``LinearAnnealing()``.
        optimizer: a callable that takes parameter groups, or its ``_target_`` form; default fused AdamW.
        lr_schedule: ``linear``, ``bert`` or ``constant``: the factor on the learning rate over progress.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of all weights but biases and those of normalization layers.
        gradient_clip_val: norm at which the summed gradient is clipped where the Trainer gives no
            ``gradient_clip_val``; 0 for none. Not in the paper: reference code.
        task_weights: task -> factor on its example losses; default: what the data module's tasks and sampler ask for.
        temperatures: task -> temperature of distillation, see ``distillation.example_losses``; default: what the tasks
            say, else 1.
        metrics: task -> its metric, or a list with the headline metric first: names, or ``torchmetrics.Metric`` by
            their ``_target_`` form; default: what the tasks say.
        average: the tasks that ``val/average`` averages; default: all.
        total_steps: optimizer steps over which lam and the learning rate run; default: those of the fit.
        seed: of the heads' weights and of dropout; default ``PL_GLOBAL_SEED`` (``seed_everything``), else 0.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        spec: Mapping[str, Any] | None = None,
        model: MultiTaskModel | None = None,
        learning_rate: float = 1e-4,
        layerwise_decay: float = 1.0,
        annealing: Callable[[float], float] | Mapping[str, Any] | None = None,
        optimizer: Callable[[Any], torch.optim.Optimizer] | Mapping[str, Any] | None = None,
        lr_schedule: str = "linear",
        warmup: float = 0.1,
        weight_decay: float = 0.01,
        gradient_clip_val: float = 1.0,
        task_weights: Mapping[str, float] | None = None,
        temperatures: Mapping[str, float] | None = None,
        metrics: Mapping[str, Any] | None = None,
        average: list[str] | None = None,
        total_steps: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        if model is None:
            if (data is None) == (spec is None):
                raise ConfigError("BamModule needs a data module, BamModule(data), or a spec; give one of them")
            model = build_model(data, self.seed) if data is not None else build_model(spec, self.seed)
            spec = data.spec(model) if data is not None else spec
        assert spec is None or isinstance(spec, Mapping)
        self.model = model
        self.spec = None if spec is None else dict(spec)
        self.annealing: Callable[[float], float] = from_plain("annealing", annealing, LinearAnnealing(), Schedule)
        self.optimizer_factory = from_plain("optimizer", optimizer, None, torch.optim.Optimizer, partial=True)
        if lr_schedule not in LR_SCHEDULES:
            raise ConfigError(f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}, got {lr_schedule!r}")
        self.learning_rate, self.layerwise_decay = float(learning_rate), float(layerwise_decay)
        self.weight_decay = float(weight_decay)  # checkpoints hold plain numbers, not those of NumPy
        self.lr_schedule, self.warmup = lr_schedule, warmup
        self.default_clip_val = gradient_clip_val
        self.task_weights = None if task_weights is None else dict(task_weights)
        self.temperatures = dict(temperatures or getattr(data, "temperatures", {}))
        self.total_steps = total_steps
        asked = dict(metrics or (spec or {}).get("metrics", {}))
        self.averaged = list(average if average is not None else (spec or {}).get("average", asked))
        self.metrics = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    self._metric(task, metric, place == 0)
                    for place, metric in enumerate(named if isinstance(named, list) else [named])
                )
                for task, named in asked.items()
            }
        )
        hparams = {
            "learning_rate": learning_rate,
            "layerwise_decay": layerwise_decay,
            "annealing": self.annealing,
            "optimizer": optimizer,
            "lr_schedule": lr_schedule,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "gradient_clip_val": gradient_clip_val,
            "task_weights": self.task_weights,
            "temperatures": self.temperatures or None,
            "metrics": None if metrics is None else dict(metrics),
            "average": average,
            "total_steps": total_steps,
            "seed": self.seed,
        }
        self._set_hparams({"spec": self.spec, **to_plain(hparams)})
        self._hparams_initial = copy.deepcopy({k: v for k, v in self._hparams.items() if k != "spec"})  # for loggers
        self._log_hyperparams = True
        self._steps: float = 0.0  # T of the current fit
        self._sampler_weights: dict[str, float] = {}  # of the current fit's data
        self._resumed: dict[str, Any] | None = None
        self._said_padding = False
        self._sums: Tensor | None = None  # [tasks] example losses since the last log
        self._counts: dict[str, int] = {}
        self.examples_seen: dict[str, int] = dict.fromkeys(self.model.heads, 0)  # in the current fit
        self._norm: Tensor | None = None
        self._bad_step: Tensor | None = None
        self.logged: dict[str, float] | None = None  # the last row of training metrics, for recipes

    def _metric(self, task: str, metric: Any, headline: bool) -> TaskMetric:
        if headline and not isinstance(metric, str):
            build_metric(f"metric of {task!r}", metric, headline)
        classes = getattr(self.model.head(task), "n_classes", None)
        return TaskMetric(metric, classes, getattr(self.model.head(task), "label_names", ()))

    @property
    def _lightning(self) -> Any:
        """The Trainer, whichever Lightning it comes from."""
        return self.trainer

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.model.heads)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return task -> logits ``[n, K]``, or ``[m, K]`` of the words of n examples."""
        logits: dict[str, Tensor] = self.model(batch)
        return logits

    # Training

    @property
    def progress(self) -> float:
        """Share of the fit's optimizer steps already done, in [0, 1]."""
        return min(1.0, self._lightning.global_step / self._steps) if self._steps else 0.0

    def task_losses(self, batch: Batch, lam: float) -> dict[str, Tensor]:
        """Return task -> loss summed over its examples, against the target of section 3.2."""
        return {
            task: example_losses(
                self.model.head(task), logits, batch.tasks[task], lam, self.temperatures.get(task, 1.0)
            ).sum()
            for task, logits in self(batch).items()
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the example losses.

        It is scaled by what Lightning divides by: the processes (gradients are averaged over them) and the batches that
        accumulate to one step.
        """
        seed_dropout(self.seed, self._lightning.global_rank, batch.index, self.device)
        losses = self.task_losses(batch, self.annealing(self.progress))
        weights = self._sampler_weights if self.task_weights is None else self.task_weights
        with torch.no_grad():
            found = torch.stack([losses[task] if task in losses else self._zero() for task in self.tasks])
            exact = found if found.device.type == "mps" else found.double()  # equal in any order, over any ranks
            self._sums = exact if self._sums is None else self._sums + exact
        for task, part in batch.tasks.items():
            self._counts[task] = self._counts.get(task, 0) + len(part.row_ids)
        total = torch.stack([weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
        return total * (self._lightning.world_size * self._lightning.accumulate_grad_batches)

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the summed gradient: at the Trainer's ``gradient_clip_val``, else at this module's."""
        value = self.default_clip_val if gradient_clip_val is None else gradient_clip_val
        raw = getattr(optimizer, "optimizer", optimizer)
        algorithm = getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm) or "norm"  # Lightning's enum
        self._norm = clip_gradients(self.parameters(), value, algorithm, raw)
        self._check_norm(self._norm)
        if self._log_due():
            self._log_training()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, then free the gradients: Lightning would keep them beside the activations of the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def _log_due(self) -> bool:
        loop = self._lightning.fit_loop.epoch_loop
        steps = self._lightning.log_every_n_steps  # 0: never, as under barebones=True
        every = steps > 0 and (loop._batches_that_stepped + 1) % steps == 0
        last = loop.batch_progress.is_last_batch or self._lightning.global_step + 1 == self._lightning.max_steps
        return every or last or bool(self._lightning.fast_dev_run)

    def _log_training(self) -> None:
        sums, counts = self._totals()
        self._check_losses(sums)
        values = {"train/loss": float(sums.sum() / counts.sum().clamp(min=1))}
        for task, loss, count in zip(self.tasks, sums.tolist(), counts.tolist(), strict=True):
            if count:
                values[f"train/loss/{task}"] = loss / count
            self.examples_seen[task] += int(count)
            values[f"train/examples/{task}"] = float(self.examples_seen[task])
        values["train/lam"] = float(self.annealing(self.progress))
        values["train/learning_rate"] = self._current_rate()
        values["train/gradient_norm"] = float(self._norm) if self._norm is not None else 0.0
        self.log_dict(values, on_step=True, on_epoch=False)
        self.logged = {
            "step": float(self._lightning.global_step + 1),
            "progress": self.progress,
            **{name.removeprefix("train/"): value for name, value in values.items()},
        }
        self._sums, self._counts = None, {}

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Return the example losses and the number of examples of each task since the last log, over all ranks."""
        counts = torch.tensor([self._counts.get(task, 0) for task in self.tasks], dtype=torch.float64)
        sums = self._sums.detach().double().cpu() if self._sums is not None else torch.zeros_like(counts)
        if self._lightning.world_size > 1:
            both = self._lightning.strategy.reduce(torch.stack([sums, counts]).to(self.device), reduce_op="sum")
            sums, counts = both.cpu()
        return sums, counts

    def _current_rate(self) -> float:
        """Return the highest learning rate of the optimizers."""
        groups = (group for optimizer in self._lightning.optimizers for group in optimizer.param_groups)
        return max((float(group["lr"]) for group in groups), default=0.0)

    def _check_norm(self, norm: Tensor) -> None:
        """Note a non-finite gradient on its device; raise at once on a CPU, where looking at it costs nothing."""
        if self._lightning.precision == "16-mixed":
            return  # the gradient scaler skips such steps
        step = self._lightning.global_step + 1
        bad = torch.where(torch.isfinite(norm), 0, step)
        self._bad_step = bad if self._bad_step is None else torch.where(self._bad_step > 0, self._bad_step, bad)
        if norm.device.type == "cpu":
            self.check_finite()

    def _check_losses(self, sums: Tensor) -> None:
        lost = [task for task, loss in zip(self.tasks, sums.tolist(), strict=True) if not math.isfinite(loss)]
        self.check_finite(lost)

    def check_finite(self, lost: list[str] | None = None) -> None:
        """Raise ``TrainingError`` if a loss or a gradient was not finite since the start of the fit."""
        step = int(self._bad_step) if self._bad_step is not None else 0
        if not step and not lost:
            return
        what = f"Non-finite loss of {', '.join(lost)}" if lost else "Non-finite gradient"
        raise TrainingError(
            f"{what} at step {step or self._lightning.global_step + 1} (learning rate {self._current_rate():.3g}); "
            "try a lower learning_rate, or trainer.precision=32-true"
        )

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and a learning-rate schedule that follows the steps of the fit."""
        self._steps = self._count_steps(scheduled=True)
        groups = parameter_groups(self.model, self.learning_rate, self.layerwise_decay, self.weight_decay)
        optimizer = self._make_optimizer(groups)
        factor = LR_SCHEDULES[self.lr_schedule]
        scheduler = torch.optim.lr_scheduler.LambdaLR(  # T may be counted anew when training starts
            optimizer, lambda step: factor(min(1.0, step / self._steps) if self._steps else 0.0, self.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _make_optimizer(self, groups: Any) -> torch.optim.Optimizer:
        scaled = self._lightning.precision == "16-mixed"  # a fused step unscales gradients after they were clipped
        if self.optimizer_factory is None:
            return torch.optim.AdamW(groups, lr=self.learning_rate, eps=1e-6, fused=not scaled)
        optimizer = self.optimizer_factory(groups)
        if scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise TrainingError(
                f"a fused {type(optimizer).__name__} cannot be used under 16-mixed, since it clips scaled gradients; "
                "give the optimizer fused=False, or use bf16-mixed"
            )
        return optimizer

    def _count_steps(self, scheduled: bool = False) -> float:
        """Return T; ``scheduled`` says whether the learning rate follows it, too."""
        steps = self.total_steps if self.total_steps is not None else self._lightning.estimated_stepping_batches
        if math.isinf(steps):
            constant_rate = not scheduled or (self.lr_schedule == "constant" and not self.warmup)
            if not (isinstance(self.annealing, ConstantAnnealing) and constant_rate):
                raise TrainingError(
                    "the number of optimizer steps of this fit is unknown (max_epochs=-1 without max_steps), but lam "
                    "and the learning rate follow it; give the Trainer max_steps or max_epochs, or total_steps"
                )
        return float(steps)

    def setup(self, stage: str) -> None:
        """Refuse Trainer options that cannot train correctly; freeze parameters that no loss reaches.

        Raises:
            TrainingError: for an unsupported strategy or precision, ``GradientAccumulationScheduler``, or
                ``reload_dataloaders_every_n_epochs``.
        """
        if stage != "fit":
            return
        trainer = self._lightning
        name = type(trainer.strategy).__name__
        if name not in SUPPORTED_STRATEGIES:
            raise TrainingError(f"strategy {name} is not supported; use one device, ddp, or ModelParallelStrategy")
        if str(trainer.precision) in LOW_PRECISION:
            raise TrainingError(f"precision {trainer.precision} is not supported; use bf16-mixed, 16-mixed or 32-true")
        if any(type(callback).__name__ == "GradientAccumulationScheduler" for callback in trainer.callbacks):
            raise TrainingError(
                "GradientAccumulationScheduler changes the steps of an epoch while it runs; "
                "use accumulate_grad_batches of the Trainer"
            )
        if trainer.reload_dataloaders_every_n_epochs:
            raise TrainingError(
                "reload_dataloaders_every_n_epochs is not needed, and restarts the stream; leave it out"
            )
        several = trainer.world_size > 1 and not self._sharded
        if several and (names := self.model.freeze_unreached()):  # DDP refuses them otherwise
            rank_zero_info(f"no loss reaches {', '.join(names)}; not trained")

    def configure_model(self) -> None:
        """Shard the parameters under ``ModelParallelStrategy`` (FSDP2), unless they are sharded already."""
        if self._trainer is None or type(self._trainer.strategy).__name__ != "ModelParallelStrategy" or self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        strategy: Any = self._trainer.strategy
        mesh, encoder = self.device_mesh["data_parallel"], self.model.encoder  # type: ignore[index]
        one_call = self._settle_packing(strategy.root_device)
        if self.layerwise_decay != 1.0:
            encoder.depths()  # found out by running the encoder, which sharded weights could not do alone
        # where texts are padded, ranks call the layers different numbers of times, and gathering layer by layer hangs
        for part in [*(encoder.stack() if one_call else []), encoder, self.model]:
            fully_shard(part, mesh=mesh)

    def _settle_packing(self, device: torch.device) -> bool:
        """Return whether texts run packed, as rank 0 finds out; say so once if they cannot."""
        strategy, encoder = self._lightning.strategy, self.model.encoder
        with self._lightning.precision_plugin.forward_context():
            packs = encoder.packs_on(device)
        if self._lightning.world_size > 1:
            encoder.adopt(strategy.broadcast(encoder.findings))
            with self._lightning.precision_plugin.forward_context():
                packs = encoder.packs_on(device)
        if (reason := encoder.refusal()) is not None and not self._said_padding:
            rank_zero_info(f"texts are padded, in batches of like length: {reason}")
            self._said_padding = True
        return packs

    def on_validation_start(self) -> None:
        """Find out whether texts can be packed, and check the loaders; before fit, test and predict, too."""
        if self._lightning.world_size > 1:
            kinds = {"test": self._lightning.test_dataloaders, "predict": self._lightning.predict_dataloaders}
            self._check_loaders(kinds.get(self._lightning.state.fn, self._lightning.val_dataloaders))
        if not self._sharded:
            self._settle_packing(self.device)

    on_test_start = on_predict_start = on_validation_start

    def _check_loaders(self, loaders: Any) -> None:
        """Raise ``TrainingError`` if a loader is a data module's, but does not know the Trainer that runs it."""
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if isinstance(loader, (TrainLoader, EvalLoader)) and loader.trainer() is not self._lightning:
                raise TrainingError(
                    "the loaders of a data module read position, rank and task weights from its Trainer, and these do "
                    "not know it; give the Trainer the data module, as in trainer.fit(module, datamodule=data)"
                )

    @property
    def _sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for parameter in self.model.parameters())

    def on_fit_start(self) -> None:
        """Compare the teachers of all ranks.

        Raises:
            TrainingError: if the ranks have different teachers.
        """
        trainer = self._lightning
        self.on_validation_start()
        if trainer.world_size > 1:
            mine = self._fit_state()["teachers"]
            same = trainer.strategy.broadcast(mine) == mine
            if not trainer.strategy.reduce_boolean_decision(same, all=True):
                raise TrainingError(
                    "the ranks have different teachers; start the script with torchrun, so that its processes train "
                    "each teacher together, and give data.teach the same source on every rank"
                )

    def on_train_start(self) -> None:
        """Begin the counts of a new fit, or compare what a resumed one was trained with; take the task weights.

        Raises:
            TrainingError: if a resumed fit has other steps, stream or teachers, or a loader does not know the Trainer.
        """
        trainer = self._lightning
        self._check_loaders(trainer.train_dataloader)
        weights = getattr(trainer.datamodule, "sampler_weights", None)
        self._sampler_weights = {} if weights is None else weights()
        self._steps = self._count_steps()  # a callback can have changed the batch size, a subclass the optimizer
        self._bad_step = None
        resumed, self._resumed = self._resumed, None
        if not trainer.global_step:
            self._sums, self._counts = None, {}
            self.examples_seen = dict.fromkeys(self.tasks, 0)
        if resumed is not None:
            self._check_resumed(resumed, self._fit_state())

    def _check_resumed(self, resumed: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        step = self._lightning.global_step
        if resumed["global_step"] != step:
            raise TrainingError(
                f"the checkpoint is of step {resumed['global_step']}, but the Trainer begins at step {step}: a "
                "callback that searches a learning rate or a batch size drops the position; search with a Tuner before "
                "the fit"
            )
        if not step:
            return
        if resumed["total_steps"] != now["total_steps"]:
            raise TrainingError(
                f"the checkpoint belongs to a fit of {resumed['total_steps']:g} optimizer steps, this fit has "
                f"{now['total_steps']:g}, so lam and the learning rate would jump; use the Trainer's options of the "
                "first fit, or load the weights with load_from_checkpoint and begin a new fit"
            )
        for name in ("stream", "teachers"):
            if None not in (resumed[name], now[name]) and resumed[name] != now[name]:
                raise TrainingError(f"the checkpoint was trained with another {name} than the data module has now")

    def _fit_state(self) -> dict[str, Any]:
        digests = getattr(self._lightning.datamodule, "digests", None)
        found = digests() if digests is not None else {"stream": None, "teachers": None}
        return {"total_steps": self._steps, **found}

    def on_train_end(self) -> None:
        """Warn where training ended before lam reached its end."""
        step = self._lightning.global_step
        if not math.isinf(self._steps) and step < self._steps:
            rank_zero_warn(
                f"Training ended at step {step} of {self._steps:g}, at lam {self.annealing(self.progress):.3f}. The "
                "annealing and the learning rate are planned for all steps; set total_steps if you end sooner."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the length of the fit and what has been summed for the next log; refuse non-finite weights."""
        if self._trainer is None:
            return
        self.check_finite()
        sums, counts = None if self._sums is None else self._sums.cpu(), dict(self._counts)
        if self._lightning.world_size > 1:
            totals = self._totals()
            sums, counts = totals[0], dict(zip(self.tasks, map(int, totals[1].tolist()), strict=True))
        checkpoint["bam"] = {
            **self._fit_state(),
            "losses": sums,
            "counts": counts,
            "examples_seen": dict(self.examples_seen),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them where a fit is resumed; keep the precision of float64 weights."""
        if any(value.dtype == torch.float64 for value in checkpoint["state_dict"].values()):
            self.double()  # Lightning casts the module only after it has loaded the weights
        saved = checkpoint.get("bam")
        if saved is None or self._trainer is None or self._trainer.state.fn != "fit":
            return
        self._resumed = {**saved, "global_step": checkpoint["global_step"]}
        self.examples_seen = dict(saved["examples_seen"])
        first = self._trainer.global_rank == 0  # they are the sums over all ranks
        self._sums = saved["losses"].to(self.device) if first and saved["losses"] is not None else None
        self._counts = dict(saved["counts"]) if first else {}

    # Validation, test, prediction

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the batch's tasks."""
        self._update_metrics(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the batch's tasks."""
        self._update_metrics(batch)

    def _update_metrics(self, batch: Batch) -> None:
        for task, logits in self(batch).items():
            if task not in self.metrics:
                continue
            part, head = batch.tasks[task], self.model.head(task)
            for metric in cast(Any, self.metrics[task]):
                predictions = predictions_for(head, metric.metric, logits, *part.words)
                metric.update(predictions, part.labels, part.offsets, part.references)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/TASK/METRIC`` and ``val/average``, as fractions."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/TASK/METRIC`` and ``test/average``, as fractions."""
        self._log_metrics("test")

    def _log_metrics(self, prefix: str) -> None:
        values, averaged = {}, []
        for task, metrics in self.metrics.items():
            for place, metric in enumerate(cast(Any, metrics)):
                if metric.update_called:
                    values[f"{prefix}/{task}/{metric.metric_name}"] = value = float(metric.compute())
                    averaged += [value] if not place and task in self.averaged else []
                metric.reset()
        together = self._lightning.world_size > 1  # every rank has the same value; this tells Lightning so
        self.log_dict(values, sync_dist=together)
        if averaged:
            self.log(f"{prefix}/average", sum(averaged) / len(averaged), prog_bar=True, sync_dist=together)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        """Return task -> (row ids ``[n]``, float32 logits ``[n, K]``), those of all ranks on every rank.

        Of a task of words, the logits are ``[m, K]``: of all words of each row, ``ABSENT`` for a word that was cut.
        """
        found = {}
        for task, logits in self(batch).items():
            rows, values = batch.tasks[task].row_ids, logits.float()
            if self._lightning.world_size > 1:
                rows, values = (torch.cat(gather_all_tensors(part)) for part in (rows, values))
            found[task] = (rows.cpu(), values.cpu())
        return found

    def head(self, task: str) -> Head:
        """Return the head of a task."""
        return self.model.head(task)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that ``bam_lightning.load`` reads: weights, encoder configuration, tokenizer and tasks.

        With several processes, all of them must call it; rank 0 writes. A model saved there before is replaced.

        Raises:
            ConfigError: if the module was built from ``model=``, or has a head without a ``_target_`` form.
            OutputExistsError: if there is something else in the folder.
        """
        if self.spec is None:
            raise ConfigError("a BamModule built from model= does not know its tokenizer; give it data or spec")
        state = self.full_state()
        if torch.distributed.is_initialized():
            if torch.distributed.get_rank() == 0:
                self._write(Path(folder), state)
            torch.distributed.barrier()
        else:
            self._write(Path(folder), state)
        return Path(folder)

    def _write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        precision = None if self._trainer is None else str(self._trainer.precision)
        save_folder(folder, self.spec or {}, state, self.model.encoder, precision)

    def full_state(self) -> dict[str, Any]:
        """Return the model's weights, gathered if they are sharded; then ranks above 0 get none."""
        if not self._sharded:
            return dict(self.model.state_dict())
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    @property
    def hparams_initial(self) -> Any:
        """Hyper-parameters for loggers: all but ``spec``, which holds the tokenizer's files."""
        return copy.deepcopy(self._hparams_initial)


def seed_dropout(seed: int, rank: int, batch: int, device: torch.device) -> None:
    """Make all randomness of a batch a function of (seed, rank, batch), so that a resumed fit is the same fit."""
    # torch's CPU generator keeps 32 bits of a seed, so the three are hashed rather than packed into one number
    number = int(np.random.SeedSequence([seed, rank, batch]).generate_state(1)[0])
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)  # looking for other devices takes longer than seeding them
    else:
        torch.manual_seed(number)
