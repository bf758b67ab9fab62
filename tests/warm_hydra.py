"""Keep what Hydra composes of the package's own YAML, which is the same for all tests and takes most of a second.

For each choice of group files the merged tree is kept, and Hydra applies the rest of a command line to a copy of it.
Where a command line adds a search path, and where Hydra raises an error, nothing is kept. All processes of a call of
pytest share what they keep in the folder that WARM_HYDRA names, if it does."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import DefaultsList, Overrides

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

    config_loader_impl.create_defaults_list = kept_find
    loader._compose_config_from_defaults_list = kept_merge
