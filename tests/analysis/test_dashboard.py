"""What a W&B workspace would be sent; nothing is sent here."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from bam_lightning.analysis.dashboard import DashboardOptions, workspace
from forked_python import python

pytestmark = pytest.mark.xdist_group("dashboard")  # importing W&B's workspaces takes seconds


def sent(*arguments: str) -> dict:
    """Return what the command would send."""
    done = subprocess.run(
        [python(), "-m", "bam_lightning.cli", "dashboard", "--entity=me", "--show", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_workspace_has_the_panels_one_wants():
    view = sent("--task=rte", "--task=stsb", "--sweep=my_sweep", "--project=p")
    assert (view["entity"], view["project"]) == ("me", "p")
    sections = {one["name"]: one["panels"] for one in view["spec"]["section"]["panel_bank_config"]["sections"]}
    text = {name: json.dumps(panels) for name, panels in sections.items()}
    assert "dev/rte/accuracy" in text["Dev scores"]
    assert "dev/stsb/spearman" in text["Dev scores"]
    assert "train/lam" in text["Schedule"]
    assert "train/loss/rte" in text["Loss per task"]
    assert "speed/tokens_per_second" in text["Throughput"]
    for panel in sections["Schedule"] + sections["Loss per task"]:
        assert panel["config"]["x_axis"] == "trainer/global_step"
    filters = json.dumps(view["spec"]["section"]["run_sets"])
    assert '"my_sweep"' in filters
    assert '"last_stage"' in filters  # teachers log dev scores too, and are no method


def test_without_a_login_it_is_one_message():
    done = subprocess.run(
        [python(), "-m", "bam_lightning.cli", "dashboard", "--entity=me"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": "/nonexistent", "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: W&B takes no workspace from here (")


def test_each_task_needs_its_metric():
    with pytest.raises(ValueError, match=r"^metrics must name one metric per task, got 1 for 2 tasks$"):
        workspace(DashboardOptions(entity="me", tasks=["a", "b"], metrics=["accuracy"]))
