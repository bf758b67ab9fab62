"""Extension points: a config section whose ``_target_`` names a class or function, and its keyword arguments."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.renamed import renamed
from bam_lightning.config.validation import suggest


def instantiate(key: str, section: Mapping[str, Any], base: type) -> Any:
    """Return ``_target_(**the rest of section)``, which makes a ``base``. Nothing else is called.

    Args:
        key: what errors call the section.
        section: ``_target_`` and its keyword arguments.
        base: the class of what belongs in this place; see ``locate``.

    Raises:
        ConfigError: naming ``key``, if ``_target_`` is missing, not importable or makes something else, if an argument
            is unknown or missing or has a ``_target_`` itself, or if the target refuses a value.

    >>> from bam_lightning import Schedule
    >>> instantiate("distillation.schedule", {"_target_": "bam_lightning.ConstantAnnealing", "lam": 0.5}, Schedule)
    ConstantAnnealing(lam=0.5)
    """
    arguments = {name: value for name, value in section.items() if name != "_target_"}
    for inner in targets(arguments):
        raise ConfigError(f"{key} has an argument with _target_ {inner!r}; only {key}._target_ itself is built")
    target = locate(key, section.get("_target_"), base)
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in arguments:
        if name not in parameters and not open_ended:
            raise ConfigError(
                renamed(f"{key}.{name}")
                or f"{key}.{name} is not an option of {section['_target_']}; "
                f"options: {', '.join(parameters) or 'none'}{suggest(name, parameters)}"
            )
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if required and name not in arguments:
            raise ConfigError(f"{key}.{name} is missing; {section['_target_']} needs it")
    try:
        return target(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} = {dict(arguments)} is refused by {section['_target_']}: {error}") from error


def targets(value: Any) -> Iterator[Any]:
    """Yield each ``_target_`` in nested mappings and lists.

    >>> list(targets([{"inner": {"_target_": "subprocess.Popen"}}]))
    ['subprocess.Popen']
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from targets(item)


def locate(key: str, path: Any, base: type) -> Any:
    """Import what a dotted name stands for, without calling it: a subclass of ``base``, or a function returning one.

    A function must say by the annotation of what it returns that this is a ``base``.

    Raises:
        ConfigError: naming ``key``, if it cannot be imported or is something else.
    """
    target = _import(key, path)
    made = target
    if not inspect.isclass(target):
        try:
            made = get_type_hints(target).get("return")
        except (NameError, TypeError, AttributeError):  # an annotation of what is imported for type checks alone
            made = None
        made = get_origin(made) or made
    if not (inspect.isclass(made) and issubclass(made, base)):
        name = f"{base.__module__}.{base.__qualname__}"
        public = base.__name__ if base.__module__.startswith("bam_lightning.") else ""
        raise ConfigError(
            f"{key}._target_ names {path!r}, which is not a {f'bam_lightning.{public}' if public else name}; give a "
            "subclass of it, or a function whose annotation says that it returns one"
        )
    return target


def _import(key: str, path: Any) -> Any:
    if not isinstance(path, str) or "." not in path or not all(path.split(".")):
        raise ConfigError(f"{key}._target_ must be a dotted name such as my_package.my_module.MyClass, got {path!r}")
    former = renamed(path)
    if former:
        raise ConfigError(f"{key}._target_: {former}")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}._target_ names {path!r}, whose module cannot be imported: {error}") from error
    target = getattr(module, name, None)
    if not callable(target):
        raise ConfigError(
            f"{key}._target_ names {path!r}; {module_name} has no callable {name!r}"
            f"{suggest(name, [n for n in dir(module) if not n.startswith('_') and callable(getattr(module, n, None))])}"
        )
    return target


def source_fingerprint(target: str) -> str:
    """Return a hash of the file that defines a user's own class, or ``""`` for classes of installed packages.

    A changed class gives other weights, so its source belongs to the id of a Run.
    """
    module = target.rpartition(".")[0]
    if not module or module.split(".")[0] == "bam_lightning":
        return ""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    origin = Path(found.origin) if found is not None and found.origin else None
    if origin is None or not origin.is_file() or {"site-packages", "dist-packages"} & set(origin.parts):
        return ""
    if origin.is_relative_to(sysconfig.get_paths()["stdlib"]):
        return ""
    return hashlib.sha256(origin.read_bytes()).hexdigest()[:16]
