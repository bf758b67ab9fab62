"""Export each head with its encoder as a ``transformers`` model, for families that compute the same: a sequence
classifier, a token classifier, a multiple-choice or a question-answering model."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.inference.export_check import (
    check_expressible,
    check_text_counts,
    describe_task,
    example_row,
    float32_copy,
    item_logits,
    item_rows,
    max_logit_difference,
    random_rows,
    right_padding,
    staged_folder,
    write_manifest,
)
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.batch import ABSENT
from bam_lightning.models.heads import ChoiceHead, Head

# Families whose classifier is first token -> linear -> tanh -> linear: family -> names of these two linear layers.
# DeBERTa's activation is the one that its configuration names, GELU by default; the export sets it to tanh.
CLASSIFIER_LAYERS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "camembert": ("classifier.dense", "classifier.out_proj"),
    "deberta": ("pooler.dense", "classifier"),
    "deberta-v2": ("pooler.dense", "classifier"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
}
README = """# {task}

One head of Run {run}, a multi-task model trained by bam_lightning, as a `transformers` sequence classifier.
Largest difference of its logits from those of the original model: {difference:.1g}.

```python
from transformers import pipeline

classifier = pipeline("text-classification", model=".", truncation=True)  # this folder
{prints}
```

{outputs}. How to read them: {how}.
"""
KINDS = {
    "tagging": "AutoModelForTokenClassification",
    "choice": "AutoModelForMultipleChoice",
    "span": "AutoModelForQuestionAnswering",
}
ITEMS_README = """# {task}

One head of Run {run}, a multi-task model trained by bam_lightning, as a `transformers` model of the class `{kind}`.
Largest difference of its logits from those of the original model: {difference:.1g}.

```python
from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained(".")  # this folder
tokenizer = AutoTokenizer.from_pretrained(".")
inputs = tokenizer({inputs}, truncation=True, return_tensors="pt")
print({call})
```

Its outputs are {outputs}. How to read them: {how}.
"""


def export_hf(model: Predictor, output: Path, tasks: Sequence[str] = ()) -> float:
    """Write ``output/TASK`` for each task (default: all tasks). Return the largest absolute difference of logits.

    Raises:
        ConfigError: If the family's classifier has another architecture; also see ``staged_folder``.
        StoreError: If the export computes other logits.
    """
    names = [task.name for task in model.info.select_tasks(tasks or "all")]
    check_text_counts(model, names, "hf")
    for name in names:
        if type(model.head(name)).forward not in (Head.forward, ChoiceHead.forward):
            raise ConfigError(
                f"format hf: the head of {name!r} is not a linear layer, which transformers' classifiers have; "
                "format onnx supports every head"
            )
    check_expressible(model, "hf")
    if any(model.tasks[name].kind not in KINDS for name in names):
        _check_family(model)
    model, difference = float32_copy(model), 0.0
    with staged_folder(output) as folder:
        for name in names:
            export = _export_items if model.tasks[name].kind in KINDS else _export_task
            difference = max(difference, export(model, folder / name, name))
        write_manifest(folder, model, "hf", names, difference)
    return difference


def _check_family(model: Predictor) -> None:
    family = getattr(model.encoder.config, "model_type", "a module from elsewhere")
    if family not in CLASSIFIER_LAYERS:
        raise ConfigError(
            f"format hf: transformers' classifier for {family} differs from this model's (first token, tanh pooler, "
            f"linear); supported families: {', '.join(CLASSIFIER_LAYERS)}; format onnx supports every family"
        )
    if model.encoder.pooler is None:
        raise ConfigError(
            f"format hf: this model has no pooler (encoder.pooling={model.encoder.pooling}), but transformers' "
            f"classifier for {family} has one; format onnx supports both"
        )


def _export_task(model: Predictor, folder: Path, name: str) -> float:
    _build_classifier(model, name).save_pretrained(folder)
    tokenizer = right_padding(model.tokenizer)
    tokenizer.model_max_length = model.info.max_length
    tokenizer.save_pretrained(folder)
    task = model.tasks[name]
    difference = max_logit_difference(
        model, [name], _ExportedClassifier(folder, name), random_rows(model, len(task.text))
    )
    spec = model.head(name).export_spec(task.label_names)
    how = describe_task(task, model.head(name), model.calibration.get(name))["label"]
    inputs = dict(zip(("text", "text_pair"), example_row(task), strict=False))
    prints = f"print(classifier([{inputs}], top_k=None))"
    if task.label_range and len(spec.outputs) == 1:
        prints = f'score = classifier([{inputs}])[0]["score"]\nprint({spec.how})  # in the units of the labels'
    readme = README.format(
        task=name, run=model.info.id, difference=difference, how=how, prints=prints,
        outputs=f"Its scores are those of {', '.join(spec.outputs)}, each from 0 to 1"
        if spec.problem_type != "regression" else "Its score is the linear output of the head",
    )  # fmt: skip
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return difference


def _build_classifier(model: Predictor, name: str) -> Any:
    """Return a transformers classifier with the model's weights."""
    from transformers import AutoModelForSequenceClassification

    spec = model.head(name).export_spec(model.tasks[name].label_names)
    config = copy.deepcopy(model.encoder.body.config)
    config.id2label = dict(enumerate(spec.outputs))
    config.label2id = {label: class_id for class_id, label in enumerate(spec.outputs)}
    config.num_labels = len(spec.outputs)
    config.problem_type = spec.problem_type
    for field, value in (("classifier_dropout", model.head(name).dropout.p), ("pooler_hidden_act", "tanh")):
        if hasattr(config, field):
            setattr(config, field, value)
    with torch.random.fork_rng(devices=[]):  # random initial weights, all of them replaced below
        classifier = AutoModelForSequenceClassification.from_config(config).eval()
    pooler_name, linear_name = CLASSIFIER_LAYERS[config.model_type]
    state = {f"{classifier.base_model_prefix}.{key}": value for key, value in model.encoder.body.state_dict().items()}
    assert model.encoder.pooler is not None
    for prefix, layer in ((pooler_name, model.encoder.pooler), (linear_name, model.head(name).linear)):
        state |= {f"{prefix}.{key}": value for key, value in layer.state_dict().items()}
    for key in (f"{linear_name}.weight", f"{linear_name}.bias"):
        state[key] = state[key] / model.temperature(name)
    classifier.load_state_dict(state)
    return classifier


def _export_items(model: Predictor, folder: Path, name: str) -> float:
    """Write the model of a task of choices, words or answers."""
    task, kind = model.tasks[name], KINDS[model.tasks[name].kind]
    _build_item_model(model, name).save_pretrained(folder)
    tokenizer = right_padding(model.tokenizer)
    tokenizer.model_max_length = model.info.max_length
    tokenizer.save_pretrained(folder)
    exported = _ExportedItems(folder, model, name)
    difference = max_logit_difference(model, [name], exported, item_rows(model, task))
    about = describe_task(task, model.head(name), model.calibration.get(name))
    inputs, call = ", ".join(f'"{text}"' for text in example_row(task)), "model(**inputs)"
    if task.kind == "choice":  # the text stands before each choice
        inputs = '["A first text."] * 2, ["A first choice.", "Another choice."], padding=True'
        call = "model(**{key: value[None] for key, value in inputs.items()}).logits.softmax(-1).tolist()"
    readme = ITEMS_README.format(
        task=name, run=model.info.id, kind=kind, difference=difference, how=about["label"],
        inputs=inputs, outputs=", ".join(about["outputs"]), call=call,
    )  # fmt: skip
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return difference


def _build_item_model(model: Predictor, name: str) -> Any:
    """Return a model of transformers with the model's weights.

    Raises:
        ConfigError: If the family has no such model, or one with other layers.
    """
    kind, head = KINDS[model.tasks[name].kind], model.head(name)
    config = copy.deepcopy(model.encoder.body.config)
    family = getattr(config, "model_type", "a module from elsewhere")
    if kind != "AutoModelForMultipleChoice":
        outputs = head.export_spec(model.tasks[name].label_names).outputs
        config.id2label = dict(enumerate(outputs))
        config.label2id = {label: number for number, label in enumerate(outputs)}
    for field, value in (("classifier_dropout", head.dropout.p), ("pooler_hidden_act", "tanh")):
        if hasattr(config, field):
            setattr(config, field, value)
    with torch.random.fork_rng(devices=[]):  # random initial weights, all of them replaced below
        try:
            built = getattr(transformers, kind).from_config(config).eval()
        except ValueError as error:
            raise ConfigError(f"format hf: transformers has no {kind} for {family}; format onnx supports it") from error
    state = {f"{built.base_model_prefix}.{key}": value for key, value in model.encoder.body.state_dict().items()}
    linear = "qa_outputs" if kind == "AutoModelForQuestionAnswering" else "classifier"
    layers: dict[str, nn.Linear] = {linear: head.linear}
    if kind == "AutoModelForMultipleChoice" and model.encoder.pooler is not None:
        poolers = [
            key.removesuffix(".weight") for key in built.state_dict() if re.search(r"pooler(\.dense)?\.weight", key)
        ]
        layers |= dict.fromkeys(poolers[:1], model.encoder.pooler)
    for prefix, layer in layers.items():
        scale = model.temperature(name) if prefix == linear else 1.0
        state |= {f"{prefix}.{key}": value / scale for key, value in layer.state_dict().items()}
    needed = built.state_dict()
    other = sorted({*needed} ^ {*state}) or [key for key in needed if needed[key].shape != state[key].shape]
    if other or (kind == "AutoModelForMultipleChoice" and model.encoder.pooler is None):
        reason = f"{other[0]} is in one of them alone" if other else "this model has no pooler"
        raise ConfigError(f"format hf: {kind} of {family} has other layers ({reason}); format onnx supports it")
    built.load_state_dict(state)
    return built


class _ExportedItems:
    """The exported files of a task of choices, words or answers, loaded with transformers alone: rows -> logits."""

    def __init__(self, folder: Path, model: Predictor, name: str) -> None:
        self.name, self.task, self.max_length = name, model.tasks[name], model.info.max_length
        self.absent = ABSENT / model.temperature(name)
        family = getattr(transformers, KINDS[self.task.kind])
        self.model = family.from_pretrained(folder, trust_remote_code=False).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def __call__(self, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
        return {self.name: item_logits(self.task, rows, self.tokenizer, self.max_length, self.absent, self._run)}

    def _run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.inference_mode():
            if self.task.kind == "choice":
                tensors = {name: value.unsqueeze(1) for name, value in tensors.items()}  # one choice in a row
            found = self.model(**tensors)
            span = self.task.kind == "span"
            logits = torch.stack([found.start_logits, found.end_logits], dim=-1) if span else found.logits
        scores: NDArray[np.float32] = logits.numpy()
        return scores


class _ExportedClassifier:
    """The exported files, loaded with transformers alone: rows -> logits."""

    def __init__(self, folder: Path, name: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.name = name
        self.classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def __call__(self, rows: Sequence[Sequence[str]]) -> Mapping[str, NDArray[np.float32]]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        inputs = self.tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return {self.name: self.classifier(**inputs).logits.numpy()}
