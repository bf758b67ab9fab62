"""Optimizer: parameter groups and BERT's Adam (both after the reference code), and clipping."""

import math
import re

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from bam_lightning.models.encoder import Encoder
from bam_lightning.models.heads import ClassificationHead, RegressionHead
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.training.optimizer import BertAdam, clip_gradients, parameter_groups

TINY = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
DISTIL = {"vocab_size": 20, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8}
RELATIVE = {**TINY, "relative_attention": True, "norm_rel_ebd": "layer_norm", "position_buckets": 4}
FAMILIES = {
    "bert": TINY,
    "roberta": TINY,
    "electra": {**TINY, "embedding_size": 4},
    "distilbert": DISTIL,
    "deberta": {**RELATIVE, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**RELATIVE, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 3},
}


def encoder_of(kind, layers=2):
    fields = FAMILIES[kind] if kind == "distilbert" else {**FAMILIES[kind], "num_hidden_layers": layers}
    config = transformers.AutoConfig.for_model(kind, **fields)
    return Encoder(transformers.AutoModel.from_config(config), pooling="pooler")


def model_of(encoder):
    heads = {"mnli": ClassificationHead(8, ["a", "b", "c"]), "stsb": RegressionHead(8, [0.0, 5.0])}
    return MultiTaskModel(encoder, heads)


def settings_of(encoder, decay=0.9, weight_decay=0.01):
    """Return name -> (learning rate, weight decay), and how often each parameter stands in a group."""
    model = model_of(encoder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found, counts = {}, dict.fromkeys(names.values(), 0)
    for group in parameter_groups(model, 1.0, decay, weight_decay):
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
            counts[names[id(parameter)]] += 1
    return found, counts


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_parameter_stands_in_exactly_one_group(kind):
    _, counts = settings_of(encoder_of(kind))
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(("layers", "first_layer", "embeddings"), [(12, 0.2542, 0.2288), (24, 0.0718, 0.0646)])
def test_learning_rates_are_those_of_the_reference_codes_table(layers, first_layer, embeddings):
    """The reference code, alpha 0.9: BERT-Base and BERT-Large, in four decimals."""
    found, _ = settings_of(encoder_of("bert", layers))
    table = {"heads.": 1.0, "encoder.pooler.": 0.9, "encoder.body.embeddings.": embeddings}
    table |= {f"encoder.body.encoder.layer.{i}.": 0.9 ** (layers + 1 - i) for i in range(layers)}
    assert table[f"encoder.body.encoder.layer.{layers - 1}."] == pytest.approx(0.81)
    table["encoder.body.encoder.layer.0."] = first_layer
    for name, (rate, _) in found.items():
        expected = [value for start, value in table.items() if name.startswith(start)]
        assert [rate] == pytest.approx(expected, abs=5e-5), name


@pytest.mark.parametrize("kind", FAMILIES)
def test_without_layerwise_decay_every_learning_rate_is_that_of_the_heads(kind):
    found, _ = settings_of(encoder_of(kind), decay=1.0)
    assert {rate for rate, _ in found.values()} == {1.0}


@pytest.mark.parametrize("kind", FAMILIES)
def test_biases_and_layer_norms_are_not_decayed_and_all_else_is(kind):
    """The reference code's rule is by name: "LayerNorm", "layer_norm" and "bias" (the reference code)."""
    found, _ = settings_of(encoder_of(kind))
    for name, (_, decay) in found.items():
        assert decay == (0.0 if re.search("LayerNorm|layer_norm|bias", name) else 0.01), name


def test_a_frozen_parameter_stands_in_no_group():
    encoder = encoder_of("bert")
    encoder.body.embeddings.requires_grad_(False)
    _, counts = settings_of(encoder)
    assert {name for name, count in counts.items() if not count} == {name for name in counts if ".embeddings." in name}


def test_learning_rates_are_multiples_of_the_one_of_the_heads():
    rates = [sorted({group["lr"] for group in parameter_groups(model_of(encoder_of("bert")), rate, 0.5, 0.0)})
             for rate in (1.0, 3e-4)]  # fmt: skip
    assert rates[0] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert rates[1] == pytest.approx([3e-4 * rate for rate in rates[0]], rel=1e-12)


def test_embeddings_pooler_and_head_weights_are_decayed():
    """The last line of the reference code's rule."""
    found, _ = settings_of(encoder_of("bert"))
    decayed = [name for name, (_, decay) in found.items() if decay == 0.01]
    for name in (
        "encoder.body.embeddings.word_embeddings.weight",
        "encoder.body.embeddings.position_embeddings.weight",
        "encoder.pooler.weight",
        "heads.mnli.linear.weight",
        "heads.stsb.linear.weight",
    ):
        assert name in decayed


def bert_adam_in_numpy(start, gradients, rates, decay):
    """The reference code: beta 0.9 and 0.999, epsilon 1e-6 outside the root, no correction, decoupled decay."""
    value, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for gradient, rate in zip(gradients, rates, strict=True):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        value = value - rate * mean / (np.sqrt(square) + 1e-6) - rate * decay * value
    return value


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(5))
def test_bert_adam_takes_the_steps_computed_in_numpy(seed, decay):
    rng = np.random.default_rng(seed)
    start, gradients, rates = rng.normal(size=(3, 2)), rng.normal(size=(12, 3, 2)), rng.random(12) * 0.01
    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = BertAdam([{"params": [parameter], "weight_decay": decay}])
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = bert_adam_in_numpy(start, gradients, rates, decay)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_first_step_of_bert_adam_by_hand():
    """Mean 0.1 g, square 0.001 g^2: 0.1 / sqrt(0.001) = 3.1623 rates towards -sign(g), and 1 % of the weight."""
    parameter = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    parameter.grad = torch.tensor([100.0, -100.0], dtype=torch.float64)
    BertAdam([parameter], lr=0.5, weight_decay=0.01).step()
    step = 0.5 * 0.1 / math.sqrt(0.001)
    assert parameter.tolist() == pytest.approx([2 - step - 0.01, -3 + step + 0.015], abs=1e-6)


@pytest.mark.parametrize(("step", "rounded"), [(1, 3.2), (10, 6.5), (100, 3.2), (500, 1.6)])
def test_bert_adam_moves_further_than_adamw_by_the_missing_correction(step, rounded):
    """The reference code: (1 - 0.9^t) / sqrt(1 - 0.999^t) times, for gradients that stay the same."""
    ours, theirs = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizers = BertAdam([ours], lr=1.0), torch.optim.AdamW([theirs], lr=1.0, weight_decay=0.0, eps=1e-6)
    for _ in range(step):
        before = float(ours.detach()), float(theirs.detach())
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.full_like(parameter, 1e3)  # epsilon does not matter
            optimizer.step()
    ratio = (float(ours.detach()) - before[0]) / (float(theirs.detach()) - before[1])
    assert ratio == pytest.approx((1 - 0.9**step) / math.sqrt(1 - 0.999**step), rel=1e-6)
    assert round(ratio, 1) == rounded


def test_bert_adam_leaves_a_parameter_without_gradient_alone():
    parameter = nn.Parameter(torch.ones(2))
    BertAdam([parameter], lr=1.0, weight_decay=0.5).step()
    assert parameter.tolist() == [1, 1]


def two_groups():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    groups = [
        {"params": [parameters[0]], "lr": 0.05, "weight_decay": 0.01},
        {"params": [parameters[1]], "lr": 0.1, "weight_decay": 0.0},
    ]
    return groups, parameters


@pytest.mark.parametrize("limit", [0.5, 1e3])
@pytest.mark.parametrize("corrected", [True, False])
def test_an_optimizer_that_scales_gradients_takes_the_step_of_scaled_ones(corrected, limit):
    ends = []
    for scales in (True, False):
        groups, parameters = two_groups()
        kind = torch.optim.AdamW if corrected else BertAdam
        optimizer = kind(groups, eps=1e-2, fused=True)
        for step in range(5):
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            before = parameters[0].grad.clone()
            norm = clip_gradients(parameters, limit, "norm", optimizer if scales else None)
            assert norm > 0.5
            assert torch.equal(before, parameters[0].grad) is (scales or limit == 1e3)
            optimizer.step()
        ends.append(parameters)
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["float64", "not fused", "another optimizer"])
def test_an_optimizer_that_cannot_scale_gradients_gets_scaled_ones(kind):
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64 if kind == "float64" else torch.float32))
    parameter.grad = torch.full_like(parameter, 3.0)
    kinds = {"float64": BertAdam, "not fused": torch.optim.AdamW, "another optimizer": torch.optim.SGD}
    optimizer = kinds[kind]([parameter])
    clip_gradients([parameter], 1.0, "norm", optimizer)
    assert parameter.grad.tolist() == pytest.approx([0.5**0.5] * 2, abs=1e-6)
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize(("norm", "expected"), [(1.0, [0.6, 0.8]), (2.5, [1.5, 2.0]), (5.5, [3.0, 4.0])])
def test_gradients_are_clipped_by_the_norm_of_all_together(norm, expected):
    """(3) and (4) have the joint norm 5; each alone would be scaled otherwise."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    for parameter, gradient in zip(parameters, (3.0, 4.0), strict=False):
        parameter.grad = torch.tensor([gradient])  # the third has none: a head without examples
    assert float(clip_gradients(parameters, norm)) == 5
    found = [float(parameter.grad) for parameter in parameters[:2]]
    assert found == pytest.approx(expected, abs=2e-6)  # torch adds 1e-6 to the norm it divides by
    assert parameters[2].grad is None


def test_a_limit_of_zero_leaves_gradients_as_they_are():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    assert float(clip_gradients([parameter], 0.0)) == 50
    assert parameter.grad.tolist() == [30, 40]


def test_gradients_are_clipped_by_value_where_that_is_asked_for():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, -4.0, 0.1])
    assert float(clip_gradients([parameter], 0.5, "value")) == pytest.approx(25.01**0.5, rel=1e-6)
    assert parameter.grad.tolist() == pytest.approx([0.5, -0.5, 0.1])
