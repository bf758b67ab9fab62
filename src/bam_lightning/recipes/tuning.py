"""Choose the layer-wise decay of single tasks on their dev sets (section 4): ``bam tune``, or at the start of a job."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bam_lightning.analysis.terminal import show
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config, RecipeConfig, StageConfig, StageKind
from bam_lightning.config.validation import check_at_least, check_range
from bam_lightning.recipes.planner import task_groups
from bam_lightning.store import tuned_decays
from bam_lightning.store.run_spec import DataSummary


@dataclass(kw_only=True)
class ChooseOptions:
    """Options of ``bam tune``, besides those of ``bam train``; see its ``--help``."""

    values: Sequence[float] = field(default_factory=lambda: [1.0, 0.9])
    seeds: int = 1
    output: str = "tune"


def untuned_tasks(config: Config, facts: DataSummary) -> list[str]:
    """Return the tasks that a recipe trains alone and whose layer-wise decay is to be chosen but has not been.

    Stages with an encoder of their own keep the profile's decay.
    """
    if not (config.optimization.decays and config.optimization.use_tuned_decay) or (
        config.optimization.layerwise_decay is not None
    ):
        return []
    stages = [
        stage
        for stage in config.recipe.stages.values()
        if stage.kind is StageKind.finetune and not stage.encoder and stage.optimization.layerwise_decay is None
    ]
    trained = config.suite.trained()
    alone = {task for stage in stages for tasks in task_groups(stage, config) if len(tasks) == 1 for task in tasks}
    chosen = {*facts.decays, *(task for task, settings in trained.items() if settings.layerwise_decay is not None)}
    return [task for task in trained if task in alone - chosen]


def choose(
    config: Config,
    facts: DataSummary,
    tasks: Sequence[str],
    values: Sequence[float],
    seeds: Sequence[int],
    train: Callable[[Config, str], Mapping[str, Any]],
) -> tuple[dict[str, dict[float, list[float]]], dict[str, float], Path]:
    """Train each task alone with each value and seed, and store the value with the highest median dev score.

    Args:
        config: The job.
        facts: Its data.
        tasks: Tasks to choose for.
        values: Layer-wise decays.
        seeds: Seeds of each trial.
        train: Trains the recipe of a config; its second argument names the trial. Returns the results.

    Returns:
        Task -> value -> dev scores x 100, task -> chosen value, and the file they are stored in.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for value in values:
        for seed in seeds:
            for run in train(_trial(config, value, seed, tasks), f"{value:g}-{seed}")["runs"]:
                for task in run["tasks"]:
                    score = run["metrics"][task][config.suite.tasks[task].metric_name]
                    scores.setdefault(task, {}).setdefault(value, []).append(100 * score)
    chosen = {task: tuned_decays.pick(by_value) for task, by_value in scores.items()}
    entries = {
        tuned_decays.key(task, config, facts.fingerprints[task], facts.encoder): {
            "layerwise_decay": chosen[task],
            "dev scores x 100": {f"{value:g}": by_seed for value, by_seed in by_value.items()},
        }
        for task, by_value in scores.items()
    }
    return scores, chosen, tuned_decays.write(config, entries)


def _trial(config: Config, value: float, seed: int, tasks: Sequence[str]) -> Config:
    """Return the config that trains each task alone with one value."""
    trial = deepcopy(config)
    trial.recipe = RecipeConfig("single", {"single": StageConfig(per_task=True, tasks=list(tasks))})
    trial.optimization.layerwise_decay, trial.seed, trial.teachers = value, seed, {}
    trial.experiment = f"tune_{value:g}".replace(".", "_")
    return trial


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
    config = compose(words)
    _, _, facts = load_data(config)
    seeds = range(config.teacher_seed, config.teacher_seed + options.seeds)

    def train(trial: Config, name: str) -> Mapping[str, Any]:
        return run_recipe(trial, Path(options.output) / name)

    scores, chosen, path = choose(config, facts, list(config.suite.trained()), options.values, seeds, train)
    _show(scores, chosen, options)
    print(path.resolve())


def _show(scores: dict[str, dict[float, list[float]]], chosen: dict[str, float], options: ChooseOptions) -> None:
    head = ["task", *(f"alpha {value:g}" for value in options.values), "chosen"]
    rows = [
        [task, *(f"{statistics.median(values[value]):.1f}" for value in options.values), f"{chosen[task]:g}"]
        for task, values in scores.items()
    ]
    show(f"dev scores x 100, median of {options.seeds} seeds", head, rows)
