"""Several tasks over one source: a drawn row brings all its labels and is encoded once, at the loss of tasks apart."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny_tasks import QUIET

import bam_lightning as bam
from bam_lightning.config.exceptions import DataError
from bam_lightning.data.collate import collate
from bam_lightning.data.examples import load_examples
from conftest import sentences

TEXTS = sentences(90, seed=8)
LABELS = {"topic": "subject", "urgency": {"kind": "ordinal", "labels": ["low", "mid", "high"]}, "churn": "churn"}
ROWS = [
    {
        "body": text,
        "subject": "xyz"[n % 3],
        "urgency": ("low", "mid", "high", None)[n % 4],
        "churn": "no" if n % 5 else "yes",
    }
    for n, text in enumerate(TEXTS)
]


def tasks(**options) -> dict[str, bam.Task]:
    return bam.Task.from_list(
        {"train": ROWS[:70], "dev": ROWS[70:]}, text="body", labels=LABELS, dropout=0.0, **options
    )


@pytest.fixture
def data(still_bert, tmp_path) -> bam.MultiTaskDataModule:
    return bam.MultiTaskDataModule(tasks(), still_bert, batch_size=16, max_length=32, seed=0, cache_dir=tmp_path)


def texts_of(data, batch, task: str) -> list[str]:
    return [data.rows[task].train.texts[0][row] for row in batch.tasks[task].row_ids.tolist()]


def test_a_drawn_row_brings_all_its_labels_and_is_encoded_once(data):
    assert list(data.rows) == ["topic", "urgency", "churn"]
    assert len(data.rows["urgency"].train.keys) == sum(row["urgency"] is not None for row in ROWS[:70])
    loader = data.train_dataloader()
    assert len(loader) == 5  # 70 rows, not 70 + 52 + 70
    seen = []
    for batch in loader:
        drawn = texts_of(data, batch, "topic")
        seen += drawn
        assert len(batch.lengths) == len(set(drawn)) <= 16
        assert drawn == texts_of(data, batch, "churn")
        urgent = [row["body"] for row in ROWS if row["urgency"] is not None]
        assert sorted(texts_of(data, batch, "urgency")) == sorted(text for text in drawn if text in urgent)
        for task, column in (("topic", "subject"), ("churn", "churn")):
            names = data.rows[task].label_names
            gold = {row["body"]: row[column] for row in ROWS}
            assert [names[n] for n in batch.tasks[task].labels.tolist()] == [
                gold[text] for text in texts_of(data, batch, task)
            ]
    assert len(seen) == 80
    assert set(seen) == {row["body"] for row in ROWS[:70]}


def test_the_loss_and_the_gradient_are_those_of_the_tasks_apart(data):
    module, batch = bam.BamModule(data, seed=0), next(iter(data.train_dataloader()))
    examples = data.train_examples()
    entries = [(task, row) for task, part in batch.tasks.items() for row in part.row_ids.tolist()]
    apart = collate(examples, [task for task, _ in entries], np.array([row for _, row in entries]))
    assert len(apart.lengths) > 2 * len(batch.lengths)
    found = []
    for one in (batch, apart):
        module.zero_grad()
        losses = module.task_losses(one, 1.0)
        sum(losses.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        found.append(({task: float(loss.detach()) for task, loss in losses.items()}, gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_training_runs_and_teachers_teach_some_of_the_labels(data):
    single = data.only("urgency", batch_size=16)
    assert len(single.train_dataloader()) == -(-len(data.rows["urgency"].train.keys) // 16)
    data.teach("topic", np.zeros((70, 3), dtype=np.float32))
    before = data.digests()
    module = bam.BamModule(data, seed=0)
    pl.Trainer(max_steps=2, **{**QUIET, "max_epochs": -1}).fit(module, data)
    assert data.digests() == before
    assert module.examples_seen["topic"] == 32
    assert data.sampler_weights() == {"topic": 1.0, "urgency": 1.0, "churn": 1.0}


def test_all_tasks_set_the_same_rows_aside_where_there_is_no_dev_split():
    found = bam.Task.from_list(ROWS, text="body", labels=LABELS)
    dev = {}
    for name, task in found.items():
        examples = load_examples(name, task)
        dev[name] = set(examples.dev.texts[0])
        assert not dev[name] & set(examples.train.texts[0])
    assert dev["urgency"] < dev["topic"] == dev["churn"]
    assert len(dev["topic"]) == 30


def test_equal_texts_of_two_tasks_are_encoded_once_if_asked_for(still_bert, tmp_path):
    apart = {
        name: bam.Task.from_list({"train": ROWS[:40], "dev": ROWS[70:]}, text="body", label=column, dropout=0.0)
        for name, column in (("topic", "subject"), ("churn", "churn"))
    }
    options = {"batch_size": 32, "max_length": 32, "seed": 0, "cache_dir": tmp_path}
    plain, merged = (
        bam.MultiTaskDataModule(apart, still_bert, merge_equal_texts=merge, **options) for merge in (False, True)
    )
    module, sizes = bam.BamModule(plain, seed=0), []
    for one, two in zip(plain.train_dataloader(), merged.train_dataloader(), strict=True):
        with torch.no_grad():
            losses = [float(sum(module.task_losses(batch, 1.0).values())) for batch in (one, two)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
        assert one.size == two.size
        sizes.append((len(one.lengths), len(two.lengths)))
    assert all(merged <= plain for plain, merged in sizes)
    assert sum(merged for _, merged in sizes) < sum(plain for plain, _ in sizes)


def columns(count: int = 20, first: int = 0) -> list[dict]:
    return [
        {"a": TEXTS[first + n], "b": TEXTS[first + n + 1], "x": "pq"[n % 2], "y": "rs"[n % 2] if n % 3 else None}
        for n in range(count)
    ]


def module_of(tasks: dict, still_bert, tmp_path) -> bam.MultiTaskDataModule:
    return bam.MultiTaskDataModule(tasks, still_bert, batch_size=8, max_length=32, seed=0, cache_dir=tmp_path)


def test_both_orders_of_a_shared_pair_are_drawn_each_with_its_own_text(still_bert, tmp_path):
    splits = {"train": columns(), "dev": columns(4, 40)}
    found = bam.Task.from_list(splits, text=["a", "b"], labels={"x": "x", "y": "y"}, symmetric=True)
    data = module_of(found, still_bert, tmp_path)
    (shared,) = data.shared_rows().values()
    assert len(shared) == len(data.rows["x"].train.keys) == 40
    for one, two in zip(shared.rows["x"], shared.rows["y"], strict=True):
        assert two < 0 or data.rows["x"].train.texts[0][one] == data.rows["y"].train.texts[0][two]
    assert sum(shared.rows["y"] >= 0) == len(data.rows["y"].train.keys)


def test_rows_of_an_unlabelled_split_are_shared_once_they_are_taught(still_bert, tmp_path):
    splits = {"train": columns(), "dev": columns(4, 40), "more": columns(7, 50)}
    options = {"text": "a", "labels": {"x": "x", "y": "y"}, "split": {"unlabelled": "more"}}
    data = module_of(bam.Task.from_list(splits, **options), still_bert, tmp_path)
    assert [len(part) for part in data.shared_rows().values()] == [20]
    data.teach("x", np.zeros((27, 2), dtype=np.float32))
    assert [len(part) for part in data.shared_rows().values()] == [27]


def test_rows_of_two_sources_are_not_shared_though_their_labels_have_the_same_names(still_bert, tmp_path):
    one, two = (
        bam.Task.from_list({"train": columns(20, n), "dev": columns(4, 60)}, text="a", labels={"x": "x", "y": "y"})
        for n in (0, 30)
    )
    data = module_of(
        {f"{n}{k}": v for n, part in (("m", one), ("n", two)) for k, v in part.items()}, still_bert, tmp_path
    )
    assert {name: len(part) for name, part in data.shared_rows().items()} == {"mx+my": 20, "nx+ny": 20}


def test_groups_are_set_aside_alike_whichever_label_a_row_has():
    rows = [{**row, "g": str(n // 2)} for n, row in enumerate(columns(80))]
    found = bam.Task.from_list(rows, text="a", labels={"x": "x", "y": "y"}, split={"group": "g"})
    loaded = {name: load_examples(name, task) for name, task in found.items()}
    assert not set(loaded["x"].dev.texts[0]) & set(loaded["y"].train.texts[0])
    assert not set(loaded["y"].dev.texts[0]) & set(loaded["x"].train.texts[0])


def test_a_label_that_no_dev_row_has_is_refused():
    splits = {"train": columns(), "dev": [{"a": "z", "x": "p", "y": None}]}
    found = bam.Task.from_list(splits, text="a", labels={"x": "x", "y": "y"})
    with pytest.raises(DataError, match="task 'y': no dev row has a label"):
        load_examples("y", found["y"])
