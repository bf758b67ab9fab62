"""A collapsed teacher teaches nobody: it is refused with its score, or another seed takes its place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bam_lightning.config.compose import compose, console
from bam_lightning.config.exceptions import TeacherError, TrainingError
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.recipes.teachers import rejection_reason
from bam_lightning.store import job_records
from bam_lightning.store.run_store import Store


def train(tiny_job: list[str], *more: str, task: str = "rte") -> dict:
    return run_recipe(compose([*tiny_job, f"suite.include=[{task}]", *more]), Path("out"))


def single(tiny_job: list[str], seed: int, task: str = "rte") -> dict:
    return train(tiny_job, "recipe=single", f"seed={seed}", task=task)["runs"][0]


def base() -> float:
    """Return the score of the commonest label of the tiny task's dev rows."""
    labels = np.random.default_rng(1).integers(0, 2, 24)  # as conftest writes them
    return max(labels.mean(), 1 - labels.mean())


def test_a_teacher_at_the_commonest_answer_is_refused_with_its_score(tiny_job):
    teacher = single(tiny_job, 0)
    score = teacher["metrics"]["rte"]["accuracy"]
    with pytest.raises(TrainingError) as caught:
        train(tiny_job, "distillation.teacher_margin=0.9")
    assert str(caught.value) == (
        f"Run {teacher['id']} (single/rte, seed 0) is not fit to teach 'rte': after {teacher['steps']} steps its dev "
        f"accuracy is {score:.3f}, not above {base():.3f} + 0.9, that of giving every row the commonest answer; try "
        "more steps with recipe.stages.single.optimization.min_steps=100, another learning rate with "
        "recipe.stages.single.optimization.learning_rate=, other seeds with distillation.other_seeds=3, or let it "
        "teach with distillation.teacher_margin=null"
    )


def test_a_teacher_that_collapses_while_its_job_runs_fails_the_job_and_trains_no_student(tiny_job, tmp_path):
    with pytest.raises(TrainingError, match=" is not fit to teach 'rte': "):
        train(tiny_job, "distillation.teacher_margin=0.9", "distillation.other_seeds=1")
    store = Store(tmp_path / "store")
    (job,) = job_records.read_records(store)
    assert job.state == "failed"
    assert "(nor are those of 1 other seeds)" in job.reason
    seeds = sorted(store.manifest(path.name)["seed"] for path in (store.root / "runs").iterdir())
    assert seeds == [0, 1000]  # two teachers, and no student


def test_the_other_runs_are_trained_and_the_command_ends_with_a_status_of_its_own(tiny_job, tmp_path, capsys):
    words = [word for word in tiny_job if not word.startswith("distillation.teacher_margin")]
    config = compose([*words, "recipe=single_single", "distillation.teacher_margin=0.9"])
    config.suite.tasks["stsb"].in_average = False  # so that its teacher is not judged
    assert console(lambda: bool(run_recipe(config, tmp_path / "out"))) == 3
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith("or let it teach with distillation.teacher_margin=null")
    store = Store(tmp_path / "store")
    trained = sorted(
        (m["stage"], *m["tasks"]) for m in (store.manifest(path.name) for path in store.root.glob("runs/*"))
    )
    assert trained == [("single", "rte"), ("single", "stsb"), ("student", "stsb")]
    assert "commonest answer. First the Runs that need none of them: student/stsb" in said.replace("\n", " ")


@pytest.mark.release
def test_a_job_that_was_stopped_after_it_rejected_a_teacher_trains_the_rest_at_its_next_start(tiny_job, tmp_path):
    teacher = single(tiny_job, 0)["id"]
    config = compose([*tiny_job, "recipe=single_single", "distillation.teacher_margin=0.9"])
    config.suite.tasks["stsb"].in_average = False  # so that its teacher is not judged
    with pytest.raises(TeacherError, match=f"^Run {teacher} .* is not fit to teach 'rte': "):
        run_recipe(config, tmp_path / "out")
    store = Store(tmp_path / "store")
    found = [store.manifest(path.name) for path in store.root.glob("runs/*")]
    trained = sorted((manifest["stage"], *manifest["tasks"]) for manifest in found)
    assert trained == [("single", "rte"), ("single", "stsb"), ("student", "stsb")]


@pytest.mark.release
def test_another_seed_teaches_in_the_place_of_a_collapsed_one(tiny_job, tmp_path, capsys):
    score = {seed: single(tiny_job, seed, "stsb")["metrics"]["stsb"]["spearman"] for seed in range(4)}
    worst = min(score, key=score.get)
    other = single(tiny_job, worst + 1000, "stsb")
    better = other["metrics"]["stsb"]["spearman"]
    assert score[worst] < better, "the tiny task's scores have changed; take other seeds"
    margin = (score[worst] + better) / 2  # the commonest answer correlates with nothing
    words = [f"distillation.teacher_margin={margin}", "distillation.other_seeds=1", f"teacher_seed={worst}"]
    again = Store(tmp_path / "again")  # where the teachers are not there yet
    for root in (tmp_path / "store", again.root):
        found = train([*tiny_job, f"paths.store={root}"], *words, task="stsb")
        assert found["runs"][0]["id"] == other["id"]
        assert Store(root).manifest(found["runs"][1]["id"])["teachers"] == {"stsb": other["id"]}
    (job,) = job_records.read_records(again)
    assert (job.state, job.stages["single"]) == ("finished", [other["id"]])
    assert "; another seed teaches in its place" in capsys.readouterr().err.replace("\n", " ")


def test_a_teacher_given_by_its_id_is_judged_before_any_training(tiny_job, tmp_path):
    teacher = single(tiny_job, 0)["id"]
    with pytest.raises(TrainingError, match="; give another, or let it teach with distillation"):
        train(tiny_job, "recipe=multi", f"teachers.rte={teacher}", "distillation.teacher_margin=0.9")
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("score", "margin", "in_average", "fit"),
    [
        (0.6, 0.0, True, False),  # exactly the commonest label's
        (0.61, 0.0, True, True),
        (0.61, 0.02, True, False),
        (0.2, 0.0, True, False),
        (0.2, None, True, True),
        (0.6, 0.0, False, True),  # WNLI
        (float("nan"), 0.0, True, False),
    ],
)
def test_fit_is_who_is_above_the_commonest_answer_by_more_than_the_margin(score, margin, in_average, fit):
    head = SimpleNamespace(label_names=["yes", "no"])
    task = SimpleNamespace(metric="accuracy", metric_name="accuracy", in_average=in_average, head=head)
    config = SimpleNamespace(
        distillation=SimpleNamespace(teacher_margin=margin), suite=SimpleNamespace(tasks={"rte": task})
    )
    rows = {"rte": SimpleNamespace(dev=SimpleNamespace(labels=np.array([0, 0, 0, 1, 1])))}
    store = SimpleNamespace(manifest=lambda run_id: {"steps": 5, "metrics": {"rte": {"accuracy": score}}})
    assert (rejection_reason("1a2b", ["rte"], "single/rte, seed 0", config, rows, store) is None) == fit
