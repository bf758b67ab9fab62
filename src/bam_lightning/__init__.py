"""bam_lightning: single-task teachers teach one multi-task student (Clark et al. 2019).

What is listed in ``__all__`` is the plain-Python way to everything; it is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bam_lightning.config.compose import compose as make_config
    from bam_lightning.inference.predictor import Model, Prediction, load
    from bam_lightning.recipes.runner import run_recipe

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "load", "make_config", "run_recipe"]

_PLACES = {
    "Model": "inference.predictor.Model",
    "Prediction": "inference.predictor.Prediction",
    "load": "inference.predictor.load",
    "make_config": "config.compose.compose",
    "run_recipe": "recipes.runner.run_recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'bam_lightning' has no attribute {name!r}")
    room, _, inside = _PLACES[name].rpartition(".")
    return getattr(import_module(f"bam_lightning.{room}"), inside)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
