"""Records of jobs: one small file per job in the store, which sweeps and tables read.

A job is a recipe with its seeds, such as one seed of one row of a table. The record names the job's Runs, which
hold its scores, what they were made from, and how the job ended. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_type_hints

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.job_config import Config, for_stage, shared_stages
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.json_schema import check_fields
from bam_lightning.store.lock import RunLock
from bam_lightning.store.run_spec import DataSummary, Run, to_json
from bam_lightning.store.run_store import Store

FOLDER = "jobs"
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class JobRecord:
    """One job, as the store keeps it.

    Attributes:
        teacher_seed: Seed of the teachers; None if nothing in the recipe depends on it.
        stages: Stage -> ids of its Runs, in order. The last stage has the scores.
        metrics: Task -> headline metric.
        average: Tasks that count in the average.
        data: Task -> fingerprint of its rows, for all tasks of the recipe.
        settings: Hash of everything else that determines the Runs, apart from seeds and ids of teachers.
        external_teachers: Ids of Runs that teach and that the recipe does not train.
        reason: Why the job failed or stopped.
        changed: Time of the last change, ISO 8601.
    """

    experiment: str
    recipe: str
    scale: str
    fidelity: str
    seed: int
    teacher_seed: int | None
    stages: dict[str, list[str]]
    metrics: dict[str, str]
    average: list[str]
    data: dict[str, str]
    encoder: str
    settings: str
    algorithm: int
    output: str
    external_teachers: list[str] = field(default_factory=list)
    state: str = RUNNING
    reason: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    changed: str = ""

    @property
    def id(self) -> str:
        """Hash of the experiment and its Runs: the same job run twice is one job."""
        text = json.dumps([self.experiment, self.scale, self.fidelity, self.stages], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def last(self) -> list[str]:
        """Ids of the Runs of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def runs(self) -> list[str]:
        """Ids of all Runs that the recipe trains."""
        return [run_id for ids in self.stages.values() for run_id in ids]

    @property
    def dependencies(self) -> list[str]:
        """Ids of all Runs and external teachers."""
        return [*self.runs, *self.external_teachers]


def make_record(config: Config, runs: Sequence[Run], facts: DataSummary, output: Path) -> JobRecord:
    """Return the record of a job whose plan is ``runs``."""
    stages: dict[str, list[str]] = {}
    for run in runs:
        stages.setdefault(run.stage, []).append(run.id)
    last = [run for run in runs if run.stage == list(stages)[-1]]
    tasks = list(dict.fromkeys(task for run in last for task in run.tasks))
    shares = bool(shared_stages(config.recipe.stages))
    return JobRecord(
        experiment=config.experiment or config.recipe.name,
        recipe=config.recipe.name,
        scale=config.scale,
        fidelity=config.fidelity,
        seed=config.seed,
        teacher_seed=config.teacher_seed if shares else None,
        stages=stages,
        metrics={task: config.suite.tasks[task].metric_name for task in tasks},
        average=[task for task in tasks if config.suite.tasks[task].in_average],
        data={task: facts.fingerprints[task] for run in runs for task in run.tasks},
        encoder=f"{for_stage(config, last[0].stage).encoder.name} {facts.of(last[0].stage).encoder}",
        settings=_settings(last, {run.id: run for run in runs}),
        algorithm=last[0].spec["algorithm"],
        output=str(output.resolve()),
        external_teachers=sorted({need for run in runs for need in run.dependencies} - {run.id for run in runs}),
    )


def _settings(last: Sequence[Run], runs: Mapping[str, Run]) -> str:
    """Return a hash of what jobs that differ in seeds and data alone have in common; data are compared separately."""

    def describe(run_id: str) -> Any:
        return without_seeds(runs[run_id]) if run_id in runs else run_id  # of an external teacher only the id is known

    def without_seeds(run: Run) -> dict[str, Any]:
        spec = {name: value for name, value in run.spec.items() if name not in ("seed", "tasks", "algorithm")}
        spec["tasks"] = {
            task: {name: value for name, value in settings.items() if name != "data"}
            for task, settings in run.spec.get("tasks", {}).items()
        }
        spec["teachers"] = {task: [describe(run_id) for run_id in ids] for task, ids in run.teachers.items()}
        spec["init_from"] = describe(run.init_from) if run.init_from else None
        return spec

    text = json.dumps(to_json([without_seeds(run) for run in last]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_record(store: Store, job: JobRecord, state: str, reason: str = "") -> None:
    """Write the record of a job in its current state; a job that had finished before keeps its time."""
    path = store.root / FOLDER / f"{job.id}.json"
    if path.is_file() and all(store.finished(run_id) for run_id in job.runs) and _was_finished(path):
        return
    changed = datetime.now(timezone.utc).isoformat(timespec="seconds")
    job = replace(job, state=state, reason=reason, changed=changed)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(asdict(job), indent=1))


def delete_record(store: Store, job: JobRecord) -> None:
    """Delete the record of a job, as when its plan has changed."""
    (store.root / FOLDER / f"{job.id}.json").unlink(missing_ok=True)


def read_records(store: Store) -> list[JobRecord]:
    """Return the jobs of a store, oldest first, in their current state. Damaged records are left out.

    A job is finished if all its Runs are. A running job whose process is gone has stopped.
    """
    jobs = []
    for path in _paths(store):
        with suppress(ValueError):
            jobs.append(_current_state(store, _read(path)))
    return sorted(jobs, key=lambda job: job.changed)


def damaged_records(store: Store) -> dict[Path, str]:
    """Return path -> reason of the files among the records that are not the record of a job, or a copy of one."""
    damaged = {}
    for path in _paths(store):
        try:
            _read(path)
        except ValueError as error:
            damaged[path] = str(error)
    return damaged


def _paths(store: Store) -> list[Path]:
    return sorted((store.root / FOLDER).glob("*.json"))


def _was_finished(path: Path) -> bool:
    try:
        return _read(path).state == FINISHED
    except ValueError:  # damaged; it is written again
        return False


def _read(path: Path) -> JobRecord:
    required = {
        entry.name for entry in fields(JobRecord) if entry.default is MISSING and entry.default_factory is MISSING
    }
    kinds = get_type_hints(JobRecord)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise StoreError("not a JSON object")
        values = {name: value for name, value in values.items() if name in kinds}
        check_fields(values, {name: kind for name, kind in kinds.items() if name in required or name in values})
        if not values["stages"] or not all(values["stages"].values()):
            raise StoreError("a stage has no Run")
        job = JobRecord(**values)
    except (ValueError, OSError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged: not the record of a job ({error}); `bam runs --delete damaged` removes it"
        ) from error
    if job.id != path.stem:  # else a copied file would count as another job
        raise StoreError(f"{path} is damaged: a copy of job {job.id}; `bam runs --delete damaged` removes it")
    return job


def _current_state(store: Store, job: JobRecord) -> JobRecord:
    if all(store.finished(run_id) for run_id in job.runs):
        return replace(job, state=FINISHED, reason="")
    if job.state == FINISHED:
        missing = next(run_id for run_id in job.runs if not store.finished(run_id))
        return replace(job, state=STOPPED, reason=f"Run {missing} is no longer in the store")
    if job.state == RUNNING and not _is_running(store, job):
        return replace(job, state=STOPPED, reason="its process is gone; the same command resumes it")
    return job


def job_lock(store: Store, job: JobRecord) -> RunLock:
    """Return the lock that a running job holds, so that it is seen from other machines and containers."""
    return store.lock(f"job-{job.id}")


def _is_running(store: Store, job: JobRecord) -> bool:
    """Return whether a process holds the job's lock or that of one of its Runs, or the process it names is alive."""
    if job.host == socket.gethostname() and _is_alive(job.pid):
        return True  # also where the store cannot be written, so that locks cannot be tried
    return store.locked(f"job-{job.id}") or any(
        store.locked(run_id) for run_id in job.runs if not store.finished(run_id)
    )


def _is_alive(pid: int) -> bool:
    if pid < 1:  # a group of processes to the kernel
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # alive, and another user's
        pass
    return True
