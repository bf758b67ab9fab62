"""Sides that label texts of SST-2 from a CSV file into another, on one thread: ``bam predict``, transformers' pipeline
on the exported classifier, and onnxruntime on the exported graphs, the last two as their READMEs do.

The model is MiniLM after a few steps on SST-2, or ``tiny``: a BERT of two layers and width 128 with random weights, in
which what surrounds the encoder counts. Both are kept in the cache, with their exports."""

from __future__ import annotations

import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

STEPS, BATCH = 200, 32
TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
TASK, NAMES = "sst2", ["negative", "positive"]
os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")  # before torch and tokenizers read them


def predict(cache: Path, side: str, encoder: str, rows: str) -> dict[str, float]:
    """Label so many rows; the clock starts before the model is loaded, and ends when the file is written.

    ``rate`` is rows per second of the processor, since the one thread of a side may share its core.
    """
    folder, count = cache / "predict" / encoder, int(rows)
    source, target = folder / f"rows-{count}.csv", folder / f"{side}.csv"
    if not (folder / "dev.csv").exists() or not source.exists():
        subprocess.run([sys.executable, __file__, str(folder), rows], check=True)  # its memory is not this process's
    label = {"ours": _ours, "bfloat16": _ours, "pipeline": _pipeline, "onnx": _onnx, "int8": _onnx}[side]
    target.unlink(missing_ok=True)
    begun, computed = time.perf_counter(), time.process_time()
    label(folder, source, target, side)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert sum(1 for _ in _rows(target)) == count
    target.unlink()
    label(folder, folder / "dev.csv", target, side)
    right = [row[f"{TASK}.label"] == row["gold"] for row in _rows(target)]
    return {"seconds": seconds, "rows": count, "rate": count / cpu_seconds, "wall_rate": count / seconds,
            "peak_mib": round(peak), "dev_accuracy": sum(right) / len(right)}  # fmt: skip


def _ours(folder: Path, source: Path, target: Path, side: str) -> None:
    import torch

    from bam_lightning.inference.predict_file import PredictOptions, predict_file

    torch.set_num_threads(1)
    precision = "bf16-mixed" if side == "bfloat16" else "32-true"
    files = {"input": str(source), "output": str(target)}
    predict_file(PredictOptions(run=str(folder / "student"), task=[TASK], precision=precision, device="cpu", **files))


def _pipeline(folder: Path, source: Path, target: Path, side: str) -> None:
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    classifier = pipeline("text-classification", model=str(folder / "hf" / TASK), truncation=True, device="cpu")
    found = classifier((row["sentence"] for row in _rows(source)), top_k=None, batch_size=BATCH)
    scores = ({one["label"]: one["score"] for one in row} for row in found)
    _write(source, target, ([row[name] for name in NAMES] for row in scores))


def _onnx(folder: Path, source: Path, target: Path, side: str) -> None:
    import numpy as np
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = folder / "onnx" / ("model.int8.onnx" if side == "int8" else "model.onnx")
    session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "onnx")
    names = [node.name for node in session.get_inputs()]
    length = json.loads((folder / "onnx" / "export.json").read_text())["max_length"]

    def scores(texts: Iterator[str]) -> Iterator[list[float]]:
        while batch := list(itertools.islice(texts, BATCH)):
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="np")
            logits = session.run([TASK], {name: inputs[name].astype(np.int64) for name in names})[0]
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            yield from (shares / shares.sum(axis=-1, keepdims=True)).tolist()

    _write(source, target, scores(row["sentence"] for row in _rows(source)))


def _rows(source: Path) -> Iterator[dict[str, str]]:
    with source.open(newline="") as stream:
        yield from csv.DictReader(stream)


def _write(source: Path, target: Path, scores: Iterable[Sequence[float]]) -> None:
    with target.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sentence", "gold", f"{TASK}.label", *(f"{TASK}.{name}" for name in NAMES)])
        for row, shares in zip(_rows(source), scores, strict=True):
            writer.writerow([*row.values(), NAMES[max(range(len(NAMES)), key=shares.__getitem__)], *shares])


def _prepare(folder: Path, count: int) -> None:
    """Train and export the model unless it is there, and write the rows."""
    from pyarrow import parquet

    data = Path(os.environ["BAM_GLUE_DIR"]) / TASK
    if not (folder / "onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _train(folder, data, os.environ["BAM_ENCODER_DIR"] if folder.name == "minilm" else _tiny(folder / "encoder"))
    for split, name, size in (("train", f"rows-{count}", count), ("validation", "dev", None)):
        table = parquet.read_table(data / f"{split}.parquet").to_pydict()
        rows = list(zip(table["sentence"], (NAMES[label] for label in table["label"]), strict=True))
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(
                [("sentence", "gold"), *itertools.islice(itertools.cycle(rows), size or len(rows))]
            )


def _tiny(folder: Path) -> str:
    """Write a small encoder with random weights and MiniLM's tokenizer; return its folder."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(os.environ["BAM_ENCODER_DIR"])
    BertModel(BertConfig(vocab_size=len(tokenizer), **TINY)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _train(folder: Path, data: Path, encoder: str) -> None:
    import pytorch_lightning as pl

    import bam_lightning as bam

    tasks = {TASK: bam.Task.from_file(data, text="sentence", labels=NAMES)}
    module = bam.MultiTaskDataModule(tasks, encoder=encoder, batch_size=BATCH, max_length=128)
    student = bam.BamModule(module, learning_rate=1e-4)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(max_steps=STEPS, **quiet).fit(student, module)
    student.save_pretrained(folder / "student")
    model = bam.load(folder / "student", device="cpu", precision="32-true")
    model.export(folder / "hf", "hf")
    model.export(folder / "onnx", "onnx", int8=True)


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]), int(sys.argv[2]))
