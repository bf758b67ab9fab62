"""Dropout on the CPU has torch's distribution."""

from __future__ import annotations

import pytest
import torch

from bam_lightning.models import kernels
from bam_lightning.models.kernels.dropout import Dropout, dropout, dropout_mask


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_share_kept_is_one_minus_p(p):
    count = 1_000_003  # not a multiple of the four elements that share a draw
    kept = dropout_mask((count,), p)
    assert kept.shape == (count,)
    assert kept.unique().tolist() == [0, 1]
    sigma = (p * (1 - p) / count) ** 0.5
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * sigma + 2**-17  # p is rounded to 1 / 65,536


def test_the_four_elements_of_a_draw_are_independent():
    lanes = dropout_mask((1000, 400), 0.5).view(-1, 4).double()
    correlation = torch.corrcoef(lanes.T) - torch.eye(4, dtype=torch.double)
    assert correlation.abs().max() < 4 / 100_000**0.5


def test_the_mean_is_kept_and_dropped_elements_are_zero():
    values = torch.ones(200_000)
    mixed = dropout(values, 0.1)
    assert mixed.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert abs(mixed.mean().item() - 1) < 4 * (0.1 / 0.9 / 200_000) ** 0.5


def test_the_same_seed_drops_the_same_elements_and_the_gradient_follows():
    values = torch.randn(1000, requires_grad=True)
    torch.manual_seed(3)
    one = dropout(values, 0.3)
    torch.manual_seed(3)
    assert one.equal(dropout(values, 0.3))
    one.sum().backward()
    assert values.grad.equal(torch.where(one == 0, 0.0, 1 / (1 - 0.3)))


def test_nothing_is_dropped_in_eval_mode():
    values = torch.randn(100)
    assert Dropout(0.5).eval()(values).equal(values)
    assert not Dropout(0.5).train()(values).equal(values)


@pytest.fixture
def no_kernels():
    kernels.enable(False)
    yield
    kernels.enable(True)


def test_without_kernels_the_draws_are_torchs(no_kernels):
    torch.manual_seed(1)
    expected = torch.nn.functional.dropout(torch.ones(1000), 0.3)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.3)(torch.ones(1000)), expected)
    assert abs(dropout_mask((1000, 100), 0.3).double().mean().item() - 0.7) < 4 * (0.21 / 100_000) ** 0.5
