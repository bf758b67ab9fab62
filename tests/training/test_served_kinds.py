"""Models of tasks of every kind behind ``bam serve``: its start, mixed requests, rows of ``all``, the example."""

from __future__ import annotations

import json
import os

import httpx
import pytest
from tiny_kinds import KINDS, kinds

import bam_lightning as bam
from bam_lightning import cli
from bam_lightning.inference.predict_file import PredictOptions, predict_file
from bam_lightning.inference.serving.batcher import predict_batch
from bam_lightning.inference.serving.schemas import Limits, PredictRequest, parse_request, request_model
from bam_lightning.inference.serving.worker import LoadOptions, Worker
from conftest import serving
from forked_python import python

PAIR = bam.Task.from_list(
    {
        "train": [{"first": "a cat", "second": "a dog", "label": label} for label in ("same", "other")],
        "dev": [{"first": "a man", "second": "a dog", "label": label} for label in ("same", "other")],
    },
    text=["first", "second"],
)


@pytest.fixture(scope="module")
def model(tiny_bert, tmp_path_factory):
    """An untrained model of all kinds, and of a pair of texts."""
    folder = tmp_path_factory.mktemp("served")
    data = bam.MultiTaskDataModule({**kinds(), "pair": PAIR}, tiny_bert, max_length=24, cache_dir=folder / "cache")
    return bam.load(bam.BamModule(data, seed=3).save_pretrained(folder / "saved"), device="cpu")


@pytest.fixture
def warm(monkeypatch):
    """Let processes start in milliseconds."""
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(python()))


def expected(model, rows, task):
    """Return the response to a request for one task."""
    found = [
        {name: value for name, value in one._asdict().items() if value is not None} for one in model.predict(rows, task)
    ]
    return json.loads(json.dumps({"predictions": {task: found}}))


def test_the_models_process_starts_with_tasks_of_every_kind_and_answers_their_requests_together(model, warm):
    options = LoadOptions(str(model.info.run.path), "store", "cpu", "auto", (), None, 1)
    requests = [PredictRequest([task.example_row()], [task.name]) for task in model.tasks.values()]
    with Worker(options) as worker:
        answers = worker(requests)
    assert set(model.tasks) == {*KINDS, "pair"}
    for request, answer in zip(requests, answers, strict=True):
        found, ours = json.loads(answer), expected(model, request.rows, request.tasks[0])
        (found,), (ours,) = (next(iter(one["predictions"].values())) for one in (found, ours))
        assert found.keys() == ours.keys()
        assert found["probabilities"] == pytest.approx(ours["probabilities"], abs=1e-5)
        assert found["label"] == (pytest.approx(ours["label"]) if isinstance(ours["label"], float) else ours["label"])


def test_rows_of_templates_do_not_reach_other_tasks(model, monkeypatch):
    tasks = dict(model.tasks)
    tasks["mood"] = tasks["mood"]._replace(text=("{a}{b}",), columns=("a", "b"))
    monkeypatch.setattr(model, "info", type(model.info)(model.info.run, model.info.manifest, tasks))
    requests = [PredictRequest([("the cat", None)], ["mood"]), PredictRequest([("it",)], ["size"])]
    for request, answer in zip(requests, predict_batch(model, requests), strict=True):
        assert json.loads(answer)["predictions"].keys() == {request.tasks[0]}


def test_an_error_at_the_start_is_one_line(model, warm, capsys):
    assert cli.run(["serve", "--run", str(model.info.run.path), "--port", "0", "--device", "cuda:99"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: device names 'cuda:99'; choices: cpu"


CHANGES = [
    *({"name": name} for name in KINDS),
    {"name": "choice", "choices": ("a", "b", "c"), "columns": ("question", "a", "b", "c")},
    {"name": "choice", "text": ("{question} {more}",), "columns": ("question", "more", "options")},
    {"name": "tags", "text": ("{first} {second}",), "columns": ("first", "second")},
    {"name": "mood", "text": ("{subject}: {body}", "other"), "columns": ("subject", "body", "other")},
]


@pytest.mark.parametrize("changed", CHANGES)
def test_the_example_row_of_every_kind_is_accepted(model, changed):
    task = model.tasks[changed["name"]]._replace(**changed)
    row = task.example_row()
    assert task.rejection_reason(row) is None
    assert all(isinstance(text, str) for text in task.render(row))
    body = {"rows": [list(row)], "task": task.name}
    info = type(model.info)(model.info.run, model.info.manifest, {task.name: task})
    assert parse_request(json.dumps(body).encode(), info, Limits()).tasks == [task.name]
    assert request_model(info.tasks, Limits()).model_validate(body).rows == body["rows"]


@pytest.mark.parametrize("first", ["choice", "tags", "answer"])
def test_the_example_of_the_api_is_answered(model, monkeypatch, first):
    tasks = {first: model.tasks[first], **model.tasks}
    monkeypatch.setattr(model, "info", type(model.info)(model.info.run, model.info.manifest, tasks))
    with serving(model) as found:
        api = httpx.get(f"{found.url}/openapi.json").json()
        example = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = httpx.post(f"{found.url}/predict", json=example)
    assert example["task"] == first
    assert answer.json() == expected(model, example["rows"], first)


@pytest.mark.parametrize(
    ("row", "tasks"),
    [
        (("the cat", "a dog"), {"answer", "pair"}),
        (("who sleeps", ["the cat", "a dog"]), {"choice"}),
        ((["the", "cat"],), {"tags"}),
        (("the cat",), {"mood", "size", "tags"}),
    ],
)
def test_all_tasks_are_those_that_read_a_row_of_this_form(model, row, tasks):
    assert set(model.predict([row, row])) == tasks
    assert set(parse_request(json.dumps({"rows": [row]}).encode(), model.info, Limits()).tasks) == tasks


def test_a_choice_of_one_column_of_lists_is_left_out_where_a_file_has_two_texts(model, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"x": "the cat", "y": "a dog"}) + "\n")
    options = PredictOptions(
        run=str(model.info.run.path), input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"),
        columns=["x", "y"], device="cpu",
    )  # fmt: skip
    assert predict_file(options) == 0
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert {"pair.label", "answer.label"} <= row.keys()
    assert "choice.label" not in row
    assert not row.get("prediction_error")


def test_rows_that_no_task_can_read_are_named(model):
    info = type(model.info)(model.info.run, model.info.manifest, {"choice": model.tasks["choice"]})
    with pytest.raises(bam.DataError, match=r"^no task reads 3 texts; tasks and their number of texts: choice \(2\)$"):
        info.select_tasks("all", ("a", "b", "c"))
    (task,) = info.select_tasks("all", ("a", "b"))
    assert task.rejection_reason(("a", "b")) == "options is str; task 'choice' reads a list of choices there"


@pytest.mark.parametrize("name", KINDS)
def test_no_rows_have_no_predictions(model, name):
    assert model.predict([], task=name) == []
