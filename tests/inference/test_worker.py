"""The model's own process: its answers, what goes wrong in it, and its end."""

import json
import os
import signal
import time

import pytest

import bam_lightning as bam
from bam_lightning.inference.serving.schemas import PredictRequest
from bam_lightning.inference.serving.worker import LoadOptions, Worker


def loading(trained, **changes):
    fields = {"run": trained.id, "store": str(trained.store), "device": "cpu", "precision": "auto", "heads": (),
              "revision": None, "threads": 1}  # fmt: skip
    return LoadOptions(**{**fields, **changes})


def test_its_answers_are_those_of_predict_a_failure_stops_nothing_and_its_end_stops_the_server(trained):
    rows = [("the cat sleeps", "a dog runs"), ("it", "was")]
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        with Worker(loading(trained)) as worker:
            (said,) = worker([PredictRequest(rows, ["rte"])])
            with pytest.raises(RuntimeError, match=r"^KeyError: 'nothing'$"):
                worker([PredictRequest(rows, ["nothing"])])
            assert worker([PredictRequest(rows, ["rte"])]) == [said]
            assert (worker.device, worker.precision, worker.gone) == ("cpu", "32-true", False)
            os.kill(worker._process.pid, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(RuntimeError, match=r"^the model's process has ended$"):
                    worker([PredictRequest([("a",)], ["sst2"])])
            time.sleep(0.01)
            assert worker.gone
        assert asked == [True]
    finally:
        signal.signal(signal.SIGTERM, before)
    ours = bam.load(trained.id, store=trained.store).predict(rows, task=["rte"])
    expected = [{name: value for name, value in one._asdict().items() if name != "details"} for one in ours["rte"]]
    assert json.loads(said) == {"predictions": {"rte": json.loads(json.dumps(expected))}}  # no details: none are there


def test_what_cannot_be_loaded_is_said_in_the_same_words(trained):
    with pytest.raises(ValueError, match=r"^device names 'cuda:99'"), Worker(loading(trained, device="cuda:99")):
        pass
