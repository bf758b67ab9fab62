"""The data side of Lightning: exactly the stream's rows in every step, every row once to predict on."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bam_lightning.data.collate import PREDICT_TOKENS, Examples
from bam_lightning.data.sampling import PAD_INDEX, ReplicationSampler, SizeProportionalSampler, Stream
from bam_lightning.data.tokenization import Tokens
from bam_lightning.training.datamodule import Blocks, MultiTaskData, StepLoader

SIZES = {"big": 60, "mid": 20, "tiny": 3}
FIRST = {"big": 0, "mid": 60, "tiny": 80}
PAD = 0


def examples(size: int, first: int = 0, longest: int = 30) -> Examples:
    """Return rows of random lengths; row i has the label i, and every token of it is 1 + its number in the stream."""
    lengths = np.random.default_rng(size).integers(1, longest, size)
    ids = np.repeat(np.arange(size) + first + 1, lengths).astype(np.int32)
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    return Examples(Tokens(ids, offsets, None), np.arange(size), None)


TASKS = {name: examples(size, FIRST[name]) for name, size in SIZES.items()}


PLACE = [0, 1]  # number of this process, and of all


@pytest.fixture(autouse=True)
def _place(monkeypatch):
    """Have ``PLACE`` say which process this is."""
    monkeypatch.setattr("bam_lightning.training.distributed.rank", lambda: PLACE[0])
    monkeypatch.setattr("bam_lightning.training.distributed.processes", lambda: PLACE[1])


def module(stream: Stream, predict=None, place: tuple[int, int] = (0, 1), done: int = 0) -> MultiTaskData:
    """Return the data module of a process, with a trainer that says no more than the steps it has done."""
    data = MultiTaskData(TASKS, predict or {}, stream, PAD, call_tokens=20)
    PLACE[:] = place
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_step=done, strategy=strategy)
    return data


def numbers(step: list) -> list[int]:
    """Return the stream's numbers of all rows of a step, sorted."""
    found = [index + FIRST[name] for batch in step for name, rows in batch.numbers.items() for index in rows.tolist()]
    return sorted(found)


@pytest.mark.parametrize(
    "sampler", [SizeProportionalSampler(0.75), ReplicationSampler(0.75)], ids=["sampled", "copies"]
)
def test_every_step_holds_exactly_the_rows_of_the_stream(sampler):
    stream = sampler.stream(SIZES, steps=12, batch_size=16, seed=0)
    steps = list(module(stream).train_dataloader())
    assert len(steps) == 12
    for step, rows in zip(steps, stream.rows, strict=True):
        assert numbers(step) == sorted(rows[rows != PAD_INDEX].tolist())


def test_every_row_of_a_step_brings_its_own_tokens_and_label():
    for step in module(SizeProportionalSampler(0.5).stream(SIZES, 5, 16, seed=1)).train_dataloader():
        for batch in step:
            for name, index in batch.numbers.items():
                assert batch.labels[name].tolist() == index.tolist()
                for place, row in zip(batch.rows[name].tolist(), index.tolist(), strict=True):
                    length = TASKS[name].tokens.lengths[row]
                    ids = batch.inputs["input_ids"][place].tolist()
                    assert ids == [FIRST[name] + row + 1] * length + [PAD] * (len(ids) - length)
                    assert batch.inputs["attention_mask"][place].sum() == length


def test_empty_places_are_left_out():
    rows = np.array([[PAD_INDEX, 5, 82, PAD_INDEX], [PAD_INDEX, PAD_INDEX, PAD_INDEX, 61]], dtype=np.int32)
    steps = list(module(Stream(rows, {})).train_dataloader())
    assert [numbers(step) for step in steps] == [[5, 82], [61]]


def test_a_step_without_a_row_for_this_process_is_an_empty_list():
    rows = np.array([[4, PAD_INDEX], [5, 6]], dtype=np.int32)
    first, second = (
        [numbers(step) for step in module(Stream(rows, {}), place=(rank, 2)).train_dataloader()] for rank in (0, 1)
    )
    assert (first[0], second[0]) == ([4], [])
    assert sorted([first[1], second[1]]) == [[5], [6]]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_all_processes_together_hold_the_rows_of_one(processes):
    stream = ReplicationSampler(0.75).stream(SIZES, steps=8, batch_size=12, seed=3)
    alone = [numbers(step) for step in module(stream).train_dataloader()]
    ranks = [list(module(stream, place=(rank, processes)).train_dataloader()) for rank in range(processes)]
    for step, expected in enumerate(alone):
        assert sorted(number for rank in ranks for number in numbers(rank[step])) == expected
    assert all(sum(len(b.inputs["input_ids"]) for b in rank[0]) <= 12 // processes for rank in ranks)
    for step in range(len(alone)):
        tokens = [sum(sum(block.lengths) for block in rank[step]) for rank in ranks]
        longest = max(max(block.lengths) for rank in ranks for block in rank[step])
        assert max(tokens) - min(tokens) <= longest  # but for a row's


def test_loader_goes_on_at_the_trainers_step():
    stream = SizeProportionalSampler(0.75).stream(SIZES, steps=9, batch_size=8, seed=0)
    whole = [numbers(step) for step in module(stream).train_dataloader()]
    rest = [numbers(step) for step in module(stream, place=(0, 1), done=4).train_dataloader()]
    assert rest == whole[4:]


def test_loader_keeps_no_state_of_its_own():
    loader = module(SizeProportionalSampler(0.75).stream(SIZES, 2, 8, seed=0)).train_dataloader()
    loader.load_state_dict({"anything": 1})
    assert isinstance(loader, StepLoader)
    assert loader.state_dict() == {}


def predicted(loader) -> Counter:
    return Counter(row for batch in loader for rows in batch.numbers.values() for row in rows.tolist())


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_processes_predict_on_every_row_once(processes):
    dev = examples(100)
    stream = SizeProportionalSampler(1.0).stream(SIZES, 1, 4, seed=0)
    seen: Counter = Counter()
    for rank in range(processes):
        (loader,) = module(stream, {"big": dev}, place=(rank, processes)).predict_dataloader()
        seen += predicted(loader)
    assert seen == dict.fromkeys(range(100), 1)


def test_a_process_without_a_row_to_predict_on_has_no_block():
    dev = examples(2)
    blocks = [list(Blocks("big", dev, PAD, rank, 3)) for rank in range(3)]
    assert sum((predicted(own) for own in blocks), Counter()) == {0: 1, 1: 1}
    assert blocks[2] == []


def test_tasks_are_predicted_on_in_their_order():
    data = module(SizeProportionalSampler(1.0).stream(SIZES, 1, 4, seed=0), {"mid": TASKS["mid"], "big": TASKS["big"]})
    assert [{name for batch in loader for name in batch.numbers} for loader in data.predict_dataloader()] == [
        {"mid"},
        {"big"},
    ]


def test_blocks_hold_at_most_so_many_padded_tokens_and_the_next_row_would_be_too_many():
    shapes = [tuple(batch.inputs["input_ids"].shape) for batch in Blocks("big", examples(3000), PAD, 0, 1)]
    assert max(rows * longest for rows, longest in shapes) <= PREDICT_TOKENS
    for (rows, _), (_, longest) in pairwise(shapes):
        assert (rows + 1) * longest > PREDICT_TOKENS


def test_no_row_of_a_block_is_longer_than_one_of_the_next():
    lengths = [batch.inputs["attention_mask"].sum(1).tolist() for batch in Blocks("big", examples(3000), PAD, 0, 1)]
    assert len(lengths) > 2
    assert [length for block in lengths for length in block] == sorted(examples(3000).tokens.lengths.tolist())


@pytest.mark.parametrize("length", [PREDICT_TOKENS, PREDICT_TOKENS + 1])
def test_a_row_as_long_as_a_block_stands_alone(length):
    tokens = Tokens(np.ones(2 * length, dtype=np.int32), np.array([0, length, 2 * length], dtype=np.int32), None)
    assert [batch.numbers["big"].tolist() for batch in Blocks("big", Examples(tokens, np.arange(2)), PAD, 0, 1)] == [
        [0],
        [1],
    ]


def test_predictions_come_back_in_the_order_of_the_rows():
    import pytorch_lightning as pl
    import torch

    from bam_lightning.recipes.predictions import predict_logits

    class Lengths(pl.LightningModule):
        """Predicts the number of a row's tokens."""

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return {"t": (batch.numbers["t"], batch.inputs["attention_mask"].sum(-1, keepdim=True).float())}

    lengths = np.random.default_rng(0).integers(2, 40, 300)
    ids = np.ones(lengths.sum(), np.int32)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    examples = Examples(Tokens(ids, offsets, None), np.zeros(300, np.int64))
    data = MultiTaskData({}, {}, Stream(np.empty((0, 0), np.int32), {}), 0, 0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert predict_logits(Lengths(), trainer, data, examples, "t")[:, 0].tolist() == lengths.tolist()
    assert torch.is_inference_mode_enabled() is False
