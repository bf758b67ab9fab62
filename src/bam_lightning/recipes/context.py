"""What every Run of a job shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bam_lightning.config.job_config import Config, for_stage
from bam_lightning.data.examples import TaskExamples, TaskSplit, folds_of
from bam_lightning.store.run_spec import TEST, TRAIN, PredictionRequest
from bam_lightning.store.run_store import Store
from bam_lightning.training.distributed import rank


class Others(Protocol):
    """Rank 0's connection to the other ranks of a job."""

    def keep_alive(self) -> None:
        """Send a message so that the other ranks do not time out."""

    def together(self, name: str, *what: Any) -> AbstractContextManager[None]:
        """Have the other ranks run ``name`` with the arguments ``what`` while the context is open."""


@dataclass(frozen=True)
class Context:
    """What every Run of a job shares.

    Attributes:
        rows: Task -> its checked training and dev rows.
        texts: ``encoder.pretraining.source`` -> texts to pretrain on.
        output: Folder for loggers.
        listener: Called with the number of each optimizer step.
        tests: Task -> its unlabelled rows to predict, if ``data.test`` is set.
        scored: Task -> its dev rows, for tasks that are only scored, with the head of another one (``head_of``).
        others: The other ranks, on rank 0 of a job with several processes.
    """

    config: Config
    rows: Mapping[str, TaskExamples]
    texts: Mapping[tuple[tuple[str, ...], int], list[str]]
    store: Store
    output: Path
    listener: Callable[[int], None] = field(default=lambda step: None)
    tests: Mapping[str, TaskSplit] = field(default_factory=dict)
    scored: Mapping[str, TaskSplit] = field(default_factory=dict)
    others: Others | None = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process plans and writes."""
        return rank() == 0

    def of_stage(self, stage: str) -> Context:
        """Return the context with the encoder and the length of a stage."""
        return replace(self, config=for_stage(self.config, stage))

    @property
    def pretraining_texts(self) -> list[str]:
        """The texts that the encoder is pretrained on; none without ``encoder.pretraining``."""
        return self.texts.get(self.config.encoder.pretraining.source, [])

    def rows_of(self, request: PredictionRequest) -> TaskSplit:
        """Return the rows of a request."""
        if request.split == TEST:
            return self.tests[request.task]
        if request.task in self.scored:
            return self.scored[request.task]
        if request.split != TRAIN:
            return self.rows[request.task].dev
        train = self.rows[request.task].train
        if request.fold is None:
            return train
        number, count = request.fold
        return train.take(np.flatnonzero(folds_of(train.keys, count) == number))

    def together(self, name: str, *what: Any) -> AbstractContextManager[None]:
        """Have the other ranks, if there are any, run ``name`` while the context is open."""
        return self.others.together(name, *what) if self.others else nullcontext()
