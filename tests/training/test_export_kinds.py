"""Exports of tags, choices and answers: transformers and onnxruntime alone give the model's logits and labels."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
import transformers
from tiny_kinds import kinds

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.data.word_labels import words_of
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.encoder import from_sizes
from conftest import sentences

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 64}  # fmt: skip
TEXTS = sentences(20, 5)


@pytest.fixture(scope="module")
def data(tiny_bert, tmp_path_factory):
    cache = tmp_path_factory.mktemp("kinds")
    return bam.MultiTaskDataModule(kinds(names=("mood", "tags", "choice", "answer")), tiny_bert, max_length=24,
                                   cache_dir=cache)  # fmt: skip


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """An untrained model whose heads say different things of different words."""
    module = bam.BamModule(data, seed=3)
    for head in module.model.heads.values():
        torch.nn.init.normal_(head.linear.weight)
    return bam.load(module.save_pretrained(tmp_path_factory.mktemp("model") / "saved"))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("hf") / "out"
    assert model.export(out, "hf", ["tags", "choice", "answer"]) <= 1e-4
    return out


def test_a_saved_module_keeps_the_columns_of_labels(model):
    columns = {name: info.label for name, info in model.tasks.items()}
    assert columns == {"mood": "label", "tags": "tags", "choice": "label", "answer": "answers"}


def test_a_pipeline_tags_words_as_the_model_does(model, folder):
    ask = transformers.pipeline("token-classification", model=str(folder / "tags"), aggregation_strategy="first",
                                ignore_labels=[])  # fmt: skip
    for text, ours in zip(TEXTS, model.predict(TEXTS, "tags"), strict=True):
        theirs = [""] * len(text)
        for group in ask(text):
            theirs[group["start"] : group["end"]] = [group["entity_group"]] * (group["end"] - group["start"])
        wanted = [tag.removeprefix("B-") for tag in ours.label]
        assert [theirs[start] for start, _ in words_of(text, "tagging").tolist()] == wanted


def test_a_multiple_choice_model_chooses_as_the_model_does(model, folder):
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(folder / "choice").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "choice")
    rows = [("who sleeps", *TEXTS[place : place + 3]) for place in range(0, 15, 3)]
    for row, ours in zip(rows, model.logits(rows, ["choice"])["choice"], strict=True):
        inputs = tokenizer([row[0]] * 3, list(row[1:]), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            found = theirs(**{name: value[None] for name, value in inputs.items()}).logits[0].numpy()
        np.testing.assert_allclose(found, ours, atol=1e-5)


def test_a_question_answering_model_reads_first_tokens_as_the_model_does(model, folder):
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder / "answer").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "answer")
    rows = [("who is it", text) for text in TEXTS]
    ours = model.logits(rows, ["answer"])["answer"]
    for number, (question, context) in enumerate(rows):
        inputs = tokenizer(question, context, return_tensors="pt")
        with torch.inference_mode():
            found = theirs(**inputs)
        scores = torch.stack([found.start_logits[0], found.end_logits[0]], dim=-1).numpy()
        first = [inputs.char_to_token(0, int(start), sequence_index=1) for start, _ in words_of(context, "span")]
        np.testing.assert_allclose(scores[first], ours.row(number), atol=1e-5)


def test_the_manifest_and_the_readme_say_how_to_read_each(model, folder, monkeypatch, capsys):
    tasks = json.loads((folder / "export.json").read_text())["tasks"]
    assert tasks["tags"]["label"] == "the tag with the highest score at a word's first token"
    assert tasks["answer"]["outputs"] == ["start", "end"]
    assert tasks["choice"]["label"].startswith("the choice with the highest score")
    for name in ("tags", "choice", "answer"):
        monkeypatch.chdir(folder / name)
        text = (folder / name / "README.md").read_text()
        capsys.readouterr()
        exec(text.split("```python\n")[1].split("```")[0], {})
        if name == "choice":
            (shares,) = eval(capsys.readouterr().out)
            ours = model.predict([("A first text.", ["A first choice.", "Another choice."])], name)[0].probabilities
            assert shares == pytest.approx(list(ours.values())[:2], abs=1e-5)


def with_encoder(model, family, **sizes):
    """The model with an untrained encoder of another family."""
    tokenizer = copy.deepcopy(model.tokenizer)
    if family in ("distilbert", "mpnet"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    encoder = from_sizes({"model_type": family, **(sizes or SIZES)}, len(tokenizer), pooling="pooler")
    heads = {name: copy.deepcopy(model.head(name)) for name in model.tasks}
    return Predictor(model.info, encoder, heads, tokenizer, "cpu", "32-true")


@pytest.mark.parametrize(
    ("family", "sizes", "exact"),
    [
        ("roberta", {**SIZES, "type_vocab_size": 2}, ("tags", "choice", "answer")),
        ("mpnet", {}, ("tags", "choice", "answer")),
        ("electra", {}, ("tags", "answer")),
        (
            "distilbert",
            {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
            ("tags", "answer"),
        ),
    ],
)
def test_families_are_exact_or_named(model, tmp_path, family, sizes, exact):
    other = with_encoder(model, family, **sizes)
    for task in ("tags", "choice", "answer"):
        if task in exact:
            assert other.export(tmp_path / task, "hf", [task]) <= 1e-4
        else:
            with pytest.raises(
                ConfigError, match=f"format hf: AutoModelForMultipleChoice of {family} has other layers"
            ):
                other.export(tmp_path / task, "hf", [task])


def test_a_model_without_pooler_has_no_choices_in_transformers(model, tmp_path):
    bare = with_encoder(model, "bert")
    bare.encoder.pooler = None
    with pytest.raises(ConfigError, match=r"AutoModelForMultipleChoice of bert has other layers \(.*pooler.*\)"):
        bare.export(tmp_path / "out", "hf", ["choice"])


def assert_readme_scores(model, printed):
    """Compare what the README's example prints with the model's own scores."""
    first, second = "A first text.", "A second text."
    lines = {name: [line for line in printed if line.startswith(f"{name} ")] for name in model.tasks}
    shown = {name: [eval(re.search(r"\{.*?\}|\[.*?\]", line)[0]) for line in lines[name]] for name in model.tasks}
    (mood,) = shown["mood"]
    assert mood == pytest.approx(model.predict([first], "mood")[0].probabilities, abs=1e-5)
    (choice,) = shown["choice"]
    choices = model.predict([(first, ["A first choice.", "Another choice."])], "choice")[0].probabilities
    assert choice == pytest.approx(list(choices.values())[:2], abs=1e-5)
    tags = model.predict([first], "tags")[0]
    assert [line.split()[1] for line in lines["tags"]] == first.split()
    assert [max(scores, key=scores.get) for scores in shown["tags"]] == list(tags.label)
    assert [max(scores.values()) for scores in shown["tags"]] == pytest.approx(tags.details["scores"], abs=1e-5)
    answer = model.predict([(first, second)], "answer")[0]
    assert [line.split()[1] for line in lines["answer"]] == ["A", "second", "text", "."]
    best = max(
        ((begin, end) for begin in range(4) for end in range(begin, 4)),
        key=lambda span: shown["answer"][span[0]]["start"] * shown["answer"][span[1]]["end"],
    )
    score = shown["answer"][best[0]]["start"] * shown["answer"][best[1]]["end"]
    assert score == pytest.approx(answer.details["score"], abs=1e-5)
    assert sum(scores["start"] for scores in shown["answer"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.release
@pytest.mark.slow  # torch's exporter takes seconds
@pytest.mark.xdist_group("export")
def test_one_graph_has_all_kinds(model, tmp_path, monkeypatch, capsys):
    import onnxruntime

    assert model.export(tmp_path / "out", "onnx") <= 1e-4
    monkeypatch.chdir(tmp_path / "out")
    exec((tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    printed = capsys.readouterr().out.splitlines()
    assert_readme_scores(model, printed)
    assert {line.split()[0] for line in printed} == {"mood", "tags", "choice", "answer"}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    shapes = {one.name: len(one.shape) for one in session.get_outputs()}
    assert shapes == {"mood": 2, "tags": 3, "choice": 2, "answer": 3}
    inputs = model.tokenizer(TEXTS, padding=True, return_tensors="np")
    names = [one.name for one in session.get_inputs()]
    (tags,) = session.run(["tags"], {name: inputs[name].astype(np.int64) for name in names})
    for number, (text, ours) in enumerate(zip(TEXTS, model.predict(TEXTS, "tags"), strict=True)):
        first = [inputs.char_to_token(number, int(start)) for start, _ in words_of(text, "tagging")]
        assert [model.tasks["tags"].label_names[tag] for tag in tags[number][first].argmax(-1)] == list(ours.label)
