"""Attention is torch's, of padded texts and of packed ones; its gradients are the finite differences'."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bam_lightning.models.attention import Grouped, attention
from bam_lightning.models.packing import pack

LENGTHS = [1, 2, 3, 9, 16, 17, 20]
FILLING = 4  # places of the row that belong to no text
HEADS, WIDTH, SCALE = 2, 4, 0.5


def row(dtype=torch.float64):
    """Return a packing of LENGTHS, and queries, keys and values ``[N, 3, H, D]`` of its row."""
    torch.manual_seed(1)
    packing = pack(LENGTHS, grouped=True)
    return packing, torch.randn(sum(LENGTHS) + FILLING, 3, HEADS, WIDTH, dtype=dtype)


def one_by_one(parts, packing, scale=SCALE):
    """Return torch's attention of each text alone, one after the other."""
    spans = zip(packing.offsets[:-1].tolist(), packing.offsets[1:].tolist(), strict=True)
    texts = [parts[start:end].permute(1, 2, 0, 3)[:, None] for start, end in spans]  # [3, 1, H, t, D]
    mixed = [F.scaled_dot_product_attention(*text, scale=scale)[0].transpose(0, 1) for text in texts]
    return torch.cat(mixed)


def test_attention_is_torchs_where_dropout_is_too_small_to_drop():
    query, key, value = torch.randn(3, 2, 4, 7, 8)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 5:] = False
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    for p in (0.0, 1e-9):
        mixed, _ = attention(torch.nn.Identity(), query, key, value, mask, dropout=p)
        torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_packed_attention_is_that_of_each_text_alone(dtype, close):
    packing, parts = row(dtype)
    count = sum(LENGTHS)
    mixed = Grouped.apply(parts, packing.groups, SCALE, 0.0)
    torch.testing.assert_close(mixed[:count], one_by_one(parts, packing), atol=close, rtol=0)
    assert not mixed[count:].any()  # what fills the row up takes no part


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_gradient_of_packed_attention_is_the_finite_differences(p):
    packing, parts = row()

    def same_draws(inputs):
        torch.manual_seed(5)
        return Grouped.apply(inputs, packing.groups, SCALE, p)[: sum(LENGTHS)]

    assert torch.autograd.gradcheck(same_draws, parts.requires_grad_(), atol=1e-7, fast_mode=True)


def test_packed_attention_drops_shares_and_keeps_their_mean():
    packing, parts = row()
    parts[:, 2] = 1.0  # so that a token's result is the sum of the shares it kept
    found = torch.stack([Grouped.apply(parts, packing.groups, SCALE, 0.25)[: sum(LENGTHS)] for _ in range(2000)])
    assert found.std(0).min() > 0.05
    assert (found.mean(0) - 1).abs().max() < 5 * found.std(0).max() / 2000**0.5


def test_transformers_ask_for_packed_attention_in_their_own_shape():
    packing, parts = row(torch.float32)
    asked = [part.transpose(0, 1)[None] for part in parts.unbind(1)]  # [1, H, N, D]
    mixed, _ = attention(torch.nn.Identity(), *asked, None, scaling=SCALE, packing=packing, is_causal=False)
    torch.testing.assert_close(mixed[0], Grouped.apply(parts, packing.groups, SCALE, 0.0))


@pytest.mark.parametrize("scale", [WIDTH**-0.5, 8**-0.5, 0.3])
def test_where_there_is_a_kernel_for_rows_it_gets_the_texts_beginnings(scale, monkeypatch):
    """The kernel is for GPUs alone; this one computes what torch's documents of it."""
    grouped, parts = row(torch.float32)
    parts = parts[: sum(LENGTHS)]
    packing = pack(LENGTHS, grouped=False)

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        assert (max_q, max_k, cu_seq_q.dtype) == (20, 20, torch.int32)
        assert cu_seq_q.equal(cu_seq_k)
        assert query.shape[-1] == 8  # it takes multiples of 8 alone
        return one_by_one(torch.stack([query, key, value], 1), packing, 8**-0.5)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    query, key, value = (part.transpose(0, 1)[None] for part in parts.unbind(1))  # [1, H, N, D]
    mixed, _ = attention(None, query, key, value, None, scaling=scale, dropout=0.1, packing=packing, is_causal=False)
    torch.testing.assert_close(mixed[0], one_by_one(parts, grouped, scale))
