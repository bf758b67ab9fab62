"""Build a W&B workspace for the Runs of a project: ``bam dashboard``; send tables to W&B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.wandb_server import online

STEP = "trainer/global_step"


@dataclass(kw_only=True)
class DashboardOptions:
    """Options of ``bam dashboard``; see its ``--help``."""

    entity: str
    project: str = "bam_lightning"
    name: str = "bam_lightning"
    sweep: str | None = None
    tasks: Sequence[str] = field(default_factory=lambda: "cola sst2 mrpc stsb qqp mnli qnli rte".split())
    metrics: Sequence[str] = field(default_factory=list)
    show: bool = False


GLUE_METRICS = {"cola": "matthews", "stsb": "spearman"}


def sections(tasks: Sequence[str], metrics: Sequence[str]) -> dict[str, list[Any]]:
    """Return title -> panels; scores and throughput by method, curves over optimizer steps."""
    import wandb_workspaces.reports.v2 as panels

    method, scored = panels.Config("method"), list(zip(tasks, metrics, strict=True))
    spread: dict[str, Any] = {"groupby": method, "groupby_aggfunc": "median", "groupby_rangefunc": "minmax"}

    def line(title: str, names: Sequence[str], **more: Any) -> Any:
        return panels.LinePlot(title=title, x=STEP, y=list(names), title_x="optimizer step", **more)

    def seeds(task: str, name: str) -> Any:
        return panels.ScatterPlot(
            title=f"{task}, by seed", x=panels.Config("run_seed"), y=panels.SummaryMetric(f"dev/{task}/{name}")
        )

    return {
        "Dev scores": [
            panels.BarPlot(title=f"{t} ({m}), by method", metrics=[f"dev/{t}/{m}"], **spread) for t, m in scored
        ],
        "Seeds": [seeds(task, metric) for task, metric in scored],
        "Schedule": [
            line("lam, the weight of gold", ["train/lam"], range_y=(0, 1)),
            line("learning rate of the heads", ["train/learning_rate"]),
            line("gradient norm", ["train/gradient_norm"], log_y=True),
        ],
        "Loss per task": [line(f"loss, {task}", [f"train/loss/{task}"]) for task in tasks],
        "Stream": [line("examples seen", [f"train/examples/{task}" for task in tasks])],
        "Throughput": [
            panels.BarPlot(title=name.replace("_", " "), metrics=[f"speed/{name}"], **spread)
            for name in ("examples_per_second", "tokens_per_second", "train_seconds")
        ],
    }


def workspace(options: DashboardOptions) -> Any:
    """Build the workspace, without sending anything.

    Raises:
        ConfigError: If the number of metrics differs from that of tasks.
    """
    import wandb_workspaces.workspaces as workspaces

    metrics = options.metrics or [GLUE_METRICS.get(task, "accuracy") for task in options.tasks]
    if len(metrics) != len(options.tasks):
        raise ConfigError(f"metrics must name one metric per task, got {len(metrics)} for {len(options.tasks)} tasks")
    # teachers log under the same names; wandb builds a filter from the expression, so `== True` is needed
    filters = [workspaces.Config("last_stage") == True]  # noqa: E712
    if options.sweep:
        filters.append(workspaces.Metric("Group") == options.sweep)
    return workspaces.Workspace(
        entity=options.entity,
        project=options.project,
        name=options.name,
        sections=[
            workspaces.Section(name=name, panels=of_section, is_open=True)
            for name, of_section in sections(options.tasks, metrics).items()
        ],
        runset_settings=workspaces.RunsetSettings(filters=filters),
    )


def job(options: DashboardOptions) -> None:
    """Save the workspace and print its URL."""
    board = workspace(options)
    if options.show:
        print(board._to_model().model_dump_json(indent=1))
        return
    from wandb.errors import Error

    try:
        print(board.save().url)
    except (Error, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"W&B takes no workspace from here ({reason}); run `wandb login`, or look with --show"
        ) from error


def send_table(project: str, folder: Path, name: str, heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Send a table to W&B, as a W&B Table and as the page ``NAME.html`` of ``folder``; offline for a later sync."""
    import wandb

    if os.environ.get("WANDB_MODE") == "disabled":
        return
    mode = "online" if online() else "offline"
    run = wandb.init(project=project, name=name, job_type="table", dir=str(folder), mode=mode)  # type: ignore[arg-type]
    run.log({"table": wandb.Table(columns=list(heading), data=[list(row) for row in rows])})
    run.log({"page": wandb.Html(str(folder / f"{name}.html"), inject=False)})
    run.finish()
