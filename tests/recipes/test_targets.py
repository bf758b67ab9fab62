"""Parts of a job that users choose by ``_target_``: Trainer flags, callbacks, loggers, optimizer; and the sweeper."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.store.run_spec import DataSummary
from forked_python import python

STEPS = ["trainer.max_steps=6", "recipe=multi"]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of a user's own, outside of the repository."""
    path = tmp_path / "own_parts.py"
    path.write_text(
        "from pathlib import Path\n"
        "import pytorch_lightning as pl\n"
        "import torch\n"
        "class Count(pl.Callback):\n"
        "    def __init__(self, path): self.path = Path(path)\n"
        "    def on_train_batch_end(self, trainer, module, *_):\n"
        "        self.path.write_text(f'{trainer.global_step} {type(trainer.optimizers[0]).__name__}')\n"
        "class Optimizer(torch.optim.SGD): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("own_parts", None)


def test_callback_logger_optimizer_and_flags_of_ones_own(tiny_job, own_module, tmp_path):
    words = [
        *tiny_job,
        *STEPS,
        f"+callbacks.count={{_target_: own_parts.Count, path: {tmp_path}/counted}}",
        "+logger.also.curves={_target_: pytorch_lightning.loggers.CSVLogger}",
        "+optimization.optimizer={_target_: own_parts.Optimizer, momentum: 0.9}",
        "+trainer.accumulate_grad_batches=2",
    ]
    bam.run_recipe(compose(words), tmp_path / "out")
    assert (tmp_path / "counted").read_text() == "6 Optimizer"
    (curves,) = (tmp_path / "out" / "curves").glob("**/metrics.csv")
    titles = curves.read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/lam", "val/rte/accuracy", "val/average"} <= set(titles)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+trainer.devises=2", "trainer.devises is not a flag of Lightning's Trainer; did you mean 'devices'?"),
        ("+trainer.max_epochs=2", "trainer.max_epochs is set by the recipe; leave it out"),
        ("trainer.devices=two", "trainer.devices must be a whole number, got 'two'"),
        ("+callbacks.mine={_target_: nowhere.Mine}", "callbacks.mine._target_ names 'nowhere.Mine'"),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_before_training(tiny_job, tmp_path, word, message):
    with pytest.raises(bam.ConfigError) as refused:
        bam.run_recipe(compose([*tiny_job, *STEPS, word]), tmp_path / "out")
    assert message in str(refused.value)
    assert not (tmp_path / "store" / "runs").exists() or not list((tmp_path / "store" / "runs").iterdir())


def ids(*words):
    config = compose(["suite.include=[sentiment,similarity]", "recipe=multi", *words])
    names = list(config.suite.trained())
    facts = DataSummary(dict.fromkeys(names, 100), dict.fromkeys(names, "rows"), "encoder", 1000, "text")
    return plan_runs(config, facts)[-1].id


@pytest.mark.parametrize(
    ("word", "counts"),
    [
        ("+trainer.accumulate_grad_batches=2", True),
        ("+trainer.gradient_clip_val=0.5", True),
        ("+optimization.optimizer={_target_: torch.optim.SGD}", True),
        ("+callbacks.mine={_target_: own_parts.Count, path: x}", True),
        ("trainer.precision=64-true", True),
        ("+trainer.profiler=simple", False),
        ("+callbacks.rates={_target_: pytorch_lightning.callbacks.LearningRateMonitor}", False),
        ("run.validations=0", False),
        ("trainer.devices=2", False),
        ("run.checkpoint_minutes=1", False),
    ],
)
def test_what_can_change_weights_is_in_the_id(own_module, word, counts):
    assert (ids(word) != ids()) is counts


def test_an_edited_class_of_ones_own_is_another_run(own_module):
    word = "+optimization.optimizer={_target_: own_parts.Optimizer}"
    before = ids(word)
    assert ids(word) == before
    own_module.write_text(own_module.read_text() + "# edited\n")
    assert ids(word) != before


def test_an_encoder_that_changes_while_a_run_is_trained_is_noticed(tiny_job, tiny_bert, tmp_path, monkeypatch):
    import shutil

    from bam_lightning.training.module import BamModule

    folder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    monkeypatch.setattr(BamModule, "on_train_end", lambda self: (folder / "added.txt").write_text("new"))
    config = compose([*tiny_job, *STEPS, f"encoder.path={folder}"])
    with pytest.raises(bam.TrainingError, match="have changed while Run"):
        bam.run_recipe(config, tmp_path / "out")


@pytest.mark.release
@pytest.mark.slow
def test_optuna_tunes_an_option(tiny_job, tmp_path):
    pytest.importorskip("optuna")
    words = [*tiny_job, "recipe=multi", "trainer.max_steps=4", "+tune=learning_rate", "hydra.sweeper.n_trials=2"]
    words = [word for word in words if not word.startswith("optimization.learning_rate")]
    command = [python(), "-m", "bam_lightning.train", "-m", *words, f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 jobs ended, 0 of them failed" in done.stdout + done.stderr
    assert "best_value" in (tmp_path / "sweep" / "optimization_results.yaml").read_text()


def test_the_module_takes_any_torch_optimizer_by_class():
    assert issubclass(bam.BertAdam, torch.optim.AdamW)
