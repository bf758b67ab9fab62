"""bam_lightning: single-task teachers teach one multi-task student (Clark et al. 2019).

What is listed in ``__all__`` is the plain-Python way to everything; it is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bam_lightning.compose import compose as make_config
    from bam_lightning.job import run_recipe
    from bam_lightning.model import Model, Prediction, load

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "load", "make_config", "run_recipe"]

_PLACES = {
    "Model": "model.Model",
    "Prediction": "model.Prediction",
    "load": "model.load",
    "make_config": "compose.compose",
    "run_recipe": "job.run_recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'bam_lightning' has no attribute {name!r}")
    room, _, inside = _PLACES[name].partition(".")
    return getattr(import_module(f"bam_lightning.{room}"), inside)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
