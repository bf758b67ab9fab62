"""Sides that are whole jobs of the command line: a recipe, a sweep, and how soon the first step is taken."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXPERIMENT = "+experiment=single_multi"


def recipe(cache: Path) -> dict[str, float]:
    """Run the demo scale from nothing; ``overhead``: what is not spent in training steps, over what is."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = _job(folder, EXPERIMENT)
        manifests = [json.loads(path.read_text()) for path in Path(folder).glob("store/runs/*/run.json")]
    steps = sum(one["train_seconds"] for one in manifests)
    return _found(seconds, runs=len(manifests), training=steps, overhead=seconds / steps - 1)


def sweep(cache: Path, seeds: str) -> dict[str, float]:
    """Run the demo scale with so many seeds as one sweep in one store."""
    with tempfile.TemporaryDirectory() as folder:
        return _found(_job(folder, "-m", EXPERIMENT, f"seed=range({seeds})"))


def pipelines(cache: Path, seeds: str) -> dict[str, float]:
    """Run the same seeds one after the other, each with a store of its own, as somebody does without this library."""
    seconds = 0.0
    for seed in range(int(seeds)):
        with tempfile.TemporaryDirectory() as folder:
            seconds += _job(folder, EXPERIMENT, f"seed={seed}")
    return _found(seconds)


def first_step(cache: Path) -> dict[str, float]:
    """Return the seconds from a process's start to the first step of the default's Multi; its encoder is there."""
    folder = cache / "first_step"
    _job(str(folder), "+experiment=multi")
    return _until_first_step("+experiment=multi", "seed=1", "logger=none", *_places(str(folder)))


def full_glue(cache: Path) -> dict[str, float]:
    """Return the same of rows as many as GLUE has, their tokens cached."""
    import full_size

    folder = cache / "full_glue"
    full_size.make(folder)
    words = ["+experiment=multi", "scale=small", "logger=none", *_places(str(folder))]
    words += [f"data.root={folder}/data", f"encoder.path={folder}/encoder"]
    if not (folder / "cached").exists():
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        (folder / "cached").touch()
    return _until_first_step(*words)


def _job(folder: str, *words: str) -> float:
    """Run a job and return its seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "bam_lightning.train", *words, "logger=none", *_places(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def _places(folder: str) -> list[str]:
    return [f"paths.store={folder}/store", f"hydra.run.dir={folder}/out", f"hydra.sweep.dir={folder}/sweep"]


def _found(seconds: float, **more: float) -> dict[str, float]:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": seconds, "peak_mib": round(peak / 1024), **more}


def _until_first_step(*words: str) -> dict[str, float]:
    """Run a job in a new process that ends itself after its first step; its time from the start of the process."""
    begun = {"BENCH_BEGUN": repr(time.time())}
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **begun})
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _main() -> None:
    """Take the words of a job, and end it when its first step is done."""
    from bam_lightning import train
    from bam_lightning.training.module import BamModule

    def end(self: BamModule, *_: Any) -> None:
        print("\n" + json.dumps(_found(time.time() - float(os.environ.get("BENCH_BEGUN", "nan")))), flush=True)
        os._exit(0)

    BamModule.on_train_batch_end = end  # type: ignore[method-assign]
    train.main()


if __name__ == "__main__":
    _main()
