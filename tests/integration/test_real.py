"""The real job on real text for a few steps, where the environment says where it lies."""

from __future__ import annotations

import os

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.recipes.runner import run_recipe

GLUE, ENCODER = os.environ.get("BAM_GLUE_DIR"), os.environ.get("BAM_ENCODER_DIR")
needs_glue = pytest.mark.skipif(not GLUE, reason="BAM_GLUE_DIR does not say where GLUE's files lie")
needs_encoder = pytest.mark.skipif(not ENCODER, reason="BAM_ENCODER_DIR does not say where an encoder lies")


@pytest.mark.release
@needs_glue
@needs_encoder
@pytest.mark.slow
def test_the_real_job_for_a_few_steps(tmp_path):
    config = compose(
        [
            "scale=small",
            f"data.root={GLUE}",
            f"encoder.path={ENCODER}",
            "suite.include=[rte,stsb]",
            "trainer.max_steps=3",
            "optimization.batch_size=8",
            "distillation.teacher_margin=null",  # nobody learns in three steps
            "logger=none",
            "trainer.log_every_n_steps=1",
            "data.max_length=32",
            "suite.tasks.stsb.train_rows=32",
            "suite.tasks.rte.train_rows=32",
            "suite.tasks.rte.dev_rows=16",
            "suite.tasks.stsb.dev_rows=16",
            "run.validations=0",
        ]
    )
    found = run_recipe(config, tmp_path / "out")
    assert [run["tasks"] for run in found["runs"]] == [["stsb"], ["rte"], ["stsb", "rte"]]
    assert set(found["average"]) == {"single", "student"}


@needs_glue
def test_every_whole_set_of_glue_passes_the_checks():
    from bam_lightning.data.examples import load_examples, load_unlabelled
    from bam_lightning.data.task import task_from_config

    sizes = {"rte": (2490, 277), "mrpc": (3668, 408), "cola": (8551, 1043), "stsb": (5749, 1500), "wnli": (635, 71)}
    config = compose(["scale=small", "suite=glue_with_wnli", f"data.root={GLUE}"])
    for name, (train, dev) in sizes.items():
        rows = load_examples(name, task_from_config(name, config.suite.tasks[name], config.data))
        assert (len(rows.train.labels), len(rows.dev.labels)) == (train, dev)
    assert (
        len(load_unlabelled("ax", task_from_config("ax", config.suite.tasks["ax"], config.data), "test").keys) == 1104
    )


@needs_glue
def test_a_test_split_scored_by_mistake_is_refused():
    from bam_lightning.data.examples import load_examples
    from bam_lightning.data.task import task_from_config

    config = compose(["scale=small", f"data.root={GLUE}", "suite.tasks.rte.dev_split=test"])
    with pytest.raises(ValueError, match="all labels are -1, so this is an unlabelled test split"):
        load_examples("rte", task_from_config("rte", config.suite.tasks["rte"], config.data))


@needs_glue
def test_a_part_of_a_set_is_one_override_away():
    from bam_lightning.data.examples import load_examples
    from bam_lightning.data.task import task_from_config

    config = compose(["scale=small", f"data.root={GLUE}", "suite.tasks.mnli.train_split=train_subset.parquet"])
    assert (
        len(load_examples("mnli", task_from_config("mnli", config.suite.tasks["mnli"], config.data)).train.labels)
        == 15890
    )
