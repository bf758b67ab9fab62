"""``bam evaluate``: the scores of the job on its own dev set, and a report of them."""

import csv
import json
import re

import numpy as np
import pytest

import bam_lightning as bam
from bam_lightning import cli
from bam_lightning.analysis import evaluation_report
from bam_lightning.data.task import task_from_config
from conftest import sentences


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr("bam_lightning.metrics.report.DRAWS", 100)


@pytest.fixture
def evaluate(trained, capsys):
    """Call the command; return its status and what it printed."""

    def call(*words):
        status = cli.run(["evaluate", f"--run={trained.id}", f"--store={trained.store}", "--device=cpu", *words])
        said = capsys.readouterr()
        return status, said.out if status == 0 else said.err

    return call


@pytest.mark.parametrize("task", ["rte", "stsb", "sst2"])
def test_a_report_on_dev_has_the_scores_of_results_json(evaluate, trained, tmp_path, task):
    status, text = evaluate(
        f"--task={task}", f"--input={trained.config.data.root}/{task}", "--split=validation", "--output=out"
    )
    assert status == 0, text
    report = json.loads((tmp_path / "out" / task / "report.json").read_text())
    expected = trained.results["runs"][-1]["metrics"][task]
    assert {name: values["value"] for name, values in report["metrics"].items()} == pytest.approx(expected, abs=1e-6)
    assert all(values["low"] <= values["value"] <= values["high"] for values in report["metrics"].values())
    metric = trained.config.suite.tasks[task].metric
    assert (report["task"], report["rows"], report["metric"], next(iter(report["metrics"]))) == (
        task,
        24,
        metric,
        metric,
    )
    assert text.endswith(f"\nreport: {tmp_path}/out/{task}/report.html\n\n")
    assert f"| {metric} |" in (tmp_path / "out" / task / "report.md").read_text()
    if task == "stsb":
        assert not {"confusion_matrix", "per_class", "expected_calibration_error"} & set(report)
        return
    counts = np.array(report["confusion_matrix"]["counts"])
    assert counts.sum() == 24
    assert counts.trace() / 24 == pytest.approx(expected["accuracy"], abs=1e-12)
    assert [scores["support"] for scores in report["per_class"].values()] == counts.sum(axis=1).tolist()
    assert 0 <= report["expected_calibration_error"] <= 1


def test_groups_of_a_column_have_the_scores_of_their_rows(evaluate, trained, tmp_path):
    settings = trained.config.suite.tasks["sst2"]
    described = task_from_config("sst2", settings, trained.config.data)
    rows = described.source.read("sst2", described, settings.dev_split)[0].to_pylist()
    names = settings.head.label_names
    with (tmp_path / "dev.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "gold", "channel"])
        writer.writerows([row["sentence"], names[row["label"]], "ab|"[i % 3]] for i, row in enumerate(rows))
    status, text = evaluate(
        "--task=sst2", "--input=dev.csv", "--column=text", "--label=gold", "--by=channel", "--output=out"
    )
    assert status == 0, text
    groups = json.loads((tmp_path / "out" / "sst2" / "report.json").read_text())["by"]
    assert (groups["column"], sorted(groups["groups"])) == ("channel", ["a", "b", "|"])
    model = bam.load(trained.id, store=trained.store)
    for number, value in enumerate("ab|"):
        part = rows[number::3]
        expected = model.evaluate([row["sentence"] for row in part], [row["label"] for row in part], "sst2")
        metrics = groups["groups"][value]["metrics"]
        assert {name: score["value"] for name, score in metrics.items()} == pytest.approx(expected, abs=1e-6)
    assert "| &#124; | 8 |" in (tmp_path / "out" / "sst2" / "report.md").read_text()
    assert re.search(r"^│ \| +│ +8 │", text, re.MULTILINE)


def test_groups_may_have_values_of_several_types(evaluate, tmp_path):
    rows = [{"sentence": "a cat", "label": "positive", "channel": value} for value in (1, "mail", None, 1.5)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, text = evaluate("--task=sst2", "--input=in.jsonl", "--by=channel", "--output=out")
    assert status == 0, text
    groups = json.loads((tmp_path / "out" / "sst2" / "report.json").read_text())["by"]["groups"]
    assert sorted(groups) == ["1", "1.5", "None", "mail"]


def test_worst_rows_of_pairs_show_both_texts_and_errors_in_the_labels_units(trained, evaluate, tmp_path):
    texts = [(first * 30, second) for first, second in zip(sentences(8, 5, 20), sentences(8, 6), strict=True)]
    gold = [0.0, 5.0] * 4
    lines = [f"{first},{second},{score}" for (first, second), score in zip(texts, gold, strict=True)]
    (tmp_path / "in.csv").write_text("\n".join(["sentence1,sentence2,label", *lines]))
    status, text = evaluate("--task=stsb", "--input=in.csv", "--worst=8", "--output=out")
    assert status == 0, text
    predicted = [one.label for one in bam.load(trained.id, store=trained.store).predict(texts, task="stsb")]
    errors = np.abs(np.array(predicted) - gold)
    report = json.loads((tmp_path / "out" / "stsb" / "report.json").read_text())
    assert [row["error"] for row in report["worst_rows"]] == pytest.approx(sorted(errors, reverse=True), abs=1e-4)
    assert report["mean_absolute_error"] == pytest.approx(errors.mean(), abs=1e-4)
    assert f"Mean absolute error: {errors.mean():.3g}" in text
    page = (tmp_path / "out" / "stsb" / "report.md").read_text()
    assert "## The worst 5 of 8 rows" in page
    assert "| row | gold | predicted | error | texts |" in page
    for row in report["worst_rows"][:5]:
        first, second = texts[row["row"]]
        assert f"{first[:57]}… &#124; {second} |" in page


def test_a_labelled_test_file_is_scored(trained, evaluate, tmp_path):
    rows = [{"premise": text, "gold": "positive"} for text in sentences(12, seed=3)]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, text = evaluate(
        "--task=sst2", "--input=mine", "--split=test", "--column=premise", "--label=gold", "--output=out"
    )
    assert status == 0, text
    report = json.loads((tmp_path / "out" / "sst2" / "report.json").read_text())
    predicted = bam.load(trained.id, store=trained.store).predict([row["premise"] for row in rows], task="sst2")
    share = np.mean([prediction.label == "positive" for prediction in predicted])
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task=rtee", "--input=in.csv"], "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?"),
        (["--task=sst2", "--input=none.csv"], "input: no file /"),
        (
            ["--task=sst2", "--input=in.cs"],
            "input: no file in.cs; name a split of a folder or hub dataset with --split; did you mean 'in.csv'?",
        ),
        (["--task=sst2", "--input=ins", "--split=dev"], "task 'sst2': no file or folder 'ins' in /"),
        (
            ["--task=sst2", "--input=in.csv", "--split=dev"],
            "input: in.csv is a file, which has no splits; omit --split",
        ),
        (
            ["--task=sst2", "--input=in.csv", "--label=gold"],
            "{tmp}/in.csv: no column 'gold'; its columns: sentence, label",
        ),
        (["--task=sst2", "--input=splits"], "input: splits is a folder; give --split, one of: dev, train"),
        (["--task=all", "--input=in.csv"], "name the task of the rows with --task; tasks: sst2, stsb, rte"),
        (["--task=sst2", "--input=in.csv", "--by=x"], "{tmp}/in.csv: no column 'x'; its columns: sentence, label"),
        (
            ["--task=sst2", "--input=in.csv"],
            "{tmp}/in.csv, row 1: label 'neutral' is neither one of negative, positive nor a class id from 0 to 1; "
            "check --label (the label names are those of the model)",
        ),
        (
            ["--task=rte", "--input=in.csv", "--column=sentence"],
            "expected 2 columns, since task 'rte' reads sentence1, ",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(evaluate, tmp_path, words, message):
    (tmp_path / "in.csv").write_text("sentence,label\na cat,positive\na dog,neutral\n")
    (tmp_path / "splits").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "splits" / f"{split}.csv").write_text("sentence,label\n")
    status, text = evaluate(*words)
    assert status == 1
    assert text.startswith(f"error: {message}".replace("{tmp}/", ""))


def test_a_delimiter_may_be_given_and_a_wrong_one_is_named(evaluate, tmp_path):
    (tmp_path / "in.csv").write_text("sentence;label\na cat, a dog;positive\n")
    assert evaluate("--task=sst2", "--input=in.csv", "--delimiter=;")[0] == 0
    status, text = evaluate("--task=sst2", "--input=in.csv", "--delimiter=,")
    assert status == 1
    assert "--delimiter is ',', but the header seems to be separated by ';'; leave it out to have it found" in text


def test_a_terminal_shows_the_most_frequent_confusions_of_many_labels(capsys):
    counts = np.zeros((12, 12), dtype=int)
    counts[3, 7], counts[0, 1] = 123, 4
    score = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    evaluation_report.print_report(
        {
            "run": "1a2b", "task": "many", "rows": 127, "input": "x.csv", "metrics": score, "worst_rows": [],
            "confusion_matrix": {"labels": [f"label_{number}" for number in range(12)], "counts": counts.tolist()},
        }
    )  # fmt: skip
    said = capsys.readouterr().out
    assert said.index("Most frequent confusions") < said.index("123") < said.index("label_1 ")
    assert re.search(r"label_3 +│ label_7 +│ +123 │", said)


def test_of_many_groups_the_largest_are_shown_and_all_are_kept(capsys, tmp_path):
    score = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    groups = {f"shop {number}": {"rows": number % 50 + 1, "metrics": score} for number in range(200)}
    report = {
        "run": "1a2b", "task": "many", "rows": 5100, "input": "x.csv", "metrics": score, "worst_rows": [],
        "by": {"column": "shop", "groups": groups},
    }  # fmt: skip
    evaluation_report.print_report(report)
    said = capsys.readouterr().out
    assert "By shop, the largest 20 of 200 groups" in said
    assert set(re.findall(r"shop (\d+) ", said)) == {str(number) for number in range(200) if number % 50 >= 45}
    evaluation_report.save(report, tmp_path)
    assert (tmp_path / "report.html").read_text().count("shop ") >= 200
    assert len(json.loads((tmp_path / "report.json").read_text())["by"]["groups"]) == 200
