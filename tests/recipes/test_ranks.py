"""A job in two processes: a rank that is killed is named, and the same command ends bit-equal to an undisturbed job."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import TrainingError
from bam_lightning.recipes.runner import run_recipe
from forked_python import python

KILLER = """
import os, signal
import pytorch_lightning as pl

class Killer(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if os.environ.get("KILLED") == f"rank {trainer.global_rank} step {trainer.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_rank_is_named_and_the_job_ends_bit_equal(tiny_job, tmp_path, monkeypatch):
    Path("killer.py").write_text(KILLER)
    monkeypatch.setenv("PYTHON_EXEC", python())  # of torchrun
    words = [*tiny_job, "recipe=single", "suite.include=[rte]", "trainer.devices=2", "run.checkpoint_steps=2"]
    words.append("+callbacks.killer={_target_: killer.Killer}")

    def weights(store: str) -> str:
        run = run_recipe(compose([*words, f"paths.store={tmp_path / store}"]), Path("out"))["runs"][0]["id"]
        return hashlib.sha256((tmp_path / store / "runs" / run / "model.safetensors").read_bytes()).hexdigest()

    with monkeypatch.context() as environment:
        environment.setenv("KILLED", "rank 1 step 3")
        message = "^rank 1 was ended by signal 9; the same command goes on from the checkpoint$"
        with pytest.raises(TrainingError, match=message):
            weights("killed")
    assert list((tmp_path / "killed" / "building").glob("*/last.ckpt"))
    assert weights("killed") == weights("whole")
