"""Many jobs by Hydra's multirun: one that fails does not stop the others, and the end says which did and why.

Each job leaves ``outcome.json`` in its output folder; launchers run jobs in processes of their own, so files are
what they have in common."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode

OUTCOME = "outcome.json"


class Failures:
    """How many jobs of the last sweep of this process failed: its exit status."""

    count = 0


def guarded(job: Callable[[Any], Any], deliberate: Callable[[BaseException], bool], message: Callable[..., str]) -> Any:
    """Return ``job`` for Hydra: in a sweep its error is written down and said, and not raised."""

    def run(tree: Any) -> Any:
        settings = HydraConfig.get()
        if settings.mode is not RunMode.MULTIRUN:
            return job(tree)
        folder = Path(settings.runtime.output_dir)
        name = ", ".join(settings.overrides.task) or "(no override)"
        outcome = {"job": settings.job.num, "overrides": name, "error": ""}
        try:
            job(tree)
        except Exception as error:
            outcome["error"] = message(error) if deliberate(error) else f"{type(error).__name__}: {error}"
            print(f"job {settings.job.num} ({name}) failed: {outcome['error']}", file=sys.stderr)
            if not deliberate(error):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "error.txt").write_text(traceback.format_exc())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTCOME).write_text(json.dumps(outcome))
        return None

    return run


class Summary(Callback):
    """Says at the end of a sweep how its jobs ended (``hydra.callbacks.summary``)."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Remember what the sweep is to do: jobs of an earlier sweep in the same folder do not count."""
        folder = Path(config.hydra.sweep.dir)
        for path in folder.glob(f"*/{OUTCOME}"):
            path.unlink()

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Print the jobs that failed, with reason, and what to do."""
        folder = Path(config.hydra.sweep.dir)
        found = [json.loads(path.read_text()) for path in folder.glob(f"*/{OUTCOME}")]
        failed = sorted((one for one in found if one["error"]), key=lambda one: int(one["job"]))
        Failures.count = len(failed)
        given = [set(one["overrides"].split(", ")) for one in found]
        common = set.intersection(*given) if len(given) > 1 else set()
        print(f"sweep: {len(found)} jobs ended, {len(failed)} of them failed; {folder.resolve()}", file=sys.stderr)
        for one in failed:
            own = [override for override in one["overrides"].split(", ") if override not in common]
            print(f"  job {one['job']} ({', '.join(own)}): {one['error']}", file=sys.stderr)
        if failed:
            print("  the same command does only what is missing", file=sys.stderr)
