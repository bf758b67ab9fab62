"""Add RTE to a student of CoLA, MRPC and STS-B, seed by seed, and append what came out to CSV files.

    python experiments/grow/sweep.py GLUE_DIR MINILM_DIR --seeds 5

For each seed: the old student (three tasks), a full student of all four from the base encoder, and the old student
grown by RTE. Then the old student is compared with the grown one, and with a full student of another seed. What stands
in the CSV files is not trained again; a stopped job resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
OLD, NEW = ("cola", "mrpc", "stsb"), "rte"
HEADLINE = {"cola": "matthews", "mrpc": "accuracy", "stsb": "spearman", "rte": "accuracy"}
SCORES = "model seed task metric score run steps train_seconds device threads precision commit".split()
CHANGES = "old new seed task rows difference low verdict fixed broken".split()
MARGIN = "distillation.teacher_margin=null"  # RTE's teacher may be no better than the commonest label
TASK = """defaults: [schema, /head: classification, _self_]
path: nyu-mll/glue
subset: rte
text: [sentence1, sentence2]
id_column: idx
head: {label_names: [entailment, not_entailment]}
train_rows: %d
"""


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a CSV file."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


class Sweep:
    """Trains and compares what the CSV files do not have."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.output, self.store = options, Path("outputs/grow"), "store"
        self.output.mkdir(parents=True, exist_ok=True)
        self.task = self.output / f"{NEW}.yaml"
        self.task.write_text(TASK % options.rows)
        self.commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def run(self, *command: str, may_fail: bool = False) -> None:
        """Run a command with one thread, behind ``--before``."""
        words = [*self.options.before.split(), sys.executable, "-m", *command]
        done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        if done.returncode and not may_fail:
            sys.exit(f"exit status {done.returncode}: {' '.join(words)}")

    def student(self, model: str, seed: int) -> str:
        """Return the id of a student, which is trained unless the CSV file has it."""
        table = HERE / "seeds.csv"
        for row in read(table):
            if (row["model"], row["seed"]) == (model, str(seed)):
                return row["run"]
        folder = self.output / f"{model}_{seed}"
        if model == "grown":
            old, options = self.student("old", seed), ["--store", self.store, "--output", str(folder)]
            words = ["bam_lightning.cli", "grow", old, "--task", str(self.task), *options, f"seed={seed}"]
            self.run(*words, "run.progress=false", MARGIN, may_fail=True)  # status 1: not shown to be not worse
        else:
            tasks = OLD if model == "old" else (*OLD, NEW)
            words = ["bam_lightning.train", "+experiment=single_multi", f"seed={seed}", "scale=small", "logger=none"]
            words += [f"data.root={self.options.data}", f"encoder.path={self.options.encoder}", "encoder.pooling=mean"]
            words += [f"data.max_length={self.options.max_length}", f"suite.include=[{','.join(tasks)}]"]
            words += [f"suite.tasks.{task}.train_rows={self.options.rows}" for task in tasks]
            self.run(*words, f"hydra.run.dir={folder}", "run.progress=false", "run.validations=0", MARGIN)
        results = json.loads((folder / "results.json").read_text())
        append(table, SCORES, self.rows(model, seed, results["runs"][-1]))
        return str(results["runs"][-1]["id"])

    def rows(self, model: str, seed: int, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a CSV row per task and metric of a student."""
        from bam_lightning.store.run_store import Store

        manifest = Store(self.store).manifest(entry["id"])
        about = {key: manifest[key] for key in ("steps", "threads", "precision", "device")}
        about |= {"train_seconds": round(manifest["train_seconds"]), "run": entry["id"], "commit": self.commit}
        return [
            {"model": model, "seed": seed, "task": task, "metric": metric, "score": f"{score:.6f}", **about}
            for task, scores in entry["metrics"].items()
            for metric, score in scores.items()
        ]

    def compare(self, seed: int, new: str, new_seed: int) -> None:
        """Compare the old student with another on its dev rows, unless the CSV file has it."""
        table = HERE / "changes.csv"
        key = {"old": f"old_{seed}", "new": f"{new}_{new_seed}", "seed": str(seed)}
        if any(key.items() <= row.items() for row in read(table)):
            return
        folder = self.output / f"{key['old']}_{key['new']}"
        words = ["compare", self.student("old", seed), self.student(new, new_seed), "--store", self.store]
        self.run("bam_lightning.cli", *words, "--margin", "0.5", "--output", str(folder), may_fail=True)
        found = json.loads((folder / "compare.json").read_text())["tasks"]
        append(table, CHANGES, [{**key, **{name: one[name] for name in CHANGES[3:]}} for one in found])


def show() -> None:
    """Print the medians of each task over seeds, and the rows that the new models get newly wrong."""
    from scipy.stats import bootstrap

    scores, changes = read(HERE / "seeds.csv"), read(HERE / "changes.csv")
    for task, metric in HEADLINE.items():
        values = {
            model: [100 * float(row["score"]) for row in scores if (row["model"], row["task"]) == (model, task)
                    and row["metric"] == metric]
            for model in ("old", "full", "grown")
        }  # fmt: skip
        cells = [
            f"{model} {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f}, n = {len(found)})"
            for model, found in values.items()
            if found
        ]
        pair = values["grown"], values["full"]
        found = bootstrap(pair, _difference, method="percentile", rng=0).confidence_interval
        print(
            f"{task} {metric}: {'; '.join(cells)}; grown - full {_difference(*pair):+.1f} "
            f"({found.low:+.1f} to {found.high:+.1f})"
        )
    for model in ("grown", "full"):
        for task in OLD:
            found = [int(row["broken"]) for row in changes if row["new"].startswith(model) and row["task"] == task]
            print(f"{model}, {task}: newly wrong {found}, median {statistics.median(found):g}")


def _difference(first: Any, second: Any, axis: int = -1) -> Any:
    return np.median(first, axis=axis) - np.median(second, axis=axis)


def main() -> None:
    """Train and compare seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with TASK/SPLIT.parquet")
    parser.add_argument("encoder", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="first training rows of each task")
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--before", default="", help="command in front of each job, such as nice")
    options = parser.parse_args()
    sweep = Sweep(options)
    for seed in range(options.seeds):
        for model in ("old", "full", "grown"):
            print(model, seed, sweep.student(model, seed), flush=True)
        sweep.compare(seed, "grown", seed)
        if seed:
            sweep.compare(seed, "full", seed - 1)
        if seed == 1:
            sweep.compare(0, "full", 1)
    show()


if __name__ == "__main__":
    main()
