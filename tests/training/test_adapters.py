"""Adapters, frozen layers, checkpointed layers, modules of one's own: what is trained, saved and loaded."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_tasks import QUIET, data_of, module_of
from torch import nn

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError, StoreError
from bam_lightning.models.adapters import adapt, merge_adapters, to_plain_peft
from bam_lightning.models.encoder import Encoder, from_path
from bam_lightning.training.datamodule import logits_in_order
from families import batch_of, body

LORA = {"_target_": "peft.LoraConfig", "r": 2, "target_modules": ["query", "value"]}


class Recurrent(nn.Module):
    """An encoder from elsewhere, whose tokens look to the left."""

    def __init__(self, vocabulary: int, width: int = 16) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(2))

    def forward(self, input_ids, attention_mask):
        """Return ``[B, T, D]``."""
        states = self.embeddings(input_ids)
        for layer in self.layers:
            states = layer(states)[0]
        return states


def fit(module, data, steps=3, **options):
    trainer = pl.Trainer(**{**QUIET, "max_epochs": -1, "max_steps": steps, **options})
    trainer.fit(module, data)
    return trainer


def dev_logits(module, data, trainer):
    parts = [part for loader in trainer.predict(module, data) for part in loader if "mood" in part]
    return logits_in_order(parts, "mood", data.dev_examples()["mood"])


def dev_texts(data):
    return [(text,) for text in data.rows["mood"].dev.texts[0]]


@pytest.fixture
def data(tiny_bert, tmp_path):
    return data_of(tiny_bert, tmp_path / "cache", peft=LORA)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
def test_lora_computes_what_pefts_own_model_computes(tiny_bert):
    torch.manual_seed(0)
    ours = adapt(from_path(str(tiny_bert), None, "cls"), peft=LORA).eval()
    theirs = get_peft_model(
        transformers.BertModel.from_pretrained(tiny_bert, add_pooling_layer=False),
        LoraConfig(r=2, target_modules=["query", "value"]),
    ).eval()
    for name, parameter in ours.body.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
            theirs.get_parameter(f"base_model.model.{name}").data.copy_(parameter.data)
    batch = batch_of()
    assert ours.packs
    with torch.no_grad():
        alone = [theirs(input_ids=text[None]).last_hidden_state[0, 0] for text in batch.input_ids.split(batch.lengths)]
        found = ours(batch)
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-6, rtol=1e-5)
        merge_adapters(ours)
        assert not [name for name, _ in ours.named_parameters() if "lora" in name or "base_layer" in name]
        torch.testing.assert_close(ours(batch), found, atol=1e-6, rtol=1e-5)


def test_only_adapters_pooler_and_heads_are_trained_and_saved(data, tmp_path, tiny_bert):
    module = module_of(data)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    trainer = fit(module, data)
    changed = {name for name, value in module.model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, value in module.model.named_parameters() if value.requires_grad}
    assert changed == trained
    assert {name.split(".")[0] for name in trained if "lora" not in name} == {"encoder", "heads"}
    assert all("lora_" in name or "pooler" in name or name.startswith("heads.") for name in trained)

    folder = module.save_pretrained(tmp_path / "saved")
    assert set(load_file(folder / "model.safetensors")) == trained
    assert (folder / "model.safetensors").stat().st_size < (tiny_bert / "model.safetensors").stat().st_size / 4
    about = json.loads((folder / "run.json").read_text())["adapters"]
    assert about["peft"] == LORA
    assert about["base"]["path"] == str(tiny_bert)
    loaded = bam.load(folder, device="cpu")
    expected = dev_logits(module, data, trainer)
    np.testing.assert_allclose(loaded.logits(dev_texts(data), ["mood"])["mood"], expected, atol=1e-6)

    labels = data.rows["mood"].dev.labels.tolist()
    fitted = loaded.calibrate(dev_texts(data), labels, "mood")
    assert loaded.export(tmp_path / "whole") < 1e-5
    whole = bam.load(tmp_path / "whole", device="cpu")
    assert whole.calibration == {"mood": fitted}
    assert not whole.encoder.adapters
    assert "adapters" not in whole.info.manifest
    np.testing.assert_allclose(whole.logits(dev_texts(data), ["mood"])["mood"], expected, atol=1e-5)


def test_a_fit_with_adapters_resumes_bit_for_bit(data, tmp_path):
    saves = pl.callbacks.ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=2, save_top_k=-1)
    module = module_of(data)
    fit(module, data, steps=4, callbacks=[saves], enable_checkpointing=True)
    path = tmp_path / "steps" / "step=2.ckpt"
    resumed = bam.BamModule.load_from_checkpoint(path, weights_only=True)
    assert resumed.model.encoder.base == module.model.encoder.base
    options = {**QUIET, "max_epochs": -1, "max_steps": 4, "enable_checkpointing": True}
    again = pl.callbacks.ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=2, save_top_k=-1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        pl.Trainer(**options, callbacks=[again]).fit(resumed, data, ckpt_path=path)
    for name, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_adapters_of_a_checkpoint_that_has_changed_are_refused(still_bert, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(still_bert, base)
    data = data_of(base, tmp_path / "cache", peft=LORA)
    folder = module_of(data).save_pretrained(tmp_path / "saved")
    (base / "note.txt").write_text("new")
    with pytest.raises(StoreError, match=r"the adapters belong to encoder .*base as it was .* its files have changed"):
        bam.load(folder)


def test_adapters_of_a_checkpoint_on_the_hub_name_its_commit(data, tmp_path, monkeypatch):
    monkeypatch.setattr("bam_lightning.models.saving.encoder_fingerprint", lambda path, revision: f"{path}@0123abcd")
    folder = module_of(data).save_pretrained(tmp_path / "saved")
    assert json.loads((folder / "run.json").read_text())["adapters"]["base"]["revision"] == "0123abcd"


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"_target_": "os.system", "command": "true"}, r"^encoder.peft._target_ must name a class of peft, got 'os.s"),
        ({"_target_": "peft.LoraModel"}, r"^encoder.peft"),
        ({"_target_": "peft.LoraConfig", "rank": 4}, r"^encoder.peft.rank is not an option of peft.LoraConfig"),
        ({**LORA, "target_modules": ["nothing"]}, r"^encoder.peft does not fit a BertModel: .*all-linear adapts every"),
    ],
)
def test_what_is_no_adapter_is_refused(peft, message):
    with pytest.raises(ConfigError, match=message):
        adapt(Encoder(body("bert")), peft=peft)


def test_a_configuration_of_pefts_becomes_plain():
    plain = to_plain_peft(LoraConfig(r=4, target_modules=["query"], lora_dropout=0.1))
    assert plain == {"_target_": "peft.LoraConfig", "r": 4, "target_modules": ["query"], "lora_dropout": 0.1}


@pytest.mark.parametrize("freeze", ["all", 0, 1])
def test_frozen_layers_keep_their_weights(freeze, tiny_bert, tmp_path):
    data = data_of(tiny_bert, tmp_path / "cache", freeze=freeze)
    module = module_of(data)
    depths = module.model.encoder.depths()
    before = {name: value.clone() for name, value in module.model.encoder.named_parameters()}
    fit(module, data)
    after = dict(module.model.encoder.named_parameters())
    kept = {name for name in before if torch.equal(before[name], after[name])}
    top = module.model.encoder.layers if freeze == "all" else freeze
    assert kept == {name for name, depth in depths.items() if depth <= top}


def test_adapters_and_frozen_layers_do_not_go_together():
    with pytest.raises(ConfigError, match=r"^encoder.peft trains the adapters alone, so freeze has no effect"):
        adapt(Encoder(body("bert")), peft=LORA, freeze="all")


def test_more_frozen_layers_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match=r"^encoder.freeze=9, but the encoder has 3 layers; use all$"):
        adapt(Encoder(body("bert")), freeze=9)


@pytest.mark.parametrize("family", ["bert", "deberta-v3"])
def test_checkpointed_layers_have_the_same_gradient(family):
    gradients = []
    batch = batch_of()
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = adapt(Encoder(body(family), "cls"), gradient_checkpointing=checkpointing).double().train()
        for part in encoder.modules():
            if isinstance(part, nn.Dropout) or "drop_prob" in vars(part):
                part.p = part.drop_prob = 0.0
        encoder(batch).square().sum().backward()
        gradients.append({name: value.grad for name, value in encoder.named_parameters()})
        assert any(getattr(part, "gradient_checkpointing", False) for part in encoder.modules()) is checkpointing
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


def test_a_module_of_ones_own_trains_and_is_loaded_by_those_who_trust_it(tiny_bert, tmp_path):
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(tiny_bert))
    target = f"{__name__}.Recurrent"
    data = data_of(
        tiny_bert, tmp_path / "cache", encoder_module={"_target_": target, "vocabulary": vocabulary}, pooling="last"
    )
    module = module_of(data)
    encoder = module.model.encoder
    assert (encoder.width, encoder.layers, encoder.packs) == (16, 2, False)
    assert encoder.depths()["body.embeddings.weight"] == 0
    trainer = fit(module, data)
    expected = dev_logits(module, data, trainer)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    again = bam.BamModule.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert torch.equal(again.model.encoder.body.embeddings.weight, encoder.body.embeddings.weight)
    folder = module.save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match=rf"needs the encoder '{target}', .* allow it with --head {target}"):
        bam.load(folder)
    loaded = bam.load(folder, device="cpu", heads=[target])
    np.testing.assert_allclose(loaded.logits(dev_texts(data), ["mood"])["mood"], expected, atol=1e-6)
    assert loaded.export(tmp_path / "whole") < 1e-6


def test_another_list_of_layers_can_be_named():
    encoder = adapt(Encoder(body("bert")), layers="encoder.layer")
    assert encoder.layers == 3
    with pytest.raises(
        ConfigError, match=r"^encoder.layers=layer is not a list of layers in a BertModel; .*: encoder.layer$"
    ):
        adapt(Encoder(body("bert")), layers="layer").depths()
