"""Which tasks belong together: what each task does for every other one, by leaving it out or by pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bam_lightning.analysis.evaluation_report import markdown_table
from bam_lightning.analysis.terminal import show
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config
from bam_lightning.data import row_cache
from bam_lightning.data.outcomes import compare
from bam_lightning.metrics.report import paired_bootstrap
from bam_lightning.metrics.scores import points
from bam_lightning.recipes.predictions import decode_logits
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.run_spec import DEV
from bam_lightning.store.run_store import Store, load_logits


@dataclass(kw_only=True)
class RelateOptions:
    """Options of ``bam relate``; see its ``--help``."""

    experiment: str
    pairs: bool = False
    output: str = "relate"


class Effect(NamedTuple):
    """What a task does for the score x 100 of another: with it minus without it, and the 95 % interval over rows."""

    helper: str
    task: str
    difference: float
    low: float
    high: float


def relate(options: RelateOptions, words: Sequence[str] = ()) -> list[Effect]:
    """Train the experiment without each task, or on each pair, and print what each task does for the others.

    Teachers are trained once for all of these, since their ids do not depend on the suite.

    Raises:
        ConfigError: If the experiment does not end with one model of all tasks, or has too few of them.
    """
    words = [f"+experiment={options.experiment}", *words]
    config = compose(words)
    tasks, last = list(config.suite.trained()), list(config.recipe.stages.values())[-1]
    if last.per_task or last.seeds > 1 or last.tasks:
        raise ConfigError(
            "bam relate needs an experiment whose last stage is one model of all tasks, as in single_multi"
        )
    if len(tasks) < (2 if options.pairs else 3):
        raise ConfigError(f"bam relate needs more tasks than {', '.join(tasks)}")
    subsets: list[tuple[str, ...]] = [tuple(tasks), *(tuple(t for t in tasks if t != left) for left in tasks)]
    if options.pairs:
        subsets = [*((task,) for task in tasks)]
        subsets += [(one, two) for place, one in enumerate(tasks) for two in tasks[place + 1 :]]
    runs = {frozenset(subset): _train(subset, words, options) for subset in subsets}
    effects = []
    for helper in tasks:
        for task in tasks:
            if helper == task:
                continue
            more = frozenset({helper, task} if options.pairs else tasks)
            effects.append(_effect(config, helper, task, runs[more - {helper}], runs[more]))
    _write(tasks, effects, options)
    return effects


def _train(subset: Sequence[str], words: Sequence[str], options: RelateOptions) -> str:
    """Return the id of the last stage's Run on some of the tasks; teachers from outside teach those of them alone."""
    others = [f"~teachers.{task}" for task in compose(words).teachers if task not in subset]
    config = compose([*words, f"suite.include=[{','.join(subset)}]", *others])
    results = run_recipe(config, Path(options.output) / "_".join(subset))
    return str(results["runs"][-1]["id"])


def _effect(config: Config, helper: str, task: str, without: str, with_it: str) -> Effect:
    settings, store = config.suite.tasks[task], Store(config.paths.store)
    rows = row_cache.load(task, settings, config.data, Path(config.paths.cache)).dev
    metric, names = settings.metric, settings.head.label_names

    def compared(run: str) -> tuple[Any, Any]:
        logits = load_logits(store, run, task, DEV, rows.keys, rows.texts)
        return compare(metric, decode_logits(task, logits, config, metric), rows, names)

    (before, gold), (after, _) = compared(without), compared(with_it)
    score = partial(points, metric=metric)
    draws = paired_bootstrap(score, before, after, gold)
    low, high = (float(bound) for bound in np.quantile(draws, [0.025, 0.975]))
    return Effect(helper, task, score(after, gold) - score(before, gold), low, high)


def _write(tasks: Sequence[str], effects: Sequence[Effect], options: RelateOptions) -> None:
    cells = {(one.helper, one.task): f"{one.difference:+.1f} ({one.low:+.1f} to {one.high:+.1f})" for one in effects}
    head = ["what it does", *(f"for {task}" for task in tasks)]
    lines = [[helper, *(cells.get((helper, task), "") for task in tasks)] for helper in tasks]
    how = "in a pair with it" if options.pairs else "beside all others"
    title = f"{options.experiment}: dev scores x 100 with a task, {how}, minus without it (95 % over dev rows)"
    show(title, head, lines)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "relate.md", f"# {title}\n\n{markdown_table(head, lines)}\n")
    write_text(folder / "relate.json", json.dumps([one._asdict() for one in effects], indent=1) + "\n")
    print((folder / "relate.json").resolve())
