"""Sweeps by Hydra's multirun: a job that fails does not stop the others, and a summary names it with its reason."""

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
    """Number of failed jobs of this process's last sweep, which decides the exit status."""

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
        result = job_results.begin(path, number, name, str(folder))
        returned = None
        try:
            returned = job(tree)
            result.error, result.ended = "", True
        except Stopped as stop:
            result.error = str(stop)
            raise
        except Exception as error:
            result.ended = True
            result.error = message(error) if deliberate(error) else f"{type(error).__name__}: {error}"
            if not deliberate(error):
                traceback.print_exc()
                (folder / "error.txt").write_text(traceback.format_exc())
            print(f"job {number} ({name}) failed: {result.error}", file=sys.stderr)
        finally:
            job_results.write(path, result)
        return returned

    return run


class Summary(Callback):
    """Print how the jobs of a sweep ended (``hydra.callbacks.summary``)."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Set the id of the sweep, so that jobs of another sweep in the same folder do not count."""
        os.environ[SWEEP_ID_ENV] = uuid4().hex[:8]

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Print where jobs ran on a cluster, which jobs failed and why, and what to do."""
        paths = job_results.path(config.hydra.sweep.dir, 0).parent.glob("*.json")
        results = sorted(filter(None, map(job_results.read, paths)), key=lambda result: result.job)
        failed = [result for result in results if result.error]
        Failures.count = len(failed)
        folder = Path(config.hydra.sweep.dir).resolve()
        for result in results:
            if result.slurm:
                print(
                    f"  job {result.job} ({_own_overrides(result, results)}): {_place(result, folder)}", file=sys.stderr
                )
        print(f"sweep: {len(results)} jobs ended, {len(failed)} of them failed; {folder}", file=sys.stderr)
        for result in failed:
            print(f"  job {result.job} ({_own_overrides(result, results)}): {result.error}", file=sys.stderr)
        if failed:
            print("  the same command does only what is missing", file=sys.stderr)


def _own_overrides(result: JobResult, results: Sequence[JobResult]) -> str:
    """Return the overrides of a job that not all jobs of its sweep have."""
    overrides = [set(other.overrides.split(", ")) for other in results]
    common = set.intersection(*overrides) if len(overrides) > 1 else set()
    return ", ".join(override for override in result.overrides.split(", ") if override not in common)


def _place(result: JobResult, sweep: Path) -> str:
    """Return the nodes of a job, in the order of its starts, and its folder if that is another sweep's."""
    starts = len(result.nodes)
    restarts = f", {starts} starts" if starts > 1 else ""
    elsewhere = "" if Path(result.folder).resolve().is_relative_to(sweep) else f"; {result.folder}"
    return f"SLURM job {result.slurm} on {', then '.join(result.nodes) or 'no node'}{restarts}{elsewhere}"
