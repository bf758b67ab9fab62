"""The model's own process: its answers, what goes wrong in it, and its end."""

import json
import os
import shutil
import signal
import threading

import pytest

import bam_lightning as bam
from bam_lightning.inference.serving.schemas import PredictRequest
from bam_lightning.inference.serving.worker import LoadOptions, Worker
from forked_python import python


def loading(trained, **changes):
    fields = {"run": trained.id, "store": str(trained.store), "device": "cpu", "precision": "auto", "heads": (),
              "revision": None, "threads": 1}  # fmt: skip
    return LoadOptions(**{**fields, **changes})


@pytest.fixture
def warm(monkeypatch):
    """Processes that start in milliseconds; a signal that stops one is not passed on."""
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(python()))


class EndsTheProcess(PredictRequest):
    """A request that ends the process that receives it: a kill from outside may come before or after its answer."""

    def __reduce__(self):
        return os._exit, (9,)


def test_its_answers_are_those_of_predict_and_a_failure_stops_nothing(trained, warm):
    rows = [("the cat sleeps", "a dog runs"), ("it", "was")]
    with Worker(loading(trained)) as worker:
        (said,) = worker([PredictRequest(rows, ["rte"])])
        with pytest.raises(RuntimeError, match=r"^KeyError: 'nothing'$"):
            worker([PredictRequest(rows, ["nothing"])])
        assert worker([PredictRequest(rows, ["rte"])]) == [said]
        assert (worker.device, worker.precision, worker.ready, worker.gone) == ("cpu", "32-true", True, False)
        with pytest.raises(RuntimeError, match=r"^the model's process has ended$"):
            worker([EndsTheProcess(rows, ["rte"])])
        assert worker([PredictRequest(rows, ["rte"])]) == [said]
        assert (worker.ready, worker.restarts) == (True, 1)
    ours = bam.load(trained.id, store=trained.store).predict(rows, task=["rte"])
    expected = [{name: value for name, value in one._asdict().items() if name != "details"} for one in ours["rte"]]
    assert json.loads(said) == {"predictions": {"rte": json.loads(json.dumps(expected))}}  # no details: none are there


@pytest.mark.release
def test_a_process_that_is_stuck_is_killed_and_started_again(trained):
    request = PredictRequest([("the cat sleeps", "a dog runs")], ["rte"])
    with Worker(loading(trained), stuck_seconds=5.0) as worker:
        answers = worker([request])
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeError, match=r"^the model's process has ended$"):
            worker([request])
        assert worker([request]) == answers
        assert (worker.ready, worker.restarts) == (True, 1)


def test_a_model_that_cannot_be_loaded_again_stops_the_server(trained, tmp_path, warm):
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    store = shutil.copytree(trained.store, tmp_path / "store")
    try:
        with Worker(loading(trained, store=str(store))) as worker:
            shutil.rmtree(store)
            os.kill(worker._process.pid, signal.SIGKILL)
            assert asked.wait(60)
            assert worker.gone
            with pytest.raises(RuntimeError, match=r"^the model's process has ended$"):
                worker([PredictRequest([("a",)], ["sst2"])])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_cannot_be_loaded_is_said_in_the_same_words(trained, warm):
    with pytest.raises(ValueError, match=r"^device names 'cuda:99'"), Worker(loading(trained, device="cuda:99")):
        pass
