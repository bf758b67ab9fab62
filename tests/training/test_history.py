"""What a Run records: rows at their steps, sums since the last row, and the end of a lost loss."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bam_lightning.training.history import Record

VALUES = {"lam": 0.5, "learning_rate": 0.01, "gradient_norm": torch.tensor(2.0)}


class Logger:
    """Keeps what it is given."""

    def __init__(self):
        self.rows = []

    def log_metrics(self, values, step):
        self.rows.append((step, values))


def at(step, last=7, logger=None):
    """Return as much of a trainer as a record looks at."""
    return SimpleNamespace(global_step=step, max_steps=last, loggers=[logger] if logger else [])


def run(record, steps, seed=0, logger=None):
    """Record random losses of two tasks and return them: step -> task -> (sum, examples)."""
    rng, kept = np.random.default_rng(seed), {}
    for step in steps:
        kept[step] = {task: (float(rng.integers(1, 99)) / 4, int(rng.integers(1, 9))) for task in ("rte", "mnli")}
        for task, (loss, count) in kept[step].items():
            record.add(task, torch.tensor(loss), count)
        record.write(at(step, logger=logger), VALUES)
    return kept


@pytest.mark.parametrize(("every", "ends"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (99, [7])])
def test_rows_come_every_so_many_steps_and_at_the_last(every, ends):
    record = Record(["rte", "mnli"], every)
    kept = run(record, range(1, 8))
    assert [row["step"] for row in record.history] == ends
    for start, end, row in zip([0, *ends], ends, record.history, strict=False):
        sums = {task: sum(kept[s][task][0] for s in range(start + 1, end + 1)) for task in ("rte", "mnli")}
        counts = {task: sum(kept[s][task][1] for s in range(start + 1, end + 1)) for task in ("rte", "mnli")}
        seen = {f"examples/{t}": sum(kept[s][t][1] for s in range(1, end + 1)) for t in ("rte", "mnli")}
        means = {f"loss/{task}": sums[task] / counts[task] for task in ("rte", "mnli")}
        plain = {"step": end, "lam": 0.5, "learning_rate": 0.01, "gradient_norm": 2.0}
        assert row == pytest.approx({**plain, **means, **seen, "loss": sum(sums.values()) / sum(counts.values())})


def test_a_task_without_examples_has_no_loss_and_none_seen():
    record = Record(["rte", "mnli"], 1)
    record.add("rte", torch.tensor(6.0), 3)
    record.write(at(1), VALUES)
    (row,) = record.history
    assert row["loss/rte"] == 2
    assert "loss/mnli" not in row
    assert (row["examples/rte"], row["examples/mnli"]) == (3, 0)


def test_loggers_get_every_row_under_train_with_its_step():
    record, logger = Record(["rte", "mnli"], 3), Logger()
    run(record, range(1, 8), logger=logger)
    expected = [(row["step"], {f"train/{n}": v for n, v in row.items() if n != "step"}) for row in record.history]
    assert logger.rows == expected


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_record_taken_up_again_is_the_one_never_left(stop):
    whole, first, second = (Record(["rte", "mnli"], 3) for _ in range(3))
    kept = run(whole, range(1, 8))
    for record, steps in ((first, range(1, stop + 1)), (second, range(stop + 1, 8))):
        if record is second:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))  # plain numbers only
        for step in steps:
            for task, (loss, count) in kept[step].items():
                record.add(task, torch.tensor(loss), count)
            record.write(at(step), VALUES)
    assert second.history == whole.history


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_a_lost_loss_names_task_steps_and_rate(lost):
    record = Record(["rte", "mnli"], 3)
    record.add("rte", torch.tensor(1.0), 1)
    record.add("mnli", torch.tensor(lost), 1)
    message = (
        "the loss is no longer a number: task mnli, optimizer step 6, learning rate 0.01; "
        "try a lower optimization.learning_rate, or trainer.precision=float32"
    )
    with pytest.raises(RuntimeError) as caught:
        record.write(at(6), VALUES)
    assert str(caught.value) == message


def test_a_lost_gradient_stops_training_at_its_step_though_no_row_is_due():
    record = Record(["rte"], 9)
    record.add("rte", torch.tensor(1.0), 1)
    message = (
        "the loss is no longer a number: task none, but the gradient, optimizer step 2, learning rate 0.01; "
        "try a lower optimization.learning_rate, or trainer.precision=float32"
    )
    with pytest.raises(RuntimeError) as caught:
        record.write(at(2), {**VALUES, "gradient_norm": torch.tensor(math.nan)})
    assert str(caught.value) == message


def test_a_lost_loss_is_written_into_no_checkpoint():
    record = Record(["rte"], 9)
    record.add("rte", torch.tensor(math.inf), 1)
    with pytest.raises(RuntimeError, match="the loss is no longer a number: task rte, optimizer step "):
        record.state_dict()
