"""One job of a sweep on its SLURM node: it runs, or saves, has SLURM start it again, and ends.

submitit loads the `Task` on the node and would do as it thinks right on each signal; `stopping` takes its place."""

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

FOLLOWERS_SECONDS = 120  # that processes beside the first one leave it for having the job started again


@dataclass
class Task:
    """What is sent to the nodes. The sweep's token comes along, since not every cluster hands the environment on."""

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    token: str
    most: int
    """How often the job may be started again."""

    def __call__(self, overrides: Sequence[str], number: int, singletons: dict[type, Any]) -> None:
        """Run job ``number`` of the sweep; the exit status is 1 if it failed, so that SLURM knows, too."""
        os.environ[job_results.SWEEP_ID_ENV] = self.token
        try:
            with raise_on_signal():
                done = self._run(overrides, number, singletons)
        except Stopped as stop:
            print(f"{stop}", file=sys.stderr)
            again(stop, self.config.hydra.sweep.dir, number, self.most)
            raise SystemExit(stop.status) from stop
        if done.status is JobStatus.FAILED:
            raise done._return_value
        outcome = job_results.read(job_results.path(self.config.hydra.sweep.dir, number))
        if not scheduler.rank() and outcome is not None and outcome.error:
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


def again(stop: Stopped, sweep: str, number: int, most: int) -> None:
    """Have SLURM start this job again, unless it is being cancelled or was started too often: then say so.

    SIGTERM alone comes before a pre-emption, while the job is still running. Whoever ends then of itself is
    COMPLETED for SLURM and never started again. From scancel it comes when the job is already COMPLETING.
    """
    place = scheduler.here()
    if place is None:
        return
    if scheduler.rank():
        time.sleep(FOLLOWERS_SECONDS)
        return
    if stop.signal.name == "SIGTERM" and scheduler.state(place.job) not in ("RUNNING", ""):
        return
    reason = f"{stop}, after {place.restarts} new starts; hydra.launcher.max_requeues is {most}"
    if place.restarts < most:
        try:
            scheduler.requeue(place.job)
        except RuntimeError as error:
            reason = str(error)
        else:
            print(f"SLURM starts job {place.job} again ({place.restarts} of {most} so far)", file=sys.stderr)
            return
    path = job_results.path(sweep, number)
    outcome = job_results.read(path)
    if outcome is not None:
        outcome.error, outcome.ended = reason, True
        job_results.write(path, outcome)
    print(reason, file=sys.stderr)
