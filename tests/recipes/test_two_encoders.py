"""A wider encoder with a tokenizer of its own teaches a small one: trained, stopped, resumed, exported and served."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.inference.export import ExportOptions, export
from bam_lightning.recipes import runner
from conftest import WORDS, serving


@pytest.fixture(scope="module")
def wide_bert(tmp_path_factory):
    """A folder with a random BERT, wider than the tiny one, whose tokenizer has other words."""
    from transformers import BertConfig, BertModel

    from bam_lightning.training.masked_lm import make_tokenizer

    folder = tmp_path_factory.mktemp("wide_bert")
    tokenizer = make_tokenizer([" ".join(reversed(WORDS[:15]))], 60)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Stopped(Exception):
    """What stops a Run in this test."""


def weights_of(store, results) -> dict[str, dict]:
    return {run["stage"]: load_file(store / "runs" / run["id"] / "model.safetensors") for run in results["runs"]}


@pytest.mark.slow
@pytest.mark.release
def test_a_wider_encoder_teaches_a_small_one_to_the_end(tiny_job, tiny_bert, wide_bert, tmp_path, monkeypatch):
    own = [f"recipe.stages.single.encoder.path={wide_bert}", "recipe.stages.single.max_length=24"]
    words = [*tiny_job, "recipe.stages.single.encoder=minilm", *own, "run.checkpoint_steps=1"]

    def job(store):
        return compose([*words, f"paths.store={tmp_path}/{store}"])

    whole = runner.run_recipe(job("whole"), tmp_path / "whole_out")
    for label, last in (("single/stsb", 2), ("single/rte", 3), ("student", 4)):

        class View(runner.View):
            def step(self, step: int, label: str = label, last: int = last) -> None:
                if self.run is not None and (self.run.label, step) == (label, last):
                    raise Stopped

        monkeypatch.setattr(runner, "View", View)
        with pytest.raises(Stopped):
            runner.run_recipe(job("broken"), tmp_path / "out")
    monkeypatch.undo()
    again = runner.run_recipe(job("broken"), tmp_path / "out")
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in whole["runs"]]
    one, two = weights_of(tmp_path / "whole", whole), weights_of(tmp_path / "broken", again)
    for stage, weights in one.items():
        assert all(weights[name].equal(two[stage][name]) for name in weights)
    widths = {stage: weights["heads.rte.linear.weight"].shape[1] for stage, weights in one.items() if stage != "single"}
    assert widths == {"student": 32}
    student = again["runs"][-1]["id"]
    model = bam.load(student, store=tmp_path / "broken")
    rows = [("the cat eats", "a dog runs"), ("it is not", "what was it")]
    expected = model.logits(rows, ["rte"])["rte"]
    assert bam.load(again["runs"][1]["id"], store=tmp_path / "broken").logits(rows, ["rte"])["rte"].shape == (2, 2)
    for kind in ("bam", "hf", "onnx"):  # each is checked against the model
        export(ExportOptions(run=student, store=f"{tmp_path}/broken", format=kind, output=f"{tmp_path}/{kind}"))
    assert np.array_equal(bam.load(tmp_path / "bam").logits(rows, ["rte"])["rte"], expected)
    card = (tmp_path / "bam" / "README.md").read_text()
    assert "minilm" in card
    with serving(model) as served:
        found = httpx.post(f"{served.url}/predict", json={"task": "rte", "rows": rows}).json()
    answers = model.predict(rows, task="rte")
    assert [one["label"] for one in found["predictions"]["rte"]] == [one.label for one in answers]
