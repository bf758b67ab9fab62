"""All benchmarks, or those named; one table out. `make bench` calls it.

    python benchmarks/bench.py [NAME ...] [--rounds N]

Both sides of a comparison run in turn, each in a process of its own; a ratio is taken within each round, and the table
has the median of them. Real GLUE texts and a real encoder are used where BAM_GLUE_DIR and BAM_ENCODER_DIR name
them. What was found is kept under benchmarks/results/, a file for each name, with machine, versions and commit."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benches import BENCHES, GENERATED, GLUE, Claim

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def main() -> None:
    """Run what is asked for, keep it, and print the table of all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all unless given")
    parser.add_argument("--rounds", type=int, help="how often each side runs")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(BENCHES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    for name in asked.names or BENCHES:
        reason = _not_here(name)
        if reason:
            print(f"{name}: left out, {reason}", flush=True)
            continue
        found = _rounds(name, asked.rounds or BENCHES[name].rounds)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps({**_provenance(name), "rounds": found}, indent=1) + "\n")
    table = _table()
    (RESULTS / "README.md").write_text(table)
    print(table)


def _not_here(name: str) -> str:
    import torch

    needed = {
        "predict": ("BAM_GLUE_DIR", "BAM_ENCODER_DIR"),
        "tasknet": ("BAM_GLUE_DIR", "BAM_ENCODER_DIR", "BAM_TASKNET_PYTHON"),  # the last of an environment that has it
    }
    if not all(os.environ.get(variable) for variable in needed.get(name, ())):
        return f"{' and '.join(needed[name])} are not set"
    return "torch sees no CUDA device" if name == "gpu" and not torch.cuda.is_available() else ""


def _rounds(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return side -> what it found, of each round; the order of sides turns from round to round."""
    found = []
    for number in range(rounds):
        sides = list(BENCHES[name].sides.items())
        one = {}
        for side, words in sides if number % 2 == 0 else sides[::-1]:
            print(f"{name}, round {number + 1} of {rounds}: {side} ...", end=" ", flush=True)
            one[side] = _side(words)
            print(json.dumps({key: round(value, 4) for key, value in one[side].items()}), flush=True)
        found.append(one)
    return found


def _side(words: list[str]) -> dict[str, float]:
    command = [sys.executable, str(HERE / "run_side.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _provenance(name: str) -> dict[str, Any]:
    from bam_lightning.config.trainer_config import TrainerConfig
    from bam_lightning.models import hardware
    from bam_lightning.store.provenance import versions

    changed = _git("status", "--porcelain", "--", "..", ":!results")
    commit = _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    real = all(os.environ.get(name) for name in ("BAM_GLUE_DIR", "BAM_ENCODER_DIR"))
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": hardware.device_name(TrainerConfig()),
        "precision": hardware.precision(TrainerConfig()),
        "data": BENCHES[name].data or (GLUE if real else GENERATED),
        "versions": versions(),
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def _table() -> str:
    """Return all that is kept: a line for each claim, and of each file where it was found."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Ratios of real tokens a second unless the line says otherwise; each is the median of",
        "the rounds, with the smallest and largest. Memory: peaks of the two sides. The prediction was written first.",
        "",
        "| what | found | rounds | predicted | wanted | memory, MiB | file |",
        "|---|---|---|---|---|---|---|",
    ]
    places = []
    for name, bench in BENCHES.items():
        path = RESULTS / f"{name}.json"
        kept = json.loads(path.read_text()) if path.exists() else None
        for claim in bench.claims:
            there = kept and {claim.side, claim.other} <= {"", *kept["rounds"][0]}  # sides may be younger than results
            lines.append(_line(claim, name, kept["rounds"]) if kept and there else _not_run(claim))
        if kept:
            what = f"{kept['machine']}, {kept['precision']} where not said; {kept['data']}"
            places.append(f"| {name} | {kept['commit']} | {kept['finished'][:10]} | {what} | {_versions(kept)} |")
    lines += ["", "| file | commit | day | machine and data | versions |", "|---|---|---|---|---|", *places]
    return "\n".join(lines) + "\n"


def _versions(kept: dict[str, Any]) -> str:
    return ", ".join(f"{name} {kept['versions'][name]}" for name in ("python", "torch", "transformers"))


def _not_run(claim: Claim) -> str:
    return f"| {claim.what} | not run | | {claim.prediction:g} | {_wanted(claim)} | | |"


def _line(claim: Claim, name: str, rounds: list[dict[str, Any]]) -> str:
    values = [one[claim.side][claim.field] / (one[claim.other][claim.field] if claim.other else 1.0) for one in rounds]
    spread = "" if len(values) == 1 else f": {_number(min(values))} to {_number(max(values))}"
    memory = [f"{max(one[side]['peak_mib'] for one in rounds):,.0f}" for side in (claim.side, claim.other) if side]
    return (
        f"| {claim.what} | {_number(statistics.median(values))} | {len(values)}{spread} | {claim.prediction:g} | "
        f"{_wanted(claim)} | {', '.join(memory)} | {name} |"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _wanted(claim: Claim) -> str:
    return f"{'at most' if claim.below else 'at least'} {claim.wanted:g}"


if __name__ == "__main__":
    main()
