"""Which processes train together: read from what torchrun or srun left in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def launcher(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what started several processes, ``torchrun`` or ``srun``; ``None`` for one process.

    >>> launcher({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"})
    'srun'
    """
    if "TORCHELASTIC_RUN_ID" in environ and int(environ.get("WORLD_SIZE", 1)) > 1:
        return "torchrun"
    # set by srun only: a batch script of several tasks that calls python itself is one process
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return "srun"
    return None


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes that train together."""
    names = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}
    name = launcher(environ)
    return int(environ[names[name]]) if name else 1


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of this process among them."""
    names = {"torchrun": "RANK", "srun": "SLURM_PROCID"}
    name = launcher(environ)
    return int(environ[names[name]]) if name else 0


def broadcast_object(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank; needs the process group."""
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
