"""Encoder families as a user has them: a folder with weights and a tokenizer, trained, resumed, saved and loaded."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny_tasks import QUIET, data_of, module_of
from transformers import AutoTokenizer

import bam_lightning as bam
from bam_lightning.models.batch import Batch
from bam_lightning.training.datamodule import logits_in_order
from bam_lightning.training.optimizer import parameter_groups
from families import CHECKPOINTS, checkpoint

QUICK = ("ALBERT", "DeBERTa-v3", "GPT-2", "ModernBERT", "Qwen3", "T5")
STEPS = 4


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.families) for name in CHECKPOINTS]
)
def test_a_family_trains_resumes_predicts_saves_and_loads(family, tiny_bert, tmp_path):
    torch.manual_seed(0)
    folder = checkpoint(family, AutoTokenizer.from_pretrained(tiny_bert), tmp_path / "encoder")
    data = data_of(folder, tmp_path / "cache", max_length=24)
    module = module_of(data)
    encoder = module.model.encoder
    assert encoder.packs is CHECKPOINTS[family][2], encoder.why_not_packed
    check_texts_alone(encoder)
    check_depths(module)

    def saves():
        return pl.callbacks.ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=STEPS // 2, save_top_k=-1)

    options = {**QUIET, "max_epochs": -1, "max_steps": STEPS, "enable_checkpointing": True}
    trainer = pl.Trainer(**options, callbacks=[saves()])
    before = [value.clone() for value in module.state_dict().values()]
    trainer.fit(module, data)
    after = module.state_dict()
    assert not all(map(torch.equal, before, after.values()))
    resumed = bam.BamModule.load_from_checkpoint(tmp_path / "steps" / f"step={STEPS // 2}.ckpt", weights_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        pl.Trainer(**options, callbacks=[saves()]).fit(
            resumed, data, ckpt_path=tmp_path / "steps" / f"step={STEPS // 2}.ckpt"
        )
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, after[name]), name

    parts = [part for loader in trainer.predict(module, data) for part in loader if "mood" in part]
    logits = logits_in_order(parts, "mood", data.dev_examples()["mood"])
    loaded = bam.load(module.save_pretrained(tmp_path / "saved"), device="cpu")
    texts = [(text,) for text in data.rows["mood"].dev.texts[0]]
    np.testing.assert_allclose(loaded.logits(texts, ["mood"])["mood"], logits, atol=1e-5)


def check_texts_alone(encoder):
    """Texts of different lengths have the states that transformers gives each of them alone."""
    encoder.eval()
    lengths = (2, 5, 5, 9, 23)
    ids = torch.randint(5, encoder.config.vocab_size, (sum(lengths),))
    batch = Batch(ids, torch.cat([torch.arange(count) for count in lengths]), None, lengths, {})
    with torch.no_grad():
        found = encoder(batch)
        if encoder._usual_attention is not None:
            ours = encoder.body.config._attn_implementation
            encoder.body.set_attn_implementation(encoder._usual_attention)
        alone = [text[None] for text in ids.split(lengths)]
        expected = [encoder.forward_padded({"input_ids": x, "attention_mask": torch.ones_like(x)}) for x in alone]
        if encoder._usual_attention is not None:
            encoder.body.set_attn_implementation(ours)
        with mock.patch.object(type(encoder), "packs_on", return_value=False):  # as on a GPU without a kernel
            padded = encoder(batch)
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(padded, torch.cat(expected), atol=2e-5, rtol=1e-4)
    encoder.train()


def check_depths(module):
    """Every trained parameter is in one group, and no depth is empty."""
    groups = parameter_groups(module.model, 1e-3, 0.9, 0.01)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in module.parameters() if parameter.requires_grad)
    encoder = module.model.encoder
    top = encoder.layers + (encoder.pooler is not None)
    assert set(encoder.depths().values()) == set(range(top + 1))
    assert len({group["lr"] for group in groups}) == top + 2  # that of the heads, too


def test_the_documentation_says_of_every_family_whether_it_is_packed():
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \| `[^|]+` \| (packed|padded)[^|]* \|", text, re.MULTILINE))
    assert rows == {name: "packed" if packed else "padded" for name, (_, _, packed) in CHECKPOINTS.items()}
