"""Create the loggers of a Run: W&B (offline if nobody is logged in), CSV files, or none."""

from __future__ import annotations

import inspect
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.job_config import Config
from bam_lightning.config.trainer_config import LoggerKind
from bam_lightning.store.run_spec import Run, to_json
from bam_lightning.training.lightning import localize
from bam_lightning.training.plain import locate

PROBE_SECONDS = 3.0
STEP = "trainer/global_step"  # as Lightning's WandbLogger calls it


def make_loggers(run: Run, config: Config, output: Path) -> list[Any]:
    """Return Lightning's loggers for one Run: that of ``logger.kind``, and those of ``logger.also``.

    A logger of ``also`` gets ``save_dir``, ``name`` and ``version`` if it has these parameters and they are not set.
    """
    first = _make_logger(run, config, output)
    loggers = [] if first is None else [first]
    for key, section in config.logger.also.items():
        target = localize(str(section.get("_target_")))
        given = {"save_dir": str(output / key), "name": f"{run.label.replace('/', '-')}-{run.id}", "version": ""}
        known = inspect.signature(locate(f"logger.also.{key}", target).__init__).parameters
        options = {name: value for name, value in given.items() if name in known}
        loggers.append(instantiate(f"logger.also.{key}", {**options, **section, "_target_": target}))
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


def finish(logger: Any) -> None:
    """Close the logger of a Run, so that the next Run gets one of its own."""
    logger.finalize("success")
    if hasattr(logger.experiment, "finish"):
        logger.experiment.finish()


def online() -> bool:
    """Return whether to log to W&B's server: a key is stored, and the server answers within ``PROBE_SECONDS``.

    W&B's client waits 91 s for a server that cannot be reached.
    """
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    address = urlparse(base)
    if not os.environ.get("WANDB_API_KEY") and not _has_stored_key(address.hostname or ""):
        return False
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _has_stored_key(host: str) -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
