"""What every Run of a job shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bam_lightning.config import Config
from bam_lightning.run import TEST, TRAIN, Wanted
from bam_lightning.sources import Rows, TaskRows
from bam_lightning.store import Store


@dataclass(frozen=True)
class Context:
    """What every Run of a job shares.

    ``rows``: checked training and dev rows of each task; ``texts``: to pretrain on; ``output``: folder for loggers;
    ``listener``: told each optimizer step; ``tests``: unlabelled rows to predict, where asked for.
    """

    config: Config
    rows: Mapping[str, TaskRows]
    texts: list[str]
    store: Store
    output: Path
    listener: Callable[[int], None] = field(default=lambda step: None)
    tests: Mapping[str, Rows] = field(default_factory=dict)

    def rows_of(self, one: Wanted) -> Rows:
        """Return the rows that are to be predicted."""
        if one.split == TEST:
            return self.tests[one.task]
        return self.rows[one.task].train if one.split == TRAIN else self.rows[one.task].dev
