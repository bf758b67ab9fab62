"""What a job waits for, and with what it goes on: a Run that is gone ends the wait, other conditions are said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import StoreError
from bam_lightning.recipes.runner import _check_obtainable, run_recipe
from bam_lightning.store import atomic_io, job_records, run_store
from bam_lightning.store.lock import RunLock
from bam_lightning.store.run_store import Store
from bam_lightning.training import callbacks
from bam_lightning.training.callbacks import RunCheckpoint
from fake_store import FakeStore


def test_a_needed_run_that_is_gone_and_that_nobody_trains_ends_the_wait(tmp_path):
    fake = FakeStore(tmp_path / "store")
    fake.add("single", 0, {"rte": 0.5})
    student = SimpleNamespace(id="student-1", label="student", dependencies=("gone", "single-1"))
    with fake.store.lock("gone").acquire():
        _check_obtainable([student], fake.store)  # another process trains it
    _check_obtainable([student, SimpleNamespace(id="gone", label="single/rte", dependencies=())], fake.store)
    with pytest.raises(StoreError) as caught:
        _check_obtainable([student], fake.store)
    assert str(caught.value) == (
        f"student needs Run gone, which is no longer in {fake.store.root} and which no process trains; if this recipe "
        "trains it, the same command does so again, else name another teacher"
    )


def test_a_checkpoint_begun_under_other_conditions_goes_on_with_a_sentence(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(callbacks, "rank_zero_info", said.append)
    conditions = {"threads": 4, "processes": 1, "versions": {"torch": "2.9.0", "numpy": "2.1"}}
    begun = RunCheckpoint(tmp_path / "abc", 5.0, None, None, conditions).state_dict()
    same = RunCheckpoint(tmp_path / "abc", 5.0, None, None, conditions)
    same.load_state_dict(begun)
    assert said == same.changes == []
    others = {**conditions, "threads": 2, "versions": {"torch": "2.10.0", "numpy": "2.1"}}
    resumed = RunCheckpoint(tmp_path / "abc", 5.0, None, None, others)
    resumed.load_state_dict(begun)
    change = "threads 4 (now 2), torch 2.9.0 (now 2.10.0)"
    assert said == [
        f"Run abc goes on from a checkpoint begun under other conditions: {change}; its weights are those of an "
        "undisturbed Run up to rounding only"
    ]
    again = RunCheckpoint(tmp_path / "abc", 5.0, None, None, others)
    again.load_state_dict(resumed.state_dict())
    assert again.changes == [change]  # the manifest tells them all


def test_a_finished_job_in_a_store_that_may_only_be_read_is_reported(trained, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise atomic_io.WriteError("read-only")

    for module in (job_records, run_store, atomic_io):
        monkeypatch.setattr(module, "write_text", refused)
    monkeypatch.setattr(RunLock, "acquire", refused)
    data = f"data.root={trained.store.parent}/data"
    words = ["+experiment=single_multi", *trained.words, data, f"paths.store={trained.store}"]
    with monkeypatch.context() as patch:
        patch.setattr("bam_lightning.recipes.runner.save_job", lambda *_: None)
        patch.setattr("bam_lightning.analysis.job_report.save", lambda *_: None)
        found = run_recipe(compose(words), tmp_path / "out")
    assert found["average"] == trained.results["average"]
    assert all(job.state == "finished" for job in job_records.read_records(Store(trained.store)))
