"""Options of the loss against torch, scikit-learn and Hinton et al.'s formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from tiny_kinds import kinds
from tiny_tasks import data_of
from torch.nn import functional as F

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.models.batch import TaskBatch
from bam_lightning.models.heads import ClassificationHead, MultiLabelHead, TaggingHead
from bam_lightning.training.distillation import balanced_head, example_losses

NAMES = ["a", "b", "c"]
LOGITS, TEACHER = torch.randn(8, 3), torch.randn(8, 3)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def part(labels=LABELS, **columns) -> TaskBatch:
    return TaskBatch(torch.arange(len(labels)), torch.arange(len(labels)), labels, **columns)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
def test_class_weights_and_label_smoothing_are_torchs(weights, smoothing):
    head = ClassificationHead(4, NAMES, class_weights=weights, label_smoothing=smoothing)
    expected = F.cross_entropy(
        LOGITS,
        (1 - smoothing) * F.one_hot(LABELS, 3).float() + smoothing / 3,
        None if weights is None else torch.tensor(weights),
        reduction="none",
    )
    torch.testing.assert_close(example_losses(head, LOGITS, part(), 1.0), expected)
    if weights is None:
        torch.testing.assert_close(
            expected, F.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing), atol=1e-6, rtol=0
        )
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}


def test_smoothing_leaves_the_teacher_as_it_is():
    head = ClassificationHead(4, NAMES, label_smoothing=0.3)
    found = example_losses(head, LOGITS, part(teacher=TEACHER), 0.0)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TEACHER.softmax(-1), reduction="none"))


def test_balanced_weights_are_scikit_learns():
    config = {"_target_": "bam_lightning.ClassificationHead", "label_names": NAMES, "class_weights": "balanced"}
    found = balanced_head(config, LABELS.numpy())["class_weights"]
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy()))
    assert balanced_head({**config, "class_weights": None}, LABELS.numpy())["class_weights"] is None


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_temperature_is_hintons(lam, temperature):
    """lam * CE(gold, z) + (1 - lam) * T^2 * CE(softmax(t / T), z / T); its gradient keeps its size."""
    found = example_losses(ClassificationHead(4, NAMES), LOGITS, part(teacher=TEACHER), lam, temperature)
    soft = F.cross_entropy(LOGITS / temperature, (TEACHER / temperature).softmax(-1), reduction="none")
    expected = lam * F.cross_entropy(LOGITS, LABELS, reduction="none") + (1 - lam) * temperature**2 * soft
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_temperature_acts_on_sigmoids_and_words_too():
    labels = torch.randint(0, 2, (8, 3))
    found = example_losses(MultiLabelHead(4, NAMES), LOGITS, part(labels, teacher=TEACHER), 0.25, 2.0)
    bce = lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(-1)  # noqa: E731
    expected = 0.25 * bce(LOGITS, labels.float()) + 0.75 * 4 * bce(LOGITS / 2, (TEACHER / 2).sigmoid())
    torch.testing.assert_close(found, expected)
    true = torch.ones(8, dtype=torch.bool)
    words = part(teacher=TEACHER, has_gold=true, has_teacher=true, offsets=torch.tensor([0, 3, 8]), cut=~true)
    found = example_losses(TaggingHead(4, NAMES), LOGITS, words._replace(row_ids=torch.arange(2)), 0.25, 2.0)
    each = example_losses(ClassificationHead(4, NAMES), LOGITS, part(teacher=TEACHER), 0.25, 2.0)
    torch.testing.assert_close(found, torch.stack([each[:3].mean(), each[3:].mean()]))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_words_with_gold_or_a_teacher_alone_count_alike_at_any_temperature(lam):
    gold, taught = torch.arange(8) % 3 == 0, torch.arange(8) % 2 == 0
    labels = torch.where(gold, LABELS, -1)
    options = {"has_gold": gold, "has_teacher": taught, "offsets": torch.tensor([0, 3, 8]), "cut": torch.zeros(8) > 0}
    words = part(labels, teacher=TEACHER, **options)._replace(row_ids=torch.arange(2))
    at_one, near = (example_losses(TaggingHead(4, NAMES), LOGITS, words, lam, t) for t in (1.0, 1 + 1e-5))
    torch.testing.assert_close(near, at_one, atol=1e-3, rtol=0)


def test_options_of_tasks_reach_the_loss(still_bert, tmp_path):
    tasks = kinds(names=("mood", "tags"), weight=2.5, temperature=3.0, head={"class_weights": "balanced"})
    data = bam.MultiTaskDataModule(tasks, still_bert, max_length=24, cache_dir=tmp_path)
    module = bam.BamModule(data)
    assert data.sampler_weights() == {"mood": 2.5, "tags": 2.5}
    assert module.temperatures == {"mood": 3.0, "tags": 3.0}
    tags = data.rows["tags"].train.labels.values
    weights = compute_class_weight("balanced", classes=np.arange(2), y=tags)
    assert module.head("tags").class_weights.tolist() == pytest.approx(weights, abs=1e-6)
    assert data_of(still_bert, tmp_path).sampler_weights() == {"mood": 1.0, "size": 1.0}


def test_options_of_yaml_reach_the_head():
    words = ["suite.tasks.sentiment.head.class_weights=balanced", "suite.tasks.sentiment.head.label_smoothing=0.1"]
    head = compose(words).suite.tasks["sentiment"].head.arguments()
    assert (head["class_weights"], head["label_smoothing"]) == ("balanced", 0.1)
    own = compose(["+suite.tasks.sentiment.head.options.gamma=2.0"]).suite.tasks["sentiment"].head.arguments()
    assert own["gamma"] == 2.0
    assert set(compose([]).suite.tasks["sentiment"].head.arguments()) == {
        "_target_", "label_names", "label_range", "dropout", "sigmoid"
    }  # fmt: skip
    for wrong in ("head.class_weights=[1,2,3]", "head.label_smoothing=1.5", "weight=0", "temperature=-1"):
        with pytest.raises(ConfigError, match=r"suite\.tasks\.sentiment\."):
            compose([f"suite.tasks.sentiment.{wrong}"])
    assert (
        compose(["suite.tasks.sentiment.metric=macro_f1"]).suite.tasks["sentiment"].kind_of_labels == "classification"
    )
    assert compose(["suite.tasks.similarity.metric=pearson"]).suite.tasks["similarity"].metric == "pearson"
