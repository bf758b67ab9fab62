"""Query SLURM: queued jobs, why a job ended, requeueing; and which job this process belongs to.

The queue (squeue) decides whether a job is alive. Accounting (sacct) reports NODE_FAIL or PREEMPTED while a job
waits for its restart, and not all clusters have it. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bam_lightning.config.exceptions import TrainingError

ANSWER_SECONDS = 60  # a busy controller answers slowly
TRIES, PAUSE_SECONDS = 5, 2.0  # of a requeue, which must not be lost


class Place(NamedTuple):
    """The SLURM job of this process: its id (``ARRAY_INDEX`` or a number), its nodes, its number of restarts."""

    job: str
    nodes: str
    restarts: int


class Queued(NamedTuple):
    """A job in the queue: its id, its state, and the reason if it is waiting."""

    job: str
    state: str
    reason: str


def here() -> Place | None:
    """Return the SLURM job of this process, or None outside one."""
    variable = os.environ.get
    number = variable("SLURM_JOB_ID")
    if number is None:
        return None
    array, index = variable("SLURM_ARRAY_JOB_ID"), variable("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array and index else number
    return Place(job, variable("SLURM_JOB_NODELIST", ""), int(variable("SLURM_RESTART_COUNT") or 0))


def rank() -> int:
    """Return the rank of this process in its SLURM job; 0 outside one."""
    return int(os.environ.get("SLURM_PROCID") or 0)


def check_commands() -> None:
    """Raise ``TrainingError`` if SLURM's commands are missing."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise TrainingError(
            f"hydra/launcher=slurm needs {', '.join(missing)} on the PATH; call it where you call sbatch, or use "
            "hydra/launcher=joblib on this machine"
        )


def queued(names: Collection[str]) -> dict[tuple[str, int], Queued] | None:
    """Return (job name, index in its array) -> job, for all waiting and running jobs with these names.

    None if SLURM does not answer; then no job may be taken for ended.
    """
    if not names:
        return {}
    done = _call(["squeue", "-h", "-r", "-n", ",".join(sorted(names)), "-o", "%j|%F|%K|%i|%T|%r"])
    if done is None or done.returncode:
        return None
    jobs = {}
    for line in done.stdout.splitlines():
        name, array, index, number, state, reason = line.strip().split("|", 5)
        if index.isdigit():
            jobs[name, int(index)] = Queued(f"{array}_{index}", state, reason)
        else:
            jobs[name, 0] = Queued(number, state, reason)
    return jobs


def state(job: str) -> str:
    """Return the state of a job in the queue, such as RUNNING; empty if it is not queued or SLURM does not answer."""
    done = _call(["squeue", "-h", "-r", "-j", job, "-o", "%T"])
    return done.stdout.strip() if done is not None and not done.returncode else ""


def end(job: str) -> str:
    """Return how a job that is in no queue ended, as in ``OUT_OF_MEMORY on n3, exit code 0:125``."""
    done = _call(["sacct", "-n", "-X", "-P", "-j", job, "-o", "State,NodeList,ExitCode"])
    lines = done.stdout.split() if done is not None and not done.returncode else []
    if lines:
        status, nodes, code = done.stdout.strip().splitlines()[-1].split("|")  # type: ignore[union-attr]
        return f"{status} on {nodes}, exit code {code}"
    done = _call(["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T on %N"])
    known = done.stdout.strip() if done is not None and not done.returncode else ""
    return known or "it is in no queue, and this cluster keeps no accounts"


def requeue(job: str) -> None:
    """Requeue a job.

    Raises:
        TrainingError: If SLURM refuses, with its message.
    """
    message = "scontrol does not answer"
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        done = _call(["scontrol", "requeue", job])
        if done is not None and not done.returncode:
            return
        message = done.stderr.strip() if done is not None else message
    raise TrainingError(
        f"SLURM does not start job {job} again: {message}; the same command goes on from its checkpoint"
    )


def _call(words: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
