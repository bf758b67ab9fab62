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
    with pytest.raises(bam.ConfigError, match=r"check_agreement is for a table of predictions; leave it out"):
        taught.teach("mood", logits("mood"), **options)


@pytest.mark.parametrize("weights", [[2, -1], [1, 0], [1, float("nan")], [1, float("inf")]])
def test_weights_of_an_ensemble_are_above_zero(taught, weights):
    with pytest.raises(bam.ConfigError, match=r"^teacher of 'mood': weights must be above 0 and finite, got \["):
        taught.teach("mood", [logits("mood"), logits("mood", 1)], weights=weights)


def shares(data) -> np.ndarray:
    """Return probabilities of a moody teacher that is right, and sure of it."""
    return np.eye(2, dtype=np.float32)[data.rows["mood"].train.labels] * 0.9 + 0.05


def test_an_array_of_probabilities_says_so_and_teaches_them(taught):
    given = shares(taught)
    with pytest.raises(bam.DataError, match=r"^teacher of 'mood': all numbers of the array lie in \[0, 1\], as prob"):
        taught.teach("mood", given)
    taught.teach("mood", given, form="probabilities")
    assert taught.train_examples()["mood"].teacher_target == pytest.approx(given)
    taught.teach("mood", given, form="logits")  # it is said, so it is so
    assert taught.train_examples()["mood"].teacher == pytest.approx(given)
    with pytest.raises(bam.DataError, match=r"^teacher of 'mood': probabilities must lie in \[0, 1\] and sum to 1"):
        taught.teach("mood", logits("mood"), form="probabilities")


def test_an_array_of_scores_in_label_units_says_so(taught):
    scores = taught.rows["size"].train.labels[:, None]
    taught.teach("size", scores, form="values")
    assert taught.train_examples()["size"].teacher_target == pytest.approx((scores - 1) / 11, abs=1e-6)
    with pytest.raises(bam.ConfigError, match=r"^form names 'values'; choices: logits, probabilities$"):
        taught.teach("mood", np.full((48, 1), 2.0), form="values")
    with pytest.raises(bam.ConfigError, match=r"^form names 'probabilities'; choices: logits, values"):
        taught.teach("size", scores, form="probabilities")


@pytest.mark.parametrize("width", [1, 3])
def test_an_array_has_a_column_for_each_output_of_the_head(taught, width):
    message = rf"^teacher of 'mood': expected logits of shape \[N, 2\] \(bad, good\), got \[48, {width}\]$"
    with pytest.raises(bam.DataError, match=message):
        taught.teach("mood", np.full((48, width), 2.0))


def test_an_array_whose_classes_are_mixed_up_is_said(taught, monkeypatch):
    said = []
    monkeypatch.setattr("bam_lightning.training.datamodule.rank_zero_info", said.append)
    taught.teach("mood", shares(taught)[:, ::-1].copy(), form="probabilities")
    (note,) = said
    assert note.startswith("teacher of 'mood': its agreement is 0 of 48 labels, no better than ")
    assert note.endswith("; are classes or rows mixed up?")


def test_a_data_frame_is_read_as_its_file_would_be(taught):
    table = table_of(taught, "mood", shares(taught)[:, ::-1], ["p_good", "p_bad"])
    taught.teach("mood", table, probabilities="p_*")
    assert taught.train_examples()["mood"].teacher_target == pytest.approx(shares(taught), abs=1e-6)
    with pytest.raises(bam.DataError, match="text"):  # rows are known by their texts
        taught.teach("mood", table.drop(columns="text"))


def relabelled(data, encoder, label_of, name: str = "mood", **options) -> bam.MultiTaskDataModule:
    """Return a data module of one task over the rows of another data module."""
    rows = data.rows["mood"].train
    table = pd.DataFrame({"text": rows.texts[0], "label": [label_of(label) for label in rows.labels]})
    other = bam.Task.from_pandas({"train": table, "dev": table[:9]}, text="text", **options)
    return bam.MultiTaskDataModule({name: other}, encoder, max_length=32, cache_dir=data.cache_dir)


@pytest.mark.parametrize("saved", [False, True])
def test_a_models_classes_are_known_by_their_names(taught, still_bert, tmp_path, saved):
    """The teacher's labels are bad and good; a task that names them in another order is taught in its own."""
    module = module_of(taught)
    trainer = pl.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, taught)
    source = module.save_pretrained(tmp_path / "model") or str(tmp_path / "model") if saved else module
    same = relabelled(taught, still_bert, lambda label: ("bad", "good")[label], labels=["bad", "good"])
    other = relabelled(taught, still_bert, lambda label: ("bad", "good")[label], labels=["good", "bad"])
    for data in (same, other):
        data.teach("mood", source)
    expected, found = (
        data.train_examples()["mood"].teacher[np.argsort(data.rows["mood"].train.texts[0])] for data in (same, other)
    )
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(found, expected[:, ::-1])
    with pytest.raises(
        bam.DataError, match=r"the model predicts ClassificationHead with 'bad', 'good', the task has .*"
    ):
        relabelled(taught, still_bert, lambda label: ("no", "yes")[label]).teach("mood", source)
    with pytest.raises(
        bam.DataError, match=r"the model predicts RegressionHead with scores from 1 to 12, the task has "
    ):
        relabelled(taught, still_bert, lambda label: float(label), "size", range=(0.0, 1.0)).teach("size", source)
    with pytest.raises(
        bam.DataError, match=r"the model predicts .* the task has RegressionHead with scores from 0 to 1"
    ):
        relabelled(taught, still_bert, lambda label: float(label), range=(0.0, 1.0)).teach("mood", source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mood.npy", r"^teacher 'mood\.npy': its rows are not known by their texts; give a table with the task's text"),
        ("folder", r"^teacher 'folder' is a model of transformers; write its predictions to a table with the task's"),
    ],
)
def test_what_cannot_teach_by_itself_is_told_to_be_a_table(taught, tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    with pytest.raises(bam.ConfigError, match=message):
        taught.teach("mood", name)
