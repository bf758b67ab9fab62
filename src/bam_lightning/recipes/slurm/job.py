"""Run one job of a sweep on its SLURM node; on a signal, write a checkpoint, requeue the job and end.

submitit unpickles the ``Task`` on the node. Its own signal handlers are replaced by ``config.signals``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bam_lightning.config.signals import Stopped, raise_on_signal
from bam_lightning.recipes import job_results
from bam_lightning.recipes.slurm import scheduler

WAIT_FOR_RANK_0_SECONDS = 120  # how long other ranks stay alive while rank 0 requeues the job


@dataclass
class Task:
    """What is sent to the nodes.

    Attributes:
        sweep_id: Id of the sweep, since not all clusters pass the environment on.
        max_requeues: How often the job may be restarted.
    """

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    sweep_id: str
    max_requeues: int

    def __call__(self, overrides: Sequence[str], number: int, singletons: dict[type, Any]) -> None:
        """Run job ``number`` of the sweep; exit with status 1 if it failed, so that SLURM reports it too."""
        os.environ[job_results.SWEEP_ID_ENV] = self.sweep_id
        try:
            with raise_on_signal():
                returned = self._run(overrides, number, singletons)
        except Stopped as stop:
            print(f"{stop}", file=sys.stderr)
            requeue(stop, self.config.hydra.sweep.dir, number, self.max_requeues)
            raise SystemExit(stop.status) from stop
        if returned.status is JobStatus.FAILED:
            raise returned._return_value
        result = job_results.read(job_results.path(self.config.hydra.sweep.dir, number))
        if not scheduler.rank() and result is not None and result.error:
            raise SystemExit(1)

    def _run(self, overrides: Sequence[str], number: int, singletons: dict[type, Any]) -> JobReturn:
        Singleton.set_state(singletons)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        place = scheduler.here()
        with open_dict(config):
            config.hydra.job.id = place.job if place else str(number)
            config.hydra.job.num = number
        return run_job(
            hydra_context=self.context,
            task_function=self.function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def requeue(stop: Stopped, sweep: str, number: int, max_requeues: int) -> None:
    """Requeue this job, unless it is being cancelled or was restarted too often; write the reason into its result.

    Before a pre-emption SLURM sends SIGTERM while the job is RUNNING. A job that ends by itself then counts as
    COMPLETED and is not restarted, so it must be requeued. scancel sends SIGTERM when the job is already COMPLETING.
    """
    place = scheduler.here()
    if place is None:
        return
    if scheduler.rank():
        time.sleep(WAIT_FOR_RANK_0_SECONDS)
        return
    if stop.signal.name == "SIGTERM" and scheduler.state(place.job) not in ("RUNNING", ""):
        return
    reason = f"{stop}, after {place.restarts} new starts; hydra.launcher.max_requeues is {max_requeues}"
    if place.restarts < max_requeues:
        try:
            scheduler.requeue(place.job)
        except RuntimeError as error:
            reason = str(error)
        else:
            print(f"SLURM starts job {place.job} again ({place.restarts} of {max_requeues} so far)", file=sys.stderr)
            return
    path = job_results.path(sweep, number)
    result = job_results.read(path)
    if result is not None:
        result.error, result.ended = reason, True
        job_results.write(path, result)
    print(reason, file=sys.stderr)
