"""A job that is checked: its rows, weak spots and time are named, and nothing is trained."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from bam_lightning import cli, train
from bam_lightning.analysis import job_report
from bam_lightning.config.compose import compose
from bam_lightning.models.encoder import load_tokenizer
from bam_lightning.recipes.check import FORWARD, check_recipe
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data
from conftest import sentences, write_data

MAX_LENGTH = 14


@pytest.fixture(scope="module")
def words(tiny_bert, tmp_path_factory):
    """Two tasks, one of them with every weak spot; the words of their job."""
    folder = tmp_path_factory.mktemp("check")
    root = write_data(folder / "data")
    texts = list(dict.fromkeys(sentences(80, seed=5)))[:60]
    train_rows = [(text, 0) for text in texts] + [("a rare cat", 1), ("a good dog", 1), (texts[0], 1)]
    dev_rows = [(texts[1], 0), (texts[2], 0), ("the man who runs", 0)]
    for split, rows in (("train", train_rows), ("validation", dev_rows)):
        lines = [
            json.dumps({"sentence": text, "label": label, "idx": number}) for number, (text, label) in enumerate(rows)
        ]
        (root / "sst2" / f"{split}.jsonl").write_text("\n".join(lines))
    return [
        "scale=small", "suite.include=[sst2,rte]", f"data.root={root}", f"encoder.path={tiny_bert}", "logger=none",
        "trainer=cpu", "trainer.precision=32-true", f"data.max_length={MAX_LENGTH}", "run.progress=false",
        "optimization.single.batch_size=8", "optimization.single.epochs=2", "optimization.multi.epochs=3",
        f"paths.store={folder}/store", f"paths.cache={folder}/cache",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def checked(words, tmp_path_factory):
    config = compose(words)
    output = tmp_path_factory.mktemp("out")
    return config, check_recipe(config, output), output


def test_weak_spots_are_named(checked):
    _, report, output = checked
    assert json.loads((output / "check.json").read_text()) == report
    assert [spot for spot in report["weak_spots"] if spot.startswith("sst2: ")] == [
        "sst2: label 'positive' has 3 rows in train",
        "sst2: label 'positive' has no row in dev, so no score is about it",
        "sst2: 95 % of the training rows are 'negative'; accuracy will hardly tell models apart",
        "sst2: dev has 3 rows; below 50 a score says little",
        "sst2: 2 rows of 3 in dev stand in train too; remove them from one of both",
        "sst2: 1 text stands in train several times with different labels",
    ]
    assert (
        "single/sst2 teaches after 16 optimizer steps; recipe.stages.single.optimization.min_steps=100 gives it more"
        in (report["weak_spots"])
    )
    assert report["tasks"]["sst2"]["labels"] == {
        "train": {"negative": 60, "positive": 3},
        "dev": {"negative": 3, "positive": 0},
    }
    assert len(report["tasks"]["sst2"]["examples"]) == 3


def test_lengths_and_cut_rows_are_the_tokenizers(checked, tiny_bert):
    config, report, _ = checked
    tokenizer = load_tokenizer(tiny_bert)
    rows = load_data(config)[0]["rte"]
    for split in ("train", "dev"):
        whole = [len(tokenizer(*row)["input_ids"]) for row in zip(*getattr(rows, split).texts, strict=True)]
        assert report["tasks"]["rte"]["cut"][split] == sum(length > MAX_LENGTH for length in whole) > 0
    assert report["tasks"]["rte"]["tokens"]["max"] == MAX_LENGTH
    assert any(spot.endswith("in train are cut at 14 tokens; data.max_length=N keeps more of them")
               for spot in report["weak_spots"])  # fmt: skip


def test_the_estimate_is_the_tokens_of_all_steps_and_predictions(checked, tiny_bert):
    config, report, _ = checked
    rows, _, facts = load_data(config)
    tokenizer = load_tokenizer(tiny_bert)
    expected = 0.0
    for run in (run for run in plan_runs(config, facts) if run.stage == "single"):
        split = rows[run.tasks[0]]
        columns = [list(column) for column in split.train.texts]
        mean = np.mean([min(len(ids), MAX_LENGTH) for ids in tokenizer(*columns)["input_ids"]])
        predicted = len(split.train.keys) + (config.run.validations + 1) * len(split.dev.keys)
        expected += mean * (run.steps * 8 + FORWARD * predicted)
    stage = report["stages"][0]
    assert (stage["stage"], stage["runs"], stage["measured_steps"]) == ("single", 2, 5)
    assert stage["seconds"] * stage["tokens_per_second"] == pytest.approx(expected)
    assert report["seconds"] == pytest.approx(sum(stage["seconds"] for stage in report["stages"]))
    assert report["peak_memory_bytes"] > 100 << 20  # torch alone takes more


def test_nothing_is_trained(checked):
    config, _, output = checked
    store = config.paths.store
    assert {path.name for path in output.iterdir()} == {"check.json"}
    assert cli.run(["runs", f"--store={store}"]) == 0


def test_the_option_checks_and_trains_nothing(words, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["train", *words, "check=true", f"hydra.run.dir={tmp_path}/out"])
    monkeypatch.setattr("bam_lightning.recipes.runner.run_recipe", None)  # would be an error
    seen = []
    monkeypatch.setattr("bam_lightning.recipes.check.check_recipe", lambda config, output: seen.append(str(output)))
    assert train.run(train.job) == 0
    assert seen == [f"{tmp_path}/out"]


def test_the_commands_at_the_end_of_training_run(trained, tmp_path, capsys, monkeypatch):
    run = plan_runs(trained.config, load_data(trained.config)[2])[-1]
    _, evaluate, calibrate, predict, serve, export = job_report.next_commands(trained.config, run)
    (tmp_path / "rows.jsonl").write_text('{"sentence": "a cat", "label": "positive"}\n')
    monkeypatch.setattr("bam_lightning.metrics.report.DRAWS", 20)
    for line in (evaluate, calibrate, predict, export):
        words = shlex.split(line.replace("FILE", "rows.jsonl").partition("    ")[0])
        device = [] if line is export else ["--device", "cpu"]
        assert cli.run([*words[1:], *device]) == 0, capsys.readouterr().err
    (trained.store / "runs" / trained.id / "calibration.json").unlink()  # other tests read the Run
    assert serve.split()[:4] == ["bam", "serve", "--run", trained.id]


def test_a_task_without_gold_that_a_file_teaches_is_measured(words, tmp_path):
    root, data = tmp_path / "data" / "sst2", Path(compose(words).data.root) / "sst2"
    root.mkdir(parents=True)
    (root / "validation.jsonl").write_text((data / "validation.jsonl").read_text())
    texts = list(dict.fromkeys(sentences(80, seed=5)))[:60]
    lines = [json.dumps({"sentence": text, "label": None, "idx": number}) for number, text in enumerate(texts)]
    (root / "train.jsonl").write_text("\n".join(lines))
    lines = ["sentence,p_negative,p_positive", *(f"{text},0.3,0.7" for text in texts)]
    (tmp_path / "teacher.csv").write_text("\n".join(lines))
    more = ["suite.tasks.sst2.allow_missing_labels=true", f"teachers.sst2={tmp_path}/teacher.csv"]
    places = [f"data.root={root.parent}", f"paths.store={tmp_path}/store", f"paths.cache={tmp_path}/cache"]
    report = check_recipe(compose([*words, "recipe=multi", "suite.include=[sst2]", *more, *places]), tmp_path / "out")
    assert [stage["runs"] for stage in report["stages"]] == [1]
