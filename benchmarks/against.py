"""Compare training speed and peak memory with another checkout: ``python benchmarks/against.py CHECKOUT``.

Both sides train on the same rows, each in a process of its own, in turn, so that a busy or warm machine affects both.
Real rows and a real encoder are used where ``BAM_GLUE_DIR`` and ``BAM_ENCODER_DIR`` name them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benches import ALL

TOP = Path(__file__).resolve().parents[1]
SHAPES = {"128 rows": (ALL, 128, 24), "32 rows": (ALL, 32, 60), "CoLA, 32 rows": ("cola", 32, 60)}


def train(checkout: Path, tasks: str, batch: int, steps: int) -> dict[str, float]:
    """Train with the code of a checkout; return its rate in tokens a second, CPU seconds and peak memory."""
    command = [sys.executable, str(checkout / "benchmarks" / "run_side.py"), "ours", tasks, str(batch), str(steps)]
    env = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=checkout / "benchmarks")
    if done.returncode:
        sys.exit(f"{checkout} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"cpu": os.times().children_user - before.children_user}


def main() -> None:
    """Print the ratios of this checkout to the other, median and range of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    options = parser.parse_args()
    for shape in options.shapes:
        ratios, memory = [], []
        for number in range(options.rounds):
            sides = [TOP, options.checkout.resolve()]
            found = {side: train(side, *SHAPES[shape]) for side in (sides if number % 2 == 0 else sides[::-1])}
            ours, other = (found[side] for side in sides)
            ratios.append(ours["rate"] / other["rate"])
            memory.append((ours["peak_mib"], other["peak_mib"]))
            print(f"{shape}, round {number + 1}: {ratios[-1]:.3f}; {json.dumps([ours, other])}", flush=True)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        peaks = " and ".join(f"{max(one[side] for one in memory):,.0f}" for side in (0, 1))
        print(f"{shape}: {statistics.median(ratios):.3f} times the rate ({spread}); peak MiB here and there {peaks}")


if __name__ == "__main__":
    main()
