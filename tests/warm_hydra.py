"""Keep what Hydra composes of the package's own YAML, which is the same for all tests and takes most of a second.

For each choice of group files the merged tree is kept, and Hydra applies the rest of a command line to a copy of it.
Where a command line adds a search path, and where Hydra raises an error, nothing is kept."""

from __future__ import annotations

import pickle
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import DefaultsList, Overrides

from bam_lightning.config.compose import conf_dir


def install() -> None:
    """Have Hydra keep composed trees from here on in this process."""
    loader = config_loader_impl.ConfigLoaderImpl
    find, merge = config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list
    found: dict[Any, DefaultsList] = {}
    merged: dict[int, bytes] = {}  # by identity of a kept list

    def kept_find(repo: Any, config_name: Any, overrides_list: Any, **options: Any) -> DefaultsList:
        if any(source.scheme() == "file" and source.path != str(conf_dir()) for source in repo.get_sources()):
            return find(repo, config_name, overrides_list, **options)
        own = Overrides(repo, overrides_list).config_overrides
        rest = {id(override) for override in own}
        groups = tuple(override.input_line for override in overrides_list if id(override) not in rest)
        key = (config_name, groups, *options.values())
        if key not in found:
            found[key] = find(repo, config_name, overrides_list, **options)
        kept = found[key]
        return DefaultsList(kept.defaults, kept.defaults_tree, own, kept.overrides)

    def kept_merge(self: Any, defaults: Any, repo: Any) -> Any:
        kept = merged.get(id(defaults))
        if kept is not None:
            return pickle.loads(kept)
        tree = merge(self, defaults, repo)
        if any(defaults is one.defaults for one in found.values()):
            merged[id(defaults)] = pickle.dumps(tree)
        return tree

    config_loader_impl.create_defaults_list = kept_find
    loader._compose_config_from_defaults_list = kept_merge
