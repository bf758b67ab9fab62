"""Generated data of GLUE's tasks, columns and lengths, 1,077,000 training rows; a tokenizer and a random encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from workload import LONGEST, SHAPES, SIZES, Shape

COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}
ROWS, DEV_ROWS, WORDS = 1_077_000, 200, 20_000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def make(folder: Path) -> None:
    """Write the data and the encoder, unless they are there."""
    if (folder / "encoder" / "model.safetensors").exists():
        return
    rng = np.random.default_rng(0)
    words = sorted({"".join(SYLLABLES[one] for one in three) for three in rng.integers(0, 70, (WORDS, 3))})
    share = ROWS / sum(shape.rows for shape in SHAPES.values())
    rows = {name: round(shape.rows * share) for name, shape in SHAPES.items()}
    rows["mnli"] += ROWS - sum(rows.values())
    for name, shape in SHAPES.items():
        dev = "validation_matched" if name == "mnli" else "validation"
        for split, count in (("train", rows[name]), (dev, DEV_ROWS)):
            path = folder / "data" / name / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(_table(name, shape, count, np.array(words), rng), path)
    _encoder(folder / "encoder", words)


def _table(name: str, shape: Shape, count: int, words: Any, rng: np.random.Generator) -> pa.Table:
    columns, parts = COLUMNS[name], {}
    lengths = np.clip(np.exp(rng.normal(shape.mean, shape.spread, count)), 4, LONGEST) - 3
    for column in columns:
        ends = np.cumsum(np.maximum(1, lengths / len(columns)).astype(np.int64))
        drawn = words[rng.integers(0, len(words), ends[-1])].tolist()
        starts = np.concatenate([[0], ends[:-1]])
        parts[column] = [" ".join(drawn[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    labels = rng.random(count) * 5 if shape.outputs == 1 else rng.integers(0, shape.outputs, count)
    return pa.table({**parts, "label": labels, "idx": np.arange(count)})


def _encoder(folder: Path, words: list[str]) -> None:
    import transformers as hf

    fields = {name: value for name, value in SIZES.items() if name != "model_type"}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    hf.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    hf.BertModel(hf.BertConfig(vocab_size=len(vocabulary), **fields)).save_pretrained(folder)
