"""Train students of teachers of which 30 % of the predictions are those of other rows, with and without trust.

    python experiments/trust/sweep.py --seeds 0 1 2 3 4 5

The demo scale's eight tasks; all students have the same teachers, and each seed its own corrupted rows. Methods: gold
alone (Multi), teachers as they are (Single->Multi) and corrupted, each plain and with
``distillation.trust_agreement=true``. What stands in seeds.csv is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
METHODS = ("multi", "clean", "clean_trust", "corrupted", "corrupted_trust")
FIELDS = "algorithm method seed task score run steps train_seconds device threads commit".split()
SHARE = 0.3


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(folder: Path, *words: str) -> dict[str, Any]:
    """Run a job with one thread; return its results."""
    command = [sys.executable, "-m", "bam_lightning.train", *words, f"hydra.run.dir={folder}", "logger=none"]
    command += ["run.progress=false", "run.validations=0"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def corrupted_files(folder: Path, teachers: dict[str, str], seed: int) -> list[str]:
    """Write each teacher's logits with 30 % of the rows exchanged among themselves; return the words that read them."""
    import pyarrow as pa
    from pyarrow import parquet

    from bam_lightning.config.compose import compose
    from bam_lightning.data.examples import load_examples
    from bam_lightning.data.task import task_from_config
    from bam_lightning.store.run_store import Store

    config, words = compose(["+experiment=multi"]), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, run) in enumerate(sorted(teachers.items())):
        settings = config.suite.tasks[name]
        rows = load_examples(name, task_from_config(name, settings, config.data)).train
        known = Store("store").read_predictions(run, name, "train")
        logits = np.stack([known[key] for key in rows.keys])
        rng = np.random.default_rng([seed, number])
        chosen = rng.permutation(len(logits))[: round(SHARE * len(logits))]
        logits[chosen] = logits[np.roll(chosen, 1)]
        table = {column: list(map(str, texts)) for column, texts in zip(settings.text, rows.texts, strict=True)}
        labels = list(settings.head.label_names) or ["score"]
        table |= {f"logits_{label}": logits[:, place].tolist() for place, label in enumerate(labels)}
        parquet.write_table(pa.table(table), folder / f"{name}.parquet")
        column = "logits_*" if settings.head.label_names else "logits_score"
        options = f"path: {folder.resolve()}/{name}.parquet, logits: {column}, check_agreement: false"
        words.append(f"teachers.{name}={{{options}}}")
    return words


def student(method: str, seed: int, teachers: dict[str, str], output: Path) -> dict[str, Any]:
    """Train a student; return its entry of the results."""
    words = [f"seed={seed}", f"distillation.trust_agreement={str(method.endswith('_trust')).lower()}"]
    if method.startswith("corrupted"):
        words += ["recipe=multi", *corrupted_files(output / f"teachers_{seed}", teachers, seed)]
    else:
        words.append(f"+experiment={'multi' if method == 'multi' else 'single_multi'}")
    found: dict[str, Any] = train(output / f"{method}_{seed}", *words)["runs"][-1]
    return found


def show() -> None:
    """Print the median of the average over tasks and its change from the plain students of clean teachers."""
    from bam_lightning.metrics.significance import median_interval, sign_flip_test

    rows = read(HERE / "seeds.csv")
    scores = {
        method: {row["seed"]: 100 * float(row["score"]) for row in rows if (row["method"], row["task"]) == (method, "")}
        for method in METHODS
    }
    for method, found in scores.items():
        line = f"{method}: n = {len(found)}, median {np.median(list(found.values())):.1f}"
        if len(found) >= 6:
            low, high = median_interval(list(found.values()))
            line += f" ({low:.1f} to {high:.1f})"
        for base in ("clean", "corrupted"):
            seeds = sorted(set(found) & set(scores[base]))
            if method != base and seeds:
                gains = [found[seed] - scores[base][seed] for seed in seeds]
                p_value = sign_flip_test([found[seed] for seed in seeds], [scores[base][seed] for seed in seeds])
                line += f"; against {base} {np.median(gains):+.1f}, p = {p_value:.2g}"
        print(line)


def main() -> None:
    """Train what is missing, and print the table."""
    from bam_lightning.config.compose import compose
    from bam_lightning.store.run_spec import ALGORITHM
    from bam_lightning.store.run_store import Store

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--results", type=Path, default=HERE / "seeds.csv")
    options = parser.parse_args()
    output = Path("outputs/trust")
    output.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    done = {(row["method"], row["seed"]) for row in read(options.results)}
    tasks = compose([]).suite.tasks
    first = train(output / "single", "+experiment=single_multi", "seed=0")
    teachers = {run["tasks"][0]: run["id"] for run in first["runs"] if run["stage"] == "single"}
    for seed in options.seeds:
        for method in METHODS:
            if (method, str(seed)) in done:
                continue
            entry = student(method, seed, teachers, output)
            about = Store("store").manifest(entry["id"])
            shared = {
                **{"algorithm": ALGORITHM, "method": method, "seed": seed, "run": entry["id"]},
                **{name: about[name] for name in ("steps", "device", "threads")},
                **{"train_seconds": round(about["train_seconds"]), "commit": commit.strip()},
            }
            headline = {task: scores[tasks[task].metric] for task, scores in entry["metrics"].items()}
            new = not options.results.exists()
            with options.results.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                average = float(np.mean(list(headline.values())))
                for task, score in {**headline, "": average}.items():
                    writer.writerow({**shared, "task": task, "score": f"{score:.6f}"})
            print(method, seed, f"{100 * average:.1f}", flush=True)
    show()


if __name__ == "__main__":
    main()
