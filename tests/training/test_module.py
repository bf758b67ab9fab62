"""The training step: its loss, its targets, its clock and what it records."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector as flat

from bam_lightning.config.job_config import LRSchedule, OptimizationConfig
from bam_lightning.data.collate import ONE_CALL, Examples, collate
from bam_lightning.data.sampling import SizeProportionalSampler
from bam_lightning.data.tokenization import Tokens
from bam_lightning.models.encoder import Encoder, from_path
from bam_lightning.models.heads import ClassificationHead, RegressionHead
from bam_lightning.training.datamodule import MultiTaskData, Steps
from bam_lightning.training.module import BamModule
from bam_lightning.training.schedules import ConstantAnnealing, LinearAnnealing, bert_rate, linear_rate
from families import FAMILIES, body

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
TASKS = ("rte", "mnli", "stsb")
ROWS = 24  # of each task


def examples(seed, task, teacher=True):
    """Return random rows of 2 to 15 tokens, with labels and, if wanted, a teacher's logits."""
    rng = np.random.default_rng([seed, TASKS.index(task)])
    offsets = np.cumsum([0, *rng.integers(2, 16, ROWS)]).astype(np.int32)
    ids = rng.integers(5, 40, offsets[-1]).astype(np.int32)  # 0 to 4 are special in tiny_bert
    types = rng.integers(0, 2, offsets[-1]).astype(np.uint8)
    outputs = {"rte": 2, "mnli": 3, "stsb": 1}[task]
    labels = rng.random(ROWS).astype(np.float32) * 5 if task == "stsb" else rng.integers(0, outputs, ROWS)
    logits = rng.normal(size=(ROWS, outputs)).astype(np.float32)
    return Examples(Tokens(ids, offsets, types), labels, logits if teacher else None)


def pool(seed, teachers=TASKS):
    return {task: examples(seed, task, task in teachers) for task in TASKS}


def build(encoder, schedule=None, **options):
    torch.manual_seed(7)
    if not isinstance(encoder, Encoder):
        encoder = from_path(str(encoder), None, pooling="pooler")
    width = encoder.width
    heads = {"rte": ClassificationHead(width, ["yes", "no"]), "mnli": ClassificationHead(width, ["a", "b", "c"])}
    heads["stsb"] = RegressionHead(width, [0.0, 5.0])
    settings = OptimizationConfig(**options.pop("optimization", {}))
    return BamModule(encoder, heads, schedule or LinearAnnealing(), settings, 1e-2, 0.9, **options)


def places_of(rows):
    """Return the tasks, and the row numbers within them, of a step of a stream."""
    return [TASKS[number] for number in rows // ROWS], rows % ROWS


def places(seed, count=12):
    return places_of(np.random.default_rng([seed, 99]).integers(0, 3 * ROWS, count))


def batch_of(tasks, minibatch, where=None):
    task_of, rows = minibatch
    where = range(len(rows)) if where is None else where
    return collate(tasks, [task_of[i] for i in where], rows[list(where)], pad_id=0)


def total(module, batches, lam):
    return sum(sum(module.task_losses(batch, lam).values()) for batch in batches)


def gradient(module, batches, lam):
    module.zero_grad()
    total(module, batches, lam).backward()
    return flat(p.grad for p in module.parameters() if p.grad is not None)


def random_split(seed, count=12):
    rng = np.random.default_rng([seed, 3])
    cuts = np.sort(rng.choice(np.arange(1, count), rng.integers(1, 5), replace=False))
    return np.split(rng.permutation(count), cuts)


@pytest.fixture(scope="module")
def resting(tiny_bert):
    """A module without dropout."""
    return build(tiny_bert).eval()


@pytest.mark.parametrize("seed", range(20))
def test_loss_of_a_mixed_batch_is_the_sum_of_its_examples_in_any_order_and_any_split(resting, seed):
    tasks, minibatch, lam = pool(seed), places(seed), np.random.default_rng(seed).random()
    order = np.random.default_rng([seed, 1]).permutation(12)
    with torch.no_grad():
        whole = total(resting, [batch_of(tasks, minibatch)], lam)
        single = total(resting, [batch_of(tasks, minibatch, [i]) for i in range(12)], lam)
        permuted = total(resting, [batch_of(tasks, minibatch, order)], lam)
        parts = total(resting, [batch_of(tasks, minibatch, part) for part in random_split(seed)], lam)
    assert [float(single), float(permuted), float(parts)] == pytest.approx([float(whole)] * 3, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_gradient_of_the_micro_batches_is_that_of_the_whole(resting, seed):
    tasks, minibatch, lam = pool(seed), places(seed), np.random.default_rng(seed).random()
    whole = gradient(resting, [batch_of(tasks, minibatch)], lam)
    parts = gradient(resting, [batch_of(tasks, minibatch, part) for part in random_split(seed)], lam)
    assert float((whole - parts).norm() / whole.norm()) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_a_step_is_that_of_the_minibatch_padded_to_its_longest(family):
    """Heads and losses included: a row without padding where the encoder packs, else micro-batches of like length."""
    torch.manual_seed(3)
    module = build(Encoder(body(family), pooling="pooler")).eval()
    tasks = {name: one._replace(tokens=one.tokens._replace(types=None)) for name, one in pool(0).items()}
    stream = SizeProportionalSampler(0.75).stream(dict.fromkeys(TASKS, ROWS), 1, 40, seed=0)
    step = Steps(tasks, stream, 0, ONE_CALL if module.encoder.packs else 20, rank=0, processes=1)[0]
    assert (len(step) == 1) is module.encoder.packs
    padded = batch_of(tasks, places_of(stream.rows[0]))._replace(lengths=())
    assert padded.inputs["attention_mask"].float().mean() < 0.7
    wanted, found = gradient(module, [padded], 0.5), gradient(module, step, 0.5)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6
    module.double()  # in which each tensor is compared by itself: attention's gradients are small beside others
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    gradient(module, [padded], 0.5)
    each = {name: one.grad.clone() for name, one in module.named_parameters()}
    gradient(module, step, 0.5)
    for name, one in module.named_parameters():
        torch.testing.assert_close(one.grad, each[name], rtol=1e-6, atol=1e-12, msg=name)


@torch.no_grad()
def losses_by_hand(module, tasks, minibatch, of_teacher):
    """Return task -> summed loss against gold or against the teacher alone, by torch's own losses."""
    found, batch = {}, batch_of(tasks, minibatch)
    for task, logits in module(batch).items():
        rows = minibatch[1][batch.rows[task]]
        labels, teacher = (torch.from_numpy(column[rows]) for column in (tasks[task].labels, tasks[task].teacher))
        if task == "stsb":
            target = teacher.sigmoid() if of_teacher else labels[:, None] / 5
            found[task] = F.mse_loss(logits.sigmoid(), target, reduction="sum")
        else:
            target = teacher.softmax(-1) if of_teacher else labels
            found[task] = F.cross_entropy(logits, target, reduction="sum")
    return found


@pytest.mark.parametrize(("lam", "of_teacher"), [(0.0, True), (1.0, False)])
def test_lam_zero_learns_from_the_teacher_and_lam_one_from_gold(resting, lam, of_teacher):
    tasks, minibatch = pool(0), places(0, 20)
    with torch.no_grad():
        found = resting.task_losses(batch_of(tasks, minibatch), lam)
    torch.testing.assert_close(found, losses_by_hand(resting, tasks, minibatch, of_teacher), atol=0, rtol=1e-6)


def test_a_classification_loss_moves_on_a_line_from_teacher_to_gold(resting):
    batch = batch_of(pool(0), places(0, 20))
    with torch.no_grad():
        found = [float(resting.task_losses(batch, lam)["mnli"]) for lam in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx(np.linspace(found[0], found[-1], 5), rel=1e-6)
    assert abs(found[0] - found[-1]) > 0.1


@pytest.mark.parametrize("task", TASKS)
def test_one_teacher_row_changes_the_loss_of_its_task_alone(resting, task):
    tasks, minibatch = pool(0), places(0, 20)
    with torch.no_grad():
        before = resting.task_losses(batch_of(tasks, minibatch), 0.5)
        tasks[task].teacher[minibatch[1][minibatch[0].index(task)], 0] += 1
        after = resting.task_losses(batch_of(tasks, minibatch), 0.5)
    assert [name for name in TASKS if not torch.equal(before[name], after[name])] == [task]


def test_a_task_without_teacher_learns_from_gold_beside_one_that_has(resting):
    minibatch = places(0, 20)
    with torch.no_grad():
        found = resting.task_losses(batch_of(pool(0, teachers=("rte",)), minibatch), 0.0)
    gold, teacher = (losses_by_hand(resting, pool(0), minibatch, of_teacher) for of_teacher in (False, True))
    torch.testing.assert_close(found, {**gold, "rte": teacher["rte"]}, atol=0, rtol=1e-6)


def fit(module, tasks, steps=6, callbacks=(), **more):
    stream = SizeProportionalSampler(0.75).stream(dict.fromkeys(tasks, ROWS), steps, 8, seed=0)
    data = MultiTaskData(tasks, {}, stream, pad_id=0, call_tokens=20)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, callbacks=list(callbacks), **off, **more)
    trainer.fit(module, data)
    return stream


def rested(module):
    """Switch dropout off for training, too."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def test_lam_one_trains_the_same_weights_as_no_teachers_bit_for_bit(tiny_bert):
    taught, alone, half, untrained = (build(tiny_bert, ConstantAnnealing(lam)) for lam in (1, 0, 0.5, 1))
    fit(taught, pool(0))
    fit(alone, pool(0, teachers=()))
    fit(half, pool(0))
    assert torch.equal(flat(taught.parameters()), flat(alone.parameters()))
    assert not torch.equal(flat(taught.parameters()), flat(half.parameters()))
    assert not torch.equal(flat(taught.parameters()), flat(untrained.parameters()))


def test_a_step_is_adamw_on_the_clipped_gradient_of_the_whole_minibatch(tiny_bert):
    """Plain torch without micro-batches; a large epsilon, since Adam's first steps blow up rounding."""
    tasks = pool(0)
    ours, theirs = (rested(build(tiny_bert, ConstantAnnealing(0.5), optimization={"epsilon": 1e-2})) for _ in range(2))
    optimizer = theirs.configure_optimizers()
    for step, rows in enumerate(fit(ours, tasks, steps=4).rows):
        total(theirs, [batch_of(tasks, places_of(rows))], 0.5).backward()
        assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0) > 1
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * group["share"] * linear_rate(step / 4, 0.1)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(flat(ours.parameters()), flat(theirs.parameters()), atol=1e-6, rtol=0)


def test_in_bfloat16_heads_have_gradients_of_float32(tiny_bert):
    module, seen = build(tiny_bert), []
    watch = pl.callbacks.LambdaCallback(on_before_optimizer_step=lambda *_: seen.append(
        [one.grad.clone() for one in module.heads.parameters() if one.grad is not None]))  # fmt: skip
    fit(module, pool(0), steps=2, callbacks=[watch], precision="bf16-mixed")
    assert len(seen) == 2
    assert not any(torch.equal(one, one.bfloat16().float()) for one in seen[1])


def test_dropout_is_a_function_of_the_seed(tiny_bert):
    first, second, other = modules = [build(tiny_bert, seed=seed) for seed in (1, 1, 2)]
    for module in modules:
        fit(module, pool(0), steps=3)
        torch.rand(5)  # whatever else draws in between
    assert torch.equal(flat(first.parameters()), flat(second.parameters()))
    assert not torch.equal(flat(first.parameters()), flat(other.parameters()))


def test_a_task_of_weight_zero_is_recorded_but_not_learned_from(tiny_bert):
    module = build(tiny_bert, weights={"mnli": 0.0}, log_every=1, optimization={"weight_decay": 0})
    before = module.heads["mnli"].linear.weight.tolist()
    fit(module, pool(0), steps=3)
    assert module.heads["mnli"].linear.weight.tolist() == before
    assert all(row["loss/mnli"] > 0.1 for row in module.record.history)


def test_a_loss_that_is_no_number_stops_training_naming_task_step_and_rate(tiny_bert):
    module = build(tiny_bert, log_every=10, optimization={"lr_schedule": LRSchedule.constant})
    message = (
        "the loss is no longer a number: task mnli, optimizer step 3, learning rate 0.01; "
        "try a lower optimization.learning_rate, or trainer.precision=32-true"
    )
    spoilt = module.heads["mnli"].linear.bias.data
    poison = pl.callbacks.LambdaCallback(on_train_batch_start=lambda *at: spoilt.fill_(math.nan) if at[-1] == 2 else 0)
    with pytest.raises(RuntimeError) as caught:
        fit(module, pool(0), callbacks=[poison])
    assert str(caught.value) == message


@pytest.mark.parametrize(("shape", "rate"), [(LRSchedule.linear, linear_rate), (LRSchedule.bert, bert_rate)])
def test_history_has_lam_and_rate_of_the_clock(tiny_bert, shape, rate):
    """The row written after step s + 1 tells what that step used: progress s / 6."""
    module = build(tiny_bert, log_every=1, optimization={"lr_schedule": shape, "warmup": 0.5})
    stream = fit(module, pool(0))
    found = [(row["step"], row["lam"], row["learning_rate"]) for row in module.record.history]
    expected = [(s + 1, s / 6, 1e-2 * rate(s / 6, 0.5)) for s in range(6)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    for step, row in enumerate(module.record.history, start=1):
        assert [row[f"examples/{t}"] for t in TASKS] == np.bincount(stream.rows[:step].ravel() // ROWS).tolist()


def test_history_has_the_mean_loss_of_each_tasks_examples(tiny_bert):
    """One step without learning, so the loss can be computed again: rate 0, as in the first step of a warm-up."""
    tasks, module = pool(0), rested(build(tiny_bert, ConstantAnnealing(1), log_every=1))
    step = places_of(fit(module, tasks, steps=1).rows[0])
    losses = losses_by_hand(module, tasks, step, of_teacher=False)
    means = {f"loss/{task}": float(loss) / step[0].count(task) for task, loss in losses.items()}
    (row,) = module.record.history
    assert {name: value for name, value in row.items() if name.startswith("loss/")} == pytest.approx(means, rel=1e-6)
    assert row["loss"] == pytest.approx(float(sum(losses.values())) / 8, rel=1e-6)


def test_words_have_rows_for_a_gradient_while_the_module_trains_and_not_after(tiny_bert):
    module, seen = build(tiny_bert), []
    words = module.encoder.body.get_input_embeddings()
    look = pl.callbacks.LambdaCallback(on_train_batch_end=lambda *at: seen.append(words.sparse))
    fit(module, pool(0), steps=3, callbacks=[look])
    assert seen == [True] * 3
    assert not words.sparse
