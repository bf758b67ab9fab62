"""A task file with several labels: tasks over one source, whose drawn rows bring all their labels, as in Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

import bam_lightning as bam
from bam_lightning.analysis.terminal import View
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.data.collate import collate
from bam_lightning.recipes.evaluation import EvaluateOptions, evaluate
from bam_lightning.recipes.fit import prepare_run
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, plan_recipe, run_recipe
from conftest import sentences

LABELS = {
    "topic": {"label": "subject", "head": {"label_names": ["x", "y", "z"]}},
    "urgency": {"kind": "ordinal", "head": {"label_names": ["low", "mid", "high"]}},
    "churn": {"head": {"label_range": [0, 5]}, "weight": 0.5},
}
N = 60


@pytest.fixture
def words(tiny_bert, tmp_path) -> list[str]:
    """The words of a job whose suite has a file with three labels."""
    (tmp_path / "tickets").mkdir()
    (tmp_path / "urgent").mkdir()  # the rows that have that label
    for split, count in {"train": N, "validation": 24}.items():
        rows = [
            {"body": text, "subject": "xyz"[n % 3], "urgency": ("low", "mid", "high", None)[n % 4], "churn": n % 6}
            for n, text in enumerate(sentences(count, seed=count))
        ]
        for folder, part in (("tickets", rows), ("urgent", [row for row in rows if row["urgency"]])):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / folder / f"{split}.jsonl").write_text(lines)
    shared = {"path": f"{tmp_path}/tickets", "text": ["body"], "test_split": None}
    write_task(tmp_path, "tickets", {"defaults": ["schema", "_self_"], **shared, "labels": LABELS})
    for name, own in LABELS.items():
        kind = {"topic": "classification", "churn": "regression"}.get(name, "ordinal")
        metric = {"topic": "accuracy", "churn": "spearman"}.get(name, "quadratic_kappa")
        alone = {"label": name, **shared, **own, "metric": metric, "kind": own.get("kind")}
        alone["path"] = f"{tmp_path}/{'urgent' if name == 'urgency' else 'tickets'}"
        write_task(tmp_path, f"one_{name}", {"defaults": ["schema", {"/head": kind}, "_self_"], **alone})
    return [
        f"hydra.searchpath=[file://{tmp_path}/conf]",
        "scale=small",
        f"encoder.path={tiny_bert}",
        "logger=none",
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=1",
        "data.max_length=32",
        "optimization.batch_size=8",
        "optimization.epochs=1",
        "distillation.teacher_margin=null",
        f"paths.store={tmp_path}/store",
        f"paths.cache={tmp_path}/cache",
    ]


def write_task(folder, name: str, content: dict) -> None:
    (folder / "conf" / "task").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "task" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def shared_job(words: list[str], *more: str):
    return compose([*words, "+task@suite.tasks.tickets=tickets", "suite.include=[tickets]", *more])


@pytest.mark.release
def test_a_file_of_several_labels_is_a_task_for_each(words):
    suite = shared_job(words).suite
    assert suite.include == ["topic", "urgency", "churn"]
    assert "tickets" not in suite.tasks
    topic, urgency, churn = (suite.tasks[name] for name in suite.include)
    assert [task.label for task in (topic, urgency, churn)] == ["subject", "urgency", "churn"]
    assert [task.metric for task in (topic, urgency, churn)] == ["accuracy", "quadratic_kappa", "spearman"]
    assert [task.head._target_[14:] for task in (topic, urgency, churn)] == [
        "ClassificationHead", "OrdinalHead", "RegressionHead",
    ]  # fmt: skip
    assert (churn.weight, topic.weight, churn.row_group) == (0.5, 1.0, "tickets")
    assert list(shared_job(words, "suite.include=[urgency]").suite.trained()) == ["urgency"]
    linear = shared_job(words, "fidelity=reference_code").suite.tasks["churn"]
    assert linear.head.sigmoid is False


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["+suite.tasks.tickets.labels.topic.path=x"], "labels.topic names 'path'; choices: label, "),
        (["+suite.tasks.tickets.labels.topic.kind=nonsense"], "labels.topic.kind names 'nonsense'"),
        (["+suite.tasks.tickets.labels.topic.weight=heavy"], "heavy"),
        (["+suite.tasks.tickets.labels.rte=x"], "labels names 'rte', which another entry of suite.tasks names too"),
        (["+suite.tasks.tickets.labels.topic.head.label_names=[x]"], "suite.tasks.topic.head.label_names must be"),
        (["suite.include=[nothing]"], "suite.include names 'nothing'"),
    ],
)
def test_labels_that_cannot_be_tasks_are_refused(words, more, message):
    with pytest.raises(ConfigError, match=message):
        shared_job(words, *more)


@pytest.mark.release
def test_a_plan_counts_rows_of_the_source_and_keeps_the_ids_of_single_tasks(words):
    config = shared_job(words, "recipe=single_multi")
    rows, _, facts = load_data(config)
    single, student = plan_runs(config, facts)[:3], plan_runs(config, facts)[-1]
    assert len(rows["urgency"].train.keys) == N * 3 // 4
    assert student.steps == -(-N // 8)
    apart = [f"+task@suite.tasks.{name}=one_{name}" for name in LABELS]
    other = compose([*words, "recipe=single_multi", *apart, "suite.include=[topic,urgency,churn]"])
    runs = plan_runs(other, load_data(other)[2])
    assert [run.id for run in runs[:3]] == [run.id for run in single]  # teachers are the same Runs
    assert runs[-1].id != student.id
    assert runs[-1].steps == -(-(2 * N + N * 3 // 4) // 8)
    two = shared_job(words, "recipe=multi", "suite.include=[urgency,churn]")
    assert plan_runs(two, load_data(two)[2])[-1].steps == -(-N // 8)


@pytest.mark.slow
def test_the_loss_of_a_run_is_that_of_the_tasks_apart(words, tmp_path):
    config = shared_job(words, "recipe=multi")
    context, _, runs, _ = plan_recipe(config, tmp_path / "out", View(False))
    module, data, _, _ = prepare_run(runs[-1], context)
    module.eval()
    batch = next(iter(data.train_dataloader()))
    examples = data.train_examples()
    entries = [(task, row) for task, part in batch.tasks.items() for row in part.row_ids.tolist()]
    apart = collate(examples, [task for task, _ in entries], np.array([row for _, row in entries]))
    assert len(batch.lengths) == 8
    assert len(apart.lengths) == len(entries) > 16
    losses = [
        {task: float(loss.detach()) for task, loss in module.task_losses(one, 1.0).items()} for one in (batch, apart)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.release
@pytest.mark.slow
def test_a_recipe_trains_teachers_and_a_student_that_predicts_and_is_evaluated(words, tmp_path):
    results = run_recipe(shared_job(words, "+experiment=single_multi", "teacher_seed=1"), tmp_path / "out")
    assert [run["tasks"] for run in results["runs"]] == [["topic"], ["urgency"], ["churn"], [*LABELS]]
    assert set(results["runs"][-1]["metrics"]) == set(LABELS)
    model = bam.load(results["runs"][-1]["id"], store=tmp_path / "store")
    (answer,) = model.predict(["the cat eats"], task="urgency")
    assert answer.label in ("low", "mid", "high")
    reports = evaluate(EvaluateOptions(run=results["runs"][-1]["id"], store=str(tmp_path / "store"), output="report"))
    rows = EvaluateOptions(run=results["runs"][-1]["id"], store=str(tmp_path / "store"), task=["topic"])
    rows.input = f"{tmp_path}/tickets/validation.jsonl"  # the task's label column is `subject`
    assert evaluate(rows)[0]["metrics"] == reports[0]["metrics"]
    scores = results["runs"][-1]["metrics"]
    for report in reports:
        task, metric = report["task"], report["metric"]
        assert report["metrics"][metric]["value"] == pytest.approx(scores[task][metric], abs=1e-6)
