"""Tasks of every kind in one minibatch: losses, teachers, what is cut, training, saving."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny_kinds import KINDS, kinds
from tiny_tasks import QUIET

import bam_lightning as bam
from bam_lightning.config.exceptions import DataError
from bam_lightning.data.collate import collate
from bam_lightning.models.batch import ABSENT
from bam_lightning.store.ragged import Ragged

LENGTH = 24  # tokens: contexts have several windows


@pytest.fixture
def data(still_bert, tmp_path) -> bam.MultiTaskDataModule:
    return bam.MultiTaskDataModule(kinds(), still_bert, batch_size=8, max_length=LENGTH, cache_dir=tmp_path, seed=0)


def teach(data: bam.MultiTaskDataModule, seed: int = 0) -> None:
    """Give every task random teachers."""
    rng = np.random.default_rng(seed)
    for name, examples in data.train_examples().items():
        outputs = bam.BamModule(data).head(name).outputs
        words = examples.tokens.words
        shape = (len(examples.labels) if words is None else len(words.values), outputs)
        data.teach(name, rng.normal(size=shape).astype(np.float32))


def losses_of(module, batch, lam: float) -> dict[str, float]:
    with torch.no_grad():
        return {task: float(loss) for task, loss in module.task_losses(batch, lam).items()}


def batch_of(data, rows: int = 8):
    examples = data.train_examples()
    names = np.array([name for name in examples for _ in range(rows)], dtype=object)
    numbers = np.tile(np.arange(rows), len(examples))
    order = np.random.default_rng(0).permutation(len(names))
    return examples, names[order], numbers[order]


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
def test_the_loss_of_all_kinds_is_the_sum_of_each_kinds_own(data, lam):
    """Every example alone in its minibatch, in float64: the sums agree at 1e-6 and better."""
    teach(data)
    module = bam.BamModule(data).double().eval()
    examples, names, rows = batch_of(data)
    mixed = losses_of(module, collate(examples, names, rows), lam)
    alone = dict.fromkeys(examples, 0.0)
    for name, row in zip(names, rows, strict=True):
        alone[name] += losses_of(module, collate({name: examples[name]}, [name], np.array([row])), lam)[name]
    assert mixed == pytest.approx(alone, abs=1e-9, rel=1e-9)
    assert all(loss > 0 for loss in alone.values())


def test_the_target_of_each_word_is_the_papers_mix(data):
    """Tags: the mean over words of the cross-entropy to lam * gold + (1 - lam) * teacher, written out in NumPy."""
    teach(data)
    module = bam.BamModule(data).double().eval()
    examples = data.train_examples()["tags"]
    batch = collate({"tags": examples}, ["tags"] * 6, np.arange(6))
    with torch.no_grad():
        logits = module(batch)["tags"].numpy()
    loss = losses_of(module, batch, 0.25)["tags"]
    part, expected = batch.tasks["tags"], 0.0
    for place, row in enumerate(part.row_ids.tolist()):
        items = slice(*part.offsets[place : place + 2].tolist())
        log_p = logits[items] - np.log(np.exp(logits[items]).sum(-1, keepdims=True))
        teacher = np.exp(examples.teacher.row(row).astype(np.float64))
        target = 0.75 * teacher / teacher.sum(-1, keepdims=True) + 0.25 * np.eye(2)[examples.labels.row(row)]
        expected -= (target * log_p).sum(-1).mean()
    assert loss == pytest.approx(expected, abs=1e-6)


def test_words_that_were_cut_have_no_teacher_and_no_loss(still_bert, tmp_path):
    """Of a text of more tokens than fit, the last words add nothing; what a teacher says of them does not matter."""
    tasks = kinds(names=("tags",))
    data = bam.MultiTaskDataModule(tasks, still_bert, batch_size=8, max_length=8, cache_dir=tmp_path)
    module = bam.BamModule(data).double().eval()
    words = data.train_examples()["tags"].tokens.words
    cut = words.values < 0
    assert 0 < cut.sum() < len(cut)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(cut), 2)).astype(np.float32)
    losses = []
    for change in (0.0, 5.0):
        data.teach("tags", Ragged(values + change * cut[:, None] * np.array([1, -1], np.float32), words.offsets))
        batch = collate(data.train_examples(), ["tags"] * 10, np.arange(10))
        losses.append(losses_of(module, batch, 0.5)["tags"])
    assert losses[0] == losses[1]
    part = batch.tasks["tags"]
    assert not part.has_teacher[part.cut].any()
    assert not part.has_gold[part.cut].any()
    with torch.no_grad():
        logits = module(batch)["tags"]
    assert (logits[part.cut] == ABSENT).all()
    means = [
        torch.nn.functional.cross_entropy(logits[a:b][~part.cut[a:b]], part.labels[a:b][~part.cut[a:b]])
        for a, b in pairwise(part.offsets.tolist())
    ]
    assert losses_of(module, batch, 1.0)["tags"] == pytest.approx(float(sum(means)), abs=1e-9)


def test_words_that_a_teacher_did_not_see_learn_from_gold_alone(data):
    words = data.train_examples()["tags"].tokens.words
    values = np.zeros((len(words.values), 2), np.float32)
    values[::2] = ABSENT  # cut by a teacher with a shorter length, say
    data.teach("tags", Ragged(values, words.offsets))
    module = bam.BamModule(data).double().eval()
    batch = collate({"tags": data.train_examples()["tags"]}, ["tags"], np.array([0]))
    part = batch.tasks["tags"]
    gold = module.head("tags").encode_labels(part.labels)
    target = torch.where(part.has_teacher.unsqueeze(-1), torch.full_like(gold, 0.5), gold)
    with torch.no_grad():
        expected = module.head("tags").loss(module(batch)["tags"], target.double(), part.offsets)
    assert losses_of(module, batch, 0.0)["tags"] == pytest.approx(float(expected.sum()), abs=1e-9)


@pytest.mark.parametrize("values", [np.zeros((7, 2)), np.full((1, 2), np.nan)])
def test_columns_of_words_are_checked(data, values):
    words = data.train_examples()["tags"].tokens.words
    shaped = np.broadcast_to(values, (len(words.values), 2)) if len(values) == 1 else values
    message = r"expected logits \[M, K\] of the .* words" if len(values) > 1 else "training word 0 are not finite"
    with pytest.raises(DataError, match=message):
        data.teach("tags", shaped.astype(np.float32))


def test_rows_of_words_without_gold_learn_from_the_teacher_alone(still_bert, tmp_path):
    rows = [{"words": "a cat eats", "tags": "O B-N O"}, {"words": "the dog", "tags": None}]
    task = bam.Task.from_list({"train": rows, "dev": rows[:1]}, text="words", label="tags", kind="tagging",
                              allow_missing_labels=True)  # fmt: skip
    data = bam.MultiTaskDataModule({"t": task}, still_bert, max_length=16, cache_dir=tmp_path)
    assert len(data.train_examples()["t"].labels) == 1
    data.teach("t", np.zeros((5, 2), np.float32))
    part = collate(data.train_examples(), ["t", "t"], np.arange(2)).tasks["t"]
    assert part.has_gold.sum() == 3
    assert part.has_teacher.all()


@pytest.mark.slow
def test_a_suite_of_all_kinds_trains_teaches_validates_and_is_saved(still_bert, tmp_path):
    tasks = kinds(rows=60)
    data = bam.MultiTaskDataModule(tasks, still_bert, batch_size=8, max_length=LENGTH, cache_dir=tmp_path, seed=0)
    teacher = bam.BamModule(data, learning_rate=3e-3, seed=1)
    trainer = pl.Trainer(**QUIET)
    trainer.fit(teacher, data)
    for name in KINDS:
        data.teach(name, teacher)
    columns = {name: examples.teacher for name, examples in data.train_examples().items()}
    assert isinstance(columns["tags"], Ragged)
    assert columns["answer"].values.shape[1] == 2
    student = bam.BamModule(data, learning_rate=3e-3, seed=0)
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 4})
    trainer.fit(student, data)
    scores = trainer.validate(student, data, verbose=False)[0]
    assert scores["val/tags/span_f1"] > 0.5
    assert scores["val/answer/squad_f1"] > 0.3
    assert scores["val/choice/accuracy"] > 0.6
    model = bam.load(student.save_pretrained(tmp_path / "saved"))
    column = {name: model.logits(list(zip(*data.rows[name].dev.texts, strict=True)), [name])[name] for name in KINDS}
    parts = trainer.predict(student, data)
    assert {name for loader in parts for part in loader for name in part} == set(KINDS)
    answers = model.predict([("who is it", "the dog is in the cat")], task="answer")
    assert answers[0].label in "the dog is in the cat"
    assert column["tags"].values.shape[1] == 2
    dev = list(zip(*data.rows["tags"].dev.texts, strict=True))
    names, labels = data.rows["tags"].label_names, data.rows["tags"].dev.labels
    gold = [[names[tag] for tag in labels.row(row)] for row in range(len(labels))]
    assert model.evaluate(dev, gold, "tags")["span_f1"] == pytest.approx(scores["val/tags/span_f1"], abs=1e-6)
    assert model.export(tmp_path / "exported") == 0
