"""Two processes do what one does, under Lightning's DDP and FSDP2: one program under torchrun for all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from ddp_program import FITTED_STEPS, exercise
from tiny_tasks import DEV, QUIET, SIZES, data_of, module_of

import bam_lightning as bam
from bam_lightning.data import collate
from forked_python import python

pytestmark = [
    pytest.mark.release,  # in each commit tests/integration/test_scripts.py trains one model with two processes
    pytest.mark.xdist_group("processes"),  # they share what two fixtures train
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
]
HERE = Path(__file__).parent
EACH = pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])


@pytest.fixture(scope="module")
def one(still_bert, tmp_path_factory) -> dict:
    """What one process does, in float64 and in float32."""
    folder, tokens = tmp_path_factory.mktemp("one"), collate.PREDICT_TOKENS
    found = {kind: exercise("auto", kind == "double", still_bert, folder) for kind in ("double", "single")}
    collate.PREDICT_TOKENS = tokens
    return found


@pytest.fixture(scope="module")
def two(still_bert, tmp_path_factory) -> tuple[list[dict], Path]:
    """What each of two processes found, and the folder they wrote to."""
    folder = tmp_path_factory.mktemp("two")
    paths = [HERE.parents[1] / "src", HERE.parent, HERE]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": python(),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(HERE / "ddp_program.py"), str(still_bert), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)], folder


@EACH
def test_two_processes_end_at_the_weights_of_one_in_float64(one, two, strategy):
    expected, found = one["double"]["weights"], two[0][0][f"{strategy} double"]["weights"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.dtype == torch.float64
        assert float((found[name] - value).abs().max()) < 1e-9, name


@EACH
def test_two_processes_have_the_classification_losses_of_one_in_float32(one, two, strategy):
    expected, found = one["single"]["losses"], two[0][0][f"{strategy} single"]["losses"]
    assert len(expected) == FITTED_STEPS
    assert expected[-1] != expected[0]
    assert found == pytest.approx(expected, abs=1e-6)


@EACH
@pytest.mark.parametrize("kind", ["double", "single"])
def test_every_rank_has_every_row_once_and_the_same_scores(one, two, strategy, kind):
    for rank in two[0]:
        results = rank[f"{strategy} {kind}"]
        assert results["rows"] == {task: list(range(DEV)) for task in SIZES}
        assert results["scores"] == pytest.approx(one[kind]["scores"], abs=1e-6)


@EACH
@pytest.mark.parametrize("kind", ["double", "single"])
def test_a_teacher_of_several_processes_predicts_what_that_of_one_predicts(one, two, strategy, kind):
    first, second = (rank[f"{strategy} {kind}"]["teacher"] for rank in two[0])
    assert torch.equal(first, second)
    assert float((first - one[kind]["teacher"]).abs().max()) < 1e-6


def test_only_fsdp2_shards_and_it_shards_all_parameters(two):
    for rank in two[0]:
        assert rank["ddp double"]["sharded"] == 0
        assert rank["fsdp2 double"]["sharded"] == len(two[0][0]["fsdp2 double"]["weights"])


@EACH
def test_saved_models_and_checkpoints_load_in_one_process(still_bert, two, strategy, tmp_path):
    results, folder = two[0][0][f"{strategy} single"], two[1]
    loaded = bam.BamModule.load_from_checkpoint(folder / f"{strategy}.ckpt", weights_only=True)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, results["weights"][name])
    data = data_of(still_bert, tmp_path, taught=False)
    data.teach("mood", folder / f"{strategy}-model")
    assert data.train_examples()["mood"].teacher == pytest.approx(results["teacher"].numpy(), abs=1e-5)


def test_a_log_after_resuming_counts_the_examples_of_all_ranks_once(two):
    whole, resumed = two[0][0]["resumed"]
    assert len(whole) == 1
    assert resumed == whole  # in all digits


def test_ranks_with_different_teachers_are_refused(two):
    assert all("the ranks have different teachers" in rank["error"] for rank in two[0])


def test_configure_model_does_nothing_without_fsdp2(still_bert, tmp_path):
    module = module_of(data_of(still_bert, tmp_path))
    module.configure_model()
    pl.Trainer(**QUIET, max_steps=1).fit(module, data_of(still_bert, tmp_path))
    assert not module._sharded
