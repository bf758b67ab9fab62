"""Several processes for one job: they end as one process does, and a process that fails ends all with its reason."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bam_lightning.config.compose import compose
from bam_lightning.config.signals import Stopped
from bam_lightning.recipes import fit as room
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.follow import brief, lead
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from bam_lightning.store.run_store import Store
from bam_lightning.training.place import Place
from conftest import sentences

SHARED = ["trainer.devices=2", "trainer.strategy=fsdp"]

# A schedule that goes wrong at lam 0.5, if asked to; it is on the path of all processes
BREAKING = """
import os, signal
from bam_lightning import parallel

class Lam:
    def __call__(self, progress):
        rank, how = parallel.rank(), os.environ["BREAK"]
        if progress >= 0.5:
            if how == "signal" and rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "raise" and rank == parallel.processes() - 1:
                raise MemoryError("no room for a tensor of 3 GiB")
            if how == "kill" and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return progress
"""


@pytest.fixture
def words(tiny_job, tiny_bert, tiny_data, tmp_path) -> list[str]:
    """A job without dropout, which each process draws for itself; with sizes that two processes cannot share evenly."""
    folder = tmp_path / "without_dropout"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    for split, size in (("train", 40), ("validation", 23)):
        texts = enumerate(sentences(size, len(split)))
        lengths = "\n".join(f"{text},cat,{min(5, len(text.split()) / 2)},{row}" for row, text in texts)  # learnable
        (tiny_data / "stsb" / f"{split}.csv").write_text(f"sentence1,sentence2,label,idx\n{lengths}")
    return [
        *(word for word in tiny_job if not word.startswith(("encoder.path", "optimization.multi.batch_size"))),
        f"encoder.path={folder}",
        "suite.tasks.rte.head.dropout=0",
        "suite.tasks.stsb.head.dropout=0",
        "optimization.multi.batch_size=15",
        "optimization.learning_rate=3e-3",
    ]


def close(one: Path, two: Path) -> int:
    """Compare weights, losses, norms and scores of all Runs of two stores; return how many there are.

    In float64 all are equal to 1e-9; what is more than that in float32 is rounding.
    """
    runs = sorted(path.name for path in (one / "runs").iterdir())
    assert runs == sorted(path.name for path in (two / "runs").iterdir())
    for run in runs:
        folders = [store / "runs" / run for store in (one, two)]
        manifest, other = (json.loads((folder / "run.json").read_text()) for folder in folders)
        whole = manifest["spec"]["precision"] == "float64"
        near = 1e-9 if whole else 1e-6
        scores, others = manifest["metrics"], other["metrics"]
        assert others.get("rte") == scores.get("rte")
        for name, value in scores.get("stsb", {}).items():  # predictions spread over 0.003, so 1e-7 of one is 1e-5 here
            assert others["stsb"][name] == pytest.approx(value, abs=near if whole or name == "spearman" else 2e-5)
        for row, other in zip(*(json.loads((folder / "history.json").read_text()) for folder in folders), strict=True):
            norm = other.pop("gradient_norm")
            assert norm == pytest.approx(row.pop("gradient_norm"), rel=10 * near)  # a sum over all weights
            assert other == pytest.approx(row, abs=near)
        weights, theirs = (load_file(folder / "model.safetensors") for folder in folders)
        assert weights.keys() == theirs.keys()
        for name, value in weights.items():
            assert (value - theirs[name]).abs().max() < near, (run, name)
    return len(runs)


@pytest.mark.slow
def test_two_processes_end_as_one_does_in_a_sweep_with_one_store(words, tmp_path):
    sweep = ["+experiment=single_multi", "optimization.single.batch_size=1", "optimization.single.epochs=0.4"]
    kinds = ("float64", "float32")
    for job, kind in enumerate(kinds):
        alone = [*words, *sweep, f"trainer.precision={kind}", f"paths.store={tmp_path}/one"]
        run_recipe(compose(alone), tmp_path / f"one-{job}")
    command = [sys.executable, "-m", "bam_lightning.train", "-m", *words, *sweep, "trainer.devices=2"]
    done = subprocess.run(
        [*command, f"trainer.precision={','.join(kinds)}", f"hydra.sweep.dir={tmp_path}/two"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert close(tmp_path / "one", tmp_path / "store") == 6  # of each precision two teachers and a student
    assert len(list((tmp_path / "store" / "jobs").iterdir())) == 2
    assert not list((tmp_path / "store" / "building").iterdir())
    for job in ("0", "1"):
        found = {path.name for path in (tmp_path / "two" / job).iterdir()}
        assert found - {".hydra", "sweep.log"} == {path.name for path in (tmp_path / f"one-{job}").iterdir()}
        assert done.stdout.splitlines().count(str(tmp_path / "two" / job)) == 1
    assert done.stderr.count("Plan") == 2
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "store" / "runs").glob("*/run.json")]
    assert {manifest["processes"] for manifest in manifests} == {2}


@pytest.mark.slow
def test_two_processes_with_a_share_of_the_encoder_each_end_as_one_does(words, tmp_path):
    sweep = ["+experiment=single_multi", "optimization.single.batch_size=1", "optimization.single.epochs=0.4"]
    alone = [*words, *sweep, "trainer.precision=float64"]
    run_recipe(compose([*alone, f"paths.store={tmp_path}/one"]), tmp_path / "one-out")
    run_recipe(compose([*alone, *SHARED, "trainer.checkpoint_steps=2"]), tmp_path / "two")
    assert close(tmp_path / "one", tmp_path / "store") == 3  # two teachers, whose steps leave a process idle; a student


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(SHARED, []), ([], SHARED)])
def test_a_run_goes_on_whether_its_encoder_was_shared_or_not(first, second, words, tmp_path, monkeypatch):
    more = [*words, "recipe=multi", "trainer.precision=float64", "trainer.checkpoint_steps=1"]
    more.append(breaking(tmp_path, monkeypatch, "raise"))
    with pytest.raises((RuntimeError, MemoryError), match="no room"):
        run_recipe(compose([*more, *first]), tmp_path / "breaks")
    assert len(list((tmp_path / "store" / "building").glob("*/last.ckpt"))) == 1
    monkeypatch.setenv("BREAK", "no")
    run_recipe(compose([*more, *second]), tmp_path / "goes_on")
    run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one-out")
    assert close(tmp_path / "one", tmp_path / "store") == 1


@pytest.mark.slow
def test_processes_with_unlike_numbers_of_calls_wait_for_each_other(words, tiny_data, tmp_path):
    """1,366 rows of 12 tokens are more than a call takes, 1,365 are not."""
    for split in ("train", "validation"):
        rows = "\n".join(f"{'cat ' * (12 + row)},dog,{row % 6},{row}" for row in range(12))
        (tiny_data / "stsb" / f"{split}.csv").write_text(f"sentence1,sentence2,label,idx\n{rows}")
    more = [word for word in words if not word.startswith(("suite.only", "optimization.multi.batch_size"))]
    more += ["suite.only=[stsb]", "optimization.multi.batch_size=2731", "data.max_length=12", "trainer.max_steps=2"]
    more += ["recipe=multi", "trainer.precision=float64"]
    run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one-out")
    run_recipe(compose([*more, *SHARED]), tmp_path / "two")
    assert close(tmp_path / "one", tmp_path / "store") == 1


@pytest.mark.slow
def test_a_shared_encoder_is_put_together_where_no_step_is_left(words, tmp_path, monkeypatch):
    """A signal in the last step leaves a checkpoint of it."""
    more = [*words, "recipe=multi", "trainer.precision=float64", "trainer.max_steps=2"]
    more.append(breaking(tmp_path, monkeypatch, "signal"))
    with pytest.raises(Stopped, match="saved after step 2"):
        run_recipe(compose([*more, *SHARED]), tmp_path / "breaks")
    monkeypatch.setenv("BREAK", "no")
    run_recipe(compose([*more, *SHARED]), tmp_path / "goes_on")
    run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one-out")
    assert close(tmp_path / "one", tmp_path / "store") == 1


def breaking(tmp_path: Path, monkeypatch, how: str) -> str:
    """Return the word that has a process fail ``how``."""
    (tmp_path / "breaking.py").write_text(BREAKING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BREAK", how)
    return "distillation.schedule={_target_: breaking.Lam}"


def fails(words: list[str], tmp_path: Path) -> str:
    """Return the message of a job of two processes that fails, within a minute and leaving none of them."""
    begun = time.monotonic()
    with pytest.raises(RuntimeError) as raised:
        run_recipe(compose([*words, "trainer.devices=2"]), tmp_path / "two")
    assert time.monotonic() - begun < 100
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    (job,) = (tmp_path / "store" / "jobs").iterdir()
    assert json.loads(job.read_text())["state"] == "failed"
    return str(raised.value)


@pytest.mark.slow
def test_a_killed_process_is_named_and_one_process_goes_on_to_the_same_end(words, tmp_path, monkeypatch):
    more = [*words, "recipe=multi", "trainer.checkpoint_steps=1", breaking(tmp_path, monkeypatch, "kill")]
    assert re.fullmatch(
        r"process 1 of 2 \(.+, process id \d+\) was killed by SIGKILL: by hand, or because it was out of memory; "
        "the same command goes on from the last checkpoint",
        fails(more, tmp_path),
    )
    assert len(list((tmp_path / "store" / "building").glob("*/last.ckpt"))) == 1
    run_recipe(compose(more), tmp_path / "goes_on")
    run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one")
    assert close(tmp_path / "one", tmp_path / "store") == 1


@pytest.mark.slow
def test_the_reason_of_a_process_that_failed_is_the_job_s(words, tmp_path, monkeypatch):
    text = fails([*words, "recipe=multi", breaking(tmp_path, monkeypatch, "raise")], tmp_path)
    assert re.fullmatch(
        r"process 1 of 2 \(.+\) failed: MemoryError: no room for a tensor of 3 GiB; the same command .+", text
    )


@pytest.mark.slow
def test_a_lost_loss_is_the_same_message_as_in_one_process(words, tmp_path):
    more = [*words, "recipe=multi", "optimization.learning_rate=1e30"]
    with pytest.raises(RuntimeError) as raised:
        run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one")
    assert fails(more, tmp_path) == str(raised.value)
    assert str(raised.value).startswith("the loss is no longer a number")


class Halt(Exception):
    """Where a test breaks off."""


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_and_pretrain(words, tmp_path):
    Path("text.txt").write_text("\n".join(sentences(150, 3)))
    text = ["recipe=pretrain", "encoder.pretraining.text=[text.txt]", "encoder.pretraining.epochs=1"]
    one, two = [], []
    for more in (["recipe=multi"], text):
        config = compose([*words, *more, "trainer.checkpoint_steps=1", "trainer.devices=2"])
        rows, texts, facts = load_data(config)
        (run,) = plan_runs(config, facts)
        for kept, name in ((one, "one"), (two, "store")):
            kept.append((run, Context(config, rows, texts, Store(tmp_path / name), tmp_path)))

    def listener(step: int) -> None:
        if step == 3:
            raise Halt

    for (run, whole), (_, broken) in zip(one, two, strict=True):
        room.fit_run(run, whole)
        with pytest.raises(Halt):
            room.fit_run(run, replace(broken, listener=listener))
        assert broken.store.has_checkpoint(run.id)
    with lead(two[0][1], Place()) as context:
        for run, broken in two:
            room.fit_run(run, brief(context.others, broken))
    assert close(tmp_path / "one", tmp_path / "store") == 2


@pytest.mark.slow
def test_processes_that_srun_started_are_one_job_and_write_one_folder(words, tmp_path):
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    more = [*words, "recipe=multi", "trainer.max_steps=4", "trainer.precision=float64"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bam_lightning.train", *more, "trainer.devices=2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **task, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    run_recipe(compose([*more, f"paths.store={tmp_path}/one"]), tmp_path / "one")
    first, second = (process.communicate(timeout=200)[0] for process in started)
    assert [process.returncode for process in started] == [0, 0], (first, second)
    assert second == ""
    (folder,) = (tmp_path / "outputs").iterdir()
    assert first.splitlines()[-1] == str(folder)
    assert close(tmp_path / "one", tmp_path / "store") == 1
