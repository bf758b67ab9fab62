"""Evaluate, calibrate and compare: the rows of a job, what is fitted, what every later use of the model gives."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

import bam_lightning as bam
from bam_lightning import cli
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.data import row_cache
from bam_lightning.inference.calibration import ABSTAIN, TaskCalibration, update_calibration
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.inference.onnx_export import _Graph
from bam_lightning.inference.predictor import Predictor
from bam_lightning.inference.serving.batcher import predict_batch
from bam_lightning.inference.serving.schemas import PredictRequest
from bam_lightning.recipes.evaluation import job_file_of
from bam_lightning.recipes.grow import GrowOptions, grown_config
from bam_lightning.recipes.job_file import read_job
from bam_lightning.recipes.relate import _effect
from bam_lightning.store import job_records
from bam_lightning.store.ragged import Ragged
from bam_lightning.store.run_dir import file_hash, manifest_digest
from bam_lightning.store.run_store import Store

WORDS = "the cat a dog who eats in man woman good bad where is it was".split()
ROWS = [" ".join(np.random.default_rng(seed).choice(WORDS, 6)) for seed in range(80)]


@pytest.fixture(scope="module")
def sharp(trained, tmp_path_factory):
    """The student with a classifier that knows the label of a text from a random direction, too sure of itself."""
    folder = bam.load(trained.id, store=trained.store).save_pretrained(tmp_path_factory.mktemp("sharp") / "model")
    weights = load_file(folder / "model.safetensors")
    vectors = torch.from_numpy(bam.load(folder, device="cpu").embed(ROWS))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    direction *= 5 / (vectors @ direction).std()
    centre = (vectors @ direction).median()
    weights["heads.sst2.linear.weight"] = torch.stack([-direction, direction])
    weights["heads.sst2.linear.bias"] = torch.stack([centre, -centre])
    save_file(weights, folder / "model.safetensors")
    resign(folder)
    return folder


def resign(folder, **head):
    manifest = json.loads((folder / "run.json").read_text())
    manifest["spec"]["tasks"]["sst2"]["head"] |= head
    manifest["files"]["model.safetensors"] = file_hash(folder / "model.safetensors")
    (folder / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr("bam_lightning.metrics.report.DRAWS", 100)


@pytest.fixture
def model(sharp, tmp_path):
    return shutil.copytree(sharp, tmp_path / "model")


@pytest.fixture
def gold(sharp, tmp_path):
    """Labels drawn from the classifier's own probabilities at temperature 4; a file of them."""
    found = bam.load(sharp, device="cpu")
    margin = np.diff(found.logits([(row,) for row in ROWS], ["sst2"])["sst2"])[:, 0]
    labels = np.random.default_rng(1).random(len(ROWS)) < 1 / (1 + np.exp(-margin / 4))
    names = np.array(["negative", "positive"])[labels.astype(int)]
    lines = ["sentence,label", *(f"{text},{name}" for text, name in zip(ROWS, names, strict=True))]
    (tmp_path / "gold.csv").write_text("\n".join(lines))
    return list(names)


def bam_command(*words):
    return cli.run([*map(str, words), "--device", "cpu"])


def test_without_an_input_the_dev_rows_of_the_job_are_scored(trained, tmp_path, capsys):
    words = ["evaluate", "--run", trained.id, "--store", trained.store, "--output", "out"]
    assert bam_command(*words) == 0, capsys.readouterr().err
    for task, expected in trained.results["runs"][-1]["metrics"].items():
        report = json.loads((tmp_path / "out" / task / "report.json").read_text())
        assert {name: value["value"] for name, value in report["metrics"].items()} == pytest.approx(expected, abs=1e-6)
        assert report["rows"] == 24


def test_labels_are_read_from_the_column_that_the_task_had(model, gold, tmp_path, capsys):
    manifest = json.loads((model / "run.json").read_text())
    manifest["reads"]["sst2"]["label"] = "Urteil"
    (model / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))
    assert read_model_info(find_model(str(model))).task("stsb").label == "label"  # as in manifests without it
    (tmp_path / "own.csv").write_text((tmp_path / "gold.csv").read_text().replace("label", "Urteil", 1))
    assert bam_command("evaluate", "--run", model, "--task", "sst2", "--input", "own.csv") == 0
    capsys.readouterr()
    for name, near in (("label", "label"), ("SST2", "SST2"), ("Urteile", "Urteile"), ("x", None)):
        (tmp_path / "own.csv").write_text((tmp_path / "gold.csv").read_text().replace("label", name, 1))
        assert bam_command("evaluate", "--run", model, "--task", "sst2", "--input", "own.csv") == 1
        said = capsys.readouterr().err
        assert f"no column 'Urteil'; its columns: sentence, {name}; choose another with --label" in said
        assert said.endswith(f"; did you mean --label {near}?\n" if near else "--label\n")


def test_a_model_whose_job_is_not_known_needs_an_input(model, capsys):
    assert bam_command("evaluate", "--run", model) == 1
    assert capsys.readouterr().err.endswith("so its rows are not; give labelled rows with --input\n")


def test_the_report_has_the_rows_of_largest_loss_and_a_page(model, gold, tmp_path, capsys):
    words = ["--task", "sst2", "--input", "gold.csv", "--worst", "3", "--output", "out"]
    assert bam_command("evaluate", "--run", model, *words) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "sst2" / "report.json").read_text())
    predictions = bam.load(model, device="cpu").predict(ROWS, task="sst2")
    of_gold = np.array([prediction.probabilities[name] for prediction, name in zip(predictions, gold, strict=True)])
    assert [row["row"] for row in report["worst_rows"]] == np.argsort(of_gold, kind="stable")[:3].tolist()
    assert report["worst_rows"][0]["loss"] == pytest.approx(-np.log(of_gold.min()), rel=1e-3)
    assert report["worst_rows"][0]["texts"] == [ROWS[int(of_gold.argmin())]]
    page = (tmp_path / "out" / "sst2" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "Worst rows" in page
    assert 'src="' not in page


def test_calibration_lowers_the_loss_and_is_the_same_everywhere(model, gold, tmp_path, capsys):
    before = bam.load(model, device="cpu")
    assert bam_command("calibrate", "--run", model, "--task", "sst2", "--input", "gold.csv") == 0
    kept = json.loads((model / "calibration.json").read_text())["tasks"]["sst2"]
    assert kept["temperature"] == pytest.approx(4, rel=0.5)  # 80 rows
    assert kept["after"]["loss"] < 0.8 * kept["before"]["loss"]
    after = bam.load(model, device="cpu")
    logits = before.logits([(row,) for row in ROWS], ["sst2"])["sst2"]
    expected = torch.softmax(torch.from_numpy(logits) / kept["temperature"], dim=-1)[:, 1].numpy()
    found = [prediction.probabilities["positive"] for prediction in after.predict(ROWS, task="sst2")]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    pairs = [(ROWS[0], ROWS[1])]
    assert before.predict(pairs, task="stsb") == after.predict(pairs, task="stsb")
    (model / "README.md").unlink()  # an author's card would stay
    again = bam.load(after.save_pretrained(tmp_path / "again"), device="cpu")
    assert again.predict(ROWS, task="sst2") == after.predict(ROWS, task="sst2")
    assert "sst2: temperature" in (tmp_path / "again" / "README.md").read_text()


def test_exports_have_the_calibrated_probabilities(trained, tmp_path):
    from transformers import pipeline

    calibrated = bam.load(trained.id, store=trained.store, device="cpu", precision="32-true")
    calibrated.calibration["sst2"] = TaskCalibration(2.5, {"negative": 0.5, "positive": None}, "precision 0.9")
    for kind in ("hf", "bam"):
        calibrated.export(tmp_path / kind, kind, ["sst2"] if kind == "hf" else ())  # compares the logits, else raises
    classifier = pipeline("text-classification", model=str(tmp_path / "hf" / "sst2"), top_k=None)
    scores = {entry["label"]: entry["score"] for entry in classifier(ROWS[:1])[0]}
    assert scores == pytest.approx(calibrated.predict(ROWS[:1], task="sst2")[0].probabilities, abs=1e-4)
    described = json.loads((tmp_path / "hf" / "export.json").read_text())["tasks"]["sst2"]
    assert described["thresholds"] == {"negative": 0.5, "positive": None}
    assert "abstain if that score is below the label's threshold" in described["label"]
    inputs = list(calibrated.tokenizer.model_input_names)
    tokens = calibrated.tokenizer(ROWS[:3], padding=True, return_tensors="pt")
    with torch.inference_mode():  # what becomes the ONNX graph
        (logits,) = _Graph(calibrated, ["sst2"], inputs)(*(tokens[name] for name in inputs))
    expected = calibrated.logits([(row,) for row in ROWS[:3]], ["sst2"])["sst2"] / 2.5
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


def test_the_server_abstains_too(model, gold):
    found = bam.load(model, device="cpu")
    found.calibrate(ROWS, gold, "sst2", precision=0.9)
    (response,) = predict_batch(found, [PredictRequest([(row,) for row in ROWS], ["sst2"])])
    labels = [prediction["label"] for prediction in json.loads(response)["predictions"]["sst2"]]
    assert labels == [prediction.label for prediction in found.predict(ROWS, task="sst2")]
    assert ABSTAIN in labels


def test_below_its_threshold_a_label_abstains_and_the_rest_has_the_precision(model, gold, tmp_path, capsys):
    words = ["calibrate", "--run", model, "--task", "sst2", "--input", "gold.csv", "--at-precision", "0.9"]
    assert bam_command(*words) == 0, capsys.readouterr().err
    labels = np.array([prediction.label for prediction in bam.load(model, device="cpu").predict(ROWS, task="sst2")])
    count = int((labels != ABSTAIN).sum())
    said = capsys.readouterr().out
    assert said.endswith(f"\nsst2: answered {count} of 80 ({round(100 * count / 80)} %)\n")
    assert set(labels) == {"negative", "positive", ABSTAIN}
    for name in ("negative", "positive"):
        assert (np.array(gold)[labels == name] == name).mean() >= 0.9
    assert bam_command("predict", "--run", model, "--task", "sst2", "--input", "gold.csv", "--output", "out.csv") == 0
    assert f"80 rows, 80 scored, {80 - count} of 'sst2' abstain: " in capsys.readouterr().err
    with (tmp_path / "out.csv").open() as stream:
        assert [row["sst2.label"] for row in csv.DictReader(stream)] == labels.tolist()
    assert bam_command("evaluate", "--run", model, "--task", "sst2", "--input", "gold.csv", "--output", "out") == 0
    report = json.loads((tmp_path / "out" / "sst2" / "report.json").read_text())
    assert report["answered"]["rows"] == (labels != ABSTAIN).sum()
    assert report["answered"]["metrics"]["accuracy"]["value"] >= 0.9


def test_thresholds_below_which_nothing_is_answered_are_refused_unless_forced(model, gold, tmp_path, capsys):
    predicted = bam.load(model, device="cpu").predict(ROWS, task="sst2")
    wrong = [f"{row},negative" for row, one in zip(ROWS, predicted, strict=True) if one.label == "positive"]
    (tmp_path / "gold.csv").write_text("\n".join(["sentence,label", *wrong]))
    words = ["calibrate", "--run", model, "--task", "sst2", "--input", "gold.csv", "--at-precision", "0.9"]
    assert bam_command(*words) == 1
    said = capsys.readouterr().err
    assert "no threshold reaches precision 0.9 on these " in said
    assert "answers 0 % are right; ask for less" in said
    assert not (model / "calibration.json").exists()
    assert bam_command(*words, "--force") == 0
    said = capsys.readouterr().out
    assert "sst2: answered 0 of " in said
    for name in ("negative", "positive"):
        assert f"sst2: no threshold of {name!r} reaches what was asked, so it is never predicted; ask for less" in said


def test_a_label_that_is_never_predicted_rightly_is_named(model, tmp_path, capsys):
    (tmp_path / "gold.csv").write_text("\n".join(["sentence,label", *(f"{row},positive" for row in ROWS)]))
    words = ["calibrate", "--run", model, "--task", "sst2", "--input", "gold.csv", "--at-recall", "0.5"]
    assert bam_command(*words) == 0
    said = capsys.readouterr().out
    assert "with its threshold no row is rightly given 'negative'; ask for less, or train on more rows of it" in said
    assert "the label 'positive' is never" not in said


def test_weights_of_classes_and_smoothing_are_no_part_of_a_calibration(model, gold):
    plain = bam.load(model, device="cpu")
    resign(model, class_weights=[1.0, 9.0], label_smoothing=0.3)
    trained_so = bam.load(model, device="cpu")
    assert trained_so.calibrate(ROWS, gold, "sst2") == plain.calibrate(ROWS, gold, "sst2")


@pytest.mark.parametrize("asked", ["recall", "agreement"])
def test_other_targets_are_reached_too(model, gold, asked):
    found = bam.load(model, device="cpu")
    found.calibrate(ROWS, gold, "sst2", **{asked: 0.6 if asked == "recall" else 0.85})
    labels, right = np.array([prediction.label for prediction in found.predict(ROWS, task="sst2")]), np.array(gold)
    if asked == "agreement":
        assert (labels == right)[labels != ABSTAIN].mean() >= 0.85
        assert len(set(found.calibration["sst2"].thresholds.values())) == 1
        return
    for name in ("negative", "positive"):
        assert (labels[right == name] == name).mean() >= 0.6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--task", "stsb", "--input", "stsb.csv"],
            "task 'stsb': a regression has no probabilities to calibrate; name other",
        ),
        (["--task", "sst2", "--input", "gold.csv", "--at-recall", "0"], "recall must be in (0.0, 1.0], got 0"),
        (
            ["--task", "sst2", "--input", "gold.csv", "--at-recall", "80"],
            "recall is a share in (0.0, 1.0]: for 80 % give 0.8",
        ),
        (
            ["--task", "sst2", "--input", "gold.csv", "--at-recall", ".5", "--at-precision", ".5"],
            "give one of precision, recall and agreement, got precision and recall",
        ),
        (["--input", "gold.csv"], "name the task of the rows with --task; tasks: sst2, stsb, rte"),
        (["--task", "sst2", "--split", "dev"], "--split, --column and --by choose among the rows of --input"),
    ],
)
def test_what_cannot_be_calibrated_is_named(model, gold, tmp_path, words, message, capsys):
    (tmp_path / "stsb.csv").write_text("sentence1,sentence2,label\na,b,1.5\na,c,2.5\n")
    assert bam_command("calibrate", "--run", model, *words) == 1
    assert message in capsys.readouterr().err.replace("(0, 1]", "(0.0, 1.0]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "is damaged ("),
        (lambda text: text.replace('"temperature": ', '"temperature": -'), "temperature of 'sst2' is -"),
        (lambda text: text.replace('"weights": "', '"weights": "0'), "was made for other weights"),
        (lambda text: text.replace('"negative": ', '"nobody": '), "task 'sst2' has no label 'nobody'"),
    ],
)
def test_a_damaged_calibration_is_refused(model, gold, change, message):
    found = bam.load(model, device="cpu")
    found.calibrate(ROWS, gold, "sst2", precision=0.8)
    found.save_calibration(model)
    (model / "calibration.json").write_text(change((model / "calibration.json").read_text()))
    with pytest.raises(bam.StoreError, match="calibration") as caught:
        bam.load(model)
    assert message in str(caught.value)


def test_a_model_is_not_worse_than_itself_and_a_broken_one_is(model, gold, tmp_path, capsys):
    words = ["--task", "sst2", "--input", "gold.csv"]
    assert bam_command("compare", model, model, "--margin", "0", *words) == 0
    assert "0 changed rows" in capsys.readouterr().out
    broken = shutil.copytree(model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["heads.sst2.linear.weight"] *= -1
    weights["heads.sst2.linear.bias"] *= -1
    save_file(weights, broken / "model.safetensors")
    resign(broken)
    assert bam_command("compare", model, broken, *words, "--output", "worse") == 1
    (task,) = json.loads((tmp_path / "worse" / "compare.json").read_text())["tasks"]
    old, new = (bam.load(folder, device="cpu").predict(ROWS, task="sst2") for folder in (model, broken))
    fixed = sum(b.label == name != a.label for a, b, name in zip(old, new, gold, strict=True))
    lost = sum(a.label == name != b.label for a, b, name in zip(old, new, gold, strict=True))
    assert (task["verdict"], task["fixed"], task["broken"]) == ("worse", fixed, lost)
    assert task["difference"] == pytest.approx(100 * (fixed - lost) / len(ROWS))
    assert task["low"] < task["difference"] < task["high"] < -0.5
    with (tmp_path / "worse" / "flipped.csv").open() as stream:
        flipped = list(csv.DictReader(stream))
    assert [int(row["row"]) for row in flipped] == [n for n in range(len(ROWS)) if old[n].label != new[n].label]
    assert all(row["text"] == ROWS[int(row["row"])] for row in flipped)
    assert bam_command("compare", broken, model, *words, "--output", "better") == 0


def test_models_with_their_labels_in_another_order_are_compared_by_name(model, gold, tmp_path, capsys):
    weights = load_file(model / "model.safetensors")
    weights["heads.sst2.linear.bias"] += torch.tensor([0.0, 0.1])  # no row is undecided
    save_file(weights, model / "model.safetensors")
    resign(model)
    other = shutil.copytree(model, tmp_path / "other")
    for name in ("weight", "bias"):
        weights[f"heads.sst2.linear.{name}"] = weights[f"heads.sst2.linear.{name}"].flip(0).contiguous()
    save_file(weights, other / "model.safetensors")
    resign(other, label_names=["positive", "negative"])
    words = ["--task", "sst2", "--input", "gold.csv", "--margin", "0"]
    for old, new in ((model, other), (other, model)):
        assert bam_command("compare", old, new, *words) == 0
        assert "0 changed rows" in capsys.readouterr().out
    resign(other, label_names=["good", "negative"])
    assert bam_command("compare", other, model, *words) == 1
    assert "task 'sst2' has other labels or another metric" in capsys.readouterr().err


def test_two_commands_that_calibrate_one_model_keep_what_both_fitted(model, gold, tmp_path, monkeypatch):
    info, fit = read_model_info(find_model(str(model))), Predictor.fit_calibration

    def fit_while_another_ends(self, *arguments):
        update_calibration(info.run, {"rte": info.tasks["rte"].label_names}, {"rte": TaskCalibration(2.0)})
        return fit(self, *arguments)

    monkeypatch.setattr(Predictor, "fit_calibration", fit_while_another_ends)
    assert bam_command("calibrate", "--run", model, "--task", "sst2", "--input", "gold.csv") == 0
    found = bam.load(model, device="cpu").calibration
    assert found["rte"].temperature == 2.0
    assert found["sst2"].rows == len(ROWS)


def test_a_threshold_that_rests_on_few_rows_says_so(model, gold, capsys):
    loaded = bam.load(model, device="cpu")
    margins = np.abs(np.diff(loaded.logits([(row,) for row in ROWS], ["sst2"])["sst2"])[:, 0])
    sure = np.argsort(-margins).tolist()
    others = {"negative": "positive", "positive": "negative"}
    right = [one.label for one in loaded.predict(ROWS, task="sst2")]
    lines = [f"{ROWS[row]},{right[row] if row in sure[:3] else others[right[row]]}" for row in range(len(ROWS))]
    with open("few.csv", "w") as file:
        file.write("\n".join(["sentence,label", *lines]))
    words = ["--run", model, "--task", "sst2", "--input", "few.csv", "--at-agreement", "0.99"]
    assert bam_command("calibrate", *words) == 0
    said = capsys.readouterr().out
    assert "sst2: answered 3 of 80 (4 %)" in said
    assert "sst2: the threshold rests on 3 rows: it says little about other rows; ask for less, or calibrate on" in said


def test_predict_writes_embeddings(model, tmp_path):
    lines = ["sentence,n", *(f"{row},{n}" for n, row in enumerate(ROWS)), ",80"]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    words = [
        "predict",
        "--run",
        model,
        "--task",
        "sst2",
        "--input",
        "in.csv",
        "--output",
        "out.parquet",
        "--embeddings",
    ]
    assert bam_command(*words) == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["sentence", "n", "embedding", "prediction_error"]
    vectors = np.array(table.column("embedding").to_pylist()[:-1], dtype=np.float32)
    np.testing.assert_allclose(vectors, bam.load(model, device="cpu").embed(ROWS), atol=1e-6)
    assert table.column("prediction_error").to_pylist()[-1] == "sentence is empty"


def test_embeddings_are_of_the_texts_that_a_template_makes(model, tmp_path):
    manifest = json.loads((model / "run.json").read_text())
    manifest["reads"]["sst2"]["text"] = ["it was {sentence}"]
    (model / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))
    (tmp_path / "in.csv").write_text("\n".join(["sentence", *ROWS[:3]]))
    words = ["--task", "sst2", "--input", "in.csv", "--output", "out.parquet", "--embeddings"]
    assert bam_command("predict", "--run", model, *words) == 0
    found = np.array(parquet.read_table("out.parquet").column("embedding").to_pylist(), dtype=np.float32)
    expected = bam.load(model, device="cpu").embed([f"it was {row}" for row in ROWS[:3]])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_folder_that_a_later_job_wrote_to_is_not_the_job_of_an_earlier_run(trained, tmp_path):
    store = Store(shutil.copytree(trained.store, tmp_path / "store"))
    info = read_model_info(find_model(trained.id, str(store.root)))
    assert job_file_of(info).name == "job.yaml"
    (record,) = job_records.read_records(store)
    later = replace(record, recipe="other", stages={"student": ["0" * 12]})
    job_records.save_record(store, later, job_records.FINISHED)
    with pytest.raises(ConfigError, match="is not known here"):
        job_file_of(info)


def test_a_student_with_its_own_length_grows_with_it(trained, monkeypatch, tmp_path):
    info = read_model_info(find_model(trained.id, str(trained.store)))
    job = read_job(job_file_of(info))
    job.recipe.stages["student"].max_length = 16
    monkeypatch.setattr("bam_lightning.recipes.grow.read_job", lambda path: job)
    (tmp_path / "mood.yaml").write_text(
        "defaults: [schema, /head: classification, _self_]\npath: x\ntext: [t]\nhead: {label_names: [a, b]}\n"
    )
    config = grown_config(info, GrowOptions(run=trained.id, task="mood.yaml", store=str(trained.store)))
    assert config.data.max_length == 16


def test_effects_on_tags_are_differences_of_their_scores(tmp_path):
    words = ["+experiment=demo_kinds", "suite.include=[tagging]", f"paths.cache={tmp_path}/cache"]
    rows = [f"suite.tasks.tagging.{part}_rows=24" for part in ("train", "dev")]
    config = compose([*words, *rows, f"paths.store={tmp_path}/store"])
    dev = row_cache.load("tagging", config.suite.tasks["tagging"], config.data, tmp_path / "cache").dev
    store, outputs = Store(tmp_path / "store"), len(config.suite.tasks["tagging"].head.label_names)
    wrong = np.random.default_rng(0).normal(size=(len(dev.labels.values), outputs))
    right = np.eye(outputs)[dev.labels.values]
    for run, logits in {"0" * 12: wrong, "1" * 12: right}.items():
        store.write_predictions(run, "tagging", "dev", dev.keys, Ragged.from_counts(logits, dev.labels.counts))
    effect = _effect(config, "other", "tagging", "0" * 12, "1" * 12)
    assert 0 < effect.low <= effect.difference <= 100
