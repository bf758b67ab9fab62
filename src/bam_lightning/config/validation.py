"""Checks of single values, with messages that say what was expected, what came and what is near it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from bam_lightning.config.exceptions import ConfigError

DELIMITERS = (",", ";", "\t", "|")
SIMILAR = 0.75  # of names among which there may be none that was meant: neutral is not meant for negative


def suggest(name: str, known: Iterable[str], similar: float = 0.6) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty string; upper case does not matter.

    >>> suggest("sede", ["seed", "scale"])
    "; did you mean 'seed'?"
    """
    near = nearest(name, known, similar)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(name: str, known: Iterable[str], similar: float = 0.6) -> str | None:
    """Return the known name that is most like ``name``, whatever its case; None if none is as similar as that."""
    spelled = {one.casefold(): one for one in reversed(list(known))}
    near = difflib.get_close_matches(name.casefold(), list(spelled), n=1, cutoff=similar)
    return spelled[near[0]] if near else None


def listed(names: Iterable[str]) -> str:
    """Return names for a message, with commas between them; in quotes those that are empty or hold odd signs.

    >>> listed(["text", "", "a, b"])
    "text, '', 'a, b'"
    """
    shown = (
        name if name and name == name.strip() and name.isprintable() and "," not in name else repr(name)
        for name in names
    )
    return ", ".join(shown) or "none"


def check_choice(key: str, name: str, known: Iterable[str]) -> None:
    """Raise ``ConfigError`` unless ``name`` is one of ``known``."""
    known = list(known)
    if name not in known:
        raise ConfigError(f"{key} names {name!r}; choices: {', '.join(known) or 'none'}{suggest(name, known)}")


def check_at_least(key: str, value: int, low: int, most: int | None = None) -> None:
    """Raise ``ConfigError`` unless ``value >= low``, or where it is above ``most``: a mistyped number must not fill the
    memory, or never end."""
    if value < low:
        raise ConfigError(f"{key} must be at least {low}, got {value}")
    if most is not None and value > most:
        raise ConfigError(f"{key} must be at most {most}, got {value}")


def expand_path(key: str, text: str) -> Path:
    """Return a path with ``~`` resolved.

    Raises:
        ConfigError: naming ``key``, if it is empty, holds a zero byte, or names the home of nobody.
    """
    if not text or "\0" in text:
        raise ConfigError(f"{key} must be a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}: no home folder is known for {text!r}; write the whole path") from error


def check_positive(key: str, value: float, most: float = math.inf) -> None:
    """Raise ``ConfigError`` unless ``value`` is finite, above 0 and at most ``most``."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{key} must be above 0, got {value}")
    if value > most:
        raise ConfigError(f"{key} must be at most {most:g}, got {value:g}")


def check_range(
    key: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Raise ``ConfigError`` unless ``value`` lies between ``low`` and ``high``; ends belong to it unless open."""
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if below or above or math.isnan(value):
        span = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ConfigError(f"{key} must be in {span}, got {value}")


def check_delimiter(key: str, delimiter: str | None) -> None:
    """Raise ``ConfigError`` for a delimiter that the csv module does not take; ``None`` is found in the file."""
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ConfigError(f"{key} must be one character, got {delimiter!r}")


def header_hint(columns: Iterable[str], option: str, given: str | None = None) -> str:
    """Return a hint at what may be wrong with the header of a text table that lacks a column.

    It is not UTF-8, or its names hold another separator more often than they were put apart.

    Args:
        columns: The names.
        option: How the user sets the separator.
        given: The separator, if the user set it.

    >>> header_hint(["Name", " first;age;label"], "--delimiter")
    "; the columns seem to be separated by ';': set --delimiter"
    >>> header_hint(["a;b"], "--delimiter", ",")
    "; --delimiter is ',', but the header seems to be separated by ';'; leave it out to have it found"
    """
    names = list(columns)
    if any("\udc80" <= sign <= "\udcff" for name in names for sign in name):  # bytes that are no UTF-8
        return "; the header is not UTF-8 text: save the file as UTF-8"
    other = max(DELIMITERS, key=lambda sign: sum(name.count(sign) for name in names))
    if sum(name.count(other) for name in names) < max(len(names), 1):
        return ""
    if given is None:
        return f"; the columns seem to be separated by {other!r}: set {option}"
    return f"; {option} is {given!r}, but the header seems to be separated by {other!r}; leave it out to have it found"


def require_extra(what: str, packages: Iterable[str], extra: str) -> None:
    """Raise ``ConfigError``, saying what to install, unless the packages that ``what`` needs are there."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}; run: pip install 'bam-lightning[{extra}]'")
