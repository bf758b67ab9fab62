"""Layers that torch compiles: one graph for all layers and all numbers and lengths of texts, and the same results.

torch's attention for rows without padding is for GPUs; here it gets kernels for a CPU, so all around it is real."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.attention.varlen as kernels
from torch._dynamo.utils import counters
from torch.nn import functional as F

from bam_lightning.models import unpadding
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.packing import pack
from families import PACKED, batch_of, body

pytestmark = pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf.*")  # torch's own
SHAPES = [(9, 5, 3), (12, 4), (7, 7, 7, 7, 2), (20, 1, 3), (2, 3), (31, 5)]


def _spans(begins):
    return zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)


def _forward(query, key, value, begins, *_, scale=None, **__):
    assert query.shape[-1] % 8 == 0  # else CUDA's kernel refuses it
    texts = [[part[start:end].transpose(0, 1)[None] for part in (query, key, value)] for start, end in _spans(begins)]
    mixed = torch.cat([F.scaled_dot_product_attention(*text)[0].transpose(0, 1) for text in texts])
    return mixed.contiguous(), query.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def _backward(flow, query, key, value, mixed, lse, begins, *_, **__):
    ends = [torch.empty(part.shape, dtype=part.dtype) for part in (query, key, value)]
    for start, end in _spans(begins):
        q, k, v, g = (part[start:end].transpose(0, 1) for part in (query, key, value, flow))
        shares, scale = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1), q.shape[-1] ** -0.5
        of_shares = g @ v.mT
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
        for part, found in zip(ends, (of_scores @ k, of_scores.mT @ q, shares.mT @ g), strict=True):
            part[start:end] = found.transpose(0, 1)
    return tuple(ends)


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    torch.library.register_kernel(kernels._varlen_attn, "cpu", _forward)
    torch.library.register_kernel(kernels._varlen_attn_backward, "cpu", _backward)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(unpadding, "pack", lambda lengths, grouped: pack(lengths, grouped=False))
    monkeypatch.setattr(unpadding, "round_to_bucket", lambda count: count)  # rows are filled up on a CPU only
    torch._dynamo.reset()
    counters.clear()


def both(family, backend):
    torch.manual_seed(0)
    plain = Encoder(body(family), pooling="pooler").eval()
    compiled = copy.deepcopy(plain)
    compiled.compile_layers(backend=backend)
    return plain, compiled


def results(encoder, lengths):
    """Return the vectors of texts of these lengths and all gradients."""
    torch.manual_seed(sum(lengths))
    encoder.zero_grad()
    vectors = encoder(batch_of(lengths))
    (vectors**2).sum().backward()
    return vectors.detach(), {name: one.grad for name, one in encoder.named_parameters() if one.grad is not None}


@pytest.mark.release
@pytest.mark.parametrize(  # each has a layer of its own
    "family", ["bert", "electra", "distilbert"]
)
def test_one_graph_serves_all_layers_and_shapes(family):
    plain, compiled = both(family, "aot_eager")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for lengths in SHAPES:
        (wanted, theirs), (found, ours) = results(plain, lengths), results(compiled, lengths)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
        graphs = counters["stats"]["unique_graphs"]
        assert graphs == (2 if family == "electra" else 1), lengths  # ELECTRA's first layer takes a graph of its own
    assert not counters["graph_break"]


@pytest.mark.parametrize("family", PACKED)
def test_the_stack_is_every_layer_once(family):
    encoder = Encoder(body(family), pooling="pooler")
    stack = encoder.stack()
    assert len(stack) == encoder.layers
    inside, depths = {id(one) for layer in stack for one in layer.parameters()}, encoder.depths()
    assert inside == {id(one) for name, one in encoder.named_parameters() if 0 < depths[name] <= encoder.layers}
