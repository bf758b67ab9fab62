"""What a step costs whatever its rows: the word embeddings' gradient, clipping, and AdamW; ours and torch's in turn."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from bam_lightning.models.kernels.sparse_embedding_grad import SparseEmbeddingGrad
from sides import WARM, found
from torch import Tensor, nn
from workload import Work, build_encoder

from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.training import hardware
from bam_lightning.training.optimizer import build_optimizer, clip_gradients, parameter_groups, set_rates

RATE, DECAY, LIMIT = 5e-5, 0.01, 1.0


def plain(encoder: Encoder) -> Callable[[], None]:
    """Return an update as Trainer makes it: a whole gradient, ``clip_grad_norm_``, torch's fused AdamW."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def update() -> None:
        nn.utils.clip_grad_norm_(encoder.parameters(), LIMIT)
        optimizer.step()
        optimizer.zero_grad()

    return update


def ours(encoder: Encoder) -> Callable[[], None]:
    """Return an update as ``BamModule`` makes it, with a rate for each layer."""
    groups = parameter_groups(encoder, nn.ModuleDict(), 0.9, DECAY)
    optimizer, rows = build_optimizer(groups, OptimizationConfig()), SparseEmbeddingGrad(encoder)

    def update() -> None:
        set_rates(optimizer, RATE)
        clip_gradients(encoder.parameters(), LIMIT, optimizer)
        with rows.whole():
            optimizer.step()
        optimizer.zero_grad()

    return update


def run(work: Work) -> dict[str, float]:
    """Return the median seconds of both, and ``ratio``: plain torch's time over ours, of each turn."""
    hardware.prepare()
    encoder = build_encoder(work)
    sides = [(one, make(one)) for one, make in ((copy.deepcopy(encoder), plain), (encoder, ours))]
    flat = np.concatenate([one.tokens.ids for one in work.examples.values()])
    spans = []
    for step, lengths in enumerate(work.lengths):
        ids = torch.from_numpy(flat[step : step + int(lengths.sum())].astype(np.int64))
        turn = [(number, _timed(*sides[number], ids)) for number in ((0, 1) if step % 2 else (1, 0))]
        spans.append([span for _, span in sorted(turn)])
    theirs, own = np.asarray(spans[WARM:]).T
    whole = found(float(own.sum()), len(own), int(work.lengths[WARM:].sum()))
    return whole | {"plain": statistics.median(theirs), "own": statistics.median(own),
                    "ratio": statistics.median(theirs / own)}  # fmt: skip


def _timed(encoder: Encoder, update: Callable[[], None], ids: Tensor) -> float:
    """Give every weight a gradient, and return the seconds from the words' on."""
    words = encoder.body.get_input_embeddings()
    for parameter in encoder.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3) if parameter is not words.weight else None
    vectors = words(ids)
    flow = torch.full_like(vectors, 1e-3)
    begun = time.perf_counter()
    vectors.backward(flow)
    update()
    return time.perf_counter() - begun
