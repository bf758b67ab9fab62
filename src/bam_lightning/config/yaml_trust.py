"""What YAML files may ask for: Hydra calls only what belongs in its sections, and only your own files read secrets.

Hydra builds callbacks, launchers, sweepers and logging handlers from ``_target_``s before our code runs, and any file
that a command line composes can set them. So each is checked by its place before Hydra calls it. The ``_target_``s of a
job itself are checked by ``config.instantiate``.

A file is your own if it belongs to this package or lies below the working directory. Files elsewhere, such as a
downloaded folder in ``hydra.searchpath`` or ``--config-dir``, may be somebody else's: they must not use resolvers,
since ``${oc.env:NAME}`` would put a secret into a path, a report or a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.instantiate import locate, targets

SWEEPER_PARTS = ("optuna.", "hydra_plugins.")  # packages of what a sweeper is made of, such as Optuna's samplers


def install(own: Path) -> None:
    """Have Hydra check the files that it reads and the sections that it builds, in this process.

    Args:
        own: Folder of the package's files.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydraSource
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    class FileConfigSource(HydraSource):  # Hydra's registry takes a class of this name only
        def load_config(self, config_path: str) -> Any:
            found = super().load_config(config_path)
            name = f"{config_path.removesuffix('.yaml')}.yaml"
            check_file(Path(self.path), name, found.config, own)
            check_label_names(Path(self.path) / name, found.config)
            return found

    Plugins.instance()  # registers Hydra's own class first
    SourcesRegistry.instance().types[HydraSource.scheme()] = FileConfigSource
    compose = ConfigLoaderImpl._load_configuration_impl
    if hasattr(compose, "checked"):
        return

    def load_configuration(self: Any, *args: Any, **options: Any) -> Any:
        tree = compose(self, *args, **options)
        check_hydra(tree)
        return tree

    load_configuration.checked = True  # type: ignore[attr-defined]
    ConfigLoaderImpl._load_configuration_impl = load_configuration  # type: ignore[method-assign]


def check_file(folder: Path, name: str, content: Any, own: Path) -> None:
    """Raise ``ConfigError`` for a resolver in a file outside the package and the working directory."""
    from omegaconf import OmegaConf

    path = (folder / name).resolve()
    if path.is_relative_to(own.resolve()) or path.is_relative_to(Path.cwd()):
        return
    for text in _texts(OmegaConf.to_container(content, resolve=False)):
        if _has_resolver(text):
            raise ConfigError(
                f"{path} has {text!r}; a file outside the working directory may be somebody else's and must not read "
                "the environment or call another resolver; give the value on the command line, or copy the file here"
            )


def check_label_names(path: Path, content: Any) -> None:
    """Raise ``ConfigError`` for label names that YAML does not read as text: ``[no, yes]`` is ``[False, True]``."""
    from omegaconf import OmegaConf

    for names in _label_names(OmegaConf.to_container(content, resolve=False)):
        if any(name is None or isinstance(name, bool) for name in names):
            raise ConfigError(
                f"{path}: label_names is {names}: YAML reads no, off, yes, on, true, false and null as values, not as "
                "text; put such names in quotes, as in label_names: ['no', 'yes']"
            )


def _label_names(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "label_names" and isinstance(item, list):
                yield item
            else:
                yield from _label_names(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts([key, item])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _has_resolver(text: str) -> bool:
    """Return whether a value calls a resolver, also one whose name is an interpolation itself.

    >>> _has_resolver("${oc.env:HOME}"), _has_resolver("${oc.${a}:HOME}"), _has_resolver("${data.root}: {text}")
    (True, True, False)
    """
    depth = 0
    for place, character in enumerate(text):
        if text.startswith("${", place):
            depth += 1
        elif character == "}":
            depth = max(0, depth - 1)
        elif character == ":" and depth:
            return True
    return False


def check_hydra(tree: Any) -> None:
    """Raise ``ConfigError`` for a ``_target_`` in Hydra's own sections that does not belong there; call nothing."""
    from hydra.experimental.callback import Callback
    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper
    from omegaconf import OmegaConf

    sections: Any = OmegaConf.to_container(tree.hydra, resolve=False) if "hydra" in tree else {}
    for name, section in (sections.get("callbacks") or {}).items():
        _check_section(f"hydra.callbacks.{name}", section, Callback)
    _check_section("hydra.launcher", sections.get("launcher"), Launcher)
    _check_section("hydra.sweeper", sections.get("sweeper"), Sweeper, SWEEPER_PARTS)
    for name in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{name}", sections.get(name))


def _check_section(key: str, section: Any, base: type, parts: tuple[str, ...] = ()) -> None:
    if not isinstance(section, Mapping):
        return
    for inner in targets([value for name, value in section.items() if name != "_target_"]):
        if not str(inner).startswith(parts or ("\n",)):
            raise ConfigError(f"{key} has an argument with _target_ {inner!r}, which does not belong there")
    locate(key, section.get("_target_"), base)


def _check_logging(key: str, section: Any) -> None:
    """Check the factories of ``logging.config``: classes and ``()`` of handlers, formatters and filters."""
    if not isinstance(section, Mapping):
        return
    for kind, base in (("handlers", logging.Handler), ("formatters", logging.Formatter), ("filters", logging.Filter)):
        for name, settings in (section.get(kind) or {}).items():
            for factory in ("class", "()"):
                if isinstance(settings, Mapping) and factory in settings:
                    locate(f"{key}.{kind}.{name}.{factory}", settings[factory], base)
