"""How a job of a sweep ended: one small file each, which is all that jobs on several machines have in common.

It lies in ``outcomes/TOKEN`` of the sweep's folder; the token is the sweep's and comes by the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bam_lightning.recipes.slurm import scheduler
from bam_lightning.store.atomic_io import write_text

SWEEP_ID_ENV = "BAM_LIGHTNING_SWEEP"
GONE = "its process ended before it did"


@dataclass
class JobResult:
    """One job. ``ended`` is ``False`` while it runs or may still be started again; ``error`` is empty if it went well.

    ``job`` is its number in the sweep, ``nodes`` where it was, one entry for each start on SLURM.
    """

    job: int
    overrides: str
    error: str = GONE
    ended: bool = False
    folder: str = ""
    slurm: str = ""
    nodes: list[str] = field(default_factory=list)


def path(sweep: str | Path, number: int) -> Path:
    """Return where the outcome of a job lies, in the sweep that the environment names."""
    return Path(sweep) / "outcomes" / os.environ.get(SWEEP_ID_ENV, "unknown") / f"{number}.json"


def read(where: Path) -> JobResult | None:
    """Return an outcome, or ``None`` if it is not there."""
    try:
        return JobResult(**json.loads(where.read_text()))
    except FileNotFoundError:
        return None


def write(where: Path, outcome: JobResult) -> None:
    """Write an outcome."""
    where.parent.mkdir(parents=True, exist_ok=True)
    write_text(where, json.dumps(asdict(outcome)))


def begin(where: Path, number: int, overrides: str, folder: str) -> JobResult:
    """Write down that a job begins, or begins again, and where."""
    before, place = read(where), scheduler.here()
    outcome = JobResult(number, overrides, folder=folder)
    if place is not None:
        outcome.slurm = place.job
        outcome.nodes = [*(before.nodes if before else []), place.nodes]
    write(where, outcome)
    return outcome
