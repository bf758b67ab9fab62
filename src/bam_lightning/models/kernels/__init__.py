"""Kernels written for speed on a CPU, behind one switch.

Without them the layers of transformers, autograd and torch's dropout compute the same, with other draws of dropout."""

_enabled = True


def enable(on: bool) -> None:
    """Switch all kernels of this package on or off, for the whole process."""
    global _enabled
    _enabled = on


def enabled() -> bool:
    """Return whether the kernels are used; they are unless ``enable(False)`` was called."""
    return _enabled
