"""Validate an untrusted model's configuration before instantiating it.

A model's folder holds no code, but its configuration decides what is built. Sizes that do not match the weights could
exhaust the memory, and a reference to remote code would be downloaded and run. A tokenizer is a small program of its
own: it is tried on a few texts in a process with limits before it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch

from bam_lightning.config.exceptions import StoreError
from bam_lightning.store.run_dir import file_hash

CONFIG = "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
LARGEST_FILE = 256 << 20  # bytes of a configuration or a tokenizer
NOT_BUILT_HERE = ("auto_map", "custom_pipelines", "quantization_config")
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation")

UNREAD = ("special_tokens_map_file",)  # a path on its author's machine in many tokenizers; nothing opens it
CPU_SECONDS, WALL_SECONDS, MEMORY = 10, 120, 1 << 30  # of trying a tokenizer, beside what its size asks for
IDS_PER_BYTE, MORE_IDS = 4, 64  # most token ids of a text; byte-level tokenizers have at most one per byte

Shapes = Mapping[str, tuple[int, ...]]
T = TypeVar("T")

PROBE = """
import sys
from pathlib import Path
path, cpu, memory, per_byte, more = sys.argv[1], *map(int, sys.argv[2:])
try:
    import resource
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Tokenizer
try:
    tokenizer = Tokenizer.from_file(path)
except Exception:
    sys.exit(0)  # loading it says why
tokenizer.no_padding()
tokenizer.no_truncation()
largest = max(tokenizer.get_vocab(True).values(), default=-1)
letters = "".join(map(chr, range(33, 592)))
for text in ("a" * 200 + "!", "a" * 4096, "A man is eating. " * 64, "0123456789" * 200, "a b " * 500, "?!-_. " * 300,
             " " * 2000 + "x", " \\t\\n" * 300, "\u00e9\u00df\u6f22\u5b57\U0001f600" * 100, letters * 4):
    ids = tokenizer.encode(text).ids
    if len(ids) > per_byte * len(text.encode()) + more:
        sys.exit(f"a text of {len(text)} characters becomes {len(ids):,} tokens")
    if any(not 0 <= number <= largest for number in ids):
        sys.exit(f"a text gets token {max(ids):,}, but the vocabulary ends at {largest:,}")
"""


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
    for name in (CONFIG, TOKENIZER_CONFIG, TOKENIZER):
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
            for key, value in _leaves(content, int):
                if abs(value) > max(bytes_of_weights, 1 << 20):
                    raise StoreError(
                        f"{path} has {key} {value:,}, but the weights have only {bytes_of_weights:,} bytes"
                    )


def check_tokenizer(files: Iterable[Path]) -> None:
    """Raise ``StoreError`` for a tokenizer that names files elsewhere, or that a few texts take out of its limits.

    ``tokenizer.json`` is tried in another process: 10 CPU seconds and 1 GiB, and for each MiB of the file 2 seconds and
    64 MiB more; 4 tokens per byte of a text. The result is kept by the file's content while the process lives.

    Args:
        files: Of the tokenizer; those that are not there are left out.
    """
    for path in files:
        if path.name == TOKENIZER_CONFIG and path.is_file():
            for key, value in _leaves(json.loads(path.read_text(encoding="utf-8")), str):
                name = key.rpartition(".")[2]
                outside = PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts or "\\" in value
                if name.endswith(("_file", "_files")) and name not in UNREAD and outside:
                    raise StoreError(f"{path} has {key} {value!r}, a file outside its folder")
        if path.name == TOKENIZER and path.is_file() and (reason := _try_tokenizer(path, file_hash(path))):
            raise StoreError(f"{path} cannot be used: {reason}")


_tried: dict[str, str] = {}  # hash of a tokenizer.json -> what is wrong with it, or an empty text


def _try_tokenizer(path: Path, content: str) -> str:
    """Return what is wrong with a ``tokenizer.json``, or an empty text."""
    if content not in _tried:
        megabytes = path.stat().st_size >> 20
        cpu, memory = CPU_SECONDS + 2 * megabytes, MEMORY + (megabytes << 26)
        words = [sys.executable, "-c", PROBE, str(path), *map(str, (cpu, memory, IDS_PER_BYTE, MORE_IDS))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
        limits = f"more than {cpu} CPU seconds or {memory >> 20} MiB"
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WALL_SECONDS + cpu)
        except subprocess.TimeoutExpired:
            _tried[content] = f"a few short texts take it {limits}"
        else:
            said = (done.stderr.strip().splitlines() or [""])[-1]
            failed = f"a few short texts take it {limits}" if done.returncode < 0 or "MemoryError" in said else said
            _tried[content] = failed[:300] if done.returncode else ""
    return _tried[content]


def _leaves(value: Any, kind: type[T], key: str = "") -> Iterator[tuple[str, T]]:
    """Yield the values of a type in nested JSON with their keys; items of a list have the list's."""
    if isinstance(value, kind):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, kind, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, kind, key)


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise ``StoreError`` naming the first tensor with a value that is NaN or infinite."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise StoreError(f"{count:,} of the {tensor.numel():,} weights {name!r} are NaN or infinite")


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
