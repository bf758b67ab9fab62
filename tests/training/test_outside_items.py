"""Files of predictions of words, choices and answers teach like the arrays they came from, or are refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_kinds import kinds

import bam_lightning as bam
from bam_lightning.data.items import word_counts
from bam_lightning.data.teacher_columns import Column
from bam_lightning.models.batch import ABSENT
from bam_lightning.store.ragged import Ragged
from bam_lightning.training.distillation import combine_columns

NAMES = ("tags", "choice", "answer")
CLASSES = {"tags": ["B-N", "O"], "choice": (), "answer": ["start", "end"]}
OPTIONS = {"check_agreement": False}


def data_of(still_bert, tmp_path) -> bam.MultiTaskDataModule:
    return bam.MultiTaskDataModule(
        kinds(12, names=NAMES), still_bert, batch_size=12, max_length=64, cache_dir=tmp_path, seed=0
    )


@pytest.fixture
def data(still_bert, tmp_path):
    return data_of(still_bert, tmp_path)


def predictions(data, name: str) -> list[np.ndarray]:
    """Return random logits of each training row: ``[w, 2]`` of its words, ``[w]`` of its choices."""
    split, rng = data.rows[name].train, np.random.default_rng(3)
    if name == "choice":
        return [rng.normal(size=sum(map(bool, row))).astype(np.float32) for row in zip(*split.texts[1:], strict=True)]
    return [rng.normal(size=(count, 2)).astype(np.float32) for count in word_counts(split)]


def softmax(name: str, part: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(part).double(), -1 if name == "tags" else 0).numpy()


def as_array(data, name: str, parts: list[np.ndarray]):
    if name != "choice":
        return Ragged.from_rows(parts, np.float32, (2,))
    found = np.full((len(parts), len(data.rows[name].task.labels)), ABSENT, dtype=np.float32)
    for row, part in enumerate(parts):
        found[row, : len(part)] = part
    return found


def table_of(data, name: str, column: str, parts: list) -> pd.DataFrame:
    """Return a file's table with the raw columns of the task, rows in another order."""
    texts, columns = data.rows[name].train.texts, {}
    if name == "choice":
        columns["question"] = list(texts[0])
        columns["options"] = [[text for text in row if text] for row in zip(*texts[1:], strict=True)]
    elif name == "tags":
        columns["tokens"] = [text.split() for text in texts[0]]
    else:
        columns |= {"question": list(texts[0]), "context": list(texts[1])}
    columns[column] = [part.tolist() if isinstance(part, np.ndarray) else part for part in parts]
    return pd.DataFrame(columns).sample(frac=1, random_state=1)


def write(table: pd.DataFrame, path: str) -> None:
    if path.endswith("parquet"):
        table.to_parquet(path)
    elif path.endswith("jsonl"):
        table.to_json(path, orient="records", lines=True, double_precision=15)
    else:  # lists as JSON text; words with white space between them
        said = table.map(lambda cell: json.dumps(cell) if isinstance(cell, list) else cell)
        if "tokens" in table:
            said["tokens"] = table["tokens"].map(" ".join)
        said.to_csv(path, index=False)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_logits_is_the_column_it_came_from(data, name, kind):
    if (name, kind) == ("choice", "csv"):
        pytest.skip("a CSV has no lists of choices")
    parts = predictions(data, name)
    write(table_of(data, name, "logits", parts), f"file.{kind}")
    data.teach(name, f"file.{kind}", classes=CLASSES[name], **OPTIONS)
    found, expected = data.train_examples()[name], as_array(data, name, parts)
    assert found.has_teacher is None
    for one, other in ((found.teacher, expected),) if name == "choice" else (
        (found.teacher.values, expected.values), (found.teacher.offsets, expected.offsets),
    ):  # fmt: skip
        assert np.allclose(one, other, rtol=1e-6, atol=0)


def losses(data, lam: float = 0.25, **options) -> dict[str, float]:
    module = bam.BamModule(data, seed=0, **options)
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        return {task: float(loss) for task, loss in module.task_losses(batch, lam).items()}


def test_files_of_probabilities_have_the_loss_of_their_logits(data, still_bert, tmp_path):
    outside = data_of(still_bert, tmp_path)
    for name in NAMES:
        parts = predictions(data, name)
        data.teach(name, as_array(data, name, parts))
        soft = [softmax(name, part) for part in parts]
        table = table_of(data, name, "probabilities", soft)
        if name == "answer":  # two columns of lists
            table = table.assign(
                p_start=[[first for first, _ in words] for words in table.probabilities],
                p_end=[[last for _, last in words] for words in table.probabilities],
            ).drop(columns="probabilities")
        table.to_parquet(f"{name}.parquet")
        outside.teach(name, f"{name}.parquet", classes=CLASSES[name] if name == "tags" else (), **OPTIONS)
    assert losses(outside) == pytest.approx(losses(data), rel=1e-6)


def test_answers_of_a_language_model_teach_tags_and_choices(data):
    truth = {}
    for name in ("tags", "choice"):
        split = data.rows[name].train
        names = data.rows[name].task.labels
        rows = split.labels.row if name == "tags" else split.labels.__getitem__
        truth[name] = [np.asarray(names)[rows(row)].tolist() for row in range(len(split.keys))]
        table = table_of(data, name, "answer", truth[name])
        table.to_json(f"{name}.jsonl", orient="records", lines=True)
        data.teach(name, f"{name}.jsonl", labels="answer")  # what agrees with gold
    examples = data.train_examples()
    tags, choice = examples["tags"], examples["choice"]
    assert (tags.teacher.values.argmax(-1) == tags.labels.values).all()
    assert set(np.unique(tags.teacher.values)) == {-1e3, 0.0}  # of probabilities 0 and 1
    assert (choice.teacher_target.argmax(-1) == choice.labels).all()


def test_words_and_rows_without_a_prediction_learn_from_gold(data):
    parts = [part.tolist() for part in predictions(data, "tags")]
    parts[0][0] = None
    parts[1] = None
    table = table_of(data, "tags", "logits", parts)
    table.to_json("file.jsonl", orient="records", lines=True)
    with pytest.raises(bam.DataError, match="1 of 12 training rows have no prediction"):
        data.teach("tags", "file.jsonl", classes=CLASSES["tags"], **OPTIONS)
    data.teach("tags", "file.jsonl", classes=CLASSES["tags"], missing="gold", **OPTIONS)
    examples = data.train_examples()["tags"]
    assert examples.has_teacher.tolist() == [True, False, *[True] * 10]
    part = next(iter(data.train_dataloader())).tasks["tags"]
    place = part.row_ids.tolist()
    words = part.has_teacher.split(part.offsets.diff().tolist())
    if 0 in place:
        assert words[place.index(0)].tolist() == [False] + [True] * (len(words[place.index(0)]) - 1)
    if 1 in place:
        assert not words[place.index(1)].any()


def test_the_same_text_twice_is_averaged_if_asked_for(data):
    parts = predictions(data, "tags")
    one, two = table_of(data, "tags", "logits", parts), table_of(data, "tags", "logits", [part + 1 for part in parts])
    pd.concat([one, two]).to_parquet("file.parquet")
    with pytest.raises(bam.DataError, match="but have different predictions"):
        data.teach("tags", "file.parquet", classes=CLASSES["tags"], **OPTIONS)
    data.teach("tags", "file.parquet", classes=CLASSES["tags"], duplicates="mean", **OPTIONS)
    mean = as_array(data, "tags", [part + 0.5 for part in parts])
    assert np.allclose(data.train_examples()["tags"].teacher.values, mean.values, atol=1e-6)


def malform(name: str, parts: list, how: str) -> list:
    parts = [part.tolist() for part in parts]
    if how == "short":
        parts[3] = parts[3][:-1]
    elif how == "number":
        parts[3] = {"O": 1.5}
    elif how == "nan":
        parts[3][0] = float("nan") if name == "choice" else [float("nan"), 0.0]
    elif how == "width":
        parts[3][0] = [0.1, 0.2, 0.7]
    elif how == "gap":
        parts[3][0] = None
    return parts


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("tags", "short", r"row \d+: \d+ predictions, but the training row with its text has \d+ words; give one for"),
        ("choice", "short", r"row \d+: \d predictions, but the training row with its text has \d choices; give one"),
        ("answer", "short", r"row \d+: \d+ predictions, but the training row with its text has \d+ words"),
        ("tags", "number", r"row \d+: column 'logits' holds {.O.: 1.5}; give a list with an entry for each word"),
        ("choice", "number", r"row \d+: column 'logits' holds {.O.: 1.5}; give a list with an entry for each choice"),
        ("tags", "nan", r"row \d+, word 0: logits \[nan, 0.0\] are not all finite numbers"),
        ("tags", "width", r"row \d+, word 0: column 'logits' has 3 numbers, expected 2"),
        ("answer", "gap", r"row \d+, word 0: a number is missing; give each one, or an empty row"),
        ("choice", "gap", r"row \d+, choice 0: a number is missing"),
    ],
)
def test_lists_that_do_not_fit_the_row_are_refused(data, name, how, message):
    table = table_of(data, name, "logits", predictions(data, name))
    parts = malform(name, predictions(data, name), how)
    table["logits"] = table.index.map(lambda row: json.dumps(parts[row]))
    table.to_json("file.jsonl", orient="records", lines=True)
    with pytest.raises(bam.DataError, match=message) as caught:
        data.teach(name, "file.jsonl", classes=CLASSES[name], **OPTIONS)
    assert str(caught.value).startswith(f"teacher of {name!r}, file.jsonl")


def test_probabilities_sum_to_one_over_classes_or_over_the_row(data):
    for name, message in (("tags", r"row \d+, word \d+: the probabilities"), ("answer", r"row \d+, word 0: the prob")):
        parts = [2 * softmax(name, part) / 3 for part in predictions(data, name)]
        table_of(data, name, "probabilities", parts).to_parquet("file.parquet")
        with pytest.raises(bam.DataError, match=message + r".* sum to 0\.6667, not to 1"):
            data.teach(name, "file.parquet", classes=CLASSES[name], **OPTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_of_other_rows_are_refused(data, name):
    parts = predictions(data, name)
    split = data.rows[name].train
    counts = [len(part) for part in parts]
    rng = np.random.default_rng(0)
    labels = data.rows[name].train.labels
    wrong = []
    for row, count in enumerate(counts):  # the label that gold does not have
        if name == "tags":
            wrong.append(np.eye(2)[1 - labels.row(row)])
        elif name == "choice":
            wrong.append(np.eye(count)[(labels[row] + 1) % count])
        else:
            wrong.append(rng.normal(size=(count, 2)))
    assert len(split.keys) == len(wrong)
    table_of(data, name, "logits", [5 * part for part in wrong]).to_parquet("file.parquet")
    with pytest.raises(bam.DataError, match=r"agreement is [\d,]+ of [\d,]+ labels, no better than"):
        data.teach(name, "file.parquet", classes=CLASSES[name])


HEADS = {
    "classification": bam.ClassificationHead(4, ["a", "b", "c"]),
    "ordinal": bam.OrdinalHead(4, ["a", "b", "c"]),
    "multi_label": bam.MultiLabelHead(4, ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_temperature_acts_on_the_logarithm_of_probabilities_and_zeros_stay_zero(kind):
    values = np.float32([[0.0, 0.2, 0.8], [0.0, 0.0, 1.0]])
    head = HEADS[kind]
    taught = combine_columns("t", kind, [Column("probabilities", values)], [1.0], head, temperature=2.0)
    assert taught.teacher_target is None
    softened = head.to_target_space(torch.from_numpy(taught.teacher) / 2).numpy()
    if kind == "classification":
        powers = np.sqrt(values)
        expected = powers / powers.sum(1, keepdims=True)
    else:
        yes = np.float32([[1.0, 0.8], [1.0, 1.0]]) if kind == "ordinal" else values
        expected = np.sqrt(yes) / (np.sqrt(yes) + np.sqrt(1 - yes))
    assert softened == pytest.approx(expected, abs=1e-6)


def test_a_task_with_a_temperature_learns_from_probabilities_as_from_their_logits(still_bert, tmp_path):
    task = kinds(12, names=("mood",), temperature=2.0)
    data = [bam.MultiTaskDataModule(task, still_bert, max_length=32, cache_dir=tmp_path, seed=0) for _ in range(2)]
    logits = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    soft = torch.softmax(torch.from_numpy(logits), -1).numpy()
    table = pd.DataFrame(soft, columns=["p_bad", "p_good"]).assign(text=list(data[0].rows["mood"].train.texts[0]))
    table.to_csv("mood.csv", index=False)
    data[0].teach("mood", logits)
    data[1].teach("mood", "mood.csv", **OPTIONS)
    assert losses(data[1]) == pytest.approx(losses(data[0]), rel=1e-6)


class SquareHead(bam.RegressionHead):
    """A head of one's own, whose outputs are squares."""

    def to_target_space(self, logits):
        return logits.square()


def test_a_temperature_that_cannot_act_is_refused_before_training(still_bert, tmp_path):
    head = {"_target_": f"{__name__}.SquareHead"}
    task = kinds(12, names=("size",), temperature=2.0, head=head)
    data = bam.MultiTaskDataModule(task, still_bert, max_length=32, cache_dir=tmp_path, seed=0)
    split = data.rows["size"].train
    pd.DataFrame({"text": list(split.texts[0]), "stars": split.labels}).to_csv("size.csv", index=False)
    with pytest.raises(bam.ConfigError, match="a temperature other than 1 needs a teacher's logits"):
        data.teach("size", "size.csv", values="stars")
