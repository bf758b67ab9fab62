"""A trained model as files: ``model.safetensors`` and ``encoder/`` (configuration and tokenizer)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bam_lightning.config.exceptions import StoreError
from bam_lightning.models.encoder import Encoder, check_vocabulary, from_folder, load_tokenizer
from bam_lightning.models.safe_loading import check_config, shapes
from bam_lightning.store.run_dir import MANIFEST, WEIGHTS, RunFolder

ENCODER = "encoder"


def save_state(folder: Path, state: Mapping[str, torch.Tensor], config: Any, tokenizer: Any) -> None:
    """Write a model whose weights are already collected.

    Args:
        folder: where to.
        state: name -> weight, as ``MultiTaskModel`` names them.
        config: the encoder's configuration, of transformers.
        tokenizer: the encoder's tokenizer.
    """
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS)
    config.save_pretrained(folder / ENCODER)
    tokenizer.save_pretrained(folder / ENCODER)


def load_encoder(run: RunFolder, pooling: str) -> tuple[Encoder, Any, dict[str, dict[str, torch.Tensor]]]:
    """Return a Run's encoder, its tokenizer and the weights of its heads (task -> name -> tensor).

    A pooler that the Run does not have keeps its new weights.

    Raises:
        StoreError: if a file is missing or damaged.
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
    try:
        check_config(folder, weights.stat().st_size)
        encoder = from_folder(folder, pooling, there)
    except ValueError as error:
        raise StoreError(f"{run.path}: its encoder cannot be built: {error}; {run.remedy}") from error
    state = load_file(weights)
    own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    missing, unexpected = encoder.load_state_dict(own, strict=False)
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


def files_below(folder: Path, root: Path) -> set[str]:
    """Return the files in a folder, named as in a manifest, without hidden files."""
    return {path.relative_to(root).as_posix() for path in folder.rglob("*")
            if not path.is_dir() and not path.name.startswith(".")}  # fmt: skip
