"""List the Runs of a store, and delete what nothing refers to: ``bam runs``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from bam_lightning.analysis.terminal import show
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.options import StoreOptions, command, option
from bam_lightning.config.validation import check_choice
from bam_lightning.store.cleanup import DAMAGED, FINISHED, STATES, RunEntry, damage, delete, entries, forget, unused
from bam_lightning.store.job_records import JobRecord, read_records
from bam_lightning.store.run_store import Store

USAGE = """
List the Runs of a store, the newest first, and its jobs that are not finished.

  bam runs store=DIR
  bam runs experiment=single_multi task=rte
  bam runs delete=unused               Runs that no job refers to, after asking
  bam runs forget=EXPERIMENT           its jobs; their Runs are then unused
  bam runs check=true                  read every byte; names the Runs that are damaged
  bam runs delete=damaged              the same, and deletes them: the next job trains them anew
"""
HEAD = ["Run", "experiments", "stage", "tasks", "seed", "state", "score", "age", "size"]


@dataclass
class RunsOptions(StoreOptions):
    """Options of the command."""

    experiment: str | None = option(None, "only Runs that this experiment's jobs need")
    task: str | None = option(None, "only Runs of this task")
    state: str | None = option(None, "only Runs that are finished, stopped, damaged, or 'in training'")
    delete: str | None = option(None, "unused: delete the Runs that nothing refers to; damaged: those that are damaged")
    check: bool = option(False, "compare all files with what was written")
    forget: str | None = option(None, "an experiment whose jobs are to be forgotten")
    yes: bool = option(False, "delete without asking")


def job(options: RunsOptions) -> int:
    """List, delete or forget; return the exit status."""
    store = Store(options.store, create=False)
    jobs = read_records(store)
    found = entries(store, jobs)
    if options.experiment is not None:
        check_choice("experiment", options.experiment, sorted({name for entry in found for name in entry.users}))
    if options.task is not None:
        check_choice("task", options.task, sorted({name for entry in found for name in entry.tasks}))
    if options.state is not None:
        check_choice("state", options.state, STATES)
    if options.delete is not None and options.forget is not None:
        raise ConfigError("give either delete=... or forget=EXPERIMENT, one after the other")
    if options.delete is not None:
        check_choice("delete", options.delete, ["unused", DAMAGED])
        return _delete(store, options)
    if options.forget is not None:
        check_choice("forget", options.forget, sorted({one.experiment for one in jobs}))
        mine = [one for one in jobs if one.experiment == options.forget]
        if not _sure(f"forget {len(mine)} jobs of {options.forget}?", options.yes):
            return 1
        forget(store, mine)
        print(f"forgot {len(mine)} jobs; delete=unused deletes the Runs that only they needed")
        return 0
    if options.check:
        found = _checked(store, found)
    chosen = [entry for entry in found if _fits(entry, options)]
    title = f"{len(chosen)} of {len(found)} Runs in {store.root}, {_bytes(sum(entry.size for entry in chosen))}"
    show(title, HEAD, [_line(entry) for entry in chosen])
    _unfinished(jobs)
    return 1 if options.check and any(entry.state == DAMAGED for entry in chosen) else 0


def _checked(store: Store, found: Sequence[RunEntry]) -> list[RunEntry]:
    """Return the entries, those that are damaged marked so; print what is wrong with each."""
    checked = []
    bar = Console(file=sys.stderr)
    for entry in track(found, "reading all files", console=bar, transient=True, disable=not bar.is_terminal):
        reason = damage(store, entry.id) if entry.state == FINISHED else None
        if reason:
            print(reason, file=sys.stderr)
        checked.append(replace(entry, state=DAMAGED) if reason else entry)
    return checked


def _fits(entry: RunEntry, options: RunsOptions) -> bool:
    return (
        (options.experiment is None or options.experiment in entry.users)
        and (options.task is None or options.task in entry.tasks)
        and (options.state is None or options.state == entry.state)
    )


def _line(entry: RunEntry) -> list[str]:
    tasks = ", ".join(entry.tasks) if len(entry.tasks) < 3 else f"{entry.tasks[0]} and {len(entry.tasks) - 1} more"
    users = ", ".join(entry.users) if len(entry.users) < 3 else f"{entry.users[0]} and {len(entry.users) - 1} more"
    seed = "" if entry.seed is None else str(entry.seed)
    score = "" if entry.score is None else f"{entry.score:.1f}"
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


def _unfinished(jobs: Sequence[JobRecord]) -> None:
    for one in jobs:
        if one.state != "finished":
            print(f"job {one.experiment} seed {one.seed}: {one.state}{f' ({one.reason})' if one.reason else ''}")


def _doomed(store: Store, options: RunsOptions) -> list[RunEntry]:
    found = entries(store, read_records(store))
    if options.delete == DAMAGED:
        chosen = [entry for entry in _checked(store, found) if entry.state == DAMAGED]
    else:
        chosen = unused(found, store)
    return [entry for entry in chosen if _fits(entry, options)]


def _delete(store: Store, options: RunsOptions) -> int:
    doomed = _doomed(store, options)
    if not doomed:
        nothing = "every Run is needed by a job" if options.delete == "unused" else "no Run is damaged"
        print(f"nothing to delete: {nothing}")
        return 0
    title = "Runs that nothing refers to" if options.delete == "unused" else "Damaged Runs"
    show(title, HEAD, [_line(entry) for entry in doomed])
    if options.delete == "unused" and not read_records(store):
        print("note: no job of this store left a file, so nothing tells which Runs are still wanted")
    if not _sure(f"delete these {len(doomed)} Runs, {_bytes(sum(entry.size for entry in doomed))}?", options.yes):
        return 1
    still = {entry.id for entry in _doomed(store, options)}  # somebody may have asked for one meanwhile
    gone = [entry for entry in doomed if entry.id in still and delete(store, entry.id)]
    kept = len(doomed) - len(gone)
    print(f"deleted {len(gone)} Runs{f'; {kept} are wanted or in training again' if kept else ''}")
    return 0


def _sure(question: str, yes: bool) -> bool:
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


def main() -> None:
    """Entry point."""
    command(RunsOptions, USAGE, job)


if __name__ == "__main__":
    main()
