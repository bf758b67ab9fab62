"""How an encoder's token states become one vector per text: what its checkpoint says, else by its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from bam_lightning.config.exceptions import ConfigError

SENTENCE_TRANSFORMERS = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
    "last_token": "last",
}  # its names of poolings -> ours; it has others, such as the maximum


class Pooling(NamedTuple):
    """A pooling and the reason for it."""

    name: str
    reason: str


def reads_left_to_right(model_type: str) -> bool:
    """Return whether only a text's last token has seen all of it: decoders such as Llama, and XLNet.

    >>> [reads_left_to_right(family) for family in ("bert", "t5", "qwen3", "xlnet")]
    [False, False, True, True]
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    # encoders such as BERT can be built as decoders too, but they have a head for masked words
    others = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in others


def choose_pooling(asked: str | None, model_type: str, path: str | None, revision: str | None = None) -> Pooling:
    """Return the pooling that was asked for, else that of the checkpoint, else that of the family.

    Args:
        asked: ``encoder.pooling``; ``None`` to have it chosen.
        model_type: the family, as ``config.json`` names it; ``""`` for a module from elsewhere.
        path: folder or hub id of the checkpoint, which a sentence-transformers model trained with its own pooling.
        revision: of a hub id.
    """
    decoder = bool(model_type) and reads_left_to_right(model_type)
    if asked is not None:
        if asked == "cls" and decoder:
            raise ConfigError(
                f"encoder.pooling=cls: the first token of a {model_type} model sees no other token; "
                "use last or mean, or null to have it chosen"
            )
        return Pooling(asked, "as given")
    if path is not None and (said := _of_checkpoint(path, revision)):
        return said
    if decoder:
        return Pooling("last", f"{model_type} reads from left to right")
    if not model_type:
        return Pooling("mean", "a module of one's own")
    return Pooling("pooler", "the first token, through a tanh layer")


def family_of(path: str, revision: str | None = None) -> str:
    """Return the ``model_type`` of a checkpoint's ``config.json``, or ``""`` if it says none."""
    config = _read_json(path, "config.json", revision)
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def _of_checkpoint(path: str, revision: str | None) -> Pooling | None:
    """Return the pooling of a sentence-transformers checkpoint, or ``None`` if it names none that exists here."""
    modules = _read_json(path, "modules.json", revision)
    for module in modules if isinstance(modules, list) else []:
        if not str(module.get("type", "")).endswith("Pooling"):
            continue
        name = f"{module.get('path', '1_Pooling')}/config.json"
        settings = _read_json(path, name, revision)
        if not isinstance(settings, dict):
            return None
        prefix = "pooling_mode_"
        modes = [
            key.removeprefix(prefix) for key, value in settings.items() if key.startswith(prefix) and value is True
        ]
        if isinstance(settings.get("pooling_mode"), str):
            modes.append(settings["pooling_mode"])
        if len(modes) == 1 and modes[0] in SENTENCE_TRANSFORMERS:
            return Pooling(SENTENCE_TRANSFORMERS[modes[0]], f"{name} of {path}")
        return None
    return None


def _read_json(path: str, name: str, revision: str | None) -> Any:
    """Return the content of a file of a checkpoint, or ``None`` if it has no such file."""
    local = Path(path).expanduser()
    if local.is_dir():
        file: Path | None = local / name
    else:
        from transformers.utils import cached_file

        found = cached_file(
            path,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        file = None if found is None else Path(found)
    if file is None or not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON ({error}); mend it, or give encoder.pooling") from error
