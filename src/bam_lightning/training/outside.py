"""Predictions of a teacher that are no file: arrays, data frames, and models with label names of their own.

N training rows, M words of them, C label names, K outputs of the task's head."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bam_lightning.config.exceptions import DataError
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.config.validation import check_choice
from bam_lightning.data.examples import TaskExamples, TaskSplit
from bam_lightning.data.items import word_counts
from bam_lightning.data.teacher_columns import Column
from bam_lightning.models.heads import (
    ChoiceHead,
    ClassificationHead,
    Head,
    HLGaussHead,
    MultiLabelHead,
    OrdinalHead,
    RegressionHead,
    SpanHead,
    TaggingHead,
)
from bam_lightning.store.ragged import Ragged
from bam_lightning.training.distillation import disagreement, read_teacher
from bam_lightning.training.spec import untrained_head

FORMS_OF_ARRAYS = ("logits", "probabilities", "values")
FORMS_OF_KINDS = {"regression": ("logits", "values"), **dict.fromkeys(("tagging", "choice", "span"), ("logits",))}


def is_frame(source: Any) -> bool:
    """Return whether a source is a data frame of pandas or polars."""
    return hasattr(source, "to_parquet") or hasattr(source, "write_parquet")


def read_frame(task: str, examples: TaskExamples, frame: Any, alone: bool, options: Mapping[str, Any]) -> Column:
    """Read a data frame of predictions as the table that it would be in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data frame.parquet"
        if hasattr(frame, "to_parquet"):
            frame.to_parquet(path, index=False)
        else:
            frame.write_parquet(path)
        [source] = teacher_sources(f"teacher of {task!r}", str(path), **options)
        return read_teacher(task, examples, source, alone)


def array_column(task: str, examples: TaskExamples, array: Any, form: str | None) -> Column:
    """Return an array's predictions, and what they have in common with gold.

    Raises:
        ConfigError: For a form that the task's kind does not have.
        DataError: For an array that does not fit, or whose numbers look like another form's.
    """
    kind = str(examples.task.kind)
    array = check_logits(task, array, examples.train)
    head = untrained_head(task, examples.task.head_config)
    values = array.values if isinstance(array, Ragged) else array
    forms = FORMS_OF_KINDS.get(kind, ("logits", "probabilities"))
    shares = bool(((values >= 0) & (values <= 1)).all())
    shares = shares and (kind == "multi_label" or bool((np.abs(values.sum(axis=1) - 1) < 1e-3).all()))
    if form is None and "probabilities" in forms and shares and len(values) > 1:
        raise DataError(
            f"teacher of {task!r}: all numbers of the array lie in [0, 1], as probabilities do; say "
            "form='probabilities', or form='logits' if they are what comes before softmax or sigmoid"
        )
    form = form or "logits"
    check_choice("form", form, forms)
    classes = examples.label_names
    outputs = {"logits": head.outputs, "probabilities": len(classes), "values": 1}[form]
    if values.shape[1] != outputs:
        named = f" ({', '.join(classes)})" if len(classes) == outputs else ""
        raise DataError(
            f"teacher of {task!r}: expected {form} of shape [N, {outputs}]{named}, got {list(values.shape)}"
        )
    if form == "probabilities" and not shares:
        wanted = "lie in [0, 1]" if kind == "multi_label" else "lie in [0, 1] and sum to 1 in each row"
        raise DataError(f"teacher of {task!r}: probabilities must {wanted}")
    column = Column(form, array)
    reason = disagreement(f"teacher of {task!r}", examples, column, head)
    return column._replace(notes=(reason,)) if reason else column


def check_logits(task: str, logits: Any, split: TaskSplit) -> Any:
    """Return a teacher's logits ``[N, K]``, or ``Ragged`` ones of the words of N rows, as float32.

    Raises:
        DataError: for another shape, or values that are not finite.
    """
    words = word_counts(split)
    if words is not None and not isinstance(logits, Ragged) and logits.ndim == 2 and len(logits) == words.sum():
        logits = Ragged.from_counts(logits, words)
    values = logits.values if isinstance(logits, Ragged) else logits
    fits = isinstance(logits, Ragged) == (words is not None) and values.ndim == 2 and len(logits) == len(split.keys)
    if not fits or (words is not None and not np.array_equal(logits.counts, words)):
        what = f"{len(split.keys)} training rows" if words is None else f"the {words.sum()} words of the training rows"
        raise DataError(
            f"teacher of {task!r}: expected logits [{'N' if words is None else 'M'}, K] of {what}, got shape "
            f"{list(values.shape)}"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DataError(
            f"teacher of {task!r}: logits of training {'row' if words is None else 'word'} {row} are not finite"
        )
    values = np.ascontiguousarray(values, dtype=np.float32)
    return values if words is None else Ragged(values, logits.offsets)


def label_order(task: str, theirs: Head, ours: Head) -> list[int] | None:
    """Return the place of each of the task's labels among a model's outputs, or ``None`` if they are the same.

    Raises:
        DataError: If the model's predictions are not about what the task asks.
    """
    families: tuple[type, ...] = (TaggingHead, ChoiceHead, ClassificationHead, MultiLabelHead, OrdinalHead)
    families = (*families, RegressionHead, HLGaussHead, SpanHead)
    family, other = (next((kind for kind in families if isinstance(head, kind)), type(head)) for head in (ours, theirs))
    scale = [[getattr(head, name, None) for name in ("low", "high", "sigmoid", "ends")] for head in (ours, theirs)]
    names, found = (list(getattr(head, "label_names", ())) for head in (ours, theirs))
    if family is ChoiceHead:  # a choice is known by its place
        names, found = [], []
    same = sorted(names) == sorted(found) if family is not OrdinalHead else names == found
    if family is not other or ours.outputs != theirs.outputs or scale[0] != scale[1] or not same:
        raise DataError(
            f"teacher of {task!r}: the model predicts {_what_of(theirs)}, the task has {_what_of(ours)}; they must "
            "agree. Train the model with the task's labels, or write its predictions to a table that names them"
        )
    return None if names == found else [found.index(name) for name in names]


def _what_of(head: Head) -> str:
    names = getattr(head, "label_names", ())
    said = f"{type(head).__name__} with "
    if names:
        return said + ", ".join(map(repr, names))
    low, high = getattr(head, "low", None), getattr(head, "high", None)
    return said + (f"{head.outputs} outputs" if low is None else f"scores from {low:g} to {high:g}")
