"""bam_lightning: single-task teachers teach one multi-task student (Clark et al. 2019).

What is listed in ``__all__`` is the plain-Python way to everything; it is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bam_lightning.model import Model, Prediction, load

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "load"]

_ROOMS = {"Model": "model", "Prediction": "model", "load": "model"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"bam_lightning.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'bam_lightning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
