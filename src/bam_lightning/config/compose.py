"""The Hydra edge: where ``conf/`` lies, and how command lines become a checked ``Config``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bam_lightning.config.data_config import TaskConfig
from bam_lightning.config.exceptions import PACKAGE, format_error, is_user_error, option_names
from bam_lightning.config.job_config import Config
from bam_lightning.config.signals import Stopped
from bam_lightning.config.validation import suggest


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed wheel, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def register() -> None:
    """Make the typed schemas known to Hydra under the names that ``conf/`` uses."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="task", name="schema", node=TaskConfig)


def to_config(tree: Any) -> Config:
    """Turn Hydra's tree into a checked ``Config``.

    Raises:
        ValueError: naming the key, for a missing value or one that the checks refuse.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for unknown in _unknown(tree):
        raise ValueError(f"no option {unknown!r}{suggest(unknown, option_names())}")
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}; give each one, as in {missing[0]}=VALUE")
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    assert isinstance(config, Config)
    return config


def compose(overrides: Sequence[str] = ()) -> Config:
    """Return the checked ``Config`` of a command line, from plain Python.

    >>> compose(["scale=paper", "seed=3"]).optimization.multi.batch_size
    128
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_config(hydra_compose("train", overrides=list(overrides)))


def console(main: Callable[[], int], full: bool | None = None) -> int:
    """Return what ``main`` returns, or the exit status of what it raises.

    Errors that this library raises on purpose, and Hydra's own about the command line, are printed as one
    message; anything else, or everything with HYDRA_FULL_ERROR=1, with its traceback.
    """
    try:
        return main()
    except Stopped as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (os.environ.get("HYDRA_FULL_ERROR") == "1" if full is None else full) or not is_user_error(error):
            raise
        print(f"error: {format_error(error)}", file=sys.stderr)
        return 1


def _unknown(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield keys that ``+`` or a user's YAML put where the schema has no such field."""
    from omegaconf import DictConfig, OmegaConf

    kind = OmegaConf.get_type(node)
    known = {entry.name for entry in fields(kind)} if is_dataclass(kind) else None
    for key in node:
        if known is not None and key not in known:
            yield f"{prefix}{key}"
        elif not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from _unknown(node[key], f"{prefix}{key}.")
