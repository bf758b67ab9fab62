"""Training targets: gold labels, teacher predictions and their mix (Clark et al. 2019, section 3.2).

Shapes: n examples of a task, k teachers of it, K outputs of its head (classes, or 1 for regression)."""

from __future__ import annotations

from torch import Tensor


def mix_targets(gold: Tensor, teacher: Tensor | None, lam: float) -> Tensor:
    """Return ``lam * gold + (1 - lam) * teacher``, the annealed target of section 3.2; gold without a teacher.

    Args:
        gold: ``[n, K]`` gold labels in the head's output space: one-hot rows, or values in [0, 1].
        teacher: ``[n, K]`` teacher predictions in that same space (not logits), or ``None``.
        lam: weight of the gold label in [0, 1]; 0 is pure distillation, 1 is no teacher.

    Raises:
        ValueError: if the shapes differ, or ``lam`` lies outside [0, 1].

    >>> import torch
    >>> mix_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.4]]), lam=0.25)
    tensor([[0.7000, 0.3000]])
    """
    if not 0 <= lam <= 1:
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
