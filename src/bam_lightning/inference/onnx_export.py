"""Export a model as one ONNX graph: one encoder, and one output of logits per head, named after its task."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import require_extra
from bam_lightning.data.items import ITEM_KINDS
from bam_lightning.inference.export_check import (
    LogitsFunction,
    check_expressible,
    check_text_counts,
    example_row,
    flat_logits,
    float32_copy,
    item_logits,
    item_rows,
    max_logit_difference,
    random_rows,
    right_padding,
    staged_folder,
    write_manifest,
)
from bam_lightning.inference.model_info import TaskInfo
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.batch import ABSENT
from bam_lightning.models.heads import ChoiceHead, Head, decode
from bam_lightning.store.ragged import Ragged

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
GRAPH, INT8_GRAPH = "model.onnx", "model.int8.onnx"
README = """# Run {run} as ONNX

One graph with the encoder and {heads} of a multi-task model trained by bam_lightning: `model.onnx`, for any
batch size and length. Largest difference of its logits from those of the original model: {difference:.1g}.
{int8}`export.json` says how to read each output.{items}

```python
import json
from pathlib import Path

{imports}import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = Path(".")  # this folder
manifest = json.loads((folder / "export.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(folder / "{graph}")
columns = [node.name for node in session.get_inputs()]


def softmax(logits, axis):
    exponents = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return exponents / exponents.sum(axis=axis, keepdims=True)


examples = [{examples}]  # rows of texts, and the tasks that read them
for rows, tasks in examples:
    texts = [list(column) for column in zip(*rows)]  # a list for each text of a row
    inputs = tokenizer(*texts, padding=True, truncation=True, max_length=manifest["max_length"], return_tensors="np")
    results = session.run(tasks, {{column: inputs[column].astype(np.int64) for column in columns}})
    for name, logits in zip(tasks, results):
        task = manifest["tasks"][name]
{branches}        if task["problem_type"] == "single_label_classification":
            scores = softmax(logits, -1)
        elif task["problem_type"] == "regression":
            scores = logits
        else:
            scores = 1 / (1 + np.exp(-logits))
        if not task["label_range"]:
            print(name, dict(zip(task["outputs"], scores[0].tolist())), task["label"])
        elif len(task["outputs"]) == 1:  # a number, in the units of the labels
            low, high = task["label_range"]
            print(name, low + (high - low) * scores[0, 0])
        else:  # probabilities of numbers
            print(name, scores[0] @ np.array(task["outputs"], dtype=float))
```
"""
CHOICE = """        if task["kind"] == "choice":  # a row for each choice
            print(name, softmax(logits[:, 0], 0).tolist(), task["label"])
            continue
"""
WORDS = r"""        if task["kind"] in ("tagging", "span"):  # a word's logits are those of its first token
            text, pattern = rows[0][-1], {"tagging": r"\S+", "span": r"\w+|[^\w\s]"}[task["kind"]]
            words = list(re.finditer(pattern, text))
            tokens = [inputs.char_to_token(0, word.start(), len(texts) - 1) for word in words]
            kept = [number for number, token in enumerate(tokens) if token is not None]  # the others were truncated
            scores = softmax(logits[0, [tokens[number] for number in kept]], -1 if task["kind"] == "tagging" else 0)
            for number, values in zip(kept, scores.tolist()):
                print(name, words[number].group(), dict(zip(task["outputs"], values)), task["label"])
            continue
"""
ITEMS = {
    "choice": " A choice task reads its text beside each choice, and a second text before the choice; its scores are a "
    "softmax over the choices.",
    "tagging": " The scores of a tagging task are a softmax over the tags of each word.",
    "span": " The scores of a span task are a softmax over the words of the context, one for the first word of the "
    "answer and one for the last. The example truncates a long context; split it into windows to read all of it.",
}
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
        plain = [name for name in names if model.tasks[name].kind not in ITEM_KINDS]
        text_counts = sorted({len(model.tasks[name].text) for name in plain})
        checks = [(plain, random_rows(model, n_texts)) for n_texts in text_counts]
        checks += [([name], item_rows(model, model.tasks[name])) for name in names if name not in plain]
        difference = max(max_logit_difference(model, part, exported.of(part), rows) for part, rows in checks)
        more = {}
        if int8:
            _quantize(folder)
            more["int8"] = _compare_int8(model, _ExportedGraph(folder, model, INT8_GRAPH), checks)
        examples: dict[tuple[tuple[str, ...], ...], list[str]] = {}
        for name in names:
            examples.setdefault(_example_rows(model.tasks[name]), []).append(name)
        kinds = {model.tasks[name].kind for name in names}
        readme = README.format(
            run=model.info.id, heads="one head" if len(names) == 1 else f"{len(names)} heads", difference=difference,
            graph=INT8_GRAPH if int8 else GRAPH, int8=INT8_README.format(**more["int8"]) if int8 else "",
            examples=", ".join(f"({list(map(list, rows))}, {tasks})" for rows, tasks in examples.items()),
            imports="import re\n\n" if kinds & {"tagging", "span"} else "",
            branches=(CHOICE if "choice" in kinds else "") + (WORDS if kinds & {"tagging", "span"} else ""),
            items="".join(text for kind, text in ITEMS.items() if kind in kinds),
        )  # fmt: skip
        (folder / "README.md").write_text(readme, encoding="utf-8")
        write_manifest(folder, model, "onnx", names, difference, **more)
    return difference


def _example_rows(task: TaskInfo) -> tuple[tuple[str, ...], ...]:
    """Return example rows of one or two texts: one for each choice, else one."""
    if task.kind != "choice":
        return (example_row(task),)
    stem = "A second text. " if len(task.text) > 1 else ""
    return tuple(("A first text.", f"{stem}{choice}") for choice in ("A first choice.", "Another choice."))


def _quantize(folder: Path) -> None:
    """Write the graph of a folder with 8-bit weights; activations are quantized as they are computed."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _exporter_silenced("root"):  # it recommends a preprocessing that dynamic quantization does not need
        quantize_dynamic(folder / GRAPH, folder / INT8_GRAPH, per_channel=True, weight_type=QuantType.QInt8)


def _compare_int8(
    model: Predictor, exported: _ExportedGraph, checks: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]
) -> dict[str, Any]:
    """Return the largest difference of logits, and the share of equal labels over all tasks."""
    differences, equal = [], []
    for names, rows in checks:
        expected, actual = model.calibrated_logits(rows, names), exported.of(names)(rows)
        for name in names:
            differences.append(float(np.abs(flat_logits(expected[name]) - flat_logits(actual[name])).max()))
            if isinstance(expected[name], Ragged):
                ours, theirs = (decode(model.head(name), logits[name]) for logits in (expected, actual))
            elif model.tasks[name].label_names:
                ours, theirs = (model.decode(name, logits[name] * model.temperature(name)).values
                                for logits in (expected, actual))  # fmt: skip
            else:
                continue
            equal.append((ours == theirs).reshape(len(ours), -1).all(axis=1).mean())
    return {
        "graph": INT8_GRAPH,
        "rows": sum(len(rows) for _, rows in checks),
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
        pooled, states = self.encoder.encode_padded(dict(zip(self.inputs, tensors, strict=True)))
        return tuple(
            (Head.forward(head, states) if head.uses == "tokens" else self._of_text(head, pooled)) / temperature
            for head, temperature in zip(cast(list[Head], list(self.heads)), self.temperatures, strict=True)
        )

    def _of_text(self, head: Head, pooled: Tensor) -> Tensor:
        return Head.forward(head, pooled) if isinstance(head, ChoiceHead) else head(pooled)


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
        self.max_length, self.model = model.info.max_length, model
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def of(self, names: Sequence[str]) -> LogitsFunction:
        """Return the function that gives the logits of these tasks."""
        kinds = {self.model.tasks[name].kind for name in names}
        return partial(self._items, names[0]) if kinds & set(ITEM_KINDS) else self

    def _items(self, name: str, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the logits of rows of choices, words or answers."""

        def run(inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = self.session.run([name], {key: inputs[key] for key in self.inputs})[0]
            return found

        absent = ABSENT / self.model.temperature(name)
        return {name: item_logits(self.model.tasks[name], rows, self.tokenizer, self.max_length, absent, run)}

    def __call__(self, rows: Sequence[Sequence[str]]) -> Mapping[str, NDArray[np.float32]]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        encoded = self.tokenizer(
            *columns, padding=True, truncation=True, max_length=self.max_length, return_tensors="np"
        )
        logits = self.session.run(None, {name: encoded[name].astype(np.int64) for name in self.inputs})
        return dict(zip(self.outputs, logits, strict=True))
