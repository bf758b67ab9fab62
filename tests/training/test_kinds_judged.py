"""Tasks of every kind are checked before training, and two models of them are compared on the same rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tiny_kinds import KINDS, kinds

import bam_lightning as bam
from bam_lightning.data.items import encode_rows
from bam_lightning.inference.evaluate import LabelledRows, gold_text, score_logits
from bam_lightning.inference.predictor import Predictor
from bam_lightning.recipes import evaluation
from bam_lightning.recipes.check import describe_task, weak_spots

LENGTH = 24


@pytest.fixture
def data(still_bert, tmp_path) -> bam.MultiTaskDataModule:
    return bam.MultiTaskDataModule(kinds(), still_bert, batch_size=8, max_length=LENGTH, cache_dir=tmp_path, seed=0)


def test_labels_and_examples_of_every_kind_are_described(data):
    tokenized = partial(encode_rows, tokenizer=data.tokenizer, max_length=LENGTH, cache=data.cache_dir)
    found = {name: describe_task(rows, tokenized) for name, rows in data.rows.items()}
    spots = {name: weak_spots(rows, found[name]) for name, rows in data.rows.items()}
    texts = data.rows["tags"].train.texts[0]
    words = [word for text in texts for word in text.split()]
    nouns = sum(word in ("cat", "dog", "man", "woman") for word in words)
    assert found["tags"]["labels"]["train"] == {"O": len(words) - nouns, "B-N": nouns}
    for example in found["tags"]["examples"]:
        (text,) = example["texts"]
        tags = ["B-N" if word in ("cat", "dog", "man", "woman") else "O" for word in text.split()]
        assert example["label"] == ", ".join(tags)
    assert found["answer"]["labels"]["train"] == {"answers": 40}
    assert {example["label"] for example in found["answer"]["examples"]} == {"cat"}
    assert sum(found["choice"]["labels"]["train"].values()) == 40
    assert all("dev has 20 rows; below 50 a score says little" in of_task for of_task in spots.values())


@pytest.fixture
def models(data, tmp_path, monkeypatch):
    """An untrained model, and one with other heads."""
    monkeypatch.setattr("bam_lightning.metrics.report.DRAWS", 50)
    module = bam.BamModule(data)
    module.save_pretrained("first")
    torch.manual_seed(3)
    for head in module.model.heads.values():
        torch.nn.init.normal_(head.linear.weight)
    module.save_pretrained("second")
    return [bam.load(tmp_path / name, device="cpu", precision="32-true") for name in ("first", "second")]


def test_models_of_every_kind_are_compared_row_by_row(data, models):
    old, new = models
    for name in KINDS:
        dev = data.rows[name].dev
        rows = LabelledRows(old.tasks[name], list(zip(*dev.texts, strict=True)), dev.labels, "dev", {})
        first, second = (evaluation._answer(model, [rows])[name] for model in (old, new))
        assert set(evaluation._changes(rows, first, first)) == {""}
        changes = evaluation._changes(rows, first, second)
        found = evaluation._compare(rows, first, second, changes, margin=0.5)
        expected = [
            100 * score_logits(model, rows, model.logits(rows.rows, [name])[name])[rows.task.metric] for model in models
        ]
        assert [found.old, found.new] == pytest.approx(expected)
        assert found.difference == pytest.approx(expected[1] - expected[0])
        if name == "size":
            continue
        assert found.fixed - found.broken == int(second.right.sum()) - int(first.right.sum())
        if name in ("mood", "choice"):  # accuracy counts right rows
            assert found.difference == pytest.approx(100 * (found.fixed - found.broken) / len(dev.keys))
        if name != "answer":  # an answer is right if it is equal without case and articles
            right = [gold_text(rows, row) == text for row, text in enumerate(second.texts)]
            assert right == second.right.tolist()
    assert np.ndim(second.values) == 2


def test_tags_are_not_calibrated(models):
    with pytest.raises(bam.ConfigError, match="it can be evaluated and compared, but not calibrated"):
        models[0].calibrate(["the cat eats"], [["O", "B-N", "O"]], "tags")


REASONS = {
    "size": "a regression has no probabilities to calibrate",
    "tags": "it predicts words, not a class for each row",
    "answer": "it predicts words, not a class for each row",
}


@pytest.fixture
def options(data, models, monkeypatch):
    """Options of ``bam calibrate`` for the first model, whose job's dev rows are those of the data."""

    def rows_of(info, task, options):
        dev = data.rows[task.name].dev
        return LabelledRows(task, list(zip(*dev.texts, strict=True)), dev.labels, "dev", {})

    monkeypatch.setattr(evaluation, "labelled_rows", rows_of)
    return partial(evaluation.CalibrateOptions, run=str(models[0].info.run.path), device="cpu")


def test_tasks_that_cannot_be_calibrated_are_skipped_in_one_line_each(options, capsys):
    assert set(evaluation.calibrate(options())) == {"mood", "choice"}
    lines = [line for line in capsys.readouterr().out.splitlines() if "is skipped" in line]
    assert lines == [f"task {name!r} is skipped: {reason}" for name, reason in REASONS.items()]


@pytest.mark.parametrize("name", list(REASONS))
def test_a_named_task_that_cannot_be_calibrated_is_named_once(options, name, monkeypatch):
    monkeypatch.setattr(Predictor, "logits", None)  # nothing is computed
    with pytest.raises(bam.ConfigError) as error:
        evaluation.calibrate(options(task=[name]))
    assert str(error.value) == f"task {name!r}: {REASONS[name]}; name other tasks"


def test_a_model_without_a_task_to_calibrate_says_why(options, monkeypatch):
    monkeypatch.setattr(evaluation.JudgeOptions, "select", lambda self, info: [info.tasks["tags"], info.tasks["size"]])
    with pytest.raises(bam.ConfigError) as error:
        evaluation.calibrate(options())
    assert str(error.value) == (
        f"no task of this model can be calibrated: task 'tags': {REASONS['tags']}; task 'size': {REASONS['size']}"
    )


def test_a_temperature_at_the_end_of_the_search_is_printed_and_saved(options, monkeypatch, capsys):
    monkeypatch.setattr("bam_lightning.metrics.calibration.fit_temperature", lambda loss: 19.99)
    found = evaluation.calibrate(options(task=["mood"], force=True))
    note = "temperature at the end of the search range, 20: the confidences of this task say little"
    assert found["mood"].note == note
    assert f"mood: {note}" in capsys.readouterr().out.splitlines()
