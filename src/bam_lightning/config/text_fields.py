"""The texts of a row: columns, or templates such as ``"{subject}\\n{body}"`` that make one text of several columns."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from bam_lightning.config.exceptions import ConfigError

Parts = tuple[tuple[str, str | None], ...]


@lru_cache(maxsize=1024)
def parse_field(field: str) -> Parts:
    """Return the literal texts of a field, each with the name of the column that follows it; a column is its own name.

    Raises:
        ConfigError: For a template with anything but plain names in braces.

    >>> parse_field("{subject}: {body}!"), parse_field("body")
    ((('', 'subject'), (': ', 'body'), ('!', None)), (('', 'body'),))
    """
    if "{" not in field and "}" not in field:
        return (("", field),)
    try:
        parsed = [(literal, name, spec or kind) for literal, name, spec, kind in string.Formatter().parse(field)]
    except ValueError as error:
        raise ConfigError(f"template {field!r} cannot be read ({error}); write {{{{ for a brace of the text") from error
    for _, name, extra in parsed:
        if name is not None and (not name or extra or any(sign in name for sign in ".[]")):
            raise ConfigError(
                f"template {field!r}: braces hold the plain name of a column, as in {{body}}; "
                "write {{ and }} for braces of the text"
            )
    if not any(name for _, name, _ in parsed):
        raise ConfigError(f"template {field!r} names no column, as in {{body}}")
    return tuple((literal, name) for literal, name, _ in parsed)


def is_template(field: str) -> bool:
    """Return whether a field is a template and no column."""
    return "{" in field or "}" in field


def text_columns_of(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that texts are made of, each once.

    >>> text_columns_of(["{subject}: {body}", "channel"])
    ('subject', 'body', 'channel')
    """
    return tuple(dict.fromkeys(name for field in fields for _, name in parse_field(field) if name is not None))


def render(fields: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a row; in a template, no value is an empty text.

    >>> render(["{subject}: {body}", "channel"], {"subject": None, "body": "hello", "channel": "mail"})
    (': hello', 'mail')
    """
    return tuple(_fill(field, values) if is_template(field) else values[field] for field in fields)


def _fill(field: str, values: Mapping[str, Any]) -> str:
    def text_of(name: str | None) -> str:
        return "" if name is None or values[name] is None else values[name]

    return "".join(literal + text_of(name) for literal, name in parse_field(field))
