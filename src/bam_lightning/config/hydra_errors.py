"""What Hydra, OmegaConf and YAML say about a wrong command line or file, in one line that names the option."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bam_lightning.config.escaping import printable
from bam_lightning.config.exceptions import DISK_FULL, BamError, ConfigError, ConfigPathError
from bam_lightning.config.job_config import Config
from bam_lightning.config.renamed import renamed
from bam_lightning.config.validation import nearest, suggest

NOISE = ("full_key:", "reference_type=", "object_type=", "See https://")  # lines that Hydra ends its messages with
# What Hydra 1.3 raises, besides its own exceptions, for a value that its code did not expect.
BARE = (TypeError, AttributeError, ValueError, RecursionError)


def is_user_error(error: BaseException) -> bool:
    """Return whether a user can have caused the error: a ``BamError``, a full disk, or Hydra's, Lightning's, YAML's."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    known = (BamError, HydraException, OmegaConfBaseException, YAMLError)
    lightnings = type(error).__name__ == "MisconfigurationException"  # flags and callbacks of its Trainer that clash
    return isinstance(error, known) or _is_full_disk(error) or lightnings


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


@contextmanager
def config_errors(overrides: Sequence[str], folder: Path, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise ``ConfigError`` for whatever Hydra raises while it composes a config.

    Args:
        overrides: The words of the command line; a message names the wrong one.
        folder: The folder of the primary config.
        unless: Whether the error comes from elsewhere, such as the job itself. It is then raised unchanged.
    """
    try:
        yield
    except BamError:
        raise
    except Exception as error:
        if unless() or not (is_user_error(error) or isinstance(error, BARE)):
            raise
        message = _bare(error, overrides, folder) if isinstance(error, BARE) else format_error(error)
        if message is None:
            raise
        raise ConfigError(message) from error


def format_error(error: BaseException) -> str:
    """Return the message of an error in one line. For Hydra's own: with the key, the file and the nearest known name.

    Characters that cannot be printed (a line feed in a column's name, a terminal's commands) are escaped.
    """
    return printable(_message(error))


def option_names() -> set[str]:
    """Return the names of all options, with dots."""

    def walk(kind: Any, prefix: str) -> set[str]:
        hints = get_type_hints(kind)
        return {prefix + entry.name for entry in fields(kind)}.union(
            *(
                walk(hints[entry.name], f"{prefix}{entry.name}.")
                for entry in fields(kind)
                if is_dataclass(hints[entry.name])
            )
        )

    return walk(Config, "")


def _message(error: BaseException) -> str:
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    if _is_full_disk(error) and not isinstance(error, BamError):
        path = getattr(error, "filename", None)
        return f"cannot write {path or 'a file'}: the disk is full; make room, and the same command goes on"
    if type(error).__module__.startswith("yaml."):
        return f"not YAML: {' '.join(text.split())}"
    if isinstance(error, OverrideParseException):
        reason = _reason(text).removeprefix(f"Error parsing override '{error.override}' ").partition(" expecting ")[0]
        return (
            f"{error.override!r} is not of the form name=value ({reason}); put quotes around a value with "
            "special characters, as in 'name=\"a, b\"'"
        )
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    if not type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return text
    unknown = re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)?", f"{text} {error.__cause__}")
    return _no_option(error, unknown) if unknown else _invalid(error)


def _bare(error: BaseException, overrides: Sequence[str], folder: Path) -> str | None:
    """Return the message for an error that is not of Hydra's own types, or None if no override or file explains it."""
    if isinstance(error, RecursionError):
        return "a YAML file or an option contains itself (an alias such as *name inside what it names); write it out"
    folders = _config_folders(overrides, folder)
    if isinstance(error, UnicodeDecodeError):
        return f"{_undecodable(error, folders)} is not UTF-8 text ({error}); save it as UTF-8"
    return _wrong_group_value(overrides, folders) or (str(error) if isinstance(error, ValueError) else None)


def check_searchpath(overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a ``hydra.searchpath`` without brackets, or a folder that does not exist, of which
    Hydra only warns."""
    words = [word for word in overrides if word.lstrip("+~").startswith("hydra.searchpath=")]
    for word in words:
        if isinstance(value := _parse(word)[1], str) and value and not value.startswith("["):
            raise ConfigError(f"hydra.searchpath must be a list of folders; write 'hydra.searchpath=[{value}]'")
    for path in _searchpath(words):
        folder = Path(path.removeprefix("file://"))
        if not ("://" in path.removeprefix("file://") or "${" in path or folder.is_dir()):
            raise ConfigPathError(f"hydra.searchpath: no folder {folder} (looked for {folder.absolute()})")


def _searchpath(overrides: Sequence[str]) -> list[str]:
    """Return the entries of ``hydra.searchpath``."""
    added = [value for key, value in map(_parse, overrides) if key == "hydra.searchpath" and isinstance(value, list)]
    return [str(path) for paths in added for path in paths]


def _config_folders(overrides: Sequence[str], folder: Path) -> list[Path]:
    """Return the folders of YAML files that a command line reads: the package's, and those of ``hydra.searchpath``."""
    return [folder, *(Path(path.removeprefix("file://")) for path in _searchpath(overrides))]


def _undecodable(error: UnicodeDecodeError, folders: Sequence[Path]) -> str:
    """Return the path of the YAML file whose bytes could not be decoded."""
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        if path.is_file() and bytes(error.object) in path.read_bytes():
            return str(path)
    return "a YAML file"


def _wrong_group_value(overrides: Sequence[str], folders: Sequence[Path]) -> str | None:
    """Return the message for an override that gives a config group something else than the name of a file."""
    for word in overrides:
        group, value = _parse(word)
        if not group:
            return f"{word!r} is not of the form name=value: it has no name"
        names = value if isinstance(value, list) else [value]
        if all(isinstance(name, str) for name in names) or not any((folder / group).is_dir() for folder in folders):
            continue
        if isinstance(value, list):
            return f"{group} takes the name of a file, as --help lists them, got a list of others; give {group}=NAME"
        return f"{word}: {group} takes the name of a file, as --help lists them; give {group}=NAME"
    return None


def _parse(word: str) -> tuple[str, Any]:
    """Return the key and the value of an override; of a deletion or a sweep, an empty text for the value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word)
    if override.is_delete() or override.is_sweep_override():
        return override.key_or_group, ""
    return override.key_or_group, override.value()


def _no_choice(error: Any) -> str:
    """Say which group has no such file, and the files it has, those of one's own folders among them."""
    found = re.search(r"Could not find '([^']+)'", str(error))
    group, _, name = (found.group(1) if found else str(error.missing_cfg_file or "")).rpartition("/")
    former = renamed(f"{group}={name}")
    if former:
        return former
    known = sorted({str(one) for one in error.options or () if one != "schema"})
    if not known:
        return f"no {group or 'file'} {name!r}, and no folder {group!r} of such files; give GROUP=NAME, as in task=rte"
    hint = suggest(name, known) or f"; files of your own need 'hydra.searchpath=[file://DIR]', as DIR/{group}/NAME.yaml"
    return f"no {group} {name!r}; choices: {', '.join(known)}{hint}"


def _no_option(error: BaseException, unknown: re.Match[str]) -> str:
    text, name = f"{error}\n{error.__cause__}", unknown.group(1)
    wanted, full = re.search(r"override '([^']+)'", text), re.search(r"full_key: (\S+)", text)
    key = wanted.group(1) if wanted else full.group(1) if full else name
    near = nearest(name, _fields(unknown.group(2)))
    hint = f"; did you mean {key.replace(name, near)!r}?" if near else ""
    file = re.search(r"In '([^']+)'", text)
    former = renamed(key)
    if former:
        return f"{former}{f' (in {file.group(1)}.yaml)' if file else ''}"
    if file and file.group(1) == "task/schema":
        return f"no option {key!r}{hint}; a task is added with +task@suite.tasks.NAME=FILE"
    section, names = key.rpartition(".")[0], option_names()
    if section in names and not any(name.startswith(f"{section}.") for name in names):  # the arguments of a class
        return f"no option {key!r} is set; add it with a plus, +{key}=VALUE"
    return f"no option {key!r}{f' (in {file.group(1)}.yaml)' if file else ''}{hint}"


def _fields(kind: str | None) -> Sequence[str]:
    """Return the fields of a class of the schema, by its name."""
    waiting: list[Any] = [Config]
    while waiting:
        one = waiting.pop()
        if one.__name__ == kind:
            return [entry.name for entry in fields(one)]
        hints = get_type_hints(one)
        inner = [part for hint in hints.values() for part in (hint, *get_args(hint))]
        waiting += [part for part in inner if is_dataclass(part)]
    return []


def _invalid(error: BaseException) -> str:
    """Say which value was refused, where, and why; messages of ours come out as they are."""
    text = str(error)
    word = re.match(r"Error merging override (.*)", text)
    if word:
        reason, ours = _plain(str(error.__cause__ or text), word.group(1).partition("=")[2])
        return f"{'' if ours else 'Error merging override '}{word.group(1)}: {reason}"
    group = re.match(r"Could not override '(\w+)[@']", text)
    if group:
        how = "+task@suite.tasks.NAME=FILE" if group.group(1) == "task" else f"+{group.group(1)}=NAME"
        return f"no {group.group(1)} is set that could be replaced; add one with {how}"
    full, file = re.search(r"full_key: *(\S+)$", text, re.M), re.match(r"In '([^']+)'", text)
    reason, _ = _plain(text, "VALUE")
    if full and file:
        return f"{full.group(1)} (in {file.group(1)}.yaml): {reason}"
    return f"{full.group(1)}: {reason}" if full else f"{file.group(1)}.yaml: {reason}" if file else reason


def _plain(text: str, value: str) -> tuple[str, bool]:
    """Return a reason of OmegaConf in the words of who wrote the value; and whether it was put into other words."""
    if "is not a ListConfig, list or tuple" in text:
        return f"must be a list; put it into brackets, as in [{value}]", True
    kind = re.search(r"(\w+) is not a subclass of (\w+Config|Hyperparameters)", text)
    if kind:
        names = ", ".join(_fields(kind.group(2)))
        return f"must be a mapping of {names}, in a YAML file of its group; got {kind.group(1)}", True
    if "Cannot merge DictConfig with ListConfig" in text:
        if value.startswith("{"):
            return "must be a list, as in [a, b], got a mapping", True
        return "must be a mapping of names to values (name: value), got a list", True
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return "must have a value, got null; leave it out for its default", True
    return _reason(text), False


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith((*NOISE, "In '"))]
    return " ".join(kept) or text
