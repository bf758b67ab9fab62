"""Check values that were read from JSON against Python types, so that a damaged file is one message."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Check that ``values`` has a value of the right type for each of ``fields``; other keys are ignored.

    Args:
        values: A JSON object.
        fields: Field name -> ``str``, ``int``, ``float``, ``list[T]``, ``dict[str, T]``, ``T | None`` or ``Any``

    Raises:
        ValueError: If a field is missing or has another type, naming it.

    >>> check_fields({"seed": 1, "tasks": ["rte"]}, {"seed": int, "tasks": list[str]})
    >>> check_fields({"seed": "one"}, {"seed": int})
    Traceback (most recent call last):
    ...
    ValueError: seed is 'one', expected int
    """
    for name, kind in fields.items():
        if name not in values:
            raise ValueError(f"{name} is missing")
        if not has_type(values[name], kind):
            expected = getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)
            raise ValueError(f"{name} is {str(repr(values[name]))[:60]}, expected {expected}")


def has_type(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of a type; an ``int`` passes as a ``float``, a ``bool`` as neither."""
    if kind is Any:
        return True
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(has_type(value, option) for option in arguments)
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(item, arguments[1]) for item in value.values())
    if kind is NoneType:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
