"""The mixed stream: which training row stands in which place of which optimizer step (section 4).

A stream is endless, and a pure function of sizes, batch size and seed; epoch e is its minibatches [eL, (e + 1)L).
So a resumed run goes on at its step, and N processes read N shares of the same rows. An epoch is as many examples
as there are training rows, over all tasks, copies counted. Rows of all tasks are numbered through, in the order of
``sizes``: task 0 has rows 0 .. n0 - 1, task 1 the next n1, and so on. S steps, B rows a step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PAD_INDEX = -1  # a place without an example: the last step of an epoch of copies may have some


class Stream(NamedTuple):
    """``rows``: int32 ``[S, B]`` row numbers or ``PAD_INDEX``; ``weights``: factor on each task's example losses."""

    rows: NDArray[np.int32]
    weights: dict[str, float]


def size_power(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Return p(task) proportional to ``size ** exponent`` (section 4, after Bowman et al. 2018).

    >>> size_power({"a": 1, "b": 16}, 0.75)
    {'a': 0.1111111111111111, 'b': 0.8888888888888888}
    """
    powers = {task: float(size) ** exponent for task, size in sizes.items()}
    total = math.fsum(powers.values())
    return {task: power / total for task, power in powers.items()}


def count_steps(sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
    """Return the optimizer steps of ``epochs`` passes over as many examples as there are rows, rounded up.

    >>> count_steps({"rte": 2490}, epochs=3, batch_size=32)
    234
    """
    return max(1, math.ceil(epochs * sum(sizes.values()) / batch_size - 1e-9))


def _check_exponent(exponent: float) -> None:
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)) or not 0 <= exponent <= 1:
        raise ValueError(f"exponent must be a number from 0 (uniform) to 1 (proportional), got {exponent!r}")


class Sampler(ABC):
    """An endless stream of minibatches: a pure function of the sizes of the tasks, the batch size and a seed.

    Rows are numbered through all tasks in their order: the first row of the second task is ``sizes[0]``.
    """

    @abstractmethod
    def epoch_length(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Return the number of minibatches of an epoch."""

    @abstractmethod
    def steps(self, sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
        """Return the number of minibatches of ``epochs`` epochs, fractions included."""

    @abstractmethod
    def stream(self, sizes: Mapping[str, int], steps: int, batch_size: int, seed: int) -> Stream:
        """Return the first ``steps`` minibatches."""

    def single_task_steps(self, size: int, epochs: float, batch_size: int) -> int:
        """Return the number of minibatches of a single task of ``size`` rows, which is trained without a sampler."""
        return count_steps({"task": size}, epochs, batch_size)

    def weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return the factor on each task's example losses."""
        return dict.fromkeys(sizes, 1.0)

    def epoch(
        self, sizes: Mapping[str, int], batch_size: int, seed: int, number: int, length: int | None = None
    ) -> NDArray[np.int32]:
        """Return the row numbers ``[L, B]`` of an epoch; places without a row hold ``PAD_INDEX``.

        Args:
            sizes: task -> number of rows.
            batch_size: B.
            seed: of the order.
            number: of the epoch, from 0.
            length: L, if not that of ``epoch_length``.
        """
        length = self.epoch_length(sizes, batch_size) if length is None else length
        return self.stream(sizes, (number + 1) * length, batch_size, seed).rows[number * length :]


@dataclass(frozen=True)
class SizeProportionalSampler(Sampler):
    """True sampling: each place draws its task with p proportional to ``size ** exponent``.

    Exponent 1 is proportional, 0 uniform. Within a task, rows come without replacement, in passes of
    their own: a small task starts its next pass when it is through. The length of training does not depend on
    the exponent, so ``match_length_of`` (see ``ReplicationSampler``) changes nothing here.
    """

    exponent: float
    match_length_of: float | None = None

    def __post_init__(self) -> None:
        _check_exponent(self.exponent)
        _check_exponent(self.exponent if self.match_length_of is None else self.match_length_of)

    def steps(self, sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
        """Return the number of optimizer steps."""
        return count_steps(sizes, epochs, batch_size)

    def epoch_length(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Return the number of minibatches that hold as many examples as there are rows."""
        return count_steps(sizes, 1, batch_size)

    def stream(self, sizes: Mapping[str, int], steps: int, batch_size: int, seed: int) -> Stream:
        """Return the whole order of a training run."""
        probabilities = size_power(sizes, self.exponent)
        rng = np.random.default_rng([seed, 0])
        tasks = rng.choice(len(sizes), size=steps * batch_size, p=list(probabilities.values()))
        rows = np.empty(steps * batch_size, dtype=np.int32)
        first = 0
        for number, size in enumerate(sizes.values()):
            places = np.flatnonzero(tasks == number)
            rows[places] = first + _passes(size, len(places), np.random.default_rng([seed, 1, number]))
            first += size
        return Stream(rows.reshape(steps, batch_size), dict.fromkeys(sizes, 1.0))


def _passes(size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    passes = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate([np.empty(0, dtype=np.int64), *passes])[:count]


@dataclass(frozen=True)
class ReplicationSampler(Sampler):
    """The reference code's balance: whole copies of small tasks, and loss weights for the remainder.

    Copies bring each task near ``size ** exponent``, weights the rest of the way. ``reference_size`` is the size that
    gets one copy (default: the largest task here; the reference code always takes MNLI's 392,702). The code
    shuffles once and repeats that order; here every epoch is shuffled anew. With fewer copies training is
    shorter; ``match_length_of`` is the exponent whose length it is to have, for comparisons at equal steps.
    """

    exponent: float
    reference_size: int | None = None
    match_length_of: float | None = None

    def __post_init__(self) -> None:
        _check_exponent(self.exponent)
        _check_exponent(self.exponent if self.match_length_of is None else self.match_length_of)
        if self.reference_size is not None and not (isinstance(self.reference_size, int) and self.reference_size > 0):
            raise ValueError(f"reference_size must be a number of rows above 0, or null, got {self.reference_size!r}")

    def copies(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return how often each task stands in an epoch; a task of the reference size stands in it once.

        >>> ReplicationSampler(0.75).copies({"mnli": 392702, "rte": 2490, "cola": 8551})
        {'mnli': 1, 'rte': 4, 'cola': 3}
        """
        largest = self.reference_size or max(sizes.values())
        target = {task: size**self.exponent * largest ** (1 - self.exponent) for task, size in sizes.items()}
        return {task: max(1, round((target[task] + 0.01) / size)) for task, size in sizes.items()}

    def weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return the factor on each task's losses; their mean over tasks is 1."""
        copies = self.copies(sizes)
        raw = {task: p / (sizes[task] * copies[task]) for task, p in size_power(sizes, self.exponent).items()}
        mean = math.fsum(raw.values()) / len(raw)
        return {task: weight / mean for task, weight in raw.items()}

    def epoch_length(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Return the number of minibatches of an epoch, copies counted."""
        copies = self.copies(sizes)
        return -(-sum(copies[task] * size for task, size in sizes.items()) // batch_size)

    def steps(self, sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
        """Return the number of optimizer steps: an epoch is filled up to whole batches.

        >>> ReplicationSampler(0.75, reference_size=392702).steps({"rte": 2490, "mrpc": 7336}, epochs=6, batch_size=128)
        1500
        """
        exponent = self.exponent if self.match_length_of is None else self.match_length_of
        copies = replace(self, exponent=exponent).copies(sizes)
        epoch = -(-sum(copies[task] * size for task, size in sizes.items()) // batch_size)
        return max(1, int(epoch * epochs))

    def single_task_steps(self, size: int, epochs: float, batch_size: int) -> int:
        """Return the number of optimizer steps of a single task: one copy, and whole minibatches in every epoch.

        >>> ReplicationSampler(0.75).single_task_steps(8551, epochs=3, batch_size=32)  # reference code, CoLA
        804
        """
        return max(1, int(-(-size // batch_size) * epochs))

    def stream(self, sizes: Mapping[str, int], steps: int, batch_size: int, seed: int) -> Stream:
        """Return the whole order of a training run."""
        copies = self.copies(sizes)
        firsts = np.cumsum([0, *sizes.values()])
        parts = [
            np.tile(np.arange(first, first + size, dtype=np.int32), copies[task])
            for (task, size), first in zip(sizes.items(), firsts, strict=False)
        ]
        epoch = np.concatenate(parts)
        empty = np.full(-len(epoch) % batch_size, PAD_INDEX, dtype=np.int32)
        epoch = np.concatenate([epoch, empty])
        count = -(-steps * batch_size // len(epoch))
        orders = [np.random.default_rng([seed, 2, e]).permutation(epoch) for e in range(count)]
        rows = np.concatenate(orders)[: steps * batch_size].reshape(steps, batch_size)
        return Stream(rows, self.weights(sizes))


@dataclass(frozen=True)
class TaskHomogeneousSampler(Sampler):
    """Minibatches of one task each, in random order: MT-DNN's training (Liu et al. 2019, algorithm 1).

    An epoch has each task's rows once, in minibatches of its own; the last minibatch of a task may be short.
    Minibatches of all tasks are shuffled together. A task counts by its size: there is no exponent.
    """

    match_length_of: float | None = None  # as of the other samplers; it changes nothing here

    def epoch_length(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Return the number of minibatches of an epoch.

        >>> TaskHomogeneousSampler().epoch_length({"rte": 70, "mrpc": 32}, batch_size=32)
        4
        """
        return sum(-(-size // batch_size) for size in sizes.values())

    def steps(self, sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
        """Return the number of optimizer steps."""
        return max(1, math.ceil(epochs * self.epoch_length(sizes, batch_size) - 1e-9))

    def stream(self, sizes: Mapping[str, int], steps: int, batch_size: int, seed: int) -> Stream:
        """Return the whole order of a training run."""
        firsts = np.cumsum([0, *sizes.values()])
        epochs = []
        for epoch in range(-(-steps // self.epoch_length(sizes, batch_size))):
            rng, parts = np.random.default_rng([seed, 3, epoch]), []
            for size, first in zip(sizes.values(), firsts, strict=False):
                rows = np.full(-(-size // batch_size) * batch_size, PAD_INDEX, dtype=np.int32)
                rows[:size] = first + rng.permutation(size)
                parts.append(rows.reshape(-1, batch_size))
            epochs.append(rng.permutation(np.concatenate(parts)))
        return Stream(np.concatenate(epochs)[:steps], dict.fromkeys(sizes, 1.0))
