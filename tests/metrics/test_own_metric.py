"""Metrics by ``_target_``: torchmetrics' classes give their own values wherever a name of ours is taken."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from bam_lightning.config.data_config import HeadConfig, TaskConfig
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.metrics.own_metric import build_metric, own_majority, own_score
from bam_lightning.metrics.scores import points, scores
from bam_lightning.metrics.torch_metrics import TaskMetric

NAMES = ["a", "b", "c"]
MACRO = {"_target_": "torchmetrics.classification.MulticlassF1Score", "num_classes": 3, "average": "macro"}
AREA = {"_target_": "torchmetrics.classification.BinaryAUROC", "name": "area", "input": "positive"}
CALIBRATION = {
    "_target_": "torchmetrics.classification.MulticlassCalibrationError",
    "num_classes": 3,
    "input": "probabilities",
}
ERROR = {"_target_": "torchmetrics.MeanAbsoluteError"}


def test_classes_in_batches_are_scikit_learns_macro_f1():
    rng = np.random.default_rng(0)
    gold, predictions = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    expected = sklearn.f1_score(gold, predictions, average="macro")
    metric = TaskMetric(MACRO, 3, NAMES)
    for start in range(0, 200, 30):
        metric.update(*(torch.from_numpy(part[start : start + 30]) for part in (predictions, gold)))
    assert metric.metric_name == "MulticlassF1Score"
    assert metric.compute() == pytest.approx(expected, abs=1e-6)
    assert scores(predictions, gold, MACRO) == {"MulticlassF1Score": pytest.approx(expected, abs=1e-6)}
    assert points(predictions, gold, MACRO) == pytest.approx(100 * expected, abs=1e-4)


def test_probabilities_are_ranked_as_scikit_learn_ranks_them():
    rng = np.random.default_rng(1)
    gold, chances = rng.integers(0, 2, 300), rng.random(300).astype(np.float32)
    assert own_score(AREA, chances, gold) == pytest.approx(sklearn.roc_auc_score(gold, chances), abs=1e-6)
    metric = TaskMetric(AREA, 2)
    metric.update(torch.from_numpy(chances), torch.from_numpy(gold))
    assert (metric.metric_name, metric.compute()) == ("area", pytest.approx(sklearn.roc_auc_score(gold, chances)))


def test_one_answer_for_all_rows():
    gold = np.array([0, 0, 0, 1, 2, 0])
    constant = np.zeros(6, dtype=np.int64)
    assert own_majority(MACRO, gold, 3) == pytest.approx(sklearn.f1_score(gold, constant, average="macro"))
    assert own_majority(AREA, gold > 0, 2) == 0.5
    assert own_majority(CALIBRATION, gold, 3) == pytest.approx(0, abs=1e-6)  # 2 of 3 are class 0, and it says so
    values = np.array([1.0, 2.0, 6.0], np.float32)
    assert own_majority(ERROR, values, 0) == pytest.approx(2)
    sets = np.array([[1, 0], [1, 1], [1, 0]])
    exact = {"_target_": "torchmetrics.classification.MultilabelExactMatch", "num_labels": 2}
    assert own_majority(exact, sets, 2) == pytest.approx(2 / 3)
    assert own_majority({"_target_": "torchmetrics.PearsonCorrCoef"}, values, 0) == 0.0


def test_a_metric_that_computes_several_numbers_or_cannot_compare_is_refused():
    labels = np.array([0, 1, 2])
    with pytest.raises(ConfigError, match=r"must compute one number, got \[3\]; give it an average"):
        own_score({**MACRO, "average": None}, labels, labels)
    with pytest.raises(ConfigError, match=r"F1Score cannot compare predictions \[3\] with gold \[3\]"):
        own_score({**MACRO, "num_classes": 2}, labels, labels)


def test_a_metric_is_built_in_its_slot_alone():
    with pytest.raises(ConfigError, match="not a torchmetrics"):
        build_metric("suite.tasks.t.metric", {"_target_": "subprocess.Popen", "args": ["true"]})
    with pytest.raises(ConfigError, match="has an argument with _target_"):
        build_metric("m", {**MACRO, "num_classes": {"_target_": "builtins.int"}})
    with pytest.raises(ConfigError, match=r"lower for better predictions.*secondary_metrics"):
        build_metric("m", ERROR, headline=True)
    assert build_metric("m", ERROR).higher_is_better is False


@pytest.mark.parametrize(
    ("metric", "head", "message"),
    [
        ({"average": "macro"}, "ClassificationHead", r"metric must be a name, or a mapping such as \{_target_"),
        ("acuracy", "ClassificationHead", "did you mean 'accuracy'"),
        (AREA, "ClassificationHead", "input=positive is for two classes, but the task has 3"),
        (
            {**MACRO, "input": "logits"},
            "ClassificationHead",
            "input names 'logits'; choices: labels, probabilities, positive",
        ),
        ({**MACRO, "name": "accuracy"}, "ClassificationHead", "as one of the library's own"),
        (MACRO, "TaggingHead", "which a tagging task does not have; use span_f1, tag_accuracy"),
    ],
)
def test_what_does_not_fit_a_task_is_refused(metric, head, message):
    config = TaskConfig("p", text=["a"], metric=metric, head=HeadConfig(f"bam_lightning.{head}", NAMES))
    with pytest.raises(ConfigError, match=message):
        config.check("suite.tasks.t")


def test_two_metrics_of_one_name_are_refused():
    head = HeadConfig("bam_lightning.ClassificationHead", NAMES)
    config = TaskConfig("p", text=["a"], metric=MACRO, secondary_metrics=["accuracy", {**MACRO}], head=head)
    with pytest.raises(ConfigError, match="named alike"):
        config.check("suite.tasks.t")
    config.secondary_metrics[1] = {**MACRO, "name": "again"}
    config.check("suite.tasks.t")
    assert (config.metric_name, len(config.metrics)) == ("MulticlassF1Score", 3)
