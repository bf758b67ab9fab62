"""Which of the processes of a job this one is, and who started them.

``trainer.devices`` processes of one machine are started by the job itself. Where there are several nodes, or srun or
torchrun is called anyway, all processes are there already, and the environment says which is which."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.config.trainer_config import TrainerConfig

FIRST = "BAM_LIGHTNING_FIRST"  # in the environment of a process that the job started: the first one's process id
PORTS = 10_000


@dataclass(frozen=True)
class Place:
    """One of ``processes``: ``rank`` among all, ``local`` among those of its node.

    ``launcher`` is what started them: ``torchrun``, ``srun``, or nothing, where the job is to do that itself.
    """

    rank: int = 0
    processes: int = 1
    local: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    launcher: str = ""

    @property
    def external(self) -> bool:
        """Return whether the other processes were started by somebody else."""
        return self.launcher in ("torchrun", "srun")


def here(environ: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place as the environment has it.

    >>> here({"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "MASTER_ADDR": "n1"}).rank
    3
    """
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        launcher = "the job" if FIRST in environ else "torchrun"
        found = Place(
            int(environ["RANK"]),
            int(environ["WORLD_SIZE"]),
            int(environ.get("LOCAL_RANK", 0)),
            environ["MASTER_ADDR"],
            int(environ["MASTER_PORT"]),
            launcher,
        )
    elif "SLURM_PROCID" in environ:
        # set by srun only: in a batch script of several tasks that calls python itself, it is one process
        tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 1))
        address = environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        port = int(environ.get("MASTER_PORT") or _port(environ))
        rank, local = int(environ["SLURM_PROCID"]), int(environ.get("SLURM_LOCALID", 0))
        found = Place(rank, tasks, local, address, port, "srun")
    else:
        return Place()
    return found if found.processes > 1 else Place()


def _first_host(nodes: str) -> str:
    """Return the first name of a list of nodes.

    >>> [_first_host(nodes) for nodes in ("gpu[07-09,12]", "a1,a2", "n[3]-ib")]
    ['gpu07', 'a1', 'n3-ib']
    """
    head = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", head)


def _port(environ: Mapping[str, str]) -> int:
    """Return a port that all tasks of a step know and another step of the machine hardly has."""
    job, step = (int(environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 20_000 + (31 * job + step) % PORTS


def check(settings: TrainerConfig, place: Place) -> None:
    """Raise ``TrainingError`` unless the processes are as many as asked for, or can be started."""
    wanted = settings.devices * settings.nodes
    if place.external and wanted != place.processes:
        raise TrainingError(
            f"{place.launcher} has started {place.processes} processes, but trainer.devices={settings.devices} on "
            f"trainer.nodes={settings.nodes} are {wanted}; give the processes of a node and the number of nodes"
        )
    if settings.nodes > 1 and not place.external:
        raise TrainingError(
            f"trainer.nodes is {settings.nodes}, but nothing has started a process on the other nodes; "
            "call the command by srun or torchrun, or leave trainer.nodes out"
        )
