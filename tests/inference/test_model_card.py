"""The model card: what the hub shows of a saved model, with the scores of every seed while it lies in its store."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from bam_lightning import train
from bam_lightning.config.compose import compose
from bam_lightning.inference import model_card
from bam_lightning.inference.model_info import find_model, read_model_info
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.run_dir import manifest_digest


@pytest.fixture(scope="module")
def seeds(trained, tmp_path_factory):
    """The store of ``trained`` with a second seed of its student: both students' ids."""
    store = shutil.copytree(trained.store, tmp_path_factory.mktemp("seeds") / "store")
    words = ["+experiment=single_multi", "seed=1", f"paths.store={store}", f"data.root={trained.config.data.root}"]
    config = compose([*words, *trained.words])
    return store, trained.id, run_recipe(config, store.parent / "out")["runs"][-1]["id"]


def lines_of(store, run_id):
    return model_card.make_card(read_model_info(find_model(run_id, str(store)))).splitlines()


def test_the_card_has_each_tasks_answers_and_score_and_what_trained_it(trained):
    lines = lines_of(trained.store, trained.id)
    scores = trained.results["runs"][-1]["metrics"]
    accuracy, spearman = 100 * scores["rte"]["accuracy"], 100 * scores["stsb"]["spearman"]
    assert lines[:5] == ["---", "library_name: bam-lightning", "pipeline_tag: text-classification",
                         "tags: [multi-task, knowledge-distillation, teacher-annealing]", "---"]  # fmt: skip
    assert (
        f"| rte | sentence1 + sentence2 | entailment, not_entailment | accuracy | {accuracy:.1f} | "
        f"1, {accuracy:.1f} ({accuracy:.1f} to {accuracy:.1f}) |"
    ) in lines
    assert any(line.startswith(f"| stsb | sentence1 + sentence2 | a number from 0 to 5 | spearman | {spearman:.1f} |")
               for line in lines)  # fmt: skip
    teachers = {run["tasks"][0]: run["id"] for run in trained.results["runs"][:-1]}
    (said,) = [line for line in lines if line.startswith("- teachers: ")]
    assert sorted(said.removeprefix("- teachers: ").split(", ")) == sorted(
        f"{t} from {run}" for t, run in teachers.items()
    )
    assert any(line.startswith("- command: `python -m bam_lightning.train +experiment=single_multi") for line in lines)


@pytest.mark.release
def test_the_command_of_the_card_finds_the_files_of_its_job(monkeypatch, tmp_path, capsys):
    for folder, name in (("my conf", "mine"), ("more", "others")):
        (tmp_path / folder / "scale").mkdir(parents=True)
        (tmp_path / folder / "scale" / f"{name}.yaml").write_text("# @package _global_\ndefaults: [small]\n")
    words = ["--config-dir", "more", "hydra.searchpath=['file://my conf']", "scale=mine", "hydra.run.dir=out"]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    assert train.run(lambda config: None) == 0, capsys.readouterr().err
    found = model_card._words(SimpleNamespace(output="out"))
    assert found == words[:-1]
    monkeypatch.setattr(sys, "argv", ["train", *found])
    assert train.run(lambda config: None) == 0


def test_the_card_says_which_share_of_the_parameters_is_task_specific(trained):
    """Heads of rte (2 classes), sst2 (2) and stsb (1 number) on vectors of width 32."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(trained.store / "runs" / trained.id / "model.safetensors")
    total, heads = sum(map(torch.numel, weights.values())), (2 + 2 + 1) * (32 + 1)
    share = f"{100 * heads / total:.3g}"
    assert (f"- {total:,} parameters saved, of which {heads} ({share} %) are task-specific: the heads") in lines_of(
        trained.store, trained.id
    )


@pytest.mark.release
def test_the_scores_of_other_seeds_stand_beside_its_own(seeds):
    store, *ids = seeds
    manifests = [json.loads((store / "runs" / run / "run.json").read_text()) for run in ids]
    low, high = sorted(100 * one["metrics"]["sst2"]["accuracy"] for one in manifests)
    for run in ids:
        (line,) = [line for line in lines_of(store, run) if line.startswith("| sst2 ")]
        assert line.endswith(f"| 2, {(low + high) / 2:.1f} ({low:.1f} to {high:.1f}) |")


def test_a_carried_model_keeps_its_card(trained, tmp_path):
    saved = read_model_info(find_model(trained.id, str(trained.store)))
    folder = shutil.copytree(saved.run.path, tmp_path / "carried")
    (folder / "README.md").write_text("what its author wrote")
    assert model_card.make_card(read_model_info(find_model(str(folder)))) == "what its author wrote"


def test_a_strangers_label_names_are_text_and_no_markup(trained, tmp_path):
    folder = shutil.copytree(trained.store / "runs" / trained.id, tmp_path / "carried")
    manifest = json.loads((folder / "run.json").read_text())
    manifest["spec"]["tasks"]["rte"]["head"]["label_names"] = ["<script>alert(1)</script>", "a | b"]
    (folder / "run.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}))
    text = model_card.make_card(read_model_info(find_model(str(folder))))
    assert "&lt;script>alert(1)&lt;/script>, a &#124; b" in text
    assert "<script" not in text
