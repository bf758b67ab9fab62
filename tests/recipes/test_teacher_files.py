"""A recipe learns from files of predictions: the same student as from the Run that made them, and said where."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import DataError
from bam_lightning.data.examples import load_examples
from bam_lightning.data.task import task_from_config
from bam_lightning.inference.predictor import load
from bam_lightning.models.saving import WEIGHTS
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_store import Store

TASKS = ("rte", "stsb")


def write_columns(config, teachers: dict[str, str], folder) -> dict[str, pd.DataFrame]:
    """Write the teachers' logits on the training rows as files, their rows in another order."""
    store, tables = Store(config.paths.store), {}
    for name, run in teachers.items():
        rows = load_examples(name, task_from_config(name, config.suite.tasks[name], config.data)).train
        known = store.read_predictions(run, name, "train")
        table = pd.DataFrame(dict(zip(("sentence1", "sentence2"), rows.texts, strict=True)))
        table["logits"] = [known[key].tolist() for key in rows.keys]
        tables[name] = table.sample(frac=1, random_state=4)
        tables[name].to_parquet(folder / f"{name}.parquet")
    return tables


def student_of(job: dict) -> str:
    return job["runs"][-1]["id"]


@pytest.mark.slow
def test_files_of_another_runs_predictions_train_the_same_student(tiny_job, tmp_path, capsys):
    config = compose(tiny_job)
    taught = run_recipe(config, tmp_path / "taught")
    teachers = {run["tasks"][0]: run["id"] for run in taught["runs"] if run["stage"] == "single"}
    tables = write_columns(config, teachers, tmp_path)
    classes = ",".join(config.suite.tasks["rte"].head.label_names)

    def learn(*words: str) -> dict:
        return run_recipe(compose([*tiny_job, f"paths.store={tmp_path}/other", *words]), tmp_path / "out")

    rte = f"teachers.rte={{path: {tmp_path}/rte.parquet, classes: [{classes}], check_agreement: false}}"
    stsb = f"teachers.stsb={{path: {tmp_path}/stsb.parquet, check_agreement: false}}"
    job = learn(rte, stsb)
    assert [run["stage"] for run in job["runs"]] == ["student"]  # both teachers left the plan
    weights = [
        (tmp_path / store / "runs" / run / WEIGHTS).read_bytes()
        for store, run in (("store", student_of(taught)), ("other", student_of(job)))
    ]
    assert weights[0] == weights[1]
    other = Store(tmp_path / "other")
    manifest = other.manifest(student_of(job))
    assert set(manifest["teachers"]) == set(TASKS)
    assert f"teacher of 'rte', {tmp_path}/rte.parquet: 40 of 40 training rows" in manifest["teacher_notes"]
    assert "rte.parquet: 40 of 40 training rows" in capsys.readouterr().err.replace("\n", "")
    load(student_of(job), store=tmp_path / "other").save_pretrained(tmp_path / "saved")
    assert "rte.parquet: 40 of 40 training rows" in (tmp_path / "saved" / "README.md").read_text()

    tables["rte"].iloc[2:].to_json(tmp_path / "part.jsonl", orient="records", lines=True)
    part = f"teachers.rte={{path: {tmp_path}/part.jsonl, classes: [{classes}], check_agreement: false"
    before = sorted(path.name for path in (tmp_path / "other" / "runs").iterdir())
    with pytest.raises(DataError, match=r"part.jsonl: 2 of 40 training rows have no prediction, training row \d+"):
        learn(part + "}", stsb)
    assert sorted(path.name for path in (tmp_path / "other" / "runs").iterdir()) == before
    assert not list((tmp_path / "other" / "building").iterdir())
    job = learn(part + ", missing: gold}", stsb)
    notes = other.manifest(student_of(job))["teacher_notes"]
    assert f"teacher of 'rte', {tmp_path}/part.jsonl: 38 of 40 training rows; the others learn from gold alone" in notes

    soft = np.exp(np.stack(tables["rte"].logits.tolist()))
    soft = pd.DataFrame(soft / soft.sum(1, keepdims=True), columns=[f"p_{name}" for name in classes.split(",")])
    tables["rte"].drop(columns="logits").reset_index(drop=True).join(soft).to_csv(tmp_path / "soft.csv", index=False)
    job = learn(f"teachers.rte={{path: {tmp_path}/soft.csv, check_agreement: false}}", stsb)
    history = [
        json.loads((tmp_path / store / "runs" / run / "history.json").read_text())
        for store, run in (("store", student_of(taught)), ("other", student_of(job)))
    ]
    losses = [[row["loss"] for row in rows] for rows in history]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)  # after ten steps of training on rounded targets
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)
