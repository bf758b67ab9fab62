"""What both sides of a benchmark train on: the same token ids, labels and order of rows.

Real GLUE and a real encoder where ``BAM_GLUE_DIR`` and ``BAM_ENCODER_DIR`` name them; else generated rows with the
lengths of GLUE's tasks, and a BERT of MiniLM's sizes with random weights. S steps, B rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bam_lightning.config.compose import compose
from bam_lightning.config.job_config import Config
from bam_lightning.data.collate import Examples
from bam_lightning.data.examples import load_examples
from bam_lightning.data.sampling import SizeProportionalSampler, Stream
from bam_lightning.data.task import task_from_config
from bam_lightning.data.tokenization import Tokens, encode
from bam_lightning.models.encoder import Encoder, from_path, from_sizes, load_tokenizer


class Shape(NamedTuple):
    """Of a task of GLUE: training rows; mean and spread of the logarithm of a row's tokens, as MiniLM's tokenizer
    counts them, cut at 128; outputs of its head."""

    rows: int
    mean: float
    spread: float
    outputs: int


SHAPES = {
    "cola": Shape(8_551, 2.37, 0.33, 2),
    "sst2": Shape(67_349, 2.36, 0.68, 2),
    "mrpc": Shape(3_668, 3.94, 0.26, 2),
    "stsb": Shape(5_749, 3.23, 0.42, 1),
    "qqp": Shape(363_846, 3.36, 0.36, 2),
    "mnli": Shape(392_702, 3.58, 0.46, 3),
    "qnli": Shape(104_743, 3.84, 0.34, 2),
    "rte": Shape(2_490, 4.08, 0.48, 2),
}
SIZES = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536}  # fmt: skip
VOCABULARY, LONGEST = 30_522, 128


@dataclass(frozen=True)
class Work:
    """``encoder``: a folder, or none for random weights."""

    examples: dict[str, Examples]
    stream: Stream
    pad_id: int
    encoder: str | None
    config: Config

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each place of the stream ``[S, B]``."""
        return np.concatenate([one.tokens.lengths for one in self.examples.values()])[self.stream.rows]


def make(tasks: list[str], batch: int, steps: int, data: str, encoder: str, cache: str, share: int = 1) -> Work:
    """Return ``steps`` minibatches of ``batch`` rows of the tasks, sampled as a multi-task Run samples them.

    With a ``share`` above 1, they are of the first of so many equal parts of each task's rows, each row as often.
    """
    words = ["scale=small", f"suite.include=[{','.join(tasks)}]", "logger=none"]
    if data and encoder:
        config = compose([*words, f"data.root={data}", f"encoder.path={encoder}"])
        examples = _real(config, data, encoder, Path(cache), share)
        pad = int(load_tokenizer(encoder).pad_token_id)
    else:
        config = compose(words)
        examples, pad = _generated(tasks, share), 0
    sampler = SizeProportionalSampler(0.75 if len(tasks) > 1 and share == 1 else 1.0)
    sizes = {name: len(one.labels) for name, one in examples.items()}
    return Work(examples, sampler.stream(sizes, steps, batch, seed=0), pad, encoder or None, config)


def _real(config: Config, data: str, encoder: str, cache: Path, share: int) -> dict[str, Examples]:
    tokenizer, found = load_tokenizer(encoder), {}
    for name, task in config.suite.trained().items():
        if not (Path(data) / name / "train.parquet").exists():
            task.train_split = "train_subset"
        if name == "qqp" and not (Path(data) / name / "validation.parquet").exists():
            task.dev_split = "validation_subset"
        if share > 1:
            task.train_rows = SHAPES[name].rows // share
        rows = load_examples(name, task_from_config(name, task, config.data), config.data.seed).train
        found[name] = Examples(encode(rows, tokenizer, config.data.max_length, cache), rows.labels)
    return found


def _generated(tasks: list[str], share: int = 1) -> dict[str, Examples]:
    found = {}
    for number, name in enumerate(tasks):
        rows, mean, spread, outputs = SHAPES[name]
        rows //= share
        rng = np.random.default_rng([number, 7])
        lengths = np.rint(np.clip(np.exp(rng.normal(mean, spread, rows)), 4, LONGEST)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = rng.integers(1000, VOCABULARY, offsets[-1]).astype(np.int32)
        labels = rng.random(rows, np.float32) if outputs == 1 else rng.integers(0, outputs, rows)
        found[name] = Examples(Tokens(ids, offsets, np.zeros(len(ids), np.uint8)), labels)
    return found


def with_teachers(work: Work) -> dict[str, Examples]:
    """Return the examples with a column of teacher's logits each; their values cost what any others do."""
    rng = np.random.default_rng(3)
    return {
        name: one._replace(teacher=rng.normal(size=(len(one.labels), SHAPES[name].outputs)).astype(np.float32))
        for name, one in work.examples.items()
    }


def build_encoder(work: Work, sizes: dict[str, Any] | None = None) -> Encoder:
    """Return the encoder, in training mode."""
    torch.manual_seed(0)
    if work.encoder and not sizes:
        return from_path(work.encoder, None, pooling="pooler")
    return from_sizes(sizes or SIZES, VOCABULARY, pooling="pooler").train()
