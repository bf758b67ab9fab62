"""Gold and teacher mixed as section 3.2 says."""

import re

import numpy as np
import pytest
import torch

from bam_lightning.training.distillation import ensemble_mean, mix_targets, row_lam


@pytest.mark.parametrize(("lam", "expected"), [(0.0, 0.6), (0.25, 0.7), (0.5, 0.8), (1.0, 1.0)])
def test_the_target_moves_from_teacher_to_gold(lam, expected):
    mixed = mix_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.4]]), lam)
    torch.testing.assert_close(mixed, torch.tensor([[expected, 1 - expected]]))


@pytest.mark.parametrize(("lam", "expected"), [(0.0, 0.5), (0.25, 0.4375), (1.0, 0.25)])
def test_regression_scores_are_mixed_in_the_same_way(lam, expected):
    mixed = mix_targets(torch.tensor([[0.25]]), torch.tensor([[0.5]]), lam)
    assert mixed.tolist() == [[expected]]  # sums of powers of two: exact


@pytest.mark.parametrize("seed", range(20))
def test_the_mix_is_numpys_weighted_average_and_stays_a_distribution(seed):
    rng = np.random.default_rng(seed)
    gold = np.eye(3)[rng.integers(0, 3, 8)]
    teacher = rng.dirichlet(np.ones(3), 8)
    lam = float(rng.random())
    mixed = mix_targets(torch.tensor(gold), torch.tensor(teacher), lam).numpy()
    np.testing.assert_allclose(mixed, np.average([gold, teacher], axis=0, weights=[lam, 1 - lam]), atol=1e-12)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-12)


def test_the_share_of_gold_never_falls_while_lam_rises():
    gold, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.9, 0.1]])
    shares = [float(mix_targets(gold, teacher, lam)[0, 1]) for lam in torch.linspace(0, 1, 101).tolist()]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (pytest.approx(0.1, abs=1e-7), 1.0)


def test_the_ends_are_exactly_teacher_and_gold():
    gold, teacher = torch.tensor([[1.0, 0.0]]), torch.softmax(torch.tensor([[0.3, 1.7]]), dim=-1)
    assert torch.equal(mix_targets(gold, teacher, 0.0), teacher)
    assert torch.equal(mix_targets(gold, teacher, 1.0), gold)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_without_a_teacher_the_target_is_gold_whatever_lam(lam):
    gold = torch.tensor([[1.0, 0.0]])
    assert torch.equal(mix_targets(gold, None, lam), gold)


@pytest.mark.parametrize("with_teacher", [True, False])
@pytest.mark.parametrize("lam", [1.5, -0.25, float("nan")])
def test_lam_out_of_range_names_the_value(lam, with_teacher):
    gold = torch.ones(1, 1)
    with pytest.raises(ValueError, match=rf"^lam must be in \[0, 1\], got {re.escape(str(lam))}$"):
        mix_targets(gold, gold if with_teacher else None, lam)


def test_shapes_that_would_broadcast_are_refused():
    message = "^gold and teacher must have one shape, got [4, 2] and [4, 1]$"
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        mix_targets(torch.ones(4, 2), torch.ones(4, 1), 0.5)


def test_an_ensembles_prediction_is_the_mean_of_its_members():
    members = torch.tensor([[[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(ensemble_mean(members), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    assert torch.equal(ensemble_mean(members[:, 0]), members[:, 0])
    assert torch.equal(ensemble_mean(members[:, :1]), members[:, 0])  # an ensemble of one is its member, bit for bit


def test_rows_without_teacher_learn_from_gold_alone_and_rows_without_gold_from_the_teacher():
    gold = torch.tensor([[1.0, 0.0]] * 4)
    teacher = torch.tensor([[0.2, 0.8]] * 4)
    has_gold, has_teacher = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True])
    mixed = mix_targets(gold, teacher, row_lam(0.5, has_gold, has_teacher))
    torch.testing.assert_close(mixed[:, 0], torch.tensor([0.6, 1.0, 0.2, 0.2]))
    assert row_lam(0.5, None, None) == 0.5
    assert row_lam(1.0, has_gold, None).tolist() == [[1.0], [1.0], [0.0], [0.0]]  # at every lam
