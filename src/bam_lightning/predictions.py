"""A Run's logits on rows of its tasks: dev for its scores, train for its students, test for a submission.

They are computed once, in eval mode, and kept in the store by row content. N rows, K outputs of a head."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from bam_lightning.batching import Examples
from bam_lightning.context import Context
from bam_lightning.datamodule import MultiTaskData
from bam_lightning.module import BamModule
from bam_lightning.run import Wanted
from bam_lightning.sources import Rows


def predict(
    module: BamModule, trainer: pl.Trainer, data: MultiTaskData, examples: Examples, head: str
) -> NDArray[np.float32]:
    """Return the logits ``[N, K]`` of ``head`` for the examples, in their order."""
    data.predict = {head: examples}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are made in under 1 ms
        parts: list[Any] = trainer.predict(module, datamodule=data) or []
    index = np.concatenate([part[head][0].cpu().numpy() for part in parts])
    logits = np.concatenate([part[head][1].float().cpu().numpy() for part in parts])
    return logits[np.argsort(index, kind="stable")]


def write(
    run_id: str, every: Sequence[Wanted], context: Context, logits_of: Callable[[Rows, str], NDArray[np.float32]]
) -> None:
    """Predict and keep ``every``; ``logits_of(rows, head)`` does the work."""
    for one in every:
        chosen = context.rows_of(one)
        context.store.write_outputs(run_id, one.task, one.split, chosen.keys, logits_of(chosen, one.head))
