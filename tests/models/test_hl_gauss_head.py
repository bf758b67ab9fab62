"""A regression head over bins: its targets against SciPy's normal distribution, its predictions against the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bam_lightning.models.heads import HLGaussHead
from bam_lightning.training.distillation import ensemble_mean, mix_targets


@pytest.mark.parametrize(("bins", "sigma"), [(51, 0.75), (21, 0.5), (101, 2.0)])
def test_a_label_is_a_gaussian_integrated_over_each_bin(bins, sigma):
    head = HLGaussHead(4, [0.0, 5.0], bins=bins, sigma=sigma)
    size = 5 / (bins - 6 * sigma)
    edges = -3 * sigma * size + size * np.arange(bins + 1)
    labels = torch.tensor([0.0, 1.3, 5.0])
    expected = np.diff(stats.norm.cdf(edges, loc=labels.numpy()[:, None], scale=sigma * size), axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.encode_labels(labels), expected, atol=1e-5)  # edges and labels are float32


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (-3.0, 3.0), (1.0, 100.0)])
def test_the_mean_of_a_label_s_target_is_the_label_even_at_the_ends(low, high):
    head = HLGaussHead(4, [low, high])
    labels = torch.linspace(low, high, 41)
    target = head.encode_labels(labels)
    assert target.sum(dim=1).numpy() == pytest.approx(np.ones(41), abs=1e-6)
    width = float(head.edges()[1] - head.edges()[0])
    np.testing.assert_allclose(head.decode(target.log()), labels, atol=0.02 * width)


def test_mixed_targets_have_the_mixed_mean():
    """As with one number, lam mixes the means of gold and teacher; the bins keep what a mean loses."""
    head = HLGaussHead(4, [0.0, 5.0])
    gold, teacher = head.encode_labels(torch.tensor([1.0])), head.encode_labels(torch.tensor([4.0]))
    mixed = mix_targets(gold, teacher, 0.25)
    assert float(head.decode(mixed.log())) == pytest.approx(0.25 * 1 + 0.75 * 4, abs=1e-2)
    assert int((mixed > 0.05).sum()) > int((head.encode_labels(torch.tensor([3.25])) > 0.05).sum())  # two modes
    several = ensemble_mean(torch.stack([gold, teacher], dim=1))
    assert float(head.decode(several.log())) == pytest.approx(2.5, abs=1e-2)


def test_the_loss_is_the_cross_entropy_of_bins_and_least_at_the_target():
    head, logits = HLGaussHead(4, [0.0, 1.0], bins=11), torch.randn(3, 11)
    target = head.encode_labels(torch.tensor([0.2, 0.5, 0.9]))
    probabilities = torch.softmax(logits, dim=1).numpy()
    np.testing.assert_allclose(head.loss(logits, target), -(target.numpy() * np.log(probabilities)).sum(1), atol=1e-5)
    np.testing.assert_allclose(head.loss(target.log().clamp(min=-80), target), stats.entropy(target, axis=1), atol=1e-4)


def test_it_learns_a_line():
    torch.manual_seed(0)
    head, x = HLGaussHead(1, [0.0, 5.0], dropout=0.0), torch.rand(256, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        head.loss(head(x), head.encode_labels(5 * x[:, 0])).mean().backward()
        optimizer.step()
    assert stats.pearsonr(head.decode(head(x).detach()), x[:, 0]).statistic > 0.99


def test_its_export_says_how_to_read_the_scores():
    head, labels = HLGaussHead(4, [0.0, 5.0], bins=21), torch.tensor([0.5, 4.0])
    spec = head.export_spec(())
    scores = head.encode_labels(labels)
    assert spec.problem_type == "single_label_classification"
    np.testing.assert_allclose(scores @ torch.tensor([float(name) for name in spec.outputs]), labels, atol=1e-2)


@pytest.mark.parametrize(("bins", "sigma"), [(4, 0.75), (51, 0.0), (51, 9.0)])
def test_too_few_bins_are_refused(bins, sigma):
    with pytest.raises(ValueError, match=rf"^bins={bins} and sigma=.* leave no bin for the labels: 6 x sigma bins "):
        HLGaussHead(4, [0.0, 5.0], bins=bins, sigma=sigma)
