"""Heads: output spaces, losses and predictions (section 3.1), initial weights (the reference code)."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from bam_lightning.models.heads import ClassificationHead, MultiLabelHead, OrdinalHead, RegressionHead

NAMES = ["entailment", "neutral", "contradiction"]
GRADES = ["poor", "fair", "good", "best"]


def random_distributions(seed, count=6, classes=3):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(classes), count)).float()


def test_classification_encodes_class_ids_as_one_hot_rows():
    encoded = ClassificationHead(4, NAMES).encode_labels(torch.tensor([2, 0]))
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert encoded.dtype == torch.float32


def test_a_class_that_no_example_has_still_gets_its_column():
    assert ClassificationHead(4, NAMES).encode_labels(torch.tensor([0, 0])).shape == (2, 3)


def test_classification_outputs_are_scipys_softmax():
    logits = torch.randn(5, 3)
    found = ClassificationHead(4, NAMES).to_target_space(logits).numpy()
    np.testing.assert_allclose(found, special.softmax(logits.numpy().astype(np.float64), axis=-1), atol=1e-6)


def test_classification_predicts_the_likeliest_class():
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 2.0, 1.0]])
    assert ClassificationHead(4, NAMES).decode(logits).tolist() == [1, 0]


def test_cross_entropy_by_hand():
    """Odds 3 to 1, so p = (3/4, 1/4); against (1/2, 1/2): -(ln 3/4 + ln 1/4) / 2; against class 0: -ln 3/4."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 2)
    loss = ClassificationHead(4, ["no", "yes"]).loss(logits, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    expected = torch.tensor([-(math.log(0.75) + math.log(0.25)) / 2, -math.log(0.75)])
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(20))
def test_soft_cross_entropy_is_the_teachers_entropy_above_the_divergence(seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 3))).float()
    target = random_distributions(seed)
    student = special.softmax(logits.numpy().astype(np.float64), axis=-1)
    wanted = target.numpy().astype(np.float64)
    expected = special.rel_entr(wanted, student).sum(axis=-1) + special.entr(wanted).sum(axis=-1)
    np.testing.assert_allclose(ClassificationHead(4, NAMES).loss(logits, target), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_gradient_of_the_mixed_target_is_that_of_cross_entropy_and_divergence_mixed(seed):
    """the reference code: the gradient equals lam * CE + (1 - lam) * KL(teacher || student)."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 3))).float().requires_grad_()
    teacher, lam = random_distributions(seed), np.random.default_rng(seed).random()
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, 6))
    head = ClassificationHead(4, NAMES)
    target = lam * head.encode_labels(labels) + (1 - lam) * teacher
    (ours,) = torch.autograd.grad(head.loss(logits, target).sum(), logits)
    hard = torch.nn.CrossEntropyLoss(reduction="sum")(logits, labels)
    soft = torch.nn.KLDivLoss(reduction="sum")(logits.log_softmax(-1), teacher)
    (theirs,) = torch.autograd.grad(lam * hard + (1 - lam) * soft, logits)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_regression_labels_become_shares_of_their_range_and_come_back():
    head = RegressionHead(4, [1.0, 5.0], sigmoid=False)
    encoded = head.encode_labels(torch.tensor([1.0, 2.0, 5.0]))
    assert encoded.tolist() == [[0], [0.25], [1]]
    assert head.decode(encoded).tolist() == [1, 2, 5]


def test_sts_scores_are_divided_by_five():
    assert RegressionHead(4, [0.0, 5.0]).encode_labels(torch.tensor([0.0, 2.5, 5.0])).tolist() == [[0], [0.5], [1]]


def test_sigmoid_outputs_are_scipys_and_predictions_are_in_label_units():
    head, logits = RegressionHead(4, [0.0, 5.0]), torch.tensor([[-1.0], [0.0], [2.0]])
    np.testing.assert_allclose(head.to_target_space(logits), special.expit(logits.numpy()), atol=1e-6)
    np.testing.assert_allclose(head.decode(logits), 5 * special.expit([-1.0, 0.0, 2.0]), atol=1e-6)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_spearman_of_predictions_is_that_of_the_logits(sigmoid):
    rng = np.random.default_rng(0)
    logits, gold = torch.from_numpy(rng.normal(size=(200, 1))).float(), rng.random(200)
    predictions = RegressionHead(4, [0.0, 5.0], sigmoid=sigmoid).decode(logits)
    before = stats.spearmanr(logits[:, 0], gold).statistic
    assert stats.spearmanr(predictions, gold).statistic == pytest.approx(before, abs=1e-12)


def test_spearman_of_gold_is_unchanged_by_encoding():
    gold = torch.from_numpy(np.random.default_rng(0).integers(0, 26, 200) / 5)  # steps of 0.2, many ties
    encoded = RegressionHead(4, [0.0, 5.0]).encode_labels(gold)[:, 0]
    assert stats.spearmanr(encoded, gold).statistic == pytest.approx(1.0, abs=1e-12)


def test_a_linear_output_is_neither_squashed_nor_clipped():
    head, logits = RegressionHead(4, [0.0, 5.0], sigmoid=False), torch.tensor([[-0.5], [1.5]])
    assert head.to_target_space(logits).tolist() == [[-0.5], [1.5]]
    assert head.decode(logits).tolist() == [-2.5, 7.5]
    assert head.loss(logits, torch.tensor([[0.5], [1.0]])).tolist() == [1.0, 0.25]


def test_regression_loss_is_the_squared_distance_in_the_unit_range():
    """Logit 0 is 1/2 after the sigmoid: (1/2 - 1)^2 and (1/2 - 1/4)^2, one loss per example."""
    loss = RegressionHead(4, [0.0, 5.0]).loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.25]]))
    assert loss.tolist() == [0.25, 0.0625]


@pytest.mark.parametrize("seed", range(5))
def test_gradient_of_a_mixed_score_is_that_of_both_distances_mixed(seed):
    """the reference code: the same gradient as lam (p - y)^2 + (1 - lam) (p - t)^2."""
    rng = np.random.default_rng(seed)
    prediction, gold, teacher = (torch.from_numpy(rng.random((4, 1))).float() for _ in range(3))
    lam = float(rng.random())
    prediction.requires_grad_()
    head = RegressionHead(4, [0.0, 1.0], sigmoid=False)
    (ours,) = torch.autograd.grad(head.loss(prediction, lam * gold + (1 - lam) * teacher).sum(), prediction)
    both = lam * (prediction - gold) ** 2 + (1 - lam) * (prediction - teacher) ** 2
    (theirs,) = torch.autograd.grad(both.sum(), prediction)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("width", "sd"), [(1024, 0.044), (768, 0.051)])
def test_weights_are_glorot_uniform_and_the_bias_zero(width, sd):
    """the reference code: for 1024 -> 2, U(+-0.0765), sd 0.044; for 768 -> 2, sd 0.051."""
    linear = ClassificationHead(width, ["no", "yes"]).linear
    bound = math.sqrt(6 / (width + 2))
    weights = linear.weight.detach()
    assert weights.abs().max() <= bound
    assert weights.abs().max() > 0.98 * bound  # 1536 draws or more: a smaller bound would show
    assert float(weights.std()) == pytest.approx(sd, rel=0.05)  # two decimals, 1536 draws
    assert linear.bias.tolist() == [0, 0]


def test_regression_has_one_output_with_zero_bias():
    linear = RegressionHead(8, [0.0, 5.0]).linear
    assert linear.weight.shape == (1, 8)
    assert linear.bias.tolist() == [0]


def test_logits_are_weights_times_vector_plus_bias():
    head = ClassificationHead(2, ["no", "yes"]).eval()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        head.linear.bias.copy_(torch.tensor([0.5, -0.5]))
    assert head(torch.tensor([[1.0, 10.0]])).tolist() == [[21.5, 42.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_full_precision_under_bfloat16_autocast(dtype):
    head, pooled = ClassificationHead(64, NAMES).eval(), torch.randn(4, 64).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(pooled)
    assert mixed.dtype == torch.float32
    weight = head.linear.weight.detach().double()
    torch.testing.assert_close(mixed.double(), pooled.double() @ weight.T, atol=1e-6, rtol=0)


def test_dropout_of_a_tenth_works_in_training_and_rests_in_evaluation():
    head = ClassificationHead(1000, ["no", "yes"])
    pooled = torch.ones(1, 1000)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
    assert abs(float(head(pooled)[0, 0].detach()) - 1000) > 1e-3
    zeros = int((head.dropout(pooled) == 0).sum())
    assert zeros == pytest.approx(100, abs=48)  # 5 standard deviations of 9.5
    assert float(head.eval()(pooled)[0, 0].detach()) == pytest.approx(1000)


def test_each_label_name_has_its_probability_and_a_score_has_none():
    found = ClassificationHead(4, ["no", "yes"]).probabilities(torch.tensor([[math.log(3.0), 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]]), atol=1e-6, rtol=0)
    assert RegressionHead(4, [0.0, 5.0]).probabilities(torch.zeros(2, 1)).shape == (2, 0)


def test_many_labels_are_their_own_targets_and_predicted_one_by_one():
    head, labels = MultiLabelHead(4, NAMES), torch.tensor([[1, 0, 1], [0, 0, 0]])
    encoded = head.encode_labels(labels)
    assert (encoded.tolist(), encoded.dtype) == ([[1, 0, 1], [0, 0, 0]], torch.float32)
    predicted = head.decode(torch.tensor([[0.1, -2.0, 3.0], [-1.0, 0.0, -0.1]]))  # 0 is even odds: not more likely
    assert (predicted.tolist(), predicted.dtype) == (labels.tolist(), torch.int64)
    assert head.linear.weight.shape == (3, 4)


def test_probabilities_of_many_labels_are_scipys_sigmoids():
    logits = torch.randn(5, 3)
    np.testing.assert_allclose(MultiLabelHead(4, NAMES).probabilities(logits), special.expit(logits.numpy()), atol=1e-6)


def test_grades_are_the_thresholds_below_them_and_come_back():
    head = OrdinalHead(4, GRADES)
    encoded = head.encode_labels(torch.tensor([0, 1, 2, 3]))
    assert (encoded.tolist(), encoded.dtype) == ([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], torch.float32)
    assert head.decode(encoded - 0.5).tolist() == [0, 1, 2, 3]
    assert head.linear.weight.shape == (3, 4)


def test_probabilities_of_grades_by_hand():
    """P(class > 0, 1, 2) = 0.9, 0.6, 0.2, so the classes have 0.1, 0.3, 0.4, 0.2; in any order of the outputs."""
    falling = torch.logit(torch.tensor([[0.9, 0.6, 0.2], [0.6, 0.2, 0.9]]))
    found = OrdinalHead(4, GRADES).probabilities(falling)
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.3, 0.4, 0.2]] * 2), atol=1e-6, rtol=0)
    assert OrdinalHead(4, GRADES).decode(falling).tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_probabilities_of_grades_are_a_distribution_whose_median_is_predicted(seed):
    """Whether the outputs fall from threshold to threshold, or rise, or neither."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(50, 4)) * 3).float()
    head = OrdinalHead(4, [*GRADES, "perfect"])
    found, predicted = head.probabilities(logits).double(), head.decode(logits)
    assert found.shape == (50, 5)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(50).double(), atol=1e-6, rtol=0)
    upto, own = (values[torch.arange(50), predicted] for values in (found.cumsum(dim=-1), found))
    assert ((upto > 0.5 - 1e-6) & (upto - own < 0.5 + 1e-6)).all()


@pytest.mark.parametrize("head", [MultiLabelHead(4, NAMES), OrdinalHead(4, GRADES)])
def test_loss_of_sigmoids_is_the_mean_of_binary_cross_entropies(head):
    """Odds 3 to 1 thrice: -ln 3/4, -ln 1/4 and, against 1/2, their mean; undecided it is ln 2, however many."""
    loss = head.loss(torch.full((1, 3), math.log(3.0)), torch.tensor([[1.0, 0.0, 0.5]]))
    assert loss.tolist() == pytest.approx([-(math.log(0.75) + math.log(0.25)) / 2], abs=1e-6)
    assert head.loss(torch.zeros(2, 3), torch.rand(2, 3)).tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_gradient_of_mixed_sigmoids_is_that_of_cross_entropy_and_divergence_mixed(seed):
    """The identity of softmax holds for each of K sigmoids: lam * CE + (1 - lam) * KL(teacher || student)."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(6, 3))).float().requires_grad_()
    teacher, lam = torch.from_numpy(rng.random((6, 3))).float(), float(rng.random())
    labels = torch.from_numpy(rng.integers(0, 4, 6))
    head = OrdinalHead(4, GRADES)
    (ours,) = torch.autograd.grad(
        head.loss(logits, lam * head.encode_labels(labels) + (1 - lam) * teacher).sum(), logits
    )
    hard = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, head.encode_labels(labels))
    bernoulli = torch.distributions.Bernoulli
    soft = torch.distributions.kl_divergence(bernoulli(teacher), bernoulli(logits=logits)).sum()
    (theirs,) = torch.autograd.grad((lam * hard + (1 - lam) * soft) / 3, logits)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
