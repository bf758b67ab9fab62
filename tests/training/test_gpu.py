"""What a GPU alone can show: rows without padding by its kernel, a step that waits for nothing, one graph of layers."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from test_module import build, pool
from torch._dynamo.utils import counters

from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.models.encoder import Encoder
from bam_lightning.training.datamodule import ExamplesDataModule
from bam_lightning.training.trainer import make_trainer
from families import PACKED, batch_of, body, pooled_by_hand

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
LENGTHS = (9, 5, 3, 17, 9, 2)


def encoder_of(family):
    torch.manual_seed(0)
    encoder = Encoder(body(family), pooling="pooler").eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.1)
    return encoder.cuda()


def results(encoder, lengths, packed):
    """Return the vectors of texts of these lengths and all gradients, in bfloat16."""
    torch.manual_seed(sum(lengths))
    batch = batch_of(lengths).to("cuda")
    encoder.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        vectors = encoder(batch) if packed else pooled_by_hand(encoder, batch)
    (vectors.float() ** 2).sum().backward()
    gradients = [parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None]
    return torch.cat([vectors.detach().float().flatten(), *gradients])


def apart(one, two):
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize("family", PACKED)
def test_packed_bfloat16_is_as_near_to_float32_as_padded_bfloat16(family):
    encoder = encoder_of(family)
    exact = results(copy.deepcopy(encoder).double(), LENGTHS, packed=False)
    packed, padded = (results(encoder, LENGTHS, packed) for packed in (True, False))
    assert apart(packed, exact) < 1.5 * apart(padded, exact) < 0.1


@pytest.mark.parametrize("family", ["ModernBERT", "Qwen3", "Gemma 2", "Gemma 3", "Gemma 3, two-sided", "GPT-2"])
def test_other_patterns_of_attention_are_as_near_to_float32_packed_as_padded(family):
    """Sliding windows, causal attention, fewer heads of keys; Gemma 2 caps its scores, which the kernel cannot."""
    torch.manual_seed(0)
    encoder = Encoder(body(family), pooling="mean").eval().cuda()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lengths = (*LENGTHS, 30, 40)
    exact = results(copy.deepcopy(encoder).double(), lengths, packed=False)
    packed, padded = (results(encoder, lengths, packed) for packed in (True, False))
    with torch.autocast("cuda", torch.bfloat16):
        assert encoder.packs_on(torch.device("cuda")) is (family != "Gemma 2"), encoder.findings
    assert apart(packed, exact) < 1.5 * apart(padded, exact) < 0.2


@pytest.mark.parametrize("family", PACKED)
def test_compiled_layers_are_compiled_once_for_all_shapes(family):
    plain = encoder_of(family)
    compiled = copy.deepcopy(plain)
    compiled.compile_layers()
    torch._dynamo.reset()
    counters.clear()
    for lengths in [(9, 5, 3), (12, 4), (7, 7, 7, 7, 2), (20, 1, 3), (2, 3)]:
        assert apart(results(compiled, lengths, packed=True), results(plain, lengths, packed=True)) < 0.05
    assert counters["stats"]["unique_graphs"] == (2 if family == "electra" else 1)
    assert not counters["graph_break"]


class Unwaiting(pl.Callback):
    """From the third step on, has torch raise where the host waits for the device within a step."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step >= 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")
        self.steps += 1


@pytest.mark.parametrize("compiled", [False, True])
def test_the_host_waits_for_nothing_within_a_step(compiled, tiny_bert, tmp_path):
    watch, module = Unwaiting(), build(tiny_bert)
    if compiled:
        module.model.encoder.compile_layers()
    data = ExamplesDataModule(pool(0), batch_size=8)  # 9 steps an epoch
    try:
        settings = TrainerConfig(log_every_n_steps=100, extra={"limit_val_batches": 0})
        make_trainer(settings, tmp_path, 9, callbacks=[watch]).fit(module, data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.steps == 9
