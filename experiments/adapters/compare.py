"""LoRA beside full fine-tuning, and mean beside pooler pooling: MiniLM on MRPC and RTE together.

    python experiments/adapters/compare.py GLUE_DIR MINILM_DIR --seeds 3

Each job runs in a process of its own, so that its peak memory is its own. Finished jobs stand in ``results.csv`` and
are not trained again."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

HERE = Path(__file__).resolve().parent
FULL = "full, mean"
# LoRA's learning rate is ten times that of the paper for full fine-tuning; neither was tuned
LORA = "encoder.peft={_target_: peft.LoraConfig, r: 8, target_modules: [query, value]}"
METHODS = {
    FULL: ["encoder.pooling=mean"],
    "full, pooler": ["encoder.pooling=pooler"],
    "LoRA r=8, mean": ["encoder.pooling=mean", LORA, "optimization.learning_rate=1e-3"],
}
TASKS = ("mrpc", "rte")
FIELDS = ("method", "seed", "settings", "trained_parameters", "peak_mib", "train_seconds", "cpu_seconds", *TASKS, "run")


def train(method: str, seed: int, words: list[str], output: Path) -> dict[str, Any]:
    """Train one job and return its row of the table."""
    folder = output / re.sub(r"\W+", "_", f"{method} {seed}")
    command = [sys.executable, "-m", "bam_lightning.train", "+experiment=multi", f"seed={seed}", *words]
    command += [*METHODS[method], f"hydra.run.dir={folder}", f"paths.store={output}/store", "run.progress=false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    results = json.loads((folder / "results.json").read_text())
    entry = results["runs"][-1]
    run = output / "store" / "runs" / entry["id"]
    manifest = json.loads((run / "run.json").read_text())
    with safe_open(run / "model.safetensors", "numpy") as weights:  # of a model with adapters only what was trained
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    return {
        "method": method,
        "seed": seed,
        "trained_parameters": sum(_product(size) for size in sizes),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "train_seconds": round(manifest["train_seconds"], 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        **{task: next(iter(manifest["metrics"][task].values())) for task in TASKS},
        "run": entry["id"],
    }


def _product(size: list[int]) -> int:
    count = 1
    for number in size:
        count *= number
    return count


def main() -> None:
    """Train what is missing, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue")
    parser.add_argument("encoder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/adapters"))
    parser.add_argument("--words", nargs="+", default=[], help="for all jobs, such as trainer.max_steps=2")
    asked = parser.parse_args()
    shared = [f"suite.include=[{','.join(TASKS)}]", "scale=small", "logger=none", *asked.words]
    words = [*shared, f"data.root={Path(asked.glue).resolve()}", f"encoder.path={Path(asked.encoder).resolve()}"]
    path, settings = asked.output / "results.csv", " ".join(asked.words)
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    for seed in range(asked.seeds):
        for method in METHODS:
            if any((row["method"], row["seed"], row["settings"]) == (method, str(seed), settings) for row in rows):
                continue
            row = {**train(method, seed, words, asked.output.resolve()), "settings": settings}
            rows.append({name: str(value) for name, value in row.items()})
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
            print(row, flush=True)
    print(table([row for row in rows if row["settings"] == settings]))


def table(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table: medians over seeds, and the range of scores x 100."""
    lines = [
        "| | seeds | trained parameters | peak memory, MiB | seconds | CPU seconds | MRPC | RTE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        numbers = [f"{statistics.median(float(row[name]) for row in mine):,.0f}" for name in FIELDS[3:7]]
        for task in TASKS:
            scores = sorted(100 * float(row[task]) for row in mine)
            numbers.append(f"{statistics.median(scores):.1f} ({scores[0]:.1f}-{scores[-1]:.1f})")
        lines.append(f"| {method} | {len(mine)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
