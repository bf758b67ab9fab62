"""The rows of a task: what is refused, with its whole message, and keys that follow content, not position."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.data_config import DataConfig, HeadConfig, Metric, TaskConfig
from bam_lightning.data import examples
from bam_lightning.data.examples import load_unlabelled
from bam_lightning.data.task import task_from_config
from conftest import sentences

NAMES = HeadConfig(label_names=["no", "yes"])
RANGE = HeadConfig(label_range=[0.0, 5.0])
NAN = float("nan")
GOOD = {"a": ["one", "two", "three"], "b": ["x", "y", "z"], "label": [0, 1, 1], "idx": [0, 1, 2]}


def task(path, **fields) -> TaskConfig:
    fields = {"text": ["a", "b"], "id_column": "idx", "head": NAMES, **fields}
    return TaskConfig(path=str(path), **fields)


def write(folder, columns, split="train"):
    """Write a split; return the folder."""
    parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), folder / f"{split}.parquet")
    return folder


def described(config, data=None):
    return task_from_config("mine", config, data or DataConfig())


def load_split(config, part="train"):
    return examples.load_split("mine", described(config), part)


def load_examples(config, data=None):
    return examples.load_examples("mine", described(config, data))


def load(folder, columns, **fields):
    return load_split(task(write(folder, columns), **fields))


UNLABELLED = (
    ": all labels are -1, so this is an unlabelled test split, which can be neither trained on nor scored; "
    "choose another split under suite.tasks.mine"
)
NO_COLUMN = "columns there: {there}; set text, label or id_column (null: none) under suite.tasks.mine"
BAD_ID = "label {label} is neither one of no, yes nor a class id from 0 to 1; check suite.tasks.mine.head.label_names"
MISSING = (
    "the label is missing (1 of 3 rows has none); fill or remove such rows, or set "
    "suite.tasks.mine.allow_missing_labels=true: a teacher alone then teaches them"
)
BAD = {
    "empty split": (
        {"a": pa.array([], pa.string()), "b": pa.array([], pa.string()), "label": pa.array([], pa.int64())},
        {"id_column": None},
        ": the split is empty; check the file, or choose another split",
    ),
    "missing text column": (
        {"a": ["one"], "label": [0], "idx": [0]},
        {},
        ": no column 'b'; " + NO_COLUMN.format(there="a, label, idx"),
    ),
    "text column misspelled": (
        {"a": ["one"], "B": ["x"], "label": [0], "idx": [0]},
        {},
        ": no column 'b'; " + NO_COLUMN.format(there="a, B, label, idx") + "; did you mean 'B'?",
    ),
    "missing label column": (
        {"a": ["one"], "b": ["x"], "idx": [0]},
        {},
        ": no column 'label'; " + NO_COLUMN.format(there="a, b, idx"),
    ),
    "missing id column": (
        {"a": ["one"], "b": ["x"], "label": [0]},
        {},
        ": no column 'idx'; " + NO_COLUMN.format(there="a, b, label"),
    ),
    "duplicate ids": (
        {**GOOD, "idx": [7, 3, 7]},
        {},
        ": id 7 stands in rows 0 and 2; ids must be unique; mend the file, or set suite.tasks.mine.id_column=null",
    ),
    "numbers for text": ({**GOOD, "b": [1, 2, 3]}, {}, ": column 'b' holds int64, not text; check text"),
    "null text": ({**GOOD, "b": ["x", "y", None]}, {}, ", row 2: column 'b' has no value; fill it or remove the row"),
    "empty text": (
        {**GOOD, "a": ["one", " \t", "three"]},
        {},
        ", row 1: column 'a' is empty; fill it, remove the row, or allow it with "
        "suite.tasks.mine.allow_empty_text=true",
    ),
    "class id too high": ({**GOOD, "label": [0, 2, 1]}, {}, ", row 1: " + BAD_ID.format(label=2)),
    "class id below 0": ({**GOOD, "label": [0, 1, -1]}, {}, ", row 2: " + BAD_ID.format(label=-1)),
    "unknown class name": (
        {**GOOD, "label": ["no", "yes", "Yes"]},
        {},
        ", row 2: " + BAD_ID.format(label="'Yes'") + "; did you mean 'yes'?",
    ),
    "score for a class": ({**GOOD, "label": [0.5, 1.0, 1.0]}, {}, ", row 0: " + BAD_ID.format(label=0.5)),
    "missing label": ({**GOOD, "label": [0, None, 1]}, {}, ", row 1: " + MISSING),
    "NaN label": ({**GOOD, "label": [0.0, 1.0, NAN]}, {"head": RANGE}, ", row 2: " + MISSING),
    "score above its range": (
        {**GOOD, "label": [0.0, 5.0, 5.5]},
        {"head": RANGE},
        ", row 2: label 5.5 is not a number from 0 to 5 (label_range)",
    ),
    "infinite score": (
        {**GOOD, "label": [0.0, -np.inf, 5.0]},
        {"head": RANGE},
        ", row 1: label -inf is not a number from 0 to 5 (label_range)",
    ),
    "text that is no number for a score": (
        {**GOOD, "label": ["1", "high", "3"]},
        {"head": RANGE},
        ", row 1: label 'high' is not a number from 0 to 5 (label_range)",
    ),
    "unlabelled test split": ({**GOOD, "label": [-1, -1, -1]}, {}, UNLABELLED),
    "unlabelled test split of scores": ({**GOOD, "label": [-1.0, -1.0, -1.0]}, {"head": RANGE}, UNLABELLED),
}


@pytest.mark.parametrize("what", BAD)
def test_rows_that_cannot_be_learned_from_are_refused(tmp_path, what):
    columns, fields, said = BAD[what]
    with pytest.raises(ValueError) as caught:
        load(tmp_path, columns, **fields)
    assert str(caught.value) == f"task 'mine', {tmp_path}/train.parquet{said}"


def with_names(names: list[str]) -> pa.Table:
    """Return rows that carry class names as Hugging Face's ``datasets`` writes them into Parquet."""
    features = {"label": {"names": names, "_type": "ClassLabel"}, "a": {"dtype": "string", "_type": "Value"}}
    return pa.table(GOOD).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_class_names_of_the_file_in_another_order_are_refused(tmp_path):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, with_names(["yes", "no"]))
    assert str(caught.value) == (
        f"task 'mine', {tmp_path}/train.parquet: the file's class names are ['yes', 'no'], but "
        "suite.tasks.mine.head.label_names is ['no', 'yes']; the order gives the class ids, so they must agree"
    )


def test_class_names_of_the_file_in_our_order_are_accepted(tmp_path):
    assert len(load(tmp_path, with_names(["no", "yes"])).keys) == 3


@pytest.mark.parametrize("labels", [[0, 1, 1], ["no", "yes", "yes"], ["0", "1", "1"]])
def test_labels_may_be_ids_or_names(tmp_path, labels):
    read = load(tmp_path, {**GOOD, "label": labels}).labels
    assert (read.tolist(), read.dtype) == ([0, 1, 1], np.int64)


def test_class_names_true_and_false_may_stand_in_a_csv(tmp_path):
    (tmp_path / "train.csv").write_text("a,label\none,false\ntwo,true\n")
    fields = task(tmp_path, text=["a"], id_column=None, head=HeadConfig(label_names=["false", "true"]))
    assert load_split(fields).labels.tolist() == [0, 1]


@pytest.mark.parametrize("labels", [["1", "2", "2"], [1, 2, 2]])
def test_class_names_that_are_numbers_are_names_before_they_are_class_ids(tmp_path, labels):
    head = HeadConfig(label_names=["1", "2"])
    assert load(tmp_path, {**GOOD, "label": labels}, head=head).labels.tolist() == [0, 1, 1]


def test_scores_keep_their_values_and_the_ends_of_the_range(tmp_path):
    labels = load(tmp_path, {**GOOD, "label": [0.0, 2.5, 5.0]}, head=RANGE).labels
    assert (labels.tolist(), labels.dtype) == ([0.0, 2.5, 5.0], np.float32)


def test_scores_may_be_text_that_is_a_number(tmp_path):
    labels = load(tmp_path, {**GOOD, "label": ["1", "2.5", "5.0"]}, head=RANGE).labels
    assert (labels.tolist(), labels.dtype) == ([1.0, 2.5, 5.0], np.float32)


def test_empty_text_is_read_where_it_is_allowed(tmp_path):
    assert load(tmp_path, {**GOOD, "a": ["one", "", "z"]}, allow_empty_text=True).texts[0] == ["one", "", "z"]


def test_limit_keeps_the_first_rows_and_does_not_look_at_others(tmp_path):
    assert load(tmp_path, {**GOOD, "a": ["one", "two", ""]}, train_rows=2).texts == (["one", "two"], ["x", "y"])


@pytest.mark.parametrize("columns", [{**GOOD, "label": [-1, -1, -1]}, {name: GOOD[name] for name in ("a", "b", "idx")}])
def test_texts_of_a_test_split_are_read_without_labels(tmp_path, columns):
    rows = load_unlabelled("mine", described(task(write(tmp_path, columns, "test"))), "test")
    assert rows.texts == (GOOD["a"], GOOD["b"])
    assert rows.labels.tolist() == [-1, -1, -1]
    assert rows.keys == load(tmp_path, GOOD).keys  # those of the same texts with labels


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {"a": sentences(30, 1), "b": sentences(30, 2), "label": rng.integers(0, 2, 30), "idx": np.arange(30)}


def whole(folder, columns, data=None, **fields):
    """Load train and dev rows of a task whose dev rows never change."""
    write(write(folder, columns), GOOD, "validation")
    return load_examples(task(folder, **fields), data)


@pytest.mark.parametrize("seed", range(5))
def test_order_of_the_file_changes_nothing(tmp_path, columns, seed):
    before = whole(tmp_path, columns)
    order = np.random.default_rng(seed).permutation(30)
    after = whole(tmp_path, pa.table(columns).take(order))
    assert after.train.keys == before.train.keys
    assert after.train.texts == before.train.texts
    assert after.train.labels.tolist() == before.train.labels.tolist()
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("labels", "fields"), [(["no", "yes"], {}), (["no", "yes", "yes|no", ""], {"metric": Metric.micro_f1})]
)
def test_order_of_rows_that_differ_by_their_label_alone_changes_nothing(tmp_path, labels, fields, seed):
    rows = [("one", "x", label) for label in labels] + [("two", "y", label) for label in labels]
    found = []
    for order in (range(len(rows)), np.random.default_rng(seed).permutation(len(rows))):
        turned = [rows[place] for place in order]
        columns = dict(zip(("a", "b", "label"), map(list, zip(*turned, strict=True)), strict=True))
        write(write(tmp_path, {**columns, "idx": list(range(len(rows)))}), {**GOOD, "label": ["no"] * 3}, "validation")
        found.append(load_examples(task(tmp_path, **fields)).train)
    assert found[0].labels.tolist() == found[1].labels.tolist()
    assert found[0].fingerprint == found[1].fingerprint
    assert len({str(label) for label in found[0].labels.tolist()}) == len(labels)


def test_every_row_keeps_its_label_when_rows_are_put_in_order(tmp_path, columns):
    train = whole(tmp_path, columns).train
    label_of = dict(zip(zip(columns["a"], columns["b"], strict=True), columns["label"].tolist(), strict=True))
    assert [label_of[pair] for pair in zip(*train.texts, strict=True)] == train.labels.tolist()
    assert len(set(train.keys)) == 30


def test_one_text_changes_one_key_and_the_fingerprint(tmp_path, columns):
    before = whole(tmp_path, columns)
    after = whole(tmp_path, {**columns, "b": [*columns["b"][:-1], "something else"]})
    assert len(set(before.train.keys) & set(after.train.keys)) == 29
    assert after.fingerprint != before.fingerprint


def test_one_label_changes_the_fingerprint_but_no_key(tmp_path, columns):
    before = whole(tmp_path, columns)
    after = whole(tmp_path, {**columns, "label": [1 - columns["label"][0], *columns["label"][1:]]})
    assert after.train.keys == before.train.keys
    assert after.fingerprint != before.fingerprint


def test_label_names_change_every_key(tmp_path, columns):
    before = whole(tmp_path, columns)
    after = whole(tmp_path, columns, head=HeadConfig(label_names=["false", "true"]))
    assert not set(before.train.keys) & set(after.train.keys)
    assert after.fingerprint != before.fingerprint


def test_a_text_does_not_run_over_into_the_next_column(tmp_path):
    assert len(set(load(tmp_path, {**GOOD, "a": ["a b", "a", "ab"], "b": ["c", "b c", "c"]}).keys)) == 3


def test_symmetric_pairs_are_doubled_in_train_only_with_keys_of_their_own(tmp_path):
    single = whole(tmp_path, GOOD, symmetric=True)
    double = whole(tmp_path, GOOD, DataConfig(double_symmetric=True), symmetric=True)
    pairs = dict(zip(zip(*double.train.texts, strict=True), double.train.labels.tolist(), strict=True))
    one_way = {("one", "x"): 0, ("two", "y"): 1, ("three", "z"): 1}
    assert pairs == {**one_way, **{pair[::-1]: label for pair, label in one_way.items()}}
    assert len(set(double.train.keys)) == 6
    assert set(single.train.keys) < set(double.train.keys)
    assert double.dev.keys == single.dev.keys
    assert whole(tmp_path, GOOD, DataConfig(double_symmetric=True)).train.keys == single.train.keys  # not symmetric


def test_generated_task_names_the_splits_it_has():
    fields = task("generated", subset="small_entailment", text=["text_a", "text_b"], train_rows=3, dev_rows=2)
    assert len(load_split(fields, "dev").keys) == 2
    with pytest.raises(ValueError, match=r"'test'.*train.*validation"):
        load_unlabelled("mine", described(fields), "test")


def test_generated_task_names_its_kinds():
    fields = task("generated", subset="sentimental", train_rows=1, dev_rows=1)
    with pytest.raises(ValueError, match=r"^suite\.tasks\.mine\.subset names 'sentimental'; choices: acceptability, "):
        load_split(fields)
