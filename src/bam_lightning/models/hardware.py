"""The hardware of this machine: device, precision, allocator."""

from __future__ import annotations

import ctypes
import logging
import platform
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.models.attention import ampere

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


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


def precision(settings: TrainerConfig) -> str:
    """Return Lightning's precision; ``auto`` is bf16-mixed if the device is fast at bfloat16, else 32-true."""
    if settings.precision != "auto":
        return settings.precision
    if on_gpu(settings):
        fast = ampere()
    else:
        fast = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if fast else "32-true"


def device_name(settings: TrainerConfig) -> str:
    """Return the name of the device, with the number of threads on a CPU."""
    if on_gpu(settings):
        return str(torch.cuda.get_device_name())
    count = torch.get_num_threads()
    return f"{_processor()}, {count} thread{'s'[: count != 1]}"


def _processor() -> str:
    """Return the model of the processor if the system names it, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.processor() or platform.machine()} CPU"
