"""Attention for transformers' models, of padded texts and of texts packed into one row of tokens.

B texts, H heads, T tokens of the longest text, N tokens of all, D width of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bam_lightning.models.kernels.dropout import Dropout, dropout_mask
from bam_lightning.models.kernels.dropout import dropout as drop
from bam_lightning.models.packing import Group, Packing

NAME = "bam_attention"
KERNEL_LANES = 8  # the CUDA kernel needs a head width that is a multiple of it
Groups = tuple[Group, ...]


class Pattern(NamedTuple):
    """Which tokens of a text see each other, and how scores are bent before the softmax.

    Attributes:
        causal: whether a token sees itself and the tokens before it only.
        window: tokens i and j see each other if ``|i - j| < window``; ``None`` for all.
        softcap: scores become ``softcap * tanh(scores / softcap)`` (Gemma 2).
    """

    causal: bool = False
    window: int | None = None
    softcap: float | None = None

    def visible(self, count: int, device: torch.device) -> Tensor | None:
        """Return ``[count, count]``, true where a token (row) sees another (column); ``None`` where all do."""
        window = count if self.window is None else min(self.window, count)
        if not self.causal and window == count:
            return None
        places = torch.arange(count, device=device)
        distance = places[:, None] - places[None]
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        return seen if window == count else seen & (distance.abs() < window)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of ``[B, H, T, D]``, or ``[1, H, N, D]`` with a ``packing``; returns ``[B, T, H, D]``.

    Without dropout torch's own kernel is used. With dropout on a CPU that kernel falls back to float32 and slow random
    numbers, so attention is computed by separate matrix products. Keys and values may have fewer heads than queries.

    Raises:
        NotImplementedError: for a packed row with a bias per pair of positions, or with attention sinks.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    pattern = Pattern(causal, sliding_window, softcap)
    if packing is not None:
        if position_bias is not None or s_aux is not None:
            raise NotImplementedError("attention with a bias per pair of positions, or with sinks")
        query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))  # [N, H, D] each
        return _packed_attention(query, key, value, packing, scale, dropout, pattern)[None], None
    key, value = (_repeat_heads(part, query.shape[1], 1) for part in (key, value))
    if attention_mask is None:
        attention_mask = pattern.visible(query.shape[2], query.device)
    if position_bias is not None:
        attention_mask = _with_bias(attention_mask, position_bias)
    return _dense(query, key, value, attention_mask, scale, dropout, softcap).transpose(1, 2).contiguous(), None


def _repeat_heads(part: Tensor, heads: int, dim: int) -> Tensor:
    """Return keys or values with as many heads as queries (grouped-query attention)."""
    return part if part.shape[dim] == heads else part.repeat_interleave(heads // part.shape[dim], dim)


def _with_bias(mask: Tensor | None, bias: Tensor) -> Tensor:
    if mask is None:
        return bias
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min) if mask.dtype == torch.bool else bias + mask


def _dense(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, softcap: float | None
) -> Tensor:
    """Return ``[B, H, T, D]`` of padded texts. The mask is true where a token is seen, or is added to the scores."""
    if softcap is None and (dropout == 0.0 or query.device.type != "cpu"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    scores = torch.matmul(query * scale, key.transpose(2, 3))  # [B, H, T, T]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    shares = torch.softmax(scores, dim=-1)
    return torch.matmul(drop(shares, dropout) if dropout else shares, value)


def _packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, dropout: float, pattern: Pattern
) -> Tensor:
    """Return attention within each text, ``[N, H, D]``, of ``[N, H, D]``; keys and values may have fewer heads."""
    if packing.groups:
        if pattern == Pattern() and query.shape == key.shape == value.shape:
            return Grouped.apply(torch.stack((query, key, value), 1), packing.groups, scale, dropout)
        return _grouped_attention(query, key, value, packing.groups, scale, dropout, pattern)
    if query.device.type == "cuda" and query.dtype not in (torch.bfloat16, torch.float16):
        return _block_attention(query, key, value, packing, scale, dropout, pattern)  # the kernel takes these alone
    return _varlen_attention(query, key, value, packing, scale, pattern)


def _varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, pattern: Pattern
) -> Tensor:
    """Return attention within each text, ``[N, H, D]``. The CUDA kernel has no dropout, so nothing is dropped there."""
    from torch.nn.attention.varlen import varlen_attn

    if pattern.softcap is not None:
        raise NotImplementedError("the CUDA kernel for packed rows has no softcap")
    options: dict[str, Any] = {}
    if pattern.causal or pattern.window is not None:
        width = -1 if pattern.window is None else pattern.window - 1
        options["window_size"] = (width, 0 if pattern.causal else width)
    key, value = (_repeat_heads(part, query.shape[1], 1) for part in (key, value))
    width = query.shape[-1]
    if fill := -width % KERNEL_LANES:
        query, key, value = (F.pad(part, (0, fill)) for part in (query, key, value))
    if scale != (usual := query.shape[-1] ** -0.5):  # some versions of the kernel have no scale argument
        query = query * (scale / usual)
    where, longest = packing.offsets, packing.longest
    mixed = cast("Tensor", varlen_attn(query, key, value, where, where, longest, longest, **options))
    return mixed[..., :width] if fill else mixed


def _block_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, dropout: float, pattern: Pattern
) -> Tensor:
    """Return attention within each text, ``[N, H, D]``, by one mask ``[N, N]``: for rows of few tokens."""
    lengths = packing.offsets.diff()
    text = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), lengths, output_size=len(query))
    mask = text[:, None] == text[None]
    if (seen := pattern.visible(len(query), query.device)) is not None:
        mask = mask & seen
    key, value = (_repeat_heads(part, query.shape[1], 1) for part in (key, value))
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))  # [1, H, N, D] each
    return _dense(query, key, value, mask, scale, dropout, pattern.softcap)[0].transpose(0, 1)


def _grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, groups: Groups, scale: float, dropout: float, pattern: Pattern
) -> Tensor:
    """Return attention within each text, ``[N, H, D]``, on a CPU, group by group, whatever its pattern."""
    sizes = [group.last - group.first for group in groups]
    filler = len(query) - groups[-1].last
    columns = zip(*(part.split([*sizes, filler]) for part in (query, key, value)), strict=True)
    found = []
    for group, parts in zip(groups, columns, strict=False):  # the last part is the filler
        padded = [part if group.fill is None else part.index_select(0, group.fill) for part in parts]
        first, *others = (part.view(group.texts, group.longest, *part.shape[1:]).transpose(1, 2) for part in padded)
        keys, values = (_repeat_heads(part, first.shape[1], 1) for part in others)  # [n, H, t, D]
        mask = _group_mask(group, pattern, query.device)
        mixed = _dense(first, keys, values, mask, scale, dropout, pattern.softcap)
        rows = mixed.transpose(1, 2).reshape(-1, *query.shape[1:-1], mixed.shape[-1])
        found.append(rows if group.kept is None else rows.index_select(0, group.kept))
    found.append(query.new_zeros(filler, *found[0].shape[1:]))
    return torch.cat(found)


def _group_mask(group: Group, pattern: Pattern, device: torch.device) -> Tensor | None:
    """Return which tokens see each other in a group: ``[n, 1, t, t]``, or ``None`` where all do."""
    seen = pattern.visible(group.longest, device)
    if group.mask is None:
        return seen
    real = F.pad(~group.mask, (group.shortest, 0), value=True)  # [n, 1, 1, t]
    if seen is None:
        return real
    # padding sees itself, since a token that sees none would make the softmax and its gradient not a number
    return (seen & real) | torch.eye(group.longest, dtype=torch.bool, device=device)


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


def install(body: Any) -> str | None:
    """Give a transformers model this library's dropout, and its attention where the family takes one.

    Returns:
        The name of the attention that the model had, or ``None`` where it was left as it is.
    """
    for layer in list(body.modules()):
        for name, child in layer.named_children():
            if type(child) is nn.Dropout:
                setattr(layer, name, Dropout(child.p))
    before = getattr(getattr(body, "config", None), "_attn_implementation", None)
    if before not in ("sdpa", "eager") or not body._can_set_attn_implementation():
        return None
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)
    body.set_attn_implementation(NAME)
    return str(before)


def _mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Return transformers' mask of padded texts; none of a packed row, where ``attention`` knows what is seen."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None:
        return None
    found: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **options)
    return found


def ampere(device: torch.device | None = None) -> bool:
    """Return whether a GPU is Ampere or later, so that bfloat16 is fast and the varlen kernel works."""
    return bool(torch.cuda.get_device_capability(device)[0] >= 8)
