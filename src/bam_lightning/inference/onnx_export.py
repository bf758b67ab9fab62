"""A model as one ONNX graph: the encoder once, and the logits of every head as an output named by its task."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import require_extra
from bam_lightning.inference.export_check import exact, example, largest_difference, sample, staged, write_record
from bam_lightning.inference.predictor import Predictor

NEEDS = ("onnx", "onnxruntime", "onnxscript")
GRAPH = "model.onnx"
README = """# Run {run} as ONNX

One graph with the encoder and {count} heads of a multi-task model trained by bam_lightning: `{graph}`, with batch and
length free. Largest difference of its logits from the model's own: {difference:.1g}. `export.json` says how
to read each.

```python
import json
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = Path(".")  # this folder
about = json.loads((folder / "export.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder / "{graph}")
names = [one.name for one in session.get_inputs()]

texts = {texts}  # one list for each text of a row
inputs = tokenizer(*texts, padding=True, truncation=True, max_length=about["max_length"], return_tensors="np")
logits = session.run(None, {{name: inputs[name].astype(np.int64) for name in names}})
for output, rows in zip(session.get_outputs(), logits):
    print(output.name, about["tasks"][output.name]["outputs"], rows.tolist())
```
"""


def export_onnx(model: Predictor, output: Path, tasks: Sequence[str] = ()) -> float:
    """Write the graph of some heads (none given: all) with the tokenizer; return the largest difference of logits.

    Raises:
        ConfigError: if the packages it needs are not installed.
        ValueError: for an unknown task, or an export that does not compute the same.
        ConfigError: see ``staged``.
    """
    require_extra("format=onnx", NEEDS, "onnx")
    names = [task.name for task in model.saved.named(tasks or "all")]
    for name in names:
        model.head(name).export_spec(model.tasks[name].label_names)
        if name in model.tokenizer.model_input_names:
            raise ConfigError(
                f"format=onnx: task {name!r} has the name of an input of the graph; rename it, or leave it out"
            )
    model = exact(model)
    with staged(output) as folder:
        _write(exact(model), names, folder / GRAPH)  # a copy, since its attention is made simpler
        model.tokenizer.save_pretrained(folder)
        model.encoder.body.config.save_pretrained(folder)  # by which AutoTokenizer finds its class
        reader = _Reader(folder, model)
        widths = sorted({len(model.tasks[name].columns) for name in names})
        difference = max(largest_difference(model, names, reader, sample(model, width)) for width in widths)
        texts = [[text] for text in example(model.tasks[names[0]])]
        text = README.format(run=model.saved.id, count=len(names), graph=GRAPH, difference=difference, texts=texts)
        (folder / "README.md").write_text(text, encoding="utf-8")
        write_record(folder, model, "onnx", names, difference)
    return difference


class _Graph(nn.Module):
    """Encoder inputs in the tokenizer's order -> logits of every head."""

    def __init__(self, model: Predictor, names: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.inputs = model.encoder, list(inputs)
        self.heads = nn.ModuleList([model.head(name) for name in names])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        pooled = self.encoder(dict(zip(self.inputs, tensors, strict=True)))
        return tuple(head(pooled) for head in self.heads)


def _write(model: Predictor, names: Sequence[str], path: Path) -> None:
    inputs = list(model.tokenizer.model_input_names)
    graph = _Graph(model, names, inputs).eval()
    rows = model.tokenizer(["a b", "a b c d"], ["a", "b a"], padding=True, return_tensors="pt")
    free = tuple({0: "batch", 1: "length"} for _ in inputs)
    model.encoder.body.set_attn_implementation("eager")  # plain matrix products, whatever the batch and length
    with _quiet():
        program = torch.onnx.export(
            graph,
            tuple(rows[name] for name in inputs),
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=[f"logits of {name}" for name in names],
            dynamic_shapes={"tensors": free},
        )
    assert program is not None
    _tidy(program.model.graph, names)
    program.save(path)


def _tidy(graph: Any, names: Sequence[str]) -> None:
    """Name the outputs by their tasks, and drop what the exporter notes of the source files of this machine."""
    nodes = list(graph.all_nodes())
    for node in nodes:
        node.metadata_props.clear()
    for value in [*graph.initializers.values(), *(one for node in nodes for one in node.outputs)]:
        if value.name in names:  # torch may call a value inside what a task is called, such as "linear"
            value.name = f"inner.{value.name}"  # no task has a dot
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Reader:
    """What was written, read back as a stranger would: rows -> logits by task."""

    def __init__(self, folder: Path, model: Predictor) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        self.session: Any = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.max_length = model.saved.max_length
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]

    def __call__(self, rows: Sequence[Sequence[str]]) -> Mapping[str, NDArray[np.float32]]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        found = self.tokenizer(*columns, padding=True, truncation=True, max_length=self.max_length, return_tensors="np")
        logits = self.session.run(None, {name: found[name].astype(np.int64) for name in self.inputs})
        return dict(zip(self.outputs, logits, strict=True))
