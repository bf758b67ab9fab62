"""A loss and metrics of one's own by ``_target_``, in Python and in a recipe."""

from __future__ import annotations

import sys

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import f1_score
from tiny_kinds import kinds
from tiny_tasks import QUIET
from torch.nn import functional as F

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError, TrainingError
from bam_lightning.models.batch import TaskBatch
from bam_lightning.models.heads import build_head
from bam_lightning.training.distillation import example_losses

NAMES = ["a", "b", "c"]
LOGITS, TEACHER, LABELS = torch.randn(8, 3), torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
MACRO = {"_target_": "torchmetrics.classification.MulticlassF1Score", "num_classes": 2, "average": "macro"}
AREA = {"_target_": "torchmetrics.classification.BinaryAUROC", "name": "area", "input": "positive"}
CROSS = {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "none"}


def part(labels, **columns) -> TaskBatch:
    return TaskBatch(torch.arange(len(labels)), torch.arange(len(labels)), labels, **columns)


def head_of(kind: str, loss: dict, **options):
    names = {} if kind == "RegressionHead" else {"label_names": NAMES}
    return build_head("head", 4, {"_target_": f"bam_lightning.{kind}", "loss": loss, **names, **options})


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_torchs_cross_entropy_is_the_heads_own_on_mixed_targets(lam):
    batch = part(LABELS, teacher=TEACHER)
    own = example_losses(head_of("ClassificationHead", CROSS), LOGITS, batch, lam)
    torch.testing.assert_close(own, example_losses(head_of("ClassificationHead", {}), LOGITS, batch, lam))
    mixed = lam * F.one_hot(LABELS, 3).float() + (1 - lam) * TEACHER.softmax(-1)
    torch.testing.assert_close(own, F.cross_entropy(LOGITS, mixed, reduction="none"))


def test_regression_and_label_sets_are_compared_in_the_target_space():
    huber = {"_target_": "torch.nn.HuberLoss", "reduction": "none", "delta": 0.1}
    head = head_of("RegressionHead", huber, label_range=[0.0, 4.0])
    logits, scores = torch.randn(6, 1), torch.tensor([0.0, 1, 2, 3, 4, 2])
    expected = F.huber_loss(logits.sigmoid()[:, 0], scores / 4, reduction="none", delta=0.1)
    torch.testing.assert_close(example_losses(head, logits, part(scores), 1.0), expected)
    sets = torch.randint(0, 2, (8, 3))
    binary = {"_target_": "torch.nn.BCEWithLogitsLoss", "reduction": "none"}
    own, usual = (example_losses(head_of("MultiLabelHead", loss), LOGITS, part(sets), 1.0) for loss in (binary, {}))
    torch.testing.assert_close(own, usual)


def test_a_loss_of_words_is_averaged_over_an_examples_words():
    offsets, cut = torch.tensor([0, 3, 8]), torch.zeros(8, dtype=torch.bool)
    batch = part(LABELS, offsets=offsets, cut=cut, has_gold=~cut)._replace(row_ids=torch.arange(2))
    own, usual = (example_losses(head_of("TaggingHead", loss), LOGITS, batch, 1.0) for loss in (CROSS, {}))
    assert own.shape == (2,)
    torch.testing.assert_close(own, usual)


def test_a_saved_head_has_no_loss():
    weighted = {"_target_": "torch.nn.BCEWithLogitsLoss", "reduction": "none"}
    assert set(head_of("MultiLabelHead", weighted).state_dict()) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    ("kind", "loss", "options", "message"),
    [
        ("SpanHead", CROSS, {}, "SpanHead computes a loss of its own"),
        ("ClassificationHead", {"_target_": "torch.nn.Bilinear", "in1_features": 1, "in2_features": 1,
                                "out_features": 1}, {}, "Bilinear has parameters"),
        ("ClassificationHead", {"_target_": "subprocess.Popen"}, {}, "is not a torch"),
        ("ClassificationHead", CROSS, {"class_weights": [1.0, 2, 3]}, "weight the classes in head.loss"),
        ("ClassificationHead", {**CROSS, "gama": 2}, {}, "head.loss.gama is not an option of torch.nn.Cross"),
    ],
)  # fmt: skip
def test_what_is_no_loss_is_refused(kind, loss, options, message):
    with pytest.raises(ConfigError, match=message):
        head_of(kind, loss, **options)


def test_a_loss_of_the_whole_minibatch_is_refused():
    head = head_of("ClassificationHead", {"_target_": "torch.nn.CrossEntropyLoss"})
    with pytest.raises(TrainingError, match=r"a value for each of 8 examples, got shape \[\].*reduction: none"):
        example_losses(head, LOGITS, part(LABELS), 1.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_metrics_are_logged_saved_and_evaluated(tiny_bert, tmp_path):
    tasks = kinds(names=("mood",), metric=MACRO, secondary_metrics=(AREA, "accuracy"), head={"loss": CROSS})
    data = bam.MultiTaskDataModule(tasks, tiny_bert, batch_size=16, max_length=32, cache_dir=tmp_path)
    module = bam.BamModule(data)
    trainer = pl.Trainer(**QUIET)
    trainer.fit(module, data)
    (found,) = trainer.validate(module, data, verbose=False)
    assert set(found) == {"val/mood/MulticlassF1Score", "val/mood/area", "val/mood/accuracy", "val/average"}
    assert found["val/average"] == found["val/mood/MulticlassF1Score"]
    model = bam.load(module.save_pretrained("model"))
    dev = data.rows["mood"].dev
    scores = model.evaluate(dev.texts[0], dev.labels, "mood")
    assert list(scores)[:2] == ["MulticlassF1Score", "area"]
    predicted = [["bad", "good"].index(row.label) for row in model.predict(dev.texts[0], "mood")]
    assert scores["MulticlassF1Score"] == pytest.approx(f1_score(dev.labels, predicted, average="macro"), abs=1e-6)
    assert scores["area"] == pytest.approx(found["val/mood/area"], abs=1e-6)


def test_a_saved_metric_from_elsewhere_is_not_run_unless_it_is_allowed(tiny_bert, tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text("import torchmetrics\nclass Mine(torchmetrics.F1Score): pass\n")
    (tmp_path / "own_scores.py").write_text(
        "from torchmetrics.classification import BinaryAccuracy\nclass Mine(BinaryAccuracy): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = kinds(names=("mood",), metric={"_target_": "own_scores.Mine"})
    data = bam.MultiTaskDataModule(tasks, tiny_bert, batch_size=16, max_length=32, cache_dir=tmp_path)
    folder = bam.BamModule(data).save_pretrained("model")
    sys.modules.pop("own_scores")
    with pytest.raises(ConfigError, match=r"scored by 'own_scores.Mine', .* allow it with --head own_scores.Mine"):
        bam.load(folder)
    assert "own_scores" not in sys.modules
    assert list(bam.load(folder, heads=["own_scores.Mine"]).evaluate(["a cat"], ["good"], "mood")) == ["Mine"]
    sys.modules.pop("own_scores")


@pytest.mark.release
def test_a_recipe_teaches_and_scores_by_them(tiny_job, tmp_path):
    form = "{" + ", ".join(f"{key}: {value}" for key, value in MACRO.items()) + "}"
    words = [
        *tiny_job,
        f"suite.tasks.rte.metric={form}",
        "suite.tasks.rte.secondary_metrics=[accuracy]",
        f"+suite.tasks.rte.head.loss={{_target_: {CROSS['_target_']}, reduction: none}}",
    ]
    results = bam.run_recipe(compose(words), tmp_path / "out")
    teacher, student = results["runs"][1], results["runs"][-1]
    assert list(teacher["metrics"]) == ["rte"]
    assert list(student["metrics"]["rte"])[:2] == ["MulticlassF1Score", "accuracy"]
    scores = [student["metrics"][task][name] for task, name in (("rte", "MulticlassF1Score"), ("stsb", "spearman"))]
    assert results["average"]["student"] == pytest.approx(sum(scores) / 2)
    model = bam.load(student["id"], store=tmp_path / "store")
    assert model.info.tasks["rte"].scores == student["metrics"]["rte"]
    plain = bam.run_recipe(compose([*tiny_job]), tmp_path / "plain")
    assert teacher["id"] != plain["runs"][1]["id"]
    assert teacher["metrics"]["rte"]["accuracy"] == plain["runs"][1]["metrics"]["rte"]["accuracy"]  # the same loss
