"""What was asked for: a small file per job in the store, from which sweeps and tables know its Runs.

A job is a recipe with its seeds: one row's one seed of a table. Its scores are in its Runs; the file says which
these are, what they were made from, and how it ended. Pure, and without torch."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.job_config import Config, shared_stages
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.run_spec import DataSummary, Run, to_json
from bam_lightning.store.run_store import Store

FOLDER = "jobs"
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class JobRecord:
    """One job, as the store keeps it.

    ``stages`` maps a stage to the ids of its Runs; the last one has the scores. ``metrics`` maps a task to its
    headline metric, ``average`` names the tasks that count in the average. ``settings`` is a hash of all that
    makes the Runs, seeds, teachers' ids and data apart; ``data`` maps every task of the recipe to the fingerprint of
    its rows. ``given`` are teachers that the config names. ``teacher_seed`` is ``None`` where nothing in the recipe
    depends on it.
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
    given: list[str] = field(default_factory=list)
    state: str = RUNNING
    reason: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    changed: str = ""

    @property
    def id(self) -> str:
        """Hash of the experiment and its Runs: the same job asked for twice is one job."""
        text = json.dumps([self.experiment, self.scale, self.fidelity, self.stages], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def last(self) -> list[str]:
        """Ids of the Runs of the last stage."""
        return list(self.stages.values())[-1]

    @property
    def runs(self) -> list[str]:
        """Ids of all Runs of its own."""
        return [run_id for ids in self.stages.values() for run_id in ids]

    @property
    def dependencies(self) -> list[str]:
        """Ids of all Runs, and of the teachers it was given."""
        return [*self.runs, *self.given]


def make_record(config: Config, runs: Sequence[Run], facts: DataSummary, output: Path) -> JobRecord:
    """Return the job of a config whose plan is ``runs``."""
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
        metrics={task: config.suite.tasks[task].metric.value for task in tasks},
        average=[task for task in tasks if config.suite.tasks[task].in_average],
        data={task: facts.fingerprints[task] for run in runs for task in run.tasks},
        encoder=f"{config.encoder.name} {facts.encoder}",
        settings=_settings(last, {run.id: run for run in runs}),
        algorithm=last[0].spec["algorithm"],
        output=str(output.resolve()),
        given=sorted(set(config.distillation.teachers.values())),
    )


def _settings(last: Sequence[Run], runs: Mapping[str, Run]) -> str:
    """Return a hash that jobs share which differ in nothing but seeds (and in data, which is compared by itself)."""

    def of(run_id: str) -> Any:
        return known(runs[run_id]) if run_id in runs else run_id  # a given Run is known by its id alone

    def known(run: Run) -> dict[str, Any]:
        spec = {name: value for name, value in run.spec.items() if name not in ("seed", "tasks", "algorithm")}
        spec["tasks"] = {
            task: {name: value for name, value in own.items() if name != "data"}
            for task, own in run.spec.get("tasks", {}).items()
        }
        spec["teachers"] = {task: [of(run_id) for run_id in ids] for task, ids in run.teachers.items()}
        spec["start"] = of(run.start) if run.start else None
        return spec

    text = json.dumps(to_json([known(run) for run in last]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_record(store: Store, job: JobRecord, state: str, reason: str = "") -> None:
    """Write the job's file in the state it is in now; one that was finished before keeps the time it was."""
    path = store.root / FOLDER / f"{job.id}.json"
    if path.is_file() and all(store.finished(run_id) for run_id in job.runs) and _read(path).state == FINISHED:
        return
    changed = datetime.now(timezone.utc).isoformat(timespec="seconds")
    job = replace(job, state=state, reason=reason, changed=changed)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(asdict(job), indent=1))


def delete_record(store: Store, job: JobRecord) -> None:
    """Forget the job, whose plan has changed."""
    (store.root / FOLDER / f"{job.id}.json").unlink(missing_ok=True)


def read_records(store: Store) -> list[JobRecord]:
    """Return all jobs of a store, oldest first, with the state they are in now.

    A job whose Runs are all there is finished, whatever became of its process; one whose process is gone
    without a word has stopped.

    Raises:
        StoreError: for a file that is none of ours, naming it.
    """
    jobs = [_now(store, _read(path)) for path in sorted((store.root / FOLDER).glob("*.json"))]
    return sorted(jobs, key=lambda job: job.changed)


def _read(path: Path) -> JobRecord:
    known = {entry.name for entry in fields(JobRecord)}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise StoreError("not a JSON object")
        kept = {name: value for name, value in values.items() if name in known}
        for name, kind in get_type_hints(JobRecord).items():
            kinds = tuple(get_origin(one) or one for one in get_args(kind) if type(None) in get_args(kind)) or (
                get_origin(kind) or kind,
            )
            if name in kept and not isinstance(kept[name], kinds):
                raise StoreError(f"{name} is {kept[name]!r}")
        return JobRecord(**kept)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is not the file of a job ({error}); delete it") from error


def _now(store: Store, job: JobRecord) -> JobRecord:
    if all(store.finished(run_id) for run_id in job.runs):
        return replace(job, state=FINISHED, reason="")
    if job.state == FINISHED:
        gone = next(run_id for run_id in job.runs if not store.finished(run_id))
        return replace(job, state=STOPPED, reason=f"Run {gone} is no longer in the store")
    if job.state == RUNNING and not _at_work(store, job):
        return replace(job, state=STOPPED, reason="its process is gone; the same command goes on")
    return job


def _at_work(store: Store, job: JobRecord) -> bool:
    """Return whether the job's process is there; on another machine, whether anybody trains a Run of its."""
    if job.host == socket.gethostname():
        return _alive(job.pid)
    return any(store.locked(run_id) for run_id in job.runs if not store.finished(run_id))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        pass
    return True
