"""The mixed stream: shares of the tasks, passes over each, copies and weights of the reference code."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bam_lightning.data.sampling import (
    PAD_INDEX,
    ReplicationSampler,
    SizeProportionalSampler,
    TaskHomogeneousSampler,
    count_steps,
    size_power,
)

GLUE = {
    "cola": 8551,
    "mnli": 392702,
    "mrpc": 3668,
    "qnli": 104743,
    "qqp": 363846,
    "rte": 2490,
    "sst2": 67349,
    "stsb": 5749,
}
# The reference code's sizes (MRPC and STS-B doubled, QNLI v1), its copies and loss weights
CODE = {
    "cola": 8551,
    "mnli": 392702,
    "mrpc": 7336,
    "qnli": 108436,
    "qqp": 363869,
    "sst": 67349,
    "sts": 11498,
    "rte": 2490,
}
COPIES = {"cola": 3, "mnli": 1, "mrpc": 3, "qnli": 1, "qqp": 1, "sst": 2, "sts": 2, "rte": 4}
WEIGHTS = {
    "cola": 0.86345,
    "mnli": 0.99505,
    "mrpc": 0.89717,
    "qnli": 1.37268,
    "qqp": 1.01421,
    "sst": 0.77312,
    "sts": 1.20275,
    "rte": 0.88156,
}


def per_task(rows: np.ndarray, sizes: dict[str, int]) -> dict[str, Counter]:
    """Return how often each of a task's own rows stands in the stream."""
    firsts = np.cumsum([0, *sizes.values()])
    places = rows.ravel()
    return {
        task: Counter((places[(places >= first) & (places < first + size)] - first).tolist())
        for (task, size), first in zip(sizes.items(), firsts, strict=False)
    }


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.75, 1.0, 2.0])
def test_shares_sum_to_one(exponent):
    assert sum(size_power(GLUE, exponent).values()) == pytest.approx(1.0, abs=1e-12)


def test_exponent_one_is_proportional_to_size():
    assert size_power({"a": 1, "b": 4, "c": 5}, 1.0) == pytest.approx({"a": 0.1, "b": 0.4, "c": 0.5}, abs=1e-12)


def test_exponent_zero_is_uniform():
    assert size_power({"a": 1, "b": 4, "c": 500, "d": 7}, 0.0) == dict.fromkeys("abcd", 0.25)


def test_exponent_between_takes_the_power():
    # 16 ** 0.75 = 8 and 81 ** 0.75 = 27, so 1 : 8 : 27
    shares = size_power({"a": 1, "b": 16, "c": 81}, 0.75)
    assert shares == pytest.approx({"a": 1 / 36, "b": 8 / 36, "c": 27 / 36}, abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "epochs", "batch_size", "steps"),
    [
        ({"rte": 2490}, 3, 32, 234),  # 7,470 / 32 = 233.4
        ({"cola": 8551}, 3, 32, 802),  # 25,653 / 32 = 801.7
        (GLUE, 6, 128, 44489),  # 6 * 949,098 / 128 = 44,488.97
        ({"a": 64}, 1, 32, 2),
        ({"a": 10}, 0.1, 1, 1),  # 0.1 * 10 is not more than one step
        ({"a": 100}, 0.07, 1, 7),  # 0.07 * 100 is 7.000000000000001 in floating point
        ({"a": 1}, 0.01, 128, 1),
    ],
)
def test_an_epoch_is_as_many_examples_as_there_are_rows(sizes, epochs, batch_size, steps):
    assert count_steps(sizes, epochs, batch_size) == steps
    assert SizeProportionalSampler(0.75).steps(sizes, epochs, batch_size) == steps


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0])
def test_a_seeded_draw_lies_within_four_sigma_of_its_shares(exponent):
    rows = SizeProportionalSampler(exponent).stream(GLUE, steps=400, batch_size=128, seed=3).rows
    draws = rows.size
    for task, share in size_power(GLUE, exponent).items():
        drawn = per_task(rows, GLUE)[task].total()
        assert abs(drawn - draws * share) < 4 * (draws * share * (1 - share)) ** 0.5, task


@pytest.mark.parametrize("seed", range(5))
def test_small_task_wraps_around_and_shows_every_row_equally_often(seed):
    sizes = {"big": 2000, "small": 7}
    counts = per_task(SizeProportionalSampler(0.0).stream(sizes, steps=25, batch_size=16, seed=seed).rows, sizes)
    passes = counts["small"].total() // 7
    assert passes > 10
    assert set(counts["small"]) == set(range(7))
    assert set(counts["small"].values()) <= {passes, passes + 1}
    assert set(counts["big"].values()) == {1}


def test_each_pass_of_a_small_task_has_an_order_of_its_own():
    rows = SizeProportionalSampler(1.0).stream({"only": 20}, steps=3, batch_size=20, seed=0).rows
    assert all(sorted(one) == list(range(20)) for one in rows.tolist())
    assert len({tuple(one) for one in rows.tolist()}) == 3


def test_the_order_within_a_task_follows_the_seed():
    rows = [
        SizeProportionalSampler(1.0).stream({"only": 20}, steps=1, batch_size=20, seed=seed).rows.tolist()
        for seed in (0, 1)
    ]
    assert rows[0] != rows[1]


@pytest.mark.parametrize("sampler", [SizeProportionalSampler(0.75), ReplicationSampler(0.75)])
def test_stream_has_the_steps_and_places_asked_for(sampler):
    stream = sampler.stream({"a": 50, "b": 9}, steps=11, batch_size=4, seed=0)
    assert stream.rows.shape == (11, 4)
    assert stream.rows.dtype == np.int32
    assert stream.rows.min() >= PAD_INDEX
    assert stream.rows.max() < 59


@pytest.mark.parametrize("sampler", [SizeProportionalSampler(0.75), ReplicationSampler(0.75)])
def test_same_seed_same_stream_and_other_seed_other_stream(sampler):
    sizes = {"a": 300, "b": 40, "c": 5}
    rows = sampler.stream(sizes, 30, 8, seed=1).rows
    np.random.seed(99)  # a generator that the stream must neither read nor move
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(sampler.stream(dict(sizes), 30, 8, seed=1).rows, rows)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert (sampler.stream(sizes, 30, 8, seed=2).rows != rows).any()


def test_sampled_stream_is_full_and_unweighted():
    stream = SizeProportionalSampler(0.75).stream({"a": 33, "b": 5}, steps=7, batch_size=8, seed=0)
    assert PAD_INDEX not in stream.rows
    assert stream.weights == {"a": 1.0, "b": 1.0}


def test_copies_of_glue_are_those_of_the_reference_code():
    assert ReplicationSampler(0.75).copies(CODE) == COPIES


def test_weights_of_glue_are_those_of_the_reference_code():
    sampler = ReplicationSampler(0.75)
    for weights in (sampler.weights(CODE), sampler.stream(CODE, steps=1, batch_size=128, seed=0).weights):
        assert {task: round(weight, 5) for task, weight in weights.items()} == WEIGHTS


@pytest.mark.parametrize("reference_size", [None, 392702])
def test_steps_of_glue_are_those_of_the_reference_code(reference_size):
    assert ReplicationSampler(0.75, reference_size).steps(CODE, epochs=6, batch_size=128) == 50646


@pytest.mark.parametrize(
    ("tasks", "steps"), [(("rte", "mrpc"), 1500), (("rte", "mnli"), 18876), (("rte", "qqp", "cola", "sst"), 25044)]
)
def test_fewer_tasks_keep_the_copies_of_glue_by_the_anchor(tasks, steps):
    sampler, sizes = ReplicationSampler(0.75, reference_size=392702), {task: CODE[task] for task in tasks}
    assert sampler.copies(sizes) == {task: COPIES[task] for task in tasks}
    assert sampler.steps(sizes, epochs=6, batch_size=128) == steps


def test_without_anchor_the_largest_task_has_one_copy():
    assert ReplicationSampler(0.75).copies({"rte": 2490, "mrpc": 7336}) == {"rte": 1, "mrpc": 1}  # 2.946 ** 0.25 = 1.31


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.75, 1.0])
def test_copies_times_weight_gives_each_task_its_share_of_the_loss(exponent):
    sampler = ReplicationSampler(exponent)
    copies, weights = sampler.copies(CODE), sampler.weights(CODE)
    loss = {task: size * copies[task] * weights[task] for task, size in CODE.items()}
    shares = {task: value / sum(loss.values()) for task, value in loss.items()}
    assert shares == pytest.approx(size_power(CODE, exponent), abs=1e-12)
    assert sum(weights.values()) == pytest.approx(8.0, abs=1e-12)


def test_each_epoch_holds_each_row_as_often_as_it_is_copied():
    sizes = {"big": 16, "small": 1}  # 16 ** 0.25 = 2 copies of the small task: 18 rows in 5 steps of 4
    sampler = ReplicationSampler(0.75)
    stream = sampler.stream(sizes, steps=10, batch_size=4, seed=5)
    assert sampler.steps(sizes, epochs=2, batch_size=4) == 10
    assert stream.weights == pytest.approx({"big": 1.0, "small": 1.0}, abs=1e-12)
    for epoch in (stream.rows[:5], stream.rows[5:]):
        assert Counter(epoch.ravel().tolist()) == {**dict.fromkeys(range(16), 1), 16: 2, PAD_INDEX: 2}
    assert (stream.rows[:5] != stream.rows[5:]).any()


def test_a_run_may_end_within_an_epoch_of_copies():
    rows = ReplicationSampler(0.75).stream({"big": 16, "small": 1}, steps=7, batch_size=4, seed=5).rows
    whole = ReplicationSampler(0.75).stream({"big": 16, "small": 1}, steps=10, batch_size=4, seed=5).rows
    np.testing.assert_array_equal(rows, whole[:7])


def test_copies_take_the_length_of_another_exponent():
    """45,108 steps without task sampling become the 50,646 of exponent 0.75 (reference code); nothing else changes."""
    plain = ReplicationSampler(1.0, reference_size=392702)
    assert plain.steps(CODE, 6, 128) == 45_108
    longer = ReplicationSampler(1.0, reference_size=392702, match_length_of=0.75)
    assert longer.steps(CODE, 6, 128) == 50_646
    assert longer.copies(CODE) == plain.copies(CODE) == dict.fromkeys(CODE, 1)
    assert SizeProportionalSampler(1.0, match_length_of=0.75).steps(CODE, 6, 128) == SizeProportionalSampler(1.0).steps(
        CODE, 6, 128
    )
    with pytest.raises(
        ValueError, match=r"^exponent must be a number from 0 \(uniform\) to 1 \(proportional\), got 2$"
    ):
        ReplicationSampler(1.0, match_length_of=2)


BOTH = [SizeProportionalSampler(0.75), SizeProportionalSampler(0.0), ReplicationSampler(0.75), ReplicationSampler(0.0)]
UNEQUAL = {"a": 300, "b": 40, "c": 5}


@pytest.mark.parametrize("sampler", BOTH, ids=repr)
def test_a_stream_is_the_beginning_of_every_longer_one(sampler):
    """So the epochs of a fit do not depend on how many of them there are."""
    longest = sampler.stream(UNEQUAL, 120, 8, seed=4).rows
    for steps in (1, 7, 43, 44, 90):
        np.testing.assert_array_equal(sampler.stream(UNEQUAL, steps, 8, seed=4).rows, longest[:steps])


@pytest.mark.parametrize("sampler", BOTH, ids=repr)
@pytest.mark.parametrize("length", [None, 10])
def test_an_epoch_is_its_slice_of_the_stream(sampler, length):
    count = sampler.epoch_length(UNEQUAL, 8) if length is None else length
    rows = sampler.stream(UNEQUAL, 4 * count, 8, seed=4).rows
    for number in range(4):
        epoch = sampler.epoch(UNEQUAL, 8, 4, number, length)
        np.testing.assert_array_equal(epoch, rows[number * count : (number + 1) * count])


@pytest.mark.parametrize("sampler", BOTH, ids=repr)
def test_no_two_epochs_are_alike(sampler):
    epochs = [sampler.epoch(UNEQUAL, 8, 0, number).tobytes() for number in range(4)]
    assert len(set(epochs)) == 4


@pytest.mark.parametrize(
    ("sampler", "sizes", "batch_size", "length"),
    [
        (SizeProportionalSampler(0.75), {"rte": 2490}, 32, 78),  # 2,490 / 32 = 77.8
        (SizeProportionalSampler(0.0), {"a": 64, "b": 1}, 32, 3),
        (SizeProportionalSampler(1.0), {"a": 1}, 128, 1),
        (ReplicationSampler(0.75), {"big": 16, "small": 1}, 4, 5),  # 16 + 2 copies of one row
        (ReplicationSampler(0.75, reference_size=392702), CODE, 128, 8441),  # 50,646 steps are six of them
    ],
)
def test_an_epoch_has_as_many_batches_as_hold_its_rows(sampler, sizes, batch_size, length):
    assert sampler.epoch_length(sizes, batch_size) == length
    assert sampler.epoch(sizes, batch_size, 0, 0).shape == (length, batch_size)


def test_weights_of_sampling_are_one_and_of_copies_those_of_the_stream():
    assert SizeProportionalSampler(0.75).weights(UNEQUAL) == {"a": 1.0, "b": 1.0, "c": 1.0}
    copies = ReplicationSampler(0.75)
    assert copies.weights(UNEQUAL) == copies.stream(UNEQUAL, 1, 8, 0).weights != {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_minibatches_of_one_task_each_hold_every_row_once_an_epoch(seed):
    sizes, sampler = {"a": 70, "b": 32, "c": 5}, TaskHomogeneousSampler()
    length = sampler.epoch_length(sizes, 32)
    assert length == 3 + 1 + 1
    rows = sampler.epoch(sizes, 32, seed, 1)
    task_of = np.searchsorted(np.cumsum(list(sizes.values())), rows, side="right")
    assert all(len(set(tasks[batch >= 0])) == 1 for tasks, batch in zip(task_of, rows, strict=True))
    assert sorted(rows[rows >= 0].tolist()) == list(range(107))
    assert sampler.epoch(sizes, 32, seed, 0).tolist() != rows.tolist()
    assert sampler.stream(sizes, 7, 32, seed).rows[length:].tolist() == rows[:2].tolist()
    assert (sampler.steps(sizes, 1.5, 32), sampler.single_task_steps(70, 2, 32)) == (8, 5)
