"""Training targets: gold labels, teacher predictions and their mix (Clark et al. 2019, section 3.2).

Shapes: n examples of a task, k teachers of it, K outputs of its head (classes, or 1 for regression)."""

from __future__ import annotations

import torch
from torch import Tensor


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
