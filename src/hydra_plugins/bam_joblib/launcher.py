"""Hydra's side of ``hydra/launcher=joblib``; what it does is in ``bam_lightning.recipes.local_sweep``."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

OPTIONS = {"_target_": "hydra_plugins.bam_joblib.launcher.JoblibLauncher", "n_jobs": -1}


class JoblibLauncher(Launcher):
    """Runs ``n_jobs`` jobs of a sweep at a time on this machine; -1: as many as there are CPU cores."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them."""
        from bam_lightning.recipes.local_sweep import launch

        return launch(self.n_jobs, self.context, self.function, self.config, job_overrides, initial_job_idx)


def register() -> None:
    """Have Hydra build this launcher instead of that of its own plugin, which loses a sweep with one process."""
    Plugins.instance().register(JoblibLauncher)  # finds Hydra's plugin first
    ConfigStore.instance().store(group="hydra/launcher", name="joblib", node=OPTIONS)
