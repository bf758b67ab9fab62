"""What every Run of a job shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bam_lightning.config import Config
from bam_lightning.sources import TaskRows
from bam_lightning.store import Store


@dataclass(frozen=True)
class Context:
    """What every Run of a job shares: config, checked rows of each task, pretraining texts, store, output folder."""

    config: Config
    rows: Mapping[str, TaskRows]
    texts: list[str]
    store: Store
    output: Path
    listener: Callable[[int], None] = field(default=lambda step: None)
