"""The data side of Lightning: one mixed stream to train on, length-sorted blocks to predict on.

S optimizer steps, B examples a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from bam_lightning.config.signals import ignore_sigterm_in_worker
from bam_lightning.data.collate import Examples, collate, length_batches, split_across_ranks, token_budget_batches
from bam_lightning.data.sampling import PAD_INDEX, Stream
from bam_lightning.models.batch import Batch
from bam_lightning.training import distributed


class StepsFrom(Sampler[int]):
    """The steps that are still to be done, out of all: it yields the rest, but is as long as the whole.

    Lightning goes on counting batches at the step it stopped at, so a length of the rest would end its epoch early.
    """

    def __init__(self, done: int, steps: int) -> None:
        self.done, self.steps = done, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done, self.steps))

    def __len__(self) -> int:
        return self.steps


class StepLoader(DataLoader):
    """Yields optimizer steps from a given one on. Its place is the trainer's own step count, so it has no state."""

    def __init__(self, steps: Dataset, done: int, workers: int, pin: bool = False) -> None:
        order = StepsFrom(done, len(steps))  # type: ignore[arg-type]
        super().__init__(
            steps,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            worker_init_fn=ignore_sigterm_in_worker,
            pin_memory=pin,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; the method tells Lightning that the loader can go on in mid-epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the loader was made for the step to go on at."""


class Steps(Dataset[list[Batch]]):
    """Item s: the examples of optimizer step s that belong to this process, as micro-batches."""

    def __init__(
        self, tasks: Mapping[str, Examples], stream: Stream, pad_id: int, call_tokens: int, rank: int, processes: int
    ) -> None:
        self.tasks, self.pad_id, self.call_tokens = tasks, pad_id, call_tokens
        self.rows, self.rank, self.processes = stream.rows, rank, processes
        self.names = np.asarray(list(tasks), dtype=object)
        self.firsts = np.cumsum([0, *(len(task.labels) for task in tasks.values())])
        self.lengths = np.concatenate([task.tokens.lengths for task in tasks.values()])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, step: int) -> list[Batch]:
        rows = self.rows[step]
        rows = rows[rows != PAD_INDEX]
        rows = rows[split_across_ranks(self.lengths[rows], self.rank, self.processes)]
        numbers = np.searchsorted(self.firsts, rows, side="right") - 1
        batches = []
        for group in token_budget_batches(self.lengths[rows], self.call_tokens):
            task_of = self.names[numbers[group]]
            local = rows[group] - self.firsts[numbers[group]]
            batches.append(collate(self.tasks, task_of.tolist(), local, self.pad_id))
        return batches


class Blocks(Dataset[Batch]):
    """One task's rows, sorted by length and cut into blocks: nearly no padding, every row once."""

    def __init__(self, name: str, examples: Examples, pad_id: int, rank: int, processes: int) -> None:
        self.name, self.examples, self.pad_id = name, examples, pad_id
        mine = np.argsort(examples.tokens.lengths, kind="stable")[rank::processes]  # each process its share of lengths
        self.blocks = [mine[block] for block in length_batches(examples.tokens.lengths[mine])]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, number: int) -> Batch:
        rows = self.blocks[number]
        return collate({self.name: self.examples}, [self.name] * len(rows), rows, self.pad_id)


class MultiTaskData(pl.LightningDataModule):
    """The examples of all tasks of a Run.

    Args:
        train: task name -> training examples, in the order that ``stream`` numbers them.
        predict: what to predict on: task name -> examples.
        stream: the whole order of training.
        pad_id: token id that fills up.
        call_tokens: see ``split_by_length``.
        workers: loader processes.
    """

    def __init__(
        self,
        train: Mapping[str, Examples],
        predict: Mapping[str, Examples],
        stream: Stream,
        pad_id: int,
        call_tokens: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.predict, self.stream = train, predict, stream
        self.pad_id, self.call_tokens, self.workers = pad_id, call_tokens, workers

    def train_dataloader(self) -> StepLoader:
        """Return the steps that are still to be done."""
        rank, processes = distributed.rank(), distributed.processes()
        steps = Steps(self.train, self.stream, self.pad_id, self.call_tokens, rank, processes)
        done = self.trainer.global_step if self.trainer else 0
        # a copy from ordinary memory would wait for the GPU to have done all that it was asked before
        pin = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return StepLoader(steps, done, self.workers, pin)

    def predict_dataloader(self) -> list[DataLoader]:
        """Return one loader per task, in the order of ``predict``."""
        rank, processes = distributed.rank(), distributed.processes()
        return [
            DataLoader(Blocks(name, examples, self.pad_id, rank, processes), batch_size=None)
            for name, examples in self.predict.items()
        ]
