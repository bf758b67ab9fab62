"""A sweep on SLURM: submit what is neither finished nor in the queue, wait, and collect every job's outcome.

What was submitted is kept in the store, ``slurm/KEY.json``, under a hash of the job's overrides and folder, written
before SLURM is asked. So a submitting process may die at any moment: the next one finds its jobs."""

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
from bam_lightning.recipes.slurm.options import Options, checked, python
from bam_lightning.store import job_records
from bam_lightning.store.run_spec import DataSummary
from bam_lightning.store.run_store import Store, write_text

FOLDER = "slurm"
LAST_WORDS = 300  # characters of a dead job's log in its reason


@dataclass
class Ticket:
    """A submitted job: name of its array and index in it, its id once SLURM has said it, where outcome and logs lie."""

    name: str
    index: int
    outcome: str
    logs: str
    overrides: list[str]
    job: str = ""


@dataclass
class Ask:
    """A job of this sweep: its number, what it is, where its ticket and its outcome lie."""

    number: int
    overrides: list[str]
    config: Config
    store: Store
    outcome: Path
    ticket: Ticket | None = None
    missing: float | None = None
    """Since when it is in no queue, by the monotonic clock."""

    @property
    def path(self) -> Path:
        """Where the ticket lies: the same command called in the same folder asks for the same job."""
        text = json.dumps([os.getcwd(), self.overrides])
        return self.store.root / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def keep(self, ticket: Ticket) -> None:
        """Write the ticket down."""
        self.ticket = ticket
        self.path.parent.mkdir(exist_ok=True)
        write_text(self.path, json.dumps(asdict(ticket), indent=1))

    def take(self, outcome: JobResult) -> None:
        """Make an outcome this sweep's, and say it."""
        job_results.write(self.outcome, replace(outcome, job=self.number, ended=True))
        self.ticket = None
        _say(f"job {self.number} {'failed: ' + outcome.error if outcome.error else 'is finished'}")


def launch(
    options: Mapping[str, Any],
    context: HydraContext,
    function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs, whose numbers begin at ``first``, on SLURM; how each one ended is in its outcome.

    Raises:
        ConfigError: for a bad option.
        RuntimeError: if submitit or SLURM is missing, or SLURM refuses the jobs.
    """
    require_extra("hydra/launcher=slurm", ["submitit"], "slurm")
    scheduler.check_commands()
    settings = checked(options)
    asked = [_ask(number, list(words), context, config) for number, words in enumerate(job_overrides, first)]
    task = Task(context, function, config, os.environ.get(job_results.SWEEP_ID_ENV, "unknown"), settings.max_requeues)
    for root in dict.fromkeys(one.store.root for one in asked):
        here = [one for one in asked if one.store.root == root]
        with here[0].store.lock("slurm"):  # two submitting processes must not both find a job missing
            _find(here)
            submit(here, settings, task)
    try:
        wait(asked, settings)
    except KeyboardInterrupt:
        left = sorted({one.ticket.job.split("_")[0] for one in asked if one.ticket})
        _say(f"the jobs go on in SLURM, and the same command finds them; to end them: scancel {' '.join(left)}")
        raise
    done = [JobReturn(overrides=one.overrides, status=JobStatus.COMPLETED) for one in asked]
    for one in done:
        one.return_value = None
    return done


def _ask(number: int, overrides: list[str], context: HydraContext, config: DictConfig) -> Ask:
    tree = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(tree):
        del tree["hydra"]
    settings = to_config(tree)
    where = job_results.path(Path(config.hydra.sweep.dir).absolute(), number)
    return Ask(number, overrides, settings, Store(settings.paths.store), where)


def _find(asked: Sequence[Ask]) -> None:
    """Give each job the ticket of an earlier call if SLURM still has it; take the outcome of what is finished."""
    tickets = {one.path: ticket for one in asked if (ticket := _read(one.path)) is not None}
    queue = scheduler.queued({ticket.name for ticket in tickets.values()})
    if queue is None:
        raise TrainingError("squeue does not answer, so jobs of an earlier call cannot be found; try again")
    facts: dict[str, DataSummary] = {}
    for one in asked:
        ticket = tickets.get(one.path)
        if ticket is None:
            continue
        known = queue.get((ticket.name, ticket.index))
        outcome = job_results.read(Path(ticket.outcome))
        if known is not None:
            ticket.job = known.job
            one.keep(ticket)
            _say(f"job {one.number} is in SLURM already: {known.job}, {known.state}")
        elif outcome is not None and outcome.ended and not outcome.error and _finished(one, facts):
            one.take(outcome)


def _read(path: Path) -> Ticket | None:
    try:
        return Ticket(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is not the record of a submitted job ({error}); delete it") from error


def _finished(one: Ask, facts: dict[str, DataSummary]) -> bool:
    """Return whether all a job is asked for is in the store: its data may have changed since it was."""
    from bam_lightning.recipes.runner import load_data

    config = asdict(one.config)
    del config["seed"], config["teacher_seed"]  # jobs that differ in these alone have the same data
    key = json.dumps(config, default=str, sort_keys=True)
    if key not in facts:
        facts[key] = load_data(one.config)[2]
    record = job_records.make_record(one.config, plan_runs(one.config, facts[key]), facts[key], Path())
    return any(job.id == record.id and job.state == job_records.FINISHED for job in job_records.read_records(one.store))


def submit(asked: Sequence[Ask], settings: Options, task: Task) -> None:
    """Submit the jobs that have neither ticket nor outcome, as one array.

    Raises:
        TrainingError: with sbatch's words, if it refuses.
    """
    import submitit

    new = list({one.path: one for one in asked if one.ticket is None and not one.outcome.exists()}.values())
    if not new:
        return
    name, folder = f"{settings.name}-{uuid4().hex[:8]}", new[0].outcome.parents[2] / ".submitit"
    for index, one in enumerate(new):
        one.keep(Ticket(name, index, str(one.outcome), str(folder), one.overrides))
    executor = submitit.SlurmExecutor(folder / "%j", python=python())
    try:
        executor.update_parameters(**settings.parameters(name))
        words = [one.overrides for one in new], [one.number for one in new], [Singleton.get_state()] * len(new)
        submitted = executor.map_array(task, *words)
    except Exception as error:
        for one in new:
            one.path.unlink()
        raise TrainingError(f"sbatch refused the jobs: {' '.join(str(error).split())}; see hydra.launcher") from error
    for one, job in zip(new, submitted, strict=True):
        assert one.ticket is not None
        one.keep(replace(one.ticket, job=job.job_id))
    for one in asked:  # the same job asked for twice
        if one.ticket is None and not one.outcome.exists():
            one.ticket = _read(one.path)
    _say(f"submitted to SLURM: {len(new)} of {len(asked)} jobs, as {submitted[0].job_id.split('_')[0]}")


def wait(asked: Sequence[Ask], settings: Options) -> None:
    """Wait for every job that has a ticket: for its outcome, or for SLURM not having it any more."""
    held: set[str] = set()
    while waiting := [one for one in asked if one.ticket]:
        queue = scheduler.queued({one.ticket.name for one in waiting if one.ticket})
        for one in waiting:
            assert one.ticket is not None
            outcome = job_results.read(Path(one.ticket.outcome))
            known = None if queue is None else queue.get((one.ticket.name, one.ticket.index))
            if outcome is not None and outcome.ended:
                one.take(outcome)
            elif queue is None or known is not None:
                one.missing = None
                if known and known.job not in held and re.search("h[eo]ld", known.reason, re.IGNORECASE):
                    held.add(known.job)
                    _say(
                        f"SLURM holds job {known.job} ({known.reason}); it goes on after: scontrol release {known.job}"
                    )
            else:
                one.missing = one.missing or time.monotonic()
                if time.monotonic() - one.missing >= settings.patience_s:
                    one.take(_dead(one.ticket, outcome))
        if any(one.ticket for one in asked):
            time.sleep(settings.poll_s)


def _dead(ticket: Ticket, outcome: JobResult | None) -> JobResult:
    """Return the outcome of a job that ended without a word, with what SLURM and its log say of it."""
    outcome = outcome or JobResult(0, ", ".join(ticket.overrides), slurm=ticket.job)
    reason = f"SLURM job {ticket.job} ended without a result: {scheduler.end(ticket.job)}"
    logs = sorted((Path(ticket.logs) / ticket.job).glob("*_log.err"))
    last = " | ".join(filter(None, map(_last_words, logs)))[-LAST_WORDS:]
    return replace(outcome, error=f"{reason}; {logs[0] if logs else 'no log'}{': ' + last if last else ''}")


def _last_words(log: Path) -> str:
    """Return the last line of a log that speaks of an error, or else the last one: srun's farewells say nothing."""
    lines = log.read_text(errors="replace").strip().splitlines()[-50:]
    return next(
        (line for line in reversed(lines) if re.search("error|killed", line, re.IGNORECASE)), "".join(lines[-1:])
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
