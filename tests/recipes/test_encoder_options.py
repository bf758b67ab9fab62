"""Recipes on encoders of other families, with adapters, and on texts that are cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.recipes.runner import run_recipe
from families import checkpoint


def words_of(tiny_job, **changes):
    """Return a tiny job of the single tasks ``rte``, with some of its words changed."""
    changed = {"suite.include": "[rte]", "optimization.single.epochs": "1", **changes}
    kept = [word for word in tiny_job if word.split("=")[0] not in changed]
    return ["+experiment=single", *kept, *(f"{name}={value}" for name, value in changed.items())]


@pytest.mark.parametrize("family", [pytest.param("Qwen3", marks=pytest.mark.release), "T5"])
def test_an_encoder_of_another_family_needs_no_depth_without_layerwise_decay(
    family, tiny_job, tiny_bert, tmp_path, capsys
):
    folder = checkpoint(family, AutoTokenizer.from_pretrained(tiny_bert), tmp_path / "encoder")
    options = {
        "encoder.path": folder,
        "optimization.layerwise_decay": 1,
        "encoder.pooling": "null",
        "data.max_length": 8,
    }
    found = run_recipe(compose(words_of(tiny_job, **options)), tmp_path / "out")
    said = capsys.readouterr().err
    chosen = {"Qwen3": "last (qwen3 reads from left to right)", "T5": "pooler (the first token, through a tanh layer)"}
    assert f"encoder.pooling: {chosen[family]}" in said
    assert "training and" in said
    assert "dev rows are cut at 8 tokens (longest_first)" in said
    assert ("texts are padded, in batches of like length" in said) is (family == "T5")
    model = bam.load(found["runs"][-1]["id"], store=tmp_path / "store")
    assert model.predict([("a cat", "the dog")], "rte")
    assert model.info.manifest["spec"]["pooling"] == chosen[family].split()[0]


def test_a_run_with_adapters_keeps_them_alone(tiny_job, tiny_bert, tmp_path):
    plain = compose(words_of(tiny_job))
    options = {"encoder.peft": "{_target_: peft.LoraConfig, r: 2, target_modules: [query, value]}"}
    config = compose(words_of(tiny_job, **options))
    run, whole = (run_recipe(one, tmp_path / "out")["runs"][-1] for one in (config, plain))
    assert run["id"] != whole["id"]
    folder = tmp_path / "store" / "runs" / run["id"]
    assert all(
        "lora_" in name or "pooler" in name or name.startswith("heads.")
        for name in load_file(folder / "model.safetensors")
    )
    assert json.loads((folder / "run.json").read_text())["adapters"]["base"]["path"] == str(tiny_bert)
    model = bam.load(run["id"], store=tmp_path / "store")
    rows = [("a cat", "the dog"), ("a man sleeps", "it is good")]
    before = model.logits(rows, ["rte"])["rte"]
    assert model.export(tmp_path / "whole") < 1e-5
    np.testing.assert_allclose(bam.load(tmp_path / "whole").logits(rows, ["rte"])["rte"], before, atol=1e-5)
