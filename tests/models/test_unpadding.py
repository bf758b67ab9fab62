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
from families import FAMILIES, PACKED, SIZES, body, inputs

LENGTHS = (9, 5, 3, 17, 9, 2)


def encoder_of(family, dtype=torch.float32):
    """Return an encoder whose weights are so large that every part of it matters."""
    torch.manual_seed(0)
    encoder = Encoder(body(family), pooling="pooler")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.2)
    return encoder.to(dtype).eval()


def both(encoder, batch, lengths):
    """Return the vectors and all gradients, first of padded texts and then of packed ones."""
    found = []
    target = torch.randn(len(lengths), encoder.width, generator=torch.Generator().manual_seed(2))
    for given in ((), lengths):
        encoder.zero_grad()
        vectors = encoder(batch, given)
        (vectors * target).sum().backward()
        gradients = {name: one.grad for name, one in encoder.named_parameters()}
        found.append((vectors.detach(), copy.deepcopy(gradients)))
    return found


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("family", PACKED)
def test_packed_vectors_and_gradients_are_the_padded_ones(family, types, dtype, close):
    encoder, batch = encoder_of(family, dtype), inputs(LENGTHS)
    if types and family in ("bert", "electra", "minilm"):
        batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape)
    assert encoder.packs
    (padded, theirs), (packed, ours) = both(encoder, batch, LENGTHS)
    torch.testing.assert_close(packed, padded, atol=close, rtol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=close, rtol=close, msg=name)


@pytest.mark.parametrize("family", PACKED)
def test_packed_bfloat16_is_as_near_to_float32_as_padded_bfloat16(family):
    encoder, batch = encoder_of(family), inputs(LENGTHS)
    with torch.no_grad():
        exact = encoder(batch)
        with torch.autocast("cpu", torch.bfloat16):
            padded, packed = encoder(batch), encoder(batch, LENGTHS)
    assert (packed - exact).abs().mean() < 1.5 * (padded - exact).abs().mean()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in PACKED])
def test_families_without_position_ids_stay_padded(family):
    encoder, batch = encoder_of(family), inputs(LENGTHS)
    assert not encoder.packs
    assert encoder(batch, LENGTHS).equal(encoder(batch))


@pytest.mark.parametrize("fields", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_layers_that_are_not_written_out_are_left_to_transformers(fields):
    config = transformers.BertConfig(**SIZES, **fields)
    torch.manual_seed(0)
    encoder, batch = Encoder(transformers.BertModel(config), pooling="pooler").eval(), inputs(LENGTHS)
    assert bert_layers.supports_fused(transformers.BertModel(transformers.BertConfig(**SIZES)))
    assert encoder.packs is not config.is_decoder
    assert not (encoder.packs and bert_layers.supports_fused(encoder.body))
    (padded, theirs), (packed, ours) = both(encoder, batch, LENGTHS)
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
        batch = inputs((6,) * 4000)
        batch = {name: values[:1].expand_as(values) for name, values in batch.items()}  # one text, many draws
        with torch.no_grad():
            padded, packed = encoder(batch), encoder(batch, (6,) * 4000)
        assert padded.std(0).mean() > 0.01
        assert packed.std(0).mean().item() == pytest.approx(padded.std(0).mean().item(), rel=0.05)
        assert (packed.mean(0) - padded.mean(0)).abs().mean() < 2 * padded.std(0).mean() / 4000**0.5


def test_without_dropout_nothing_is_drawn():
    encoder, batch = encoder_of("bert"), inputs(LENGTHS)
    state = torch.get_rng_state()
    encoder(batch, LENGTHS)
    assert torch.get_rng_state().equal(state)


def test_robertas_positions_skip_its_padding_token_wherever_it_stands():
    encoder, batch = encoder_of("roberta", torch.float64), inputs(LENGTHS)
    batch["input_ids"][0, 3] = 1  # its padding, in the middle of a text
    torch.testing.assert_close(encoder(batch, LENGTHS), encoder(batch), atol=1e-11, rtol=0)


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
    encoder, batch = encoder_of("bert"), inputs(LENGTHS)
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    before = encoder(batch, LENGTHS)
    change(encoder.body)
    assert not bert_layers.supports_fused(encoder.body)
    (padded, theirs), (packed, ours) = both(encoder, batch, LENGTHS)
    assert change is checkpointed or not torch.allclose(packed, before, atol=1e-3)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
