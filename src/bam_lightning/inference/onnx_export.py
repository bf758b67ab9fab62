"""Export a model as one ONNX graph: one encoder, and one output of logits per head, named after its task."""

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
from bam_lightning.inference.export_check import (
    check_expressible,
    check_text_counts,
    example_row,
    float32_copy,
    max_logit_difference,
    random_rows,
    right_padding,
    staged_folder,
    write_manifest,
)
from bam_lightning.inference.predictor import Predictor

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
GRAPH = "model.onnx"
README = """# Run {run} as ONNX

One graph with the encoder and {count} heads of a multi-task model trained by bam_lightning: `{graph}`, for any
batch size and length. Largest difference of its logits from those of the original model: {difference:.1g}.
`export.json` says how to read each output.

```python
import json
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = Path(".")  # this folder
manifest = json.loads((folder / "export.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder / "{graph}")
names = [node.name for node in session.get_inputs()]

texts = {texts}  # one list for each text of a row
inputs = tokenizer(*texts, padding=True, truncation=True, max_length=manifest["max_length"], return_tensors="np")
logits = session.run(None, {{name: inputs[name].astype(np.int64) for name in names}})
for output, rows in zip(session.get_outputs(), logits):
    print(output.name, manifest["tasks"][output.name]["outputs"], rows.tolist())
```
"""


def export_onnx(model: Predictor, output: Path, tasks: Sequence[str] = ()) -> float:
    """Write a graph of the given tasks (default: all). Return the largest absolute difference of logits.

    Raises:
        ConfigError: If a task is unknown, or packages of the ``onnx`` extra are missing; also see ``staged_folder``.
        StoreError: If the export computes other logits.
    """
    require_extra("format onnx", PACKAGES, "onnx")
    check_expressible(model, "onnx")
    names = [task.name for task in model.info.select_tasks(tasks or "all")]
    check_text_counts(model, names, "onnx")
    for name in names:
        model.head(name).export_spec(model.tasks[name].label_names)
        if name in model.tokenizer.model_input_names:
            raise ConfigError(
                f"format onnx: task {name!r} has the same name as an input of the graph; rename it, or leave it out"
            )
    model = float32_copy(model)
    with staged_folder(output) as folder:
        _write_graph(float32_copy(model), names, folder / GRAPH)  # a copy, since it changes the attention
        right_padding(model.tokenizer).save_pretrained(folder)
        model.encoder.config.save_pretrained(folder)  # AutoTokenizer reads its class from it
        exported = _ExportedGraph(folder, model)
        text_counts = sorted({len(model.tasks[name].text) for name in names})
        difference = max(
            max_logit_difference(model, names, exported, random_rows(model, n_texts)) for n_texts in text_counts
        )
        texts = [[text] for text in example_row(model.tasks[names[0]])]
        readme = README.format(run=model.info.id, count=len(names), graph=GRAPH, difference=difference, texts=texts)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        write_manifest(folder, model, "onnx", names, difference)
    return difference


class _Graph(nn.Module):
    """A module from encoder inputs, in the tokenizer's order, to a tuple of the heads' logits."""

    def __init__(self, model: Predictor, names: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.inputs = model.encoder, list(inputs)
        self.heads = nn.ModuleList([model.head(name) for name in names])
        self.temperatures = [model.temperature(name) for name in names]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        pooled = self.encoder.forward_padded(dict(zip(self.inputs, tensors, strict=True)))
        return tuple(head(pooled) / t for head, t in zip(self.heads, self.temperatures, strict=True))


def _write_graph(model: Predictor, names: Sequence[str], path: Path) -> None:
    inputs = list(model.tokenizer.model_input_names)
    graph = _Graph(model, names, inputs).eval()
    examples = right_padding(model.tokenizer)(["a b", "a b c d"], ["a", "b a"], padding=True, return_tensors="pt")
    dynamic_axes = tuple({0: "batch", 1: "length"} for _ in inputs)
    model.encoder.body.set_attn_implementation("eager")  # plain matrix products, for any batch size and length
    with _exporter_silenced():
        program = torch.onnx.export(
            graph,
            tuple(examples[name] for name in inputs),
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=[f"logits of {name}" for name in names],
            dynamic_shapes={"tensors": dynamic_axes},
        )
    assert program is not None
    _clean_graph(program.model.graph, names)
    program.save(path)


def _clean_graph(graph: Any, names: Sequence[str]) -> None:
    """Name the outputs after their tasks, and remove the exporter's metadata, which holds paths of source files."""
    nodes = list(graph.all_nodes())
    for node in nodes:
        node.metadata_props.clear()
    for value in [*graph.initializers.values(), *(output for node in nodes for output in node.outputs)]:
        if value.name in names:  # torch may name an inner value like a task, for example "linear"
            value.name = f"inner.{value.name}"  # task names have no dot
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


@contextmanager
def _exporter_silenced() -> Iterator[None]:
    """Suppress the exporter's log messages and warnings."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _ExportedGraph:
    """The exported graph, loaded with onnxruntime and transformers alone: rows -> task -> logits."""

    def __init__(self, folder: Path, model: Predictor) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        self.session: Any = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.max_length = model.info.max_length
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def __call__(self, rows: Sequence[Sequence[str]]) -> Mapping[str, NDArray[np.float32]]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        encoded = self.tokenizer(
            *columns, padding=True, truncation=True, max_length=self.max_length, return_tensors="np"
        )
        logits = self.session.run(None, {name: encoded[name].astype(np.int64) for name in self.inputs})
        return dict(zip(self.outputs, logits, strict=True))
