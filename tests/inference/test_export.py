"""Exports compute what the model computes, say how to read it, and are whole or not there."""

import contextlib
import copy
import errno
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy import special

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError, StoreError
from bam_lightning.inference.bam_export import export_bam
from bam_lightning.inference.export import ExportOptions, export
from bam_lightning.inference.export_check import max_logit_difference, random_rows, staged_folder
from bam_lightning.inference.hf_export import export_hf
from bam_lightning.inference.onnx_export import export_onnx
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.encoder import from_sizes
from bam_lightning.models.heads import ClassificationHead, Head, MultiLabelHead, OrdinalHead, RegressionHead
from conftest import sentences, umask

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 64}  # fmt: skip
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64}
pytestmark = pytest.mark.xdist_group("export")  # one process exports the graph
PAIRS = list(zip(sentences(300, 1), sentences(300, 2, longest=20), strict=True))


@pytest.fixture(scope="session")
def model(trained):
    return bam.load(trained.id, store=trained.store)


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """The folder of the model as ONNX, and what the command that wrote it said."""
    folder = tmp_path_factory.mktemp("onnx") / "graph"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        export(ExportOptions(run=trained.id, store=str(trained.store), format="onnx", output=str(folder)))
    return folder, said.getvalue()


@pytest.fixture(scope="session")
def exported_int8(trained, tmp_path_factory):
    """As ``exported``, with 8-bit weights."""
    folder = tmp_path_factory.mktemp("onnx8") / "graph"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        export(ExportOptions(run=trained.id, store=str(trained.store), format="onnx", output=str(folder), int8=True))
    return folder, said.getvalue()


@pytest.fixture
def graph(exported):
    """The folder of the model as ONNX."""
    return exported[0]


def with_encoder(model, family, **sizes):
    """The model with an untrained encoder of another family."""
    torch.manual_seed(3)
    sizes = {"model_type": family, **(DISTILBERT if family == "distilbert" else SIZES), **sizes}
    tokenizer = copy.deepcopy(model.tokenizer)
    if family in ("distilbert", "mpnet"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    encoder = from_sizes(sizes, len(tokenizer), pooling="pooler")
    heads = {name: copy.deepcopy(model.head(name)) for name in model.tasks}
    return Predictor(model.info, encoder, heads, tokenizer, "cpu", "32-true")


def test_each_head_is_a_classifier_of_transformers(model, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert export_hf(model, tmp_path / "out") <= 1e-4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "rte", "sst2", "stsb"]
    for name, task in model.tasks.items():
        rows = [row[: len(task.columns)] for row in PAIRS]
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        inputs = tokenizer(*map(list, zip(*rows, strict=True)), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            logits = theirs(**inputs).logits.numpy()
        np.testing.assert_allclose(logits, model.logits(rows, [name])[name], atol=1e-5)


def test_a_pipeline_gives_the_models_labels_and_scores(model, tmp_path):
    from transformers import pipeline

    export_hf(model, tmp_path / "out")
    rows = [{"text": a, "text_pair": b} for a, b in PAIRS[:40]]
    ask = pipeline("text-classification", model=str(tmp_path / "out" / "rte"), truncation=True)
    ours = model.predict(PAIRS[:40], task="rte")
    for theirs, mine in zip(ask(rows, top_k=None), ours, strict=True):
        assert theirs[0]["label"] == mine.label
        assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in theirs} == mine.probabilities
    ask = pipeline("text-classification", model=str(tmp_path / "out" / "stsb"), truncation=True)
    how = json.loads((tmp_path / "out" / "export.json").read_text())["tasks"]["stsb"]["label"]
    assert how == "0 + 5 * score"
    for theirs, mine in zip(ask(rows), model.predict(PAIRS[:40], task="stsb"), strict=True):
        assert 0 + 5 * theirs["score"] == pytest.approx(mine.label, abs=1e-4)


RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "mpnet", "deberta", "deberta-v2"])
def test_families_with_the_same_classifier_are_exact(model, tmp_path, family):
    sizes = {} if family == "mpnet" else {"type_vocab_size": 2, **(RELATIVE if "deberta" in family else {})}
    other = with_encoder(model, family, **sizes)
    for name, weight in other.encoder.named_parameters():
        if "norm" not in name.lower():
            torch.nn.init.normal_(weight, std=0.3)  # as small as new weights are, a GELU is almost a tanh
    assert export_hf(other, tmp_path / "out", ["rte"]) <= 1e-4


def test_training_a_classifier_on_goes_on_as_it_began(model, tmp_path):
    export_hf(model, tmp_path / "out", ["rte"])
    config = json.loads((tmp_path / "out" / "rte" / "config.json").read_text())
    assert config["classifier_dropout"] == model.head("rte").dropout.p


def test_a_head_that_is_more_than_a_linear_layer_is_refused(model, tmp_path):
    with pytest.raises(ValueError) as error:
        export_hf(with_task(model, "mine", Doubled(32, ["a", "b"])), tmp_path / "out")
    assert str(error.value) == (
        "format hf: the head of 'mine' is not a linear layer, which transformers' classifiers have; format onnx "
        "supports every head"
    )


@pytest.mark.parametrize("family", ["electra", "distilbert"])
def test_families_with_another_classifier_are_refused(model, tmp_path, family):
    with pytest.raises(ValueError) as error:
        export_hf(with_encoder(model, family), tmp_path / "out")
    assert str(error.value) == (
        f"format hf: transformers' classifier for {family} differs from this model's (first token, tanh pooler, "
        "linear); supported families: bert, camembert, deberta, deberta-v2, mpnet, roberta, xlm-roberta; format onnx "
        "supports every family"
    )
    assert not list(tmp_path.iterdir())


def test_a_model_without_pooler_is_refused(model, tmp_path):
    bare = Predictor(
        model.info, copy.deepcopy(model.encoder), dict(model.heads.items()), model.tokenizer, "cpu", "32-true"
    )
    bare.encoder.pooler = None
    with pytest.raises(ValueError, match=r"^format hf: this model has no pooler .*; format onnx supports both$"):
        export_hf(bare, tmp_path / "out")


@pytest.mark.parametrize("batch", [1, 2, 33, 300])
def test_one_graph_has_all_heads_for_any_batch_and_length(model, graph, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(graph / "model.onnx")
    assert [one.name for one in session.get_outputs()] == ["sst2", "stsb", "rte"]
    rows = PAIRS[:batch] if batch < 300 else [*PAIRS[:299], ("cat " * 90, "dog")]
    inputs = model.tokenizer(*map(list, zip(*rows, strict=True)), padding=True, truncation=True,
                             max_length=model.info.max_length, return_tensors="np")  # fmt: skip
    found = session.run(None, {one.name: inputs[one.name].astype(np.int64) for one in session.get_inputs()})
    ours = model.logits(rows, list(model.tasks))
    for name, logits in zip(model.tasks, found, strict=True):
        np.testing.assert_allclose(logits, ours[name], atol=1e-4)


def test_a_graph_is_valid_and_says_nothing_of_the_machine_it_was_made_on(graph):
    import onnx

    onnx.checker.check_model(graph / "model.onnx")
    content = (graph / "model.onnx").read_bytes()
    for word in (b"site-packages", b"bam_lightning", b".py"):
        assert word not in content


class Doubled(ClassificationHead):
    """A head of one's own that is more than its linear layer."""

    def forward(self, pooled):
        return super().forward(pooled) * 2


def with_task(model, name, head):
    """The model with one task, of another name and head."""
    saved = replace(model.info, tasks={name: model.tasks["rte"]._replace(name=name)})
    return Predictor(saved, copy.deepcopy(model.encoder), {name: head}, model.tokenizer, "cpu", "32-true")


@pytest.mark.release
def test_a_graph_computes_a_head_of_ones_own_and_a_task_may_be_called_what_torch_calls_a_value(model, tmp_path):
    import onnxruntime

    other = with_task(model, "linear", Doubled(32, ["a", "b"]))
    other.encoder.pooler = None
    assert export_onnx(other, tmp_path / "out") <= 1e-4
    assert [one.name for one in onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx").get_outputs()] == [
        "linear"
    ]


def test_a_task_may_not_be_called_what_an_input_of_the_graph_is(model, tmp_path):
    with pytest.raises(ValueError) as error:
        export_onnx(with_task(model, "input_ids", ClassificationHead(32, ["a", "b"])), tmp_path / "out")
    assert str(error.value) == (
        "format onnx: task 'input_ids' has the same name as an input of the graph; rename it, or leave it out"
    )


@pytest.mark.release
@pytest.mark.parametrize("family", ["roberta", "distilbert", "deberta-v2"])
def test_every_family_has_a_graph(model, tmp_path, family):
    sizes = {"n_layers": 1} if family == "distilbert" else {"num_hidden_layers": 1}
    sizes |= {"type_vocab_size": 2} if family in ("roberta", "deberta-v2") else {}
    assert export_onnx(with_encoder(model, family, **sizes), tmp_path / "out", ["rte", "stsb"]) <= 1e-4


def run_readme(folder, monkeypatch):
    """Run the example of a folder's README there, and return the lines that it prints."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    return said.getvalue().splitlines()


def test_the_readme_of_a_classifier_ends_in_probabilities(model, tmp_path, monkeypatch):
    export_hf(model, tmp_path / "out", ["rte", "stsb"])
    (line,) = run_readme(tmp_path / "out" / "stsb", monkeypatch)  # or in a number from 0 to 5
    score = model.predict([("A first text.", "A second text.")], task="stsb")[0].label
    assert float(line) == pytest.approx(score, abs=5e-5)
    (line,) = run_readme(tmp_path / "out" / "rte", monkeypatch)
    ours = model.predict([("A first text.", "A second text.")], task="rte")[0].probabilities
    assert {one["label"]: one["score"] for one in eval(line)[0]} == pytest.approx(ours, abs=1e-5)


def test_the_readme_of_a_saved_model_ends_in_probabilities(model, tmp_path, monkeypatch):
    (line,) = run_readme(model.save_pretrained(tmp_path / "saved"), monkeypatch)
    task = next(iter(model.tasks.values()))
    ours = model.predict([("...",) * len(task.columns)], task=task.name)[0]
    assert line == f"{ours.label} {ours.probabilities}"


@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=pytest.mark.release)])
def test_the_readme_of_a_graph_ends_in_probabilities(model, request, monkeypatch, int8):
    lines = run_readme(request.getfixturevalue("exported_int8" if int8 else "exported")[0], monkeypatch)
    assert sorted(line.split()[0] for line in lines) == ["rte", "sst2", "stsb"]
    found = {line.split()[0]: line for line in lines}
    tolerance = 0.05 if int8 else 1e-5
    for name, row in (("sst2", "A first text."), ("rte", ("A first text.", "A second text."))):
        expected = model.predict([row], task=name)[0].probabilities
        assert eval(re.search(r"\{.*\}", found[name])[0]) == pytest.approx(expected, abs=tolerance)
    score = model.predict([("A first text.", "A second text.")], task="stsb")[0].label  # from 0 to 5
    assert float(found["stsb"].split()[1]) == pytest.approx(score, abs=5 * tolerance)


@pytest.mark.release
def test_a_graph_with_8_bit_weights_is_smaller_and_says_how_far_its_answers_are(model, exported_int8, tmp_path):
    import onnxruntime

    out, said = exported_int8
    sizes = [(out / name).stat().st_size for name in ("model.int8.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]
    found = json.loads((out / "export.json").read_text())["int8"]
    rows = random_rows(model, 1) + random_rows(model, 2)
    largest, equal = 0.0, []
    session = onnxruntime.InferenceSession(out / "model.int8.onnx")
    for part in (rows[:128], rows[128:]):
        inputs = model.tokenizer(*map(list, zip(*part, strict=True)), padding=True, truncation=True,
                                 max_length=model.info.max_length, return_tensors="np")  # fmt: skip
        theirs = session.run(None, {one.name: inputs[one.name].astype(np.int64) for one in session.get_inputs()})
        ours = model.logits(part, list(model.tasks))
        for name, logits in zip(model.tasks, theirs, strict=True):
            largest = max(largest, np.abs(logits - ours[name]).max())
            if name != "stsb":
                equal.append((logits.argmax(-1) == ours[name].argmax(-1)).mean())
    assert 0 < largest == pytest.approx(found["difference"], rel=1e-4)
    assert found["agreement"] == pytest.approx(np.mean(equal))
    assert found["rows"] == 256
    assert (
        f"on 256 rows of random words its logits differ by up to {largest:.2g}, and {np.mean(equal):.1%} of the labels "
        "are equal; evaluate it on your own rows"
    ) in said
    with pytest.raises(ConfigError, match=r"^int8 is for format onnx, got format hf$"):
        model.export(tmp_path / "other", "hf", int8=True)


def test_how_an_export_is_read_gives_the_heads_own_predictions():
    """Of each kind of head, from the scores as a pipeline makes them of ``problem_type``."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    names = ["a", "b", "c", "d"]
    one = ClassificationHead(2, names)
    assert one.export_spec(names).outputs == tuple(names)
    assert one.decode(logits).tolist() == special.softmax(logits.numpy(), -1).argmax(-1).tolist()
    several = MultiLabelHead(2, names)
    assert several.export_spec(names)[:2] == ("multi_label_classification", tuple(names))
    assert several.decode(logits).tolist() == (special.expit(logits.numpy()) > 0.5).astype(int).tolist()
    order = OrdinalHead(2, names)
    assert order.export_spec(names)[:2] == ("multi_label_classification", ("above a", "above b", "above c"))
    assert order.decode(logits[:, :3]).tolist() == (special.expit(logits[:, :3].numpy()) > 0.5).sum(-1).tolist()
    for sigmoid, problem in ((True, None), (False, "regression")):
        head = RegressionHead(2, [1.0, 7.0], sigmoid=sigmoid)
        assert head.export_spec([])[:3] == (problem, ("score",), "1 + 6 * score")
        score = special.expit(logits[:, :1].numpy()) if sigmoid else logits[:, :1].numpy()
        np.testing.assert_allclose(head.decode(logits[:, :1]), (1 + 6 * score)[:, 0], atol=1e-5)


def test_a_head_of_ones_own_says_what_it_lacks():
    class Mine(ClassificationHead):
        export_spec = Head.export_spec

    with pytest.raises(ValueError, match=r"^Mine has no method export_spec, so it cannot be exported; give it one$"):
        Mine(2, ["a", "b"]).export_spec(["a", "b"])


@pytest.mark.parametrize("kind", ["hf", pytest.param("onnx", marks=pytest.mark.release)])
def test_an_export_that_is_not_the_model_is_not_written(model, tmp_path, monkeypatch, kind):
    if kind == "hf":
        import bam_lightning.inference.hf_export as room

        real = room._build_classifier

        def wrong(*arguments):
            classifier = real(*arguments)
            classifier.classifier.bias.data += 0.01
            return classifier

        monkeypatch.setattr(room, "_build_classifier", wrong)
        call = export_hf
    else:
        import bam_lightning.inference.onnx_export as room

        monkeypatch.setattr(
            room._Graph,
            "forward",
            lambda self, *tensors: tuple(
                head(self.encoder.forward_padded(dict(zip(self.inputs, tensors, strict=True)))) + 0.01
                for head in self.heads
            ),
        )
        call = export_onnx
    with pytest.raises(ValueError) as error:
        call(model, tmp_path / "out", ["rte"])
    assert str(error.value) == (
        "the export differs from the model: logits of rte differ by 0.01, more than 0.0001; nothing was written"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone_and_an_export_is_replaced(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"^output: .*mine exists and is not an export; give a new folder$"):
        export_hf(model, tmp_path / "mine", ["rte"])
    with pytest.raises(FileNotFoundError, match=r"^output: no folder .*nowhere$"):
        export_hf(model, tmp_path / "nowhere" / "out", ["rte"])
    export_hf(model, tmp_path / "out", ["rte"])
    export_hf(model, tmp_path / "out", ["sst2"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "sst2"]


def test_what_an_earlier_export_has_not_written_is_never_deleted(model, tmp_path):
    export_hf(model, tmp_path / "out", ["rte"])
    (tmp_path / "out" / "rte" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError) as error:
        export_hf(model, tmp_path / "out", ["rte"])
    assert str(error.value) == (
        f"output: {tmp_path}/out/rte/notes.txt was not written by an export; move it away, or give a new folder"
    )
    assert (tmp_path / "out" / "rte" / "notes.txt").read_text() == "mine"


def test_others_may_read_an_export(tmp_path):
    with umask(0o022), staged_folder(tmp_path / "out") as folder:
        save_file({"weight": np.zeros(2)}, folder / "model.safetensors")  # with rights for its owner alone
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_comes_into_the_folder_meanwhile_is_left_alone(tmp_path):
    def interrupted():
        with staged_folder(tmp_path / "out") as folder:
            (folder / "model").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.tex").touch()

    with pytest.raises(FileExistsError, match=r"^output: .*out exists and is not an export; give a new folder$"):
        interrupted()
    with pytest.raises(FileExistsError), staged_folder(tmp_path / "out"):
        pytest.fail("it must be refused before anything is written")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["out", "out/thesis.tex"]


def test_places_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileExistsError) as error, staged_folder(Path(".")):
        pass
    assert str(error.value) == "output: this is the current folder, which cannot be replaced; give a folder inside it"
    monkeypatch.setattr("bam_lightning.inference.export_check.mkdtemp", lambda **_: os.mkdir("/proc/out"))
    with pytest.raises(OSError) as error, staged_folder(tmp_path / "out"):
        pass
    assert str(error.value) == f"output: cannot write to {tmp_path} (No such file or directory)"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    def interrupted():
        with staged_folder(tmp_path / "out") as folder:
            (folder / "model").touch()
            raise OSError(errno.ENOSPC, "No space left on device")  # as onnx does, without a path

    with pytest.raises(StoreError, match=r"^cannot write .*out \(No space left on device\): .* make room"):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_logits_that_are_no_numbers_are_no_agreement(model, tmp_path):
    def nothing(part):
        return {"rte": np.full((len(part), 2), np.nan, np.float32)}

    with pytest.raises(ValueError) as error:
        max_logit_difference(model, ["rte"], nothing, random_rows(model, 2))
    assert str(error.value) == (
        "the export differs from the model: logits of rte differ by nan, more than 0.0001; nothing was written"
    )


def test_rows_to_check_with_are_of_all_lengths_and_always_the_same(model):
    rows = random_rows(model, 2)
    assert rows == random_rows(model, 2)
    lengths = [len(model.tokenizer(*row)["input_ids"]) for row in rows]
    assert min(lengths) <= 8
    assert max(lengths) > model.info.max_length


def test_the_models_own_folder_is_read_back_too(model, tmp_path):
    assert export_bam(model, tmp_path / "out") == 0
    assert export_bam(model, tmp_path / "out") == 0  # an earlier one is replaced
    assert bam.load(tmp_path / "out").predict(PAIRS[:3]) == model.predict(PAIRS[:3])
    changed = with_task(model, "rte", ClassificationHead(32, ["a", "b"]))
    with pytest.raises(
        ValueError, match=r"^the export differs from the model: logits of rte differ by .*; nothing was w"
    ):
        export_bam(changed, tmp_path / "changed")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_says_what_it_wrote_as_onnx(exported):
    folder, said = exported
    assert re.fullmatch(
        rf"sst2, stsb, rte: largest difference of logits \de-0\d; \d\.\d MB in {re.escape(str(folder))}\n", said
    )


@pytest.mark.parametrize("kind", ["bam", "hf"])
def test_the_command_writes_and_says_what(trained, tmp_path, capsys, kind):
    tasks = [] if kind == "bam" else ["rte"]
    options = {"run": trained.id, "store": str(trained.store), "format": kind, "output": f"{tmp_path}/out"}
    export(ExportOptions(**options, task=tasks))
    said = capsys.readouterr().out
    heads = "sst2, stsb, rte" if kind == "bam" else "rte"
    assert re.fullmatch(rf"{heads}: largest difference of logits (0|\de-0\d); \d\.\d MB in .*/out\n", said)
    if kind == "bam":
        assert bam.load(tmp_path / "out").predict(PAIRS[:3]) == bam.load(trained.id, trained.store).predict(PAIRS[:3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "onix"}, "format names 'onix'; choices: bam, hf, onnx; did you mean 'onnx'?"),
        ({"task": ["rte"]}, "format bam exports the whole model; omit the tasks, or choose format hf or onnx"),
        ({"format": "onnx", "task": ["rtee"]}, "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?"),
    ],
)
def test_what_cannot_be_exported_is_named(trained, fields, message):
    with pytest.raises(ValueError) as error:
        export(ExportOptions(run=trained.id, store=str(trained.store), output="out", **fields))
    assert str(error.value) == message


def test_without_its_packages_onnx_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bam_lightning.config.validation.find_spec", lambda name: None if name == "onnxscript" else True
    )
    with pytest.raises(ConfigError) as error:
        export_onnx(model, tmp_path / "out")
    assert str(error.value) == "format onnx needs onnxscript; run: pip install 'bam-lightning[onnx]'"
