"""Layer-wise decays chosen per single task on its dev set (section 4), kept in the store where plans read them.

A choice holds for a task's rows, an encoder and the training it was tried with; with any of them changed it is not
found."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from bam_lightning.config.exceptions import StoreError
from bam_lightning.config.job_config import Config
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.run_spec import to_json

FILE = "choices.json"


def key(task: str, config: Config, data: str, encoder: str) -> str:
    """Return what a choice is kept under: it holds for the training it was tried with, not for a shorter one, say."""
    training = to_json(asdict(config.optimization)) | {"max_steps": config.trainer.max_steps}
    for name in ("layerwise_decay", "chosen", "multi", "finetuning_rate"):
        training.pop(name)
    training["single"].pop("layerwise_decay")
    digest = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:12]
    return f"{task} {data} {encoder} {config.fidelity} {digest}"


def read(config: Config, fingerprints: Mapping[str, str], encoder: str) -> dict[str, float]:
    """Return task -> chosen layer-wise decay, for the tasks that have one.

    Raises:
        StoreError: for a file that is none of ours.
    """
    if not config.optimization.chosen:
        return {}
    kept = _load(Path(config.paths.store).expanduser() / FILE)
    keys = {task: key(task, config, data, encoder) for task, data in fingerprints.items()}
    return {task: float(kept[name]["layerwise_decay"]) for task, name in keys.items() if name in kept}


def pick(scores: Mapping[float, Sequence[float]]) -> float:
    """Return the value with the highest median score; the first of equals.

    >>> pick({1.0: [70.0, 71.0, 60.0], 0.9: [69.0, 72.0, 72.0]})
    0.9
    """
    return max(scores, key=lambda value: statistics.median(scores[value]))


def write(config: Config, chosen: Mapping[str, Mapping[str, Any]]) -> Path:
    """Add choices (key -> what was chosen, and from which scores) to the store's; return the file."""
    path = Path(config.paths.store).expanduser() / FILE
    with FileLock(f"{path}.lock"):  # another process may be choosing for another task
        write_text(path, json.dumps({**_load(path), **chosen}, indent=1, sort_keys=True))
    return path


def _load(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            return {}
    except OSError as error:
        raise StoreError(f"paths.store: cannot read {path} ({error.strerror}); give another folder") from error
    try:
        kept = json.loads(path.read_text())
        if not all(isinstance(one["layerwise_decay"], float) for one in kept.values()):
            raise StoreError("a layerwise_decay is no number")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is not a file of choices ({error}); delete it, and choose again") from error
    return dict(kept)
