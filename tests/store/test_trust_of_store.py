"""Stores of other users, odd records, jobs that run elsewhere, checkpoints of other conditions, needs that are gone."""

from __future__ import annotations

import json
import os
import time

import pytest

from bam_lightning.analysis.list_runs import RunsOptions, job
from bam_lightning.config.exceptions import StoreError
from bam_lightning.store import job_records, lock
from bam_lightning.store.atomic_io import ABANDONED_SECONDS
from bam_lightning.store.job_records import job_lock, read_records
from bam_lightning.store.run_store import Store
from fake_store import FakeStore


@pytest.fixture
def fake(tmp_path) -> FakeStore:
    found = FakeStore(tmp_path / "store")
    found.add("single", 0, {"rte": 0.5})
    return found


def refuse(monkeypatch, function: str, part: str) -> None:
    """Let a function of ``os`` answer as it does for another user's folder; a superuser may read everything."""
    original = getattr(os, function)

    def refused(path, *arguments, **options):
        if part in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, function, refused)


@pytest.mark.parametrize(("function", "part"), [("scandir", "store"), ("stat", "runs")])
def test_an_unreadable_store_is_one_sentence(fake, monkeypatch, function, part):
    refuse(monkeypatch, function, part)
    with pytest.raises(StoreError) as caught:
        job(RunsOptions(store=str(fake.store.root)))
    assert str(caught.value) == (
        f"cannot read {fake.store.root} (Permission denied): it may be another user's; ask for the right to read it "
        "(chmod), or give another store"
    )


def test_an_unreadable_run_is_not_damaged_and_not_deleted(fake, monkeypatch):
    refuse(monkeypatch, "stat", "single-1/run.json")
    with pytest.raises(StoreError, match=r"^cannot read .*single-1 \(Permission denied\)"):
        job(RunsOptions(store=str(fake.store.root), delete="damaged", yes=True))
    monkeypatch.undo()
    assert fake.store.finished("single-1")


def test_odd_things_among_records_are_removed_as_damaged(fake):
    folder = fake.store.root / "jobs"
    (folder / "folder.json" / "inner").mkdir(parents=True)
    (folder / "link.json").symlink_to("nowhere")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "number.json").write_text("1" * 5000)
    assert len(read_records(fake.store)) == 1
    assert job(RunsOptions(store=str(fake.store.root), delete="damaged", yes=True)) == 0
    assert [path.stem for path in folder.iterdir()] == [read_records(fake.store)[0].id]


def test_files_that_a_killed_writer_left_are_cleared(fake):
    left, fresh = fake.store.root / "jobs" / "a.json.12.part", fake.store.root / "outputs" / "b.13.part"
    for path in (left, fresh):
        path.write_text("half")
    os.utime(left, (time.time() - ABANDONED_SECONDS - 1,) * 2)
    job(RunsOptions(store=str(fake.store.root), delete="unused", yes=True))
    assert (left.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("pid", [0, -1, 2**70, 2**22 + 1])
def test_a_process_that_cannot_be_is_gone(fake, pid):
    fake.add("multi", 0, {"rte": 0.5}, done=False, state="running", pid=pid)
    assert [record.state for record in read_records(fake.store)] == ["finished", "stopped"]


@pytest.mark.parametrize("host", ["elsewhere", None])
def test_a_job_that_trains_in_another_container_is_not_listed_as_stopped(fake, host):
    """Its process is not to be seen here, and it holds no lock of a Run between two of them."""
    elsewhere = {"host": host} if host else {}
    record = fake.add("multi", 0, {"rte": 0.5}, done=False, state="running", pid=2**22 + 1, **elsewhere)
    with job_lock(fake.store, record).acquire():
        assert [record.state for record in read_records(Store(fake.store.root))] == ["finished", "running"]
    assert [record.state for record in read_records(fake.store)] == ["finished", "stopped"]


def test_a_job_in_a_store_that_may_only_be_read_is_seen_by_the_file_that_it_touches(fake, monkeypatch):
    record = fake.add("multi", 0, {"rte": 0.5}, done=False, state="running", host="elsewhere")
    held = job_lock(fake.store, record).acquire()
    monkeypatch.setattr(lock.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert read_records(fake.store)[1].state == job_records.RUNNING
    held.release()
    assert read_records(fake.store)[1].state == job_records.STOPPED


def test_a_copied_record_and_a_copied_run_count_once(fake):
    path = next((fake.store.root / "jobs").glob("*.json"))
    (path.parent / "copy.json").write_text(path.read_text())
    assert len(read_records(fake.store)) == 1
    manifest = json.loads((fake.store.folder("single-1") / "run.json").read_text())
    (fake.store.root / "runs" / "copy").mkdir()
    (fake.store.root / "runs" / "copy" / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="has the files of another Run, 'single-1'"):
        fake.store.manifest("copy")
