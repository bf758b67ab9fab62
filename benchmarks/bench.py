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
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ALL = "cola,sst2,mrpc,stsb,qqp,mnli,qnli,rte"


class Claim(NamedTuple):
    """A ratio that is claimed: ``side``'s ``field`` over ``other``'s; without ``other`` the side's own number.

    ``prediction`` was written before the first run of this table; ``wanted`` is the bound, upper where ``below``.
    """

    what: str
    side: str
    other: str
    prediction: float
    wanted: float
    below: bool = False
    field: str = "rate"


class Bench(NamedTuple):
    """Sides to run in turn, with words for ``run_side``; ``rounds`` unless the command line says otherwise."""

    sides: dict[str, list[str]]
    claims: list[Claim]
    rounds: int = 2


def mix(tasks: str, batch: int, steps: int, sides: str) -> dict[str, list[str]]:
    """Return the sides that train on one ``Work``."""
    return {side: [side, tasks, str(batch), str(steps)] for side in sides.split()}


BENCHES = {
    "mixed_128": Bench(
        mix(ALL, 128, 24, "ours group_by_length random"),
        [
            Claim("mixed GLUE stream, 128 rows: against Trainer, random order", "ours", "random", 9, 5),
            Claim("the same against Trainer, group_by_length", "ours", "group_by_length", 2.6, 2.5),
        ],
        rounds=3,
    ),
    "limit": Bench(
        mix(ALL, 128, 108, "ours limit"),
        [Claim("mixed GLUE stream, 128 rows: against its matrix products alone", "ours", "limit", 0.62, 0.6)],
        rounds=3,
    ),
    "mixed_32": Bench(
        mix(ALL, 32, 60, "ours group_by_length random"),
        [
            Claim("mixed GLUE stream, 32 rows: against Trainer, random order", "ours", "random", 4, 1.8),
            Claim("the same against Trainer, group_by_length", "ours", "group_by_length", 2, 1),
        ],
    ),
    "cola": Bench(
        mix("cola", 32, 100, "ours group_by_length"),
        [Claim("CoLA alone, 32 rows: against Trainer, group_by_length", "ours", "group_by_length", 1.35, 1.3)],
        rounds=5,
    ),
    "rte": Bench(
        mix("rte", 32, 40, "ours group_by_length"),
        [Claim("RTE alone, 32 rows: against Trainer, group_by_length", "ours", "group_by_length", 1.9, 1.1)],
        rounds=3,
    ),
    "distilled": Bench(
        mix(ALL, 128, 24, "distilled") | {"small": ["distilled", ALL, "32", "60"]},
        [
            Claim("a distilled step's time over a plain one's, 128 rows", "distilled", "", 1.01, 1.02, True, "ratio"),
            Claim("the same, 32 rows", "small", "", 1.01, 1.02, True, "ratio"),
            Claim("collation's share of a step, 128 rows", "distilled", "", 0.01, 0.05, True, "collation_share"),
            Claim("the same, 32 rows", "small", "", 0.02, 0.05, True, "collation_share"),
        ],
    ),
    "recipe": Bench(
        {"recipe": ["recipe"]},
        [Claim("embedded default: what is not training, over training", "recipe", "", 0.13, 0.15, True, "overhead")],
    ),
    "sweep": Bench(
        {"sweep": ["sweep", "20"], "pipelines": ["pipelines", "20"]},
        [Claim("20 seeds in one sweep: time over 20 pipelines'", "sweep", "pipelines", 0.35, 0.4, True, "seconds")],
        rounds=1,
    ),
    "start": Bench(
        {"first_step": ["first_step"], "full_glue": ["full_glue"]},
        [
            Claim("cached embedded default: seconds to the first step", "first_step", "", 6, 8, True, "seconds"),
            Claim("1,077,000 rows: seconds to the first step", "full_glue", "", 10, 10, True, "seconds"),
            Claim("the same: peak memory, MiB", "full_glue", "", 1700, 2048, True, "peak_mib"),
        ],
    ),
    "gpu": Bench(
        {side: ["gpu", side] for side in ("packed", "compiled", "padded")},
        [
            Claim("BERT-Large on a GPU, 128 rows: share of the peak (MFU)", "packed", "", 0.45, 0.45, False, "mfu"),
            Claim("the same: against padded to the longest", "packed", "padded", 3, 3),
            Claim("the same: with its layers compiled, against packed alone", "compiled", "packed", 1.3, 1),
            Claim("the same, compiled: share of the peak (MFU)", "compiled", "", 0.5, 0.45, False, "mfu"),
            Claim("the same: hours of one student on GLUE", "packed", "", 0.1, 0.25, True, "student_hours"),
        ],
    ),
}


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
        (RESULTS / f"{name}.json").write_text(json.dumps({**_provenance(), "rounds": found}, indent=1) + "\n")
    table = _table()
    (RESULTS / "README.md").write_text(table)
    print(table)


def _not_here(name: str) -> str:
    import torch

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


def _provenance() -> dict[str, Any]:
    from bam_lightning import machine
    from bam_lightning.trainer_config import TrainerConfig

    changed = _git("status", "--porcelain", "--", "..", ":!results")
    commit = _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    real = all(os.environ.get(name) for name in ("BAM_GLUE_DIR", "BAM_ENCODER_DIR"))
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine.device_name(TrainerConfig()),
        "precision": machine.precision(TrainerConfig()),
        "data": "GLUE texts (MNLI, QNLI and QQP in part) and MiniLM" if real else "generated rows of GLUE's lengths",
        "versions": machine.versions(),
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
        lines += [_line(claim, name, kept["rounds"]) if kept else _not_run(claim) for claim in bench.claims]
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
