"""Training rows without gold: read, kept out of dev, left out without a teacher, taught by one alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.data.collate import Examples
from bam_lightning.data.examples import load_examples
from bam_lightning.data.tokenization import Tokens
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.store.run_spec import DataSummary
from conftest import sentences

TEXTS = list(dict.fromkeys(sentences(90, 3)))[:60]
CLASSES = {"labels": ["a", "b"]}


def rows(labels: list) -> list[dict]:
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)]


def load(given: list, dev: bool = True, **options):
    gold = next(label for label in given if label is not None)
    splits = {"train": rows(given), **({"dev": [{"text": "the end", "label": gold}]} if dev else {})}
    return load_examples("t", bam.Task.from_list(splits, text="text", allow_missing_labels=True, **options))


def gold_of(split) -> dict:
    """Return text -> gold label, or ``None``."""
    there = np.ones(len(split.keys), dtype=bool) if split.has_gold is None else split.has_gold
    return {text: split.labels[row].tolist() if there[row] else None for row, text in enumerate(split.texts[0])}


@pytest.mark.parametrize(
    ("labels", "expected", "options"),
    [
        (["a", None, "b", None, ""], [0, None, 1, None, None], CLASSES),
        ([None, None, "b"], [None, None, 1], CLASSES),
        ([1.0, None, 5.0, float("nan")], [1.0, None, 5.0, None], {"range": (1, 5)}),
        ([["a"], None, [], ["a", "b"]], [[1, 0], None, [0, 0], [1, 1]], {"kind": "multi_label", **CLASSES}),
    ],
)
def test_rows_without_a_label_have_no_gold_and_the_others_keep_theirs(labels, expected, options):
    found = load(labels, **options)
    assert gold_of(found.train) == dict(zip(TEXTS, expected, strict=False))
    assert f"{expected.count(None)} of {len(labels)} training rows have no gold label" in found.notes[-1]
    labelled = found.train.labelled()
    assert labelled.has_gold is None
    assert gold_of(labelled) == {t: v for t, v in zip(TEXTS, expected, strict=False) if v is not None}


def test_a_label_may_be_missing_only_where_that_is_allowed():
    task = bam.Task.from_list({"train": rows(["a", None]), "dev": rows(["a", "b"])}, text="text", **CLASSES)
    with pytest.raises(DataError, match="row 1: the label is missing"):
        load_examples("t", task)
    with pytest.raises(DataError, match="row 1: the label is missing"):  # dev rows are scored
        load_examples("t", replace(task, allow_missing_labels=True, split={"dev": "train"}))


@pytest.mark.parametrize(
    ("labels", "options", "row"),
    [
        (["", "bad", "a"], CLASSES, 1),
        ([None, "a", None, "bad"], CLASSES, 3),
        ([None, 0, 7], {"range": (1, 5)}, 1),
        ([None, ["a"], ["bad"]], {"kind": "multi_label", **CLASSES}, 2),
        ([None, ["a"], ["a", "a"]], {"kind": "multi_label", **CLASSES}, 2),
    ],
)
def test_a_bad_label_is_named_with_its_row_where_others_are_missing(labels, options, row):
    with pytest.raises(DataError, match=f"row {row}: label "):
        load(labels, **options)


def test_missing_labels_are_counted_and_the_option_is_named():
    task = bam.Task.from_list({"train": rows(["a", None, ""]), "dev": rows(["a"])}, text="text", **CLASSES)
    with pytest.raises(
        DataError, match=r"row 1: the label is missing \(2 of 3 rows have none\).*allow_missing_labels=True"
    ):
        load_examples("t", task)
    with pytest.raises(
        DataError, match=r"row 1: the label is missing \(2 of 3 rows have none\); fill or remove such rows$"
    ):
        load_examples("t", replace(task, allow_missing_labels=True, split={"dev": "train"}))


def test_an_unlabelled_split_adds_rows_whose_labels_are_not_looked_at():
    more = [{"text": "a transfer set", "label": "neither"}, {"text": "of two rows", "label": None}]
    splits = {"train": rows(["a", "b"]), "dev": rows(["a", "b"]), "more": more}
    task = bam.Task.from_list(splits, text="text", split={"unlabelled": "more"})
    assert gold_of(load_examples("t", task).train) == {
        TEXTS[0]: 0, TEXTS[1]: 1, "a transfer set": None, "of two rows": None
    }  # fmt: skip


def test_a_dev_split_is_cut_from_gold_and_its_texts_are_not_trained_on():
    labels = ["a", "b"] * 15
    found = load([*labels, *[None] * 30], dev=False, **CLASSES)
    assert len(found.dev.keys) == 10  # a third of the 30 rows that have gold
    assert found.dev.has_gold is None
    assert len(found.train.keys) == 50
    doubled = [*rows(labels), *[{"text": text, "label": None} for text in TEXTS[:30]]]
    task = bam.Task.from_list(doubled, text="text", allow_missing_labels=True, **CLASSES)
    found = load_examples("t", task)
    assert not set(found.dev.keys) & set(found.train.keys)


def test_gold_is_part_of_the_fingerprint():
    assert load(["a", "b", "a"]).fingerprint != load(["a", "b", None], **CLASSES).fingerprint


def test_rows_without_gold_wait_for_a_teacher(tiny_bert, tmp_path):
    task = bam.Task.from_list({"train": rows(["a", "b", None, "b"]), "dev": rows(["a"])}, text="text",
                              allow_missing_labels=True, **CLASSES)  # fmt: skip
    data = bam.MultiTaskDataModule({"t": task}, tiny_bert, cache_dir=tmp_path, max_length=32)
    without = data.train_examples()["t"]
    assert (len(without.labels), without.has_gold) == (3, None)
    data.teach("t", np.zeros((4, 2), dtype=np.float32))
    taught = data.train_examples()["t"]
    assert (len(taught.labels), int((~taught.has_gold).sum()), len(taught.teacher)) == (4, 1, 4)
    assert len(data.only("t").train_examples()["t"].labels) == 3


def test_no_gold_and_no_teacher_is_refused(tiny_bert, tmp_path):
    splits = {"train": rows([None, None]), "dev": rows(["a"])}
    task = bam.Task.from_list(splits, text="text", kind="classification", allow_missing_labels=True, **CLASSES)
    data = bam.MultiTaskDataModule({"t": task}, tiny_bert, cache_dir=tmp_path, max_length=32)
    with pytest.raises(DataError, match="no training row has a gold label, and there is no teacher"):
        data.train_examples()
    data.teach("t", np.zeros((2, 2), dtype=np.float32))
    assert len(data.train_examples()["t"].labels) == 2
    tokens = Tokens(np.zeros(3, np.int32), np.arange(4, dtype=np.int32), None)
    part = Examples(tokens, np.zeros(3, np.int64), has_gold=np.array([True, False, False]))
    part._replace(teacher=np.zeros((3, 2), np.float32)).check_targets("t")
    with pytest.raises(DataError, match=r"1 training rows have neither .* the first is row 2"):
        part._replace(teacher=np.zeros((3, 2), np.float32), has_teacher=np.array([False, True, False])).check_targets(
            "t"
        )


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("options", "dev", "kind"), [(CLASSES, ["a", "b"], "classification"), ({"range": (1, 5)}, [1.0, 5.0], "regression")]
)
def test_classes_or_a_range_are_enough_where_no_training_row_has_a_label(options, dev, kind, empty):
    splits = {"train": rows([empty] * 3), "dev": rows(dev)}
    found = load_examples("t", bam.Task.from_list(splits, text="text", allow_missing_labels=True, **options))
    assert (found.task.kind, found.train.has_gold.tolist()) == (kind, [False] * 3)
    assert f"{kind} (inferred" in found.notes[0]
    with pytest.raises(DataError, match=r"row 0: the label is missing \(3 of 3 rows have none\).*allow_missing_labels"):
        load_examples("t", bam.Task.from_list(splits, text="text", **options))


def test_teachers_are_planned_for_their_gold_rows_and_students_for_all():
    facts = DataSummary(sizes={"rte": 3200}, fingerprints={"rte": "f"}, encoder="e", labelled={"rte": 320})
    config = compose(["scale=paper", "recipe=single_single", "suite.include=[rte]"])
    teacher, student = plan_runs(config, facts)
    assert (teacher.steps, student.steps) == (30, 300)  # 3 epochs of 320 and 3,200 rows, batch 32
    with pytest.raises(ConfigError, match="no training row of 'rte' has a gold label"):
        plan_runs(config, replace(facts, labelled={"rte": 0}))


def test_classes_are_balanced_by_the_rows_that_have_gold(tmp_path):
    labels = ["a", "a", "b", "b", *[None] * 6]
    task = bam.Task.from_list(
        {"train": rows(labels), "dev": rows(["a", "b"])},
        text="text",
        allow_missing_labels=True,
        head={"class_weights": "balanced"},
        **CLASSES,
    )
    data = bam.MultiTaskDataModule({"t": task}, "unused", cache_dir=tmp_path)
    assert data.head_configs()["t"]["class_weights"] == [1.0, 1.0]


def test_the_latest_rows_need_a_label_to_become_dev_rows():
    given = [{**row, "t": n} for n, row in enumerate(rows(["a", "b"] * 15 + [None] * 30))]
    task = bam.Task.from_list(given, text="text", allow_missing_labels=True, split={"time": "t"}, **CLASSES)
    with pytest.raises(DataError, match="none of the 20 latest rows by column 't' has a label"):
        load_examples("t", task)


def test_a_choice_that_its_row_does_not_have_is_refused_where_other_labels_are_missing():
    given = [{"q": "why", "o": ["x", "y", "z"], "label": None}, {"q": "who", "o": ["x", "y"], "label": "2"}]
    task = bam.Task.from_list(
        {"train": given, "dev": given}, text="q", choices="o", labels=["0", "1", "2"], allow_missing_labels=True
    )
    with pytest.raises(DataError, match="row 1: label '2' names a choice that is empty"):
        load_examples("t", task)
