"""One process equals two (gloo): the same losses and dev scores, whatever tasks a process happens to get."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
import torch

from bam_lightning.training import distributed

CODE = """
import json, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
from pathlib import Path
import numpy as np, pytorch_lightning as pl, torch
from bam_lightning import execute, predictions
from bam_lightning.config.compose import compose
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.runner import look
from bam_lightning.recipes.planner import plan
from bam_lightning.store.run_store import Store

overrides, out, processes = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
config = compose(overrides)
rows, texts, facts = look(config)
context = Context(config, rows, texts, Store(config.paths.store), out)
run = plan(config, facts)[-1]
torch.manual_seed(5)
module, data, tokenizer, _ = execute._finetuning(run, context)
for part in module.modules():
    if isinstance(part, torch.nn.Dropout):
        part.p = 0.0  # each process draws its own
module.encoder.body.config.attention_probs_dropout_prob = 0.0
trainer = pl.Trainer(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_steps=run.steps,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, default_root_dir=out,
)
trainer.fit(module, datamodule=data)
state = {name: value.double().sum().item() for name, value in module.state_dict().items()}
if trainer.global_rank == 0:
    out.mkdir(exist_ok=True)
    (out / f"{processes}.json").write_text(json.dumps([state, module.record.history[-1]["gradient_norm"]]))
"""


@pytest.mark.slow
def test_two_processes_train_the_same_model(tiny_job, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(CODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for processes in (1, 2):
        arguments = [json.dumps([*tiny_job, "recipe=multi"]), str(tmp_path / "out"), str(processes)]
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            env={**__import__("os").environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / "out" / f"{processes}.json").read_text()))
    (one, norm), (two, norm_of_two) = found
    assert one.keys() == two.keys()
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-4), name  # sums over thousands of weights
    assert norm_of_two == pytest.approx(norm, rel=1e-4)


@pytest.fixture
def twin(monkeypatch):
    """A second process that has just what this one has: sums are twice as much."""
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "get_backend_config", lambda: "cpu:gloo")
    monkeypatch.setattr(distributed.distributed, "all_reduce", lambda tensor: tensor.mul_(2))


@pytest.mark.parametrize("bucket", [1, 4, 1 << 23])  # numbers sent at a time
def test_gradients_losses_and_counts_are_summed_and_no_gradient_stays_none(bucket, twin, monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", bucket)
    module = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1) for name in ("rte", "mnli", "idle")})
    inputs = torch.tensor([[1.0, 3.0]])
    (module["rte"](inputs) + 5 * module["mnli"](inputs)).sum().backward()
    own = [("rte", torch.tensor(1.5), 3), ("mnli", torch.tensor(4.0), 1), ("rte", torch.tensor(0.5), 2)]
    found = distributed.sum_step(module, ["idle", "mnli", "rte"], own)
    assert [(task, float(loss), count) for task, loss, count in found] == [("mnli", 8.0, 2), ("rte", 4.0, 10)]
    assert module["rte"].weight.grad.tolist() == [[2.0, 6.0]]
    assert module["mnli"].weight.grad.tolist() == [[10.0, 30.0]]
    assert module["mnli"].bias.grad.tolist() == [10.0]
    assert module["idle"].weight.grad is None  # the optimizer passes it by, as in one process: no decay, no momentum


def test_processes_that_stand_at_different_steps_are_not_let_go_on(twin, monkeypatch):
    monkeypatch.setattr(distributed, "gather", lambda step: [step, 7])
    with pytest.raises(RuntimeError) as raised:
        distributed.same_start(torch.nn.Linear(1, 1), 9)
    assert str(raised.value) == (
        "the processes would go on at different optimizer steps: 9, 7; all of them must see the same files, so "
        "paths.store must lie on a file system that all nodes share"
    )
