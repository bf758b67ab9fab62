"""Attention for transformers' models, of padded texts and of texts packed into one row of tokens.

B texts, H heads, T tokens of the longest text, N tokens of all, D width of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.models.kernels.dropout import Dropout, dropout_mask
from bam_lightning.models.kernels.dropout import dropout as drop
from bam_lightning.models.packing import Group, Packing

NAME = "bam_attention"
KERNEL_LANES = 8  # the CUDA kernel needs a head width that is a multiple of it
Groups = tuple[Group, ...]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of ``[B, H, T, D]``, or ``[1, H, N, D]`` with a ``packing``; returns ``[B, T, H, D]``.

    Without dropout torch's own kernel is used. With dropout on a CPU that kernel falls back to float32 and slow random
    numbers, so attention is computed by separate matrix products.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packing is not None:
        query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))  # [N, H, D] each
        if packing.groups:
            rows = torch.stack((query, key, value), 1)
            return Grouped.apply(rows, packing.groups, scale, dropout)[None], None
        return _varlen_attention(query, key, value, packing, scale)[None], None
    if dropout == 0.0 or query.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale
        )
    else:
        scores = torch.matmul(query * scale, key.transpose(2, 3))  # [B, H, T, T]
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        mixed = torch.matmul(drop(torch.softmax(scores, dim=-1), dropout), value)
    return mixed.transpose(1, 2).contiguous(), None


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
    """Return attention within each text, ``[N, H, D]``. The CUDA kernel has no dropout, so nothing is dropped there."""
    from torch.nn.attention.varlen import varlen_attn

    width = query.shape[-1]
    if fill := -width % KERNEL_LANES:
        query, key, value = (F.pad(part, (0, fill)) for part in (query, key, value))
    if scale != (usual := query.shape[-1] ** -0.5):  # some versions of the kernel have no scale argument
        query = query * (scale / usual)
    where, longest = packing.offsets, packing.longest
    mixed = cast("Tensor", varlen_attn(query, key, value, where, where, longest, longest))
    return mixed[..., :width] if fill else mixed


class Grouped(torch.autograd.Function):
    """Attention within each text of a packed row, on a CPU; see ``attention_forward``."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, groups: Groups, scale: float, p: float) -> Tensor:
        """Return ``[N, H, D]`` of queries, keys and values ``[N, 3, H, D]``."""
        mixed, kept = attention_forward(parts, groups, scale, p)
        ctx.save_for_backward(parts, *kept)
        ctx.settings = groups, scale, p
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the parts."""
        parts, *kept = ctx.saved_tensors
        return attention_backward(gradient, parts, kept, *ctx.settings), None, None, None


def attention_forward(parts: Tensor, groups: Groups, scale: float, p: float) -> tuple[Tensor, list[Tensor | None]]:
    """Return attention within each text, group by group, and what ``attention_backward`` needs of it.

    Written out by hand: autograd would fill a row of zeros for the gradient of every group.

    Args:
        parts: queries, keys and values ``[N, 3, H, D]`` of a packed row.
        scale: of the products of queries and keys.
        p: share of the attention that is dropped.
    """
    mixed = torch.empty((parts.shape[0], *parts.shape[2:]), dtype=parts.dtype)
    mixed[groups[-1].last :] = 0  # filler tokens at the end of the row
    kept: list[Tensor | None] = []
    for group in groups:
        query, key, value = _pad(parts, group)
        scores = torch.matmul(query, key.transpose(2, 3)).mul_(scale)  # [n, H, t, t]
        if group.mask is not None:
            scores[..., group.shortest :].masked_fill_(group.mask, torch.finfo(scores.dtype).min)
        shares = _softmax(scores)
        keep = dropout_mask(shares.shape, p) if p else None
        dropped = shares if keep is None else shares * keep.to(shares.dtype)
        _unpad(torch.matmul(dropped, value).transpose(1, 2), group, mixed)
        kept += [shares, dropped, keep]
    return mixed.mul_(1.0 / (1.0 - p)), kept


def attention_backward(
    gradient: Tensor, parts: Tensor, kept: Sequence[Tensor | None], groups: Groups, scale: float, p: float
) -> Tensor:
    """Return the gradient of ``parts`` from that of the result ``[N, H, D]``."""
    end = torch.empty(parts.shape, dtype=parts.dtype)
    end[groups[-1].last :] = 0
    gradient = (gradient * (1.0 / (1.0 - p)))[:, None]
    for number, group in enumerate(groups):
        shares, dropped, keep = kept[3 * number : 3 * number + 3]
        assert shares is not None
        assert dropped is not None
        query, key, value = _pad(parts, group)
        (flow,) = _pad(gradient, group, blank=True)
        of_value = torch.matmul(dropped.transpose(2, 3), flow)
        of_shares = torch.matmul(flow, value.transpose(2, 3))
        if keep is not None:
            of_shares *= keep.to(of_shares.dtype)
        of_scores = _softmax_back(of_shares, shares).mul_(scale)
        found = (torch.matmul(of_scores, key), torch.matmul(of_scores.transpose(2, 3), query), of_value)
        _unpad(torch.stack(found, 2).permute(0, 3, 2, 1, 4), group, end)
    return end


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax of the last dimension; for odd multiples of 16 in float32, since bfloat16 is slower there."""
    full = scores.float() if scores.dtype == torch.bfloat16 and scores.shape[-1] % 32 else scores
    return torch.softmax(full, dim=-1).to(scores.dtype)


def _softmax_back(gradient: Tensor, shares: Tensor) -> Tensor:
    if shares.dtype == torch.bfloat16 and shares.shape[-1] % 32:
        return torch._softmax_backward_data(gradient.float(), shares.float(), -1, torch.float32).to(shares.dtype)
    return torch._softmax_backward_data(gradient, shares, -1, shares.dtype)


def _pad(row: Tensor, group: Group, blank: bool = False) -> Tensor:
    """Return a group's tokens ``[N, k, H, D]`` as padded texts ``[k, n, H, t, D]``; padding is 0 if ``blank``."""
    part = row[group.first : group.last]
    if group.fill is not None:
        part = part.index_select(0, group.fill)
        if blank and group.pads is not None:
            part.index_fill_(0, group.pads, 0)
    return part.view(group.texts, group.longest, *row.shape[1:]).permute(2, 0, 3, 1, 4).contiguous()


def _unpad(texts: Tensor, group: Group, row: Tensor) -> None:
    """Write padded texts ``[n, t, ...]`` to their positions in a row ``[N, ...]``."""
    end = row[group.first : group.last]
    if group.kept is None:
        end.view(texts.shape).copy_(texts)
    else:
        torch.index_select(texts.reshape(-1, *row.shape[1:]), 0, group.kept, out=end)


def install(body: Any) -> None:
    """Give a transformers model this library's dropout, and its attention where the family takes one."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    for layer in list(body.modules()):
        for name, child in layer.named_children():
            if type(child) is nn.Dropout:
                setattr(layer, name, Dropout(child.p))
    if body.config._attn_implementation == "sdpa":
        body.set_attn_implementation(NAME)


def ampere(device: torch.device | None = None) -> bool:
    """Return whether a GPU is Ampere or later, so that bfloat16 is fast and the varlen kernel works."""
    return bool(torch.cuda.get_device_capability(device)[0] >= 8)
