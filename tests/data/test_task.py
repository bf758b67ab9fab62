"""Tasks made in Python: every source, what is inferred and said, and the dev split that is cut."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from pyarrow import parquet

import bam_lightning as bam
from bam_lightning.config.data_config import DataConfig, HeadConfig, TaskConfig
from bam_lightning.data.examples import load_examples, load_split
from bam_lightning.data.task import task_from_config
from conftest import sentences

ROWS = {"a": ["one", "two", "three", "four"], "b": ["w", "x", "y", "z"], "label": ["no", "yes", "yes", "no"]}
AS_LIST = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
SPLITS = {"train": AS_LIST, "validation": AS_LIST[:2]}


def write(folder, name, columns):
    parquet.write_table(pa.table(columns), folder / name)
    return folder / name


def made(tmp_path) -> dict[str, bam.Task]:
    """Return the same task from every source, with a dev split of its own."""
    half = {name: column[:2] for name, column in ROWS.items()}
    files = {"train": write(tmp_path, "train.parquet", ROWS), "validation": write(tmp_path, "dev.parquet", half)}
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, "train.parquet", ROWS)
    write(folder, "validation.parquet", half)
    sets = DatasetDict({"train": Dataset.from_dict(ROWS), "validation": Dataset.from_dict(half)})
    frames = {"train": pd.DataFrame(ROWS), "validation": pd.DataFrame(half)}
    return {
        "files": bam.Task.from_file(files, text=["a", "b"]),
        "folder": bam.Task.from_file(folder, text=["a", "b"]),
        "list": bam.Task.from_list(SPLITS, text=["a", "b"]),
        "pandas": bam.Task.from_pandas(frames, text=["a", "b"]),
        "datasets": bam.Task.from_dataset(sets, text=["a", "b"]),
    }


def test_every_source_gives_the_same_rows_as_a_configured_task(tmp_path):
    config = TaskConfig(
        str(tmp_path / "folder"), text=["a", "b"], head=HeadConfig(label_names=["no", "yes"]), test_split=None
    )
    tasks = made(tmp_path)
    expected = load_examples("mine", task_from_config("mine", config, DataConfig()))
    for source, task in tasks.items():
        for copy in (task, pickle.loads(pickle.dumps(task))):
            found = load_examples("mine", copy)
            assert found.fingerprint == expected.fingerprint, source
            assert found.train.keys == expected.train.keys
            assert [list(column) for column in found.train.texts] == [list(column) for column in expected.train.texts]
            assert found.test is None
            assert (found.task.kind, found.label_names, found.task.metric) == (
                "classification",
                ["no", "yes"],
                "accuracy",
            )


def of(column, **options) -> bam.Task:
    """Return a task with the given label column, its training rows being its dev rows too."""
    rows = [{"a": f"text {n}", "label": label} for n, label in enumerate(column)]
    return bam.Task.from_list({"train": rows, "validation": rows}, text="a", **options)


@pytest.mark.parametrize(
    ("labels", "options", "kind", "names", "span", "metric"),
    [
        (["b", "a", "b"], {}, "classification", ["a", "b"], None, "accuracy"),
        ([10, 9, 10], {}, "classification", ["9", "10"], None, "accuracy"),
        ([True, False], {}, "classification", ["False", "True"], None, "accuracy"),
        (["10", "9", "10"], {}, "classification", ["9", "10"], None, "accuracy"),
        (["001", "000"], {}, "classification", ["000", "001"], None, "accuracy"),
        ([0.5, 4.0, 2.0], {}, "regression", [], (0.5, 4.0), "spearman"),
        (["0.5", "4"], {}, "regression", [], (0.5, 4.0), "spearman"),
        ([1, 2, 5], {"kind": "regression"}, "regression", [], (1.0, 5.0), "spearman"),
        ([1, 2], {"range": [0, 9]}, "regression", [], (0.0, 9.0), "spearman"),
        ([3, 1, 2], {"kind": "ordinal"}, "ordinal", ["1", "2", "3"], None, "quadratic_kappa"),
        ([["x"], ["y", "x"], []], {}, "multi_label", ["x", "y"], None, "micro_f1"),
        (["x|y", "", "y"], {"kind": "multi_label"}, "multi_label", ["x", "y"], None, "micro_f1"),
        (["yes", "no"], {"labels": ["yes", "no"]}, "classification", ["yes", "no"], None, "accuracy"),
        (["b", "a"], {"metric": "matthews"}, "classification", ["a", "b"], None, "matthews"),
    ],
)
def test_kind_names_and_range_are_inferred_from_the_labels(labels, options, kind, names, span, metric):
    found = load_examples("mine", of(labels, **options))
    assert (found.task.kind, found.label_names, found.label_range, found.task.metric) == (kind, names, span, metric)
    head = found.task.head_config
    assert (head["label_names"], head["label_range"]) == (names, list(span or ()))
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"task 'mine': {kind} ")


@pytest.mark.parametrize("names", [["pos", "neg"], ["z", "m", "a"]])
def test_names_and_order_of_a_class_label_feature_are_kept(names):
    features = Features({"a": Value("string"), "label": ClassLabel(names=names)})
    rows = Dataset.from_dict({"a": ["x", "y", "z"], "label": [0, 1, 1]}, features=features)
    found = load_examples("mine", bam.Task.from_dataset({"train": rows, "validation": rows}, text="a"))
    assert found.label_names == names
    assert found.dev.labels.tolist() == [0, 1, 1]


def test_a_list_of_class_labels_is_multi_label():
    features = Features({"a": Value("string"), "label": Sequence(ClassLabel(names=["q", "p"]))})
    rows = Dataset.from_dict({"a": ["x", "y"], "label": [[0], [1, 0]]}, features=features)
    found = load_examples("mine", bam.Task.from_dataset({"train": rows, "validation": rows}, text="a"))
    assert (found.task.kind, found.label_names) == ("multi_label", ["q", "p"])
    assert found.dev.labels.tolist() == [[1, 0], [1, 1]]


def test_a_filtered_data_set_gives_the_rows_it_shows():
    rows = Dataset.from_dict({"a": ["x", "y", "z"], "label": ["p", "q", "r"]}).select([2, 0])
    found = load_examples("mine", bam.Task.from_dataset({"train": rows, "validation": rows}, text="a"))
    assert list(found.dev.texts[0]) == ["z", "x"]
    assert found.label_names == ["p", "r"]


def test_dev_scores_outside_an_inferred_range_are_accepted_and_outside_a_given_one_refused():
    rows = {"train": [{"a": "x", "label": 1.0}, {"a": "y", "label": 2.0}], "validation": [{"a": "z", "label": 3.0}]}
    assert load_examples("mine", bam.Task.from_list(rows, text="a")).dev.labels.tolist() == [3.0]
    with pytest.raises(ValueError) as caught:
        load_examples("mine", bam.Task.from_list(rows, text="a", range=(0, 2.5)))
    assert (
        str(caught.value)
        == "task 'mine', the list (validation), row 0: label 3.0 is not a number from 0 to 2.5 (range)"
    )


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (["a"] * 3, {}, "all labels are 'a'; a classification task needs at least 2; give all names with labels"),
        ([2.0, 2.0], {}, "all labels are 2; give the range with range=[lowest, highest]"),
        (["x", "y"], {"kind": "regression"}, "label 'x' is not a number, as a regression task needs"),
        (["low", "high"], {"kind": "ordinal"},
         "the order of high, low is not known; give all names from lowest to highest with labels"),
        ([f"t{n}" for n in range(1001)], {},
         "column 'label' has 1,001 different labels in 1,001 rows; choose another column with label, or a number to "
         "predict with kind='regression'"),
        ([None, None], {},
         "column 'label' has no label; choose another with label, or, if a teacher alone is to teach the task, name "
         "the classes with labels, and the kind with kind unless it is classification"),
        ([None, None], {"kind": "ordinal"},
         "column 'label' has no label; choose another with label, or, if a teacher alone is to teach the task, name "
         "the classes with labels"),
        ([None, None], {"kind": "regression"},
         "column 'label' has no label; choose another with label, or, if a teacher alone is to teach the task, give "
         "the range with range=[lowest, highest]"),
    ],
)  # fmt: skip
def test_labels_from_which_nothing_can_be_inferred_are_refused(labels, options, said):
    with pytest.raises(ValueError) as caught:
        load_examples("mine", of(labels, **options))
    assert str(caught.value) == f"task 'mine', the list (train): {said}"


def many(count, seed=0, labels=("a", "b", "c")):
    drawn = np.random.default_rng(seed).choice(3, count, p=[0.6, 0.3, 0.1])
    texts = sentences(min(count, 2000), seed)
    return [{"a": f"{texts[n % len(texts)]} {n}", "label": labels[label]} for n, label in enumerate(drawn)]


def split_of(rows, seed=0):
    found = load_examples("mine", bam.Task.from_list(rows, text="a"), seed)
    return found, set(found.train.texts[0]), set(found.dev.texts[0])


@pytest.mark.parametrize(("count", "dev"), [(60, 20), (300, 50), (1000, 100)])
def test_a_dev_split_is_cut_a_tenth_at_least_50_and_never_more_than_a_third(count, dev):
    found, train, held_out = split_of(many(count))
    assert len(held_out) == dev
    assert not train & held_out
    assert len(train) + len(held_out) == count
    assert "no dev split, so" in found.notes[-1]


@pytest.mark.parametrize("labels", ["abca", "abcd", "aabb", "aaab", "abcda" * 2])
def test_a_tiny_set_has_dev_rows_too(labels):
    found, train, held_out = split_of([{"a": f"text {n}", "label": label} for n, label in enumerate(labels)])
    assert len(held_out) == len(labels) // 3
    assert len(train) == len(labels) - len(held_out)
    assert len(found.dev.labels) == len(held_out)


@pytest.mark.release
def test_no_more_than_5000_rows_are_cut():
    found, _, held_out = split_of(many(60_000))
    assert len(held_out) == 5_000
    assert found.dev.keys == sorted(found.dev.keys)


def test_the_cut_is_stratified():
    found, _, _ = split_of(many(2000))
    for part in (found.train, found.dev):
        shares = np.bincount(part.labels, minlength=3) / len(part.labels)
        np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.03)
    whole = np.bincount(np.concatenate([found.train.labels, found.dev.labels]))
    np.testing.assert_allclose(np.bincount(found.dev.labels), whole * 200 / 2000, atol=1)


def test_the_cut_follows_content_and_seed_not_the_order_of_rows():
    rows = many(400)
    _, train, held_out = split_of(rows)
    turned = [rows[place] for place in np.random.default_rng(1).permutation(400)]
    assert split_of(turned)[1:] == (train, held_out)
    assert split_of(rows, seed=1)[2] != held_out


def test_rows_of_one_text_are_on_one_side_of_the_cut():
    rows = many(200) * 2 + [{**row, "label": "b"} for row in many(200)]
    found, train, held_out = split_of(rows)
    assert not train & held_out
    assert len(found.train.keys) + len(found.dev.keys) == 600


def test_a_config_whose_file_is_all_there_is_has_a_dev_split_cut_from_it(tmp_path):
    lines = ["text;label", *(f"a text number {n};{'yes' if n % 2 else 'no'}" for n in range(90))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    head = HeadConfig("bam_lightning.ClassificationHead", ["no", "yes"])
    config = TaskConfig(path=str(tmp_path / "mine.csv"), text=["text"], head=head, dev_split=None, test_split=None)
    config.check("task")
    rows = load_examples("mine", task_from_config("mine", config, DataConfig()))
    assert (len(rows.train.keys), len(rows.dev.keys)) == (60, 30)
    assert not set(rows.train.keys) & set(rows.dev.keys)
    assert "no dev split, so 30 of 90 training rows were set aside" in rows.notes[-1]


def test_too_few_rows_to_cut_a_dev_split_are_refused():
    with pytest.raises(ValueError, match=r"^task 'mine', the list \(train\): 2 different rows are too few to set some"):
        split_of([{"a": "x", "label": "p"}, {"a": "y", "label": "q"}, {"a": "x", "label": "q"}])


def test_a_test_split_is_read_with_its_labels_or_without():
    rows = {**SPLITS, "test": AS_LIST[1:2]}
    assert load_examples("mine", bam.Task.from_list(rows, text="a")).test.labels.tolist() == [1]
    rows["test"] = [{"a": "five"}]
    found = load_examples("mine", bam.Task.from_list(rows, text="a"))
    assert (found.test.labels.tolist(), found.test.texts) == ([-1], (["five"],))


def test_splits_may_have_other_usual_names_and_names_of_ones_own():
    for names, options in (("train", "dev"), {}), (("t", "d"), {"split": {"train": "t", "dev": "d"}}):
        rows = dict(zip(names, (AS_LIST, AS_LIST[:1]), strict=True))
        found = load_examples("mine", bam.Task.from_list(rows, text="a", **options))
        assert (len(found.train.keys), len(found.dev.keys)) == (4, 1)


def test_a_symmetric_task_is_also_trained_on_its_pairs_in_the_other_order():
    found = load_examples("mine", bam.Task.from_list(SPLITS, text=["a", "b"], symmetric=True))
    assert (len(found.train.keys), len(found.dev.keys)) == (8, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bam.Task.from_list([], text=[]), "text must name columns, got []"),
        (lambda: bam.Task.from_list([], text="a", kind="classes"),
         "kind names 'classes'; choices: classification, regression, ordinal, multi_label"),
        (lambda: bam.Task.from_list([], text="a", lable="x"), "the options of Task names 'lable'; choices: "),
        (lambda: bam.Task.from_list([], text="a", labels=["x", "x"]),
         "labels must be at least 2 different names, got ['x', 'x']"),
        (lambda: bam.Task.from_list([], text="a", range=[2, 1]), "range must be [lowest, highest], got [2.0, 1.0]"),
        (lambda: bam.Task.from_list([], text="a", labels=["x", "y"], range=[0, 1]),
         "give either labels or range, not both"),
        (lambda: bam.Task.from_list([], text="a", kind="regression", metric="f1"),
         "metric names 'f1'; choices: spearman"),
        (lambda: bam.Task.from_list([], text="a", split={"validation": "x"}),
         "split names 'validation'; choices: train, dev, test"),
        (lambda: bam.Task.from_file("a.csv", text="a", delimiter=";;"), "delimiter must be one character, got ';;'"),
        (lambda: bam.Task.from_list([], text="a", symmetric=True), "symmetric needs two text columns, got ['a']"),
        (lambda: bam.Task.from_list([], text="a", dropout=1.0), "dropout must be in [0, 1), got 1.0"),
        (lambda: bam.Task.from_list(["x"], text="a"), "split 'train', row 0 must be a dictionary, got str"),
        (lambda: bam.Task.from_list([{"a": "x"}, {"a": 1}], text="a"),
         "split 'train': column 'a' holds values of several types (int, str); convert them to one type first"),
        (lambda: load_examples("mine", bam.Task.from_list([{"b": "x", "label": 1}], text="a")),
         "task 'mine', the list (train): no column 'a'; columns there: b, label; set text=, label= or id_column="),
        (lambda: load_examples("mine", bam.Task.from_list([{None: ["x"], 3: "x", "label": 1}], text="a")),
         "task 'mine', the list (train): no column 'a'; columns there: None, 3, label; set text=, label= or id_col"),
        (lambda: load_examples("mine", bam.Task.from_list(AS_LIST, text="a", split={"train": "t"})),
         "task 'mine': the list has no split 't'; splits: train; name one with split={'train': ..., 'dev': ..., "
         "'test': ...}"),
        (lambda: load_examples("mine", bam.Task.from_list({"x": AS_LIST}, text="a")),
         "task 'mine': no train split; splits there: x; name one with split={'train': ...}"),
        (lambda: load_examples("mine", bam.Task.from_file("nowhere.csv", text="a")),
         "task 'mine': no file /"),
        (lambda: load_examples("mine", of(["a", "b"], labels=["a", "c"])),
         "task 'mine', the list (train), row 1: label 'b' is neither one of a, c nor a class id from 0 to 1; check "
         "labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_task_is_refused_in_the_words_of_its_keywords(call, said):
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    assert str(caught.value).startswith(said)


def test_a_head_of_ones_own_is_kept():
    task = of(["a", "b"], head={"_target_": "my.Head", "size": 3}, dropout=0.2)
    assert load_examples("mine", task).task.head_config == {
        "_target_": "my.Head",
        "label_names": ["a", "b"],
        "label_range": [],
        "dropout": 0.2,
        "size": 3,
    }
    assert load_examples("mine", of(["a", "b"], head=print)).task.head_config is print


def test_one_split_of_a_task_can_be_read_alone():
    assert load_split("mine", of(["a", "b"], kind="classification", labels=["a", "b"]), "dev").labels.tolist() == [0, 1]
