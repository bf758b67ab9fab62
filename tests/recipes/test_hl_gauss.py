"""A regression task over bins, from the configuration to a student that is taught distributions, and its exports."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_store import Store

BINS = ["suite.tasks.stsb.head._target_=bam_lightning.HLGaussHead", "+suite.tasks.stsb.head.options={bins: 21}"]


def test_a_student_is_taught_the_teacher_s_bins(tiny_job, tmp_path):
    runs = run_recipe(compose([*tiny_job, *BINS]), tmp_path / "out")["runs"]
    store = Store(f"{tmp_path}/store")
    teacher = next(run["id"] for run in runs if run["tasks"] == ["stsb"])
    assert {logits.shape for logits in store.read_predictions(teacher, "stsb", "train").values()} == {(21,)}
    scores = runs[-1]["metrics"]["stsb"]
    assert set(scores) >= {"spearman", "pearson"}
    model = bam.load(runs[-1]["id"], store=f"{tmp_path}/store")
    rows = [("a cat", "the dog"), ("who sleeps", "it")]
    answers = [float(answer.label) for answer in model.predict(rows, task="stsb")]
    logits = torch.from_numpy(model.logits(rows, ["stsb"])["stsb"])
    head = bam.HLGaussHead(32, [0.0, 5.0], bins=21)
    np.testing.assert_allclose(answers, torch.softmax(logits, dim=1) @ head.centres(), atol=1e-4)
    other = compose([*tiny_job, BINS[0], "+suite.tasks.stsb.head.options={bins: 31}", f"+teachers.stsb={teacher}"])
    with pytest.raises(ValueError, match=r"was trained with head\.options \{'bins': 21\}, task 'stsb' here has \{'b"):
        run_recipe(other, tmp_path / "other")


def test_the_group_of_heads_has_it(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(
        "defaults: [schema, /head: hl_gauss, _self_]\npath: x\ntext: [a]\nhead: {label_range: [0, 5]}\n"
        "metric: spearman\n"
    )
    config = compose([f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=mine"])
    assert config.suite.tasks["mine"].head.options == {"bins": 51}


@pytest.mark.parametrize("form", ["hf", pytest.param("onnx", marks=pytest.mark.release)])
def test_its_exports_compute_the_same_logits(form, tiny_job, tmp_path):
    from bam_lightning.inference.export import ExportOptions, export

    run = run_recipe(compose([*tiny_job, *BINS, "recipe=multi"]), tmp_path / "out")["runs"][-1]["id"]
    export(
        ExportOptions(run=run, output=f"{tmp_path}/exported", store=f"{tmp_path}/store", format=form, task=[], heads=[])
    )
