"""This library's sides of the benchmarks. Each trains on a ``Work``; see ``found`` for what it returns.

The clock starts after ``WARM`` steps, when all memory is there and all kernels are chosen."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from workload import Work, build_encoder, with_teachers

from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.data.collate import SharedRows
from bam_lightning.data.sampling import Sampler, SizeProportionalSampler, Stream
from bam_lightning.models import hardware, kernels
from bam_lightning.models.encoder import CALL_TOKENS
from bam_lightning.models.heads import Head
from bam_lightning.models.kernels import bert_layers, dropout
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.loaders import MinibatchMaker, Placement
from bam_lightning.training.module import BamModule
from bam_lightning.training.trainer import make_trainer

WARM = 8


def found(seconds: float, steps: int, tokens: int) -> dict[str, float]:
    """Return what a side says of ``steps`` with so many real tokens; ``peak_mib`` is the process's, from its start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "steps": steps, "tokens": tokens, "rate": tokens / seconds, "peak_mib": round(peak)}


class FixedSampler(Sampler):
    """A stream whose rows ``[S, B]`` are given; they are one epoch."""

    def __init__(self, rows: NDArray[np.int32]) -> None:
        self.rows = rows

    def epoch_length(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Return S."""
        return len(self.rows)

    def steps(self, sizes: Mapping[str, int], epochs: float, batch_size: int) -> int:
        """Return S."""
        return len(self.rows)

    def stream(self, sizes: Mapping[str, int], steps: int, batch_size: int, seed: int) -> Stream:
        """Return the first ``steps`` minibatches."""
        return Stream(self.rows[:steps], self.weights(sizes))


class Clock(pl.Callback):
    """Notes when each step begins and ends; if ``alternate``, of each pair of steps one loses its teachers, in turn the
    second and the first: the first of two like minibatches is the slower one."""

    def __init__(self, alternate: bool = False) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.cpu: list[float] = []  # seconds of the process at the end of each step
        self.alternate = alternate

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, number: int) -> None:
        """Note the time."""
        if self.alternate and number % 4 in (1, 2):
            batch.tasks = {task: part._replace(teacher=None) for task, part in batch.tasks.items()}
        self.begun.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.ended.append(time.perf_counter())
        self.cpu.append(time.process_time())


def train(
    work: Work,
    clock: pl.Callback,
    teachers: bool,
    sizes: dict[str, Any] | None = None,
    compiled: bool = False,
    call_tokens: int = CALL_TOKENS,
    shared: Mapping[str, SharedRows] | None = None,
) -> None:
    """Train with this library's loader, module and Lightning's Trainer, as a Run does."""
    hardware.prepare()
    encoder = build_encoder(work, sizes)
    encoder.call_tokens = call_tokens
    if compiled:
        encoder.compile_layers()
    heads = {
        name: instantiate(name, {"width": encoder.width, **work.config.suite.tasks[name].head.arguments()}, Head)
        for name in work.examples
    }
    rows = work.stream.rows
    data = ExamplesDataModule(
        with_teachers(work) if teachers else work.examples,
        sampler=FixedSampler(rows),
        batch_size=rows.shape[1],
        shared=shared,
    )
    module = BamModule(model=MultiTaskModel(encoder, heads), learning_rate=5e-5, layerwise_decay=0.9)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainerConfig(extra={"limit_val_batches": 0})
        trainer = make_trainer(settings, Path(folder), len(rows), callbacks=[clock])
        trainer.fit(module, datamodule=data)


def ours(work: Work) -> dict[str, float]:
    """Train on gold."""
    clock = Clock()
    train(work, clock, teachers=False)
    lengths, seconds = work.lengths[WARM:], clock.ended[-1] - clock.ended[WARM - 1]
    return found(seconds, len(lengths), int(lengths.sum())) | {
        "row_rate": lengths.size / seconds,
        "rows_a_cpu_second": lengths.size / (clock.cpu[-1] - clock.cpu[WARM - 1]),
    }


def shared_labels(work: Work) -> dict[str, float]:
    """Train on three labels of the same rows; a drawn row brings all of them."""
    return _three_labels(work, together=True)


def labels_apart(work: Work) -> dict[str, float]:
    """Train on three labels of the same rows, each as a task with rows of its own."""
    return _three_labels(work, together=False)


def _three_labels(work: Work, together: bool) -> dict[str, float]:
    ((name, one),) = work.examples.items()
    count = min(len(one.labels), 8_000)
    rows = one._replace(tokens=one.tokens._replace(offsets=one.tokens.offsets[: count + 1]), labels=one.labels[:count])
    names = [f"{name}_{number}" for number in range(3)]
    work.config.suite.tasks.update(dict.fromkeys(names, work.config.suite.tasks[name]))
    steps, batch = work.stream.rows.shape
    sizes = {"rows": count} if together else dict.fromkeys(names, count)
    stream = SizeProportionalSampler(1.0).stream(sizes, steps, batch, seed=0)
    shared = {"rows": SharedRows(dict.fromkeys(names, np.arange(count)))} if together else {}
    clock = Clock()
    train(
        dataclasses.replace(work, examples=dict.fromkeys(names, rows), stream=stream), clock, teachers=False,
        shared=shared,
    )  # fmt: skip
    seconds = clock.ended[-1] - clock.ended[WARM - 1]
    texts = (steps - WARM) * batch / seconds
    tokens = int(rows.tokens.lengths[stream.rows[WARM:] % count].sum())
    more = {"texts_per_second": texts, "labels_per_second": texts * (3 if together else 1)}
    return found(seconds, steps - WARM, tokens) | more


def plain(work: Work) -> dict[str, float]:
    """Train as ``ours``, without the kernels written for a CPU."""
    kernels.enable(False)
    return ours(work)


def plain_layers(work: Work) -> dict[str, float]:
    """Train as ``ours``, with the layers of transformers."""
    with mock.patch.object(bert_layers, "supports_fused", return_value=False):
        return ours(work)


def plain_dropout(work: Work) -> dict[str, float]:
    """Train as ``ours``, with torch's random numbers for dropout."""
    with mock.patch.object(dropout, "_draws", lambda count: torch.empty(count, dtype=torch.int64).random_().numpy()):
        return ours(work)


def handed_back(work: Work) -> dict[str, float]:
    """Train as ``ours``, with the C library's own way of freeing memory."""
    with mock.patch.object(hardware, "prepare"):
        return ours(work)


def distilled(work: Work) -> dict[str, float]:
    """Train on every minibatch twice in a row, with its teachers and without; return the times of such pairs of steps.

    ``ratio`` is the median over pairs; what a teacher's column adds to putting a minibatch together is counted in.
    """
    rows = np.repeat(work.stream.rows, 2, axis=0)
    doubled = dataclasses.replace(work, stream=work.stream._replace(rows=rows))
    clock = Clock(alternate=True)
    train(doubled, clock, teachers=True)
    spans = np.asarray(clock.ended) - np.asarray(clock.begun)
    pairs = spans[2 * WARM :].reshape(-1, 2)
    turned = np.arange(len(pairs)) % 2 == 1
    taught, plain = np.where(turned, pairs[:, 1], pairs[:, 0]), np.where(turned, pairs[:, 0], pairs[:, 1])
    gathered, bare = (collation(work, teachers) for teachers in (True, False))
    ratio = statistics.median((taught + gathered - bare) / plain)
    lengths = work.lengths[WARM:]
    share = gathered / (float(np.median(plain)) + gathered)
    whole = found(float(taught.sum()), len(lengths), int(lengths.sum()))
    return whole | {"ratio": ratio, "collation_share": share}


def collation(work: Work, teachers: bool) -> float:
    """Return the median seconds of putting a minibatch together."""
    examples = with_teachers(work) if teachers else work.examples
    maker, spans = MinibatchMaker(examples, work.stream.rows, 0, Placement()), []
    for number in itertools.islice(itertools.cycle(range(len(work.stream.rows))), 200):
        begun = time.perf_counter()
        maker(number)
        spans.append(time.perf_counter() - begun)
    return statistics.median(spans)


def limit(work: Work) -> dict[str, float]:
    """Compute the matrix products of the real tokens alone, in every layer; no training that does them all is faster.

    The rate is that of every linear layer forward and backward on a row of the mean minibatch's real tokens, nothing
    between them; attention's products of each text with itself are counted at that rate, which is more than they reach.
    The library leaves out some: behind its attention the top layer goes on with each text's first token alone. So
    ``ours`` is what the machine gives of this limit, not what it does of the arithmetic; ``left_out`` is the share of
    operations that it does not do.
    """
    config = build_encoder(work).body.config
    width, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    half = torch.bfloat16 if hardware.precision(TrainerConfig()) == "bf16-mixed" else torch.float32
    options: dict[str, Any] = {"dtype": half, "device": "cuda" if torch.cuda.is_available() else "cpu"}
    lengths = work.lengths[WARM:].astype(np.float64)
    count = round(float(lengths.sum(1).mean()))
    shapes = [(width, 3 * width), (width, width), (width, wide), (wide, width)]
    products = [
        (torch.randn(count, into, **options), torch.randn(out, into, **options), torch.randn(count, out, **options))
        for into, out in shapes
    ]
    for number in range(WARM + len(lengths)):
        if number == WARM:
            begun = _now()
        for _ in range(layers):
            for inputs, weight, flow in products:
                inputs @ weight.t()
                flow @ weight
                flow.t() @ inputs
    linear = 6 * layers * sum(into * out for into, out in shapes)  # operations a token
    seconds = (_now() - begun) / (count * len(lengths) * linear)  # of one operation
    needed = linear * lengths.sum() + 12 * layers * width * (lengths**2).sum()
    spared = 6 * (width * width + 2 * width * wide) * (lengths.sum() - lengths.size)
    told = {"operations": 1 / seconds, "left_out": float(spared / needed)}
    return found(seconds * needed, len(lengths), int(lengths.sum())) | told


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
