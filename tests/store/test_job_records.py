"""Records of jobs: odd files are damaged and named, copies do not count, old stores are refused."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict

import pytest

from bam_lightning.analysis.list_runs import RunsOptions, job
from bam_lightning.store.cleanup import verify
from bam_lightning.store.job_records import damaged_records, read_records
from bam_lightning.store.run_dir import manifest_digest
from bam_lightning.store.run_store import Store
from fake_store import FakeStore


@pytest.fixture
def fake(tmp_path) -> FakeStore:
    return FakeStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "not a JSON object"),
        ("{}", "experiment is missing"),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
    ],
)
def test_an_odd_file_is_damaged_and_the_others_are_read(fake, text, reason):
    fake.add("single", 0, {"rte": 0.5})
    path = fake.store.root / "jobs" / "odd.json"
    path.write_text(text)
    assert [record.experiment for record in read_records(fake.store)] == ["single"]
    expected = f"{path} is damaged: not the record of a job ({reason}); `bam runs --delete damaged` removes it"
    assert damaged_records(fake.store) == {path: expected}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("stages", 3, "stages is 3, expected dict[str, list[str]]"),
        ("stages", {"last": [1]}, "stages is {'last': [1]}, expected dict[str, list[str]]"),
        ("stages", {}, "a stage has no Run"),
        ("seed", True, "seed is True, expected int"),
        ("metrics", {"rte": None}, "metrics is {'rte': None}, expected dict[str, str]"),
    ],
)
def test_a_field_of_another_type_is_named(fake, field, value, reason):
    record = fake.add("single", 0, {"rte": 0.5})
    path = fake.store.root / "jobs" / f"{record.id}.json"
    path.write_text(json.dumps(asdict(record) | {field: value}))
    assert f"({reason})" in damaged_records(fake.store)[path]
    assert read_records(fake.store) == []


def test_a_field_of_a_later_version_is_ignored(fake):
    record = fake.add("single", 0, {"rte": 0.5})
    (fake.store.root / "jobs" / f"{record.id}.json").write_text(json.dumps(asdict(record) | {"color": "red"}))
    assert len(read_records(fake.store)) == 1


def test_a_copied_record_is_not_a_second_job(fake):
    record = fake.add("single", 0, {"rte": 0.5})
    copy = fake.store.root / "jobs" / "copy.json"
    copy.write_text(json.dumps(asdict(record)))
    assert len(read_records(fake.store)) == 1
    assert f"a copy of job {record.id}" in damaged_records(fake.store)[copy]


def test_delete_damaged_removes_records_runs_and_abandoned_files(fake, capsys):
    fake.add("single", 0, {"rte": 0.5})
    fake.add("single", 1, {"rte": 0.6})
    odd, edited = fake.store.root / "jobs" / "odd.json", fake.store.folder("single-2") / "run.json"
    odd.write_text("{}")
    edited.write_text(edited.read_text().replace("0.6", "0.9"))
    old, new = (fake.store.root / "jobs" / f"x.json.{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    options = RunsOptions(store=str(fake.store.root), check=True)
    assert job(options) == 1
    listed = capsys.readouterr()
    assert f"{odd} is damaged: not the record of a job (experiment is missing)" in listed.err
    assert f"{edited} is damaged (it was edited after the Run had finished)" in listed.err
    assert job(RunsOptions(store=str(fake.store.root), delete="damaged", yes=True)) == 0
    assert "deleted 1 Runs and 1 damaged records" in capsys.readouterr().out
    assert not odd.exists()
    assert not edited.parent.exists()
    assert (old.exists(), new.exists()) == (False, True)  # another process may still be writing the new one
    assert job(options) == 0


@pytest.mark.parametrize("field", ["metrics", "versions", "seed", "digest"])
def test_an_edited_manifest_fails_the_check(fake, field):
    fake.add("single", 0, {"rte": 0.5})
    path = fake.store.folder("single-1") / "run.json"
    assert verify(fake.store, "single-1") is None
    manifest = json.loads(path.read_text())
    edits = {"metrics": {"rte": {"accuracy": 0.9}}, "versions": {}, "seed": 7, "digest": "0" * 64}
    path.write_text(json.dumps(manifest | {field: edits[field]}))
    assert verify(fake.store, "single-1") == (
        f"{path} is damaged (it was edited after the Run had finished); "
        f"delete {path.parent}, and the Run is trained anew"
    )
    path.write_text(json.dumps(manifest))  # another layout of the same JSON
    assert verify(fake.store, "single-1") is None


@pytest.mark.parametrize("field", ["metrics", "finished", "versions"])
def test_a_manifest_without_a_field_is_damaged(fake, field):
    fake.add("single", 0, {"rte": 0.5})
    path = fake.store.folder("single-1") / "run.json"
    manifest = json.loads(path.read_text())
    del manifest[field]
    path.write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))
    assert f"is damaged ({field} is missing)" in (verify(fake.store, "single-1") or "")


def test_a_nan_score_survives_the_store(fake):
    fake.add("single", 0, {"rte": float("nan")})
    assert verify(fake.store, "single-1") is None
    assert job(RunsOptions(store=str(fake.store.root), check=True)) == 0


def test_a_store_of_version_01_is_refused_in_one_sentence(tmp_path):
    folder = tmp_path / "store" / "runs" / "abc"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"spec": {"algorithm": 3}, "metrics": {}}))
    expected = (
        f"the store at {tmp_path / 'store'} was written by another version (bam_lightning 0.1), whose Runs this "
        "version cannot use; give another paths.store, or delete it"
    )
    for create in (True, False):
        with pytest.raises(ValueError) as caught:
            Store(tmp_path / "store", create=create)
        assert str(caught.value) == expected


def test_a_store_of_a_later_format_is_refused(tmp_path):
    Store(tmp_path / "store")
    (tmp_path / "store" / "format").write_text("3\n")
    with pytest.raises(ValueError, match=r"written by another version \(format 3\)"):
        Store(tmp_path / "store")
