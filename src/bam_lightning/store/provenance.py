"""What results depend on beside options and data."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

PACKAGES = (
    "bam-lightning",
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "torchmetrics",
    "numpy",
)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in what the conditions of two trainings differ, as ``name then (now)``; an empty text for nothing.

    >>> differences({"threads": 4, "versions": {"torch": "2.9"}}, {"threads": 2, "versions": {"torch": "2.9"}})
    'threads 4 (now 2)'
    """
    flat = [{**side, **side.get("versions", {}), "versions": None} for side in (before, now)]
    names = [name for name in flat[0] if name in flat[1] and flat[0][name] != flat[1][name]]
    return ", ".join(f"{name.replace('_', ' ')} {flat[0][name]} (now {flat[1][name]})" for name in names)


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
