"""Many jobs by Hydra's multirun: one that fails does not stop the others, and the end says which did and why.

Launchers run jobs in processes of their own, so files are what they have in common: each job leaves one in
``outcomes/TOKEN`` of the sweep's folder, where the token is the sweep's and comes by the environment."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode

TOKEN = "BAM_LIGHTNING_SWEEP"


class Failures:
    """How many jobs of the last sweep of this process failed: its exit status."""

    count = 0


def _outcomes(sweep: Any) -> Path:
    return Path(sweep.dir) / "outcomes" / os.environ.get(TOKEN, "unknown")


def guarded(job: Callable[[Any], Any], deliberate: Callable[[BaseException], bool], message: Callable[..., str]) -> Any:
    """Return ``job`` for Hydra: in a sweep its error is written down and said, and not raised."""

    def run(tree: Any) -> Any:
        settings = HydraConfig.get()
        if settings.mode is not RunMode.MULTIRUN:
            return job(tree)
        folder, outcomes = Path(settings.runtime.output_dir), _outcomes(settings.sweep)
        for one in (folder, outcomes):
            one.mkdir(parents=True, exist_ok=True)
        name = ", ".join(settings.overrides.task) or "(no override)"
        path = outcomes / f"{settings.job.num}.json"
        outcome = {"job": settings.job.num, "overrides": name, "error": "its process ended before it did"}
        path.write_text(json.dumps(outcome))
        outcome["error"] = ""
        try:
            job(tree)
        except Exception as error:
            outcome["error"] = message(error) if deliberate(error) else f"{type(error).__name__}: {error}"
            print(f"job {settings.job.num} ({name}) failed: {outcome['error']}", file=sys.stderr)
            if not deliberate(error):
                (folder / "error.txt").write_text(traceback.format_exc())
        path.write_text(json.dumps(outcome))
        return None

    return run


class Summary(Callback):
    """Says at the end of a sweep how its jobs ended (``hydra.callbacks.summary``)."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Give the sweep its token: jobs of another sweep in the same folder do not count."""
        os.environ[TOKEN] = uuid4().hex[:8]

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Print the jobs that failed, with reason, and what to do."""
        found = [json.loads(path.read_text()) for path in _outcomes(config.hydra.sweep).glob("*.json")]
        failed = sorted((one for one in found if one["error"]), key=lambda one: int(one["job"]))
        Failures.count = len(failed)
        given = [set(one["overrides"].split(", ")) for one in found]
        common = set.intersection(*given) if len(given) > 1 else set()
        folder = Path(config.hydra.sweep.dir).resolve()
        print(f"sweep: {len(found)} jobs ended, {len(failed)} of them failed; {folder}", file=sys.stderr)
        for one in failed:
            own = [override for override in one["overrides"].split(", ") if override not in common]
            print(f"  job {one['job']} ({', '.join(own)}): {one['error']}", file=sys.stderr)
        if failed:
            print("  the same command does only what is missing", file=sys.stderr)
