"""Texts through a transformers model without their padding: as one row of tokens. B texts, T tokens, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bam_lightning.models import attention
from bam_lightning.models.kernels import bert_layers
from bam_lightning.models.packing import Packing, pack

# families that take positions, and whose layers but attention look at one token alone
FAMILIES = (*bert_layers.FAMILIES, "distilbert")


def supports_unpadding(body: Any) -> bool:
    """Return whether the model can be computed so: its family, with this library's attention."""
    config = body.config
    known = config.model_type in FAMILIES and not getattr(config, "is_decoder", False)  # whose tokens look back alone
    return bool(known and config._attn_implementation == attention.NAME)


def encode_cls(body: Any, inputs: Mapping[str, Tensor], lengths: Sequence[int]) -> Tensor:
    """Return the top layer's vectors ``[B, D]`` of the first tokens.

    Args:
        body: a model for which this is ``possible``.
        inputs: padded, ``[B, T]``.
        lengths: real tokens of the B texts, which stand before the padding.
    """
    device = inputs["input_ids"].device
    packing = pack(lengths, inputs["input_ids"].shape[1], grouped=device.type == "cpu").to(device)
    told = {name: value for name, value in inputs.items() if name != "attention_mask"}
    row = {name: value.reshape(-1)[packing.take][None] for name, value in told.items()}  # [1, N] each
    row["position_ids"] = _positions(body, inputs["input_ids"], packing)
    if packing.groups and bert_layers.supports_fused(body):
        return bert_layers.run(body.encoder.layer, _embedded(body, row), packing)
    states: Tensor = body(**row, packing=packing).last_hidden_state
    return states[0, packing.firsts]


def _positions(body: Any, ids: Tensor, packing: Packing) -> Tensor:
    """Return positions ``[1, N]``; RoBERTa's skip any token that is its padding, so they are counted in the block."""
    padding = first_position(body) - 1
    if padding < 0:
        return packing.positions[None]
    real = ids.ne(padding).int()  # [B, T]
    counted = real.cumsum(1) * real + padding
    return counted.reshape(-1)[packing.take][None]


def _embedded(body: Any, row: Mapping[str, Tensor]) -> Tensor:
    embedded: Tensor = body.embeddings(**row)
    widen = getattr(body, "embeddings_project", None)  # ELECTRA's small sizes
    return (embedded if widen is None else widen(embedded))[0]


def first_position(body: Any) -> int:
    """Return the number of a text's first position: RoBERTa counts from behind its padding."""
    table: Any = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1
