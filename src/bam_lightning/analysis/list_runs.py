"""List the Runs of a store, and delete those that are unused or damaged: ``bam runs``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from bam_lightning.analysis.terminal import show
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice
from bam_lightning.store.atomic_io import delete_abandoned
from bam_lightning.store.cleanup import (
    DAMAGED,
    FINISHED,
    STATES,
    RunEntry,
    delete,
    delete_damaged,
    delete_records,
    entries,
    unused,
    verify,
)
from bam_lightning.store.job_records import JobRecord, damaged_records, read_records
from bam_lightning.store.run_store import Store

HEAD = ["Run", "experiments", "stage", "tasks", "seed", "state", "score", "age", "size"]


@dataclass(kw_only=True)
class RunsOptions:
    """Options of ``bam runs``; see its ``--help``."""

    store: str = "store"
    experiment: str | None = None
    task: str | None = None
    state: str | None = None
    delete: str | None = None
    check: bool = False
    forget: str | None = None
    yes: bool = False


def job(options: RunsOptions) -> int:
    """List Runs, or delete Runs or records; return the exit status."""
    store = Store(options.store, create=False)
    jobs = read_records(store)
    runs = entries(store, jobs)
    if options.experiment is not None:
        check_choice("experiment", options.experiment, sorted({name for entry in runs for name in entry.users}))
    if options.task is not None:
        check_choice("task", options.task, sorted({name for entry in runs for name in entry.tasks}))
    if options.state is not None:
        check_choice("state", options.state, STATES)
    if options.delete is not None and options.forget is not None:
        raise ConfigError("give either --delete or --forget, one after the other")
    if options.delete is not None:
        check_choice("delete", options.delete, ["unused", DAMAGED])
        return _delete(store, options)
    if options.forget is not None:
        return _forget(store, options, jobs)
    if options.check:
        runs = _verify(store, runs)
    chosen = [entry for entry in runs if _matches(entry, options)]
    title = f"{len(chosen)} of {len(runs)} Runs in {store.root}, {_bytes(sum(entry.size for entry in chosen))}"
    if runs:
        show(title, HEAD, [_line(entry) for entry in chosen])
    else:
        print(f"no Run in {store.root} yet; `bam train` trains them")
    damaged = damaged_records(store)
    for message in damaged.values():
        print(message, file=sys.stderr)
    _print_unfinished(job for job in jobs if options.experiment in (None, job.experiment))
    return 1 if options.check and (damaged or any(entry.state == DAMAGED for entry in chosen)) else 0


def _forget(store: Store, options: RunsOptions, jobs: Sequence[JobRecord]) -> int:
    check_choice("forget", options.forget or "", sorted({job.experiment for job in jobs}))
    chosen = [job for job in jobs if job.experiment == options.forget]
    if not _confirm(f"forget {len(chosen)} jobs of {options.forget}?", options.yes):
        return 1
    delete_records(store, chosen)
    print(f"forgot {len(chosen)} jobs; --delete unused deletes the Runs that only they needed")
    return 0


def _verify(store: Store, runs: Sequence[RunEntry]) -> list[RunEntry]:
    """Return the entries, the damaged ones marked as such; print what is wrong with each."""
    verified = []
    console = Console(file=sys.stderr)
    for entry in track(runs, "reading all files", console=console, transient=True, disable=not console.is_terminal):
        reason = verify(store, entry.id) if entry.state in (FINISHED, DAMAGED) else None
        if reason:
            print(reason, file=sys.stderr)
        verified.append(replace(entry, state=DAMAGED) if reason else entry)
    return verified


def _matches(entry: RunEntry, options: RunsOptions) -> bool:
    return (
        (options.experiment is None or options.experiment in entry.users)
        and (options.task is None or options.task in entry.tasks)
        and (options.state is None or options.state == entry.state)
    )


def _line(entry: RunEntry) -> list[str]:
    tasks = ", ".join(entry.tasks) if len(entry.tasks) < 3 else f"{entry.tasks[0]} and {len(entry.tasks) - 1} more"
    users = ", ".join(entry.users) if len(entry.users) < 3 else f"{entry.users[0]} and {len(entry.users) - 1} more"
    seed = "" if entry.seed is None else str(entry.seed)
    score = "" if entry.score is None else "NaN" if math.isnan(entry.score) else f"{entry.score:.1f}"
    return [
        entry.id,
        users or "(unused)",
        entry.stage,
        tasks,
        seed,
        entry.state,
        score,
        _age(entry.age),
        _bytes(entry.size),
    ]


def _print_unfinished(jobs: Iterable[JobRecord]) -> None:
    for job in jobs:
        if job.state != "finished":
            print(f"job {job.experiment} seed {job.seed}: {job.state}{f' ({job.reason})' if job.reason else ''}")


def _runs_to_delete(store: Store, options: RunsOptions) -> list[RunEntry]:
    runs = entries(store, read_records(store))
    if options.delete == DAMAGED:
        chosen = [entry for entry in _verify(store, runs) if entry.state == DAMAGED]
    else:
        chosen = unused(runs, store)
    return [entry for entry in chosen if _matches(entry, options)]


def _delete(store: Store, options: RunsOptions) -> int:
    """Delete unused or damaged Runs, damaged records and abandoned temporary files."""
    abandoned = delete_abandoned(store.root)
    if abandoned:
        print(f"deleted {abandoned} temporary files that killed processes had left")
    runs = _runs_to_delete(store, options)
    records = damaged_records(store) if options.delete == DAMAGED else {}
    for message in records.values():
        print(message, file=sys.stderr)
    if not runs and not records:
        nothing = "every Run is needed by a job" if options.delete == "unused" else "no Run is damaged"
        print(f"nothing to delete: {nothing}")
        return 0
    if runs:
        title = "Runs that nothing refers to" if options.delete == "unused" else "Damaged Runs"
        show(title, HEAD, [_line(entry) for entry in runs])
    if options.delete == "unused" and not read_records(store):
        print("note: this store has no record of a job, so nothing says which Runs are still needed")
    files = f" and {len(records)} damaged records" if records else ""
    size = _bytes(sum(entry.size for entry in runs))
    if not _confirm(f"delete these {len(runs)} Runs, {size}{files}?", options.yes):
        return 1
    delete_damaged(records)
    still = {entry.id for entry in _runs_to_delete(store, options)}  # a job may have asked for one meanwhile
    deleted = [entry for entry in runs if entry.id in still and delete(store, entry.id)]
    needed = len(runs) - len(deleted)
    print(f"deleted {len(deleted)} Runs{files}{f'; {needed} are needed or in training again' if needed else ''}")
    return 0


def _confirm(question: str, yes: bool) -> bool:
    if yes:
        return True
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        print("nothing was changed")
        return False
    return True


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
