"""The hardware of this machine and the Trainer for it: device, precision, allocator, versions."""

from __future__ import annotations

import ctypes
import importlib.metadata
import inspect
import logging
import platform
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bam_lightning.config.exceptions import ConfigError, TrainingError
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.config.validation import suggest
from bam_lightning.models.attention import ampere
from bam_lightning.training import distributed

if TYPE_CHECKING:  # prediction alone does not import Lightning
    import pytorch_lightning as pl

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
PACKAGES = ("bam-lightning", "torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics", "numpy")


def prepare() -> None:
    """Silence Lightning's start-up messages, and let the C library keep freed memory.

    glibc returns large blocks to the system after every step and maps them again in the next; keeping them is faster.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*srun. command is available.*")  # training on a login node is allowed
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the limit of older versions
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def on_gpu(settings: TrainerConfig) -> bool:
    """Return whether training runs on CUDA.

    Raises:
        TrainingError: If ``trainer.accelerator=gpu`` and there is no GPU.
    """
    available = torch.cuda.is_available()
    if settings.accelerator == "gpu" and not available:
        raise TrainingError("trainer.accelerator=gpu, but torch sees no CUDA device; use trainer=auto or trainer=cpu")
    return available and settings.accelerator != "cpu"


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


def precision(settings: TrainerConfig) -> str:
    """Return Lightning's precision; ``auto`` is bf16-mixed if the device is fast at bfloat16, else 32-true."""
    if settings.precision != "auto":
        return settings.precision
    if on_gpu(settings):
        fast = ampere()
    else:
        fast = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if fast else "32-true"


def trainer(
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


def device_name(settings: TrainerConfig) -> str:
    """Return the name of the device, with the number of threads on a CPU."""
    if on_gpu(settings):
        return str(torch.cuda.get_device_name())
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    """Return the model of the processor if the system names it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.processor() or platform.machine()} CPU"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            installed[name] = "not installed"
    return installed
