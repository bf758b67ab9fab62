"""Train the students of ``best_teacher.yaml``: for each task, the better of the seed's Single and Multi teaches.

    python experiments/beyond/best_teacher.py --store store --seeds 0 1 2 3

The models of both experiments are in the store, from the command in README.md. A tie goes to Single."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bam_lightning.store.job_records import FINISHED, read_records
from bam_lightning.store.run_store import Store

HERE = Path(__file__).resolve().parent


def scores(store: Store, experiment: str, seed: int) -> dict[str, tuple[float, str]]:
    """Return task -> dev score and Run of a finished job of a seed."""
    jobs = [job for job in read_records(store) if (job.experiment, job.seed, job.state) == (experiment, seed, FINISHED)]
    if not jobs:
        sys.exit(f"{store.root}: no finished job of +experiment={experiment} with seed {seed}; train it first")
    found = {}
    for run in jobs[-1].last:
        for task, values in store.manifest(run)["metrics"].items():
            found[task] = (float(values[jobs[-1].metrics[task]]), run)
    return found


def main() -> None:
    """Train a student for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    options = parser.parse_args()
    store = Store(options.store)
    for seed in options.seeds:
        single, multi = scores(store, "single", seed), scores(store, "multi", seed)
        better = {task: max(single[task], multi[task], key=lambda one: one[0])[1] for task in single}
        command = [sys.executable, "-m", "bam_lightning.train", f"hydra.searchpath=[file://{HERE}]", "logger=none"]
        command += ["+experiment=best_teacher", f"seed={seed}", f"encoder.pretraining.seed={seed}"]
        command += ["distillation.teacher_margin=null"]
        command += [f"paths.store={options.store}", *(f"teachers.{task}={run}" for task, run in better.items())]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
