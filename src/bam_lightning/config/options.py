"""Command lines of the small commands: ``WORD name=value ...`` into a typed, checked dataclass.

``train`` is composed by Hydra; what only reads the store needs no composition, and answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bam_lightning.config.compose import console
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice, suggest

T = TypeVar("T")


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with its line of ``--help``."""
    return field(default=default, metadata={"help": text})


@dataclass
class StoreOptions:
    """Options of every command that reads a store."""

    store: str = option("store", "folder of the Runs, paths.store of the jobs that trained them")


def parse(schema: type[T], arguments: Sequence[str], word: str | None = None) -> T:
    """Return the options of a command line.

    Args:
        schema: dataclass of the options.
        arguments: words of the form ``name=value``.
        word: the option that a word without ``=`` sets.

    Raises:
        ConfigError: naming an unknown option, or a value of the wrong type.
    """
    names = [entry.name for entry in fields(schema)]  # type: ignore[arg-type]
    hints = get_type_hints(schema)
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            if word is None:
                raise ConfigError(f"options have the form name=value, got {argument!r}; known: {', '.join(names)}")
            name, text = word, argument
        name = name.removeprefix("paths.")  # as `train` calls it
        if name not in names:
            raise ConfigError(f"no option {name!r}{suggest(name, names)}; known: {', '.join(names)}")
        values[name] = convert(name, text, hints[name])
    missing = [entry.name for entry in fields(schema) if entry.default == "???"]  # type: ignore[arg-type]
    missing = [name for name in missing if name not in values]
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}; give each one, as in {missing[0]}=VALUE")
    return schema(**values)


def convert(name: str, text: str, kind: Any) -> Any:
    """Return the value of an option; texts stay as they are, so that a Run id of digits is no number.

    >>> convert("run", "[12e4,0x1]", list[str])
    ['12e4', '0x1']
    """
    if get_origin(kind) is list:
        inner = text.removeprefix("[").removesuffix("]")
        return [convert(name, one.strip(), get_args(kind)[0]) for one in inner.split(",") if one.strip()]
    kinds = [one for one in get_args(kind) or (kind,) if one is not type(None)]
    if text == "null" and len(kinds) < len(get_args(kind)):
        return None
    if kinds == [bool]:
        check_choice(name, text.lower(), ("true", "false"))
        return text.lower() == "true"
    try:
        return kinds[0](text)
    except ValueError as error:
        raise ConfigError(f"{name} must be {'a whole' if kinds == [int] else 'a'} number, got {text!r}") from error


def usage(schema: type[Any], text: str) -> str:
    """Return the text of ``--help``: what the command does, and its options with their defaults."""
    lines = [text.strip(), "", "Options (name=value)"]
    for entry in fields(schema):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        plain = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default == "???" else "null" if default is None else plain
        lines.append(f"  {entry.name + '=' + shown:<28} {entry.metadata['help']}")
    return "\n".join(lines)


def command(schema: type[T], text: str, job: Callable[[T], int | None], word: str | None = None) -> None:
    """Run a command: parse, call ``job``, turn our own errors into one line; ends the process with its status."""
    _enter(schema, text, lambda arguments: job(parse(schema, arguments, word)))


def command_with_job(schema: type[T], text: str, job: Callable[[T, list[str]], int | None]) -> None:
    """Run a command whose line has its own options, and words of ``train`` that ``job`` gets as they are."""
    _enter(schema, text, lambda arguments: job(*split(schema, arguments)))


def _enter(schema: type[Any], text: str, main: Callable[[list[str]], int | None]) -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(usage(schema, text))
        sys.exit(0)
    sys.exit(console(lambda: main(arguments) or 0))


def split(schema: type[T], arguments: Sequence[str]) -> tuple[T, list[str]]:
    """Return the options of a command, and the words that are not its own."""
    own = tuple(f"{entry.name}=" for entry in fields(schema))  # type: ignore[arg-type]
    mine = [word for word in arguments if word.startswith(own)]
    return parse(schema, mine), [word for word in arguments if not word.startswith(own)]
