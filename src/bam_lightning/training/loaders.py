"""Loaders of the data module: plain iterables, which Lightning takes as they are.

They read epoch, position, rank and world size from the Trainer when the first batch is asked for, so that one loader
serves a fresh fit, a resumed one, and any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.config.signals import ignore_sigterm_in_worker
from bam_lightning.data.collate import (
    Examples,
    SharedRows,
    collate,
    empty_batch,
    length_batches,
    split_across_ranks,
    stream_units,
    unit_lengths,
)
from bam_lightning.data.sampling import PAD_INDEX, Sampler
from bam_lightning.models.batch import Batch

Transform = Callable[[Batch, Tensor], Batch]


class Placement(NamedTuple):
    """What a loader reads from its Trainer."""

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    on_gpu: bool = False


def placement(trainer: Any) -> Placement:
    """Return the placement of this process; that of a single process where there is no Trainer."""
    if trainer is None:
        return Placement()
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return Placement(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches, on_gpu)


class BatchSource(Dataset[Batch]):
    """Makes batches by number, in the main process or in workers of a DataLoader."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Batch:
        return self.make(number)


def iterate(make: Callable[[int], Batch], numbers: Sequence[int], workers: int, pin: bool) -> Iterator[Batch]:
    """Yield the batches of these numbers, in their order, made by worker processes where there are any."""
    if workers or pin:
        yield from DataLoader(
            BatchSource(make),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            worker_init_fn=ignore_sigterm_in_worker,
            pin_memory=pin,
        )
    else:
        yield from map(make, numbers)


class TrainLoader:
    """The mixed stream of an epoch, from the batch on that the Trainer stands at.

    Epoch e is batches [e L, (e + 1) L) of one endless stream. A step's rows are drawn together and cut into as many
    batches as accumulate to one step, so that 32 x 4 and 128 x 1 see the same rows.

    Args:
        examples: task -> its training examples.
        sampler: of the stream.
        batch_size: examples of a batch, over all ranks.
        seed: of the stream.
        workers: loader processes.
        trainer: returns the Trainer, or ``None``.
        transform: makes a rank's batch of a whole minibatch and ``[S]`` which of its texts are the rank's.
        shared: name -> rows that several tasks share; ``batch_size`` counts them once.
        merge_equal_texts: encode texts of equal tokens once; shared rows always are.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        sampler: Sampler,
        batch_size: int,
        seed: int,
        workers: int,
        trainer: Callable[[], Any],
        transform: Transform | None = None,
        shared: Mapping[str, SharedRows] | None = None,
        merge_equal_texts: bool = False,
    ) -> None:
        # not "sampler": Lightning would replace one of that name under overfit_batches
        self.examples, self.task_sampler, self.batch_size = examples, sampler, batch_size
        self.seed, self.workers, self.trainer, self.transform = seed, workers, trainer, transform
        self.shared = dict(shared or {})
        self.sizes = stream_units(examples, self.shared)
        self.merge = merge_equal_texts or bool(self.shared)
        self._epochs_without_trainer = 0

    def __len__(self) -> int:
        """Number of batches of an epoch, filled up to whole steps."""
        accumulate = placement(self.trainer()).accumulate
        return self.task_sampler.epoch_length(self.sizes, self.batch_size * accumulate) * accumulate

    def __iter__(self) -> Iterator[Batch]:
        return self._epoch()

    def _epoch(self) -> Iterator[Batch]:  # a generator: nothing is read before the first batch is asked for
        trainer = self.trainer()
        place = placement(trainer)
        number, position = self._place(trainer, place)
        steps = len(self) // place.accumulate
        rows = self.task_sampler.epoch(self.sizes, self.batch_size * place.accumulate, self.seed, number, steps)
        maker = MinibatchMaker(
            self.examples,
            rows.reshape(-1, self.batch_size),
            number * len(self),
            place,
            self.transform,
            self.shared,
            self.merge,
        )
        yield from iterate(maker, range(position, len(self)), self.workers, place.on_gpu)

    def _place(self, trainer: Any, place: Placement) -> tuple[int, int]:
        """Return the epoch, and the number of its batches that have been trained on."""
        if trainer is None or not trainer.training:
            self._epochs_without_trainer += 1
            return self._epochs_without_trainer - 1, 0
        limit = trainer.num_training_batches
        batches = len(self) if limit == float("inf") else min(len(self), int(limit))
        steps = -(-batches // place.accumulate)
        number, step = divmod(trainer.global_step, steps)
        position = step * place.accumulate
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if ready != position:
            raise TrainingError(
                f"the Trainer stands at batch {ready} of an epoch, but {trainer.global_step} optimizer steps of "
                f"{place.accumulate} batches, {batches} batches an epoch, end at batch {position}; resume with the "
                "Trainer's options of the first fit"
            )
        return 0 if trainer.overfit_batches else number, position

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the Trainer's step count says where to go on. Lightning asks for the method."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class MinibatchMaker:
    """Makes minibatch k of an epoch: the rows that belong to this rank.

    Args:
        examples: task -> its training examples.
        rows: ``[L, B]`` row numbers through all tasks, shared rows counted once.
        first: number of the epoch's first minibatch in the stream.
        place: of this process.
        transform: see ``TrainLoader``.
        shared: see ``TrainLoader``.
        merge: whether texts of equal tokens are encoded once.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        rows: NDArray[np.int32],
        first: int,
        place: Placement,
        transform: Transform | None = None,
        shared: Mapping[str, SharedRows] | None = None,
        merge: bool = False,
    ) -> None:
        self.examples, self.rows, self.first, self.place, self.transform = examples, rows, first, place, transform
        self.shared, self.merge = dict(shared or {}), merge
        units = stream_units(examples, self.shared)
        self.names = np.asarray(list(units), dtype=object)
        self.firsts = np.cumsum([0, *units.values()])
        self.lengths = unit_lengths(examples, self.shared)

    def __call__(self, number: int) -> Batch:
        rows = self.rows[number]
        rows = rows[rows != PAD_INDEX]
        lengths = self.lengths[rows]
        mine = np.arange(len(rows))
        if self.place.world_size > 1:
            mine = split_across_ranks(lengths, self.place.rank, self.place.world_size)
        index = self.first + number
        if self.transform is not None:  # it sees the whole minibatch, so that ranks draw the same random numbers
            keep = np.isin(np.argsort(lengths, kind="stable"), mine)
            return self.transform(self._collate(rows, index), torch.from_numpy(keep))
        return self._collate(rows[mine], index) if len(mine) else empty_batch(self.examples, index)

    def _collate(self, rows: NDArray[np.int32], index: int) -> Batch:
        units = np.searchsorted(self.firsts, rows, side="right") - 1
        tasks, numbers = self.names[units], rows - self.firsts[units]
        if self.shared:
            tasks, numbers = self._spread(tasks, numbers)
        batch = collate(self.examples, tasks, numbers, index)
        return batch.merge_equal_texts() if self.merge else batch

    def _spread(
        self, units: NDArray[np.object_], numbers: NDArray[np.integer]
    ) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
        """Return the tasks that label the drawn rows, and the rows' numbers among their examples."""
        tasks: list[str] = []
        found: list[int] = []
        for unit, number in zip(units.tolist(), numbers.tolist(), strict=True):
            if unit not in self.shared:
                tasks.append(unit)
                found.append(number)
                continue
            for task, rows in self.shared[unit].rows.items():
                if rows[number] >= 0:
                    tasks.append(task)
                    found.append(int(rows[number]))
        return np.asarray(tasks, dtype=object), np.asarray(found, dtype=np.int64)


class EvalLoader:
    """Every row of one task once, in batches of like length.

    The batches come in a fixed random order, so that ``limit_val_batches`` sees a fair sample. All ranks get equally
    many; a rank that has none left gets a batch without examples.

    Args:
        task: name of the task.
        examples: its rows.
        workers: loader processes.
        trainer: returns the Trainer, or ``None``.
    """

    def __init__(self, task: str, examples: Examples, workers: int, trainer: Callable[[], Any]) -> None:
        self.task, self.workers, self.trainer = task, workers, trainer
        self.examples = {task: Examples(examples.tokens, examples.labels, references=examples.references)}
        batches = length_batches(examples.tokens.lengths)
        order = np.random.default_rng(len(batches)).permutation(len(batches))
        self.batches = [batches[number] for number in order]

    def __len__(self) -> int:
        """Number of batches of each rank."""
        return -(-len(self.batches) // placement(self.trainer()).world_size)

    def __iter__(self) -> Iterator[Batch]:
        place = placement(self.trainer())
        mine = range(place.rank, len(self) * place.world_size, place.world_size)
        yield from iterate(self._make, mine, self.workers, place.on_gpu)

    def _make(self, number: int) -> Batch:
        if number >= len(self.batches):
            return empty_batch(self.examples)
        rows = self.batches[number]
        return collate(self.examples, [self.task] * len(rows), rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the Trainer out: worker processes only make batches."""
        return {**vars(self), "trainer": None}
