"""Results of the jobs of a sweep: one small file per job, which processes on all machines can read.

The files are in ``outcomes/SWEEP_ID`` of the sweep's folder; the environment has the sweep's id."""

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
    """How a job ended.

    Attributes:
        job: Its number in the sweep.
        error: Why it failed; empty if it did not.
        ended: False while it runs or may be restarted.
        slurm: Its SLURM job id; empty elsewhere.
        nodes: Its nodes, one entry per start on SLURM.
    """

    job: int
    overrides: str
    error: str = GONE
    ended: bool = False
    folder: str = ""
    slurm: str = ""
    nodes: list[str] = field(default_factory=list)


def path(sweep: str | Path, number: int) -> Path:
    """Return the path of a job's result, in the sweep that the environment names."""
    return Path(sweep) / "outcomes" / os.environ.get(SWEEP_ID_ENV, "unknown") / f"{number}.json"


def read(where: Path) -> JobResult | None:
    """Return a result, or None if there is none yet."""
    try:
        return JobResult(**json.loads(where.read_text()))
    except FileNotFoundError:
        return None


def write(where: Path, result: JobResult) -> None:
    """Write a result."""
    where.parent.mkdir(parents=True, exist_ok=True)
    write_text(where, json.dumps(asdict(result)))


def begin(where: Path, number: int, overrides: str, folder: str) -> JobResult:
    """Write that a job starts or restarts, and on which nodes."""
    before, place = read(where), scheduler.here()
    result = JobResult(number, overrides, folder=folder)
    if place is not None:
        result.slurm = place.job
        result.nodes = [*(before.nodes if before else []), place.nodes]
    write(where, result)
    return result
