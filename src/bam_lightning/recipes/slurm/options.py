"""Options of ``hydra/launcher=slurm``: their types and checks, and their names in submitit and sbatch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_at_least, check_positive, suggest

KEY = "hydra.launcher"
SRUN_CPUS = "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}"  # srun does not inherit it, from SLURM 22.05 on
SAME_NAME = (
    "partition account qos constraint nodes cpus_per_task gpus_per_node array_parallelism signal_delay_s".split()
)


@dataclass
class Options:
    """Options of the launcher; ``conf/hydra/launcher/slurm.yaml`` describes them."""

    name: str = "bam_lightning"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = 240
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    array_parallelism: int = 64
    max_requeues: int = 20
    signal_delay_s: int = 120
    setup: list[str] = field(default_factory=list)
    additional: dict[str, Any] = field(default_factory=dict)
    poll_s: float = 10.0
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "array_parallelism", "signal_delay_s"):
            if (value := getattr(self, name)) is not None:
                check_at_least(f"{KEY}.{name}", value, 1)
        check_at_least(f"{KEY}.max_requeues", self.max_requeues, 0)
        for name in ("poll_s", "patience_s", "mem_gb"):
            if (value := getattr(self, name)) is not None:
                check_positive(f"{KEY}.{name}", value)

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the parameters of submitit's executor for an array called ``name``; None leaves them to SLURM."""
        parameters = {option: getattr(self, option) for option in SAME_NAME}
        parameters |= {
            "job_name": name,
            "time": self.timeout_min,
            "ntasks_per_node": self.tasks_per_node,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "setup": [SRUN_CPUS, *self.setup] if self.cpus_per_task else self.setup,
            "wckey": None,  # submitit's default is refused by clusters that use such keys
            "srun_args": ["--kill-on-bad-exit=1"],  # a process that fails ends the others
            "additional_parameters": {"requeue": True, **self.additional},
        }
        return parameters


def python_command() -> str:
    """Return a shell command that starts this Python with signals ignored, until it installs its own handlers.

    A job that is pre-empted during its imports must not die of SIGTERM, since it would end as FAILED. Instead SLURM
    kills it after the grace time, and restarts it.
    """
    ignore_signals = 'trap "" TERM USR1 USR2; exec "$0" "$@"'
    return f"bash -c {shlex.quote(ignore_signals)} {shlex.quote(sys.executable)}"


def parse_options(options: Mapping[str, Any]) -> Options:
    """Return the options of Hydra's launcher node.

    Raises:
        ConfigError: If an option is unknown or has the wrong type, naming it.
    """
    names = [entry.name for entry in fields(Options)]
    for name in options:
        if name not in names:
            raise ConfigError(f"no option '{KEY}.{name}'{suggest(name, names)}")
    try:
        parsed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Options), dict(options)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{KEY}.{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(parsed, Options)
    return parsed
