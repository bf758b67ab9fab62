"""Training targets: gold labels, teacher predictions and their mix (Clark et al. 2019, section 3.2).

Shapes: n examples of a task (or their m words), k teachers of it, K outputs of its head (classes; 1 for regression)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.teacher_config import TeacherSource
from bam_lightning.data.examples import TaskExamples
from bam_lightning.data.items import answer_spans
from bam_lightning.data.teacher_columns import NEVER, Column, read_column
from bam_lightning.models.batch import ABSENT, TaskBatch
from bam_lightning.models.heads import BinaryHeads, ClassificationHead, Head, RegressionHead, decode
from bam_lightning.store.ragged import Ragged
from bam_lightning.training.spec import untrained_head


class Teacher(NamedTuple):
    """What teaches N training rows; its fields are those of ``Examples``."""

    teacher: Any = None
    teacher_target: NDArray[np.float32] | None = None
    has_teacher: NDArray[np.bool_] | None = None


def class_target(head: Head, probabilities: Tensor) -> Tensor:
    """Return the expected target ``[n, K]`` of labels that are drawn with the given probabilities ``[n, C]``.

    >>> from bam_lightning.models.heads import OrdinalHead
    >>> class_target(OrdinalHead(4, ["low", "mid", "high"]), torch.tensor([[0.5, 0.25, 0.25]]))
    tensor([[0.5000, 0.2500]])
    """
    return probabilities @ head.encode_labels(torch.arange(probabilities.shape[1], device=probabilities.device))


def target_logits(head: Head, target: Tensor) -> Tensor:
    """Return logits ``[n, K]`` that the head brings to the given target, so that a temperature can divide them.

    Raises:
        ConfigError: For a head of one's own whose target space is none of those of this library.

    >>> from bam_lightning.models.heads import ClassificationHead
    >>> target_logits(ClassificationHead(4, ["no", "yes"]), torch.tensor([[0.0, 1.0]]))
    tensor([[-1000.,     0.]])
    """
    if isinstance(head, RegressionHead) and not head.sigmoid:
        return target
    logits = target.logit() if isinstance(head, (BinaryHeads, RegressionHead)) else target.log()
    logits = logits.clamp(NEVER, -NEVER)
    if not torch.allclose(head.to_target_space(logits), target, atol=1e-4):
        raise ConfigError(
            f"a temperature other than 1 needs a teacher's logits, and those of probabilities are not known for "
            f"{type(head).__name__}; give logits, or the file's own temperature"
        )
    return logits


def read_teacher(name: str, examples: TaskExamples, source: TeacherSource, alone: bool = True) -> Column:
    """Read a file of predictions, see ``read_column``, and check that a task can learn from them.

    Args:
        name: Name of the task.
        examples: Its rows.
        source: The file, and how to read it.
        alone: Whether no other teacher covers the rows that this one leaves out.

    Raises:
        ConfigError: If the task's temperature cannot act on the predictions.
        DataError: For a file that does not fit the rows, or whose predictions are no nearer to gold than the commonest
            label is, or the mean of a regression task.
    """
    task = examples.task
    column = read_column(name, task, examples.train, source, alone)
    head = untrained_head(name, task.head_config)
    if source.check_agreement and task.in_average:
        reason = disagreement(f"teacher of {name!r}, {source.path}", examples, column, head)
        if reason:
            raise DataError(f"{reason} If it is to teach all the same, give check_agreement=false")
    if task.temperature != 1:  # it acts on these predictions, or the head cannot have it
        combine_columns(name, str(task.kind), [column], [1.0], head, task.temperature)
    return column


def disagreement(where: str, examples: TaskExamples, column: Column, head: Head) -> str:
    """Return a sentence if predictions are no nearer to gold than the commonest label or the mean is, else ''."""
    task, rows = examples.task, examples.train
    labels: Any = answer_spans(rows) if task.kind == "span" else rows.labels
    known = np.ones(len(rows.keys), dtype=bool) if column.covered is None else column.covered
    if rows.has_gold is not None:
        known = known & rows.has_gold
    if column.form == "logits":
        found = decode(head, column.values)
    elif column.form == "values":
        found = column.values[:, 0]
    else:
        found = column.values > 0.5 if task.multi_label else column.values.argmax(axis=1)
    if isinstance(labels, Ragged):
        known = np.repeat(known, labels.counts) & (labels.values >= 0) & (found >= 0)
        labels = labels.values
    labels, found = labels[known], found[known]
    if not len(labels):
        return ""
    if task.regression:
        error, base = float(np.square(found - labels, dtype=np.float64).mean()), float(np.var(labels, dtype=np.float64))
        said, least, bad = f"mean squared error is {error:.4g}", f"{base:.4g}, that of the mean", error >= base > 0
    else:
        right = (found == labels).all(axis=1) if task.kind == "span" else found == labels
        parts = labels.T if task.multi_label else [labels]  # each label is decided by itself
        common = sum(int(np.unique(part, axis=0, return_counts=True)[1].max()) for part in parts)
        said = f"agreement is {int(right.sum()):,} of {right.size:,} labels"
        least, bad = f"{common:,}, that of the commonest label", right.sum() <= common < right.size
    return f"{where}: its {said}, no better than {least}; are classes or rows mixed up?" if bad else ""


def combine_columns(
    task: str, kind: str, columns: Sequence[Column], weights: Sequence[float], head: Head, temperature: float = 1.0
) -> Teacher:
    """Return the teacher of a task: one column, or an ensemble averaged over the members that cover a row.

    Logits stay logits where all members are of equal weight and cover all rows; otherwise predictions are brought into
    the head's target space and averaged.

    Args:
        task: Name of the task.
        kind: Its kind.
        columns: Predictions of each member.
        weights: Of the members.
        head: The task's head, whatever its width.
        temperature: Of distillation. One other than 1 acts on logits: those of predictions are their logarithms.

    Raises:
        ConfigError: If a temperature cannot act on the predictions.
        DataError: If the members' predictions have different shapes.
    """
    if isinstance(head, ClassificationHead):
        head.label_smoothing = 0.0  # it is for gold
    words: Any = [column.values for column in columns]
    if isinstance(words[0], Ragged):
        if len(set(weights)) > 1:
            raise DataError(f"teachers of the words of {task!r} count equally; leave out their weights")
        if len({(part.values.shape, part.offsets.tobytes()) for part in words}) > 1:
            raise DataError(f"teachers of {task!r} must have logits of one shape on the same words")
        values = words[0].values if len(words) == 1 else np.stack([part.values for part in words], axis=1)
        masks = [column.covered for column in columns if column.covered is not None]
        known = np.any(masks, axis=0) if len(masks) == len(columns) else None
        return Teacher(Ragged(values, words[0].offsets), None, None if known is None or known.all() else known)
    covered = [column.covered for column in columns]
    if all(column.form == "logits" for column in columns):
        shapes = sorted({column.values.shape for column in columns})
        if len(shapes) > 1:
            raise DataError(f"teachers of {task!r} must have logits of one shape, got {shapes}")
        if len(columns) == 1:
            return Teacher(columns[0].values, None, covered[0])
        if len(set(weights)) == 1 and all(mask is None for mask in covered):
            return Teacher(np.stack([column.values for column in columns], axis=1))
    total: Any = 0.0
    mass: Any = 0.0
    for column, weight in zip(columns, weights, strict=True):
        share = weight * (np.ones(len(column.values)) if column.covered is None else column.covered)[:, None]
        total = total + share * _target(kind, column, head)
        mass = mass + share
    target = (total / np.where(mass > 0, mass, 1)).astype(np.float32)
    has_teacher = (mass > 0)[:, 0]
    known = None if has_teacher.all() else has_teacher
    if temperature == 1:
        return Teacher(None, np.ascontiguousarray(target), known)
    logits = np.zeros_like(target)
    logits[has_teacher] = target_logits(head, torch.from_numpy(target[has_teacher])).numpy()
    return Teacher(logits, None, known)


def _target(kind: str, column: Column, head: Head) -> NDArray[np.float32]:
    """Return predictions ``[N, K]`` in the head's target space."""
    values = torch.from_numpy(column.values)
    if column.form == "logits":
        values = head.to_target_space(values)
    elif column.form == "values":
        values = head.encode_labels(values[:, 0])
    elif kind != "multi_label":
        values = class_target(head, values)
    target: NDArray[np.float32] = values.detach().numpy()
    return target


def example_losses(head: Head, logits: Tensor, part: TaskBatch, lam: float, temperature: float = 1.0) -> Tensor:
    """Return the weighted loss of each example ``[n]`` against the target of section 3.2.

    Args:
        head: of the task.
        logits: ``[n, K]``; ``[m, K]`` of the words of n examples.
        part: labels and teacher of the examples.
        lam: weight of gold for examples that have both gold and a teacher.
        temperature: T of distillation (Hinton et al. 2015): logits of teacher and student are divided by T, and the
            teacher's part of the loss is multiplied by T ** 2, so that gradients keep their size. 1 mixes targets, as
            section 3.2 has it.
    """
    gold = head.encode_labels(part.labels, *part.words) if part.gold is None else class_target(head, part.gold)
    teacher = part.teacher_target
    if part.teacher is not None:
        softened = part.teacher if temperature == 1 else soften(part.teacher, temperature)
        teacher = ensemble_mean(head.to_target_space(softened, *part.words))
    else:
        assert teacher is None or temperature == 1  # see combine_columns
    if part.cut is not None:  # a word that has neither gold nor a teacher has no target at all
        assert part.has_gold is not None
        gold = gold * part.has_gold.unsqueeze(-1)
        if teacher is not None and part.has_teacher is not None:
            teacher = teacher * part.has_teacher.unsqueeze(-1)
    shares = row_lam(lam, part.has_gold, part.has_teacher)
    if teacher is None or temperature == 1:
        loss = head.loss(logits, mix_targets(gold, teacher, shares).to(logits.dtype), *part.words)
    elif part.cut is None:
        share = shares.squeeze(-1) if isinstance(shares, Tensor) else shares
        soft = head.loss(logits / temperature, teacher.to(logits.dtype))
        loss = share * head.loss(logits, gold.to(logits.dtype)) + (1 - share) * temperature**2 * soft
    else:  # cross-entropy is linear in its target, so each word has its own share
        gold, teacher = shares * gold, (1 - shares) * teacher
        trace = 1e-20  # of the other target: a mean over words then counts the same words in both parts
        soft = head.loss(soften(logits, temperature), (teacher + trace * gold).to(logits.dtype), *part.words)
        loss = head.loss(logits, (gold + trace * teacher).to(logits.dtype), *part.words) + temperature**2 * soft
    return loss if part.weight is None else loss * part.weight


def balanced_head(config: Any, labels: Any) -> Any:
    """Return a head's ``_target_`` form with numbers for ``class_weights=balanced``; others as they are.

    Args:
        config: of the head.
        labels: class ids ``[N]`` of the training rows that have gold, or ``Ragged`` tags.
    """
    if callable(config) or config.get("class_weights") != "balanced":
        return config
    values = labels.values if isinstance(labels, Ragged) else labels
    counts = np.bincount(values[values >= 0], minlength=len(config["label_names"]))
    weights = np.where(counts > 0, counts.sum() / (len(counts) * np.maximum(counts, 1)), 1.0)
    return {**config, "class_weights": weights.tolist()}


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return logits divided by a temperature; what is absent stays so."""
    return torch.where(logits > ABSENT, logits / temperature, logits)


def row_lam(lam: float, has_gold: Tensor | None, has_teacher: Tensor | None) -> float | Tensor:
    """Return the weight of gold, ``[n, 1]`` where rows differ: 1 for a row without teacher, 0 for one without gold.

    Args:
        lam: weight of gold for rows that have both.
        has_gold: ``[n]`` booleans, or ``None`` if all rows have gold.
        has_teacher: ``[n]`` booleans, or ``None`` if all rows have a teacher.

    >>> row_lam(0.25, None, None), row_lam(0.25, None, torch.tensor([True, False])).tolist()
    (0.25, [[0.25], [1.0]])
    """
    if has_gold is None and has_teacher is None:
        return lam
    known = has_gold if has_gold is not None else has_teacher
    assert known is not None
    rows = torch.full(known.shape, lam, device=known.device)
    if has_teacher is not None:
        rows = torch.where(has_teacher, rows, 1.0)
    if has_gold is not None:
        rows = torch.where(has_gold, rows, 0.0)
    return rows.unsqueeze(-1)


def mix_targets(gold: Tensor, teacher: Tensor | None, lam: float | Tensor) -> Tensor:
    """Return ``lam * gold + (1 - lam) * teacher``, the annealed target of section 3.2; gold without a teacher.

    Args:
        gold: ``[n, K]`` gold labels in the head's output space: one-hot rows, or values in [0, 1].
        teacher: ``[n, K]`` teacher predictions in that same space (not logits), or ``None``.
        lam: weight of the gold label in [0, 1]; 0 is pure distillation, 1 is no teacher. ``[n, 1]`` where rows differ.

    Raises:
        ValueError: if the shapes differ, or ``lam`` lies outside [0, 1].

    >>> import torch
    >>> mix_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.4]]), lam=0.25)
    tensor([[0.7000, 0.3000]])
    """
    if isinstance(lam, float | int) and not 0 <= lam <= 1:
        raise ValueError(f"lam must be in [0, 1], got {lam}")
    if teacher is None:
        return gold
    if gold.shape != teacher.shape:
        raise ValueError(f"gold and teacher must have one shape, got {list(gold.shape)} and {list(teacher.shape)}")
    return lam * gold + (1 - lam) * teacher


def ensemble_mean(teachers: Tensor) -> Tensor:
    """Return the mean prediction ``[n, K]`` of an ensemble ``[n, k, K]``; that of one teacher ``[n, K]`` as it is.

    Predictions are averaged, not logits, as in MT-DNN's distillation (Liu et al. 2019).

    >>> import torch
    >>> ensemble_mean(torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]))
    tensor([[0.7500, 0.2500]])
    """
    return teachers.mean(dim=1) if teachers.dim() == 3 else teachers
