"""Check a config that Python code may have changed after it was read."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import Config
from bam_lightning.config.renamed import RENAMED
from bam_lightning.config.validation import suggest

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def recheck(config: Config) -> None:
    """Check the names, the types and the values of all options again.

    Raises:
        ConfigError: naming the option, for an attribute that is none, a value of the wrong type or one out of range.
    """
    for fault in _faults("", config, Config):
        raise ConfigError(fault)
    config.__post_init__()


def _faults(key: str, value: Any, hint: Any) -> Iterator[str]:
    """Yield what is wrong with a value, or with what it holds."""
    if is_dataclass(value) and (hint is Any or isinstance(value, hint)):
        yield from _faults_of_fields(key, value)
    elif hint is Any:
        return
    elif get_origin(hint) in (Union, types.UnionType):
        kinds = get_args(hint)
        if not any(next(_faults(key, value, kind), None) is None for kind in kinds):
            yield next(_faults(key, value, next(kind for kind in kinds if kind is not types.NoneType)))
    elif get_origin(hint) is list:
        if not isinstance(value, list):
            yield f"{key} must be a list, got {value!r}"
            return
        for number, entry in enumerate(value):
            yield from _faults(f"{key}[{number}]", entry, get_args(hint)[0])
    elif get_origin(hint) is dict:
        if not isinstance(value, dict):
            yield f"{key} must be a mapping, got {value!r}"
            return
        for name, entry in value.items():
            yield from _faults(f"{key}.{name}", entry, get_args(hint)[1])
    elif hint is types.NoneType:
        if value is not None:
            yield f"{key} must be null, got {value!r}"
    elif not _is_a(value, hint):
        yield f"{key} must be {KINDS.get(hint) or _described(hint)}, got {value!r}"


def _is_a(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _described(hint: Any) -> str:
    if issubclass(hint, Enum):
        return f"one of {', '.join(f'{hint.__name__}.{entry.name}' for entry in hint)}"
    return f"a {hint.__name__}"


def _faults_of_fields(key: str, value: Any) -> Iterator[str]:
    known, prefix = {entry.name for entry in fields(value)}, f"{key}." if key else ""
    for name in vars(value):
        if name not in known:
            new = next((new for old, new in RENAMED.items() if old.endswith(f".{name}")), "").rpartition(".")[2]
            hint = f"; `{name}` is now `{new}`" if new in known else suggest(name, known)
            yield f"no option {prefix + name!r}{hint}"
    hints = get_type_hints(type(value))
    for entry in fields(value):
        yield from _faults(f"{prefix}{entry.name}", getattr(value, entry.name), hints[entry.name])
