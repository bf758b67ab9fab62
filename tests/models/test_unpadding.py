"""Encoders compute texts without their padding as they do with it, forward and backward."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.utils.checkpoint
import transformers

from bam_lightning.models.encoder import Encoder
from bam_lightning.models.kernels import bert_layers
from families import FAMILIES, PACKED, SIZES, batch_of, body, pooled_by_hand

LENGTHS = (9, 5, 3, 17, 9, 2)


def encoder_of(family, dtype=torch.float32, pooling="pooler"):
    """Return an encoder whose weights are so large that every part of it matters."""
    torch.manual_seed(0)
    encoder = Encoder(body(family), pooling)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.2)
    return encoder.to(dtype).eval()


def both(encoder, batch):
    """Return the vectors and all gradients, first of texts padded to the longest and then without padding."""
    found = []
    target = torch.randn(len(batch.lengths), encoder.width, generator=torch.Generator().manual_seed(2))
    for way in (pooled_by_hand, Encoder.__call__):
        encoder.zero_grad()
        vectors = way(encoder, batch)
        (vectors * target).sum().backward()
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        found.append((vectors.detach(), copy.deepcopy(gradients)))
    return found


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("family", PACKED)
def test_packed_vectors_and_gradients_are_the_padded_ones(family, pooling, types, dtype, close):
    encoder = encoder_of(family, dtype, pooling)
    batch = batch_of(LENGTHS, types and family in ("bert", "electra", "minilm"))
    assert encoder.packs
    (padded, theirs), (packed, ours) = both(encoder, batch)
    torch.testing.assert_close(packed, padded, atol=close, rtol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=close, rtol=close, msg=name)


@pytest.mark.parametrize("family", PACKED)
def test_packed_bfloat16_is_as_near_to_float32_as_padded_bfloat16(family):
    encoder, batch = encoder_of(family), batch_of(LENGTHS)
    with torch.no_grad():
        exact = pooled_by_hand(encoder, batch)
        with torch.autocast("cpu", torch.bfloat16):
            padded, packed = pooled_by_hand(encoder, batch), encoder(batch)
    assert (packed - exact).abs().mean() < 1.5 * (padded - exact).abs().mean()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in PACKED])
def test_families_without_position_ids_are_padded_in_blocks_of_like_length(family):
    encoder, batch = encoder_of(family, torch.float64), batch_of(LENGTHS)
    encoder.call_tokens = 5
    assert not encoder.packs
    assert len(list(encoder._padded(batch))) > 2
    (whole, theirs), (blocks, ours) = both(encoder, batch)
    torch.testing.assert_close(blocks, whole, atol=1e-11, rtol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("fields", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_layers_that_are_not_written_out_are_left_to_transformers(fields):
    config = transformers.BertConfig(**SIZES, **fields)
    torch.manual_seed(0)
    encoder, batch = Encoder(transformers.BertModel(config), pooling="pooler").eval(), batch_of(LENGTHS)
    assert bert_layers.supports_fused(transformers.BertModel(transformers.BertConfig(**SIZES)))
    assert encoder.packs
    assert not bert_layers.supports_fused(encoder.body)
    (padded, theirs), (packed, ours) = both(encoder, batch)
    torch.testing.assert_close(packed, padded, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_dropout_takes_the_share_that_transformers_take():
    """With dropout of one kind alone, the spread of a vector is that of the padded layers."""
    for kind in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        fields = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0) | {kind: 0.3}
        torch.manual_seed(0)
        encoder = Encoder(transformers.BertModel(transformers.BertConfig(**SIZES, **fields)), pooling="cls").train()
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
        batch = batch_of((6,) * 4000)
        batch.input_ids = batch.input_ids[:6].repeat(4000)  # one text, many draws
        with torch.no_grad():
            padded, packed = pooled_by_hand(encoder, batch), encoder(batch)
        assert padded.std(0).mean() > 0.01
        assert packed.std(0).mean().item() == pytest.approx(padded.std(0).mean().item(), rel=0.05)
        assert (packed.mean(0) - padded.mean(0)).abs().mean() < 2 * padded.std(0).mean() / 4000**0.5


def test_without_dropout_nothing_is_drawn():
    encoder, batch = encoder_of("bert"), batch_of(LENGTHS)
    state = torch.get_rng_state()
    encoder(batch)
    assert torch.get_rng_state().equal(state)


def test_robertas_positions_skip_its_padding_token_wherever_it_stands():
    encoder, batch = encoder_of("roberta", torch.float64), batch_of(LENGTHS)
    batch.input_ids[sum(LENGTHS) - 3] = 1  # its padding, in the middle of the longest text
    torch.testing.assert_close(encoder(batch), pooled_by_hand(encoder, batch), atol=1e-11, rtol=0)


class Adapter(torch.nn.Module):
    """A linear layer with something added, as libraries for adapters put it in a layer's place."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias
        self.down = torch.nn.Linear(inner.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, inner.out_features, bias=False)

    def forward(self, values):
        return self.inner(values) + self.up(self.down(values))


def adapted(body):
    torch.manual_seed(1)
    one = body.encoder.layer[1].attention.self
    one.value = Adapter(one.value)


def doubled(body):
    body.encoder.layer[0].intermediate.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)


def doubled_above(body):
    body.encoder.register_forward_hook(lambda module, inputs, outputs: _twice(outputs))


def doubled_at_last(body):
    body.register_forward_hook(lambda module, inputs, outputs: _twice(outputs))


def _twice(outputs):
    outputs.last_hidden_state = 2 * outputs.last_hidden_state
    return outputs


def checkpointed(body):
    body.train()
    for layer in body.encoder.layer:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)


@pytest.mark.parametrize("change", [adapted, doubled, doubled_above, doubled_at_last, checkpointed])
def test_what_is_put_into_a_layer_is_computed(change):
    encoder, batch = encoder_of("bert"), batch_of(LENGTHS)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    before = encoder(batch)
    change(encoder.body)
    assert not bert_layers.supports_fused(encoder.body)
    (padded, theirs), (packed, ours) = both(encoder, batch)
    assert change is checkpointed or not torch.allclose(packed, before, atol=1e-3)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
