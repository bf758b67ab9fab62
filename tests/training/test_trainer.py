"""``BamModule`` and ``MultiTaskDataModule`` under a stock ``pl.Trainer``: each row of docs/lightning.md."""

from __future__ import annotations

import csv
import math
import os
import re
import socket
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from sklearn.metrics import accuracy_score
from tiny_tasks import BATCH, DEV, QUIET, SIZES, STEPS, Memory, data_of, fit, logits, module_of, weights
from torch.nn.utils import parameters_to_vector

import bam_lightning as bam
from conftest import sentences
from forked_python import python

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*is not supported by the model summary.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
]


@pytest.fixture(scope="session")
def untaught(still_bert, tmp_path_factory) -> bam.MultiTaskDataModule:
    """Two tasks without teachers."""
    return data_of(still_bert, tmp_path_factory.mktemp("cache"), taught=False)


@pytest.fixture(scope="session")
def data(untaught) -> bam.MultiTaskDataModule:
    """Two tasks, both with a teacher."""
    return copy_of(untaught, taught=True)


def copy_of(data: bam.MultiTaskDataModule, taught: bool = False, **options) -> bam.MultiTaskDataModule:
    """Return a data module of the same tasks."""
    return data_of(data.encoder_path, **{"cache": data.cache_dir, "taught": taught, **options})


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory) -> Path:
    """A checkpoint after one epoch."""
    trainer, _ = fit(data)
    path = tmp_path_factory.mktemp("checkpoint") / "epoch.ckpt"
    trainer.save_checkpoint(path)
    return path


class Batches(pl.Callback):
    """Keeps the row ids of every training batch: (epoch, task -> sorted ids)."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, list[int]]]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        parts = {task: sorted(part.row_ids.tolist()) for task, part in batch.tasks.items()}
        self.seen.append((trainer.current_epoch, parts))


class Scores(pl.Callback):
    """Keeps ``val/average`` of every validation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.values.append(float(trainer.callback_metrics["val/average"]))


# Callbacks and loggers


def test_model_checkpoint_keeps_the_weights_of_the_best_average(data, tmp_path):
    keeper = ModelCheckpoint(tmp_path, monitor="val/average", mode="max")
    scores = Scores()
    fit(data, max_epochs=3, callbacks=[keeper, scores], enable_checkpointing=True)
    assert len(scores.values) == 3
    assert float(keeper.best_model_score) == max(scores.values)
    best = bam.BamModule.load_from_checkpoint(keeper.best_model_path)
    found = pl.Trainer(**QUIET).validate(best, data, verbose=False)[0]
    assert found["val/average"] == pytest.approx(max(scores.values), abs=1e-6)


def test_early_stopping_ends_a_fit_and_the_end_before_time_is_said(data):
    stopper = EarlyStopping("val/average", mode="max", patience=1, min_delta=10.0)
    with pytest.warns(UserWarning, match=rf"Training ended at step {2 * STEPS} of {9 * STEPS}, at lam 0.222"):
        trainer, _ = fit(data, max_epochs=9, callbacks=[stopper])
    assert trainer.current_epoch == 2


def test_learning_rate_monitor_sees_the_linear_schedule_of_every_group(data):
    memory = Memory()
    fit(data, max_epochs=2, callbacks=[LearningRateMonitor("step")], logger=memory, log_every_n_steps=1)
    total = 2 * STEPS
    triangle = [min(step / total / 0.1, (1 - step / total) / 0.9) for step in range(total)]
    groups = sorted({name for row in memory.rows for name in row if name.startswith("lr-AdamW/pg")})
    peaks = []
    for name in groups:
        rates = memory.column(name)
        peaks.append(max(rates) / max(triangle))
        assert rates == pytest.approx([peaks[-1] * factor for factor in triangle], rel=1e-9)
    depths = {round(math.log(peak / 1e-3) / math.log(0.9), 6) for peak in peaks}
    assert depths == {0, 1, 2, 3, 4}  # heads, pooler, two layers, embeddings


def test_rich_progress_bar_shows_the_average(data):
    trainer, _ = fit(data, callbacks=[RichProgressBar()], enable_progress_bar=True)
    assert "val/average" in trainer.progress_bar_metrics


def test_csv_logger_gets_losses_and_lam_once_a_step(data, tmp_path):
    trainer, _ = fit(data, max_epochs=2, logger=CSVLogger(tmp_path, name="log"), log_every_n_steps=1)
    with open(trainer.logger.log_dir + "/metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    found = {int(row["step"]): row for row in table if row["train/loss"]}
    assert list(found) == list(range(2 * STEPS))
    assert len([row for row in table if row["train/loss"]]) == 2 * STEPS
    for step, row in found.items():
        assert float(row["train/lam"]) == pytest.approx(step / (2 * STEPS), abs=1e-6)
        assert float(row["train/gradient_norm"]) > 0
    scored = [row for row in table if row["val/average"]]
    assert [int(row["step"]) for row in scored] == [STEPS - 1, 2 * STEPS - 1]
    for row in scored:
        parts = [float(row["val/mood/accuracy"]), float(row["val/size/spearman"])]
        assert float(row["val/average"]) == pytest.approx(sum(parts) / 2, abs=1e-6)


def test_logged_loss_is_the_mean_over_the_examples_since_the_last_log(data):
    each, pairs, long = Memory(), Memory(), Memory()
    for memory, every in ((each, 1), (pairs, 2), (long, 50)):
        fit(data, max_epochs=2, logger=memory, log_every_n_steps=every)
    losses = each.column("train/loss")
    means = [sum(pair) / 2 for pair in zip(losses[::2], losses[1::2], strict=True)]  # batches are equally large
    assert pairs.column("train/loss") == pytest.approx(means, rel=1e-5)
    assert not long.column("train/loss")  # Lightning writes no step of it; callbacks have it at each epoch's end


def test_a_short_epoch_has_its_loss_for_callbacks(data):
    stopper = EarlyStopping("train/loss", mode="min", patience=5, check_on_train_epoch_end=True)
    trainer, _ = fit(data, max_epochs=2, callbacks=[stopper], log_every_n_steps=50)
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.release
def test_wandb_logger_records_offline(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    fit(data, logger=logger, log_every_n_steps=1)
    config, summary = dict(logger.experiment.config), dict(logger.experiment.summary)
    logger.experiment.finish()
    assert config["learning_rate"] == 1e-3
    assert "spec" not in config
    assert {"train/loss", "val/average"} <= summary.keys()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.skipif(not (find_spec("tensorboard") or find_spec("tensorboardX")), reason="tensorboard is not installed")
def test_tensorboard_logger_writes_events(data, tmp_path):
    trainer, _ = fit(data, logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    assert list(Path(trainer.logger.log_dir).glob("events.out.tfevents.*"))


def test_loggers_get_hyper_parameters_without_the_tokenizer(data):
    memory, module = Memory(), module_of(data)
    fit(data, module, logger=memory, fast_dev_run=False)
    assert "spec" not in module.hparams_initial
    assert "spec" in module.hparams
    assert memory.hparams["learning_rate"] == 1e-3
    assert "spec" not in memory.hparams
    options = memory.hparams["data"]
    assert (options["tasks"], options["batch_size"], options["sampler"]["exponent"]) == (list(SIZES), BATCH, 0.75)


# Validation, test, prediction


def test_validate_and_test_score_what_predict_returns(data):
    trainer, module = fit(data)
    [mood, size] = trainer.predict(module, data)
    ids = torch.cat([part["mood"][0] for part in mood])
    values = torch.cat([part["mood"][1] for part in mood])
    assert sorted(ids.tolist()) == list(range(DEV))
    assert sorted(torch.cat([part["size"][0] for part in size]).tolist()) == list(range(DEV))
    gold = data.rows["mood"].dev.labels[ids.numpy()]
    [scores, _] = trainer.validate(module, data, verbose=False)
    assert scores["val/mood/accuracy"] == pytest.approx(accuracy_score(gold, values.argmax(-1).numpy()), abs=1e-6)
    [tested, _] = trainer.test(module, data, verbose=False)
    assert set(tested) == {"test/mood/accuracy", "test/size/spearman", "test/average"}


def test_the_average_is_logged_under_one_name(data):
    memory = Memory()
    trainer, _ = fit(data, logger=memory)
    names = {name for row in memory.rows for name in row if name.startswith("val/")}
    assert names == {"val/mood/accuracy", "val/size/spearman", "val/average"}
    assert {name for name in trainer.callback_metrics if name.startswith("val/")} == names
    assert len(memory.column("val/average")) == 1


# Options of the Trainer


@pytest.mark.parametrize(("clip", "algorithm"), [(None, "norm"), (0, "norm"), (0.5, "norm"), (1e-3, "value")])
def test_gradient_clip_val_is_the_size_of_a_step(data, clip, algorithm):
    sgd = partial(torch.optim.SGD, lr=1.0)
    module = module_of(
        data,
        learning_rate=1.0,
        layerwise_decay=1.0,
        optimizer=sgd,
        lr_schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
    )
    before, memory = weights(module), Memory()
    fit(
        data,
        module,
        max_steps=1,
        max_epochs=-1,
        logger=memory,
        log_every_n_steps=1,
        gradient_clip_val=clip,
        gradient_clip_algorithm=algorithm,
    )
    step, norm = weights(module) - before, memory.column("train/gradient_norm")[0]
    assert norm > 1
    if algorithm == "value":
        assert float(step.abs().max()) == pytest.approx(clip, rel=1e-2)  # weights of size 1 round steps of 1e-3
    else:
        expected = norm if clip == 0 else 1.0 if clip is None else clip
        assert float(step.norm()) == pytest.approx(expected, rel=1e-4)


def test_accumulated_batches_make_the_step_of_one_large_batch(data):
    small = copy_of(data, taught=True, batch_size=BATCH // 4)
    trained = [
        fit(part, max_epochs=2, precision="64-true", accumulate_grad_batches=accumulate)
        for part, accumulate in ((data, 1), (small, 4))
    ]
    assert [trainer.global_step for trainer, _ in trained] == [2 * STEPS] * 2
    large, small_weights = (weights(module) for _, module in trained)
    assert float((large - small_weights).abs().max()) < 1e-9


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 2e-2), ("64-true", 1e-5), ("16-mixed", 5e-3)])
def test_precisions_train_like_float32(data, precision, tolerance):
    losses = {}
    for name in ("32-true", precision):
        memory = Memory()
        options = {"precision": name}
        if name == "16-mixed":  # a Trainer on a CPU makes bf16-mixed of it
            options = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))]}
        trainer, module = fit(data, logger=memory, log_every_n_steps=1, **options)
        assert trainer.precision == name
        losses[name] = memory.column("train/loss")
        assert weights(module).dtype == (torch.float64 if name == "64-true" else torch.float32)
    assert losses[precision] == pytest.approx(losses["32-true"], rel=tolerance)
    assert losses[precision] != losses["32-true"]


def test_a_fused_optimizer_is_refused_under_a_gradient_scaler(data):
    fused = module_of(data, optimizer=partial(torch.optim.AdamW, fused=True))
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(bam.TrainingError, match="fused=False"):
        fit(data, fused, plugins=[plugin])


def test_fast_dev_run_takes_one_step(data):
    trainer, _ = fit(data, fast_dev_run=True)
    assert trainer.global_step == 1
    assert math.isfinite(float(trainer.callback_metrics["val/average"]))


def test_overfit_batches_repeats_the_first_batches_of_the_stream(data):
    batches, whole = Batches(), Batches()
    fit(data, max_epochs=3, overfit_batches=2, callbacks=[batches])
    fit(data, callbacks=[whole])
    first = [parts for _, parts in whole.seen[:2]]
    assert [parts for _, parts in batches.seen] == 3 * first


def test_limit_batches_cuts_epochs_and_lam_follows(data):
    memory, batches, whole = Memory(), Batches(), Batches()
    trainer, _ = fit(
        data,
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        logger=memory,
        log_every_n_steps=1,
        callbacks=[batches],
    )
    fit(data, max_epochs=2, callbacks=[whole])
    assert trainer.global_step == 6
    assert memory.column("train/lam") == pytest.approx([step / 6 for step in range(6)])
    by_epoch = [[parts for epoch, parts in whole.seen if epoch == number][:3] for number in range(2)]
    assert [parts for _, parts in batches.seen] == [*by_epoch[0], *by_epoch[1]]


def test_simple_profiler_times_the_step(data):
    trainer, _ = fit(data, profiler="simple")
    assert any("training_step" in name for name in trainer.profiler.recorded_durations)


# Checkpoints


def test_resumed_fit_is_bit_equal(data, tmp_path):
    _, whole = fit(data, max_epochs=2)
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    fit(data, max_epochs=2, callbacks=[keeper], enable_checkpointing=True)
    for step in (4, 8):  # within the first epoch and within the second
        resumed = module_of(data, seed=1)
        pl.Trainer(**{**QUIET, "max_epochs": 2}).fit(resumed, data, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert torch.equal(weights(resumed), weights(whole))


def test_resuming_in_float64_keeps_every_bit(data, tmp_path):
    trainer, module = fit(data, precision="64-true")
    trainer.save_checkpoint(tmp_path / "double.ckpt")
    loaded = bam.BamModule.load_from_checkpoint(tmp_path / "double.ckpt")
    assert torch.equal(weights(loaded), weights(module))


def test_resuming_with_other_steps_is_refused(data, checkpoint):
    with pytest.raises(bam.TrainingError, match=f"fit of {STEPS} optimizer steps, this fit has {3 * STEPS}"):
        pl.Trainer(**{**QUIET, "max_epochs": 3}).fit(module_of(data), data, ckpt_path=checkpoint)


def test_load_from_checkpoint_needs_neither_data_nor_network(data, checkpoint, monkeypatch):
    def refuse(*_):
        raise AssertionError("a network connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    moved = Path(data.encoder_path).rename(data.encoder_path + "-away")
    try:
        loaded = bam.BamModule.load_from_checkpoint(checkpoint, weights_only=True)
    finally:
        moved.rename(data.encoder_path)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    state = loaded.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    assert loaded.tasks == list(SIZES)


def test_a_lambda_must_be_passed_again(data, tmp_path):
    trainer, module = fit(data, module_of(data, annealing=lambda progress: progress**2))
    trainer.save_checkpoint(tmp_path / "lambda.ckpt")
    with pytest.raises(bam.ConfigError, match=r"annealing of this checkpoint has no _target_ form"):
        bam.BamModule.load_from_checkpoint(tmp_path / "lambda.ckpt")
    loaded = bam.BamModule.load_from_checkpoint(tmp_path / "lambda.ckpt", annealing=lambda progress: progress**2)
    assert torch.equal(weights(loaded), weights(module))


PLAIN = (dict, list, tuple, str, int, float, bool, type(None), torch.Tensor)


def test_a_checkpoint_holds_plain_types_only(data, tmp_path):
    module = module_of(
        data,
        learning_rate=np.float64(1e-3),
        total_steps=np.int64(2 * STEPS),
        annealing=bam.ConstantAnnealing(0.5),
        optimizer=partial(bam.BertAdam, betas=(0.9, 0.5)),
        task_weights={"mood": np.float32(2.0), "size": 1},
    )
    keeper = ModelCheckpoint(tmp_path, monitor="val/average", mode="max", filename="best")
    stopper = EarlyStopping("val/average", mode="max", patience=9)
    fit(data, module, max_epochs=2, callbacks=[keeper, stopper], enable_checkpointing=True)
    odd = []

    def walk(value, path):
        if type(value).__name__ == "OrderedDict":  # a state_dict
            value = dict(value)
        if type(value) not in PLAIN:
            odd.append((path, type(value)))
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(key, path)
                walk(item, f"{path}/{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f"{path}/{number}")

    walk(torch.load(tmp_path / "best.ckpt", weights_only=False), "")
    assert not odd


# What is refused


class OwnStrategy(SingleDeviceStrategy):
    """A strategy that this library does not know."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler"),
        ({"reload_dataloaders_every_n_epochs": 1}, "reload_dataloaders_every_n_epochs"),
        ({"max_epochs": -1, "max_time": {"minutes": 1}}, "number of optimizer steps of this fit is unknown"),
        ({"strategy": OwnStrategy("cpu"), "accelerator": "auto"}, "strategy OwnStrategy is not supported"),
        ({"precision": "bf16-true"}, "precision bf16-true is not supported"),
    ],
    ids=["accumulation-scheduler", "reloaded-loaders", "time-alone", "strategy", "bf16-true"],
)
def test_what_cannot_train_correctly_is_refused(data, options, message):
    with pytest.raises(bam.TrainingError, match=message):
        fit(data, **options)


def test_time_alone_is_accepted_where_nothing_follows_the_steps(data):
    module = module_of(data, annealing=bam.ConstantAnnealing(0.5), lr_schedule="constant", warmup=0.0)
    trainer, _ = fit(data, module, max_epochs=-1, max_time={"seconds": 1})
    assert trainer.global_step > 0


# Teachers and saved models


def predicted(data, module, task: str) -> np.ndarray:
    """Return logits on training rows, computed row by row."""
    from bam_lightning.data.collate import collate

    examples, found = data._examples("train"), []
    module.eval()
    with torch.no_grad():
        for row in range(SIZES[task]):
            found.append(module(collate({task: examples[task]}, [task], np.array([row])))[task])
    return torch.cat(found).numpy()


@pytest.fixture(scope="session")
def saved(untaught, tmp_path_factory):
    """A module after one epoch, its checkpoint, and its folder."""
    trainer, module = fit(untaught)
    folder = tmp_path_factory.mktemp("saved")
    trainer.save_checkpoint(folder / "model.ckpt")
    module.save_pretrained(folder / "model")
    return module, folder / "model.ckpt", folder / "model"


@pytest.mark.parametrize("source", ["module", "checkpoint", "folder", "predictor", "array"])
def test_teach_takes_anything_that_predicts(untaught, saved, source):
    module, path, folder = saved
    data, expected = copy_of(untaught), predicted(untaught, module, "mood")
    sources = {"module": module, "checkpoint": path, "folder": str(folder), "array": expected}
    data.teach("mood", sources.get(source) if source != "predictor" else bam.load(folder))
    assert data.taught == ["mood"]
    assert data.train_examples()["mood"].teacher == pytest.approx(expected, abs=1e-5)
    data.teach("mood", [module, folder, logits("mood")])  # an ensemble replaces it
    ensemble = data.train_examples()["mood"].teacher
    assert ensemble.shape == (SIZES["mood"], 3, 2)
    assert ensemble[:, 2] == pytest.approx(logits("mood"))


def test_predictions_of_a_saved_teacher_are_cached(untaught, saved, monkeypatch, tmp_path):
    data = copy_of(untaught, cache=tmp_path)
    data.teach("mood", saved[2])
    first = data.train_examples()["mood"].teacher
    monkeypatch.setattr(bam.Predictor, "logits", lambda *_: pytest.fail("predicted again"))
    data.teach("mood", saved[2])
    assert np.array_equal(data.train_examples()["mood"].teacher, first)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (logits("mood")[1:], r"expected logits \[N, K\] of 48 training rows"),
        (logits("mood") * np.inf, "logits of training row 0 are not finite"),
    ],
)
def test_teach_refuses_columns_that_do_not_fit(untaught, source, message):
    with pytest.raises(bam.DataError, match=message):
        copy_of(untaught).teach("mood", source)


def test_teach_predicts_all_rows_whatever_the_trainer_limits(untaught, saved):
    data = copy_of(untaught)
    trainer = pl.Trainer(**{**QUIET, "callbacks": [Scores()]}, limit_predict_batches=0)
    data.teach("size", saved[0], trainer)
    assert len(data.train_examples()["size"].teacher) == SIZES["size"]
    assert trainer.limit_predict_batches == 0
    assert len(trainer.callbacks) >= 1


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_teach_refuses_a_trainer_that_spawns_or_forks(untaught, saved, strategy):
    trainer = pl.Trainer(**{**QUIET, "strategy": strategy, "devices": 2})
    with pytest.raises(bam.TrainingError, match="spawn or fork"):
        copy_of(untaught).teach("mood", saved[0], trainer)


def test_a_saved_folder_predicts_what_the_module_predicts(untaught, saved, tmp_path):
    module, _, folder = saved
    model = bam.load(folder)
    assert list(model.tasks) == list(SIZES)
    texts = list(untaught.rows["mood"].train.texts[0])
    assert model.logits([(text,) for text in texts], ["mood"])["mood"] == pytest.approx(
        predicted(untaught, module, "mood"), abs=1e-5
    )
    assert model.predict(texts[:1], "mood")[0].label in ("good", "bad")
    again = bam.load(model.save_pretrained(tmp_path / "copy"))
    assert "2 tasks" in (tmp_path / "copy" / "README.md").read_text()
    assert torch.equal(parameters_to_vector(again.heads.parameters()), parameters_to_vector(model.heads.parameters()))


def test_save_pretrained_replaces_a_model_and_nothing_else(saved, tmp_path):
    module = saved[0]
    module.save_pretrained(tmp_path / "model")
    module.save_pretrained(tmp_path / "model")
    assert bam.load(tmp_path / "model").tasks
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(bam.ConfigError, match="something else"):
        module.save_pretrained(tmp_path / "other")


# Both names of Lightning

EXAMPLE = """
import bam_lightning as bam

tasks = {{
    "mood": bam.Task.from_file("mood.csv", text="review", label="mood"),
    "stars": bam.Task.from_file("stars.csv", text="review", label="stars", kind="ordinal"),
}}
data = bam.MultiTaskDataModule(tasks, encoder={encoder!r}, batch_size=32, max_length=32, cache_dir="cache")

for name in tasks:
    single = data.only(name, batch_size=32)
    teacher = bam.BamModule(single, learning_rate=5e-5)
    pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(teacher, single)
    data.teach(name, teacher)

student = bam.BamModule(data, learning_rate=1e-4, layerwise_decay=0.9, annealing=bam.LinearAnnealing())
trainer = pl.Trainer(max_epochs=2, precision="bf16-mixed")
trainer.fit(student, data)
print("average", trainer.validate(student, data)[0]["val/average"])
student.save_pretrained("student")
assert isinstance(student, pl.LightningModule)
print(bam.load("student").predict(["the cat sleeps"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch_lightning", pytest.param("lightning.pytorch", marks=pytest.mark.release)])
def test_first_example_runs_with_either_lightning(tiny_bert, tmp_path, name):
    for task, label in (("mood", lambda n: ["good", "bad"][n % 2]), ("stars", lambda n: n % 4 + 1)):
        lines = [f"{text},{label(len(text))}" for text in sentences(120, 5)]
        (tmp_path / f"{task}.csv").write_text("\n".join([f"review,{task}", *lines]))
    script = f"import {name} as pl\n" + EXAMPLE.format(encoder=str(tiny_bert))
    warm = name == "pytorch_lightning"  # which a warm process has imported already
    command = [python() if warm else sys.executable, "-c", script]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "average" in done.stdout
    assert "Prediction(label=" in done.stdout


def test_each_row_of_the_documentation_names_a_test():
    here = Path(__file__).parent
    page = (here.parents[1] / "docs" / "lightning.md").read_text()
    code = "".join((here / name).read_text() for name in ("test_trainer.py", "test_fits.py", "test_processes.py"))
    lines = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
    named = [re.findall(r"`(test_\w+)` \|$", line) for line in lines]
    assert len(named) > 20
    assert all(len(names) == 1 and f"def {names[0]}(" in code for names in named)
