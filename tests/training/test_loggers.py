"""What W&B would be sent, read back from an offline run; and that nothing hangs or asks where nobody is logged in."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.wandb_server import online
from bam_lightning.recipes.runner import run_recipe
from forked_python import python


def records(path: Path):
    """Yield the records of a ``run-*.wandb`` file: a 7-byte header, then LevelDB's log of blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_an_offline_run_holds_config_group_curves_and_tags(tiny_job, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose([*tiny_job, "+experiment=single_multi", "logger=wandb", "logger.tags=[mine]"])
    found = run_recipe(config, tmp_path / "out")
    files = sorted((tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == len(found["runs"]) == 3
    how = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B: ")]
    assert len(how) == 1
    assert how[0].endswith(f"wandb login && wandb sync {tmp_path}/out/wandb/offline-run-*")
    student = found["runs"][-1]["id"]
    kept = list(records(next(path for path in files if path.stem == f"run-{student}")))
    run = next(record.run for record in kept if record.HasField("run"))
    assert (run.run_group, run.job_type, run.display_name) == ("single_multi", "student", "student")
    assert set(run.tags) == {"mine", "small", "paper", "stsb", "rte"}
    values = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert values["run"]["id"] == found["runs"][-1]["id"]
    assert (values["method"], values["last_stage"], values["run_seed"]) == ("single_multi", True, 0)
    assert values["optimization"]["multi"]["batch_size"] == 16
    rows = [
        {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in kept
        if record.HasField("history")
    ]
    curves = {row["trainer/global_step"]: row for row in rows if "train/lam" in row}
    last = curves[9]  # Lightning counts steps from 0
    assert last["train/lam"] == pytest.approx(9 / 10)
    assert {"train/loss", "train/loss/rte", "train/loss/stsb", "train/learning_rate", "train/examples/rte"} <= set(last)
    scores = next(row for row in rows if "dev/rte/accuracy" in row)
    assert scores["trainer/global_step"] == 10
    assert scores["dev/rte/accuracy"] == found["runs"][-1]["metrics"]["rte"]["accuracy"]
    axes = {record.metric.glob_name: record.metric.step_metric for record in kept if record.HasField("metric")}
    assert axes["train/*"] == axes["dev/*"] == "trainer/global_step"
    assert last["train/examples/rte"] + last["train/examples/stsb"] == 160


def test_nobody_logged_in_is_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    assert not online()


def test_a_server_that_does_not_answer_is_offline_within_seconds(monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    begun = time.monotonic()
    assert not online()
    assert time.monotonic() - begun < 5


@pytest.mark.release
def test_every_sweep_is_one_group(tiny_job, tmp_path):
    import os
    import subprocess

    command = [python(), "-m", "bam_lightning.train", "-m", "+experiment=multi,single", *tiny_job, "logger=wandb"]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run(
        [*command, "hydra.sweep.dir=my_sweep"], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "my_sweep").glob("*/wandb/offline-run-*/run-*.wandb"))
    runs = [next(r.run for r in records(path) if r.HasField("run")) for path in files]
    assert [run.run_group for run in runs] == ["my_sweep"] * 3
