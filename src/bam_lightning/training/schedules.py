"""Pure schedules over ``progress``, the share of a Run's optimizer steps already done, in [0, 1).

Two families: ``lam``, the weight of the gold label (section 3.2), and the factor on the learning rate
(not in the paper; the reference code's is ``bert_rate``). Both follow ``BamModule.progress``."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """lam, the weight of gold, over ``progress``. Any class with ``__call__(self, progress)`` counts as a subclass."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return lam in [0, 1] at ``progress``."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        call = getattr(other, "__call__", None)  # noqa: B004
        return inspect.isfunction(call) and len(inspect.signature(call).parameters) == 2


@dataclass(frozen=True)
class LinearAnnealing:
    """lam rises from ``start`` to ``end``: from the teacher's target to gold (teacher annealing, section 3.2).

    A higher ``start`` than the paper's 0 listens less to teachers that are much weaker than their student.

    Raises:
        ValueError: if ``start`` or ``end`` lies outside [0, 1].

    >>> LinearAnnealing()(0.25)
    0.25
    >>> LinearAnnealing(start=0.5)(0.5)
    0.75
    """

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_lam("start", self.start)
        _check_lam("end", self.end)

    def __call__(self, progress: float) -> float:
        """Return lam at ``progress``."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class ConstantAnnealing:
    """The same lam throughout: 0 is pure distillation, 1 is gold only (ablations of Table 4).

    Raises:
        ValueError: if ``lam`` lies outside [0, 1].
    """

    lam: float

    def __post_init__(self) -> None:
        _check_lam("lam", self.lam)

    def __call__(self, progress: float) -> float:
        """Return lam, whatever the progress."""
        return self.lam


def _check_lam(name: str, lam: float) -> None:
    if not 0 <= lam <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {lam}")


def linear_rate(progress: float, warmup: float) -> float:
    """Return the factor that rises from 0 to 1 until ``warmup`` and falls linearly to 0 at the end.

    >>> [round(linear_rate(p, 0.1), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1.0 - progress) / (1.0 - warmup))


def bert_rate(progress: float, warmup: float) -> float:
    """Return BERT's factor: it rises to 1 during warm-up, then is ``1 - progress``, so it drops where warm-up ends.

    >>> [round(bert_rate(p, 0.1), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.5, 0.9, 0.45, 0.0]
    """
    return progress / warmup if progress < warmup else max(0.0, 1.0 - progress)


def constant_rate(progress: float, warmup: float) -> float:
    """Return the factor that rises to 1 until ``warmup`` and stays there."""
    return progress / warmup if progress < warmup else 1.0


LR_SCHEDULES = {"linear": linear_rate, "bert": bert_rate, "constant": constant_rate}
