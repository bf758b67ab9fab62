"""The Trainer of a Run: its strategy, process group and flags."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.config.validation import suggest
from bam_lightning.models.hardware import on_gpu, precision
from bam_lightning.training import distributed

if TYPE_CHECKING:
    import pytorch_lightning as pl


def check_devices(settings: TrainerConfig) -> None:
    """Raise ``ConfigError`` unless the launcher and the devices of this machine fit the options."""
    wanted = settings.devices * settings.num_nodes
    started = distributed.world_size()
    if distributed.launcher() and wanted != started:
        raise ConfigError(
            f"{distributed.launcher()} has started {started} processes, but trainer.devices={settings.devices} on "
            f"trainer.num_nodes={settings.num_nodes} are {wanted}; give the processes of a node and the number of nodes"
        )
    if settings.num_nodes > 1 and not distributed.launcher():
        raise ConfigError(
            f"trainer.num_nodes is {settings.num_nodes}, but nothing has started a process on the other nodes; "
            "call the command by srun or torchrun, or leave trainer.num_nodes out"
        )
    if not on_gpu(settings):
        return
    present = torch.cuda.device_count()
    if settings.devices > present:
        raise ConfigError(
            f"trainer.devices is {settings.devices}, but torch sees {present} CUDA devices on this machine"
        )


def make_trainer(
    settings: TrainerConfig, output: Path, steps: int = -1, loggers: Sequence[Any] = (), callbacks: Sequence[Any] = ()
) -> pl.Trainer:
    """Return Lightning's Trainer for a Run.

    Args:
        settings: Options of the job; ``settings.extra`` is passed to the Trainer unchanged.
        output: Folder of the job.
        steps: Number of optimizer steps.
        loggers: Loggers of the Run.
        callbacks: Callbacks of the Run, which write checkpoints and show progress.
    """
    from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    from bam_lightning.training.callbacks import AtomicCheckpointIO

    environments = {"torchrun": TorchElasticEnvironment, "srun": lambda: SLURMEnvironment(auto_requeue=False)}
    environment = environments.get(distributed.launcher() or "", LightningEnvironment)()
    several = distributed.launcher() is not None
    options: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu(settings) else "cpu",
        "devices": settings.devices if several else 1,
        "num_nodes": settings.num_nodes if several else 1,
        "strategy": strategy(settings) if several else "auto",
        "precision": precision(settings),
        "max_steps": steps,
        "max_epochs": -1,
        "logger": list(loggers) or False,
        "callbacks": list(callbacks),
        "log_every_n_steps": settings.log_every_n_steps,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "plugins": [environment, AtomicCheckpointIO()],
        "default_root_dir": output,
    }
    return _trainer_class()(**{**options, **settings.extra})


def _trainer_class() -> Any:
    from bam_lightning.training.lightning import pl as lightning

    return lightning.Trainer


def check_flags(settings: TrainerConfig) -> None:
    """Raise ``ConfigError`` for a flag that Lightning's Trainer does not have."""
    known = inspect.signature(_trainer_class().__init__).parameters
    for name in settings.extra:
        if name not in known:
            raise ConfigError(f"trainer.{name} is not a flag of Lightning's Trainer{suggest(name, known)}")


def strategy(settings: TrainerConfig) -> Any:
    """Return Lightning's strategy for several processes: DDP, or FSDP2 where ``trainer.strategy`` says fsdp."""
    from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

    backend = "nccl" if on_gpu(settings) else "gloo"
    if settings.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=distributed.world_size(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
        )
    return DDPStrategy(process_group_backend=backend)
