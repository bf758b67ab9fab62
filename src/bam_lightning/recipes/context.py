"""What every Run of a job shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bam_lightning.config.job_config import Config
from bam_lightning.data.examples import TaskExamples, TaskSplit
from bam_lightning.store.run_spec import TEST, TRAIN, PredictionRequest
from bam_lightning.store.run_store import Store
from bam_lightning.training.distributed import rank


class Others(Protocol):
    """The other ranks of a job, as rank 0 reaches them."""

    def keep_alive(self) -> None:
        """Let the other ranks wait on."""

    def together(self, name: str, *what: Any) -> AbstractContextManager[None]:
        """Tell them what to do, for what is done with them within."""


@dataclass(frozen=True)
class Context:
    """What every Run of a job shares.

    ``rows``: checked training and dev rows of each task; ``texts``: to pretrain on; ``output``: folder for loggers;
    ``listener``: told each optimizer step; ``tests``: unlabelled rows to predict, where asked for; ``others``: the
    processes that train with this one, if there are any.
    """

    config: Config
    rows: Mapping[str, TaskExamples]
    texts: list[str]
    store: Store
    output: Path
    listener: Callable[[int], None] = field(default=lambda step: None)
    tests: Mapping[str, TaskSplit] = field(default_factory=dict)
    others: Others | None = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process plans and writes."""
        return rank() == 0

    def rows_of(self, one: PredictionRequest) -> TaskSplit:
        """Return the rows that are to be predicted."""
        if one.split == TEST:
            return self.tests[one.task]
        return self.rows[one.task].train if one.split == TRAIN else self.rows[one.task].dev

    def together(self, name: str, *what: Any) -> AbstractContextManager[None]:
        """Have the other processes, where there are any, do what is done within."""
        return self.others.together(name, *what) if self.others else nullcontext()
