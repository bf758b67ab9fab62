"""A head with its encoder as a ``transformers`` sequence classifier, where one of theirs computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.inference.export_check import exact, example, largest_difference, sample, staged, write_record
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.heads import Head

# Families whose classifier is first token -> linear -> tanh -> linear, and where its two layers lie.
# DeBERTa's has the activation that its configuration names: a GELU unless it is told otherwise.
PLACES = {
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
Largest difference of its logits from the model's own: {difference:.1g}.

```python
from transformers import pipeline

ask = pipeline("text-classification", model="{task}", truncation=True)  # this folder
print(ask([{asked}], top_k=None))
```

{outputs}. The answer: {how}.
"""


def export_hf(model: Predictor, output: Path, tasks: Sequence[str] = ()) -> float:
    """Write ``output/TASK`` for each task (none given: all); return the largest difference of logits.

    Raises:
        ConfigError: for a family whose classifier is another, or an export that does not compute the same.
        ConfigError: see ``staged``.
    """
    names = [task.name for task in model.saved.named(tasks or "all")]
    for name in names:
        if type(model.head(name)).forward is not Head.forward:
            raise ConfigError(
                f"format=hf: the head of {name!r} is not a linear layer, as those of transformers are; "
                "format=onnx takes all"
            )
    _check_family(model)
    model, difference = exact(model), 0.0
    with staged(output) as folder:
        for name in names:
            found = _export(model, folder / name, name)
            difference = max(difference, found)
        write_record(folder, model, "hf", names, difference)
    return difference


def _check_family(model: Predictor) -> None:
    family = model.encoder.body.config.model_type
    if family not in PLACES:
        raise ConfigError(
            f"format=hf: the classifier that transformers has for {family} is another than this model's "
            f"(first token, tanh pooler, linear); families that agree: {', '.join(PLACES)}; format=onnx takes all"
        )
    if model.encoder.pooler is None:
        raise ValueError(
            f"format=hf: this model has no pooler (encoder.pooling=cls), the classifier that transformers has for "
            f"{family} has one; format=onnx takes all"
        )


def _export(model: Predictor, folder: Path, name: str) -> float:
    classifier = _classifier(model, name)
    classifier.save_pretrained(folder)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.saved.max_length
    tokenizer.save_pretrained(folder)
    rows = sample(model, len(model.tasks[name].columns))
    difference = largest_difference(model, [name], _Reader(folder, name), rows)
    spec, task = model.head(name).export_spec(model.tasks[name].label_names), model.tasks[name]
    row = dict(zip(("text", "text_pair"), example(task), strict=False))
    text = README.format(
        task=name, run=model.saved.id, difference=difference, asked=row, how=spec.how,
        outputs=f"Its scores are those of {', '.join(spec.outputs)}, each from 0 to 1"
        if spec.problem_type != "regression" else "Its score is the linear output of the head",
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")
    return difference


def _classifier(model: Predictor, name: str) -> Any:
    """Return transformers' classifier with the model's weights."""
    from transformers import AutoModelForSequenceClassification

    spec = model.head(name).export_spec(model.tasks[name].label_names)
    config = copy.deepcopy(model.encoder.body.config)
    config.id2label = dict(enumerate(spec.outputs))
    config.label2id = {label: number for number, label in enumerate(spec.outputs)}
    config.num_labels = len(spec.outputs)
    config.problem_type = spec.problem_type
    for field, value in (("classifier_dropout", model.head(name).dropout.p), ("pooler_hidden_act", "tanh")):
        if hasattr(config, field):
            setattr(config, field, value)
    with torch.random.fork_rng(devices=[]):  # weights that are all replaced
        classifier = AutoModelForSequenceClassification.from_config(config).eval()
    pooler, linear = PLACES[config.model_type]
    state = {f"{classifier.base_model_prefix}.{key}": value for key, value in model.encoder.body.state_dict().items()}
    assert model.encoder.pooler is not None
    for place, layer in ((pooler, model.encoder.pooler), (linear, model.head(name).linear)):
        state |= {f"{place}.{key}": value for key, value in layer.state_dict().items()}
    classifier.load_state_dict(state)
    return classifier


class _Reader:
    """What was written, read back as a stranger would: rows -> logits."""

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
