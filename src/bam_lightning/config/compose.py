"""The Hydra edge: where ``conf/`` lies, and how command lines become a checked ``Config``."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bam_lightning.config import yaml_trust
from bam_lightning.config.data_config import HEADS, HEADS_OF_KINDS, KINDS, OWN_OPTIONS, TaskConfig
from bam_lightning.config.exceptions import BamError, ConfigError, TasksError
from bam_lightning.config.hydra_errors import check_searchpath, config_errors, format_error, is_user_error, option_names
from bam_lightning.config.job_config import Config
from bam_lightning.config.names import check_name
from bam_lightning.config.renamed import renamed
from bam_lightning.config.signals import Stopped
from bam_lightning.config.validation import check_choice, suggest

PACKAGE = Path(__file__).resolve().parents[1]
COMPOSING = threading.Lock()  # Hydra's store of schemas and its version base belong to the process, not to a thread


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed wheel, or at the top of a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def register() -> None:
    """Make the typed schemas known to Hydra under the names that ``conf/`` uses, and have it check what it reads."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    node = OmegaConf.structured(Config)
    OmegaConf.set_struct(node.teachers, False)  # teachers.TASK=... needs no plus
    store = ConfigStore.instance()
    store.store(name="schema", node=node)
    store.store(group="task", name="schema", node=TaskConfig)
    yaml_trust.install(conf_dir())


@functools.cache  # Hydra copies what it loads
def _own_schemas() -> dict[str, Any]:
    """Return what ``register`` puts into Hydra's store."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    before, store.repo = store.repo, {}
    try:
        register()
        return store.repo
    finally:
        store.repo = before


def expand_word(word: str) -> str:
    """Return a word of the command line in the form that Hydra composes.

    >>> expand_word("recipe.stages.single.encoder=bert_large")
    '+encoder@recipe.stages.single.encoder=bert_large'
    """
    return re.sub(r"^\+*(recipe\.stages\.\w+\.encoder)=(?!null$)([\w,]+)$", r"+encoder@\1=\2", word)


def to_config(tree: Any) -> Config:
    """Turn Hydra's tree into a checked ``Config``.

    Raises:
        ConfigError: naming the option, for an unknown one, a missing value or a value that a check refuses.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        for unknown in _unknown(tree):
            raise ConfigError(renamed(unknown) or f"no option {unknown!r}{suggest(unknown, option_names())}")
        missing = sorted(OmegaConf.missing_keys(tree))
        if missing:
            raise ConfigError(f"no value for {', '.join(missing)}; give each one, as in {missing[0]}=VALUE")
        _expand_labels(tree)
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ConfigError(format_error(error)) from error
    assert isinstance(config, Config)
    if config.suite.pair_head is not None:
        for task in config.suite.tasks.values():
            if len(task.text) == 2 and task.head._target_ == "bam_lightning.ClassificationHead":
                task.head._target_ = config.suite.pair_head
    return config


def _expand_labels(tree: Any) -> None:
    """Put a task for each label in the place of a task of several labels; see ``TaskConfig.labels``.

    Raises:
        ConfigError: naming the option, for a label that cannot be a task.
    """
    from omegaconf import OmegaConf

    found, names = {}, {}
    for source, node in tree.suite.tasks.items():
        if not node.labels:
            found[source] = node
            continue
        key, labels = f"suite.tasks.{source}.labels", dict(node.labels)
        shared = OmegaConf.merge(node, {"row_group": source})
        shared.labels = {}
        for name, options in labels.items():
            check_name(key, name)
            if name in found or name in tree.suite.tasks:
                raise ConfigError(f"{key} names {name!r}, which another entry of suite.tasks names too; rename one")
            found[name] = _label_task(f"{key}.{name}", name, shared, options, tree.suite.sigmoid)
        names[source] = list(labels)
    if names:
        include = [task for name in tree.suite.include for task in names.get(name, [name])]
        tree.suite.tasks, tree.suite.include = found, include


def _label_task(key: str, name: str, shared: Any, options: Any, sigmoid: bool) -> Any:
    """Return the task of one of several labels, whose options are a label column or a mapping."""
    from omegaconf import DictConfig, OmegaConf

    own = options if isinstance(options, DictConfig) else {"label": options}
    for option in own:
        check_choice(key, str(option), OWN_OPTIONS)
    regression = bool(own.get("head", {}).get("label_range"))
    task = OmegaConf.merge(shared, {"label": name, "head": {"sigmoid": sigmoid or not regression}}, own)
    if task.kind is not None:
        check_choice(f"{key}.kind", task.kind, KINDS)
        task.head._target_ = HEADS_OF_KINDS[task.kind]
    elif not task.head._target_:
        task.head._target_ = HEADS_OF_KINDS["regression" if task.head.label_range else "classification"]
    if "metric" not in own and task.head._target_ in HEADS:
        task.metric = HEADS[task.head._target_][0].value
    return task


def compose(overrides: Sequence[str] = ()) -> Config:
    """Return the checked ``Config`` of a command line, from plain Python.

    It can be called anywhere: inside a ``@hydra.main`` application, after ``hydra.initialize``, in several threads.

    Raises:
        ConfigError: for a word of the command line or a YAML file that is wrong.

    >>> compose(["scale=paper", "seed=3"]).optimization.multi.batch_size
    128
    """
    words = [expand_word(word) for word in overrides]
    with config_errors(words, conf_dir()):
        check_searchpath(words)
        tree = _compose_tree(words)
    return to_config(tree)


def _compose_tree(overrides: list[str]) -> Any:
    """Compose without ``hydra.compose``, which takes ``GlobalHydra`` for itself and so works once per process."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_store import ConfigStore
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    with COMPOSING:
        if not OmegaConf.has_resolver("hydra"):
            setup_globals()
        yaml_trust.install(conf_dir())  # imports what else puts schemas into Hydra's store
        store, base = ConfigStore.instance(), version.VersionBase.instance()
        schemas, before = store.repo, base.getbase()
        store.repo = {**schemas, **_own_schemas()}  # those of an application around this call stay as they are
        try:
            base.setbase(version.Version("1.3"))
            loader = ConfigLoaderImpl(create_config_search_path(str(conf_dir())))
            tree = loader.load_configuration("train", overrides, RunMode.RUN, from_shell=False)
        finally:
            store.repo, base.version_base = schemas, before
    with open_dict(tree):
        del tree["hydra"]
    return tree


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
        for one in error.errors if isinstance(error, TasksError) else [error]:
            print(f"error: {format_error(one)}", file=sys.stderr)
        return error.status if isinstance(error, BamError) else 1


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
