"""What a model of somebody else's says of its encoder, looked at before anything is built from it.

Nothing in a model's folder is code, but its configuration decides what is built: sizes that no weights in the folder
have would fill the memory, and a name of code elsewhere would be fetched and run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bam_lightning.config.exceptions import StoreError

CONFIG = "config.json"
LARGEST_FILE = 256 << 20  # bytes of a configuration or a tokenizer
NOT_BUILT_HERE = ("auto_map", "custom_pipelines", "quantization_config")
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation")

Shapes = Mapping[str, tuple[int, ...]]


def shapes(weights: Path) -> Shapes:
    """Return name -> shape of the tensors of a file; reads its header alone.

    Raises:
        StoreError: if it is no safetensors file, or not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{weights} is not a whole safetensors file ({error})") from error


def check_config(folder: Path, bytes_of_weights: int) -> None:
    """Raise ``StoreError`` for a configuration that names code, or a number of things beyond the weights' bytes.

    Args:
        folder: where the configuration and the tokenizer lie.
        bytes_of_weights: size of the weights beside it: no layer, label or row of a matrix takes less than a byte.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".h5") and path.stat().st_size > LARGEST_FILE:
            raise StoreError(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST_FILE:,}")
    if not (folder / CONFIG).is_file():
        raise StoreError(f"there is no {CONFIG} in {folder}")
    for name in (CONFIG, "tokenizer_config.json", "tokenizer.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is not JSON ({error})") from error
        if not isinstance(kept, dict):
            raise StoreError(f"{path} is not a JSON object")
        for key in NOT_BUILT_HERE:
            if kept.get(key):
                raise StoreError(f"{path} has {key} {kept[key]!r}: only the code of transformers is used here")
        for key in ATTENTION:
            if "/" in str(kept.get(key)):
                raise StoreError(f"{path} has {key} {kept[key]!r}, code from elsewhere, which is not run")
        if name == CONFIG:
            for key, value in _numbers(kept):
                if abs(value) > max(bytes_of_weights, 1 << 20):
                    raise StoreError(
                        f"{path} has {key} {value:,}, but the weights have only {bytes_of_weights:,} bytes"
                    )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of nested JSON, each with its key."""
    if isinstance(value, int):
        yield key, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _numbers(one, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, key)


def body_shapes(config: Any, most: int) -> Shapes:
    """Return name -> shape of the parameters that a configuration asks for; none of them is allocated.

    Raises:
        StoreError: if it asks for more parameters than ``most``.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from transformers import AutoModel

    count = 0

    def count_one(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise StoreError(f"it asks for more than {most:,} parameters")

    hook = register_module_parameter_registration_hook(count_one)
    try:
        with torch.device("meta"):
            body = AutoModel.from_config(config, trust_remote_code=False)
    finally:
        hook.remove()
    return {name: tuple(value.shape) for name, value in body.state_dict().items()}


def check_shapes(asked: Shapes, there: Shapes) -> None:
    """Raise ``StoreError`` unless every parameter asked for is there in its size, a pooler's excepted, and no other."""
    for name in sorted({*asked, *there}):
        if name.startswith("pooler."):
            continue
        if asked.get(name) != there.get(name):
            one, other = (list(found[name]) if name in found else "nothing" for found in (asked, there))
            raise StoreError(f"{name} is to be {one}, the weights have {other}")
