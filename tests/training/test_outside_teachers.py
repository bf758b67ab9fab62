"""Teachers from outside teach like the ones they came from: the same loss, weights and digests, whatever their form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from tiny_tasks import QUIET, data_of, logits, module_of

import bam_lightning as bam
from bam_lightning.data.teacher_columns import Column
from bam_lightning.training.distillation import combine_columns


def fit(data, steps: int = 4) -> dict[str, torch.Tensor]:
    """Return the weights after a few steps."""
    module = module_of(data)
    pl.Trainer(max_steps=steps, **{**QUIET, "max_epochs": -1}).fit(module, data)
    return module.state_dict()


def table_of(data, task: str, values: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Return a table of predictions of the training rows, in another order."""
    texts = list(data.rows[task].train.texts[0])
    return pd.DataFrame(values, columns=names).assign(text=texts).sample(frac=1, random_state=3)


@pytest.fixture
def taught(still_bert, tmp_path):
    """A data module whose two tasks have teachers given as arrays."""
    return data_of(still_bert, tmp_path)


def test_a_file_of_logits_trains_the_same_student_bit_for_bit(taught, still_bert, tmp_path):
    table_of(taught, "mood", logits("mood"), ["logits_bad", "logits_good"]).to_parquet("mood.parquet")
    table_of(taught, "size", logits("size"), ["logits"]).to_json("size.jsonl", orient="records", lines=True)
    outside = data_of(still_bert, tmp_path, taught=False)
    outside.teach("mood", "mood.parquet", check_agreement=False)
    outside.teach("size", "size.jsonl", check_agreement=False)
    assert outside.digests() == taught.digests()
    expected, found = fit(taught), fit(outside)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def loss(data) -> float:
    """Return the loss of the first batch at half of the annealing."""
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        return float(sum(module_of(data).task_losses(batch, 0.5).values()))


def test_a_file_of_probabilities_has_the_loss_of_its_logits(taught, still_bert, tmp_path):
    probabilities = torch.softmax(torch.from_numpy(logits("mood")), -1).numpy()
    table_of(taught, "mood", probabilities, ["p_bad", "p_good"]).to_csv("mood.csv", index=False)
    values = 1 + 11 * torch.sigmoid(torch.from_numpy(logits("size"))).numpy()
    table_of(taught, "size", values, ["stars"]).to_csv("size.csv", index=False)
    outside = data_of(still_bert, tmp_path, taught=False)
    outside.teach("mood", "mood.csv", check_agreement=False)
    outside.teach("size", "size.csv", values="stars", check_agreement=False)
    assert loss(outside) == pytest.approx(loss(taught), rel=1e-6)


def test_rows_without_a_prediction_learn_from_gold_alone(taught, still_bert, tmp_path):
    table = table_of(taught, "mood", logits("mood"), ["logits_bad", "logits_good"])
    table.iloc[: len(table) // 20 + 1].to_csv("rest.csv", index=False)
    part = table.iloc[len(table) // 20 + 1 :]
    part.to_csv("mood.csv", index=False)
    outside = data_of(still_bert, tmp_path)
    with pytest.raises(bam.DataError, match=r"^teacher of 'mood', mood.csv: 3 of 48 training rows have no prediction"):
        outside.teach("mood", "mood.csv", check_agreement=False)
    assert loss(outside) == loss(taught)  # the refused file has replaced nothing
    outside.teach("mood", "mood.csv", check_agreement=False, missing="gold")
    examples = outside.train_examples()["mood"]
    assert (~examples.has_teacher).sum() == 3
    teacher = np.where(examples.has_teacher[:, None], logits("mood"), 0)
    assert (examples.teacher == teacher).all()
    gold = torch.nn.functional.one_hot(torch.from_numpy(examples.labels), 2).float()
    soft = torch.softmax(torch.from_numpy(logits("mood")), -1)
    lam = torch.where(torch.from_numpy(examples.has_teacher), 0.25, 1.0)[:, None]
    batch = next(iter(outside.train_dataloader()))
    module = module_of(outside)
    rows = batch.tasks["mood"].row_ids
    with torch.no_grad():
        scores, found = torch.log_softmax(module(batch)["mood"], -1), module.task_losses(batch, 0.25)["mood"]
    expected = -(scores * (lam * gold + (1 - lam) * soft)[rows]).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_an_ensemble_is_averaged_over_the_members_that_cover_a_row():
    head = bam.ClassificationHead(4, ["a", "b"])
    one = Column("logits", np.log(np.float32([[0.8, 0.2], [0.5, 0.5], [1, 1]])), np.array([True, True, False]))
    two = Column("probabilities", np.float32([[0.4, 0.6], [0.0, 0.0], [0, 0]]), np.array([True, False, False]))
    taught = combine_columns("topic", "classification", [one, two], [3.0, 1.0], head)
    assert taught.teacher is None
    assert taught.teacher_target == pytest.approx(np.float32([[0.7, 0.3], [0.5, 0.5], [0, 0]]))
    assert taught.has_teacher.tolist() == [True, True, False]


def test_class_probabilities_teach_an_ordinal_head_the_chance_of_passing_each_threshold():
    head = bam.OrdinalHead(4, ["low", "mid", "high"])
    column = Column("probabilities", np.float32([[0.5, 0.2, 0.3]]))
    taught = combine_columns("stars", "ordinal", [column], [1.0], head)
    assert taught.teacher_target == pytest.approx(np.float32([[0.5, 0.3]]))


def test_files_and_arrays_teach_together_with_weights(taught):
    table = table_of(taught, "mood", logits("mood"), ["logits_bad", "logits_good"]).iloc[5:]
    table.to_csv("mood.csv", index=False)
    options = {"check_agreement": False}
    taught.teach("mood", ["mood.csv", logits("mood")], weights=[1, 3], **options)
    soft = torch.softmax(torch.from_numpy(logits("mood")), -1).numpy()
    assert taught.train_examples()["mood"].teacher_target == pytest.approx(soft, abs=1e-6)
    with pytest.raises(bam.DataError, match=r"5 of 48 training rows have no prediction of any member"):
        taught.teach("mood", ["mood.csv", "mood.csv"], **options)
    with pytest.raises(bam.ConfigError, match=r"2 sources and 1 weights"):
        taught.teach("mood", ["mood.csv", "mood.csv"], weights=[1], **options)
    with pytest.raises(bam.ConfigError, match=r"check_agreement is for a file of predictions; leave it out"):
        taught.teach("mood", logits("mood"), **options)
