"""Objects as plain values: ``{"_target_": "package.Class", **arguments}``, which checkpoints and YAML can hold."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from functools import partial as partially
from typing import Any

import numpy as np

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.instantiate import instantiate, locate
from bam_lightning.training.lightning import localize


def to_plain(value: Any) -> Any:
    """Return a value in plain types: dataclasses, classes, functions and partials by their ``_target_`` form.

    What has no such form, a lambda for example, becomes ``{"_target_": None}``: it must be passed again on loading.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)  # a member of an enum, for example
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"_target_": _name(type(value)), **fields}
    if isinstance(value, partially) and not value.args and _importable(value.func):
        return {"_target_": _name(value.func), "_partial_": True, **{k: to_plain(v) for k, v in value.keywords.items()}}
    if (inspect.isclass(value) or inspect.isfunction(value)) and _importable(value):
        return {"_target_": _name(value), "_partial_": True}
    return {"_target_": None}


def from_plain(key: str, value: Any, default: Any, base: type, partial: bool = False) -> Any:
    """Return the object that ``to_plain`` described; anything but a mapping is returned as it is.

    Args:
        key: what errors call the value.
        value: the object, its plain form, or ``None``.
        default: what ``None`` stands for.
        base: the class of what belongs in this place; see ``instantiate``.
        partial: whether the target is to be called later, with one more argument in front.

    Raises:
        ConfigError: for the plain form of an object that has none, or a target that cannot be built.
    """
    if value is None:
        return default
    if not isinstance(value, Mapping):
        return value
    arguments = {name: item for name, item in value.items() if name != "_partial_"}
    if "_target_" in arguments and arguments["_target_"] is None:
        raise ConfigError(f"{key} of this checkpoint has no _target_ form; pass it again, as in {key}=...")
    if partial or value.get("_partial_"):
        target = locate(key, localize(str(arguments.pop("_target_", None))), base)
        return partially(target, **arguments)
    return instantiate(key, arguments, base)


def _importable(value: Any) -> bool:
    return "<" not in getattr(value, "__qualname__", "<") and getattr(value, "__module__", "") != "__main__"


def _name(kind: Any) -> str:
    public: Any = sys.modules["bam_lightning"]
    if kind.__name__ in public.__all__ and kind.__module__.startswith("bam_lightning."):
        return f"bam_lightning.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
