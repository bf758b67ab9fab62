"""Create the loggers of a Run: W&B (offline if nobody is logged in), CSV files, or none."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bam_lightning.config.instantiate import instantiate, locate
from bam_lightning.config.job_config import Config
from bam_lightning.config.trainer_config import LoggerKind
from bam_lightning.config.wandb_server import online
from bam_lightning.store.run_spec import Run, to_json
from bam_lightning.training.lightning import localize, pl

STEP = "trainer/global_step"  # as Lightning's WandbLogger calls it


def make_loggers(run: Run, config: Config, output: Path) -> list[Any]:
    """Return Lightning's loggers for one Run: that of ``logger.kind``, and those of ``logger.also``.

    A logger of ``also`` gets ``save_dir``, ``name`` and ``version`` if it has these parameters and they are not set.
    """
    first = _make_logger(run, config, output)
    loggers, base = [] if first is None else [first], pl.loggers.Logger
    for key, section in config.logger.also.items():
        target = localize(str(section.get("_target_")))
        given = {"save_dir": str(output / key), "name": f"{run.label.replace('/', '-')}-{run.id}", "version": ""}
        known = inspect.signature(locate(f"logger.also.{key}", target, base)).parameters
        options = {name: value for name, value in given.items() if name in known}
        loggers.append(instantiate(f"logger.also.{key}", {**options, **section, "_target_": target}, base))
    return loggers


def _make_logger(run: Run, config: Config, output: Path) -> Any:
    name = run.label.replace("/", "-")
    if config.logger.kind is LoggerKind.csv:
        from pytorch_lightning.loggers import CSVLogger

        return CSVLogger(output / "csv", name=f"{name}-{run.id}", version="", flush_logs_every_n_steps=1)
    if config.logger.kind is LoggerKind.none:
        return None
    if os.environ.get("WANDB_MODE") == "disabled":
        return None
    return _wandb(run, name, config, output)


def _wandb(run: Run, name: str, config: Config, output: Path) -> Any:
    from pytorch_lightning.loggers import WandbLogger
    from wandb.errors import Error

    os.environ.setdefault("WANDB_DATA_DIR", str(output / "wandb"))  # so that a run can be synced from elsewhere
    os.environ.setdefault("WANDB_SILENT", "true")
    settings = config.logger
    options: dict[str, Any] = {
        "name": name,
        "id": run.id,  # one W&B run per Run, also when it is resumed
        "save_dir": output,
        "project": settings.project,
        "entity": settings.entity,
        "group": settings.group or config.experiment or config.recipe.name,
        "job_type": run.stage,
        "tags": [*settings.tags, config.scale, config.fidelity, *run.tasks][:60],
        "config": {**to_json(asdict(config)), **_run_metadata(run, config)},
        "reinit": "finish_previous",
    }
    logger = WandbLogger(offline=not online(), **options)
    try:
        _one_axis(logger)
    except Error as error:  # the server rejects the login: train, and sync later
        print(f"W&B refuses ({str(error).splitlines()[0]}); logging offline", file=sys.stderr)
        logger = WandbLogger(offline=True, **options)
        _one_axis(logger)
    return logger


def _run_metadata(run: Run, config: Config) -> dict[str, Any]:
    """Return metadata that distinguishes the Runs of a job, which log under the same names."""
    return {
        "method": config.experiment or config.recipe.name,
        "last_stage": run.stage == list(config.recipe.stages)[-1],
        "run_seed": run.seed,
        "run": {"id": run.id, "steps": run.steps, "spec": dict(run.spec)},
    }


def _one_axis(logger: Any) -> None:
    """Use optimizer steps as the axis of all logged values."""
    for names in ("train/*", "val/*", "dev/*", "speed/*"):
        logger.experiment.define_metric(names, step_metric=STEP)


def log_end(logger: Any, manifest: Mapping[str, Any]) -> None:
    """Log a Run's dev scores as ``dev/TASK/METRIC`` and its throughput as ``speed/...``, at its last optimizer step."""
    values = {f"speed/{name}": manifest[name] for name in ("examples_per_second", "tokens_per_second", "train_seconds")}
    for task, scores in manifest["metrics"].items():
        values |= {f"dev/{task}/{metric}": value for metric, value in scores.items()}
    logger.log_metrics(values, step=manifest["steps"])


def finish(logger: Any) -> None:
    """Close the logger of a Run, so that the next Run gets one of its own."""
    logger.finalize("success")
    if hasattr(logger.experiment, "finish"):
        logger.experiment.finish()
