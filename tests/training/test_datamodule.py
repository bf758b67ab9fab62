"""Loaders give exactly the stream's rows, and every row once to evaluate on, whatever the ranks; teachers' columns."""

from __future__ import annotations

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from bam_lightning.config.exceptions import ConfigError, DataError, TrainingError
from bam_lightning.data.collate import Examples
from bam_lightning.data.sampling import PAD_INDEX, ReplicationSampler, Sampler, SizeProportionalSampler, Stream
from bam_lightning.data.task import Task
from bam_lightning.data.tokenization import Tokens
from bam_lightning.training.datamodule import ExamplesDataModule, MultiTaskDataModule
from bam_lightning.training.module import BamModule
from conftest import sentences

SIZES = {"big": 60, "mid": 20, "tiny": 3}
FIRST = {"big": 0, "mid": 60, "tiny": 80}


def examples(size: int, first: int = 0, longest: int = 30) -> Examples:
    """Return rows of random lengths; row i has the label i, and every token of it is 1 + its number in the stream."""
    lengths = np.random.default_rng(size).integers(1, longest, size)
    ids = np.repeat(np.arange(size) + first + 1, lengths).astype(np.int32)
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    return Examples(Tokens(ids, offsets, None), np.arange(size), None)


TASKS = {name: examples(size, FIRST[name]) for name, size in SIZES.items()}


def trainer_at(rank=0, world_size=1, step=0, accumulate=1, ready=0, limit=float("inf"), overfit=0):
    """Return what loaders read of a Trainer."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=ready))
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        training=True,
        global_step=step,
        accumulate_grad_batches=accumulate,
        overfit_batches=overfit,
        num_training_batches=limit,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )


def module(sampler=None, trainer=None, **options) -> ExamplesDataModule:
    data = ExamplesDataModule(TASKS, sampler=sampler or SizeProportionalSampler(0.75), **{"batch_size": 16, **options})
    data.trainer = trainer
    return data


def numbers(batch) -> list[int]:
    """Return the stream's numbers of all rows of a batch, sorted."""
    return sorted(FIRST[name] + row for name, part in batch.tasks.items() for row in part.row_ids.tolist())


def joined(parts) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def batches(**options) -> list[list[int]]:
    return [numbers(batch) for batch in module(**options).train_dataloader()]


class Given(Sampler):
    """A stream that is given."""

    def __init__(self, rows):
        self.rows = np.asarray(rows, dtype=np.int32)

    def epoch_length(self, sizes, batch_size):
        return len(self.rows)

    def steps(self, sizes, epochs, batch_size):
        return len(self.rows)

    def stream(self, sizes, steps, batch_size, seed):
        return Stream(self.rows[:steps], {})


@pytest.mark.parametrize("sampler", [SizeProportionalSampler(0.75), ReplicationSampler(0.75)], ids=repr)
def test_every_batch_holds_exactly_the_rows_of_the_stream(sampler):
    rows = sampler.stream(SIZES, sampler.epoch_length(SIZES, 16), 16, seed=0).rows
    assert batches(sampler=sampler) == [sorted(step[step != PAD_INDEX].tolist()) for step in rows]


def test_every_row_of_a_batch_brings_its_own_tokens_and_label():
    for batch in module(SizeProportionalSampler(0.5), seed=1).train_dataloader():
        texts = batch.input_ids.split(batch.lengths)
        for name, part in batch.tasks.items():
            assert part.labels.tolist() == part.row_ids.tolist()
            for position, row in zip(part.positions.tolist(), part.row_ids.tolist(), strict=True):
                assert texts[position].tolist() == [FIRST[name] + row + 1] * TASKS[name].tokens.lengths[row]


def test_places_without_a_row_are_left_out():
    sampler = Given([[PAD_INDEX, 5, 82, PAD_INDEX], [PAD_INDEX, PAD_INDEX, PAD_INDEX, 61]])
    assert batches(sampler=sampler, batch_size=4) == [[5, 82], [61]]


def test_a_rank_without_a_row_gets_a_batch_without_examples():
    sampler = Given([[4, PAD_INDEX], [5, 6]])
    first, second = (batches(sampler=sampler, batch_size=2, trainer=trainer_at(rank, 2)) for rank in (0, 1))
    assert (first[0], second[0]) == ([4], [])
    assert sorted([first[1], second[1]]) == [[5], [6]]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_all_ranks_together_hold_the_rows_of_one(world_size):
    sampler, options = ReplicationSampler(0.75), {"batch_size": 12, "seed": 3}
    alone = batches(sampler=sampler, **options)
    ranks = [
        list(module(sampler, trainer_at(rank, world_size), **options).train_dataloader()) for rank in range(world_size)
    ]
    assert [sorted(joined(map(numbers, parts))) for parts in zip(*ranks, strict=True)] == alone
    for parts in zip(*ranks, strict=True):
        assert all(len(numbers(batch)) <= -(-12 // world_size) for batch in parts)
        tokens = [sum(batch.lengths) for batch in parts]
        assert max(tokens) - min(tokens) <= max(max(batch.lengths) for batch in parts)  # but for a row's


def test_without_a_trainer_every_pass_is_the_next_epoch():
    loader = module().train_dataloader()
    found = [[numbers(batch) for batch in loader] for _ in range(3)]
    rows = SizeProportionalSampler(0.75).stream(SIZES, 3 * len(loader), 16, 0).rows
    assert joined(found) == [sorted(step) for step in rows.tolist()]


@pytest.mark.parametrize(("step", "ready"), [(4, 4), (6, 0), (8, 2), (13, 1)])
def test_the_loader_goes_on_where_the_trainer_stands(step, ready):
    """An epoch of 83 rows has 6 batches of 16."""
    rows = SizeProportionalSampler(0.75).stream(SIZES, 18, 16, 0).rows
    found = batches(trainer=trainer_at(step=step, ready=ready))
    assert found == [sorted(row) for row in rows[step : 6 * (step // 6 + 1)].tolist()]


def test_with_a_limit_on_batches_an_epoch_begins_where_the_streams_epoch_does():
    """limit_train_batches=2: the fifth step is the first of the third epoch."""
    rows = SizeProportionalSampler(0.75).stream(SIZES, 18, 16, 0).rows
    found = batches(trainer=trainer_at(step=4, ready=0, limit=2))
    assert found == [sorted(row) for row in rows[12:].tolist()]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_batches_that_accumulate_hold_together_what_one_large_batch_holds(accumulate):
    large = batches(batch_size=16)
    small = batches(batch_size=16 // accumulate, trainer=trainer_at(accumulate=accumulate))
    assert len(small) == accumulate * len(large)
    steps = [sorted(joined(small[start : start + accumulate])) for start in range(0, len(small), accumulate)]
    assert steps == large


def test_under_overfit_batches_every_epoch_is_the_first():
    assert batches(trainer=trainer_at(step=8, overfit=2, limit=2)) == batches()


def test_a_trainer_that_stands_elsewhere_than_its_steps_say_is_refused():
    with pytest.raises(TrainingError, match=r"^the Trainer stands at batch 3 of an epoch, but 4 optimizer steps of 1 "):
        batches(trainer=trainer_at(step=4, ready=3))


def test_worker_processes_make_the_same_batches():
    assert batches(num_workers=2) == batches()


def test_a_transform_changes_every_training_batch_and_no_other():
    def renumber(batch, keep):
        assert keep.tolist() == [True] * len(batch.lengths)
        batch.index += 100
        return batch

    data = ExamplesDataModule(TASKS, {"big": TASKS["big"]}, batch_size=16, transform=renumber)
    assert [batch.index for batch in data.train_dataloader()] == [100, 101, 102, 103, 104, 105]
    assert {batch.index for loader in data.val_dataloader() for batch in loader} == {0}


def test_loader_keeps_no_state_of_its_own():
    loader = module().train_dataloader()
    loader.load_state_dict({"anything": 1})
    assert loader.state_dict() == {}


def evaluated(loader) -> Counter:
    return Counter(row for batch in loader for part in batch.tasks.values() for row in part.row_ids.tolist())


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_evaluate_every_row_once_in_equally_many_batches(world_size):
    data = ExamplesDataModule({}, {"big": examples(2000)})
    seen, counts = Counter(), set()
    for rank in range(world_size):
        data.trainer = trainer_at(rank, world_size)
        (loader,) = data.val_dataloader()
        counts |= {len(loader), len(list(loader))}
        seen += evaluated(loader)
    assert seen == dict.fromkeys(range(2000), 1)
    assert len(counts) == 1


def test_a_rank_without_a_row_to_evaluate_gets_a_batch_without_examples():
    data = ExamplesDataModule({}, {"big": examples(2)})
    ranks = []
    for rank in range(3):
        data.trainer = trainer_at(rank, 3)
        ranks.append(list(data.val_dataloader()[0]))
    assert [[batch.size for batch in batches] for batches in ranks] == [[2], [0], [0]]


def test_batches_to_evaluate_are_of_like_length_in_a_fixed_random_order():
    """So that ``limit_val_batches`` sees a fair sample."""
    data = ExamplesDataModule({}, {"big": examples(5000)})
    first, second = ([batch.lengths for batch in data.val_dataloader()[0]] for _ in range(2))
    assert first == second
    assert len(first) > 5
    spans = [(lengths[0], lengths[-1]) for lengths in first]
    assert spans != sorted(spans)
    ordered = sorted(spans)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ordered))


def test_every_task_has_a_loader_of_its_own_in_their_order():
    data = ExamplesDataModule({}, {"mid": TASKS["mid"], "big": TASKS["big"]}, predict={"tiny": TASKS["tiny"]})
    assert [loader.task for loader in data.val_dataloader()] == ["mid", "big"]
    assert [loader.task for loader in data.predict_dataloader()] == ["tiny"]
    assert [set(batch.tasks) for loader in data.predict_dataloader() for batch in loader] == [{"tiny"}]


def test_logits_come_back_in_the_order_of_the_rows():
    from bam_lightning.recipes.predictions import predict_logits

    class Lengths(pl.LightningModule):
        """Predicts the number of a row's tokens."""

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            part = batch.tasks["t"]
            return {"t": (part.row_ids, torch.tensor(batch.lengths)[part.positions, None].float())}

    lengths = np.random.default_rng(0).integers(2, 400, 300)
    ids = np.ones(lengths.sum(), np.int32)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    rows = Examples(Tokens(ids, offsets, None), np.zeros(300, np.int64))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert predict_logits(Lengths(), trainer, rows, "t")[:, 0].tolist() == lengths.tolist()
    assert torch.is_inference_mode_enabled() is False


def test_digests_tell_streams_and_teachers_apart():
    def taught(value):
        column = np.full((60, 2), value, dtype=np.float32)
        return ExamplesDataModule({**TASKS, "big": TASKS["big"]._replace(teacher=column)}, batch_size=16).digests()

    plain, changed = module().digests(), [module(batch_size=8), module(seed=1), module(ReplicationSampler(0.75))]
    assert module().digests() == plain
    assert len({plain["stream"], *(data.digests()["stream"] for data in changed)}) == 4
    assert {data.digests()["teachers"] for data in changed} == {plain["teachers"]}
    assert taught(0.0)["stream"] == plain["stream"]
    assert len({plain["teachers"], taught(0.0)["teachers"], taught(1.0)["teachers"]}) == 3


@pytest.fixture
def data(tiny_bert, tmp_path) -> MultiTaskDataModule:
    """Two tasks of 40 and 30 training rows."""
    pairs = zip(sentences(50, 0), sentences(50, 1), strict=True)
    rte = [{"first": one, "second": two, "label": ("no", "yes")[i % 2]} for i, (one, two) in enumerate(pairs)]
    stars = [{"text": text, "score": i / 8} for i, text in enumerate(sentences(40, 2))]
    tasks = {
        "rte": Task.from_list({"train": rte[:40], "validation": rte[40:]}, text=["first", "second"]),
        "stars": Task.from_list({"train": stars[:30], "validation": stars[30:]}, text="text", label="score"),
    }
    return MultiTaskDataModule(tasks, tiny_bert, batch_size=16, max_length=32, seed=0, cache_dir=tmp_path / "cache")


QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def test_rows_are_read_and_tokenized_with_the_encoders_tokenizer(data):
    train = data.train_examples()
    assert {name: len(part.labels) for name, part in train.items()} == {"rte": 40, "stars": 30}
    assert {name: len(part.labels) for name, part in data.dev_examples().items()} == {"rte": 10, "stars": 10}
    first = data.tokenizer(data.rows["rte"].train.texts[0][0], data.rows["rte"].train.texts[1][0])["input_ids"]
    assert train["rte"].tokens.ids[: train["rte"].tokens.offsets[1]].tolist() == first


def test_only_is_one_task_over_the_same_rows_without_its_teacher(data):
    data.teach("rte", np.zeros((40, 2), dtype=np.float32))
    single = data.only("rte", batch_size=8)
    assert list(single.tasks) == ["rte"]
    assert single.rows["rte"] is data.rows["rte"]
    assert single.train_examples()["rte"].teacher is None
    assert (single.batch_size, single.max_length, single.seed) == (8, 32, 0)
    with pytest.raises(ConfigError, match="rte, stars"):
        data.only("mnli")


def test_a_module_teaches_its_logits_on_the_training_rows_in_their_order(data):
    single = data.only("rte", batch_size=8)
    teacher = BamModule(single)
    pl.Trainer(accelerator="cpu", max_steps=3, max_epochs=-1, **QUIET).fit(teacher, single)
    data.teach("rte", teacher)
    column = data.train_examples()["rte"].teacher
    teacher.eval()
    with torch.no_grad():
        for batch in data.only("rte").train_dataloader():
            part = batch.tasks["rte"]
            expected = teacher(batch)["rte"]
            torch.testing.assert_close(torch.from_numpy(column[part.row_ids]), expected, atol=1e-6, rtol=0)
    assert data.taught == ["rte"]


def test_a_second_teacher_replaces_the_first_and_several_are_an_ensemble(data):
    zeros, ones = (np.full((40, 2), value, dtype=np.float32) for value in (0, 1))
    data.teach("rte", zeros)
    data.teach("rte", ones)
    assert data.train_examples()["rte"].teacher.tolist() == ones.tolist()
    data.teach("rte", [zeros, ones, ones])
    assert data.train_examples()["rte"].teacher.shape == (40, 3, 2)
    assert data.train_examples()["rte"].teacher.mean(1)[0].tolist() == pytest.approx([2 / 3] * 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((39, 2)), r"expected logits \[N, K\] of 40 training rows, got shape \[39, 2\]"),
        (np.zeros(40), r"got shape \[40\]"),
        (np.where(np.arange(80).reshape(40, 2) == 7, np.nan, 0), "logits of training row 3 are not finite"),
        ([np.zeros((40, 2)), np.zeros((40, 3))], r"expected logits of shape \[N, 2\] \(no, yes\), got \[40, 3\]"),
    ],
)
def test_logits_that_do_not_fit_the_rows_are_refused(data, source, message):
    with pytest.raises(DataError, match=message):
        data.teach("rte", source)
