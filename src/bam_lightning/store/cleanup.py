"""List the Runs of a store with the jobs that need them, and delete Runs, records and temporary files.

Imports no torch."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import Timeout

from bam_lightning.config.exceptions import StoreAccessError, StoreError
from bam_lightning.store.atomic_io import translate_os_errors
from bam_lightning.store.job_records import FOLDER, RUNNING, JobRecord
from bam_lightning.store.run_store import Store

FINISHED, TRAINING, BEGUN, DAMAGED = STATES = ("finished", "in training", "stopped", "damaged")
TRASH = "trash"  # a Run is moved here before it is deleted, so that a killed deletion leaves no half of it behind


@dataclass(frozen=True)
class RunEntry:
    """One Run of a store.

    Attributes:
        state: One of ``STATES``.
        score: Mean of its tasks' headline scores x 100; None if it has none.
        age: Seconds since it finished or was last written to.
        size: Bytes, predictions included.
        users: Experiments whose jobs need it.
    """

    id: str
    stage: str
    tasks: tuple[str, ...]
    seed: int | None
    state: str
    score: float | None
    age: float
    size: int
    users: tuple[str, ...]


def entries(store: Store, jobs: Sequence[JobRecord], now: datetime | None = None) -> list[RunEntry]:
    """Return all Runs of a store, the newest first."""
    now = now or datetime.now(timezone.utc)
    users: dict[str, set[str]] = {}
    for job in jobs:
        for run_id in job.dependencies:
            users.setdefault(run_id, set()).add(job.experiment)
    found = []
    run_ids = [path.name for path in (store.root / "runs").glob("*/")]
    for run_id in run_ids:
        manifest = _manifest(store, run_id)
        if manifest is None:
            found.append(_unfinished(store, "runs", run_id, users, now))
        else:
            found.append(_finished(store, run_id, manifest, users, now))
    staged = [path.name for path in (store.root / "building").glob("*/")]
    found += [_unfinished(store, "building", run_id, users, now) for run_id in staged if run_id not in run_ids]
    return sorted(found, key=lambda entry: entry.age)


def verify(store: Store, run_id: str) -> str | None:
    """Check all files and predictions of a finished Run against their hashes; return what is wrong, or None."""
    try:
        run = store.run(run_id)
        store.manifest(run_id)
        for name in run.files():
            run.file(name)
        for path in sorted((store.root / "outputs" / run_id).glob("*.safetensors")):
            task, split = path.name.rsplit(".", 2)[:2]
            store.read_predictions(run_id, task, split)
    except StoreAccessError:
        raise
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _manifest(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return the manifest of a finished Run, or None if it is missing or damaged."""
    try:
        manifest = store.manifest(run_id)
        datetime.fromisoformat(manifest["finished"])
    except StoreAccessError:
        raise
    except (ValueError, OSError):
        return None
    return manifest


def _finished(
    store: Store, run_id: str, manifest: Mapping[str, Any], users: Mapping[str, set[str]], now: datetime
) -> RunEntry:
    finished = datetime.fromisoformat(manifest["finished"])
    return RunEntry(
        id=run_id,
        stage=manifest["stage"],
        tasks=tuple(manifest["tasks"]),
        seed=manifest["seed"],
        state=FINISHED,
        score=_score(manifest),
        age=(now - (finished if finished.tzinfo else finished.replace(tzinfo=timezone.utc))).total_seconds(),
        size=_size([store.folder(run_id), store.root / "outputs" / run_id]),
        users=tuple(sorted(users.get(run_id, ()))),
    )


def _score(manifest: Mapping[str, Any]) -> float | None:
    """Return the mean headline score x 100; NaN if a score is NaN, None if the Run has no scores."""
    tasks = manifest["spec"].get("tasks", {})
    scores = []
    for task, values in manifest["metrics"].items():
        if task not in manifest["tasks"]:
            continue  # scored with the head of another task
        metric = tasks[task].get("metric") if isinstance(tasks, dict) and isinstance(tasks.get(task), dict) else None
        scores.append(values.get(str(metric), math.nan))
    return 100 * statistics.fmean(scores) if scores else None


def _unfinished(store: Store, parent: str, run_id: str, users: Mapping[str, set[str]], now: datetime) -> RunEntry:
    folder = store.root / parent / run_id
    written = max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)
    state = BEGUN if parent == "building" else DAMAGED
    return RunEntry(
        id=run_id,
        stage="",
        tasks=(),
        seed=None,
        state=TRAINING if store.locked(run_id) else state,
        score=None,
        age=now.timestamp() - written,
        size=_size([folder]),
        users=tuple(sorted(users.get(run_id, ()))),
    )


def unused(runs: Iterable[RunEntry], store: Store) -> list[RunEntry]:
    """Return the Runs that no job needs, directly or as a teacher, and that no process is training."""
    runs = list(runs)
    needed = {entry.id for entry in runs if entry.users}
    pending = list(needed)
    while pending:
        manifest = _manifest(store, pending.pop())
        for run_id in _dependencies(manifest) if manifest else ():
            if run_id not in needed:
                needed.add(run_id)
                pending.append(run_id)
    return [entry for entry in runs if entry.id not in needed and entry.state != TRAINING]


def _dependencies(manifest: Mapping[str, Any]) -> set[str]:
    """Return the ids of a Run's teachers, ensembles included, and of the Run that it starts from."""
    named = [manifest.get("init_from"), *manifest["teachers"].values()]
    return {run_id for ids in named if ids for run_id in ([ids] if isinstance(ids, str) else ids)}


def delete(store: Store, run_id: str) -> bool:
    """Delete a Run, its predictions and its unfinished training; return False if a process is training it.

    Raises:
        StoreError: If a file cannot be deleted. What is left is in ``trash`` and no longer a Run.
    """
    try:
        with store.lock(run_id).acquire():
            trash = store.root / TRASH
            trash.mkdir(exist_ok=True)
            for folder in ("runs", "building", "outputs"):
                if (store.root / folder / run_id).exists():
                    shutil.rmtree(trash / f"{folder}-{run_id}", ignore_errors=True)  # left by a killed deletion
                    (store.root / folder / run_id).rename(trash / f"{folder}-{run_id}")
                    shutil.rmtree(trash / f"{folder}-{run_id}")
    except Timeout:
        return False
    return True


def delete_records(store: Store, jobs: Iterable[JobRecord]) -> None:
    """Delete the records of jobs. Their Runs stay until they are deleted as unused.

    Raises:
        StoreError: If one of the jobs is running.
    """
    jobs = list(jobs)
    running = [job for job in jobs if job.state == RUNNING]
    if running:
        raise StoreError(
            f"job {running[0].experiment} seed {running[0].seed} is running; wait for it, or stop it first"
        )
    for job in jobs:
        (store.root / FOLDER / f"{job.id}.json").unlink(missing_ok=True)


def delete_damaged(paths: Iterable[Path]) -> None:
    """Delete what lies among the records of jobs and is none: files, links and folders.

    Raises:
        StoreError: If one cannot be deleted.
    """
    for path in paths:
        with translate_os_errors(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _size(folders: Iterable[Path]) -> int:
    return sum(
        path.stat().st_size for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()
    )
