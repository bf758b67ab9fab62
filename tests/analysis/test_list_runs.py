"""The inventory of a store: what is listed, what is unused, what is deleted and what is not."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bam_lightning import cli
from bam_lightning.config.compose import compose
from bam_lightning.recipes.runner import run_recipe
from bam_lightning.store.cleanup import delete, delete_records, entries, unused
from bam_lightning.store.job_records import read_records, save_record
from bam_lightning.store.run_store import Store
from forked_python import python

pytestmark = pytest.mark.xdist_group("runs")  # one process trains the store


def call(*arguments: str, answer: str = "") -> subprocess.CompletedProcess:
    """Run ``bam runs``."""
    return subprocess.run(
        [python(), "-m", "bam_lightning.cli", "runs", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        input=answer,
    )


TRAINED: dict[str, Path] = {}  # the store is trained once, and copied for each test


@pytest.fixture
def store(tiny_job, tmp_path, tmp_path_factory) -> Store:
    """A store with Single->Multi and Multi of two tasks: two teachers, two students."""
    if "store" not in TRAINED:
        for experiment in ("single_multi", "multi"):
            run_recipe(compose([f"+experiment={experiment}", *tiny_job]), tmp_path / experiment)
        TRAINED["store"] = tmp_path_factory.mktemp("trained") / "store"
        shutil.copytree(tmp_path / "store", TRAINED["store"])
    elif not (tmp_path / "store").exists():
        shutil.copytree(TRAINED["store"], tmp_path / "store")
    return Store(tmp_path / "store")


def test_runs_are_listed_with_who_needs_them(store):
    found = {entry.id: entry for entry in entries(store, read_records(store))}
    assert len(found) == 4
    teachers = [entry for entry in found.values() if entry.stage == "single"]
    assert {entry.users for entry in teachers} == {("single_multi",)}
    manifest = store.manifest(teachers[0].id)
    (task,) = teachers[0].tasks
    metric = {"rte": "accuracy", "stsb": "spearman"}[task]
    assert teachers[0].score == pytest.approx(100 * manifest["metrics"][task][metric])
    assert teachers[0].size > sum(path.stat().st_size for path in store.folder(teachers[0].id).glob("*.safetensors"))
    listed = call(f"--store={store.root}", "--task=rte", "--state=finished")
    assert listed.returncode == 0, listed.stderr
    assert f"3 of 4 Runs in {store.root}" in " ".join(listed.stdout.split())  # the title may be two lines


def test_an_empty_store_says_so(tmp_path, capsys):
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    assert cli.run(["runs", f"--store={tmp_path}/empty"]) == 0
    assert capsys.readouterr().out == f"no Run in {tmp_path}/empty yet; `bam train` trains them\n"


def test_nothing_that_a_job_needs_is_unused(store):
    assert unused(entries(store, read_records(store)), store) == []
    done = call(f"--store={store.root}", "--delete=unused")
    assert done.stdout == "nothing to delete: every Run is needed by a job\n"


def test_teachers_of_a_student_somebody_needs_stay(store):
    """The student is needed by a job of which the file names the student alone."""
    jobs = read_records(store)
    found = entries(store, [])
    assert len(unused(found, store)) == 4
    student = next(job for job in jobs if job.experiment == "single_multi").last[0]
    kept = [replace(entry, users=("x",)) if entry.id == student else entry for entry in found]
    assert [entry.stage for entry in unused(kept, store)] == ["multi"]


def test_forgotten_jobs_leave_runs_to_delete_after_asking(store):
    assert call(f"--store={store.root}", "--forget=multi", "--yes").returncode == 0
    asked = call(f"--store={store.root}", "--delete=unused", answer="n\n")
    assert asked.returncode == 1
    assert "nothing was changed" in asked.stdout
    assert len(list((store.root / "runs").iterdir())) == 4
    sure = call(f"--store={store.root}", "--delete=unused", answer="y\n")
    assert sure.returncode == 0
    assert sure.stdout.splitlines()[-1].endswith("deleted 1 Runs")
    assert len(list((store.root / "runs").iterdir())) == 3
    assert len(list((store.root / "outputs").iterdir())) == 3


def test_only_what_the_other_words_choose_is_deleted(store):
    assert call(f"--store={store.root}", "--forget=single_multi", "--yes").returncode == 0
    assert call(f"--store={store.root}", "--delete=unused", "--task=stsb", "--yes").returncode == 0
    left = [entry.tasks for entry in entries(store, [])]
    assert ("rte",) in left
    assert ("stsb",) not in left


def test_running_jobs_are_not_forgotten_and_their_given_teachers_stay(store):
    job = next(job for job in read_records(store) if job.experiment == "multi")
    teacher = next(entry.id for entry in entries(store, []) if entry.stage == "single")
    running = replace(job, state="running", stages={"student": ["notyet"]}, external_teachers=[teacher])
    save_record(store, running, "running")
    jobs = [one for one in read_records(store) if one.id == running.id]
    assert [one.state for one in jobs] == ["running"]
    assert teacher not in {entry.id for entry in unused(entries(store, jobs), store)}
    with pytest.raises(ValueError, match=r"^job multi seed 0 is running; wait for it, or stop it first$"):
        delete_records(store, jobs)


def test_a_run_without_its_manifest_is_damaged_and_can_be_deleted(store):
    (store.root / "runs" / "stray").mkdir()
    found = {entry.id: entry for entry in entries(store, read_records(store))}
    assert found["stray"].state == "damaged"
    assert [entry.id for entry in unused(found.values(), store)] == ["stray"]
    assert delete(store, "stray")
    assert not (store.root / "runs" / "stray").exists()


def test_a_store_of_nothing_but_runs_can_be_listed(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store.root / "runs", copy / "runs")
    done = call(f"--store={copy}")
    assert done.returncode == 0, done.stderr
    assert "4 of 4 Runs" in done.stdout
    asked = call(f"--store={copy}", "--delete=unused", answer="n\n")
    assert "this store has no record of a job" in asked.stdout


def test_check_reads_every_byte_names_what_is_damaged_and_deletes_it_when_asked(store):
    copy = store.root
    assert call(f"--store={copy}", "--check").returncode == 0
    student = next(path.parent for path in copy.glob("runs/*/run.json") if '"stage": "student"' in path.read_text())
    weights = student / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    teacher = next(path.parent for path in copy.glob("runs/*/run.json") if '"stage": "single"' in path.read_text())
    (teacher / "run.json").write_text("{")
    done = call(f"--store={copy}", "--check", "--state=damaged")
    assert done.returncode == 1
    assert f"{weights} is damaged: its hash is " in done.stderr
    assert "2 of 4 Runs" in done.stdout
    gone = call(f"--store={copy}", "--delete=damaged", "--yes")
    assert "deleted 2 Runs" in gone.stdout, gone.stderr
    assert not student.exists()
    assert not teacher.exists()
    assert "nothing to delete: no Run is damaged" in call(f"--store={copy}", "--delete=damaged").stdout


def test_a_run_in_training_is_no_prey(store):
    store.staging_dir("abc")
    states = {entry.id: entry.state for entry in entries(store, [])}
    assert states["abc"] == "stopped"
    with store.lock("abc").acquire():
        script = (
            "import sys; from bam_lightning.store.cleanup import delete, delete_records, entries, unused\n"
            "from bam_lightning.store.run_store import Store\nstore = Store(sys.argv[1])\n"
            "print([e.state for e in entries(store, []) if e.id == 'abc'], len(unused(entries(store, []), store)))"
        )
        seen = subprocess.run([python(), "-c", script, str(store.root)], capture_output=True, text=True, timeout=60)
    assert seen.stdout == "['in training'] 4\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--delete=all"], "error: delete names 'all'; choices: unused"),
        (["--forget=mutli"], "error: forget names 'mutli'; choices: multi, single_multi; did you mean 'multi'?"),
        (["--task=ret"], "error: task names 'ret'; choices: rte, stsb; did you mean 'rte'?"),
        (["--experiment=x"], "error: experiment names 'x'; choices: multi, single_multi"),
        (["--state=done"], "error: state names 'done'; choices: finished, in training, stopped, damaged"),
        (["--delete=unused", "--forget=multi"], "error: give either --delete or --forget, one after the other"),
        (["delete=all"], "error: `delete=all` is now `--delete all`; see `bam runs --help`"),
        (
            ["rte"],
            "error: Got unexpected extra argument(s) (rte); if a value has spaces, put quotes around it; see `bam runs "
            "--help`",
        ),
    ],
)
def test_a_bad_command_line_is_one_message(store, words, expected):
    done = call(f"--store={store.root}", *words)
    assert done.returncode == (2 if "bam runs --help" in expected else 1)
    assert done.stderr.splitlines()[-1].startswith(expected)
