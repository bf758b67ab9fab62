"""Optimizer: who is in which group (the reference code), BERT's Adam (the reference code), rates and clipping."""

import math
import re

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.models.heads import ClassificationHead, RegressionHead
from bam_lightning.training.optimizer import BertAdam, build_optimizer, clip_gradients, parameter_groups, set_rates

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


def two_heads():
    return nn.ModuleDict({"mnli": ClassificationHead(8, ["a", "b", "c"]), "stsb": RegressionHead(8, [0.0, 5.0])})


def settings_of(encoder, heads, decay=0.9, weight_decay=0.01):
    """Return name -> (share, weight decay), and how often each parameter stands in a group."""
    both = nn.ModuleDict({"encoder": encoder, "heads": heads})
    names = {id(parameter): name for name, parameter in both.named_parameters()}
    found, counts = {}, dict.fromkeys(names.values(), 0)
    for group in parameter_groups(encoder, heads, decay, weight_decay):
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["share"], group["weight_decay"])
            counts[names[id(parameter)]] += 1
    return found, counts


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_parameter_stands_in_exactly_one_group(kind):
    _, counts = settings_of(encoder_of(kind), two_heads())
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(("layers", "first_layer", "embeddings"), [(12, 0.2542, 0.2288), (24, 0.0718, 0.0646)])
def test_shares_are_those_of_the_reference_codes_table(layers, first_layer, embeddings):
    """the reference code, alpha 0.9: BERT-Base and BERT-Large, in four decimals."""
    found, _ = settings_of(encoder_of("bert", layers), two_heads())
    table = {"heads.": 1.0, "encoder.pooler.": 0.9, "encoder.body.embeddings.": embeddings}
    table |= {f"encoder.body.encoder.layer.{i}.": 0.9 ** (layers + 1 - i) for i in range(layers)}
    assert table[f"encoder.body.encoder.layer.{layers - 1}."] == pytest.approx(0.81)
    table["encoder.body.encoder.layer.0."] = first_layer
    for name, (share, _) in found.items():
        expected = [value for start, value in table.items() if name.startswith(start)]
        assert [share] == pytest.approx(expected, abs=5e-5), name


@pytest.mark.parametrize("kind", FAMILIES)
def test_without_layerwise_decay_every_share_is_one(kind):
    found, _ = settings_of(encoder_of(kind), two_heads(), decay=1.0)
    assert {share for share, _ in found.values()} == {1.0}


@pytest.mark.parametrize("kind", FAMILIES)
def test_biases_and_layer_norms_are_not_decayed_and_all_else_is(kind):
    """The reference code's rule is by name: "LayerNorm", "layer_norm" and "bias" (the reference code)."""
    found, _ = settings_of(encoder_of(kind), two_heads())
    for name, (_, decay) in found.items():
        assert decay == (0.0 if re.search("LayerNorm|layer_norm|bias", name) else 0.01), name


def test_embeddings_pooler_and_head_weights_are_decayed():
    """the reference code, last line."""
    found, _ = settings_of(encoder_of("bert"), two_heads())
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
    """the reference code: beta 0.9 and 0.999, epsilon 1e-6 outside the root, no correction, decoupled decay."""
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
    optimizer = BertAdam([{"params": [parameter], "share": 1.0, "weight_decay": decay}])
    for gradient, rate in zip(gradients, rates, strict=True):
        set_rates(optimizer, rate)
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
    """the reference code: (1 - 0.9^t) / sqrt(1 - 0.999^t) times, for gradients that stay the same."""
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


def trained(optimizer, parameters, steps=10):
    torch.manual_seed(3)
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        set_rates(optimizer, 1e-3 * (step + 1))
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def two_groups():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    groups = [
        {"params": [parameters[0]], "share": 0.5, "weight_decay": 0.01},
        {"params": [parameters[1]], "share": 1.0, "weight_decay": 0.0},
    ]
    return groups, parameters


def test_with_bias_correction_the_optimizer_is_torchs_plain_adamw():
    groups, ours = two_groups()
    other, theirs = two_groups()
    optimizer = build_optimizer(groups, OptimizationConfig(epsilon=1e-3))
    plain = torch.optim.AdamW(other, lr=0.0, betas=(0.9, 0.999), eps=1e-3, foreach=False, fused=False)
    for one, two in zip(trained(optimizer, ours), trained(plain, theirs), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


def test_without_bias_correction_the_optimizer_is_berts_with_the_epsilon_of_the_config():
    groups, ours = two_groups()
    other, theirs = two_groups()
    optimizer = build_optimizer(groups, OptimizationConfig(epsilon=1e-3, bias_correction=False))
    assert isinstance(optimizer, BertAdam)
    same = trained(BertAdam(other, epsilon=1e-3), theirs)
    assert all(torch.equal(one, two) for one, two in zip(trained(optimizer, ours), same, strict=True))
    other, theirs = two_groups()
    assert not torch.equal(same[0], trained(BertAdam(other, epsilon=1e-6), theirs)[0])


@pytest.mark.parametrize("limit", [0.5, 1e3])
@pytest.mark.parametrize("corrected", [True, False])
def test_an_optimizer_that_scales_gradients_takes_the_step_of_scaled_ones(corrected, limit):
    ends = []
    for spared in (True, False):
        groups, parameters = two_groups()
        optimizer = build_optimizer(groups, OptimizationConfig(bias_correction=corrected, epsilon=1e-2))
        set_rates(optimizer, 0.1)
        for step in range(5):
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            before = parameters[0].grad.clone()
            norm = clip_gradients(parameters, limit, optimizer if spared else None)
            assert norm > 0.5
            assert torch.equal(before, parameters[0].grad) is (spared or limit == 1e3)
            optimizer.step()
        ends.append(parameters)
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["float64", "another optimizer"])
def test_an_optimizer_that_cannot_scale_gradients_gets_scaled_ones(kind):
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64 if kind == "float64" else torch.float32))
    parameter.grad = torch.full_like(parameter, 3.0)
    optimizer = BertAdam([parameter]) if kind == "float64" else torch.optim.SGD([parameter])
    clip_gradients([parameter], 1.0, optimizer)
    assert parameter.grad.tolist() == pytest.approx([0.5**0.5] * 2, abs=1e-6)
    assert not hasattr(optimizer, "grad_scale")


def test_set_rates_gives_every_group_its_share():
    groups, _ = two_groups()
    optimizer = build_optimizer(groups, OptimizationConfig())
    set_rates(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.25]


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
