"""Gold labels of multi-label and ordinal tasks from files, and what is refused, with its whole message.

Those of classes and scores are read by the tests of ``sources``."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.data_config import DataConfig, HeadConfig, Metric, TaskConfig
from bam_lightning.config.exceptions import DataError
from bam_lightning.data import examples
from bam_lightning.data.examples import load_unlabelled
from bam_lightning.data.task import Task, task_from_config

TOPICS = HeadConfig(label_names=["art", "sport", "law"])
SETS = [["law", "art"], [], ["sport"]]
ROWS = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
AS_TEXT = ["law|art", "", "sport"]


def task(path, **fields) -> TaskConfig:
    fields = {"text": ["a"], "label": "topics", "head": TOPICS, "metric": Metric.micro_f1, **fields}
    return TaskConfig(path=str(path), **fields)


def write(folder, name, labels, column="topics"):
    """Write three rows and their labels into a file of the kind its name says; return the folder."""
    texts, path = ["one", "two", "three"], folder / name
    if path.suffix == ".parquet":
        parquet.write_table(labels if isinstance(labels, pa.Table) else pa.table({"a": texts, column: labels}), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"a": t, column: own}) for t, own in zip(texts, labels, strict=True)))
    else:
        split = "\t" if path.suffix == ".tsv" else ","
        lines = [f"{text}{split}{own}" for text, own in zip(texts, labels, strict=True)]
        path.write_text("\n".join([f"a{split}{column}", *lines]) + "\n")
    return folder


def load_examples(config, data=None):
    return examples.load_examples("mine", task_from_config("mine", config, data or DataConfig()))


def load(folder, name, labels, **fields):
    described = task_from_config("mine", task(write(folder, name, labels), **fields), DataConfig())
    return examples.load_split("mine", described, "train")


@pytest.mark.parametrize("labels", [SETS, [[2, 0], [], [1]], [["2", "0"], [], ["1"]]])
@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_lists_hold_names_or_ids_of_any_number_of_labels(tmp_path, name, labels):
    found = load(tmp_path, name, labels).labels
    assert (found.tolist(), found.dtype) == (ROWS, np.int64)


@pytest.mark.parametrize("labels", [AS_TEXT, ["2|0", "", "1"], [" law | art", " ", "sport "], ["art|law", "", "sport"]])
@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.jsonl", "train.parquet"])
def test_text_holds_labels_between_separators_and_none_where_it_is_empty(tmp_path, name, labels):
    assert load(tmp_path, name, labels).labels.tolist() == ROWS


@pytest.mark.parametrize("labels", [["2", "", "1"], [2, 0, 1]])
def test_a_csv_in_which_no_row_has_two_labels_is_not_taken_for_numbers(tmp_path, labels):
    expected = [[0, 0, 1], [0, 0, 0] if labels[1] == "" else [1, 0, 0], [0, 1, 0]]
    assert load(tmp_path, "train.csv", labels).labels.tolist() == expected


def test_another_separator_may_be_given(tmp_path):
    labels = ["law; art", "", "sport"]
    assert load(tmp_path, "train.csv", labels, label_separator=";").labels.tolist() == ROWS


def test_label_names_that_are_numbers_are_names_before_they_are_ids(tmp_path):
    head = HeadConfig(label_names=["3", "1", "2"])
    assert load(tmp_path, "train.csv", ["2|3", "", "1"], head=head).labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


UNKNOWN = "label {label} is neither one of art, sport, law nor a class id from 0 to 2; check "
NAMES = "suite.tasks.mine.head.label_names"
SEPARATOR = ", and suite.tasks.mine.label_separator, now '|'"
TWICE = "a row holds the names or ids of its labels, each once (not a 0 or 1 for every label); mend the file"
NONE = (
    ": no row has a label, so it can be neither trained on nor scored; choose another split or label under "
    "suite.tasks.mine"
)
MISSING = (
    "the label is missing (1 of 3 rows has none); give an empty {} where a row has no label, remove such rows, or set "
    "suite.tasks.mine.allow_missing_labels=true: a teacher alone then teaches them"
)
BAD = {
    "unknown name": (
        "csv",
        ["law", "art|slaw", ""],
        ", row 1: " + UNKNOWN.format(label="'slaw'") + NAMES + SEPARATOR + "; did you mean 'law'?",
    ),
    "other separator": (
        "csv",
        ["law;art", "", ""],
        ", row 0: " + UNKNOWN.format(label="'law;art'") + NAMES + SEPARATOR,
    ),
    "nothing between": ("csv", ["law||art", "", ""], ", row 0: " + UNKNOWN.format(label="''") + NAMES + SEPARATOR),
    "unknown name in a list": (
        "parquet",
        [["law"], [], ["Art"]],
        ", row 2: " + UNKNOWN.format(label="'Art'") + NAMES + "; did you mean 'art'?",
    ),
    "id too high": ("jsonl", [[0], [], [3]], ", row 2: " + UNKNOWN.format(label=3) + NAMES),
    "0 and 1 for each": ("parquet", [[1, 0, 0], [1, 0, 1], [0, 0, 1]], f", row 0: label 0 stands there twice; {TWICE}"),
    "twice in a text": ("csv", ["law", "art|law|0", ""], f", row 1: label '0' stands there twice; {TWICE}"),
    "missing list": ("parquet", [["law"], None, []], ", row 1: " + MISSING.format("list")),
    "missing text": ("parquet", ["law", "art", None], ", row 2: " + MISSING.format("text")),
    "one id a row": (
        "parquet",
        [0, 1, 2],
        ": column 'topics' holds int64, but a row of 'mine' may have any number of labels; give lists of names or ids, "
        "or text with the label_separator between them",
    ),
    "no label at all": ("csv", ["", "", ""], NONE),
    "no label in any list": ("jsonl", [[], [], []], NONE),
}


@pytest.mark.parametrize("what", BAD)
def test_label_sets_that_cannot_be_learned_from_are_refused(tmp_path, what):
    ending, labels, said = BAD[what]
    with pytest.raises(ValueError) as caught:
        load(tmp_path, f"train.{ending}", labels)
    assert str(caught.value) == f"task 'mine', {tmp_path}/train.{ending}{said}"


def test_a_name_that_holds_the_separator_is_refused_in_text_but_not_in_lists(tmp_path):
    head = HeadConfig(label_names=["art|music", "sport"])
    assert load(tmp_path, "train.parquet", [["art|music"], [], ["1"]], head=head).labels.tolist() == [
        [1, 0],
        [0, 0],
        [0, 1],
    ]
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(ValueError) as caught:
        load(tmp_path, "train.csv", ["sport", "", ""], head=head)
    assert str(caught.value) == (
        f"task 'mine', {tmp_path}/train.csv: column 'topics' is text, but label 'art|music' of head.label_names holds "
        "its separator '|'; use another in the file and as suite.tasks.mine.label_separator"
    )


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": ["art", "law", "sport"], "_type": "ClassLabel"}, "_type": "List"},
        [{"names": ["art", "law", "sport"], "_type": "ClassLabel"}],  # as older versions of datasets write it
    ],
)
def test_names_of_a_files_own_lists_in_another_order_are_refused(tmp_path, feature):
    rows = pa.table({"a": ["one", "two"], "topics": [[0], [1, 2]]})
    info = {"info": {"features": {"topics": feature, "a": {"dtype": "string", "_type": "Value"}}}}
    with pytest.raises(ValueError) as caught:
        load(tmp_path, "train.parquet", rows.replace_schema_metadata({"huggingface": json.dumps(info)}))
    assert str(caught.value) == (
        f"task 'mine', {tmp_path}/train.parquet: the file's class names are ['art', 'law', 'sport'], but "
        "suite.tasks.mine.head.label_names is ['art', 'sport', 'law']; the order gives the class ids, so they must "
        "agree"
    )


def test_rows_keep_their_sets_when_they_are_put_in_order_or_doubled(tmp_path):
    write(write(tmp_path, "train.csv", AS_TEXT), "validation.csv", AS_TEXT)
    rows = load_examples(task(tmp_path))
    assert dict(zip(rows.train.texts[0], rows.train.labels.tolist(), strict=True)) == dict(
        zip(["one", "two", "three"], ROWS, strict=True)
    )
    assert rows.dev.labels.tolist() == ROWS
    pairs = task(tmp_path, text=["a", "topics"], symmetric=True, allow_empty_text=True)
    both = load_examples(pairs, DataConfig(double_symmetric=True)).train
    assert both.labels.shape == (6, 3)
    of_pair = dict(zip(zip(*both.texts, strict=True), both.labels.tolist(), strict=True))
    assert of_pair["one", "law|art"] == of_pair["law|art", "one"] == ROWS[0]


def test_rows_of_one_text_are_put_in_the_order_of_their_sets(tmp_path):
    """Else the order of the file would decide which comes first, and so what is trained."""
    train, dev = ["one|", "one|art", "one|law"], write(tmp_path, "validation.csv", AS_TEXT)
    found = []
    for order in (train, train[::-1]):
        (tmp_path / "train.csv").write_text("a,topics\n" + "\n".join(line.replace("|", ",") for line in order))
        found.append(load_examples(task(dev)))
    assert found[0].train.labels.tolist() == found[1].train.labels.tolist()
    assert found[0].fingerprint == found[1].fingerprint


def test_one_label_more_changes_the_fingerprint_but_no_key(tmp_path):
    before = load(tmp_path, "train.csv", AS_TEXT)
    after = load(tmp_path, "train.csv", ["law|art", "", "sport|art"])
    assert after.keys == before.keys
    assert after.fingerprint != before.fingerprint


def test_a_test_split_needs_no_labels(tmp_path):
    (tmp_path / "test.csv").write_text("a\none\ntwo\n")
    assert load_unlabelled("mine", task_from_config("mine", task(tmp_path), DataConfig()), "test").texts == (
        ["one", "two"],
    )


def test_grades_are_read_as_classes_are(tmp_path):
    head = HeadConfig(label_names=["1", "2", "3"])
    found = load(tmp_path, "train.csv", [3, 1, 2], head=head, metric=Metric.quadratic_kappa).labels
    assert (found.tolist(), found.dtype) == ([2, 0, 1], np.int64)


@pytest.mark.parametrize(
    ("names", "labels", "ids"),
    [
        (["001", "000"], ["000", "001", "000"], [1, 0, 1]),  # names, though both read as numbers
        (["no", "yes"], ["0.0", "1.0", "1"], [0, 1, 1]),
        (["1", "0"], ["0.0", "1.0", "0"], [1, 0, 1]),
        (["false", "true"], ["True", "FALSE", "true"], [1, 0, 1]),
        (["False", "True"], ["true", "false", "True"], [1, 0, 1]),
        (["1.0", "0.0"], ["0.0", "1.0", "0.0"], [1, 0, 1]),
        (["art", "01"], ["01", "0", "1"], [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_label_is_a_name_before_it_is_a_class_id(tmp_path, ending, names, labels, ids):
    found = load(tmp_path, f"train.{ending}", labels, head=HeadConfig(label_names=names), metric=Metric.accuracy)
    assert found.labels.tolist() == ids


@pytest.mark.parametrize(("names", "ids"), [(["false", "true"], [1, 0, 1]), (["True", "False"], [0, 1, 0])])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_truth_values_have_the_names_true_and_false(tmp_path, ending, names, ids):
    labels = [True, False, True]
    found = load(tmp_path, f"train.{ending}", labels, head=HeadConfig(label_names=names), metric=Metric.accuracy)
    assert found.labels.tolist() == ids


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_truth_values_are_no_class_ids_and_the_remedy_is_said(tmp_path, ending):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, f"train.{ending}", [True, False, True], head=HeadConfig(label_names=["yes", "no"]),
             metric=Metric.accuracy)  # fmt: skip
    assert str(caught.value).endswith(
        "row 0: label True is neither one of yes, no nor a class id from 0 to 1; 3 rows have unknown labels: True, "
        "False; check suite.tasks.mine.head.label_names, or write class ids for truth values"
    )


@pytest.mark.parametrize("labels", [[0.0, 1.0, 1.0], ["0.0", "1.0", "1.0"]])
def test_whole_numbers_may_be_written_with_a_point(tmp_path, labels):
    found = load(tmp_path, "train.parquet", labels, head=HeadConfig(label_names=["no", "yes"]), metric=Metric.accuracy)
    assert found.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["gut", "gutt", "Gut", "x", "y", "y"], "gut schlecht",
         "row 1: label 'gutt' is neither one of gut, schlecht nor a class id from 0 to 1; 5 rows have unknown labels: "
         "'gutt', 'Gut', 'x' and 1 more; check labels; did you mean 'gut'?"),
        (["1", "2", "GUT"], "1 2", "row 2: label 'GUT' is none of 1, 2; check labels"),
        (["neutral", "negative"], "negative positive",
         "row 0: label 'neutral' is neither one of negative, positive nor a class id from 0 to 1; check labels"),
    ],
)  # fmt: skip
def test_unknown_labels_are_counted_and_what_is_near_is_named(labels, names, message):
    given = [{"text": str(row), "label": label} for row, label in enumerate(labels)]
    described = Task.from_list(given, text="text", labels=names.split(), kind="classification")
    with pytest.raises(DataError) as error:
        examples.load_examples("t", described)
    assert str(error.value) == f"task 't', the list (train), {message}"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["1,5", "2", "3,25"], {}, "column 'label' holds numbers with commas, such as 1,5; write 1.5, with a point, in "
         "the file; if they are names, set kind to classification, if several labels, to multi_label and "
         "label_separator to a comma"),
        (["1,000", "2,500", "12"], {"kind": "regression"}, "; write 1000 or 1.000 in the file, whichever is meant"),
        (["1,5", "2", "3,25"], {"kind": "regression"}, "label '1,5' is not a number, as a regression task needs; "
         "write 1.5, with a point, in the file"),
        (["1", "2", "3,25"], {"range": [1, 4]}, "row 2: label '3,25' is not a number from 1 to 4 (range); write 3.25, "
         "with a point, in the file"),
    ],
)  # fmt: skip
def test_decimal_commas_are_named(labels, options, message):
    rows = [{"text": text, "label": label} for text, label in zip("abc", labels, strict=True)]
    with pytest.raises(DataError) as caught:
        examples.load_examples("mine", Task.from_list({"train": rows, "dev": rows}, text="text", **options))
    assert str(caught.value).endswith(message)


def test_classes_may_look_like_numbers_with_commas():
    rows = [{"text": text, "label": label} for text, label in zip("abc", ["1,5", "2", "3,25"], strict=True)]
    found = examples.load_examples(
        "mine", Task.from_list({"train": rows, "dev": rows}, text="text", kind="classification")
    )
    assert found.label_names == ["1,5", "2", "3,25"]
