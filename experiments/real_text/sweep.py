"""Train the real-text table seed by seed, and append each finished job's scores to a CSV.

    python experiments/real_text/sweep.py GLUE_DIR MINILM_DIR --seeds 20 --workers 2
    python experiments/real_text/sweep.py GLUE_DIR MINILM_DIR --seeds 1 --methods multi_rate_3e4 multi_linear

A job is one method, any ``+experiment``, with one seed; its teachers have the same seed. Jobs are taken seeds
outermost. A job whose (algorithm, settings, method, seed) stands in the CSV is not trained again, even if the store is
lost; one that was stopped resumes from its last checkpoint. Several machines or processes can share the folder of
results: a lock file reserves a job. Dev logits are kept beside the CSV, since paired tests over rows need them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

HERE = Path(__file__).resolve().parent
METHODS = ("single", "multi", "single_multi")
TASKS = ("cola", "mrpc", "rte", "stsb", "sst2")
FIELDS = (
    "algorithm settings method seed task metric score run steps train_seconds device threads precision commit finished"
).split()


def settings(data: str, encoder: str) -> list[str]:
    """Return the words that all jobs share: whole CoLA, MRPC, RTE and STS-B, and 10,000 rows of SST-2."""
    return [
        "scale=small",
        f"data.root={data}",
        f"encoder.path={encoder}",
        "encoder.pooling=mean",  # what this checkpoint was trained with
        f"suite.include=[{','.join(TASKS)}]",
        "suite.tasks.sst2.train_rows=10000",
        "logger=none",
    ]


def settings_key(words: list[str]) -> str:
    """Return a hash of the settings without the folders, which differ between machines."""
    kept = [word for word in words if not word.startswith(("data.root=", "encoder.path="))]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]


def finished(path: Path) -> set[tuple[str, str, str, str]]:
    """Return (algorithm, settings, method, seed) of the jobs in the CSV."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(row["algorithm"], row["settings"], row["method"], row["seed"]) for row in csv.DictReader(file)}


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to the CSV in one write."""
    with FileLock(str(path) + ".lock"):
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerows(rows)


def train(method: str, seed: int, words: list[str], output: Path) -> dict[str, Any]:
    """Train one job with one thread and return its results."""
    folder = output / f"{method}_{seed}"
    command = [sys.executable, "-m", "bam_lightning.train", f"+experiment={method}", f"seed={seed}"]
    command += [f"hydra.searchpath=[file://{HERE}]", f"teacher_seed={seed}", *words]
    command += [f"hydra.run.dir={folder}", "run.progress=false", "run.validations=0"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def rows_of(results: dict[str, Any], key: dict[str, Any], store: Any, commit: str) -> list[dict[str, Any]]:
    """Return a CSV row per task and metric of the last stage."""
    rows = []
    for entry in last_stage(results):
        manifest = store.manifest(entry["id"])
        record = {
            "run": entry["id"],
            "steps": manifest["steps"],
            "train_seconds": round(manifest["train_seconds"]),
            "device": f"{manifest['device_kind']}: {manifest['device']}",
            "threads": manifest["threads"],
            "precision": manifest["precision"],
            "commit": commit,
            "finished": manifest["finished"],
        }
        for task, scores in entry["metrics"].items():
            rows += [
                {**key, "task": task, "metric": metric, "score": f"{score:.6f}", **record}
                for metric, score in scores.items()
            ]
    return rows


def last_stage(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of the stage whose scores count."""
    return [entry for entry in results["runs"] if entry["stage"] == results["runs"][-1]["stage"]]


def save_logits(path: Path, results: dict[str, Any], store: Any) -> None:
    """Keep the dev logits of the last stage as float16, in the order of their row keys."""
    columns = {}
    for entry in last_stage(results):
        for task in entry["tasks"]:
            rows = store.read_predictions(entry["id"], task, "dev")
            columns[task] = np.stack([rows[key] for key in sorted(rows)]).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **columns)


def main() -> None:
    """Work on open jobs until there are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with TASK/SPLIT.parquet")
    parser.add_argument("encoder", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--results", type=Path, default=HERE, help="folder of minilm.seeds.csv and of dev logits")
    options = parser.parse_args()
    if options.workers > 1:
        rest = [word for word in sys.argv[1:] if word != "--workers" and word != str(options.workers)]
        workers = [subprocess.Popen([sys.executable, __file__, *rest]) for _ in range(options.workers)]
        sys.exit(max(worker.wait() for worker in workers))
    work(options)


def work(options: argparse.Namespace) -> None:
    """Train every job that is neither in the CSV nor reserved by another process."""
    from bam_lightning.store.run_spec import ALGORITHM
    from bam_lightning.store.run_store import Store

    words = settings(options.data, options.encoder)
    table, key = options.results / "minilm.seeds.csv", settings_key(words)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    output = Path("outputs/real_text")
    output.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for method in options.methods:
            job = {"algorithm": str(ALGORITHM), "settings": key, "method": method, "seed": str(seed)}
            try:
                with FileLock(output / f"{method}_{seed}.lock", timeout=0):
                    if tuple(job.values()) in finished(table):
                        continue
                    begun = time.time()
                    results, store = train(method, seed, words, output), Store("store")
                    save_logits(options.results / "dev_logits" / f"{key}_{method}_{seed}.npz", results, store)
                    append(table, rows_of(results, job, store, commit.strip()))
                    print(f"{method}, seed {seed}: {time.time() - begun:.0f} s", flush=True)
            except Timeout:
                continue


if __name__ == "__main__":
    main()
