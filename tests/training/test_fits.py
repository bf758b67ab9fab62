"""One module in several fits, in a subclass, in a copy, and with loaders by hand."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.tuner import Tuner
from tiny_tasks import QUIET, SIZES, STEPS, Memory, data_of, fit, module_of, tasks, weights

import bam_lightning as bam

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
    pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch.*"),
    pytest.mark.filterwarnings("ignore:.*barebones=True.*"),
]


@pytest.fixture(scope="session")
def data(still_bert, tmp_path_factory) -> bam.MultiTaskDataModule:
    """Two tasks, both with a teacher."""
    return data_of(still_bert, tmp_path_factory.mktemp("cache"))


class OwnOptimizer(bam.BamModule):
    """A module with an optimizer of its own, at a constant rate."""

    def configure_optimizers(self):
        """Return it alone."""
        return torch.optim.AdamW(self.parameters(), lr=3e-4)


def examples(memory: Memory) -> dict[str, float]:
    """Return task -> examples seen at the last log of a fit."""
    return {task: memory.column(f"train/examples/{task}")[-1] for task in SIZES}


@pytest.fixture(scope="session")
def once(data):
    """What a first fit of one epoch logs."""
    memory = Memory()
    fit(data, logger=memory, log_every_n_steps=1)
    return memory


@pytest.fixture(scope="session")
def checkpoint(data, tmp_path_factory):
    """A checkpoint of step 4 of 6, with losses that no log has had yet."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fit(data, callbacks=[ModelCheckpoint(folder, every_n_train_steps=4)], enable_checkpointing=True)
    [path] = folder.glob("*.ckpt")
    return path


# A new fit begins anew


def loaded(data, checkpoint):
    return bam.BamModule.load_from_checkpoint(checkpoint)


def validated(data, checkpoint):
    module = module_of(data)
    pl.Trainer(**QUIET).validate(module, data, ckpt_path=checkpoint, verbose=False)
    return module


def fitted(data, checkpoint):
    return fit(data)[1]


@pytest.mark.parametrize("before", [loaded, validated, fitted])
def test_a_new_fit_has_its_own_steps_and_counts(data, checkpoint, once, before):
    module, memory = before(data, checkpoint), Memory()
    fit(data, module, max_epochs=2, logger=memory, log_every_n_steps=1)
    assert memory.column("train/lam") == pytest.approx([step / (2 * STEPS) for step in range(2 * STEPS)])
    first = {name: value for name, value in memory.rows[0].items() if name.startswith("train/examples/")}
    assert first == {name: once.rows[0][name] for name in first}
    assert sum(examples(memory).values()) == 2 * sum(examples(once).values())


def test_a_search_for_the_learning_rate_leaves_no_trace(data):
    module = module_of(data)
    Tuner(pl.Trainer(**{**QUIET, "max_epochs": 9})).lr_find(module, data, num_training=5, update_attr=False)
    _, expected = fit(data)
    fit(data, module)
    assert torch.equal(weights(module), weights(expected))


@pytest.mark.release
def test_a_search_for_the_batch_size_leaves_no_trace(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Lightning keeps the weights of before in this folder
    own = data_of(data.encoder_path, data.cache_dir, batch_size=16)
    trainer, module = pl.Trainer(**QUIET), module_of(own)
    found = Tuner(trainer).scale_batch_size(module, datamodule=own, mode="power", steps_per_trial=1, max_trials=2)
    assert own.batch_size == found
    trainer.fit(module, own)
    _, expected = fit(data_of(data.encoder_path, data.cache_dir, batch_size=found))
    assert torch.equal(weights(module), weights(expected))


@pytest.mark.release
@pytest.mark.parametrize("kind", [BatchSizeFinder, LearningRateFinder])
def test_a_callback_that_searches_leaves_lam_to_the_fit(data, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    own, memory = data_of(data.encoder_path, data.cache_dir, batch_size=16), Memory()
    finder = BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=4) if kind is BatchSizeFinder else (
        LearningRateFinder(num_training_steps=4, update_attr=False)
    )  # fmt: skip
    trainer, _ = fit(own, OwnOptimizer(own), max_epochs=2, callbacks=[finder], logger=memory, log_every_n_steps=1)
    steps = trainer.global_step
    assert steps == 2 * -(-sum(SIZES.values()) // own.batch_size)
    assert memory.column("train/lam")[-steps:] == pytest.approx([step / steps for step in range(steps)])


def test_a_callback_that_drops_the_position_of_a_checkpoint_is_refused(data, checkpoint):
    finder = LearningRateFinder(num_training_steps=4, update_attr=False)
    with pytest.raises(bam.TrainingError, match="is of step 4, but the Trainer begins at step 0: a callback"):
        pl.Trainer(**QUIET, callbacks=[finder]).fit(module_of(data), data, ckpt_path=checkpoint)


def test_task_weights_are_those_of_the_fits_data(data):
    heavy = tasks()
    heavy["mood"] = dataclasses.replace(heavy["mood"], weight=10.0)
    weighted = bam.MultiTaskDataModule(heavy, data.encoder_path, batch_size=16, max_length=32, cache_dir=data.cache_dir)
    for task in SIZES:
        weighted.teach(task, data.train_examples()[task].teacher)
    _, expected = fit(weighted)
    module = module_of(data)
    untrained = copy.deepcopy(module.state_dict())
    fit(data, module)
    module.load_state_dict(untrained)
    fit(weighted, module)
    assert torch.equal(weights(module), weights(expected))


def test_a_fit_of_the_first_batches_resumes_within_an_epoch(data, tmp_path):
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    _, whole = fit(data, max_epochs=2, overfit_batches=3, callbacks=[keeper], enable_checkpointing=True)
    resumed = module_of(data)
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 2}, overfit_batches=3)
    trainer.fit(resumed, data, ckpt_path=tmp_path / "step=2.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


# Subclasses and callbacks


@pytest.mark.parametrize("total", [None, STEPS])
def test_lam_follows_the_steps_under_an_own_optimizer(data, total):
    memory = Memory()
    fit(data, OwnOptimizer(data, total_steps=total), logger=memory, log_every_n_steps=1)
    assert memory.column("train/lam") == pytest.approx([step / STEPS for step in range(STEPS)])
    assert memory.column("train/learning_rate") == pytest.approx([3e-4] * STEPS)


def test_the_logged_rate_is_the_optimizers(data):
    memory, used = Memory(), []
    watch = LambdaCallback(
        on_before_optimizer_step=lambda trainer, module, optimizer: used.append(
            max(group["lr"] for group in optimizer.param_groups)
        )
    )
    average = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1, annealing_epochs=1)
    fit(data, max_epochs=3, callbacks=[average, watch], logger=memory, log_every_n_steps=1)
    assert memory.column("train/learning_rate") == pytest.approx(used)


@pytest.mark.parametrize("options", [{"barebones": True}, {"log_every_n_steps": 0}], ids=str)
def test_a_trainer_that_logs_nothing_trains_the_same(data, options):
    _, expected = fit(data)
    module, own = module_of(data), {} if "barebones" in options else QUIET
    pl.Trainer(**{**own, "max_epochs": 1, "accelerator": "cpu", **options}).fit(module, data)
    assert torch.equal(weights(module), weights(expected))


# Copies


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"]
)
def test_copies_of_module_and_data_train_the_same(data, copied):
    own = data_of(data.encoder_path, data.cache_dir)
    _, expected = fit(own)
    module = module_of(own)
    fit(copied(own), copied(module))  # data that a Trainer has had
    _, found = fit(copied(own), copied(module))
    assert torch.equal(weights(found), weights(expected))


# Loaders by hand


def test_a_loop_by_hand_gets_whole_epochs_after_a_fit(data):
    fresh = [[batch.index for batch in data_of(data.encoder_path, data.cache_dir).train_dataloader()]]
    fit(data, max_epochs=-1, max_steps=4)
    assert [[batch.index for batch in data.train_dataloader()]] == fresh == [list(range(STEPS))]
    fit(data)
    loader = data.train_dataloader()
    assert [batch.index for _ in range(2) for batch in loader] == list(range(2 * STEPS))


@pytest.mark.parametrize("used", [False, True])
def test_a_trainer_is_given_the_data_module_not_its_loaders(data, used):
    own = data_of(data.encoder_path, data.cache_dir)
    if used:
        fit(own)
    with pytest.raises(bam.TrainingError, match=r"trainer.fit\(module, datamodule=data\)"):
        pl.Trainer(**QUIET).fit(module_of(own), own.train_dataloader(), own.val_dataloader())


def test_a_loop_by_hand_trains(data):
    module, means = module_of(data), []
    loader, optimizer = (
        data_of(data.encoder_path, data.cache_dir).train_dataloader(),
        torch.optim.AdamW(module.parameters(), 1e-3),
    )
    for _ in range(12):
        losses = []
        for batch in loader:
            loss = torch.stack(list(module.task_losses(batch, lam=1.0).values())).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    assert means[-1] < 0.9 * means[0], means
