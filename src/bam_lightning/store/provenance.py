"""What results depend on beside options and data."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("bam-lightning", "torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            installed[name] = "not installed"
    return installed
