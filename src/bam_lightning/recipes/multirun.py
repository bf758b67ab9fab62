"""Many jobs by Hydra's multirun: one that fails does not stop the others, and the end says which did and why."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from bam_lightning.config.signals import Stopped
from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import SWEEP_ID_ENV, JobResult
from bam_lightning.recipes.slurm import scheduler


class Failures:
    """How many jobs of the last sweep of this process failed: its exit status."""

    count = 0


def guarded(job: Callable[[Any], Any], deliberate: Callable[[BaseException], bool], message: Callable[..., str]) -> Any:
    """Return ``job`` for Hydra: in a sweep its error is written down and said, and not raised.

    Of several processes of one SLURM job the first one writes.
    """

    def run(tree: Any) -> Any:
        settings = HydraConfig.get()
        if settings.mode is not RunMode.MULTIRUN or scheduler.rank():
            return job(tree)
        number, folder = settings.job.num, Path(settings.runtime.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = ", ".join(settings.overrides.task) or "(no override)"
        path = job_results.path(settings.sweep.dir, number)
        outcome = job_results.begin(path, number, name, str(folder))
        result = None
        try:
            result = job(tree)
            outcome.error, outcome.ended = "", True
        except Stopped as stop:
            outcome.error = str(stop)
            raise
        except Exception as error:
            outcome.ended = True
            outcome.error = message(error) if deliberate(error) else f"{type(error).__name__}: {error}"
            if not deliberate(error):
                traceback.print_exc()
                (folder / "error.txt").write_text(traceback.format_exc())
            print(f"job {number} ({name}) failed: {outcome.error}", file=sys.stderr)
        finally:
            job_results.write(path, outcome)
        return result

    return run


class Summary(Callback):
    """Says at the end of a sweep how its jobs ended (``hydra.callbacks.summary``)."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Give the sweep its token: jobs of another sweep in the same folder do not count."""
        os.environ[SWEEP_ID_ENV] = uuid4().hex[:8]

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Print what ran where on a cluster, the jobs that failed, with reason, and what to do."""
        paths = job_results.path(config.hydra.sweep.dir, 0).parent.glob("*.json")
        found = sorted(filter(None, map(job_results.read, paths)), key=lambda one: one.job)
        failed = [one for one in found if one.error]
        Failures.count = len(failed)
        folder = Path(config.hydra.sweep.dir).resolve()
        for one in found:
            if one.slurm:
                print(f"  job {one.job} ({_own(one, found)}): {_place(one, folder)}", file=sys.stderr)
        print(f"sweep: {len(found)} jobs ended, {len(failed)} of them failed; {folder}", file=sys.stderr)
        for one in failed:
            print(f"  job {one.job} ({_own(one, found)}): {one.error}", file=sys.stderr)
        if failed:
            print("  the same command does only what is missing", file=sys.stderr)


def _own(one: JobResult, found: Sequence[JobResult]) -> str:
    """Return the overrides of a job that not all jobs of its sweep have."""
    given = [set(other.overrides.split(", ")) for other in found]
    common = set.intersection(*given) if len(given) > 1 else set()
    return ", ".join(override for override in one.overrides.split(", ") if override not in common)


def _place(one: JobResult, sweep: Path) -> str:
    """Return where a job was, in the order of its starts, and its folder if that is another sweep's."""
    starts = len(one.nodes)
    again = f", {starts} starts" if starts > 1 else ""
    elsewhere = "" if Path(one.folder).resolve().is_relative_to(sweep) else f"; {one.folder}"
    return f"SLURM job {one.slurm} on {', then '.join(one.nodes) or 'no node'}{again}{elsewhere}"
