"""Merge the encoders of single-task models instead of training a student, and score each head on the merged encoder.

    python experiments/real_text/merge.py STORE SEED [--base ENCODER] [--results merged.csv]

The merged encoder is base + scale * sum over tasks of (task's encoder - base): task arithmetic (Ilharco et al. 2023); a
scale of 1 / number of tasks is the plain average. The base is the encoder that all of them were trained from: a folder
or hub id, or (without --base) the Run of the store that they start from. Heads stay as they are. Rows are the dev rows
of the job ``+experiment=single``; a scale that is chosen by its scores there is too good."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import bam_lightning as bam
from bam_lightning.inference.evaluate import score_logits
from bam_lightning.models.encoder import from_path
from bam_lightning.recipes.evaluation import EvaluateOptions, labelled_rows
from bam_lightning.store.job_records import FINISHED, read_records
from bam_lightning.store.run_store import Store

FIELDS = ("seed", "scale", "task", "metric", "score")


def main() -> None:
    """Merge the models of a seed at several scales, and append the scores to a CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("seed", type=int)
    parser.add_argument("--base", help="the pretrained encoder")
    parser.add_argument("--scales", type=float, nargs="*", help="default: the plain average, 0.3, 0.5, 0.7 and 1")
    parser.add_argument("--results", type=Path, default=Path("merged.csv"))
    options = parser.parse_args()
    store = Store(options.store)
    jobs = [
        job
        for job in read_records(store)
        if (job.experiment, job.seed, job.state) == ("single", options.seed, FINISHED)
    ]
    if not jobs:
        sys.exit(f"{store.root}: no finished job of +experiment=single with seed {options.seed}; train it first")
    runs = {store.manifest(run)["tasks"][0]: run for run in jobs[-1].last}
    models = {task: bam.load(run, options.store) for task, run in runs.items()}
    start = store.manifest(next(iter(runs.values())))["spec"]["init_from"]
    if options.base is None and start is None:
        sys.exit("the models start from a pretrained encoder that is not in the store; name it with --base")
    base = from_path(options.base, None) if options.base else bam.load(start, options.store).encoder
    states = {task: model.encoder.state_dict() for task, model in models.items()}
    before = {name: value for name, value in base.state_dict().items() if name in next(iter(states.values()))}
    changes = {name: sum(state[name] - value for state in states.values()) for name, value in before.items()}
    rows = []
    for scale in options.scales or [1 / len(models), 0.3, 0.5, 0.7, 1.0]:
        for task, model in models.items():
            model.encoder.load_state_dict({name: before[name] + scale * changes[name] for name in before})
            labelled = labelled_rows(
                model.info, model.tasks[task], EvaluateOptions(run=runs[task], store=options.store)
            )
            found = score_logits(model, labelled, model.logits(labelled.rows, [task])[task])
            rows += [(options.seed, f"{scale:.4g}", task, metric, f"{value:.6f}") for metric, value in found.items()]
            print(*rows[-len(found)], flush=True)
    new = not options.results.exists()
    with options.results.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([FIELDS, *rows] if new else rows)


if __name__ == "__main__":
    main()
