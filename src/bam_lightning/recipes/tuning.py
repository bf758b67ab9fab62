"""Tune the layer-wise decay of each single task on its dev set: ``bam tune``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bam_lightning.analysis.terminal import show
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config
from bam_lightning.config.validation import check_at_least, check_range
from bam_lightning.store import tuned_decays


@dataclass(kw_only=True)
class ChooseOptions:
    """Options of ``bam tune``, besides those of ``bam train``; see its ``--help``."""

    values: Sequence[float] = field(default_factory=lambda: [1.0, 0.9])
    seeds: int = 1
    output: str = "choose"


def trial(value: float, seed: int, words: Sequence[str], options: ChooseOptions) -> Config:
    """Return the config that trains each task alone with one value."""
    more = ["recipe=single", f"optimization.layerwise_decay={value}", f"seed={seed}"]
    config = compose([*words, *more])
    config.experiment = f"tune_{value:g}".replace(".", "_")
    return config


def job(options: ChooseOptions, words: Sequence[str]) -> None:
    """Train with each value, choose the best one per task and store it."""
    from bam_lightning.recipes.runner import load_data, run_recipe

    check_at_least("seeds", options.seeds, 1)
    if len(set(options.values)) < 2:
        raise ConfigError(f"values must be at least two different numbers to choose from, got {options.values}")
    for word in words:
        if word.startswith(("-", "recipe=", "+experiment=", "optimization.layerwise_decay=")):
            raise ConfigError(f"bam tune trains every task alone with each --value, so it does not accept {word!r}")
    for value in options.values:
        check_range("values", value, 0, 1, open_low=True)
    base = compose(words)
    scores: dict[str, dict[float, list[float]]] = {}
    for value in options.values:
        for seed in range(base.teacher_seed, base.teacher_seed + options.seeds):
            config = trial(value, seed, words, options)
            summary = run_recipe(config, Path(options.output) / f"{value:g}-{seed}")
            for run in summary["runs"]:
                for task, metrics in run["metrics"].items():
                    score = metrics[config.suite.tasks[task].metric_name]
                    scores.setdefault(task, {}).setdefault(value, []).append(100 * score)
    _, _, facts = load_data(base)
    chosen = {task: tuned_decays.pick(values) for task, values in scores.items()}
    path = tuned_decays.write(
        base,
        {
            tuned_decays.key(task, base, facts.fingerprints[task], facts.encoder): {
                "layerwise_decay": chosen[task],
                "dev scores x 100": {f"{value:g}": by_seed for value, by_seed in values.items()},
            }
            for task, values in scores.items()
        },
    )
    _show(scores, chosen, options)
    print(path.resolve())


def _show(scores: dict[str, dict[float, list[float]]], chosen: dict[str, float], options: ChooseOptions) -> None:
    head = ["task", *(f"alpha {value:g}" for value in options.values), "chosen"]
    rows = [
        [task, *(f"{statistics.median(values[value]):.1f}" for value in options.values), f"{chosen[task]:g}"]
        for task, values in scores.items()
    ]
    show(f"dev scores x 100, median of {options.seeds} seeds", head, rows)
