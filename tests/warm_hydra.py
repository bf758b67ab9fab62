"""Keep what Hydra composes of the package's own YAML, which is the same for all tests and takes most of a second.

Each process keeps what the files hold. For each choice of group files the merged tree is kept, and Hydra applies the
rest of a command line to a copy of it. Where a command line adds a search path, and where Hydra raises an error, no
tree is kept. All processes of a call of pytest share their trees in the folder that WARM_HYDRA names, if it does."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.plugins import Plugins

from bam_lightning.config.compose import conf_dir


def _kept(folder: str | None, name: str, make: Callable[[], Any]) -> bytes:
    """Return the pickle of this name from the shared folder, or make what it holds."""
    if folder is None:
        return pickle.dumps(make())
    path = Path(folder) / name
    if path.exists():
        return path.read_bytes()
    made = pickle.dumps(make())
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(made)
    os.replace(file.name, path)
    return made


def install() -> None:
    """Have Hydra keep composed trees from here on in this process."""
    loader, folder = config_loader_impl.ConfigLoaderImpl, os.environ.get("WARM_HYDRA")
    find, merge = config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list
    found: dict[str, DefaultsList] = {}
    names: dict[int, str] = {}  # of a kept list, by its identity
    merged: dict[str, bytes] = {}

    def kept_find(repo: Any, config_name: Any, overrides_list: Any, **options: Any) -> DefaultsList:
        if any(source.scheme() == "file" and source.path != str(conf_dir()) for source in repo.get_sources()):
            return find(repo, config_name, overrides_list, **options)
        own = Overrides(repo, overrides_list).config_overrides
        rest = {id(override) for override in own}
        groups = tuple(override.input_line for override in overrides_list if id(override) not in rest)
        name = hashlib.sha256(repr((config_name, groups, *options.values())).encode()).hexdigest()
        if name not in found:
            found[name] = pickle.loads(_kept(folder, name, lambda: find(repo, config_name, overrides_list, **options)))
            names[id(found[name].defaults)] = name
        kept = found[name]
        return DefaultsList(kept.defaults, kept.defaults_tree, own, kept.overrides)

    def kept_merge(self: Any, defaults: Any, repo: Any) -> Any:
        name = names.get(id(defaults))
        if name is None:
            return merge(self, defaults, repo)
        if name not in merged:
            merged[name] = _kept(folder, f"{name}.tree", lambda: merge(self, defaults, repo))
        return pickle.loads(merged[name])

    files: dict[str, bytes] = {}
    Plugins.instance()  # loads the module of the class anew
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    load = FileConfigSource.load_config

    def kept_load(self: Any, config_path: str) -> Any:
        if self.path != str(conf_dir()):
            return load(self, config_path)
        if config_path not in files:
            files[config_path] = pickle.dumps(load(self, config_path))
        return pickle.loads(files[config_path])

    def copy_sources(self: Any, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # Hydra copies to the last leaf

    FileConfigSource.load_config = kept_load
    CachingConfigRepository.__init__ = copy_sources
    config_loader_impl.create_defaults_list = kept_find
    loader._compose_config_from_defaults_list = kept_merge
