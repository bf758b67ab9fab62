"""A student learns another task: it starts from its weights, is taught by its old self, and is compared with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.models.saving import load_encoder
from bam_lightning.recipes.evaluation import job_file_of
from bam_lightning.recipes.grow import GrowOptions, grow, grown_config, read_task
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_store import Store
from conftest import sentences

TASK = """defaults: [schema, /head: classification, _self_]
path: data/sst2
text: [sentence]
head: {label_names: [negative, positive]}
"""


def test_a_task_with_the_name_of_one_of_the_librarys_is_the_users():
    Path("mnli.yaml").write_text(f"{TASK}train_rows: 7\n")
    added = read_task("mnli.yaml", "mnli")
    assert (added.path, added.train_rows, added.text) == ("data/sst2", 7, ["sentence"])
    labels = "labels: {mood: {head: {label_names: [bad, good]}}}"
    Path("moods.yaml").write_text(f"defaults: [schema, _self_]\npath: data/sst2\ntext: [sentence]\n{labels}\n")
    with pytest.raises(ConfigError, match=r"moods\.yaml has labels of several tasks, and bam grow adds one"):
        read_task("moods.yaml", "moods")


@pytest.mark.release
@pytest.mark.slow
def test_a_student_learns_another_task_from_its_weights_and_its_own_predictions(
    tiny_job, tiny_data, tmp_path, capsys, monkeypatch
):
    taught = run_recipe(compose(tiny_job), tmp_path / "out")
    old = taught["runs"][-1]["id"]
    Path("mood.yaml").write_text(TASK)
    store = Store(tmp_path / "store")
    before = {path.name for path in (store.root / "runs").iterdir()}
    options = GrowOptions(run=old, task="mood.yaml", store=str(store.root), share=0.5, margin=100.0)
    status = grow(options)
    said = capsys.readouterr()
    assert status == 0  # nothing can be worse by more than 100 points
    new = {path.name for path in (store.root / "runs").iterdir()} - before
    assert len(new) == 2  # the new task's teacher, and the student
    manifests = {store.manifest(run)["stage"]: store.manifest(run) for run in new}
    student, teacher = manifests["student"], manifests["single"]
    assert teacher["tasks"] == ["mood"]
    assert teacher["init_from"] is None  # the base encoder
    assert student["init_from"] == old
    assert student["teachers"] == {"stsb": old, "rte": old, "mood": teacher["id"]}
    assert student["steps"] == 8  # half of 2 epochs of 120 rows, 16 a step
    assert f"mood: dev accuracy {100 * student['metrics']['mood']['accuracy']:.1f} of Run {student['id']}" in said.out
    compared = json.loads(Path("grow/compare/compare.json").read_text())
    assert {entry["task"] for entry in compared["tasks"]} == {"rte", "stsb"}

    _, _, heads = load_encoder(store.run(old), "pooler")
    _, _, grown = load_encoder(store.run(student["id"]), "pooler")
    assert set(grown) == {*heads, "mood"}
    scale = max(float(value.abs().max()) for value in heads["rte"].values())
    moved = max(float((grown["rte"][name] - value).abs().max()) for name, value in heads["rte"].items())
    assert 0 < moved < scale  # it went on from the old head

    monkeypatch.setattr("bam_lightning.recipes.grow.compare", lambda _: 0)  # a bootstrap takes seconds
    assert grow(options) == 0  # nothing is trained twice
    assert {path.name for path in (store.root / "runs").iterdir()} == before | new

    info = read_model_info(find_model(old, str(store.root)))
    config = grown_config(info, options, ["seed=3", "optimization.multi.learning_rate=1e-5"])
    assert (config.seed, config.optimization.multi.learning_rate) == (3, 1e-5)
    assert config.recipe.stages["student"].optimization.epochs == 1.0
    with pytest.raises(ConfigError, match="it does not accept 'recipe=multi'"):
        grow(options, ["recipe=multi"])
    shutil.copy("mood.yaml", "rte.yaml")
    with pytest.raises(ConfigError, match="has a task 'rte' already"):
        grown_config(info, GrowOptions(run=old, task="rte.yaml"))
    with pytest.raises(FileNotFoundError, match=r"task: no file none\.yaml"):
        grown_config(info, GrowOptions(run=old, task="none.yaml"))
    lines = (tiny_data / "stsb" / "train.csv").read_text().splitlines()
    (tiny_data / "stsb" / "train.csv").write_text("\n".join([*lines, '"a cat runs","a dog eats",2.5,77']) + "\n")
    with pytest.raises(DataError, match=r"the rows of task 'stsb' are no longer those .* with --changed stsb"):
        grow(options)
    assert grow(GrowOptions(**{**vars(options), "changed": ["stsb"], "output": "again"})) == 0
    keys = store.read_predictions(old, "stsb", "train")
    assert len(keys) == 41  # the old student has predicted the new row as well
    assert all(np.isfinite(row).all() for row in keys.values())
    shutil.rmtree(job_file_of(info).parent)
    with pytest.raises(ConfigError, match=r"the job that trained .* is not known here"):
        grow(options)


@pytest.mark.slow
def test_a_student_learns_a_task_without_gold_from_a_file(tiny_job, tmp_path, monkeypatch):
    old = run_recipe(compose(tiny_job), tmp_path / "out")["runs"][-1]["id"]
    Path("mood").mkdir()
    texts = sentences(20, seed=4)
    labels = ["negative", "positive"] * 10
    rows = [{"sentence": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    for split, part in {"train": [{**row, "label": None} for row in rows[:12]], "validation": rows[12:]}.items():
        Path(f"mood/{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    answers = [{"sentence": row["sentence"], "answer": row["label"]} for row in rows[:12]]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    Path("mood.yaml").write_text(TASK.replace("data/sst2", "mood") + "test_split: null\nallow_missing_labels: true\n")
    options = GrowOptions(run=old, task="mood.yaml", store=str(tmp_path / "store"))
    info = read_model_info(find_model(old, options.store))
    with pytest.raises(ConfigError, match=r"'teachers.rte=a.csv': the old student .* as teachers.mood=FILE"):
        grown_config(info, options, ["teachers.rte=a.csv"])
    words = ["teachers.mood={path: answers.jsonl, labels: answer}", "seed=1"]
    config = grown_config(info, options, words)
    assert config.teachers == {"stsb": old, "rte": old, "mood": {"path": "answers.jsonl", "labels": "answer"}}
    assert config.seed == 1
    with pytest.raises(ConfigError, match=r"no training row of 'mood' has a gold label.* with teachers.mood=FILE"):
        grow(options)

    monkeypatch.setattr("bam_lightning.recipes.grow.compare", lambda _: 0)  # a bootstrap takes seconds
    store = Store(options.store)
    before = {path.name for path in (store.root / "runs").iterdir()}
    assert grow(options, words) == 0
    (student,) = {path.name for path in (store.root / "runs").iterdir()} - before  # no teacher was trained
    manifest = store.manifest(student)
    assert (manifest["stage"], manifest["init_from"]) == ("student", old)
    assert {task: manifest["teachers"][task] for task in ("rte", "stsb")} == {"rte": old, "stsb": old}
    assert any("answers.jsonl: 12 of 12 training rows" in note for note in manifest["teacher_notes"])
    assert set(manifest["metrics"]) == {"rte", "stsb", "mood"}
