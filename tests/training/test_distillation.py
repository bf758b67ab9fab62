"""Gold and teacher mixed as section 3.2 says."""

import re

import numpy as np
import pytest
import torch
from tiny_tasks import data_of, fit, module_of, weights

import bam_lightning as bam
from bam_lightning.models.batch import TaskBatch
from bam_lightning.models.heads import (
    ClassificationHead,
    HLGaussHead,
    MultiLabelHead,
    OrdinalHead,
    RegressionHead,
    SpanHead,
    TaggingHead,
)
from bam_lightning.training.distillation import ensemble_mean, example_losses, mix_targets, row_lam, trusted_lam


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


NAMES = ["low", "mid", "high"]
OFFSETS = torch.tensor([0, 2, 3])  # an example of two words, and one of one


@pytest.mark.parametrize(
    ("head", "gold", "teacher", "expected"),
    [
        (ClassificationHead(4, NAMES), [[0, 1, 0]] * 2, [[0.2, 0.7, 0.1], [1, 0, 0]], [0.7, 0.0]),
        (ClassificationHead(4, NAMES), [[0.5, 0.5, 0]], [[0.7, 0.3, 0]], [0.8]),  # annotators who differ
        (MultiLabelHead(4, NAMES), [[1, 0, 0]], [[0.9, 0.2, 0.4]], [0.7666667]),
        (OrdinalHead(4, NAMES), [[1, 0]] * 2, [[1, 0], [0, 0]], [1.0, 0.5]),
        (RegressionHead(4, [0, 5]), [[0.5]] * 3, [[0.5], [0.6], [0.9]], [1.0, 0.88, 0.0]),
        (RegressionHead(4, [0, 5], sigmoid=False), [[0.5]], [[3.0]], [0.0]),
    ],
)
def test_a_teacher_agrees_by_the_probability_of_the_truth_or_by_the_distance_of_scores(head, gold, teacher, expected):
    found = head.agreement(torch.tensor(gold).float(), torch.tensor(teacher).float())
    assert found.shape == (len(gold), 1)
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_bins_agree_by_the_distance_of_their_means():
    head, plain = HLGaussHead(4, [1, 7]), RegressionHead(4, [1, 7])
    scores = torch.tensor([1.0, 3.0, 4.0, 7.0])
    moved = scores + torch.tensor([0.0, 0.3, -0.6, -5.0])
    expected = plain.agreement(plain.encode_labels(scores), plain.encode_labels(moved))
    found = head.agreement(head.encode_labels(scores), head.encode_labels(moved))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_words_agree_each_by_itself_and_an_answer_as_a_whole():
    gold = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # the first answer has two words, the second one
    teacher = torch.tensor([[0.5, 0.1], [0.5, 0.9], [1.0, 1.0]])
    torch.testing.assert_close(SpanHead(4).agreement(gold, teacher, OFFSETS), torch.tensor([[0.7], [0.7], [1.0]]))
    tags = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # the second word has no tag
    found = TaggingHead(4, ["O", "X"]).agreement(tags, teacher, OFFSETS)
    torch.testing.assert_close(found, torch.tensor([[0.5], [0.0], [1.0]]))


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_gold_gets_what_a_teacher_who_disagrees_loses(lam):
    found = trusted_lam(lam, torch.tensor([[1.0], [0.5], [0.0]]), torch.tensor([True, True, False]))
    expected = [lam, 1 - (1 - lam) / 2, lam]  # a row without gold keeps its teacher
    assert found[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_of_a_row_whose_teacher_is_wrong_is_that_of_gold(temperature):
    """At any temperature trust is that of the teacher's own probabilities, not of softened ones."""
    head = ClassificationHead(4, NAMES)
    logits = torch.tensor([[1.0, 0.5, -1.0], [1.0, 0.5, -1.0]], requires_grad=True)
    teacher = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]])  # the first is right
    part = TaskBatch(torch.arange(2), torch.arange(2), labels=torch.tensor([0, 0]), teacher=teacher)
    losses = {
        trust: example_losses(head, logits, part, 0.25, temperature, trust_agreement=trust) for trust in (False, True)
    }
    gold = head.loss(logits, head.encode_labels(part.labels))
    assert losses[True][0] == losses[False][0]
    torch.testing.assert_close(losses[True][1], gold[1])
    assert losses[False][1] != gold[1]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_a_fit_with_teachers_that_are_always_wrong_is_one_without_teachers(still_bert, tmp_path):
    """And one with teachers that are always right does not need trust."""
    plain = data_of(still_bert, tmp_path, taught=False)
    right = 60 * torch.nn.functional.one_hot(torch.tensor(plain.rows["mood"].train.labels), 2).float().numpy()
    distant = np.where(plain.rows["size"].train.labels > 6, -60.0, 60.0).astype(np.float32)[:, None]
    found = {}
    for name, mood, size in (("right", right, None), ("wrong", right[:, ::-1].copy(), distant)):
        data = data_of(still_bert, tmp_path, taught=False)
        data.teach("mood", mood)
        if size is not None:
            data.teach("size", size)
        for trust in (False, True):
            module = module_of(data, annealing=bam.ConstantAnnealing(0.25), trust_agreement=trust)
            found[name, trust] = weights(fit(data, module)[1])
            assert module.hparams["trust_agreement"] is trust
    torch.testing.assert_close(found["wrong", True], weights(fit(plain)[1]))
    torch.testing.assert_close(found["right", True], found["right", False])
    assert float((found["wrong", False] - found["wrong", True]).abs().max()) > 1e-3
