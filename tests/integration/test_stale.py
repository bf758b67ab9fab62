"""No stale signal: whatever changes what a teacher would say changes its Run's id, and so its student's."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bam_lightning.config.compose import compose
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from bam_lightning.store import run_spec as run_room
from bam_lightning.store.run_store import Store


@pytest.fixture
def job(tiny_job, tiny_bert, tmp_path) -> list[str]:
    """Words of a job whose encoder's folder may be changed."""
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    return [*tiny_job, f"encoder.path={tmp_path}/encoder"]


def ids(words: list[str]) -> dict[str, str]:
    """Return a name for each Run that the job would need -> its id."""
    config = compose(words)
    return {run.label: run.id for run in plan_runs(config, load_data(config)[2])}


def change_rows(path: Path, change) -> None:
    """Write a Parquet file anew, with ``change`` made to its columns."""
    columns = parquet.read_table(path).to_pydict()
    change(columns)
    parquet.write_table(pa.table(columns), path)


def a_text(tmp_path):
    def change(columns):
        columns["sentence2"][7] += " not"

    change_rows(tmp_path / "data" / "rte" / "train.parquet", change)


def a_label(tmp_path):
    def change(columns):
        columns["label"][7] = 1 - columns["label"][7]

    change_rows(tmp_path / "data" / "rte" / "train.parquet", change)


def a_dev_label(tmp_path):
    def change(columns):
        columns["label"][7] = 1 - columns["label"][7]

    change_rows(tmp_path / "data" / "rte" / "validation.parquet", change)


def the_weights(tmp_path):
    path = tmp_path / "encoder" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def the_tokenizer(tmp_path):
    path = tmp_path / "encoder" / "tokenizer.json"
    parts = json.loads(path.read_text())
    parts["normalizer"]["lowercase"] = not parts["normalizer"]["lowercase"]
    path.write_text(json.dumps(parts))


def the_configuration(tmp_path):
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "relu"}))


@pytest.mark.parametrize(
    "change",
    [a_text, a_label, a_dev_label, the_weights, the_tokenizer, the_configuration],
    ids=lambda one: one.__name__,
)
def test_a_changed_file_changes_the_teacher_and_its_student(change, job, tmp_path):
    before = ids(job)
    change(tmp_path)
    after = ids(job)
    assert after["single/rte"] != before["single/rte"]
    assert after["student"] != before["student"]
    of_the_task = change in (a_text, a_label, a_dev_label)
    assert (after["single/stsb"] == before["single/stsb"]) == of_the_task


@pytest.mark.parametrize(
    "override",
    [
        "suite.tasks.rte.head.label_names=[entails,not_entailment]",  # a label's name
        "suite.tasks.rte.head.label_names=[not_entailment,entailment]",  # the order of classes
        "data.max_length=31",
        "suite.tasks.rte.metric=f1",
    ],
)
def test_a_changed_word_of_the_task_changes_the_teacher_and_its_student(override, job):
    before, after = ids(job), ids([*job, override])
    assert after["single/rte"] != before["single/rte"]
    assert after["student"] != before["student"]


def test_another_version_of_the_algorithm_trains_everything_anew(job, monkeypatch):
    before = ids(job)
    for module in (run_room, __import__("bam_lightning.recipes.planner", fromlist=["ALGORITHM"])):
        monkeypatch.setattr(module, "ALGORITHM", run_room.ALGORITHM + 1)
    after = ids(job)
    assert all(after[name] != before[name] for name in before)


def test_rows_in_another_order_and_another_file_are_the_same_runs(job, tmp_path):
    before = ids(job)

    def shuffle(columns):
        order = np.random.default_rng(3).permutation(len(columns["label"]))
        for name, values in columns.items():
            columns[name] = [values[place] for place in order]

    for split in ("train", "validation"):
        change_rows(tmp_path / "data" / "rte" / f"{split}.parquet", shuffle)
        path = tmp_path / "data" / "stsb" / f"{split}.csv"
        head, *rows = list(csv.reader(path.read_text().splitlines()))
        with (tmp_path / "data" / "stsb" / f"{split}.tsv").open("w") as target:
            target.writelines("\t".join(row) + "\n" for row in [head, *reversed(rows)])
        path.unlink()
    assert ids(job) == before


def test_a_changed_column_of_a_teacher_stops_its_student_by_name(job, tmp_path):
    teachers = run_recipe(compose([*job, "recipe=single"]), tmp_path / "out")["runs"]
    store = Store(tmp_path / "store")
    teacher = next(run["id"] for run in teachers if run["tasks"] == ["rte"])
    config = compose([*job, "trainer.max_steps=1"])
    run_recipe(compose([*job, "recipe=single_multi"]), tmp_path / "out")  # now the teachers have columns
    path = store.predictions_path(teacher, "rte", "train")
    content = bytearray(path.read_bytes())
    content[-2] ^= 8
    path.write_bytes(content)
    config = compose([*job, "seed=5"])
    with pytest.raises(ValueError) as caught:
        run_recipe(config, tmp_path / "out")
    assert str(caught.value) == f"{path} is damaged or belongs to another Run; delete it, and it is written anew"
    path.unlink()
    assert run_recipe(config, tmp_path / "out")["runs"]


def test_a_teacher_with_changed_weights_predicts_no_more(job, tmp_path):
    runs = run_recipe(compose([*job, "recipe=single"]), tmp_path / "out")["runs"]
    store = Store(tmp_path / "store")
    weights = store.folder(runs[0]["id"]) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 8
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{weights} is damaged: its hash is \w+, the manifest says \w+; delete "):
        run_recipe(compose(job), tmp_path / "out")


def test_a_run_that_is_trained_anew_leaves_no_prediction_of_the_old_one(job, tmp_path):
    run_recipe(compose(job), tmp_path / "out")
    store = Store(tmp_path / "store")
    teacher = next(path for path in (store.root / "runs").iterdir() if store.manifest(path.name)["stage"] == "single")
    columns = store.root / "outputs" / teacher.name
    assert len(list(columns.iterdir())) == 2  # dev and train
    shutil.rmtree(teacher)
    (columns / "rte.test.safetensors").write_text("of the old weights")
    run_recipe(compose([*job, "recipe=single"]), tmp_path / "out")
    assert [path.name.split(".")[1] for path in columns.iterdir()] == ["dev"]
