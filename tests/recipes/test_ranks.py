"""A job in two processes: a rank that is killed is named, the same command ends bit-equal, no thread outlives it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
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


@pytest.mark.release
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


LEAVER = """
import atexit, os

def threads():
    names = {open(f"/proc/self/task/{number}/comm").read().strip() for number in os.listdir("/proc/self/task")}
    assert not {name for name in names if "gloo" in name}, names
    print("left")

atexit.register(threads)  # runs last
from bam_lightning.recipes import processes
from bam_lightning.training import distributed

processes._join()
import torch.distributed.fsdp  # as Lightning does, later
distributed.broadcast_json(["done"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.release
def test_threads_of_a_group_end_before_the_interpreter(tmp_path):
    Path("leaver.py").write_text(LEAVER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "leaver.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("left") == 2, done.stderr
