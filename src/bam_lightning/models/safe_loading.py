"""Validate an untrusted model's configuration before instantiating it.

A model's folder holds no code, but its configuration decides what is built. Sizes that do not match the weights could
exhaust the memory, and a reference to remote code would be downloaded and run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
    """Return name -> shape of the tensors of a file, from its header.

    Raises:
        StoreError: If the file is not a complete safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{weights} is not a whole safetensors file ({error})") from error


def check_config(folder: Path, bytes_of_weights: int, required: bool = True) -> None:
    """Raise ``StoreError`` for a configuration that names code, or a size larger than the weights in bytes.

    Args:
        folder: The folder of the configuration and the tokenizer.
        bytes_of_weights: Size of the weights. No layer, label or matrix row takes less than one byte.
        required: Whether there must be a configuration; a folder may hold a tokenizer alone.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".h5") and path.stat().st_size > LARGEST_FILE:
            raise StoreError(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST_FILE:,}")
    if required and not (folder / CONFIG).is_file():
        raise StoreError(f"there is no {CONFIG} in {folder}")
    for name in (CONFIG, "tokenizer_config.json", "tokenizer.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise StoreError(f"{path} is not a JSON object")
        for key in NOT_BUILT_HERE:
            if content.get(key):
                raise StoreError(f"{path} has {key} {content[key]!r}: only the code of transformers is used here")
        for key in ATTENTION:
            if "/" in str(content.get(key)):
                raise StoreError(f"{path} has {key} {content[key]!r}, code from elsewhere, which is not run")
        if name == CONFIG:
            for key, value in _numbers(content):
                if abs(value) > max(bytes_of_weights, 1 << 20):
                    raise StoreError(
                        f"{path} has {key} {value:,}, but the weights have only {bytes_of_weights:,} bytes"
                    )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield the integers of nested JSON with their keys."""
    if isinstance(value, int):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, key)


def body_shapes(config: Any, most: int, part: Callable[[Any], Any]) -> Shapes:
    """Return name -> shape of the parameters of a configuration, without allocating them.

    Args:
        config: of transformers.
        most: limit on the number of parameters.
        part: returns the part of the whole model that is used.

    Raises:
        StoreError: If there are more parameters than ``most``.
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
            body = part(AutoModel.from_config(config, trust_remote_code=False))
    finally:
        hook.remove()
    return {name: tuple(value.shape) for name, value in body.state_dict().items()}


def check_shapes(expected: Shapes, actual: Shapes) -> None:
    """Raise ``StoreError`` unless names and shapes of the parameters are equal; those of a pooler are ignored."""
    for name in sorted({*expected, *actual}):
        if name.startswith("pooler."):
            continue
        if expected.get(name) != actual.get(name):
            wanted, stored = (list(side[name]) if name in side else "nothing" for side in (expected, actual))
            raise StoreError(f"{name} is to be {wanted}, the weights have {stored}")
