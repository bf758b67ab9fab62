"""The training step: its loss, its targets, its clock, what it logs, and how it resumes."""

import math
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector as flat

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.data.collate import Examples, collate
from bam_lightning.data.sampling import SizeProportionalSampler
from bam_lightning.data.tokenization import Tokens
from bam_lightning.models import kernels
from bam_lightning.models.encoder import Encoder, from_path
from bam_lightning.models.heads import ClassificationHead, RegressionHead
from bam_lightning.models.kernels import bert_layers
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.training.callbacks import History
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.module import BamModule
from bam_lightning.training.schedules import ConstantAnnealing, bert_rate, linear_rate
from families import FAMILIES, body, pooled_by_hand

TASKS = ("rte", "mnli", "stsb")
ROWS = 24  # of each task
SIZES = dict.fromkeys(TASKS, ROWS)
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
QUIET["limit_val_batches"] = 0


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


def without_types(tasks):
    return {name: part._replace(tokens=part.tokens._replace(types=None)) for name, part in tasks.items()}


def build(encoder, annealing=None, **options):
    torch.manual_seed(7)
    if not isinstance(encoder, Encoder):
        encoder = from_path(str(encoder), None, pooling="pooler")
    width = encoder.width
    heads = {"rte": ClassificationHead(width, ["yes", "no"]), "mnli": ClassificationHead(width, ["a", "b", "c"])}
    heads["stsb"] = RegressionHead(width, [0.0, 5.0])
    options = {"learning_rate": 1e-2, "layerwise_decay": 0.9, "seed": 0, **options}
    return BamModule(model=MultiTaskModel(encoder, heads), annealing=annealing, **options)


def places_of(rows):
    """Return the tasks, and the row numbers within them, of a minibatch of a stream."""
    return [TASKS[number] for number in rows // ROWS], rows % ROWS


def places(seed, count=12):
    return places_of(np.random.default_rng([seed, 99]).integers(0, 3 * ROWS, count))


def batch_of(tasks, minibatch, where=None):
    task_of, rows = minibatch
    where = range(len(rows)) if where is None else where
    return collate(tasks, [task_of[i] for i in where], rows[list(where)])


def total(module, batches, lam):
    return sum(sum(module.task_losses(batch, lam).values()) for batch in batches)


def gradient(module, batches, lam):
    module.zero_grad()
    total(module, batches, lam).backward()
    return flat(parameter.grad for parameter in module.parameters())


def random_split(seed, count=12):
    rng = np.random.default_rng([seed, 3])
    cuts = np.sort(rng.choice(np.arange(1, count), rng.integers(1, 5), replace=False))
    return np.split(rng.permutation(count), cuts)


@pytest.fixture(scope="module")
def resting(tiny_bert):
    """A module without dropout."""
    return build(tiny_bert).eval()


@pytest.fixture(scope="module", params=["bert", "deberta-v2"])
def either(request):
    """A module without dropout whose encoder packs texts, and one whose encoder pads them."""
    torch.manual_seed(3)
    module = build(Encoder(body(request.param), call_tokens=10)).eval()
    assert module.model.encoder.packs is (request.param == "bert")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2)
    return module


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("seed", range(8))
def test_loss_of_a_mixed_batch_is_the_sum_of_its_examples_in_any_order_and_any_split(either, seed, dtype, close):
    tasks, minibatch, lam = without_types(pool(seed)), places(seed), np.random.default_rng(seed).random()
    order = np.random.default_rng([seed, 1]).permutation(12)
    either.to(dtype)
    with torch.no_grad():
        whole = total(either, [batch_of(tasks, minibatch)], lam)
        single = total(either, [batch_of(tasks, minibatch, [i]) for i in range(12)], lam)
        permuted = total(either, [batch_of(tasks, minibatch, order)], lam)
        parts = total(either, [batch_of(tasks, minibatch, part) for part in random_split(seed)], lam)
    assert [float(single), float(permuted), float(parts)] == pytest.approx([float(whole)] * 3, rel=close)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("seed", range(4))
def test_gradient_of_the_parts_of_a_batch_is_that_of_the_whole(either, seed, dtype, close):
    """In float32 to 1e-5: weights of 0.2 make large scores, whose softmax magnifies rounding."""
    tasks, minibatch, lam = without_types(pool(seed)), places(seed), np.random.default_rng(seed).random()
    either.to(dtype)
    whole = gradient(either, [batch_of(tasks, minibatch)], lam)
    parts = gradient(either, [batch_of(tasks, minibatch, part) for part in random_split(seed)], lam)
    assert float((whole - parts).norm() / whole.norm()) < close


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_a_batch_is_that_of_its_texts_padded_to_the_longest(family):
    """Heads and losses included, whether the encoder packs texts or pads those of like length."""
    torch.manual_seed(3)
    module = build(Encoder(body(family), call_tokens=5)).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    batch = batch_of(without_types(pool(0)), places(0, 40))
    with mock.patch.object(Encoder, "forward", pooled_by_hand):
        gradient(module, [batch], 0.5)
    padded = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    gradient(module, [batch], 0.5)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, padded[name], rtol=1e-6, atol=1e-12, msg=name)


@pytest.mark.parametrize("absent", TASKS)
def test_a_task_without_examples_gives_its_head_a_zero_gradient(resting, absent):
    """Not none: all parameters take part in every step, as plain DDP wants it and the reference code has it."""
    tasks, minibatch = places(0, 40)
    kept = [place for place, task in enumerate(tasks) if task != absent]
    resting.zero_grad()
    total(resting, [batch_of(pool(0), (tasks, minibatch), kept)], 0.5).backward()
    for name, head in resting.model.heads.items():
        for parameter in head.parameters():
            assert bool((parameter.grad == 0).all()) is (name == absent)
            assert torch.isfinite(parameter.grad).all()


@torch.no_grad()
def losses_by_hand(module, tasks, minibatch, of_teacher):
    """Return task -> summed loss against gold or against the teacher alone, by torch's own losses."""
    found, batch = {}, batch_of(tasks, minibatch)
    for task, logits in module(batch).items():
        rows = batch.tasks[task].row_ids.numpy()
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


def fit(module, tasks, callbacks=(), batch_size=8, sampler=None, ckpt_path=None, **options):
    """Fit for 6 steps or what the options say; return the Trainer."""
    data = ExamplesDataModule(tasks, sampler=sampler or SizeProportionalSampler(0.75), batch_size=batch_size, seed=0)
    if "max_epochs" not in options:
        options = {"max_steps": 6, "max_epochs": -1, **options}
    trainer = pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **{**QUIET, **options})
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def stream(steps, batch_size=8):
    """Return the rows ``[L, B]`` that ``fit`` trains on."""
    return SizeProportionalSampler(0.75).stream(SIZES, steps, batch_size, seed=0).rows


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


@pytest.mark.parametrize(("limit", "algorithm"), [(None, None), (0.3, "norm"), (0.01, "value"), (0, None)])
def test_a_step_is_adamw_on_the_clipped_gradient_of_the_whole_minibatch(tiny_bert, limit, algorithm):
    """Plain torch; a large epsilon, since Adam's first steps blow up rounding. By default the norm is clipped at 1."""
    tasks = pool(0)

    def wide_epsilon(groups):
        return torch.optim.AdamW(groups, lr=1e-2, eps=1e-2)

    ours, theirs = (rested(build(tiny_bert, ConstantAnnealing(0.5), optimizer=wide_epsilon)) for _ in range(2))
    fit(ours, tasks, max_steps=4, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
    depths = {f"model.encoder.{name}": depth for name, depth in theirs.model.encoder.depths().items()}
    groups = [
        {
            "params": [parameter],
            "weight_decay": 0.0 if "bias" in name or "LayerNorm" in name else 0.01,
            "rate": 1e-2 * 0.9 ** (4 - depths.get(name, 4)),  # two layers: the heads are at depth 4
        }
        for name, parameter in theirs.named_parameters()
    ]
    optimizer = wide_epsilon(groups)
    for step, rows in enumerate(stream(4)):
        total(theirs, [batch_of(tasks, places_of(rows))], 0.5).backward()
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(theirs.parameters(), limit)
        elif limit != 0:
            assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit or 1.0) > 1
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * linear_rate(step / 4, 0.1)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(flat(ours.parameters()), flat(theirs.parameters()), atol=1e-6, rtol=0)


def test_four_batches_of_8_that_accumulate_end_at_the_weights_of_one_of_32(tiny_bert):
    """Of the same rows, over three epochs."""
    one, four = (rested(build(tiny_bert)) for _ in range(2))
    options = {"max_steps": 9, "precision": "64-true"}
    fit(one, pool(0), batch_size=32, **options)
    trainer = fit(four, pool(0), batch_size=8, accumulate_grad_batches=4, **options)
    assert (trainer.global_step, trainer.num_training_batches, trainer.current_epoch) == (9, 12, 3)
    torch.testing.assert_close(flat(four.parameters()), flat(one.parameters()), atol=1e-12, rtol=0)


def test_in_bfloat16_heads_have_gradients_of_float32(tiny_bert):
    module, seen = build(tiny_bert), []
    watch = pl.callbacks.LambdaCallback(on_before_optimizer_step=lambda *_: seen.append(
        [parameter.grad.clone() for parameter in module.model.heads.parameters()]))  # fmt: skip
    fit(module, pool(0), [watch], max_steps=2, precision="bf16-mixed")
    assert len(seen) == 2
    assert not any(torch.equal(one, one.bfloat16().float()) for one in seen[1] if one.any())


def test_no_gradient_is_kept_beside_the_next_forward_pass(tiny_bert):
    module, before, within = build(tiny_bert), [], []
    watch = pl.callbacks.LambdaCallback(
        on_train_batch_start=lambda *_: before.append([one.grad for one in module.parameters()]),
        on_before_optimizer_step=lambda *_: within.append(module.head("rte").linear.weight.grad is not None),
    )
    fit(module, pool(0), [watch], max_steps=3)
    assert within == [True] * 3
    assert not any(grad is not None for grads in before for grad in grads)


def test_dropout_is_a_function_of_the_seed(tiny_bert):
    first, second, other = modules = [build(tiny_bert, seed=seed) for seed in (1, 1, 2)]
    for module in modules:
        fit(module, pool(0), max_steps=3)
        torch.rand(5)  # whatever else draws in between
    assert torch.equal(flat(first.parameters()), flat(second.parameters()))
    assert not torch.equal(flat(first.parameters()), flat(other.parameters()))


def test_the_same_minibatch_has_other_dropout_at_another_step(tiny_bert):
    """Rate 0 and one row, again and again: only dropout tells the steps apart."""
    history, module = History(), build(tiny_bert, learning_rate=0.0, weight_decay=0.0)
    row = examples(0, "rte")
    single = Examples(Tokens(row.tokens.ids[:9], np.array([0, 9], np.int32), None), row.labels[:1])
    fit(module, {"rte": single}, [history], batch_size=1, log_every_n_steps=1)
    assert len({line["loss"] for line in history.rows}) == 6


def test_a_task_of_weight_zero_is_logged_but_not_learned_from(tiny_bert):
    module, history = build(tiny_bert, task_weights={"mnli": 0.0}, weight_decay=0.0), History()
    before = module.head("mnli").linear.weight.tolist()
    fit(module, pool(0), [history], max_steps=3, log_every_n_steps=1)
    assert module.head("mnli").linear.weight.tolist() == before
    assert all(row["loss/mnli"] > 0.1 for row in history.rows)


def test_a_gradient_that_is_not_finite_stops_training_naming_step_and_rate(tiny_bert):
    module = build(tiny_bert, lr_schedule="constant")
    message = (
        "Non-finite gradient at step 3 (learning rate 0.01); try a lower learning_rate, or trainer.precision=32-true"
    )
    bias = module.head("mnli").linear.bias.data
    poison = pl.callbacks.LambdaCallback(on_train_batch_start=lambda *at: bias.fill_(math.nan) if at[-1] == 2 else 0)
    with pytest.raises(TrainingError) as caught:
        fit(module, pool(0), [poison])
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "rate"), [("linear", linear_rate), ("bert", bert_rate)])
def test_lam_and_rate_follow_the_steps_of_the_fit(tiny_bert, name, rate):
    """The row of step s + 1 tells what that step used: progress s / 12. An epoch has 9 steps."""
    module, history = build(tiny_bert, lr_schedule=name, warmup=0.5), History()
    trained = []

    class Rates(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            trained.append(max(group["lr"] for group in optimizer.param_groups))

    fit(module, pool(0), [history, Rates()], max_steps=12, log_every_n_steps=1)
    found = [(row["step"], row["lam"], row["learning_rate"]) for row in history.rows]
    expected = [(s + 1, s / 12, 1e-2 * rate(s / 12, 0.5)) for s in range(12)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert trained == pytest.approx([row[2] for row in expected], abs=1e-12)
    for step, row in enumerate(history.rows, start=1):
        assert [row[f"examples/{t}"] for t in TASKS] == np.bincount(stream(12)[:step].ravel() // ROWS).tolist()


def test_total_steps_are_the_clock_where_they_are_given(tiny_bert):
    module, history = build(tiny_bert, total_steps=24), History()
    with pytest.warns(UserWarning, match=r"^Training ended at step 6 of 24, at lam 0\.250\."):
        fit(module, pool(0), [history], max_steps=6, log_every_n_steps=1)
    assert [row["lam"] for row in history.rows] == pytest.approx([s / 24 for s in range(6)], abs=1e-12)


def test_a_fit_without_an_end_is_refused_unless_nothing_follows_its_progress(tiny_bert):
    endless = {"max_epochs": -1, "max_steps": -1, "max_time": {"seconds": 1}}
    with pytest.raises(TrainingError, match=r"^the number of optimizer steps of this fit is unknown"):
        fit(build(tiny_bert), pool(0), **endless)
    module = build(tiny_bert, ConstantAnnealing(0.5), lr_schedule="constant", warmup=0.0)
    assert fit(module, pool(0), **endless).global_step > 0


def test_a_row_of_the_log_has_the_mean_loss_of_each_tasks_examples_since_the_last(tiny_bert):
    """Rate 0, so the losses can be computed again; three steps a row, and the last step has one."""
    tasks, history = pool(0), History()
    module = rested(build(tiny_bert, ConstantAnnealing(1), learning_rate=0.0, weight_decay=0.0))
    fit(module, tasks, [history], max_steps=4, log_every_n_steps=3)
    assert [row["step"] for row in history.rows] == [3, 4]
    for row, steps in zip(history.rows, (stream(4)[:3], stream(4)[3:]), strict=True):
        minibatch = places_of(steps.ravel())
        losses = losses_by_hand(module, tasks, minibatch, of_teacher=False)
        present = set(minibatch[0])
        means = {f"loss/{task}": float(losses[task]) / minibatch[0].count(task) for task in present}
        found = {name: value for name, value in row.items() if name.startswith("loss/")}
        assert found == pytest.approx(means, rel=1e-6)
        assert row["loss"] == pytest.approx(float(sum(losses.values())) / steps.size, rel=1e-6)


class Saved(pl.Callback):
    """Saves a checkpoint after so many batches, and keeps the rows of every batch."""

    def __init__(self, count=None, path=None):
        self.count, self.path, self.batches = count, path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        firsts = {task: number * ROWS for number, task in enumerate(TASKS)}
        rows = [firsts[task] + row for task, part in batch.tasks.items() for row in part.row_ids.tolist()]
        self.batches.append((batch.index, sorted(rows)))
        if len(self.batches) == self.count:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [4, 9, 13])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_that_resumes_ends_bit_equal(tiny_bert, tmp_path, step, accumulate):
    """Two epochs of 9 steps: within the first, between both, within the second; with dropout, a stock Trainer."""
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulate, "log_every_n_steps": 5}
    whole, history, saved = build(tiny_bert), History(), Saved(step * accumulate, tmp_path / "middle.ckpt")
    trainer = fit(whole, pool(0), [history, saved], batch_size=8 // accumulate, **options)
    assert trainer.global_step == 18
    again, resumed_history, seen = build(tiny_bert), History(), Saved()
    torch.rand(3)
    fit(again, pool(0), [resumed_history, seen], 8 // accumulate, ckpt_path=saved.path, **options)
    assert seen.batches == saved.batches[step * accumulate :]
    assert torch.equal(flat(again.parameters()), flat(whole.parameters()))
    assert resumed_history.rows == history.rows


def test_a_checkpoint_from_inside_a_step_is_refused(tiny_bert, tmp_path):
    """The gradient of the batches before it is lost."""
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "batch_size": 4}
    fit(build(tiny_bert), pool(0), [Saved(9, tmp_path / "inside.ckpt")], **options)
    with pytest.raises(TrainingError, match=r"^the Trainer stands at batch 9 of an epoch, but 4 optimizer steps of 2 "):
        fit(build(tiny_bert), pool(0), ckpt_path=tmp_path / "inside.ckpt", **options)


def test_every_epoch_has_minibatches_of_its_own_from_one_stream(tiny_bert):
    saved = Saved()
    fit(build(tiny_bert), pool(0), [saved], max_epochs=2)
    first, second = saved.batches[:9], saved.batches[9:]
    assert [rows for _, rows in first + second] == [sorted(rows) for rows in stream(18).tolist()]
    assert [rows for _, rows in first] != [rows for _, rows in second]
    assert [index for index, _ in first + second] == list(range(18))


@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")  # there are no dev rows
def test_overfit_batches_sees_the_same_minibatches_in_every_epoch(tiny_bert):
    saved = Saved()
    fit(build(tiny_bert), pool(0), [saved], max_epochs=3, overfit_batches=2)
    assert [rows for _, rows in saved.batches] == [sorted(rows) for rows in stream(2).tolist()] * 3


def test_a_checkpoint_of_a_fit_of_another_length_is_refused_with_both(tiny_bert, tmp_path):
    """lam and the learning rate would jump."""
    fit(build(tiny_bert), pool(0), [Saved(4, tmp_path / "middle.ckpt")], max_epochs=2)
    with pytest.raises(TrainingError, match=r"of 18 optimizer steps, this fit has 27, so lam and the learning rate"):
        fit(build(tiny_bert), pool(0), ckpt_path=tmp_path / "middle.ckpt", max_epochs=3)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("stream", {"sampler": SizeProportionalSampler(0.5)}),
        ("stream", {"batch_size": 7, "max_steps": 18, "max_epochs": 2}),
        ("teachers", {"tasks": pool(1)}),
    ],
)
def test_a_checkpoint_of_another_stream_or_of_other_teachers_is_refused(tiny_bert, tmp_path, what, change):
    fit(build(tiny_bert), pool(0), [Saved(4, tmp_path / "middle.ckpt")], max_epochs=2)
    options = {"tasks": pool(0), "max_epochs": 2, **change}
    with pytest.raises(
        TrainingError, match=f"^the checkpoint was trained with another {what} than the data module has"
    ):
        fit(build(tiny_bert), ckpt_path=tmp_path / "middle.ckpt", **options)


def test_weights_and_missing_labels_or_teachers_act_on_their_rows_alone(tiny_bert):
    """The loss of a batch with such rows equals the sum over rows, each with the target and factor it should have."""
    module = build(tiny_bert).eval().double()
    tasks = pool(3)
    part = tasks["rte"]
    rng = np.random.default_rng(0)
    has_gold, has_teacher = rng.random(ROWS) < 0.7, rng.random(ROWS) < 0.7
    has_gold |= ~has_teacher
    weight = rng.random(ROWS).astype(np.float32)
    changed = part._replace(has_gold=has_gold, has_teacher=has_teacher, weight=weight)
    rows = np.arange(ROWS)
    loss = module.task_losses(collate({"rte": changed}, ["rte"] * ROWS, rows), 0.25)["rte"].detach()
    expected = 0.0
    for row in range(ROWS):
        batch = collate({"rte": part}, ["rte"], np.array([row]))
        logits = module(batch)["rte"][0]
        gold = F.one_hot(torch.tensor(part.labels[row]), 2).double()
        teacher = torch.softmax(torch.tensor(part.teacher[row]).double(), -1)
        lam = 0.25 if has_gold[row] and has_teacher[row] else float(has_gold[row])
        target = lam * gold + (1 - lam) * teacher
        expected -= float(weight[row]) * float((target * torch.log_softmax(logits, -1)).sum().detach())
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    as_probabilities = changed._replace(
        teacher=None, teacher_target=torch.softmax(torch.tensor(part.teacher), -1).numpy()
    )
    same = module.task_losses(collate({"rte": as_probabilities}, ["rte"] * ROWS, rows), 0.25)["rte"].detach()
    torch.testing.assert_close(same, loss, rtol=1e-6, atol=0)


def test_without_kernels_the_layers_are_those_of_transformers_with_the_same_loss():
    tasks, module = pool(1), build(Encoder(body("bert"))).eval()
    batch = batch_of(tasks, places(1))
    fused = {task: float(loss.detach()) for task, loss in module.task_losses(batch, 0.5).items()}
    kernels.enable(False)
    try:
        assert not bert_layers.supports_fused(module.model.encoder.body)
        plain = {task: float(loss.detach()) for task, loss in module.task_losses(batch, 0.5).items()}
    finally:
        kernels.enable(True)
    assert bert_layers.supports_fused(module.model.encoder.body)
    assert fused == pytest.approx(plain, abs=1e-5)
