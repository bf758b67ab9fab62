"""The description of a model in plain types: enough to build it again without data and without a network."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bam_lightning.config.data_config import LABEL_OPTIONS
from bam_lightning.config.exceptions import ConfigError, OutputExistsError
from bam_lightning.config.trainer_config import PRECISIONS
from bam_lightning.data.tokenization import LONGEST_FIRST
from bam_lightning.models.adapters import adapt
from bam_lightning.models.encoder import Encoder, check_length, from_config, from_target, load_tokenizer
from bam_lightning.models.heads import Head, build_head
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.models.saving import ENCODER, save_state
from bam_lightning.store.atomic_io import apply_umask, translate_os_errors, write_text
from bam_lightning.store.provenance import versions
from bam_lightning.store.run_dir import CALIBRATION, MANIFEST, WEIGHTS, RunFolder, file_hash

VERSION = 1


def build_model(source: Any, seed: int) -> MultiTaskModel:
    """Return the model of a data module (with pretrained weights) or of a spec (to load weights into).

    Args:
        source: a ``MultiTaskDataModule``, or what its ``spec`` returns.
        seed: of the heads' weights.
    """
    if isinstance(source, Mapping):
        if source.get("version") != VERSION:
            raise ConfigError(f"this spec has version {source.get('version')!r}, this library reads version {VERSION}")
        encoder = _encoder_from_spec(source)
        heads = {task: part["head"] for task, part in source["tasks"].items()}
    else:
        with torch.random.fork_rng(devices=[]):  # a new pooler, and adapters
            torch.manual_seed(int(np.random.SeedSequence([seed, 5]).generate_state(1)[0]))
            encoder = source.build_encoder()
        heads = source.head_configs()
    state = torch.random.get_rng_state()
    torch.manual_seed(int(np.random.SeedSequence([seed, 4]).generate_state(1)[0]))
    built = {task: make_head(task, config, encoder.width) for task, config in heads.items()}
    torch.random.set_rng_state(state)
    return MultiTaskModel(encoder, built)


def make_head(task: str, config: Any, width: int) -> Head:
    """Return a head from its ``_target_`` form, or from a function of the encoder's width."""
    if config is None:
        raise ConfigError(f"the head of task {task!r} was made by a function without a _target_ form; give one")
    head = config(width) if callable(config) else build_head(f"head of task {task!r}", width, config)
    if not isinstance(head, Head):
        raise ConfigError(f"head of task {task!r} must be a bam_lightning.Head, got {type(head).__name__}")
    return head


def untrained_head(task: str, config: Any) -> Head:
    """Return a head for what it says of targets alone, of width 1; the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return make_head(task, config, width=1)


def _encoder_from_spec(spec: Mapping[str, Any]) -> Encoder:
    from transformers import AutoConfig

    config, pooling = dict(spec["encoder"]), str(spec["pooling"])
    if "_target_" in config:
        encoder = from_target(config, pooling)
    else:
        encoder = from_config(AutoConfig.for_model(config.pop("model_type"), **config), pooling)
    adapt(encoder, **spec.get("encoder_options", {}))
    check_length(encoder, int(spec["max_length"]), "max_length")
    encoder.base = spec.get("base")
    return encoder


def tokenizer_files(tokenizer: Any) -> dict[str, str]:
    """Return the files of a tokenizer: name -> content in base64."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(Path(folder).iterdir())}


def load_tokenizer_files(files: Mapping[str, str]) -> Any:
    """Return the tokenizer that ``tokenizer_files`` saved."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(base64.b64decode(content))
        return load_tokenizer(folder)


def save_folder(
    folder: Path, spec: Mapping[str, Any], state: Mapping[str, torch.Tensor], encoder: Encoder, precision: str | None
) -> None:
    """Write a model as a folder that ``bam_lightning.load`` reads.

    Args:
        folder: where to; a model saved there before is replaced.
        spec: what ``MultiTaskDataModule.spec`` returns.
        state: name -> weight, as ``MultiTaskModel`` names them.
        encoder: whose weights they are.
        precision: of the Trainer, or ``None``.

    Raises:
        ConfigError: for a head without a ``_target_`` form.
        OutputExistsError: if there is something else in the folder.
    """
    tasks = spec["tasks"]
    for task, part in tasks.items():
        if part["head"] is None:
            raise ConfigError(f"the head of task {task!r} was made by a function without a _target_ form; give one")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
        raise OutputExistsError(f"{folder} is or holds something else; give a new folder")
    RunFolder(folder, "give a new folder").check_links()
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # written last: a folder with one is whole
        (folder / CALIBRATION).unlink(missing_ok=True)
        shutil.rmtree(folder / ENCODER, ignore_errors=True)
        about = save_state(folder, state, encoder, load_tokenizer_files(spec["tokenizer"]))
        names = [WEIGHTS, *(f"{ENCODER}/{path.name}" for path in sorted((folder / ENCODER).iterdir()))]
        apply_umask(*(folder / name for name in names))
        files = {name: file_hash(folder / name) for name in names}
        manifest = {
            "id": files[WEIGHTS][:12],
            "stage": "multi-task" if len(tasks) > 1 else "single-task",
            "kind": "finetune",
            "tasks": list(tasks),
            "metrics": {},
            "reads": {
                task: {"text": part["text"], "allow_empty_text": part["allow_empty_text"]}
                | {name: part[name] for name in ("choices", "kind", *LABEL_OPTIONS) if part.get(name)}
                for task, part in tasks.items()
            },
            "spec": {
                "tasks": {
                    task: {name: part[name] for name in ("head", "metric", "secondary_metrics") if name in part}
                    for task, part in tasks.items()
                },
                "max_length": spec["max_length"],
                "pooling": spec["pooling"],
                **(
                    {} if spec.get("truncation", LONGEST_FIRST) == LONGEST_FIRST else {"truncation": spec["truncation"]}
                ),
                "precision": precision if precision in PRECISIONS else "32-true",
            },
            "versions": versions(),
            "files": files,
            **about,
        }
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
