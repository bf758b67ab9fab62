"""TaskMetric against SciPy and scikit-learn, in batches, with empty batches and over two ranks."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn
from torch import multiprocessing

from bam_lightning.metrics.scores import METRICS, WORD_METRICS
from bam_lightning.metrics.torch_metrics import TaskMetric

REFERENCES = {
    "accuracy": sklearn.accuracy_score,
    "f1": sklearn.f1_score,
    "matthews": sklearn.matthews_corrcoef,
    "quadratic_kappa": lambda gold, predictions: sklearn.cohen_kappa_score(gold, predictions, weights="quadratic"),
    "spearman": lambda gold, predictions: stats.spearmanr(gold, predictions).statistic,
    "pearson": lambda gold, predictions: stats.pearsonr(gold, predictions).statistic,
    "micro_f1": lambda gold, predictions: sklearn.f1_score(gold, predictions, average="micro", zero_division=0),
    "macro_f1": lambda gold, predictions: sklearn.f1_score(gold, predictions, average="macro", zero_division=0),
    "exact_match": sklearn.accuracy_score,
}
VALUES, LABEL_SETS = ("spearman", "pearson"), ("micro_f1", "macro_f1", "exact_match")


def draw(name: str, kind: str, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and gold labels of ``rows`` rows; values are float32, as a head gives them."""
    rng = np.random.default_rng(seed)
    shape = (rows, 4) if name in LABEL_SETS else (rows,)
    gold = rng.integers(0, 2, shape)
    predictions = np.where(rng.random(shape) < 0.7, gold, rng.integers(0, 2, shape))
    if name in VALUES:
        gold = rng.integers(0, 26, rows) / 5
        predictions = gold + rng.normal(size=rows) * 2
        predictions = np.round(predictions) if kind == "tied" else predictions
        gold, predictions = gold.astype(np.float32), predictions.astype(np.float32)
    if kind == "constant":
        predictions = np.ones_like(predictions)
    return predictions, gold


def reference(name: str, predictions: np.ndarray, gold: np.ndarray) -> float:
    """Return the library's score, with its NaN for a constant as 0."""
    if name in VALUES:
        predictions, gold = predictions.astype(np.float64), gold.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant input
        expected = float(REFERENCES[name](gold, predictions))
    return 0.0 if math.isnan(expected) else expected


def score(name: str, predictions: np.ndarray, gold: np.ndarray, batch: int) -> float:
    metric = TaskMetric(name, n_classes=None if name in VALUES else 2)
    for start in range(0, len(gold), batch):
        metric.update(torch.tensor(predictions[start : start + batch]), torch.tensor(gold[start : start + batch]))
    return metric.compute()


def test_references_cover_all_metrics():
    others = {"span_precision", "span_recall", *WORD_METRICS}  # of words: test_words has their references
    assert set(REFERENCES) | others == set(METRICS)


@pytest.mark.parametrize("kind", ["random", "tied", "constant"])
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_metric_equals_the_reference(name, kind):
    for seed in range(5):
        predictions, gold = draw(name, kind, rows=201, seed=seed)
        expected = reference(name, predictions, gold)
        value = score(name, predictions, gold, batch=32)
        assert type(value) is float
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_metric_equals_the_reference_on_390_000_tied_rows(name):
    """torchmetrics' Spearman gives 0.0031 on such rows where SciPy gives -0.0008."""
    predictions, gold = draw(name, "tied", rows=390_000)
    expected = reference(name, predictions, gold)
    assert abs(expected) > 0.1
    assert score(name, predictions, gold, batch=65_536) == pytest.approx(expected, abs=1e-6)


def test_metric_of_bfloat16_values_ranks_them():
    metric = TaskMetric("spearman")
    metric.update(torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), torch.tensor([0.5, 1.5, 2.5]))
    assert metric.compute() == pytest.approx(1, abs=1e-6)


def test_empty_updates_count_nothing_and_reset_forgets():
    metric = TaskMetric("micro_f1", n_classes=3)
    empty = torch.empty(0, 3, dtype=torch.int64)
    metric.update(empty, empty)
    assert math.isnan(metric.compute())
    metric.update(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]]))
    assert metric.compute() == pytest.approx(2 / 3, abs=1e-6)
    metric.reset()
    metric.update(empty, empty)
    assert math.isnan(metric.compute())


def test_metric_survives_pickling():
    metric = TaskMetric("accuracy", n_classes=3)
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    assert pickle.loads(pickle.dumps(metric)).compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "n_classes", "message"),
    [("acuracy", 2, "did you mean 'accuracy'"), ("f1", 3, "f1 needs two classes, but the task has 3")],
)
def test_a_metric_that_does_not_fit_is_refused(name, n_classes, message):
    with pytest.raises(ValueError, match=message):
        TaskMetric(name, n_classes)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"predictions have shape \[2, 1\], labels \[2\]"):
        TaskMetric("accuracy", 2).update(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


def score_on_rank(rank: int, store: str, results: str) -> None:
    """Score uneven shares of the rows over two ranks; rank 1 has no rows of the multi-label task."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    values = {}
    for name, cut in (("matthews", 30), ("spearman", 41), ("micro_f1", 50)):
        predictions, gold = draw(name, "random", rows=50)
        share = slice(0, cut) if rank == 0 else slice(cut, None)
        metric = TaskMetric(name, None)
        metric.update(torch.tensor(predictions[share]), torch.tensor(gold[share]))
        values[name] = metric.compute()
    torch.save(values, f"{results}.{rank}")
    torch.distributed.destroy_process_group()


def test_two_ranks_score_all_rows_even_if_one_has_none(tmp_path):
    multiprocessing.start_processes(
        score_on_rank, (str(tmp_path / "store"), str(tmp_path / "values")), nprocs=2, start_method="fork"
    )
    expected = {
        name: score(name, *draw(name, "random", rows=50), batch=50) for name in ("matthews", "spearman", "micro_f1")
    }
    for rank in range(2):
        assert torch.load(tmp_path / f"values.{rank}") == pytest.approx(expected, abs=1e-12)
