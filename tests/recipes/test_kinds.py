"""A recipe over all kinds of tasks: teachers' columns of words in the store, a student of all, scores, predictions."""

from __future__ import annotations

import json

import pytest

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.inference.predict_file import PredictOptions, predict_file
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_store import Store


@pytest.mark.release
@pytest.mark.slow
def test_a_recipe_of_all_kinds_teaches_scores_and_predicts(tiny_bert, tmp_path):
    kinds = ("tagging", "choice", "answer")
    config = compose(
        [
            "+experiment=demo_kinds",
            "scale=small",
            f"suite.include=[{','.join(kinds)}]",
            *(f"suite.tasks.{kind}.{part}_rows=24" for kind in kinds for part in ("train", "dev")),
            f"encoder.path={tiny_bert}",
            "data.max_length=48",
            "optimization.epochs=1",
            "optimization.batch_size=8",
            "optimization.min_steps=3",
            "distillation.teacher_margin=null",
            "logger=none",
            f"paths.store={tmp_path / 'store'}",
            f"paths.cache={tmp_path / 'cache'}",
            "trainer.accelerator=cpu",
            "trainer.precision=32-true",
        ]
    )
    results = run_recipe(config, tmp_path / "out")
    store = Store(tmp_path / "store")
    student = results["runs"][-1]
    assert set(student["metrics"]) == set(kinds)
    assert {"span_f1", "tag_accuracy"} <= set(student["metrics"]["tagging"])
    assert {"squad_f1", "squad_exact_match"} <= set(student["metrics"]["answer"])
    teachers = {run["tasks"][0]: run["id"] for run in results["runs"][:-1]}
    for kind, outputs in (("tagging", 6), ("answer", 2)):
        columns = store.read_predictions(teachers[kind], kind, "train")
        assert len(columns) == 24
        assert {column.shape[1] for column in columns.values()} == {outputs}
        assert len({len(column) for column in columns.values()}) > 1  # words of rows of different lengths
    assert {column.shape for column in store.read_predictions(teachers["choice"], "choice", "train").values()} == {(3,)}
    model = bam.load(student["id"], store=tmp_path / "store")
    assert len(model.predict(["ona gasak as"], task="tagging")[0].label) == 3
    rows = [{"tokens": "ona gasak as"}, {"tokens": ["mulno", "fazok"]}, {"tokens": ["two words", "x"]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = PredictOptions(
        run=student["id"], store=str(tmp_path / "store"), task=["tagging"], input=str(tmp_path / "in.jsonl"),
        output=str(tmp_path / "out.jsonl"),
    )  # fmt: skip
    assert predict_file(options) == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(row.get("tagging.label", ())) for row in found] == [3, 2, 0]
    assert [len(row.get("tagging.scores", ())) for row in found] == [3, 2, 0]
    assert "not one word" in found[2]["prediction_error"]
