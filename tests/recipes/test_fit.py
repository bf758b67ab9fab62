"""Resume at any step, of any kind of Run: bit-equal to the Run that was never stopped (CPU)."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from bam_lightning.config import signals
from bam_lightning.config.compose import compose
from bam_lightning.recipes import fit as room
from bam_lightning.recipes.context import Context
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from bam_lightning.store.run_store import Store
from bam_lightning.training.distillation import Teacher
from conftest import sentences

PRETRAINING = ["recipe=pretrain", "encoder.pretraining.text=[text.txt]", "encoder.pretraining.epochs=3"]


class Stopped(Exception):
    """What stops a Run in these tests."""


def train(
    overrides: list[str], store: Path, stop_at: int | None = None, kind: int = -1, signal_: int | None = None
) -> dict:
    """Train the Run number ``kind`` of a recipe and those before it; stop it after ``stop_at`` steps if given.

    With ``signal_`` the process sends it to itself there.
    """
    config = compose([*overrides, f"paths.store={store}", "trainer.log_every_n_steps=3"])
    rows, texts, facts = load_data(config)
    context = Context(config, rows, texts, Store(store), store.parent / "out")
    run = plan_runs(config, facts)[kind]

    def listener(step: int) -> None:
        if stop_at is not None and step == stop_at:
            if signal_ is None:
                raise Stopped
            os.kill(os.getpid(), signal_)

    for other in plan_runs(config, facts):
        if other.id in run.dependencies and not context.store.finished(other.id):
            room.fit_run(other, context)
    return room.fit_run(run, Context(config, rows, texts, context.store, context.output, listener))


def result(store: Path, run_id: str) -> tuple[dict, dict, list]:
    """Return weights, scores and record of a finished Run."""
    folder = store / "runs" / run_id
    manifest = json.loads((folder / "run.json").read_text())
    return (
        load_file(folder / "model.safetensors"),
        manifest["metrics"],
        json.loads((folder / "history.json").read_text()),
    )


def copy_without(store: Path, run_id: str, target: Path) -> None:
    """Copy a store, its teachers above all, but nothing of the Run of that id."""
    shutil.copytree(store, target, ignore=lambda _, names: [name for name in names if run_id in name])
    assert not Store(target).finished(run_id)


@pytest.mark.parametrize(
    ("more", "stop", "workers"),
    [
        pytest.param(["recipe=single"], 3, 0, id="single"),
        pytest.param(["recipe=multi"], 1, 2, id="multi, with processes that load", marks=pytest.mark.release),
        pytest.param([], 4, 0, id="distilled, early"),
        pytest.param([], 9, 0, id="distilled, late", marks=pytest.mark.release),
        pytest.param(["fidelity=reference_code"], 6, 0, id="reference code", marks=pytest.mark.release),
        pytest.param(PRETRAINING, 2, 0, id="pretrained"),
    ],
)
def test_a_stopped_run_ends_bit_equal(more, stop, workers, tiny_job, tmp_path):
    Path("text.txt").write_text("\n".join(sentences(150, 3)))
    overrides = [*tiny_job, *more, f"data.workers={workers}", "run.checkpoint_steps=1"]
    whole = train(overrides, tmp_path / "whole")
    copy_without(tmp_path / "whole", whole["id"], tmp_path / "broken")
    with pytest.raises(Stopped):
        train(overrides, tmp_path / "broken", stop_at=stop)
    store = Store(tmp_path / "broken")
    assert store.has_checkpoint(whole["id"])
    assert not store.finished(whole["id"])
    again = train(overrides, tmp_path / "broken")
    assert again["id"] == whole["id"]
    (one, scores, record), (other, scores_again, record_again) = (
        result(tmp_path / name, whole["id"]) for name in ("whole", "broken")
    )
    assert set(one) == set(other)
    assert all(one[name].equal(other[name]) for name in one)
    assert scores == scores_again
    assert record == record_again


@pytest.mark.parametrize(
    ("number", "signalled", "saved"),
    [
        pytest.param(signal.SIGINT, 2, 3, marks=pytest.mark.release),
        (signal.SIGTERM, 5, 6),
        pytest.param(signal.SIGUSR2, 9, 10, marks=pytest.mark.release),
    ],
)
def test_a_run_stopped_by_a_signal_saves_the_step_and_ends_bit_equal(number, signalled, saved, tiny_job, tmp_path):
    """The step in which it comes is finished, the last one too; after that only the scores are left to do."""
    before = signal.signal(number, signal.default_int_handler)
    whole = train(tiny_job, tmp_path / "whole")
    assert whole["steps"] == 10
    copy_without(tmp_path / "whole", whole["id"], tmp_path / "broken")
    try:
        with pytest.raises(signals.Stopped, match=f"^stopped by {number.name}, saved after step {saved}$"):
            train(tiny_job, tmp_path / "broken", signalled, signal_=number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    store = Store(tmp_path / "broken")
    checkpoint = torch.load(store.staging_dir(whole["id"]) / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == saved
    train(tiny_job, tmp_path / "broken")
    (one, scores, record), (other, scores_again, record_again) = (
        result(tmp_path / name, whole["id"]) for name in ("whole", "broken")
    )
    assert all(one[name].equal(other[name]) for name in one)
    assert (scores, record) == (scores_again, record_again)


def test_a_checkpoint_is_not_written_at_the_last_step(tiny_job, tmp_path, monkeypatch):
    saved, save = [], pl.Trainer.save_checkpoint

    def record(trainer, path, *more):
        saved.append(trainer.global_step)
        save(trainer, path, *more)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", record)
    manifest = train([*tiny_job, "recipe=multi", "run.checkpoint_steps=5"], tmp_path / "store")
    assert manifest["steps"] == 10
    assert saved == [5]
    assert not list((tmp_path / "store" / "runs").rglob("*.ckpt"))


def begun(tiny_job, tmp_path) -> tuple[list[str], Path]:
    """Return the words of a job whose Run was stopped at step 4, and its checkpoint."""
    words = [*tiny_job, "recipe=multi", "run.checkpoint_steps=1"]
    with pytest.raises(Stopped):
        train(words, tmp_path / "store", stop_at=4)
    (path,) = (tmp_path / "store" / "building").glob("*/last.ckpt")
    return words, path


@pytest.mark.parametrize("left", [0, 1000, -1])
def test_a_checkpoint_that_was_cut_off_is_refused_and_without_it_the_run_starts_anew(left, tiny_job, tmp_path):
    words, path = begun(tiny_job, tmp_path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        ValueError, match=r"last\.ckpt is damaged \(.*\); delete it, and the Run starts from its beginning"
    ):
        train(words, tmp_path / "store")
    path.unlink()
    assert train(words, tmp_path / "store")["steps"] > 4


def test_a_flipped_bit_of_a_checkpoint_is_refused(tiny_job, tmp_path):
    words, path = begun(tiny_job, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # torch itself would read it
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is damaged \(.*\); delete it, and the Run starts from its beginning"
    ):
        train(words, tmp_path / "store")


def test_a_run_begun_on_a_gpu_goes_on_where_there_is_none(tiny_job, tmp_path):
    words, path = begun(tiny_job, tmp_path)
    whole = torch.load(path, weights_only=True)
    with mock.patch("torch.serialization.location_tag", return_value="cuda:7"):  # so a GPU's says of each tensor
        torch.save(whole, path)
    assert train(words, tmp_path / "store")["steps"] > 4


def test_a_checkpoint_of_another_run_is_refused(tiny_job, tmp_path):
    words, path = begun(tiny_job, tmp_path)
    other = [*words, "seed=1"]
    with pytest.raises(Stopped):
        train(other, tmp_path / "store", stop_at=4)
    (foreign,) = (one for one in (tmp_path / "store" / "building").glob("*/last.ckpt") if one != path)
    foreign.write_bytes(path.read_bytes())
    with pytest.raises(ValueError) as caught:
        train(other, tmp_path / "store")
    assert str(caught.value) == (
        f"{foreign} is a checkpoint of Run {path.parent.name!r}; delete it, and the Run starts from its beginning"
    )


def test_what_a_killed_process_left_half_written_is_tidied_up(tiny_job, tmp_path):
    words, path = begun(tiny_job, tmp_path)
    (path.parent / "last.ckpt.77.part").write_text("half")
    manifest = train(words, tmp_path / "store")
    assert not [name for name in manifest.get("files", ()) if "part" in name]
    assert not list((tmp_path / "store" / "runs").rglob("*.part"))


def test_a_fine_tuned_run_takes_encoder_and_head_of_the_run_it_starts_from(tiny_job, tmp_path):
    from bam_lightning.config.job_config import Hyperparameters, StageConfig

    config = compose([*tiny_job, "trainer.max_steps=1"])
    config.recipe.stages = {
        "multi": StageConfig(),
        "tuned": StageConfig(per_task=True, init_from="multi", optimization=Hyperparameters(learning_rate=1e-12)),
    }
    found = run_recipe(config, tmp_path / "out")
    multi, tuned = found["runs"][0], found["runs"][-1]
    assert tuned["tasks"] == ["rte"]
    assert tuned["metrics"]["rte"] == multi["metrics"]["rte"]  # it has hardly moved
    store = Store(config.paths.store)
    first, last = (load_file(store.run(run["id"]).file("model.safetensors")) for run in (multi, tuned))
    assert last["heads.rte.linear.weight"].equal(first["heads.rte.linear.weight"])


def test_manifest_says_what_made_the_numbers(tiny_job, tmp_path):
    manifest = train([*tiny_job, "recipe=multi"], tmp_path / "store")
    assert manifest["examples"] == 160
    assert manifest["versions"]["torch"].startswith("2.")
    assert manifest["spec"]["sampler"]["exponent"] == 0.75
    assert manifest["tokens_per_second"] > manifest["examples_per_second"] > 0


@pytest.mark.release
def test_a_student_of_an_ensemble_learns_from_the_mean_of_its_teachers(tiny_job, tmp_path):
    """At lam = 0 three equal teachers teach what one of them does, and three different ones something else."""
    overrides = [*tiny_job, "distillation=teacher_only", "recipe=ensemble_multi"]
    manifest = train(overrides, tmp_path / "three")
    assert [len(ids) for ids in manifest["teachers"].values()] == [3, 3]
    one = train([*overrides, "recipe.stages.single.seeds=1"], tmp_path / "three")
    assert isinstance(one["teachers"]["rte"], str)
    three = result(tmp_path / "three", manifest["id"])[2]
    alone = result(tmp_path / "three", one["id"])[2]
    assert [row["lam"] for row in three] == [0.0] * len(three)
    assert three[0]["loss"] != alone[0]["loss"]


def test_the_same_teacher_thrice_is_that_teacher(tiny_job, tmp_path, monkeypatch):
    overrides = [*tiny_job, "distillation=teacher_only", "recipe=ensemble_multi"]
    single = room._teacher

    def thrice(run, context, task, rows):
        teacher = single(run, context, task, rows)
        return teacher if teacher.teacher is None else Teacher(np.stack([teacher.teacher] * 3, axis=1))

    one = train([*overrides, "recipe.stages.single.seeds=1"], tmp_path / "one")
    monkeypatch.setattr(room, "_teacher", thrice)
    again = train([*overrides, "recipe.stages.single.seeds=1"], tmp_path / "thrice")
    first, second = (result(tmp_path / name, one["id"])[2] for name in ("one", "thrice"))
    assert again["id"] == one["id"]
    for row, other in zip(first, second, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
