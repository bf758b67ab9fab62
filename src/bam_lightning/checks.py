"""Checks of single values, with messages that say what was expected, what came and what is near it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from importlib.util import find_spec


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty string.

    >>> suggest("sede", ["seed", "scale"])
    "; did you mean 'seed'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def known_name(key: str, name: str, known: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``name`` is one of ``known``."""
    known = list(known)
    if name not in known:
        raise ValueError(f"{key} names {name!r}; choices: {', '.join(known) or 'none'}{suggest(name, known)}")


def at_least(key: str, value: int, low: int) -> None:
    """Raise ``ValueError`` unless ``value >= low``."""
    if value < low:
        raise ValueError(f"{key} must be at least {low}, got {value}")


def positive(key: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key} must be above 0, got {value}")


def in_range(
    key: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise ``ValueError`` unless ``value`` lies between ``low`` and ``high``; ends belong to it unless open."""
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if below or above or math.isnan(value):
        span = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{key} must be in {span}, got {value}")


def installed(what: str, packages: Iterable[str], extra: str) -> None:
    """Raise ``RuntimeError``, saying what to install, unless the packages that ``what`` needs are there."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"{what} needs {', '.join(missing)}; run: pip install 'bam-lightning[{extra}]'")
