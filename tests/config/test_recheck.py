"""A config that Python code changed after it was read is checked again before anything is trained."""

from __future__ import annotations

import pytest

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.config.data_config import Metric
from bam_lightning.config.recheck import recheck


def set_option(config, key: str, value) -> None:
    *parts, last = key.split(".")
    for part in parts:
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    setattr(config, last, value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimization.learning_rate", "1e-4", "optimization.learning_rate must be a number, got '1e-4'"),
        ("optimization.learning_rate", -1.0, "optimization.learning_rate must be above 0, got -1.0"),
        ("optimization.bias_correction", 1, "optimization.bias_correction must be true or false, got 1"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("seed", True, "seed must be a whole number, got True"),
        ("optimisation", 3, "no option 'optimisation'; did you mean 'optimization'?"),
        ("suite.only", ["rte"], "no option 'suite.only'; `only` is now `include`"),
        ("suite.include", "sentiment", "suite.include must be a list, got 'sentiment'"),
        ("suite.include", ["sentiment", 3], "suite.include[1] must be a text, got 3"),
        ("teachers", [1], "teachers must be a mapping, got [1]"),
        ("optimization.lr_schedule", "bert", "optimization.lr_schedule must be one of LRSchedule.linear, "
         "LRSchedule.bert, LRSchedule.constant, got 'bert'"),
        ("recipe.stages.student", None, "recipe.stages.student must be a StageConfig, got None"),
        ("trainer.devices", 0, "trainer.devices must be at least 1, got 0"),
        ("trainer.log_every_n_step", 3, "no option 'trainer.log_every_n_step'; did you mean 'log_every_n_steps'?"),
        ("experiment", "a/b", "experiment: 'a/b' is no name: use letters, digits and _, with a letter first, as in "
         "'a_b'"),
    ],
)  # fmt: skip
def test_a_bad_change_is_refused_when_the_recipe_starts(key, value, message, tmp_path):
    config = compose()
    if key.startswith("recipe.stages"):
        config.recipe.stages["student"] = value
    else:
        set_option(config, key, value)
    with pytest.raises(bam.ConfigError) as caught:
        bam.run_recipe(config, str(tmp_path / "out"))
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_a_metric_that_does_not_fit_is_refused():
    config = compose()
    config.suite.tasks["sentiment"].metric = Metric.spearman
    with pytest.raises(bam.ConfigError, match=r"^suite\.tasks\.sentiment\.metric 'spearman' does not fit"):
        recheck(config)


@pytest.mark.parametrize("scale", ["demo", "small", "base", "paper"])
def test_what_was_read_passes(scale):
    config = compose([f"scale={scale}", "+experiment=single_multi_finetune", "fidelity=reference_code"])
    config.optimization.learning_rate = 1
    config.seed = 7
    recheck(config)
