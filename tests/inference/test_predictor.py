"""A trained model, loaded in plain Python: its tasks by name, on new texts."""

import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.data.task import task_from_config
from bam_lightning.metrics import scores as metrics
from bam_lightning.store.run_dir import manifest_digest

PAIRS = [("the cat sleeps", "a cat rests"), ("a dog runs", "the man eats"), ("the woman was good " * 9, "it")]


@pytest.fixture
def load(trained):
    """``bam.load`` of the student of three tiny tasks, in its store."""
    return partial(bam.load, trained.id, store=trained.store)


def dev_rows(config, task):
    settings = config.suite.tasks[task]
    described = task_from_config(task, settings, config.data)
    table = described.source.read(task, described, settings.dev_split)[0].to_pydict()
    return list(zip(*(table[column] for column in settings.text), strict=True)), table["label"]


def test_predictions_by_name_give_the_scores_of_results_json(load, trained):
    model, scores = load(), trained.results["runs"][-1]["metrics"]
    for task in ("rte", "sst2"):
        rows, gold = dev_rows(trained.config, task)
        names = trained.config.suite.tasks[task].head.label_names
        said = [names.index(one.label) for one in model.predict(rows, task=task)]
        assert metrics.accuracy(np.array(said), np.array(gold)) == scores[task]["accuracy"]
    rows, gold = dev_rows(trained.config, "stsb")
    said = [one.label for one in model.predict(rows, task="stsb")]
    assert metrics.spearman(np.array(said), np.array(gold)) == pytest.approx(scores["stsb"]["spearman"], abs=1e-12)


def test_rows_of_one_text_and_of_two_are_computed_together_each_as_if_alone(load):
    model, rows = load(), [PAIRS[0], ("it was good",), PAIRS[2], ("a cat " * 12,), PAIRS[1]]
    together = model.logits(rows, ["rte", "sst2"])
    for place, row in enumerate(rows):
        for task, alone in model.logits([row], ["rte", "sst2"]).items():
            np.testing.assert_allclose(together[task][place], alone[0], atol=1e-5)  # float32, padded to another length


@pytest.mark.release
def test_a_new_process_needs_neither_hydra_nor_the_training_data(load, tmp_path):
    here = load().predict(PAIRS)
    folder = load().save_pretrained(tmp_path / "carried")
    code = (
        "import json, sys, bam_lightning as bam\n"
        f"said = bam.load({str(folder)!r}).predict({PAIRS!r})\n"
        "assert not {'hydra', 'omegaconf', 'datasets', 'pytorch_lightning'} & set(sys.modules), sorted(sys.modules)\n"
        "print(json.dumps(said))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(here))


def test_probabilities_are_scipys_softmax_by_label_name_and_scores_have_none(load):
    model = load()
    logits = model.logits(PAIRS, ["rte"])["rte"]
    expected = special.softmax(logits.astype(np.float64), axis=-1)
    said = model.predict(PAIRS, task="all")
    assert list(said) == ["stsb", "rte"]  # not sst2, which reads one text
    for one, shares in zip(said["rte"], expected, strict=True):
        assert list(one.probabilities) == ["entailment", "not_entailment"]
        np.testing.assert_allclose(list(one.probabilities.values()), shares, atol=1e-6)
        assert one.label == max(one.probabilities, key=one.probabilities.get)
    assert all(0 <= one.label <= 5 and one.probabilities == {} for one in said["stsb"])


def test_a_row_says_the_same_whatever_its_place_and_company(load):
    model = load()
    together = model.logits(PAIRS * 3, ["rte"])["rte"]
    alone = np.concatenate([model.logits([row], ["rte"])["rte"] for row in PAIRS])
    np.testing.assert_allclose(together, np.tile(alone, (3, 1)), atol=1e-6)


def test_rows_may_come_one_by_one(load):
    first, second = zip(*PAIRS, strict=True)
    assert load().predict(zip(first, second, strict=True), task="rte") == load().predict(PAIRS, task="rte")


def test_evaluate_gives_the_scores_of_results_json(load, trained):
    model, expected = load(), trained.results["runs"][-1]["metrics"]
    for task in ("rte", "stsb", "sst2"):
        rows, gold = dev_rows(trained.config, task)
        scores = model.evaluate(rows, gold, task)
        assert next(iter(scores)) == trained.config.suite.tasks[task].metric
        assert scores == pytest.approx(expected[task], abs=1e-6)
    rows, gold = dev_rows(trained.config, "rte")
    names = [trained.config.suite.tasks["rte"].head.label_names[label] for label in gold]
    assert model.evaluate(rows, names, "rte") == model.evaluate(rows, gold, "rte")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["entailment"], "expected one label per row, got 1 labels for 3 rows"),
        (["entailment", "entailment", "maybe"], "task 'rte', row 2: label 'maybe' is neither one of entailment, "),
    ],
)
def test_evaluate_names_a_label_that_the_task_does_not_have(load, labels, message):
    with pytest.raises(ValueError) as error:
        load().evaluate(PAIRS, labels, "rte")
    assert str(error.value).startswith(message)


def test_embed_gives_the_vectors_that_the_heads_read(load):
    model = load()
    vectors = model.embed([*PAIRS, "it was good"])
    assert (vectors.shape, vectors.dtype) == ((4, 32), np.float32)
    with torch.inference_mode():
        logits = model.head("rte")(torch.from_numpy(vectors[:3])).numpy()
    np.testing.assert_allclose(logits, model.logits(PAIRS, ["rte"])["rte"], atol=1e-6)
    assert model.embed([]).shape == (0, 32)
    with pytest.raises(ValueError, match=r"^row 1: expected one or two texts, got \('a', 'b', 'c'\)$"):
        model.embed(["a", ("a", "b", "c")])


def test_no_rows_give_no_predictions(load):
    assert load().predict([], task="rte") == []


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        (PAIRS, "rtee", "task names 'rtee'; choices: sst2, stsb, rte; did you mean 'rte'?"),
        (["a cat"], "rte", "row 0: 1 text; task 'rte' reads 2: sentence1, sentence2"),
        ([*PAIRS, ("a", None)], "rte", "row 3: sentence2 has no value"),
        ([("a", 7)], "rte", "row 0: sentence2 is int, not text"),
        ([(" ", "a")], "rte", "row 0: sentence1 is empty"),
        ([("a\udcff", "a")], "rte", "row 0: sentence1 is not UTF-8 text"),
        ("a cat", "sst2", "texts must be a list of rows, got a single string; put it into a list"),
        ([{"sentence": "a cat"}], "sst2", "row 0 must be a string or a list of strings, got dict"),
        (["a cat", None], "sst2", "row 1 must be a string or a list of strings, got NoneType"),
        (
            [("a", "b", "c")],
            "all",
            "no task reads 3 texts; tasks and their number of texts: sst2 (1), stsb (2), rte (2)",
        ),
    ],
)
def test_rows_and_tasks_that_cannot_be_are_named(load, rows, task, message):
    with pytest.raises(ValueError) as error:
        load().predict(rows, task=task)
    assert str(error.value) == message


def test_a_model_of_another_precision_or_device_is_asked_for_by_name(load):
    with pytest.raises(ValueError, match=r"^precision names 'half'; choices: auto, bf16-mixed, 32-true$"):
        load(precision="half")
    with pytest.raises(ValueError, match=r"^device names 'gpu'"):
        load(device="gpu")


def test_a_model_trained_in_float64_predicts_in_float32_to_the_same_scores(tiny_job, tmp_path):
    config = compose([*tiny_job, "recipe=multi", "trainer.precision=64-true", "trainer.max_steps=4"])
    (run,) = bam.run_recipe(config, tmp_path / "out")["runs"]
    model = bam.load(run["id"], store=tmp_path / "store", device="cpu")
    assert (model.precision, next(model.encoder.parameters()).dtype) == ("32-true", torch.float32)
    rows, gold = dev_rows(config, "stsb")
    said = [one.label for one in model.predict(rows, task="stsb")]
    score = metrics.pearson(np.array(said), np.array(gold))
    assert score == pytest.approx(run["metrics"]["stsb"]["pearson"], abs=1e-3)


def edit(folder, change):
    manifest = json.loads((folder / "run.json").read_text())
    change(manifest)
    (folder / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))


def test_a_model_trained_in_float16_says_that_it_predicts_in_float32(trained, tmp_path):
    store = shutil.copytree(trained.store, tmp_path / "store")
    edit(store / "runs" / trained.id, lambda manifest: manifest["spec"].update(precision="16-mixed"))
    assert bam.load(trained.id, store=store, device="cpu").precision == "32-true"


def test_a_strangers_head_is_not_run_unless_it_is_allowed(load, tmp_path):
    folder = load().save_pretrained(tmp_path / "carried")
    edit(folder, lambda kept: kept["spec"]["tasks"]["rte"]["head"].update(_target_="os.system"))
    with pytest.raises(ValueError) as error:
        bam.load(folder)
    assert str(error.value) == (
        f"task 'rte' of {folder} needs the head 'os.system', which is not part of bam_lightning; "
        "if you trust this code, allow it with --head os.system (in Python: heads=['os.system'])"
    )


def test_a_head_of_ones_own_is_built_where_it_is_allowed(load, tmp_path, monkeypatch):
    (tmp_path / "my_heads.py").write_text(
        "from bam_lightning.models.heads import ClassificationHead\n\nclass Mine(ClassificationHead):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = load().save_pretrained(tmp_path / "carried")
    edit(folder, lambda kept: kept["spec"]["tasks"]["rte"]["head"].update(_target_="my_heads.Mine"))
    model = bam.load(folder, heads=["my_heads.Mine"])
    assert type(model.head("rte")).__name__ == "Mine"


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "encoder/../../escape", "..\\escape"])
def test_no_file_of_a_strangers_model_leads_out_of_its_folder(load, tmp_path, name):
    folder = load().save_pretrained(tmp_path / "carried")
    edit(folder, lambda kept: kept["files"].update({name: "0" * 64}))
    with pytest.raises(ValueError) as error:
        bam.load(folder)
    assert str(error.value) == (
        f"{folder}/run.json names a file {name!r} outside its folder; download or copy the model again"
    )


@pytest.mark.parametrize("name", ["../rte", "a/b", "", "/rte"])
def test_no_task_of_a_strangers_model_has_the_name_of_a_path(load, tmp_path, name):
    folder = load().save_pretrained(tmp_path / "carried")

    def rename(kept):
        kept["tasks"].append(name)
        kept["spec"]["tasks"][name], kept["reads"][name] = kept["spec"]["tasks"]["rte"], kept["reads"]["rte"]

    edit(folder, rename)
    with pytest.raises(ValueError) as error:
        bam.load(folder)
    assert str(error.value).startswith(
        f"{folder}/run.json does not describe a model that this version can read (task {name!r} is no name: use letters"
    )
    assert str(error.value).endswith("; download or copy the model again")


def test_flipped_bytes_of_a_carried_model_are_seen(load, tmp_path):
    folder = load().save_pretrained(tmp_path / "carried")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^.*model\.safetensors is damaged: its hash is .*; download or copy the mod"):
        bam.load(folder)


def test_what_is_no_model_is_named(trained, tmp_path):
    near = trained.id[:-1] + "x"
    with pytest.raises(FileNotFoundError) as error:
        bam.load(near, store=trained.store)
    assert str(error.value) == (
        f"no Run {near!r} in {trained.store}; did you mean {trained.id!r}?; `bam runs` lists them; "
        "or give a folder, or a hub id such as me/my-model"
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError) as error:
        bam.load(tmp_path / "other")
    assert str(error.value) == f"no saved model in {tmp_path}/other: expected run.json, found notes.txt"
    with pytest.raises(FileNotFoundError, match=r"^no folder nowhere/at/all; give a Run, a folder, or a hub id"):
        bam.load("nowhere/at/all")


def test_a_model_is_never_saved_over_something_else(load, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(
        FileExistsError, match=r"^.*thesis\.tex exists and does not hold a saved model; give a new folder$"
    ):
        load().save_pretrained(tmp_path / "mine" / "thesis.tex")
    with pytest.raises(FileExistsError, match=r"^.*mine exists and does not hold a saved model; give a new folder$"):
        load().save_pretrained(tmp_path / "mine")


def test_the_hub_gets_the_folder_and_gives_it_back(load, tmp_path, monkeypatch):
    """The hub's own client does the work; here it writes to and reads from a local folder."""
    hub = tmp_path / "hub" / "me" / "mine"

    def upload(self, *, repo_id, folder_path):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo, **_: hub.parent.mkdir(parents=True))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / "hub" / name))
    model = load()
    assert model.push_to_hub("me/mine") == "https://huggingface.co/me/mine"
    assert bam.load("me/mine").predict(PAIRS) == model.predict(PAIRS)
