"""BERT-Large with random weights on rows of GLUE's lengths, 128 a step: packed, with its layers compiled and without,
and padded to the longest."""

from __future__ import annotations

import os
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
from sides import WARM, found, train
from workload import SHAPES, Work, make

from bam_lightning.models.encoder import CALL_TOKENS, Encoder

LARGE = {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096}  # fmt: skip
# operations a second in bfloat16 without sparsity, as the makers state them
PEAKS = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "H200 NVL": 835e12, "H100 NVL": 835e12, "H100 PCIe": 756e12,
         "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12}  # fmt: skip
STEPS = 40
ONE_CALL = 1 << 30  # tokens that a call costs, so that the minibatch is padded as a whole


class Span(pl.Callback):
    """Notes when ``WARM`` steps are done and when all are; only there does it have the host wait for the device."""

    def __init__(self, steps: int) -> None:
        self.marks, self.times = (WARM, steps), []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the time."""
        if trainer.global_step in self.marks:
            torch.cuda.synchronize()
            self.times.append(time.perf_counter())


def run(side: str) -> dict[str, float]:
    """Train ``packed``, ``compiled`` or ``padded``."""
    most = peak()  # a card that is not known is said at once
    work = make(list(SHAPES), 128, STEPS, "", "", "")
    clock = Span(STEPS)
    torch.cuda.reset_peak_memory_stats()
    call_tokens = ONE_CALL if side == "padded" else CALL_TOKENS
    with mock.patch.object(Encoder, "packs", side != "padded"):
        train(work, clock, teachers=True, sizes=LARGE, compiled=side == "compiled", call_tokens=call_tokens)
    seconds, lengths = clock.times[1] - clock.times[0], work.lengths[WARM:].astype(np.float64)
    told = found(seconds, len(lengths), int(lengths.sum()))
    told["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return told | {"mfu": operations(lengths) / seconds / most, "student_hours": _student_hours(work, seconds)}


def operations(lengths: np.ndarray) -> float:
    """Return the operations of training on texts of these lengths: 6 a weight and real token, and attention's."""
    width, wide, layers = LARGE["hidden_size"], LARGE["intermediate_size"], LARGE["num_hidden_layers"]
    weights = layers * (4 * width * width + 2 * width * wide)
    return float(6 * weights * lengths.sum() + 12 * layers * width * (lengths**2).sum())


def peak() -> float:
    """Return what the device could do at most; BENCH_PEAK_TFLOPS says it for one that is not known here."""
    told = os.environ.get("BENCH_PEAK_TFLOPS")
    if told:
        return float(told) * 1e12
    name = torch.cuda.get_device_name()
    for known, rate in sorted(PEAKS.items(), key=lambda item: -len(item[0])):
        if known in name:
            return rate
    sys.exit(f"the peak of a {name} is not known here: set BENCH_PEAK_TFLOPS to its bfloat16 rate in 10^12/s")


def _student_hours(work: Work, seconds: float) -> float:
    rows = sum(shape.rows for shape in SHAPES.values())
    steps = rows * work.config.optimization.multi.epochs / 128
    return seconds / (STEPS - WARM) * steps / 3600
