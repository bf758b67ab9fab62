"""Train less of an encoder: adapters such as LoRA (peft), frozen layers, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from torch import nn

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.validation import require_extra
from bam_lightning.models.encoder import Encoder

BASE = ".base_layer"  # in a parameter's name: the layer that an adapter wraps


def adapt(
    encoder: Encoder,
    *,
    layers: str | None = None,
    peft: Any = None,
    freeze: str | int | None = None,
    gradient_checkpointing: bool = False,
) -> Encoder:
    """Change in place what of an encoder is trained, and how; return it.

    Args:
        encoder: to change.
        layers: dotted name of the list of layers in its body; ``None`` finds it.
        peft: a configuration of peft's, or its ``_target_`` form. Only the adapters and the pooler are trained.
        freeze: ``all`` of the encoder but a pooler, or the embeddings and the lowest N layers.
        gradient_checkpointing: compute the layers again in the backward pass: less memory, a third more time.

    Raises:
        ConfigError: if the encoder does not support one of them.
    """
    encoder.layer_list = layers
    if peft and freeze is not None:
        raise ConfigError("encoder.peft trains the adapters alone, so freeze has no effect; leave one out")
    if peft:
        add_adapters(encoder, peft)
    if freeze == "all":
        encoder.body.requires_grad_(False)
    elif freeze is not None:
        if int(freeze) > encoder.layers:
            raise ConfigError(f"encoder.freeze={freeze}, but the encoder has {encoder.layers} layers; use all")
        depths = encoder.depths()
        for name, parameter in encoder.named_parameters():
            if depths[name] <= int(freeze):
                parameter.requires_grad_(False)
    if gradient_checkpointing:
        try:
            older = "gradient_checkpointing_enable"  # the name before transformers 5.2
            enable = getattr(encoder.body, "activation_checkpointing_enable", None) or getattr(encoder.body, older)
            enable({"use_reentrant": False})
        except (AttributeError, ValueError) as error:
            raise ConfigError(
                f"encoder.gradient_checkpointing: {type(encoder.body).__name__} does not support it ({error})"
            ) from error
    return encoder


def add_adapters(encoder: Encoder, peft: Any) -> None:
    """Put adapters into an encoder's layers; all else but a pooler is frozen.

    Raises:
        ConfigError: for what is no configuration of peft's, or does not fit the encoder.
    """
    require_extra("encoder.peft", ("peft",), "peft")
    from peft import PeftConfig, inject_adapter_in_model

    plain = to_plain_peft(peft)
    if not str(plain.get("_target_")).startswith("peft."):
        raise ConfigError(f"encoder.peft._target_ must name a class of peft, got {plain.get('_target_')!r}")
    settings = instantiate("encoder.peft", plain, PeftConfig)
    before = {name for name, _ in encoder.named_parameters()}
    try:
        inject_adapter_in_model(settings, encoder.body)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"encoder.peft does not fit a {type(encoder.body).__name__}: {' '.join(str(error).split())}; "
            "target_modules=all-linear adapts every linear layer"
        ) from error
    encoder.adapters = frozenset(name for name, _ in encoder.named_parameters() if name.replace(BASE, "") not in before)
    encoder.peft = plain
    encoder.forget_findings()


def to_plain_peft(peft: Any) -> dict[str, Any]:
    """Return a configuration of peft's as its ``_target_`` form, with the options that are not at their default."""
    if isinstance(peft, Mapping):
        return dict(peft)
    found: dict[str, Any] = {"_target_": f"peft.{type(peft).__name__}"}
    for entry in fields(peft):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        value = getattr(peft, entry.name)
        if entry.init and value != default and entry.name not in ("peft_type", "peft_version"):
            found[entry.name] = sorted(value) if isinstance(value, set) else value
    return found


def merge_adapters(encoder: Encoder) -> None:
    """Add the adapters to the weights that they adapt, in place, and take them out."""
    if not encoder.adapters:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(encoder.body.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            path, _, last = name.rpartition(".")
            parent: nn.Module = encoder.body.get_submodule(path)
            setattr(parent, last, layer.get_base_layer())
    encoder.adapters, encoder.peft, encoder.base = frozenset(), None, None
    encoder.forget_findings()
