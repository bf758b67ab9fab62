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
GRAPH, INT8_GRAPH = "model.onnx", "model.int8.onnx"
README = """# Run {run} as ONNX

One graph with the encoder and {count} heads of a multi-task model trained by bam_lightning: `model.onnx`, for any
batch size and length. Largest difference of its logits from those of the original model: {difference:.1g}.
{int8}`export.json` says how to read each output.

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
results = session.run(None, {{name: inputs[name].astype(np.int64) for name in names}})
for output, logits in zip(session.get_outputs(), results):
    task = manifest["tasks"][output.name]
    if task["problem_type"] == "single_label_classification":
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    elif task["problem_type"] == "regression":
        scores = logits
    else:
        scores = 1 / (1 + np.exp(-logits))
    for row in scores.tolist():
        print(output.name, dict(zip(task["outputs"], row)), task["label"])
```
"""
INT8_README = """`{graph}` is the same graph with 8-bit weights. On {rows} rows of random words its logits differ from
the original model's by up to {difference:.2g}, and {agreement:.1%} of the labels are equal. Evaluate it on your rows.
"""


def export_onnx(model: Predictor, output: Path, tasks: Sequence[str] = (), int8: bool = False) -> float:
    """Write a graph of the given tasks (default: all). Return the largest absolute difference of logits.

    Args:
        model: The model.
        output: The folder to write.
        tasks: Names of tasks.
        int8: Also write a graph with 8-bit weights; ``export.json`` has what its logits and labels differ by.

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
        exported = _ExportedGraph(folder, model, GRAPH)
        text_counts = sorted({len(model.tasks[name].text) for name in names})
        rows = [random_rows(model, n_texts) for n_texts in text_counts]
        difference = max(max_logit_difference(model, names, exported, part) for part in rows)
        more = {}
        if int8:
            _quantize(folder)
            more["int8"] = _compare_int8(model, names, _ExportedGraph(folder, model, INT8_GRAPH), rows)
        readme = README.format(
            run=model.info.id, count=len(names), difference=difference,
            graph=INT8_GRAPH if int8 else GRAPH, int8=INT8_README.format(**more["int8"]) if int8 else "",
            texts=[[text] for text in example_row(model.tasks[names[0]])],
        )  # fmt: skip
        (folder / "README.md").write_text(readme, encoding="utf-8")
        write_manifest(folder, model, "onnx", names, difference, **more)
    return difference


def _quantize(folder: Path) -> None:
    """Write the graph of a folder with 8-bit weights; activations are quantized as they are computed."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _exporter_silenced("root"):  # it recommends a preprocessing that dynamic quantization does not need
        quantize_dynamic(folder / GRAPH, folder / INT8_GRAPH, per_channel=True, weight_type=QuantType.QInt8)


def _compare_int8(
    model: Predictor, names: Sequence[str], exported: _ExportedGraph, parts: Sequence[Sequence[Sequence[str]]]
) -> dict[str, Any]:
    """Return the largest difference of logits, and the share of equal labels over all tasks."""
    differences, equal = [], []
    for rows in parts:
        expected, actual = model.calibrated_logits(rows, names), exported(rows)
        for name in names:
            differences.append(float(np.abs(expected[name] - actual[name]).max()))
            if model.tasks[name].label_names:
                ours, theirs = (model.decode(name, logits[name] * model.temperature(name)).values
                                for logits in (expected, actual))  # fmt: skip
                equal.append((ours == theirs).reshape(len(rows), -1).all(axis=1).mean())
    return {
        "graph": INT8_GRAPH,
        "rows": sum(map(len, parts)),
        "difference": max(differences),
        "agreement": float(np.mean(equal)) if equal else 1.0,
    }


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
def _exporter_silenced(name: str = "torch.onnx") -> Iterator[None]:
    """Suppress a logger's messages below errors, and warnings."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _ExportedGraph:
    """An exported graph, loaded with onnxruntime and transformers alone: rows -> task -> logits."""

    def __init__(self, folder: Path, model: Predictor, graph: str) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        self.session: Any = onnxruntime.InferenceSession(folder / graph, providers=["CPUExecutionProvider"])
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
