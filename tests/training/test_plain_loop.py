"""A training loop in plain torch, written out here, ends at the weights of ``BamModule`` under a Lightning Trainer.

Nothing of this library is in the loop but the order of the rows. In float64, without dropout."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BertModel

from bam_lightning.data.collate import Examples
from bam_lightning.data.sampling import PAD_INDEX, ReplicationSampler, SizeProportionalSampler
from bam_lightning.data.tokenization import Tokens
from bam_lightning.models.encoder import from_path
from bam_lightning.models.heads import ClassificationHead, RegressionHead
from bam_lightning.models.multi_task import MultiTaskModel
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.module import BamModule
from bam_lightning.training.optimizer import BertAdam

SIZES = {"mnli": 60, "rte": 24, "stsb": 9}
OUTPUTS = {"mnli": 3, "rte": 2, "stsb": 1}
STEPS, BATCH, RATE, DECAY = 32, 16, 1e-2, 0.01  # of 32 steps, every lam is exact in float32, in which targets are mixed


def texts_and_labels():
    """Return task -> ids of each text, labels, and a teacher's logits; rte has no teacher."""
    rng = np.random.default_rng(0)
    found = {}
    for task, size in SIZES.items():
        ids = [rng.integers(5, 40, length) for length in rng.integers(2, 16, size)]
        # scores of a scale of 4: their place in [0, 1] is exact in float32
        labels = rng.integers(0, 9, size) / 2 if task == "stsb" else rng.integers(0, OUTPUTS[task], size)
        teacher = None if task == "rte" else rng.normal(size=(size, OUTPUTS[task]))
        found[task] = ids, labels, teacher
    return found


def fit(tiny_bert, reference_code):
    """Train this library's module; return it, its sampler and its weights at the start."""
    encoder = from_path(str(tiny_bert), None, pooling="pooler")
    heads = {
        "mnli": ClassificationHead(encoder.width, ["a", "b", "c"]),
        "rte": ClassificationHead(encoder.width, ["yes", "no"]),
        "stsb": RegressionHead(encoder.width, [0.0, 4.0], sigmoid=not reference_code),
    }
    model = MultiTaskModel(encoder, heads)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    examples = {}
    for task, (ids, labels, teacher) in texts_and_labels().items():
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
        tokens = Tokens(np.concatenate(ids).astype(np.int32), offsets, None)
        examples[task] = Examples(tokens, labels.astype(np.float32) if task == "stsb" else labels, teacher)
    sampler = ReplicationSampler(0.75) if reference_code else SizeProportionalSampler(0.75)
    data = ExamplesDataModule(examples, sampler=sampler, batch_size=BATCH, seed=5)
    module = BamModule(
        model=model,
        learning_rate=RATE,
        layerwise_decay=0.9,
        optimizer=partial(BertAdam, eps=1e-6) if reference_code else None,
        lr_schedule="bert" if reference_code else "linear",
        weight_decay=DECAY,
    )
    start = {name: value.clone() for name, value in model.state_dict().items()}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"precision": "64-true", "max_steps": STEPS, "max_epochs": -1, "limit_val_batches": 0}
    pl.Trainer(accelerator="cpu", **quiet, **options).fit(module, data)
    return module, sampler, start


def plain_loop(tiny_bert, start, rows, weights, reference_code):
    """Train transformers' BERT with linear heads on the rows ``[L, B]``; return name -> weight."""
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}
    bert = BertModel.from_pretrained(tiny_bert, **options).double().train()
    heads = torch.nn.ModuleDict({task: torch.nn.Linear(32, OUTPUTS[task]) for task in SIZES}).double()
    for task, head in heads.items():
        head.load_state_dict({name: start[f"heads.{task}.linear.{name}"] for name in ("weight", "bias")})
    names = {"pooler.dense.": 0.9, "encoder.layer.1.": 0.9**2, "encoder.layer.0.": 0.9**3, "embeddings.": 0.9**4}
    groups = [{"params": [value], "name": name, "share": 1.0} for name, value in heads.named_parameters()]
    for name, value in bert.named_parameters():
        (share,) = (share for start_of_name, share in names.items() if name.startswith(start_of_name))
        groups.append({"params": [value], "name": name, "share": share})
    for group in groups:
        group["weight_decay"] = 0.0 if "bias" in group["name"] or "LayerNorm" in group["name"] else DECAY
    parameters = [group["params"][0] for group in groups]
    adamw = torch.optim.AdamW(groups, lr=0.0, eps=1e-6, foreach=False, fused=False)
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in parameters]
    data = texts_and_labels()
    everything = [(task, row) for task, size in SIZES.items() for row in range(size)]
    for step, numbers in enumerate(rows.tolist()):
        progress = step / STEPS
        chosen = [everything[number] for number in numbers if number != PAD_INDEX]
        texts = [torch.from_numpy(data[task][0][row]) for task, row in chosen]
        ids = pad_sequence(texts, batch_first=True)
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        pooled = bert(input_ids=ids, attention_mask=mask).pooler_output
        loss = torch.zeros((), dtype=torch.float64)
        for vector, (task, row) in zip(pooled, chosen, strict=True):
            logits, (_, labels, teacher) = heads[task](vector), data[task]
            lam = 1.0 if teacher is None else progress
            logits_of_teacher = torch.zeros(OUTPUTS[task]) if teacher is None else torch.from_numpy(teacher[row])
            if task == "stsb":
                squash = torch.nn.Identity() if reference_code else torch.nn.Sigmoid()
                target = lam * labels[row] / 4 + (1 - lam) * squash(logits_of_teacher)
                example = ((squash(logits) - target) ** 2).sum()
            else:
                target = lam * torch.eye(OUTPUTS[task])[labels[row]] + (1 - lam) * logits_of_teacher.softmax(-1)
                example = -(target * F.log_softmax(logits, -1)).sum()
            loss = loss + weights[task] * example
        loss.backward()
        for parameter in parameters:
            if parameter.grad is None:  # a head without examples still decays
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
        for parameter in parameters:
            parameter.grad *= min(1.0, 1.0 / (float(norm) + 1e-6))
        factor = progress / 0.1 if progress < 0.1 else 1 - progress if reference_code else (1 - progress) / 0.9
        for group, (mean, square) in zip(adamw.param_groups, moments, strict=True):
            group["lr"] = RATE * group["share"] * factor
            (parameter,) = group["params"]
            mean.mul_(0.9).add_(0.1 * parameter.grad)
            square.mul_(0.999).add_(0.001 * parameter.grad**2)
            if reference_code:  # Adam without bias correction
                with torch.no_grad():
                    change = mean / (square.sqrt() + 1e-6) + group["weight_decay"] * parameter
                    parameter -= group["lr"] * change
        if not reference_code:
            adamw.step()
        for parameter in parameters:
            parameter.grad = None
    body = {f"encoder.body.{name}": value for name, value in bert.named_parameters() if "pooler" not in name}
    pooler = {f"encoder.pooler.{name}": value for name, value in bert.pooler.dense.named_parameters()}
    return {**body, **pooler, **{f"heads.{n.replace('.', '.linear.')}": value for n, value in heads.named_parameters()}}


@pytest.mark.parametrize("reference_code", [False, True], ids=["paper", "reference_code"])
def test_a_plain_torch_loop_ends_at_the_same_weights(tiny_bert, reference_code):
    module, sampler, start = fit(tiny_bert, reference_code)
    rows = sampler.stream(SIZES, STEPS, BATCH, seed=5).rows
    weights = sampler.weights(SIZES)
    assert (len(set(weights.values())) > 1) is reference_code
    expected = plain_loop(tiny_bert, start, rows, weights, reference_code)
    found = {name: parameter.detach() for name, parameter in module.model.named_parameters()}
    assert found.keys() == expected.keys()
    assert max(float((found[name] - start[name]).abs().max()) for name in found) > 0.01  # it has learned
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), atol=1e-9, rtol=0, msg=name)
