"""Extension points: a config section whose ``_target_`` names a class or function, and its keyword arguments."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.renamed import renamed
from bam_lightning.config.validation import suggest


def instantiate(key: str, section: Mapping[str, Any]) -> Any:
    """Return ``_target_(**the rest of section)``.

    Raises:
        ConfigError: naming ``key``, if ``_target_`` is missing or not importable, if an argument is unknown
            or missing, or if the target refuses a value.

    >>> instantiate("distillation.schedule", {"_target_": "bam_lightning.ConstantAnnealing", "lam": 0.5})
    ConstantAnnealing(lam=0.5)
    """
    arguments = {name: value for name, value in section.items() if name != "_target_"}
    target = _locate(key, section.get("_target_"))
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


def _locate(key: str, path: Any) -> Any:
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
