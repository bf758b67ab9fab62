"""The choice of alpha: the better one on the dev set is kept, and later plans read it."""

from __future__ import annotations

import json

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from bam_lightning.recipes.tuning import ChooseOptions, job, untuned_tasks
from bam_lightning.store import tuned_decays


def decays(words: list[str]) -> dict[str, float]:
    """Return task -> layer-wise decay of its teacher in a plan."""
    config = compose(words)
    _, _, facts = load_data(config)
    return {run.tasks[0]: run.hyper.layerwise_decay for run in plan_runs(config, facts) if run.stage == "single"}


@pytest.mark.release
def test_the_better_value_is_kept_and_its_runs_are_the_teachers(tiny_job, tmp_path, capsys):
    assert decays(tiny_job) == {"rte": 1.0, "stsb": 1.0}
    job(ChooseOptions(values=[0.5, 0.1], seeds=2, output=f"{tmp_path}/trials"), tiny_job)
    kept = json.loads((tmp_path / "store" / "choices.json").read_text())
    expected = {}
    for name, one in kept.items():
        scores = {float(value): own for value, own in one["dev scores x 100"].items()}
        assert [len(own) for own in scores.values()] == [2, 2]
        medians = {value: sum(own) / 2 for value, own in scores.items()}
        expected[name.split()[0]] = one["layerwise_decay"]
        assert medians[one["layerwise_decay"]] == max(medians.values())
    assert decays(tiny_job) == expected
    capsys.readouterr()
    found = run_recipe(compose(tiny_job), tmp_path / "out")
    said = capsys.readouterr().err
    assert "3 Runs, 2 of them in the store" in said  # the trials' Runs teach
    assert f"single/rte: layer-wise decay {expected['rte']:g}, chosen on its dev set" in said
    assert len(found["runs"]) == 3
    run_recipe(compose([*tiny_job, "recipe=multi"]), tmp_path / "multi")
    assert "chosen on its dev set" not in capsys.readouterr().err


def test_a_choice_is_for_its_data_and_may_be_left_aside(tiny_job, tmp_path):
    config = compose(tiny_job)
    _, _, facts = load_data(config)
    (tmp_path / "store").mkdir(exist_ok=True)
    name = tuned_decays.key("rte", config, facts.fingerprints["rte"], facts.encoder)
    tuned_decays.write(config, {name: {"layerwise_decay": 0.9}})
    assert decays(tiny_job) == {"rte": 0.9, "stsb": 1.0}
    assert decays([*tiny_job, "optimization.use_tuned_decay=false"]) == {"rte": 1.0, "stsb": 1.0}
    assert decays([*tiny_job, "trainer.max_steps=4"]) == {"rte": 1.0, "stsb": 1.0}  # of another length of training
    coded = {"rte": 0.9, "stsb": 0.9}  # the reference code has one decay for all tasks, and no choice on dev
    assert decays([*tiny_job, "fidelity=reference_code"]) == coded
    assert decays([*tiny_job, "+suite.tasks.rte.train_rows=30"]) == {"rte": 1.0, "stsb": 1.0}


def test_a_job_chooses_the_decays_before_its_first_teacher(tiny_job, tmp_path, capsys):
    words = [*tiny_job, "optimization.decays=[0.5,0.1]", "suite.tasks.stsb.layerwise_decay=0.7"]
    found = run_recipe(compose(words), tmp_path / "out")
    said = capsys.readouterr().err
    assert "optimization.decays: rte alone, with each of the layer-wise decays 0.5, 0.1; the best on each" in said
    (name, kept), *others = json.loads((tmp_path / "store" / "choices.json").read_text()).items()
    assert name.startswith("rte ")
    assert not others  # the decay of stsb was given
    scores = {float(value): score for value, (score,) in kept["dev scores x 100"].items()}
    assert scores[kept["layerwise_decay"]] == max(scores.values())
    assert decays(words) == {"rte": kept["layerwise_decay"], "stsb": 0.7}
    assert len(found["runs"]) == 3
    assert f"single/rte: layer-wise decay {kept['layerwise_decay']:g}, chosen on its dev set" in said
    run_recipe(compose([*words, "seed=1"]), tmp_path / "again")  # chosen once in a store
    assert "optimization.decays" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["optimization.layerwise_decay=0.9", "optimization.use_tuned_decay=false", "recipe=multi"]
)
def test_nothing_is_chosen_where_nothing_would_be_used(tiny_job, tmp_path, word):
    config = compose([*tiny_job, "optimization.decays=[0.5,0.1]", word])
    _, _, facts = load_data(config)
    assert not untuned_tasks(config, facts)


def test_the_papers_scale_chooses_as_section_4_does():
    for scale, expected in (("paper", [1.0, 0.9]), ("base", [1.0, 0.9]), ("small", []), ("demo", [])):
        assert compose([f"scale={scale}"]).optimization.decays == expected
    with pytest.raises(
        ValueError, match=r"^optimization\.decays must be at least two different numbers .* got \[0\.9\]$"
    ):
        compose(["optimization.decays=[0.9]"])


def test_a_damaged_file_is_named(tiny_job, tmp_path):
    (tmp_path / "store").mkdir(exist_ok=True)
    (tmp_path / "store" / "choices.json").write_text('{"a": {}}')
    with pytest.raises(ValueError, match=r"choices\.json is damaged \(.*; delete it, and run `bam tune` again$"):
        decays(tiny_job)


@pytest.mark.parametrize(
    ("fields", "words", "expected"),
    [
        ({"values": [1.5, 0.9]}, [], r"^values must be in \(0, 1\], got 1\.5$"),
        ({"values": [0.9]}, [], r"^values must be at least two different numbers to choose from, got \[0\.9\]$"),
        ({"seeds": 0}, [], r"^seeds must be at least 1, got 0$"),
        ({}, ["recipe=multi"], r"^bam tune .*, so it does not accept 'recipe=multi'$"),
    ],
)
def test_bad_words_are_refused_before_any_training(tiny_job, fields, words, expected):
    with pytest.raises(ValueError, match=expected):
        job(ChooseOptions(**fields), [*tiny_job, *words])
