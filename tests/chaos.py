"""Kill a job at random moments, again and again, and see that it ends as if nobody had: ``make chaos``.

Jobs are children of a process that has imported everything, so that kills fall into work and not into imports; only the
job itself is killed (SIGKILL), not its loader's workers, as the kernel does it when memory runs out. Of a job in two
processes a rank is killed, or both, or the agent that started them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forked_python import PRELOADED, python

SHORT = [
    "suite.include=[sentiment,similarity]",
    "trainer.max_steps=12",
    "trainer.log_every_n_steps=5",
    "run.checkpoint_steps=3",
    "trainer.accelerator=cpu",
    "run.progress=false",
    "distillation.teacher_margin=null",
    "logger=none",
]
LIVES = {  # pretraining, single, distilled and fine-tuned Runs; plain multi-task ones, with loader processes
    "single_multi_finetune": [],
    "multi_finetune": ["data.workers=2"],
}
DDP = {"single_multi": ["trainer.devices=2"]}
RANK_KILLED = r"rank [01] was ended by signal 9; the same command goes on from the checkpoint$"
NURSERY = """
import importlib, json, os, sys
from pathlib import Path
from bam_lightning.config.compose import compose
from bam_lightning.recipes.runner import run_recipe
for name in [*sys.argv[1:], "torch.distributed.run"]:
    importlib.import_module(name)
for line in sys.stdin:
    words, output, log = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1); os.dup2(sink, 2)
        status = 1
        try:
            run_recipe(compose(words), Path(output))
            status = 0
        except BaseException:
            import traceback; traceback.print_exc()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Report:
    """What was done: undisturbed seconds by recipe, kills by stage and by process, seconds of all lives."""

    undisturbed: dict[str, float] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    lives: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    unequal: list[str] = field(default_factory=list)

    @property
    def lost(self) -> float:
        """Seconds a kill cost: all lives' time beyond that of as many undisturbed ones, per kill."""
        plain = sum(self.undisturbed[recipe] * count for recipe, count in self.lives.items())
        return (self.seconds - plain) / max(1, sum(self.kills.values()))


class Jobs:
    """Starts jobs from one process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *PRELOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHON_EXEC": python()},
        )

    def run(self, recipe: str, store: Path, kill_after: float | None = None, victim: str = "job") -> int:
        """Run a job, or as much of it as it can do in ``kill_after`` seconds; return its exit status."""
        more = {**LIVES, **DDP}[recipe]
        words = [f"recipe={recipe}", *SHORT, *more, f"paths.store={store}", f"paths.cache={store}/cache"]
        order = [words, str(self.folder / "output"), str(self.folder / "log.txt")]
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(order) + "\n")
        self.nursery.stdin.flush()
        child = int(self.nursery.stdout.readline())
        ended = kill_after is None or select.select([self.nursery.stdout], [], [], kill_after)[0]
        if not ended:
            for process in victims(child, victim):
                os.kill(process, signal.SIGKILL)
        return int(self.nursery.stdout.readline())

    def close(self) -> None:
        """End."""
        self.nursery.communicate()


def victims(job: int, name: str) -> list[int]:
    """Return the processes to kill; the job itself where its ranks have not started."""
    ranks = [int(word) for word in Path(f"/proc/{job}/task/{job}/children").read_text().split()]
    named = {"rank 0": ranks[:1], "rank 1": ranks[1:2], "both ranks": ranks}
    return named.get(name) or [job]


def result(store: Path) -> dict[str, tuple[str, str, str]]:
    """Return Run -> its scores, and hashes of its weights and its record."""
    found = {}
    for folder in sorted((store / "runs").iterdir()):
        manifest = json.loads((folder / "run.json").read_text())
        hashes = [
            hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.safetensors", "history.json")
        ]
        found[f"{manifest['stage']} {folder.name}"] = (json.dumps(manifest["metrics"], sort_keys=True), *hashes)
    return found


def at_work(store: Path, stages: dict[str, str]) -> str:
    """Return the stage of the Run that is being built."""
    names = [path.name for path in (store / "building").glob("*")]
    return stages.get(names[0], "?") if names else "between Runs"


def chaos(kills: int, seed: int, folder: Path, recipes: Sequence[str] = tuple(LIVES)) -> Report:
    """Kill jobs of each of the recipes in turn until there were ``kills`` of them, and let the last life end."""
    chance, report, jobs = random.Random(seed), Report(), Jobs(folder)
    whole, stages = {}, {}
    try:
        for recipe in recipes:
            begun = time.monotonic()
            assert jobs.run(recipe, folder / recipe) == 0, (folder / "log.txt").read_text()[-3000:]
            report.undisturbed[recipe] = time.monotonic() - begun
            whole[recipe] = result(folder / recipe)
            stages |= {name.split()[1]: name.split()[0] for name in whole[recipe]}
        while sum(report.kills.values()) < kills:
            recipe = recipes[sum(report.lives.values()) % len(recipes)]
            _life(recipe, kills, jobs, report, chance, stages)
            ended = result(folder / "life")
            for name, found in whole[recipe].items():
                parts = zip(("scores", "weights", "history"), found, ended.get(name, (None,) * 3), strict=True)
                if differ := [part for part, one, other in parts if one != other]:
                    report.unequal.append(f"{recipe}: {name}: {', '.join(differ)}")
            shutil.rmtree(folder / "life")
    finally:
        jobs.close()
    return report


def _life(recipe: str, kills: int, jobs: Jobs, report: Report, chance: random.Random, stages: dict[str, str]) -> None:
    """Train one recipe in an empty store, killed again and again, to its end."""
    store, mean = jobs.folder / "life", report.undisturbed[recipe] / 3
    begun, status = time.monotonic(), -1
    while status != 0:
        after = chance.expovariate(1 / mean) if sum(report.kills.values()) < kills else None
        victim = chance.choice(["rank 0", "rank 1", "both ranks", "job"]) if recipe in DDP else "job"
        status = jobs.run(recipe, store, after, victim)
        log = (jobs.folder / "log.txt").read_text()
        rank_killed = status == 1 and re.search(RANK_KILLED, log.splitlines()[-1])
        assert status in (0, -signal.SIGKILL) or rank_killed, log[-3000:]
        if status != 0:
            report.kills[at_work(store, stages)] += 1
            report.victims[victim] += 1
    report.seconds += time.monotonic() - begun
    report.lives[recipe] += 1


def main() -> None:
    """Say what came of it; the exit status is 1 if a life ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ddp", type=int, default=20, help="kills of jobs in two processes, after the others")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    unequal = [
        name
        for kills, recipes in ((options.kills, LIVES), (options.ddp, DDP))
        if kills
        for name in tell(kills, options.seed, tuple(recipes))
    ]
    sys.exit(1 if unequal else 0)


def tell(kills: int, seed: int, recipes: Sequence[str]) -> list[str]:
    """Kill jobs, print what came of it, and return the Runs that are not bit-equal."""
    with tempfile.TemporaryDirectory() as folder:
        report = chaos(kills, seed, Path(folder), recipes)
    print(f"{sum(report.kills.values())} kills in {sum(report.lives.values())} lives, {report.seconds:.0f} s")
    print("by stage: " + ", ".join(f"{stage} {count}" for stage, count in report.kills.most_common()))
    print("of: " + ", ".join(f"{victim} {count}" for victim, count in report.victims.most_common()))
    print("undisturbed: " + ", ".join(f"{recipe} {seconds:.1f} s" for recipe, seconds in report.undisturbed.items()))
    print(f"time lost per kill: {report.lost:.2f} s")
    print(f"Runs that are not bit-equal: {len(report.unequal)}", *report.unequal, sep="\n  ", flush=True)
    return report.unequal


if __name__ == "__main__":
    main()
