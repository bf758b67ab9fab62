"""Out-of-fold teachers: each row is taught by the one teacher of its task that was not trained on it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bam_lightning.config.compose import compose
from bam_lightning.data.examples import folds_of
from bam_lightning.recipes import fit
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from bam_lightning.store.run_store import Store

WORDS = ["recipe=single_multi_out_of_fold", "recipe.stages.single.folds=3"]


def planned(words):
    config = compose(words)
    return plan_runs(config, load_data(config)[2])


def test_folds_are_equal_parts_by_content():
    keys = [f"row {number}".encode() for number in range(100)]
    folds = folds_of(keys, 3)
    assert sorted(Counter(folds.tolist()).values()) == [33, 33, 34]
    order = np.random.default_rng(0).permutation(100)
    assert (folds_of([keys[i] for i in order], 3) == folds[order]).all()
    assert len(set(folds_of([b"same"] * 7 + keys, 3)[:7].tolist())) == 1


def test_the_plan_has_a_run_for_each_fold_and_the_student_depends_on_all(tiny_job):
    *teachers, student = planned([*tiny_job, *WORDS])
    assert sorted((run.tasks, run.fold) for run in teachers) == [
        ((task,), (number, 3)) for task in ("rte", "stsb") for number in range(3)
    ]
    assert len({run.id for run in teachers}) == 6
    assert set(student.folded) == {"rte", "stsb"}
    assert set(student.dependencies) == {run.id for run in teachers}
    (whole,) = [run for run in planned(tiny_job) if run.tasks == ("rte",)]
    assert {run.steps for run in teachers} == {4}  # 27 of 40 rows in minibatches of 8, once
    assert whole.steps == 5
    assert {run.label for run in teachers if run.fold == (0, 3)} == {
        "single/rte, without fold 1 of 3",
        "single/stsb, without fold 1 of 3",
    }
    ensemble = planned([*tiny_job, "recipe=ensemble_multi"])[-1]
    assert not ensemble.folded


def test_no_teacher_is_trained_on_the_rows_it_teaches(tiny_job, tmp_path, monkeypatch):
    seen = {}
    prepare = fit.prepare_run

    def spy(run, context):
        prepared = prepare(run, context)
        seen[run.id] = prepared.data.train_examples()
        return prepared

    monkeypatch.setattr(fit, "prepare_run", spy)
    config = compose([*tiny_job, *WORDS])
    results = run_recipe(config, tmp_path / "out")
    rows = load_data(config)[0]["rte"].train
    folds, store = folds_of(rows.keys, 3), Store(f"{tmp_path}/store")
    teachers = [run["id"] for run in results["runs"] if run["tasks"] == ["rte"]]
    known = [store.read_predictions(teacher, "rte", "train") for teacher in teachers]
    for number, teacher in enumerate(teachers):
        held_out = {key for key, fold in zip(rows.keys, folds, strict=True) if fold == number}
        assert set(known[number]) == held_out
        assert len(seen[teacher]["rte"].labels) == len(rows.keys) - len(held_out)
    taught = seen[results["runs"][-1]["id"]]["rte"].teacher
    expected = np.stack([known[fold][key] for key, fold in zip(rows.keys, folds, strict=True)])
    np.testing.assert_array_equal(taught, expected)


@pytest.mark.release
def test_finished_folds_are_not_trained_again(tiny_job, tmp_path, capsys):
    words = [*tiny_job, *WORDS]
    run_recipe(compose(words), tmp_path / "out")
    capsys.readouterr()
    run_recipe(compose([*words, "seed=1"]), tmp_path / "again")
    assert "7 Runs, 6 of them in the store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipe.stages.single.folds=1"], r"^recipe\.stages\.single\.folds must be .*2.*, got 1$"),
        (
            ["recipe.stages.single.seeds=2"],
            r"^recipe\.stages\.single\.folds is 5, so the stage must have per_task: true and seeds: 1",
        ),
        (
            ["recipe.stages.student.folds=2"],
            r"^recipe\.stages\.student\.folds is 2, so the stage must have per_task: true",
        ),
        (["recipe.stages.student.teacher=null"], r"folds is 5, so the stage must .*, and teach a later stage$"),
    ],
)
def test_folds_that_make_no_sense_are_refused(words, expected):
    with pytest.raises(ValueError, match=expected):
        compose(["recipe=single_multi_out_of_fold", *words])
