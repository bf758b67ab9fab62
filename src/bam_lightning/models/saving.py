"""A trained model as files: ``model.safetensors`` and ``encoder/`` (configuration and tokenizer)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bam_lightning.config.exceptions import ConfigError, StoreError
from bam_lightning.config.hub import encoder_fingerprint
from bam_lightning.models.adapters import add_adapters
from bam_lightning.models.encoder import Encoder, check_vocabulary, from_folder, from_path, from_target, load_tokenizer
from bam_lightning.models.safe_loading import check_config, check_finite, shapes
from bam_lightning.store.run_dir import MANIFEST, WEIGHTS, RunFolder

ENCODER = "encoder"
MODULE = "module.json"  # in place of config.json: the ``_target_`` form of a module from elsewhere


def save_state(folder: Path, state: Mapping[str, torch.Tensor], encoder: Encoder, tokenizer: Any) -> dict[str, Any]:
    """Write a model whose weights are already collected.

    Of an encoder with adapters only these are written, if the rest are a checkpoint's; it is loaded with them.

    Args:
        folder: where to.
        state: name -> weight, as ``MultiTaskModel`` names them.
        encoder: whose weights they are.
        tokenizer: the encoder's tokenizer.

    Returns:
        What the manifest has to say of adapters: ``{"adapters": {...}}``, or nothing.
    """
    from safetensors.torch import save_file

    about: dict[str, Any] = {}
    if encoder.adapters:
        base = None
        if encoder.base is not None:
            path, revision = str(encoder.base["path"]), encoder.base["revision"]
            fingerprint = encoder_fingerprint(path, revision)
            if fingerprint.startswith(f"{path}@"):  # an id of the hub, which will have other commits
                revision = fingerprint.rpartition("@")[2]
            base = {"path": path, "revision": revision, "fingerprint": fingerprint}
            state = {
                name: value
                for name, value in state.items()
                if not name.startswith("encoder.body.") or name.removeprefix("encoder.") in encoder.adapters
            }
        about = {"adapters": {"peft": encoder.peft, "base": base}}
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS)
    if encoder.source is None:
        encoder.config.save_pretrained(folder / ENCODER)
    else:
        (folder / ENCODER).mkdir(exist_ok=True)
        (folder / ENCODER / MODULE).write_text(json.dumps(encoder.source, indent=1), encoding="utf-8")
    tokenizer.save_pretrained(folder / ENCODER)
    return about


def load_encoder(
    run: RunFolder, pooling: str, trusted: Sequence[str] | None = None
) -> tuple[Encoder, Any, dict[str, dict[str, torch.Tensor]]]:
    """Return a Run's encoder, its tokenizer and the weights of its heads (task -> name -> tensor).

    A pooler that the Run does not have keeps its new weights.

    Args:
        run: the folder.
        pooling: see ``Encoder``.
        trusted: dotted names of classes from elsewhere that may be imported for an encoder; ``None`` for any.

    Raises:
        StoreError: if a file is missing or damaged, or the checkpoint that adapters belong to has changed.
        ConfigError: if the encoder is a class that is not trusted.
    """
    from safetensors.torch import load_file

    weights, folder = run.file(WEIGHTS), run.path / ENCODER
    for name in run.files():
        if name.startswith(f"{ENCODER}/"):
            run.file(name)
    if unknown := sorted(files_below(folder, run.path) - run.files().keys()):
        raise StoreError(f"{run.path / unknown[0]} is none of the files that {MANIFEST} names; {run.remedy}")
    there = {
        name.removeprefix("encoder."): size for name, size in shapes(weights).items() if name.startswith("encoder.")
    }
    adapters = run.manifest().get("adapters")
    try:
        if (folder / MODULE).is_file():
            encoder = _from_module(folder / MODULE, pooling, trusted)
        elif adapters and adapters["base"]:
            encoder = _from_base(adapters["base"], pooling)
        else:
            check_config(folder, weights.stat().st_size)
            encoder = from_folder(folder, pooling, there, adapted=bool(adapters))
        if adapters:
            add_adapters(encoder, adapters["peft"])
    except UntrustedError:
        raise
    except ValueError as error:
        raise StoreError(f"{run.path}: its encoder cannot be built: {error}; {run.remedy}") from error
    state = load_file(weights)
    try:
        check_finite(state.items())
    except StoreError as error:
        raise StoreError(f"{weights}: {error}, so it predicts nothing; train it again with other options") from error
    own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    missing, unexpected = encoder.load_state_dict(own, strict=False)
    if encoder.adapters and encoder.base is not None:
        missing = [name for name in missing if name in encoder.adapters]
    odd = [name for name in (*missing, *unexpected) if not name.startswith("pooler.")]
    if odd:
        raise StoreError(f"{run.path}: the weights do not fit the configuration, for example {odd[0]!r}; {run.remedy}")
    heads: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        if name.startswith("heads."):
            _, task, inner = name.split(".", 2)
            heads.setdefault(task, {})[inner] = value
    tokenizer = load_tokenizer(folder)
    check_vocabulary(encoder, tokenizer, str(run.path))
    return encoder, tokenizer, heads


class UntrustedError(ConfigError):
    """A saved model needs a class from elsewhere that nobody allowed."""


def _from_module(path: Path, pooling: str, trusted: Sequence[str] | None) -> Encoder:
    source = json.loads(path.read_text(encoding="utf-8"))
    target = str(source.get("_target_")) if isinstance(source, dict) else ""
    if trusted is not None and target not in trusted:
        raise UntrustedError(
            f"{path} needs the encoder {target!r}, which is not part of bam_lightning; if you trust this code, allow "
            f"it with --head {target} (in Python: heads=[{target!r}])"
        )
    return from_target(source, pooling)


def _from_base(base: Mapping[str, Any], pooling: str) -> Encoder:
    path, revision = str(base["path"]), base["revision"]
    if encoder_fingerprint(path, revision) != base["fingerprint"]:
        raise StoreError(
            f"the adapters belong to encoder {path} as it was with fingerprint {base['fingerprint']}, but its files "
            "have changed since; give it back its files, or export the model there, which merges the adapters"
        )
    return from_path(path, revision, pooling)


def files_below(folder: Path, root: Path) -> set[str]:
    """Return the files in a folder, named as in a manifest, without hidden files."""
    return {path.relative_to(root).as_posix() for path in folder.rglob("*")
            if not path.is_dir() and not path.name.startswith(".")}  # fmt: skip
