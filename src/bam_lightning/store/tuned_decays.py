"""Layer-wise decays tuned per task on its dev set (section 4), stored where plans read them.

A tuned value belongs to the rows, encoder and training settings it was tuned with; if any of them changes, it is not
used."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.job_config import Config
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.json_schema import check_fields
from bam_lightning.store.run_spec import to_json

FILE = "choices.json"


def key(task: str, config: Config, data: str, encoder: str) -> str:
    """Return the key of a tuned value: the task, its data, the encoder and a hash of the training settings."""
    training = to_json(asdict(config.optimization)) | {"max_steps": config.trainer.max_steps}
    for name in ("layerwise_decay", "use_tuned_decay", "decays", "multi", "finetuning_rate"):
        training.pop(name)
    training["single"].pop("layerwise_decay")
    digest = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:12]
    return f"{task} {data} {encoder} {config.fidelity} {digest}"


def read(config: Config, fingerprints: Mapping[str, str], encoder: str) -> dict[str, float]:
    """Return task -> tuned layer-wise decay, for the tasks that have one.

    Raises:
        StoreError: If the file of tuned values is damaged.
    """
    if not config.optimization.use_tuned_decay:
        return {}
    tuned = _load(Path(config.paths.store).expanduser() / FILE)
    keys = {task: key(task, config, data, encoder) for task, data in fingerprints.items()}
    return {task: float(tuned[name]["layerwise_decay"]) for task, name in keys.items() if name in tuned}


def pick(scores: Mapping[float, Sequence[float]]) -> float:
    """Return the value with the highest median score, the first of equals; NaN scores count as the lowest.

    >>> pick({1.0: [70.0, 71.0, 60.0], 0.9: [69.0, 72.0, 72.0]})
    0.9
    """
    return max(scores, key=lambda value: statistics.median(-math.inf if math.isnan(x) else x for x in scores[value]))


def write(config: Config, chosen: Mapping[str, Mapping[str, Any]]) -> Path:
    """Add tuned values (key -> layer-wise decay and the scores behind it) to the store's file; return its path."""
    path = Path(config.paths.store).expanduser() / FILE
    with FileLock(f"{path}.lock"):  # another process may be tuning another task
        write_text(path, json.dumps({**_load(path), **chosen}, indent=1, sort_keys=True))
    return path


def _load(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            return {}
    except OSError as error:
        raise StoreError(f"paths.store: cannot read {path} ({error.strerror}); give another folder") from error
    try:
        tuned = json.loads(path.read_text())
        if not isinstance(tuned, dict):
            raise StoreError("not a JSON object")
        for name, value in tuned.items():
            if not isinstance(value, dict):
                raise StoreError(f"{name} is not a JSON object")
            check_fields(value, {"layerwise_decay": float})
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it, and run `bam tune` again") from error
    return tuned
