"""Hydra's side of ``hydra/launcher=slurm``; what it does is in ``bam_lightning.recipes.slurm.sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Makes each job of a sweep one job of a SLURM array; ``conf/hydra/launcher/slurm.yaml`` has its options."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them."""
        from bam_lightning.recipes.slurm.sweep import launch

        return launch(self.options, self.context, self.function, self.config, job_overrides, initial_job_idx)
