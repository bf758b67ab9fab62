"""Summarise a finished recipe: ``results.json``, a plot, and the rows of the final table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bam_lightning.config.escaping import plot_label
from bam_lightning.config.job_config import Config
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.store.atomic_io import atomic_write, write_text
from bam_lightning.store.run_spec import Run
from bam_lightning.store.run_store import Store

RUN_FIELDS = (
    "id",
    "stage",
    "tasks",
    "seed",
    "steps",
    "train_seconds",
    "examples_per_second",
    "tokens_per_second",
    "metrics",
)


def results(config: Config, runs: Sequence[Run], store: Store) -> dict[str, Any]:
    """Return the recipe's results: averages per stage and one entry per Run, scores as fractions."""
    entries = []
    for run in runs:
        manifest = store.manifest(run.id)
        entries.append({name: manifest[name] for name in RUN_FIELDS} | {"stage": run.stage})
    averages = {}
    for stage in dict.fromkeys(run.stage for run in runs):
        scores = stage_scores(config, entries, stage)
        counted = [value for task, value in scores.items() if config.suite.tasks[task].averaged]
        if counted:
            averages[stage] = sum(counted) / len(counted)
    return {
        "recipe": config.recipe.name,
        "experiment": config.experiment,
        "seed": config.seed,
        "teacher_seed": config.teacher_seed,
        "scale": config.scale,
        "fidelity": config.fidelity,
        "average": averages,
        "runs": entries,
    }


def stage_scores(config: Config, entries: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
    """Return task -> headline score of a stage; the mean if it has several seeds."""
    by_task: dict[str, list[float]] = {}
    for entry in entries:
        if entry["stage"] == stage:
            for task, values in entry["metrics"].items():
                by_task.setdefault(task, []).append(values[config.suite.scored_as(task).metric_name])
    return {task: sum(scores) / len(scores) for task, scores in by_task.items()}


def table(
    config: Config,
    summary: Mapping[str, Any],
    majority: Mapping[str, float],
    dev_rows: Mapping[str, int],
    over_rows: Mapping[str, str],
) -> tuple[list[str], list[list[str]]]:
    """Return title row and rows of the final table, scores times 100.

    One column per stage that has scores; if the last stage has a teacher, also the difference from it, and how sure it
    is over the dev rows; that of a task with a teacher from outside names the Run that it is measured against. A
    stage's average is left out where it is over other tasks than the last stage's.
    """
    stages = list(summary["average"])
    taught = config.recipe.stages[stages[-1]].teacher if stages else None
    taught = taught if taught in stages else None
    titles = [_title(config, stage, taught) for stage in stages]
    head = ["task", "metric", "dev rows", "majority", *titles, *(["difference", "over the dev rows"] if taught else [])]
    columns = {stage: stage_scores(config, summary["runs"], stage) for stage in stages}
    rows = []
    for task in _scored(config, columns):
        values = [columns[stage].get(task) for stage in stages]
        name = task if config.suite.tasks[task].averaged else f"{task} (not in average)"
        row = [name, config.suite.scored_as(task).metric_name, *_of_dev_rows(task, majority, dev_rows)]
        over = f"{over_rows[task]}{_against(config, task)}" if task in over_rows else ""
        difference = [_difference(values[-1], columns[taught].get(task)), over] if taught else []
        rows.append([*row, *_cells(values), *difference])
    averages = _comparable_averages(config, summary)
    difference = [_difference(averages[stages[-1]], averages[taught]), ""] if taught else []
    return head, [*rows, ["average", "", "", "", *_cells([averages[stage] for stage in stages]), *difference]]


def _comparable_averages(config: Config, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Return stage -> average score; ``None`` where it is over other tasks than the last stage's."""
    tasks = {
        stage: {task for task in stage_scores(config, summary["runs"], stage) if config.suite.tasks[task].averaged}
        for stage in summary["average"]
    }
    last = list(tasks.values())[-1:]
    return {stage: value if [tasks[stage]] == last else None for stage, value in summary["average"].items()}


def _against(config: Config, task: str) -> str:
    """Return what a task's difference over the dev rows is measured against, where that is no stage of the recipe."""
    if task not in config.teachers:
        return ""
    return f" (against Run {teacher_sources(f'teachers.{task}', config.teachers[task])[0].path})"


def _scored(config: Config, columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the tasks with a score, in the order of the suite."""
    return [task for task in config.suite.tasks if any(task in scores for scores in columns.values())]


def _of_dev_rows(task: str, majority: Mapping[str, float], dev_rows: Mapping[str, int]) -> list[str]:
    """Return the number of dev rows and the majority's score; blank if a Run was scored on rows that are gone."""
    return [f"{dev_rows[task]:,}", f"{100 * majority[task]:.1f}"] if task in dev_rows else ["", ""]


def _title(config: Config, stage: str, taught: str | None) -> str:
    if stage == taught:
        return f"teacher ({stage})" if stage != "teacher" else stage
    return stage


def _cells(values: Sequence[float | None]) -> list[str]:
    return ["" if value is None else f"{100 * value:.1f}" for value in values]


def _difference(student: float | None, teacher: float | None) -> str:
    return "" if student is None or teacher is None else f"{100 * (student - teacher):+.1f}"


def no_better_than_majority(config: Config, summary: Mapping[str, Any], majority: Mapping[str, float]) -> list[str]:
    """Return a line for each stage with tasks whose dev score does not exceed that of the most frequent class.

    Tasks outside the average, such as WNLI, are left out, since no method learns them.
    """
    lines = []
    for stage in summary["average"]:
        weak = [
            f"{task} ({settings.metric_name} {score:.3f}, not above {majority[task]:.3f})"
            for task, score in stage_scores(config, summary["runs"], stage).items()
            if (settings := config.suite.tasks[task]).averaged and not score > majority[task] + 1e-9
        ]
        if weak:
            lines.append(
                f"{stage} is no better than giving every row the commonest answer on {', '.join(weak)}; try more "
                "epochs, another learning rate or encoder, and look at the rows with `bam check`"
            )
    return lines


def next_commands(config: Config, run: Run) -> list[str]:
    """Return the commands that evaluate, try and serve a finished Run; none for a Run without tasks."""
    if not run.tasks:
        return []
    chosen = f"--run {run.id}" + (
        "" if config.paths.store == "store" else f" --store {shlex.quote(config.paths.store)}"
    )
    return [
        f"Next, with {run.label}:",
        f"  bam evaluate {chosen} --output report    the dev rows; other ones with --task TASK --input FILE",
        f"  bam calibrate {chosen}    temperatures; with --at-precision thresholds, below which it abstains",
        f"  bam predict {chosen} --input FILE --output scored.csv",
        f"  bam serve {chosen}",
        f"  bam export {chosen} --output FOLDER    for other tools; --format onnx or hf",
    ]


def save(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``results.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(summary, indent=1))


def plot(folder: Path, config: Config, summary: Mapping[str, Any], store: Store) -> None:
    """Write ``results.png``: scores of each stage; lam, losses and dev scores over the last Run's optimizer steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = summary["runs"][-1]
    run = store.run(last["id"])
    history = json.loads(run.file("history.json").read_text())
    scores = json.loads(run.file("dev_scores.json").read_text()) if "dev_scores.json" in run.files() else []
    figure = Figure(figsize=(19 if scores else 13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, *right = figure.subplots(1, 3 if scores else 2)
    stages = list(summary["average"])
    if stages:
        _plot_scores(left, config, summary, stages)
    _plot_curves(middle, last, history)
    if scores:
        _plot_dev_scores(right[0], last, scores)
    figure.suptitle(plot_label(f"{summary['recipe']}, scale {summary['scale']}, seed {summary['seed']}"))
    with atomic_write(folder / "results.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _plot_scores(axes: Any, config: Config, summary: Mapping[str, Any], stages: Sequence[str]) -> None:
    columns = {stage: stage_scores(config, summary["runs"], stage) for stage in stages}
    tasks, averages = _scored(config, columns), _comparable_averages(config, summary)
    width = 0.8 / len(stages)
    for number, stage in enumerate(stages):
        scores = [*(columns[stage].get(task) for task in tasks), averages[stage]]
        values = [float("nan") if score is None else 100 * score for score in scores]
        places = [place + (number - (len(stages) - 1) / 2) * width for place in range(len(values))]
        bars = axes.bar(places, values, width, label=stage)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(tasks) + 1), [*tasks, "average"], rotation=35, ha="right")
    axes.set_ylabel("dev score x 100")
    axes.axhline(0, color="k", linewidth=0.8)
    axes.margins(y=0.08)  # room for the numbers on the bars
    _legend_above(axes, len(stages))


def _plot_dev_scores(axes: Any, last: Mapping[str, Any], scores: Sequence[Mapping[str, float]]) -> None:
    """Draw the dev scores that were logged during the Run; its last weights are scored apart."""
    for name in dict.fromkeys(name for row in scores for name in row if name.startswith("val/")):
        points = [(row["step"], 100 * row[name]) for row in scores if name in row]
        style = {"color": "k", "linewidth": 2} if name == "val/average" else {"linewidth": 1}
        axes.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("val/"), **style)
    _label_steps(axes, last)
    axes.set_ylabel("dev score x 100")
    _legend_above(axes, 4)


def _label_steps(axes: Any, last: Mapping[str, Any]) -> None:
    axes.set_xlabel(f"optimizer step ({last['stage']})")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _legend_above(axes: Any, columns: int, lines: Sequence[Any] | None = None) -> None:
    """Draw the legend above the axes, where it covers nothing."""
    handles = {} if lines is None else {"handles": lines}
    axes.legend(fontsize=8, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, **handles)


def _plot_curves(axes: Any, last: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
    steps = [row["step"] for row in history]
    lines = []
    for name in dict.fromkeys(name for row in history for name in row if name.startswith("loss/")):
        points = [(row["step"], row[name]) for row in history if name in row]
        lines += axes.plot(*zip(*points, strict=True), label=name.removeprefix("loss/"), linewidth=1)
    _label_steps(axes, last)
    axes.set_ylabel("training loss per example")
    if history and "lam" in history[0]:
        other = axes.twinx()
        lines += other.plot(
            steps, [row["lam"] for row in history], "k--", linewidth=1, label="λ, weight of gold (right)"
        )
        other.set_ylim(-0.02, 1.02)
        other.set_ylabel("λ")
    _legend_above(axes, 3, lines)
