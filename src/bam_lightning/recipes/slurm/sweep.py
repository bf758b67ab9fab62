"""Run a sweep on SLURM: submit jobs that are neither finished nor queued, wait, and collect their results.

Submitted jobs are recorded in the store, in ``slurm/KEY.json``, before sbatch is called. The key is a hash of the job's
overrides and the working directory. So the submitting process may die at any time: the next one finds its jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bam_lightning.config.compose import to_config
from bam_lightning.config.exceptions import StoreError, TrainingError
from bam_lightning.config.job_config import Config
from bam_lightning.config.validation import require_extra
from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import JobResult
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.slurm import scheduler
from bam_lightning.recipes.slurm.job import Task
from bam_lightning.recipes.slurm.options import Options, parse_options, python_command
from bam_lightning.store import job_records
from bam_lightning.store.run_spec import DataSummary
from bam_lightning.store.run_store import Store, write_text

FOLDER = "slurm"
LOG_CHARACTERS = 300  # of the log of a job that died, in the reason


@dataclass
class SubmittedJob:
    """A job that was submitted to SLURM.

    Attributes:
        name: Name of its job array.
        index: Index in the array.
        result: Path of its result.
        logs: Folder of its logs.
        job: SLURM's id; empty until sbatch has returned.
    """

    name: str
    index: int
    result: str
    logs: str
    overrides: list[str]
    job: str = ""


@dataclass
class JobRequest:
    """A job of this sweep.

    Attributes:
        number: Its number in the sweep.
        result: Path of its result.
        submitted: Its record, while SLURM has it.
        missing: Time, by the monotonic clock, since when no queue has it.
    """

    number: int
    overrides: list[str]
    config: Config
    store: Store
    result: Path
    submitted: SubmittedJob | None = None
    missing: float | None = None

    @property
    def path(self) -> Path:
        """Path of its record; the same command in the same working directory requests the same job."""
        text = json.dumps([os.getcwd(), self.overrides])
        return self.store.root / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def save(self, submitted: SubmittedJob) -> None:
        """Write the record of the submitted job."""
        self.submitted = submitted
        self.path.parent.mkdir(exist_ok=True)
        write_text(self.path, json.dumps(asdict(submitted), indent=1))

    def adopt(self, result: JobResult) -> None:
        """Take a result as this sweep's own, and print it."""
        job_results.write(self.result, replace(result, job=self.number, ended=True))
        self.submitted = None
        _print(f"job {self.number} {'failed: ' + result.error if result.error else 'is finished'}")


def launch(
    options: Mapping[str, Any],
    context: HydraContext,
    function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs on SLURM, numbered from ``first``, and wait for them.

    Raises:
        ConfigError: If an option is wrong.
        TrainingError: If submitit or SLURM is missing, or SLURM refuses the jobs.
    """
    require_extra("hydra/launcher=slurm", ["submitit"], "slurm")
    scheduler.check_commands()
    settings = parse_options(options)
    requests = [
        _make_request(number, list(words), context, config) for number, words in enumerate(job_overrides, first)
    ]
    task = Task(context, function, config, os.environ.get(job_results.SWEEP_ID_ENV, "unknown"), settings.max_requeues)
    for root in dict.fromkeys(request.store.root for request in requests):
        in_store = [request for request in requests if request.store.root == root]
        with FileLock(root / "locks" / "submit.lock"):  # two processes must not submit the same job
            _find_submitted(in_store)
            submit(in_store, settings, task)
    try:
        wait(requests, settings)
    except KeyboardInterrupt:
        arrays = sorted({request.submitted.job.split("_")[0] for request in requests if request.submitted})
        _print(f"the jobs go on in SLURM, and the same command finds them; to end them: scancel {' '.join(arrays)}")
        raise
    returns = [JobReturn(overrides=request.overrides, status=JobStatus.COMPLETED) for request in requests]
    for job_return in returns:
        job_return.return_value = None
    return returns


def _make_request(number: int, overrides: list[str], context: HydraContext, config: DictConfig) -> JobRequest:
    tree = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(tree):
        del tree["hydra"]
    settings = to_config(tree)
    where = job_results.path(Path(config.hydra.sweep.dir).absolute(), number)
    return JobRequest(number, overrides, settings, Store(settings.paths.store), where)


def _find_submitted(requests: Sequence[JobRequest]) -> None:
    """Find jobs of an earlier call: keep those that SLURM still has, and adopt the results of finished ones."""
    records = {request.path: submitted for request in requests if (submitted := _read(request.path)) is not None}
    queue = scheduler.queued({submitted.name for submitted in records.values()})
    if queue is None:
        raise TrainingError("squeue does not answer, so jobs of an earlier call cannot be found; try again")
    facts: dict[str, DataSummary] = {}
    for request in requests:
        submitted = records.get(request.path)
        if submitted is None:
            continue
        known = queue.get((submitted.name, submitted.index))
        result = job_results.read(Path(submitted.result))
        if known is not None:
            submitted.job = known.job
            request.save(submitted)
            _print(f"job {request.number} is in SLURM already: {known.job}, {known.state}")
        elif result is not None and result.ended and not result.error and _finished(request, facts):
            request.adopt(result)


def _read(path: Path) -> SubmittedJob | None:
    try:
        return SubmittedJob(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is not the record of a submitted job ({error}); delete it") from error


def _finished(request: JobRequest, facts: dict[str, DataSummary]) -> bool:
    """Return whether the store has all Runs of a job; its data may have changed since it was submitted."""
    from bam_lightning.recipes.runner import load_data

    config = asdict(request.config)
    del config["seed"], config["teacher_seed"]  # jobs that differ in these alone have the same data
    key = json.dumps(config, default=str, sort_keys=True)
    if key not in facts:
        facts[key] = load_data(request.config)[2]
    record = job_records.make_record(request.config, plan_runs(request.config, facts[key]), facts[key], Path())
    return any(
        job.id == record.id and job.state == job_records.FINISHED for job in job_records.read_records(request.store)
    )


def submit(requests: Sequence[JobRequest], settings: Options, task: Task) -> None:
    """Submit the jobs that are neither queued nor finished, as one array.

    Raises:
        TrainingError: If sbatch refuses them, with its message.
    """
    import submitit

    new = list(
        {
            request.path: request for request in requests if request.submitted is None and not request.result.exists()
        }.values()
    )
    if not new:
        return
    name, folder = f"{settings.name}-{uuid4().hex[:8]}", new[0].result.parents[2] / ".submitit"
    for index, request in enumerate(new):
        request.save(SubmittedJob(name, index, str(request.result), str(folder), request.overrides))
    executor = submitit.SlurmExecutor(folder / "%j", python=python_command())
    try:
        executor.update_parameters(**settings.parameters(name))
        words = (
            [request.overrides for request in new],
            [request.number for request in new],
            [Singleton.get_state()] * len(new),
        )
        submitted = executor.map_array(task, *words)
    except Exception as error:
        for request in new:
            request.path.unlink()
        raise TrainingError(f"sbatch refused the jobs: {' '.join(str(error).split())}; see hydra.launcher") from error
    for request, job in zip(new, submitted, strict=True):
        assert request.submitted is not None
        request.save(replace(request.submitted, job=job.job_id))
    for request in requests:  # a job that the sweep has twice
        if request.submitted is None and not request.result.exists():
            request.submitted = _read(request.path)
    _print(f"submitted to SLURM: {len(new)} of {len(requests)} jobs, as {submitted[0].job_id.split('_')[0]}")


def wait(requests: Sequence[JobRequest], settings: Options) -> None:
    """Wait for the submitted jobs: until each has a result, or SLURM no longer has it."""
    held: set[str] = set()
    while waiting := [request for request in requests if request.submitted]:
        queue = scheduler.queued({request.submitted.name for request in waiting if request.submitted})
        for request in waiting:
            assert request.submitted is not None
            result = job_results.read(Path(request.submitted.result))
            known = None if queue is None else queue.get((request.submitted.name, request.submitted.index))
            if result is not None and result.ended:
                request.adopt(result)
            elif queue is None or known is not None:
                request.missing = None
                if known and known.job not in held and re.search("h[eo]ld", known.reason, re.IGNORECASE):
                    held.add(known.job)
                    _print(
                        f"SLURM holds job {known.job} ({known.reason}); it goes on after: scontrol release {known.job}"
                    )
            else:
                request.missing = request.missing or time.monotonic()
                if time.monotonic() - request.missing >= settings.patience_s:
                    request.adopt(_lost_job_result(request.submitted, result))
        if any(request.submitted for request in requests):
            time.sleep(settings.poll_s)


def _lost_job_result(submitted: SubmittedJob, result: JobResult | None) -> JobResult:
    """Return the result of a job that ended without writing one: SLURM's reason and the end of its log."""
    result = result or JobResult(0, ", ".join(submitted.overrides), slurm=submitted.job)
    reason = f"SLURM job {submitted.job} ended without a result: {scheduler.end(submitted.job)}"
    logs = sorted((Path(submitted.logs) / submitted.job).glob("*_log.err"))
    last = " | ".join(filter(None, map(_last_error_line, logs)))[-LOG_CHARACTERS:]
    return replace(result, error=f"{reason}; {logs[0] if logs else 'no log'}{': ' + last if last else ''}")


def _last_error_line(log: Path) -> str:
    """Return the last line of a log that mentions an error, else the last line; srun adds lines after the error."""
    lines = log.read_text(errors="replace").strip().splitlines()[-50:]
    return next(
        (line for line in reversed(lines) if re.search("error|killed", line, re.IGNORECASE)), "".join(lines[-1:])
    )


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
