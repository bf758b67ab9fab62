"""How errors read: which of them were raised on purpose, and what each says in one line.

An error is on purpose if a ``raise`` of this library raised it for bad input, or if Hydra, OmegaConf or the YAML reader
refused a command line or a file. Everything else is a fault of ours, and keeps its traceback."""

from __future__ import annotations

import difflib
import dis
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, get_args, get_type_hints

from bam_lightning.config.job_config import Config
from bam_lightning.config.validation import suggest

PACKAGE = Path(__file__).resolve().parents[1]
COMPOSERS = (f"{Path('/hydra')}/", f"{Path('/omegaconf')}/", f"{Path('/hydra_plugins')}/")
NOISE = ("full_key:", "reference_type=", "object_type=", "See https://")  # lines that Hydra ends its messages with


def is_user_error(error: BaseException) -> bool:
    """Return whether the error was raised on purpose: by this library for bad input, or by Hydra."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, (HydraException, OmegaConfBaseException, YAMLError)):
        return True
    steps = list(_steps(error))
    if not steps:
        return False
    if isinstance(error, (UnicodeDecodeError, RecursionError)):  # of a YAML file
        return any(_composes(step.tb_frame) for step in steps)
    last = steps[-1]
    if (isinstance(error, ValueError) and _composes(last.tb_frame)) or _chooses_a_list(last):
        return True
    ours = Path(last.tb_frame.f_code.co_filename).resolve().is_relative_to(PACKAGE)
    return ours and _by_raise(last) and isinstance(error, (ValueError, OSError, RuntimeError))


def format_error(error: BaseException) -> str:
    """Return what the error says, in one line; of Hydra's, with the key, the file and the nearest known name.

    What cannot be printed (a line feed in a column's name, a terminal's commands) is escaped."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in _said(error))


def _said(error: BaseException) -> str:
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    if type(error).__module__.startswith("yaml."):
        return f"not YAML: {' '.join(text.split())}"
    if isinstance(error, RecursionError):
        return "a YAML file or an option contains itself (an alias such as *name inside what it names); write it out"
    if isinstance(error, UnicodeDecodeError):
        return f"{_yaml_file(error)} is not UTF-8 text ({error}); save it as UTF-8"
    if isinstance(error, OverrideParseException):
        reason = _reason(text).removeprefix(f"Error parsing override '{error.override}' ").partition(" expecting ")[0]
        return (
            f"{error.override!r} is not of the form name=value ({reason}); put quotes around a value with "
            "special characters, as in 'name=\"a, b\"'"
        )
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    if text.startswith("Config group override must be"):
        return _not_a_choice(error)
    if isinstance(error, (TypeError, AttributeError)):
        group = str(getattr(_local(error, "defaults_list.py", "d"), "group", "an option")).lstrip("/")
        return f"{group} takes the name of a file, as --help lists them, got a list of others; give {group}=NAME"
    unknown = re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)?", f"{text} {error.__cause__}")
    return _no_option(error, unknown) if unknown else _invalid(error)


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


def _steps(error: BaseException) -> Iterator[TracebackType]:
    step = error.__traceback__
    while step is not None:
        yield step
        step = step.tb_next


def _by_raise(step: TracebackType) -> bool:
    """Return whether a ``raise`` was executed there, and not a call that failed, as ``int("x")`` does."""
    code = step.tb_frame.f_code.co_code
    return dis.opname[code[step.tb_lasti]] == "RAISE_VARARGS"


def _composes(frame: FrameType) -> bool:
    """Return whether Hydra or OmegaConf is at work in a frame."""
    return any(part in frame.f_code.co_filename for part in COMPOSERS)


def _chooses_a_list(step: TracebackType) -> bool:
    """Return whether Hydra failed at a group's files, where a list on the command line named none, as ``data=[1]``."""
    return step.tb_frame.f_code.co_filename.endswith("defaults_list.py") and "d" in step.tb_frame.f_locals


def _local(error: BaseException, file: str, name: str) -> Any:
    """Return a local variable of the last of Hydra's frames in ``file``, which its message does not speak of."""
    found = [step.tb_frame.f_locals.get(name) for step in _steps(error)
             if step.tb_frame.f_code.co_filename.endswith(file)]  # fmt: skip
    return found[-1] if found else None


def _yaml_file(error: BaseException) -> str:
    return str(_local(error, "file_config_source.py", "full_path") or "a YAML file")


def _no_choice(error: Any) -> str:
    """Say which group has no such file, and the files it has, those of one's own folders among them."""
    found = re.search(r"Could not find '([^']+)'", str(error))
    group, _, name = (found.group(1) if found else str(error.missing_cfg_file or "")).rpartition("/")
    known = sorted({str(one) for one in error.options or () if one != "schema"})
    if not known:
        return f"no {group or 'file'} {name!r}, and no folder {group!r} of such files; give GROUP=NAME, as in task=rte"
    hint = suggest(name, known)
    folders = (
        "" if hint or group != "task" else "; files of your own: 'hydra.searchpath=[file://DIR]', as DIR/task/NAME.yaml"
    )
    return f"no {group} {name!r}; choices: {', '.join(known)}{hint}{folders}"


def _not_a_choice(error: BaseException) -> str:
    override = _local(error, "defaults_list.py", "override")
    word = getattr(override, "input_line", None) or "an option"
    group = getattr(override, "key_or_group", None)
    if not group:
        return f"{word!r} is not of the form name=value: it has no name"
    return f"{word}: {group} takes the name of a file, as --help lists them; give {group}=NAME"


def _no_option(error: BaseException, unknown: re.Match[str]) -> str:
    text, name = f"{error}\n{error.__cause__}", unknown.group(1)
    wanted, full = re.search(r"override '([^']+)'", text), re.search(r"full_key: (\S+)", text)
    key = wanted.group(1) if wanted else full.group(1) if full else name
    near = difflib.get_close_matches(name, _fields(unknown.group(2)), n=1)
    hint = f"; did you mean {key.replace(name, near[0])!r}?" if near else ""
    file = re.search(r"In '([^']+)'", text)
    if file and file.group(1) == "task/schema":
        return f"no option {key!r}{hint}; a task is added with +task@suite.tasks.NAME=FILE"
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
    if not type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return text
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
