"""Packed layers compute what transformers' padded ones do, forward and backward."""

from __future__ import annotations

import pytest
import torch
import transformers

from bam_lightning.models.kernels import bert_layers
from bam_lightning.models.packing import pack
from families import SIZES


@pytest.mark.parametrize("attention_dropout", [0.0, 0.3])
def test_a_layers_gradient_under_dropout_is_the_finite_differences(attention_dropout):
    """The draws are the same at every call, so the layer is a plain function."""
    config = transformers.BertConfig(
        **SIZES | {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2},
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=attention_dropout,
    )
    torch.manual_seed(0)
    layers = transformers.BertModel(config).double().train().encoder.layer
    packing = pack((2, 2, 3), grouped=True)
    states = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)  # 7 tokens and one place of filling

    def same_draws(row, *_):
        torch.manual_seed(5)
        return bert_layers.run(layers, row, packing, packing.firsts)

    weights = [weight for layer in layers for weight in layer.parameters()]
    for weight in weights:
        torch.nn.init.normal_(weight, 0, 0.3)
    assert torch.autograd.gradcheck(same_draws, (states, *weights), atol=1e-6, fast_mode=True)
