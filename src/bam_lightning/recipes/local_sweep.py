"""Run a sweep in several processes of this machine: ``hydra/launcher=joblib``. A killed process costs its job alone.

joblib's own pool ends all of its processes when one of them is killed. Here each process is a pool of one, which is
replaced when it breaks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_joblib_launcher._core import execute_job
from joblib import effective_n_jobs
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor
from omegaconf import DictConfig

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.signals import Stopped, raise_on_signal
from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import JobResult

KILLED = "its process was killed or crashed; if memory ran out, lower hydra.launcher.n_jobs"
PARENT_SECONDS = 1.0  # between a worker's checks that its parent lives


def launch(
    n_jobs: Any,
    context: HydraContext,
    function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs, numbered from ``first``, ``n_jobs`` at a time, and wait for them.

    Raises:
        ConfigError: If ``n_jobs`` is neither -1 nor a whole number above 0.
        Stopped: On a signal, after the running jobs have saved.
    """
    if not isinstance(n_jobs, int) or (n_jobs < 1 and n_jobs != -1):
        raise ConfigError(f"hydra.launcher.n_jobs must be -1 (as many as CPU cores) or at least 1, got {n_jobs!r}")
    count = min(effective_n_jobs(n_jobs), len(job_overrides))
    new_worker = partial(ProcessPoolExecutor, 1, initializer=_end_with_parent, initargs=(os.getpid(),))
    idle: SimpleQueue[Any] = SimpleQueue()
    for _ in range(count):
        idle.put(new_worker())
    state, stopping = Singleton.get_state(), threading.Event()

    def run(number: int, words: Sequence[str]) -> JobReturn:
        nothing = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
        nothing.return_value = None
        worker = idle.get()
        try:
            done: JobReturn = worker.submit(execute_job, number, words, context, config, function, state).result()
            return done
        except Stopped:  # by a signal to this process alone; the job has said so
            return nothing
        except BrokenProcessPool:
            worker = new_worker()
            if not stopping.is_set():
                _report_killed(job_results.path(config.hydra.sweep.dir, number), number, words)
            return nothing
        finally:
            idle.put(worker)

    with raise_on_signal(), ThreadPoolExecutor(count) as threads:
        jobs = [threads.submit(run, number, words) for number, words in enumerate(job_overrides, first)]
        try:
            return [job.result() for job in jobs]
        except Stopped:
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # SIGTERM: a job saves first
            raise


def _report_killed(path: Path, number: int, words: Sequence[str]) -> None:
    result = job_results.read(path) or JobResult(number, ", ".join(filter_overrides(words)))
    result.error, result.ended = KILLED, True
    job_results.write(path, result)
    print(f"job {number} ({result.overrides}) failed: {KILLED}", file=sys.stderr)


def _end_with_parent(parent: int) -> None:
    """Send this worker SIGTERM when its parent is gone: a job saves first."""

    def watch() -> None:
        while True:
            time.sleep(PARENT_SECONDS)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
