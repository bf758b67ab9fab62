"""Gold that is a distribution, weights of rows, and splits by group and time: read, checked, and in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.data.examples import load_examples
from bam_lightning.data.leaks import count_leaks
from conftest import sentences

TEXTS = sentences(60, seed=5)
ROWS = [
    {
        "text": text,
        "anna": "ab"[n % 2],
        "ben": "ab"[n // 2 % 2],
        "carla": "ab"[n // 4 % 2] if n % 3 else None,
        "gold_a": 0.25 * (n % 5),
        "gold_b": 1 - 0.25 * (n % 5),
        "label": "ab"[n % 2],
        "weight": n / 10,
        "customer": f"c{n % 7}",
        "date": f"2026-01-{n // 3 + 1:02d}",
    }
    for n, text in enumerate(TEXTS)
]


def load(rows=None, **options):
    rows = ROWS if rows is None else rows
    splits = rows if isinstance(rows, dict) or "split" in options else {"train": rows, "dev": rows[:9]}
    return load_examples("topic", bam.Task.from_list(splits, text="text", **options))


def by_text(split, column) -> dict:
    return dict(zip(split.texts[0], column.tolist(), strict=True))


def test_labels_of_annotators_are_a_distribution_scored_at_its_likeliest_class():
    examples = load(annotators=["anna", "ben", "carla"])
    assert examples.label_names == ["a", "b"]
    gold = by_text(examples.train, examples.train.gold)
    for row in ROWS:
        votes = [row[name] for name in ("anna", "ben", "carla") if row[name]]
        assert gold[row["text"]] == pytest.approx([votes.count("a") / len(votes), votes.count("b") / len(votes)])
    for row, label in zip(ROWS, examples.dev.labels, strict=False):
        votes = [row[name] for name in ("anna", "ben", "carla") if row[name]]
        assert label == (votes.count("b") > votes.count("a"))


def test_a_column_per_class_is_a_distribution():
    examples = load(label="gold_*")
    gold = by_text(examples.train, examples.train.gold)
    assert gold == {row["text"]: pytest.approx([row["gold_a"], row["gold_b"]]) for row in ROWS}
    assert load(label="gold_*").fingerprint == examples.fingerprint != load(label="gold_*", labels="ba").fingerprint


@pytest.mark.parametrize("options", [{"annotators": ["anna", "ben"]}, {"label": "gold_*"}])
def test_a_test_split_has_the_labels_that_it_can_be_scored_on(options):
    rows = [{name: value for name, value in row.items() if name != "label"} for row in ROWS]
    found = load({"train": rows, "dev": rows[:9], "test": rows[:6]}, **options)
    assert found.test.labels.tolist() == found.dev.labels[:6].tolist()
    bare = [{"text": row["text"]} for row in rows[:6]]
    assert load({"train": rows, "dev": rows[:9], "test": bare}, **options).test.labels.tolist() == [-1] * 6


@pytest.mark.parametrize("options", [{"annotators": ["anna", "ben", "carla"]}, {"label": "gold_*"}, {}])
def test_the_loss_is_that_of_the_distribution_and_of_the_weights(options, still_bert, tmp_path):
    task = bam.Task.from_list(
        {"train": ROWS, "dev": ROWS[:9]}, text="text", weight_column="weight", dropout=0.0, **options
    )
    data = bam.MultiTaskDataModule({"topic": task}, still_bert, batch_size=16, max_length=32, cache_dir=tmp_path)
    module, batch = bam.BamModule(data, seed=0), next(iter(data.train_dataloader()))
    rows = data.rows["topic"].train.take(batch.tasks["topic"].row_ids.numpy())
    gold = rows.gold if rows.gold is not None else np.eye(2)[rows.labels]
    with torch.no_grad():
        scores = torch.log_softmax(module(batch)["topic"], -1).numpy()
        found = float(module.task_losses(batch, 1.0)["topic"])
    assert found == pytest.approx(-(scores * gold * rows.weight[:, None]).sum(), rel=1e-6)
    assert by_text(rows, rows.weight) == {
        row["text"]: pytest.approx(row["weight"]) for row in ROWS if row["text"] in rows.texts[0]
    }


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ({"weight": -1.0}, {"weight_column": "weight"}, r"row 3: weight -1.0 is no number from 0; mend"),
        ({"weight": float("nan")}, {"weight_column": "weight"}, "row 3: weight nan is no number"),
        ({"weight": None}, {"weight_column": "weight"}, "row 3: weight None is no number"),
        ({"gold_a": -0.5}, {"label": "gold_*"}, "row 3: -0.5 of class 'a' is no probability or count"),
        ({"anna": "z"}, {"annotators": ["anna"], "labels": "ab"}, "row 3: label 'z' is neither one of a, b nor"),
        ({"anna": None}, {"annotators": ["anna"]}, "row 3: the label is missing"),
        ({}, {"label": "soft_*"}, r"no column 'soft_\*'; columns there: "),
        ({}, {"weight_column": "importance"}, "no column 'importance'"),
        ({"customer": None}, {"split": {"group": "customer"}}, "row 3: column 'customer', which groups rows, is empty"),
        ({"date": "3/4/26"}, {"split": {"time": "date"}}, "row 3: '3/4/26' in column 'date' is neither a number nor a"),
    ],
)
def test_what_is_malformed_is_refused_with_its_row(cells, options, message):
    rows = [{**row, **(cells if n == 3 else {})} for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match=message):
        load(rows, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": {"group": "a", "time": "b"}}, "dev rows are a split of their own, or cut by group, or cut by time"),
        ({"split": {"group": "a", "dev": "dev"}}, "dev rows are a split of their own"),
        ({"label": "p_*", "kind": "regression"}, "a distribution over labels is for classification and ordinal tasks"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        bam.Task.from_list(ROWS, text="text", **options)


def test_a_split_by_group_keeps_groups_and_equal_texts_together():
    rows = [*ROWS, {**ROWS[0], "customer": "c1"}]  # the text of c0 once more: both customers are one group
    examples = load(rows, split={"group": "customer"})
    customer = {row["text"]: row["customer"] for row in ROWS}
    sides = [{customer[text] for text in split.texts[0]} for split in (examples.train, examples.dev)]
    assert not sides[0] & sides[1]
    assert ("c0" in sides[0]) == ("c1" in sides[0])
    assert 5 <= len(examples.dev.keys) <= 25
    assert "whole groups of column 'customer'" in examples.notes[-1]
    assert load(rows[::-1], split={"group": "customer"}).dev.keys == examples.dev.keys
    assert count_leaks({"topic": examples}) == []


def test_a_split_by_time_sets_the_latest_rows_aside():
    examples = load(split={"time": "date"})
    date = {row["text"]: row["date"] for row in ROWS}
    latest = max(date[text] for text in examples.train.texts[0])
    assert all(date[text] > latest for text in examples.dev.texts[0])
    assert len(examples.dev.keys) == 21  # a third of 60, and the days are whole


def test_dev_rows_that_stand_in_training_rows_of_any_task_are_counted():
    def rows(*texts):
        return [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]

    one = {"train": rows("a cat", "a dog"), "dev": rows("a cat", "It's  RAINING!", "a man")}
    two = {"train": rows("its raining", "a boy"), "dev": rows("A cat.", "nothing")}
    tasks = {"one": one, "two": two}
    examples = {name: load_examples(name, bam.Task.from_list(splits, text="text")) for name, splits in tasks.items()}
    assert count_leaks(examples) == [
        "task 'one': of 3 dev rows 1 stand in training rows and 1 (1 of 'two') nearly do (but for case, punctuation "
        "and white space)",
        "task 'two': of 2 dev rows 1 (1 of 'one') nearly do (but for case, punctuation and white space)",
    ]
