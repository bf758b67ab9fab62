"""Which processes train together: read from what torchrun or srun left in the environment."""

from __future__ import annotations

import json
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


def broadcast_json(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank, as JSON returns it; needs a process group for tensors on the CPU."""
    import torch
    from torch import distributed

    text = json.dumps(value).encode() if rank() == 0 else b""
    size = torch.tensor(len(text))
    distributed.broadcast(size, src=0)
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(int(size), dtype=torch.uint8)
    distributed.broadcast(data, src=0)
    return json.loads(data.numpy().tobytes())
