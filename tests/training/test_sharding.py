"""An encoder shared out between two processes (gloo) trains as one that is whole."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bam_lightning.config.compose import compose
from bam_lightning.config.trainer_config import Strategy
from bam_lightning.models.encoder import from_sizes
from bam_lightning.training import sharding
from families import FAMILIES

CODE = """
import copy, json, os, sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

from bam_lightning import sharding
from bam_lightning.config.job_config import OptimizationConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.training.optimizer import build_optimizer, clip_gradients, parameter_groups, set_rates
from bam_lightning.training.distributed import shared, sum_step
from families import FAMILIES, body, inputs

LENGTHS = (9, 5, 3, 17, 9, 2)
STEPS = ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2, 3, 4, 5], []], [[5], [1]])  # rows of each process


class Model(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({"task": nn.Linear(encoder.width, 2)})

    def step(self, rows, whole_group):
        block = inputs(LENGTHS)
        if not rows:
            token = torch.ones((1, 1), dtype=torch.long)
            (self.encoder({"input_ids": token, "attention_mask": token}) * 0.0).sum().backward()
        else:
            mine = {name: value[rows] for name, value in block.items()}
            (self.heads["task"](self.encoder(mine, [LENGTHS[row] for row in rows])) ** 2).sum().backward()
        if not whole_group:
            sum_step(self, ["task"], [])


def made(model, corrected):
    groups = parameter_groups(model.encoder, model.heads, 0.9, 0.01)
    optimizer = build_optimizer(groups, OptimizationConfig(bias_correction=corrected))
    set_rates(optimizer, 1e-2)
    return optimizer


def trained(family, corrected, rank):
    torch.manual_seed(0)
    alone = Model(Encoder(body(family), pooler=True).double().eval()).double()
    parted = copy.deepcopy(alone)
    if rank:
        parted.encoder.pooler.weight.data.zero_()  # the first process's weights count
    blank = sharding.shard(parted.encoder)
    parts = [one for one in parted.encoder.parameters() if shared(one)]
    share = sum(one.to_local().numel() for one in parts) / sum(one.numel() for one in alone.encoder.parameters())
    optimizer, other = made(parted, corrected), made(alone, corrected)
    norms = []
    for number, rows in enumerate(STEPS):
        torch.manual_seed(number)
        parted.step(rows[rank], False)
        torch.manual_seed(number)
        alone.step([row for one in rows for row in one], True)
        pair = (clip_gradients(parted.parameters(), 0.01), clip_gradients(alone.parameters(), 0.01))
        norms.append(abs(float(pair[0] / pair[1]) - 1))
        for one in (optimizer, other):
            one.step()
            one.zero_grad()
        if number == 1:  # as if stopped here, saved whole and gone on
            kept = sharding.whole(optimizer.state_dict(), torch.device("cpu"))
            optimizer = made(parted, corrected)
            optimizer.load_state_dict(kept)
            set_rates(optimizer, 1e-2)
            sharding.share_states(optimizer)
    parted.encoder = sharding.join(parted.encoder, blank)
    ours, theirs = parted.state_dict(), alone.state_dict()
    assert ours.keys() == theirs.keys() and not any(shared(one) for one in ours.values())
    assert all(one.requires_grad for one in parted.parameters())
    return share, max(norms), max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


rank, port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
store = distributed.TCPStore("127.0.0.1", port, 2, rank == 0, timedelta(seconds=100))
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
found = {f"{name} {corrected}": trained(name, corrected, rank) for name in FAMILIES for corrected in (True, False)}
(folder / f"{rank}.json").write_text(json.dumps(found))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_shares_train_as_the_whole_in_every_family(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parents[1]), *filter(None, sys.path)]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    (tmp_path / "train.py").write_text(CODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(tmp_path / "train.py")]
    started = [
        subprocess.Popen([*command, str(rank), port, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [one.communicate(timeout=200)[1] for one in started]
    assert [one.returncode for one in started] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(first) == 2 * len(FAMILIES)
    for name, (share, norm, difference) in first.items():
        assert share + second[name][0] == pytest.approx(1.0), name
        assert 0.4 < share < 0.6, name
        assert norm < 1e-12, name
        assert difference < 1e-11, name


def test_one_process_shares_nothing():
    tree = {"one": [torch.ones(2), 3], "two": "words"}
    found = sharding.whole(tree)
    assert found["one"][0] is tree["one"][0]
    assert (found["one"][1], found["two"]) == (3, "words")


def test_the_billion_of_the_documentation_composes_and_is_one():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    (command,) = [part for part in page.split("```") if "scale=paper encoder.path=DIR" in part]
    config = compose(command.split("bam_lightning.train")[1].split())
    assert (config.trainer.strategy, config.trainer.devices) == (Strategy.fsdp, 4)
    assert config.optimization.multi.epochs == 6  # of the page's times
    sizes = {"model_type": "bert", "num_hidden_layers": 20, "hidden_size": 2048, "num_attention_heads": 32,
             "intermediate_size": 8192}  # fmt: skip
    with torch.device("meta"):
        encoder = from_sizes(sizes, 30_522, pooler=True)
    assert sum(one.numel() for one in encoder.parameters()) == pytest.approx(1.07e9, rel=0.01)
