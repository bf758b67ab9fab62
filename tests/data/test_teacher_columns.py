"""A file of predictions becomes a teacher's column: matched by content, in every form, or refused with a sentence."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.teacher_config import TeacherSource, teacher_sources
from bam_lightning.data.examples import TaskExamples, load_examples
from bam_lightning.data.task import Task
from bam_lightning.training.distillation import read_teacher

TEXTS = [f"text number {number}" for number in range(30)]
LABELS = ["neg", "pos", "mid"]


def rows_of(task: Task):
    examples = load_examples("topic", task)
    return examples.task, examples.train


@pytest.fixture
def topic():
    """The checked rows of a task of three classes; every third row has the same label."""
    rows = [{"text": text, "label": LABELS[number % 3], "key": number} for number, text in enumerate(TEXTS)]
    dev = [{"text": f"dev {label}", "label": label, "key": n} for n, label in enumerate(LABELS)]
    return rows_of(Task.from_list({"train": rows, "dev": dev}, text="text", labels=["neg", "mid", "pos"]))


def frame(shift: int = 0) -> pd.DataFrame:
    """Return probabilities, of which the label of the row has the most; rows in another order than the task's."""
    rng = np.random.default_rng(0)
    values = rng.dirichlet([1, 1, 1], len(TEXTS)) / 4
    for number in range(len(TEXTS)):
        values[number, ["neg", "mid", "pos"].index(LABELS[(number + shift) % 3])] += 0.75
    table = pd.DataFrame(values, columns=["p_neg", "p_mid", "p_pos"])
    return table.assign(text=TEXTS).sample(frac=1, random_state=1)


def expected(train, table: pd.DataFrame) -> np.ndarray:
    by_text = table.set_index("text")[["p_neg", "p_mid", "p_pos"]]
    return by_text.loc[list(train.texts[0])].to_numpy()


def read(topic, table: pd.DataFrame | str, name: str = "llm.parquet", alone: bool = True, **options):
    if isinstance(table, str):
        with open(name, "w") as file:
            file.write(table)
    elif name.endswith("csv"):
        table.to_csv(name, index=False)
    elif name.endswith("jsonl"):
        table.to_json(name, orient="records", lines=True)
    else:
        table.to_parquet(name)
    (source,) = teacher_sources("teachers.topic", name, **options)
    task, train = topic
    return read_teacher("topic", TaskExamples(train, train, None, task, []), source, alone)


def test_classes_names_the_classes_of_columns_in_their_order_unless_the_columns_name_them(topic):
    other = frame().rename(columns={"p_neg": "p_bad", "p_mid": "p_fair", "p_pos": "p_good"})
    order = ["neg", "mid", "pos"]
    for table, classes in ((other, order), (other[["p_good", "p_bad", "p_fair", "text"]], ["pos", "neg", "mid"])):
        assert read(topic, table, classes=classes).values == pytest.approx(expected(topic[1], frame()), abs=1e-6)
    assert read(topic, frame(), classes=order[::-1]).values == pytest.approx(expected(topic[1], frame()), abs=1e-6)


def answers(**changes) -> pd.DataFrame:
    """Return labels with a confidence of 0.8, and of 1 in the first row."""
    table = pd.DataFrame({"text": TEXTS, "answer": [LABELS[n % 3].title() for n in range(len(TEXTS))], "sure": 0.8})
    table.loc[0, "sure"] = 1.0
    return table.assign(**changes)


def test_a_label_has_its_confidence_and_the_other_classes_the_rest(topic):
    train = topic[1]
    values = read(topic, answers(), labels="answer", confidence="sure").values
    own = values[np.arange(len(TEXTS)), train.labels]
    first = train.texts[0].index(TEXTS[0])
    assert own == pytest.approx([1.0 if row == first else 0.8 for row in range(len(TEXTS))])
    assert sorted(values[first - 1]) == pytest.approx([0.1, 0.1, 0.8])
    softer = read(topic, answers(), labels="answer", confidence="sure", temperature=2.0).values
    assert sorted(softer[first - 1]) == pytest.approx(np.sqrt([0.1, 0.1, 0.8]) / np.sqrt([0.1, 0.1, 0.8]).sum())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"sure": 93}, {}, r"row 0: column 'sure' holds 93; expected a probability from 0 to 1; divide percentages"),
        ({"sure": [None, *[0.5] * 29]}, {}, r"row 0: column 'sure' is empty, but there is a label; fill it, or empty"),
        ({"sure": -0.1}, {}, r"row 0: column 'sure' holds -0\.1; expected a probability from 0 to 1$"),
        ({"sure": "high"}, {}, r"row 0: column 'sure' holds 'high', not a number$"),
        (
            {"sure": "0,93"},
            {},
            r"row 0: column 'sure' holds '0,93', not a number; write 0\.93, with a point, in the file$",
        ),
        ({}, {"confidence": "none"}, r"no column 'none' for confidence; columns there: text, answer, sure$"),
        (
            {},
            {"labels": None},
            r"^teachers\.topic\.confidence is the column of a label's probability; name .* labels=$",
        ),
        (
            {},
            {"confidence": None, "temperature": 2.0},
            r"^teachers\.topic\.temperature is for logits and probabilities",
        ),
    ],
)
def test_a_confidence_that_is_none_is_refused(topic, changes, options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        read(topic, answers(**changes), **{"labels": "answer", "confidence": "sure", **options})


def test_confidence_is_for_one_class_of_several():
    rows = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(TEXTS)]
    several = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text", kind="multi_label"))
    with pytest.raises(
        DataError, match=r"confidence is for labels of classification and ordinal tasks, not of multi_label$"
    ):
        read(several, answers(), labels="answer", confidence="sure")


@pytest.mark.parametrize("name", ["llm.parquet", "llm.csv", "llm.jsonl"])
def test_rows_in_any_order_are_matched_by_their_texts(topic, name):
    column = read(topic, frame(), name)
    assert column.form == "probabilities"
    assert column.covered is None
    assert column.values == pytest.approx(expected(topic[1], frame()), abs=1e-6)
    assert column.notes == (f"teacher of 'topic', {name}: 30 of 30 training rows",)


def test_the_digest_is_of_matched_values_and_not_of_the_file(topic):
    one = read(topic, frame())
    other = frame().sample(frac=1, random_state=7).assign(more=1)
    other.loc[len(other)] = [0.2, 0.3, 0.5, "a text of no training row", 1]
    two = read(topic, other, "other.csv", probabilities="p_*")
    assert two.digest == one.digest
    assert two.notes[-1].endswith("1 other rows of the file are not used")
    changed = frame()
    changed.loc[3, ["p_neg", "p_mid", "p_pos"]] = [1.0, 0.0, 0.0]
    assert read(topic, changed).digest != one.digest


def test_texts_are_matched_in_nfc_with_white_space_made_one_where_they_do_not_match_exactly():
    rows = [{"text": f"caf\u00e9  {number}\n", "label": "ab"[number % 2]} for number in range(8)]
    task, train = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text"))
    table = pd.DataFrame({"text": [f" cafe\u0301 {n}" for n in range(8)], "p_a": [0.9, 0.1] * 4, "p_b": [0.1, 0.9] * 4})
    column = read((task, train), table)
    assert (column.values.argmax(1) == train.labels).all()
    assert "8 of them by text in Unicode NFC, each run of white space made one space" in column.notes[1]


def test_rows_with_ids_are_matched_by_id_and_equal_texts_stay_apart():
    rows = [{"text": "same text", "label": "ab"[n % 2], "id": n} for n in range(8)]
    task, train = rows_of(Task.from_list({"train": rows, "dev": rows[:2]}, text="text", id_column="id"))
    table = pd.DataFrame({"id": range(8), "p_a": [0.9, 0.2] * 4, "p_b": [0.1, 0.8] * 4})
    values = read((task, train), table).values
    assert [float(values[row, 0]) for row in range(8)] == pytest.approx(
        [0.2 if int(number) % 2 else 0.9 for number in train.ids]
    )
    with pytest.raises(DataError, match="are of one text"):
        read((task, train), table.drop(columns="id").assign(text="same text"))


def test_every_form_gives_the_probabilities_that_a_few_lines_of_numpy_give(topic):
    want = expected(topic[1], frame())
    logits = frame()
    logits[["p_neg", "p_mid", "p_pos"]] = np.log(logits[["p_neg", "p_mid", "p_pos"]])
    column = read(topic, logits, logits="p_*")
    assert column.form == "logits"
    assert np.exp(column.values) == pytest.approx(want, abs=1e-6)
    assert read(topic, logits, logits="p_*", temperature=2.0).values == pytest.approx(np.log(want) / 2, abs=1e-6)
    soft = want**0.5
    assert read(topic, frame(), temperature=2.0).values == pytest.approx(soft / soft.sum(1, keepdims=True), abs=1e-6)
    votes = frame()
    votes[["p_neg", "p_mid", "p_pos"]] = (votes[["p_neg", "p_mid", "p_pos"]] * 10).round()
    counts = expected(topic[1], votes)
    assert read(topic, votes, votes="p_*").values == pytest.approx(counts / counts.sum(1, keepdims=True), abs=1e-6)
    hard = pd.DataFrame({"text": TEXTS, "answer": [LABELS[number % 3] for number in range(30)]})
    assert (read(topic, hard, labels="answer").values == np.eye(3)[topic[1].labels]).all()


SPELLINGS = (str, str.upper, str.capitalize, " {} ".format, "{}\n".format)


def test_answers_are_read_whatever_their_case_and_the_white_space_around_them(topic):
    words = [SPELLINGS[number % 5](LABELS[number % 3]) for number in range(30)]
    want = np.eye(3)[topic[1].labels]
    assert (read(topic, pd.DataFrame({"text": TEXTS, "a": words}), "a.jsonl", labels="a").values == want).all()
    mappings = [{word: 0.75, LABELS[(number + 1) % 3]: 0.25} for number, word in enumerate(words)]
    column = read(topic, pd.DataFrame({"text": TEXTS, "probabilities": mappings}), "a.jsonl")
    assert (column.values.max(axis=1) == 0.75).all()
    assert (column.values.argmax(axis=1) == topic[1].labels).all()


def test_answers_that_fit_two_classes_or_none_are_refused_with_their_number(topic):
    words = [LABELS[number % 3] for number in range(30)]
    words[4], words[7], words[9], words[11] = "I think neg", "n/a", "n/a", "both"
    table = pd.DataFrame({"text": TEXTS, "a": words})
    told = (
        r"row 4: 'I think neg' is no class of the task \(4 of 30 rows name none: 'I think neg', 'n/a', 'both'\); its "
        r"classes are neg, mid, pos; rename it, or give null with missing=gold: such rows then learn from gold alone"
    )
    with pytest.raises(DataError, match=told):
        read(topic, table, labels="a")
    left = table.assign(a=[word if word in LABELS else None for word in words])
    covered = read(topic, left, labels="a", missing="gold").covered
    assert sorted(np.array(topic[1].texts[0])[~covered]) == sorted(TEXTS[number] for number in (4, 7, 9, 11))
    mappings = [{word: 1.0} for word in words]
    with pytest.raises(DataError, match=told):
        read(topic, pd.DataFrame({"text": TEXTS, "probabilities": mappings}), "a.jsonl")
    mappings[4] = {"neg": 0.5, "Neg": 0.5}
    with pytest.raises(DataError, match=r"row 4: .* has two numbers for class 'neg'; give one"):
        read(topic, pd.DataFrame({"text": TEXTS, "probabilities": mappings}), "a.jsonl")
    rows = [{"text": text, "label": ["US", "us"][number % 2]} for number, text in enumerate(TEXTS)]
    cased = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text"))
    table = pd.DataFrame({"text": TEXTS, "a": ["US", "us"] * 15})
    assert (read(cased, table, labels="a").values.argmax(axis=1) == cased[1].labels).all()
    with pytest.raises(DataError, match="row 0: 'Us' is no class of the task; its classes are US, us"):
        read(cased, table.assign(a=["Us", *table.a[1:]]), labels="a")


def test_lists_need_classes_and_mappings_bring_them(topic):
    table = frame()
    lists = pd.DataFrame({"text": table.text, "p": table[["p_pos", "p_neg", "p_mid"]].to_numpy().tolist()})
    want = expected(topic[1], table)
    for name in ("llm.parquet", "llm.csv", "llm.jsonl"):
        column = read(topic, lists, name, probabilities="p", classes=["pos", "neg", "mid"])
        assert column.values == pytest.approx(want, abs=1e-6)
    with pytest.raises(DataError, match=r"column 'p' holds lists; give the classes .* with classes=\[neg, mid, pos\]"):
        read(topic, lists, probabilities="p")
    named = lists.assign(p=[dict(zip(("pos", "neg", "mid"), row, strict=True)) for row in lists.p])
    assert read(topic, named, "llm.jsonl", probabilities="p").values == pytest.approx(want, abs=1e-6)


def test_what_the_likeliest_tokens_leave_is_spread_over_the_other_classes(topic):
    answers = {"neg": [("Neg", -0.1), (" neg", -4.0)], "mid": [("mid", -0.2), ("pos", -2.0), ("I", -3.0)]}
    lines = []
    for number, text in enumerate(TEXTS):
        pairs = answers.get(LABELS[number % 3], [("pos", -0.3)])
        top = [{"token": token, "logprob": logprob} for token, logprob in pairs]
        lines.append(json.dumps({"text": text, "top_logprobs": top}))
    column = read(topic, "\n".join(lines), "llm.jsonl")
    by_label = {label: column.values[topic[1].labels == n][0] for n, label in enumerate(("neg", "mid", "pos"))}
    first = np.exp(-0.1) + np.exp(-4.0)
    assert by_label["neg"] == pytest.approx([first, (1 - first) / 2, (1 - first) / 2], abs=1e-6)
    assert by_label["mid"] == pytest.approx([1 - np.exp(-0.2) - np.exp(-2.0), np.exp(-0.2), np.exp(-2.0)], abs=1e-6)


def test_sums_near_one_are_renormalized_and_said(topic):
    table = frame()
    table[["p_neg", "p_mid", "p_pos"]] *= 1.015
    column = read(topic, table)
    assert column.values == pytest.approx(expected(topic[1], frame()), abs=1e-6)
    assert column.notes[1].endswith("the probabilities of 30 rows did not sum to 1 and were renormalized")


def test_missing_rows_learn_from_gold_where_that_is_allowed(topic):
    column = read(topic, frame().iloc[2:], missing="gold")
    assert column.covered.sum() == 28
    assert (column.values[~column.covered] == 0).all()
    assert "28 of 30 training rows; the others learn from gold alone" in column.notes[0]
    empty = frame()
    empty.loc[[3, 5, 8], ["p_neg", "p_mid", "p_pos"]] = None
    column = read(topic, empty, missing="gold")
    assert column.covered.sum() == 27
    assert column.notes[-1].endswith("3 rows of the file have no prediction")


def test_rows_that_stand_twice_are_one_if_they_are_equal_and_averaged_if_asked(topic):
    table = frame()
    again = table.iloc[:3].copy()
    again["p_neg"] += 5e-5
    assert read(topic, pd.concat([table, again])).covered is None
    again["p_neg"], again["p_pos"] = again["p_pos"].to_numpy(), again["p_neg"].to_numpy()
    both = pd.concat([table, again])
    with pytest.raises(DataError, match=r"rows \d+, \d+ are of one text \('text number \d+'\) but have different"):
        read(topic, both)
    column = read(topic, both, duplicates="mean")
    assert column.values == pytest.approx(expected(topic[1], both.groupby("text", as_index=False).mean()), abs=5e-5)


def without(table: pd.DataFrame, **cells) -> pd.DataFrame:
    for column, value in cells.items():
        table.loc[4, column] = value
    return table


MALFORMED = {
    "half the rows": (frame().iloc[:15], {}, r"15 of 30 training rows have no prediction, .* missing=gold"),
    "another file's rows": (
        frame().assign(text=[f"other {n}" for n in range(30)]), {"missing": "gold"}, "none of the 30 training rows",
    ),
    "shuffled classes": (frame(shift=1), {}, r"agreement is \d of 30 labels, no better than 10"),
    "shuffled rows": (
        frame().assign(text=frame().text.sample(frac=1, random_state=2).to_numpy()), {}, "no better than 10, that of",
    ),
    "unknown class": (frame().rename(columns={"p_mid": "p_none"}), {}, "'none' is no class of the task; its classes"),
    "classes for two columns": (
        frame().rename(columns={"p_mid": "p_none"}), {"classes": ["neg", "pos"]}, "2 classes for 3 columns, p_neg",
    ),
    "a class too few": (frame().drop(columns="p_mid"), {}, "no numbers for class 'mid', only for neg, pos"),
    "not a number": (without(frame().astype(object), p_mid="high"), {"name": "a.csv"}, "holds 'high', not a number"),
    "nan": (without(frame().astype(object), p_mid="nan"), {"name": "a.csv"}, r"row \d+: probabilities .* not all fin"),
    "half a row": (without(frame(), p_mid=None), {}, r"row \d+: column 'p_mid' is empty, others are not"),
    "sum": (without(frame(), p_mid=0.97), {}, r"the probabilities \[.*\] sum to 1\.\d+, not to 1"),
    "logits as probabilities": (without(frame(), p_mid=-3.0), {}, "are no probabilities, which lie from 0 to 1"),
    "no votes": (without(frame(), p_neg=0, p_mid=0, p_pos=0), {"votes": "p_*"}, "are no votes: give counts"),
    "no columns": (frame()[["text"]], {}, "no columns of predictions; say which columns"),
    "two forms": (frame().assign(logits="[0, 0, 0]"), {}, r"columns of several forms \(logits, probabilities\); say"),
    "no texts": (frame().rename(columns={"text": "body"}), {}, "no columns text, by which rows are matched"),
    "no such column": (frame(), {"logits": "l_*"}, r"no column 'l_\*' for logits; columns there: p_neg, "),
    "values": (frame(), {"values": "p_neg"}, "a classification task learns from logits, probabilities, labels, votes"),
    "no rows": (frame().iloc[:0], {}, "the file has no rows"),
    "no table": ("text\n\"a", {"name": "a.csv"}, "cannot be read|no columns of predictions"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_columns_are_refused_with_a_sentence(topic, case):
    table, options, message = MALFORMED[case]
    with pytest.raises(DataError, match=message) as caught:
        read(topic, table.copy() if isinstance(table, pd.DataFrame) else table, **options)
    assert str(caught.value).startswith(f"teacher of 'topic', {options.get('name', 'llm.parquet')}")
    assert "\n" not in str(caught.value)


def test_a_column_that_does_not_agree_teaches_if_asked_for(topic):
    assert read(topic, frame(shift=1), check_agreement=False).covered is None


def test_logits_of_a_linear_output_are_compared_with_gold_as_they_are():
    rows = [{"text": text, "label": n * n / 29} for n, text in enumerate(TEXTS)]
    splits = {"train": rows, "dev": rows[:3]}
    topic = rows_of(Task.from_list(splits, text="text", range=(0, 29), head={"sigmoid": False}))
    table = pd.DataFrame({"text": TEXTS, "logits": [n * n / 841 for n in range(30)]})
    assert read(topic, table).covered is None
    with pytest.raises(DataError, match="mean squared error"):
        read(topic, table.assign(logits=table["logits"].to_numpy()[::-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": "a", "votes": "b"}, "teachers.topic gives logits and votes; a file's predictions have one form"),
        ({"logits": "a*b*"}, "teachers.topic.logits must name a column, or several with one"),
        ({"temperature": 0}, "teachers.topic.temperature must be a number above 0, got 0"),
        ({"labels": "a", "temperature": 2}, "teachers.topic.temperature is for logits and probabilities"),
        ({"missing": "none"}, "teachers.topic.missing names 'none'; choices: error, gold"),
        ({"classes": "a"}, "teachers.topic.classes must be a list of class names, got 'a'"),
        ({"classes": ["a", "a"]}, "teachers.topic.classes names a class twice"),
        ({"probability": "p"}, "teachers.topic names 'probability'; choices: path, logits, .* mean 'probabilities'"),
        ({"path": "google/some-model", "votes": "a"}, "teachers.topic.votes is for a file of predictions, 'google/"),
        ({"path": 3.5}, "teachers.topic must name a file, a Run, a folder or a hub id, got"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        teacher_sources("teachers.topic", {"path": "a.csv", **options})


def test_a_source_is_a_file_a_run_or_a_model(tmp_path):
    assert TeacherSource("a/b.CSV.gz").is_file
    assert not TeacherSource("a/b.ckpt").is_file
    assert TeacherSource("0123456789ab").is_run
    (tmp_path / "0123456789ab").mkdir()
    assert not TeacherSource("0123456789ab").is_run
    assert teacher_sources("teachers.topic", 12345)[0].path == "000000012345"  # YAML read the digits as a number


def test_ordinal_multi_label_and_regression_have_their_own_forms():
    texts = [f"t {n}" for n in range(12)]
    rows = [{"text": text, "label": n % 3} for n, text in enumerate(texts)]
    ordinal = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text", kind="ordinal"))
    table = pd.DataFrame({"text": texts, "logits": [[5.0 if n % 3 > k else -5.0 for k in (0, 1)] for n in range(12)]})
    assert read(ordinal, table).values.shape == (12, 2)
    rows = [{"text": text, "label": ["a"] * (n % 2) + ["b"] * (n % 3 > 0)} for n, text in enumerate(texts)]
    several = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text"))
    table = pd.DataFrame({"text": texts, "p_a": [float(n % 2) for n in range(12)], "p_b": [0.75] * 12})
    assert (read(several, table).values[:, 1] == 0.75).all()
    rows = [{"text": text, "label": float(n)} for n, text in enumerate(texts)]
    scores = rows_of(Task.from_list({"train": rows, "dev": rows}, text="text"))
    table = pd.DataFrame({"text": texts, "stars": [n + 0.1 for n in range(12)]})
    column = read(scores, table, values="stars")
    assert column.values[:, 0] == pytest.approx(np.minimum(scores[1].labels + 0.1, 11))
    assert "1 values just outside of 0 to 11 were moved into it" in column.notes[-1]
    with pytest.raises(DataError, match=r"row 0: 60 is no value from 0 to 11, the range of the labels"):
        read(scores, table.assign(stars=60.0), values="stars")
    with pytest.raises(DataError, match=r"mean squared error is [\d.]+, no better than [\d.]+, that of the mean"):
        read(scores, table.assign(stars=table.stars[::-1].to_numpy().clip(0, 11)), values="stars")


def test_a_missing_file_is_named_with_what_was_meant(topic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm.csv").touch()
    task, train = topic
    (source,) = teacher_sources("teachers.topic", "lm.csv", labels="a")
    with pytest.raises(
        DataError, match=r"no file /.*/lm\.csv \(paths .*; files there: llm\.csv; .* mean 'llm\.csv'\?$"
    ):
        read_teacher("topic", TaskExamples(train, train, None, task, []), source, alone=True)
