"""What lies in a store, and who still refers to it. Reads files alone, and imports no torch."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import Timeout

from bam_lightning.config.exceptions import StoreError
from bam_lightning.store.job_records import FOLDER, RUNNING, JobRecord
from bam_lightning.store.run_store import Store

FINISHED, TRAINING, BEGUN, DAMAGED = STATES = ("finished", "in training", "stopped", "damaged")
TRASH = "trash"  # what is being deleted lies here, so that a killed deletion leaves no half of a Run behind


@dataclass(frozen=True)
class RunEntry:
    """One Run of a store; ``score`` is the mean of its tasks' headline scores x 100, ``size`` in bytes, ``age`` in
    seconds since it was finished or last written; ``users`` are the experiments whose jobs need it."""

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
    runs = [path.name for path in (store.root / "runs").glob("*/")]
    found = [_finished(store, run_id, users, now) if _readable(store, run_id)
             else _unfinished(store, "runs", run_id, users, now) for run_id in runs]  # fmt: skip
    building = [path.name for path in (store.root / "building").glob("*/")]
    found += [_unfinished(store, "building", one, users, now) for one in building if one not in runs]
    return sorted(found, key=lambda entry: entry.age)


def damage(store: Store, run_id: str) -> str | None:
    """Compare all files of a finished Run, and its predictions, with what was written; return what is wrong, or
    ``None``. Reads every byte."""
    try:
        store.manifest(run_id)
        for name in (run := store.run(run_id)).files():
            run.file(name)
        for path in sorted((store.root / "outputs" / run_id).glob("*.safetensors")):
            task, split = path.name.rsplit(".", 2)[:2]
            store.read_predictions(run_id, task, split)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _readable(store: Store, run_id: str) -> bool:
    try:
        return store.finished(run_id) and bool(store.manifest(run_id)["stage"])
    except (ValueError, KeyError, OSError):
        return False


def _finished(store: Store, run_id: str, users: Mapping[str, set[str]], now: datetime) -> RunEntry:
    manifest = store.manifest(run_id)
    metrics = {task: values["metric"] for task, values in manifest["spec"].get("tasks", {}).items()}
    scores = [values[metrics[task]] for task, values in manifest["metrics"].items()]
    return RunEntry(
        id=run_id,
        stage=manifest["stage"],
        tasks=tuple(manifest["tasks"]),
        seed=manifest["seed"],
        state=FINISHED,
        score=100 * statistics.fmean(scores) if scores else None,
        age=(now - datetime.fromisoformat(manifest["finished"])).total_seconds(),
        size=_size([store.folder(run_id), store.root / "outputs" / run_id]),
        users=tuple(sorted(users.get(run_id, ()))),
    )


def _unfinished(store: Store, where: str, run_id: str, users: Mapping[str, set[str]], now: datetime) -> RunEntry:
    folder = store.root / where / run_id
    written = max((path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists()), default=0.0)
    state = TRAINING if store.locked(run_id) else BEGUN if where == "building" else DAMAGED
    return RunEntry(run_id, "", (), None, state, None, now.timestamp() - written, _size([folder]),
                 tuple(sorted(users.get(run_id, ()))))  # fmt: skip


def unused(found: Iterable[RunEntry], store: Store) -> list[RunEntry]:
    """Return the Runs that no job needs, nor any Run that a job needs, and that nobody is training."""
    found = list(found)
    needed = {entry.id for entry in found if entry.users}
    waiting = list(needed)
    while waiting:
        run_id = waiting.pop()
        for need in _needs(store.manifest(run_id)) if _readable(store, run_id) else ():
            if need not in needed:
                needed.add(need)
                waiting.append(need)
    return [entry for entry in found if entry.id not in needed and entry.state != TRAINING]


def _needs(manifest: Mapping[str, Any]) -> set[str]:
    named = [manifest["start"], *manifest["teachers"].values()]
    return {run_id for one in named if one for run_id in ([one] if isinstance(one, str) else one)}


def delete(store: Store, run_id: str) -> bool:
    """Delete a Run, its predictions and what is left of its training; return ``False`` if a process is at it.

    Raises:
        StoreError: if something cannot be deleted; what there is of it lies in ``trash`` and is no Run any more.
    """
    try:
        with store.lock(run_id).acquire():
            trash = store.root / TRASH
            trash.mkdir(exist_ok=True)
            for folder in ("runs", "building", "outputs"):
                if (store.root / folder / run_id).exists():
                    shutil.rmtree(trash / f"{folder}-{run_id}", ignore_errors=True)  # of a deletion that was killed
                    (store.root / folder / run_id).rename(trash / f"{folder}-{run_id}")
                    shutil.rmtree(trash / f"{folder}-{run_id}")
    except Timeout:
        return False
    return True


def forget(store: Store, jobs: Iterable[JobRecord]) -> None:
    """Delete the files of jobs; their Runs stay until something deletes what nothing refers to.

    Raises:
        StoreError: if one of them is running.
    """
    jobs = list(jobs)
    running = [job for job in jobs if job.state == RUNNING]
    if running:
        raise StoreError(
            f"job {running[0].experiment} seed {running[0].seed} is running; wait for it, or stop it first"
        )
    for job in jobs:
        (store.root / FOLDER / f"{job.id}.json").unlink(missing_ok=True)


def _size(folders: Iterable[Path]) -> int:
    return sum(
        path.stat().st_size for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()
    )
