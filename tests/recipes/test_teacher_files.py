"""A recipe learns from files of predictions: the same student as from the Runs that made them, and said where."""

from __future__ import annotations

import json
import os

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

GLUE, ENCODER = os.environ.get("BAM_GLUE_DIR"), os.environ.get("BAM_ENCODER_DIR")


def glue_job(folder) -> list[str]:
    """Return the words of a short job on real text: a few rows and steps."""
    return [
        "scale=small",
        f"data.root={GLUE}",
        f"encoder.path={ENCODER}",
        "suite.include=[rte,mrpc,cola]",
        *(f"suite.tasks.{task}.train_rows=24" for task in ("rte", "mrpc", "cola")),
        *(f"suite.tasks.{task}.dev_rows=8" for task in ("rte", "mrpc", "cola")),
        "trainer.max_steps=2",
        "optimization.batch_size=8",
        "distillation.teacher_margin=null",  # nobody learns in three steps
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=1",
        "data.max_length=32",
        "run.validations=0",
        "logger=none",
        f"paths.store={folder}/store",
    ]


@pytest.fixture(params=["tiny", pytest.param("glue", marks=pytest.mark.release)])
def job(request, tmp_path) -> list[str]:
    """The words of a job in a store of its own."""
    if request.param == "tiny":
        return request.getfixturevalue("tiny_job")
    if not (GLUE and ENCODER):
        pytest.skip("BAM_GLUE_DIR and BAM_ENCODER_DIR do not say where real text and an encoder lie")
    return glue_job(tmp_path)


def write_columns(config, teachers: dict[str, str], folder) -> dict[str, pd.DataFrame]:
    """Write the teachers' logits on the training rows as files, their rows in another order."""
    store, tables = Store(config.paths.store), {}
    for name, run in teachers.items():
        task = config.suite.tasks[name]
        rows = load_examples(name, task_from_config(name, task, config.data)).train
        known = store.read_predictions(run, name, "train")
        table = pd.DataFrame(dict(zip(task.text, rows.texts, strict=True)))
        table["logits"] = [known[key].tolist() for key in rows.keys]
        tables[name] = table.sample(frac=1, random_state=4)
        tables[name].to_parquet(folder / f"{name}.parquet")
    return tables


def student_of(results: dict) -> str:
    return results["runs"][-1]["id"]


def losses_of(store, run: str) -> list[float]:
    return [row["loss"] for row in json.loads((store / "runs" / run / "history.json").read_text())]


@pytest.mark.slow
def test_files_of_another_runs_predictions_train_the_same_student(job, tmp_path, capsys):
    config = compose(job)
    taught = run_recipe(config, tmp_path / "taught")
    teachers = {run["tasks"][0]: run["id"] for run in taught["runs"] if run["stage"] == "single"}
    tables, store = write_columns(config, teachers, tmp_path), tmp_path / "store"
    classes = {task: ",".join(config.suite.tasks[task].head.label_names) for task in teachers}
    count = len(tables["rte"])

    def learn(*words: str) -> dict:
        return run_recipe(compose([*job, f"paths.store={tmp_path}/other", *words]), tmp_path / "out")

    def source(task: str, name: str, *more: str) -> str:
        named = [f"classes: [{classes[task]}]"] if classes[task] and not name.endswith("csv") else []
        return f"teachers.{task}={{{', '.join([f'path: {tmp_path}/{name}', 'check_agreement: false', *named, *more])}}}"

    whole = {task: source(task, f"{task}.parquet") for task in teachers}
    results = learn(*whole.values())
    assert [run["stage"] for run in results["runs"]] == ["student"]  # all teachers left the plan
    student, other = student_of(results), Store(tmp_path / "other")
    assert (store / "runs" / student_of(taught) / WEIGHTS).read_bytes() == other.run(student).file(WEIGHTS).read_bytes()
    note = f"rte.parquet: {count} of {count} training rows"
    assert note in capsys.readouterr().err.replace("\n", "")
    assert any(line.endswith(note) for line in other.manifest(student)["teacher_notes"])
    load(student, store=other.root).save_pretrained(tmp_path / "saved")
    assert note in (tmp_path / "saved" / "README.md").read_text()

    tables["rte"].iloc[count // 20 :].to_json(tmp_path / "part.jsonl", orient="records", lines=True)
    rest = [words for task, words in whole.items() if task != "rte"]
    before = sorted(path.name for path in (other.root / "runs").iterdir())
    message = rf"part.jsonl: {count // 20} of {count} training rows have no prediction, training row \d+"
    with pytest.raises(DataError, match=message):
        learn(source("rte", "part.jsonl"), *rest)
    assert sorted(path.name for path in (other.root / "runs").iterdir()) == before
    assert not list((other.root / "building").iterdir())
    results = learn(source("rte", "part.jsonl", "missing: gold"), *rest)
    said = f"{count - count // 20} of {count} training rows; the others learn from gold alone"
    assert any(line.endswith(said) for line in other.manifest(student_of(results))["teacher_notes"])

    soft = np.exp(np.stack(tables["rte"].logits.tolist()))
    soft = pd.DataFrame(soft / soft.sum(1, keepdims=True), columns=[f"p_{name}" for name in classes["rte"].split(",")])
    tables["rte"].drop(columns="logits").reset_index(drop=True).join(soft).to_csv(tmp_path / "soft.csv", index=False)
    results = learn(source("rte", "soft.csv"), *rest)
    expected, found = losses_of(store, student_of(taught)), losses_of(other.root, student_of(results))
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-5)  # a few steps on targets that are rounded differently
