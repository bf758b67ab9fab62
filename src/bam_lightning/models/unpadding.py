"""Run a transformers model on one row of tokens, without padding. S texts, N tokens in all of them, D width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bam_lightning.models import attention
from bam_lightning.models.batch import Batch
from bam_lightning.models.kernels import bert_layers
from bam_lightning.models.packing import Packing, pack, round_to_bucket

# families that take positions, and whose layers but attention look at one token alone
FAMILIES = (*bert_layers.FAMILIES, "distilbert")


def supports_unpadding(body: Any) -> bool:
    """Return whether the model can run on one row of tokens: its family, with this library's attention."""
    config = body.config
    known = config.model_type in FAMILIES and not getattr(config, "is_decoder", False)
    return bool(known and config._attn_implementation == attention.NAME)


def encode_tokens(body: Any, batch: Batch, first_only: bool = False) -> tuple[Tensor, Packing]:
    """Return the top layer's states ``[N, D]`` of all tokens, or ``[S, D]`` of each text's first token.

    Args:
        body: a model that ``supports_unpadding``.
        batch: the texts, on the model's device.
        first_only: whether the first tokens suffice; the fused layers then skip the others in the top layer.
    """
    device = batch.input_ids.device
    grouped = device.type == "cpu"
    packing = pack(batch.lengths, grouped).to(device)
    count = len(batch.input_ids)
    fill = round_to_bucket(count) - count if grouped else 0
    row = {"input_ids": batch.input_ids, "position_ids": _positions(body, batch, packing)}
    if batch.token_type_ids is not None:
        row["token_type_ids"] = batch.token_type_ids
    row = {name: (F.pad(ids, (0, fill)) if fill else ids)[None] for name, ids in row.items()}  # [1, N + fill]
    if packing.groups and bert_layers.supports_fused(body):
        states = bert_layers.run(body.encoder.layer, _embed(body, row), packing, first_only)
        return (states if first_only else states[:count]), packing
    states = body(**row, packing=packing).last_hidden_state[0]
    return (states[packing.firsts] if first_only else states[:count]), packing


def _positions(body: Any, batch: Batch, packing: Packing) -> Tensor:
    """Return positions ``[N]``; RoBERTa's start behind its padding id and skip tokens that equal it."""
    padding = first_position(body) - 1
    if padding < 0:
        return batch.position_ids
    real = batch.input_ids.ne(padding).long()
    counted = real.cumsum(0)
    before = (counted - real)[packing.firsts]
    lengths = packing.offsets.long().diff()
    return (counted - torch.repeat_interleave(before, lengths, output_size=len(real))) * real + padding


def _embed(body: Any, row: dict[str, Tensor]) -> Tensor:
    embedded: Tensor = body.embeddings(**row)
    widen = getattr(body, "embeddings_project", None)  # ELECTRA's small sizes
    return (embedded if widen is None else widen(embedded))[0]


def first_position(body: Any) -> int:
    """Return the number of a text's first position: RoBERTa counts from behind its padding."""
    table: Any = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1
