"""Sweeps from the command line: what fails is named, what is there is not trained again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import JobResult
from bam_lightning.recipes.local_sweep import KILLED
from bam_lightning.store.job_records import read_records
from bam_lightning.store.run_store import Store
from forked_python import python


def command(*arguments: str) -> list[str]:
    """Return the command line of a sweep."""
    return [python(), "-m", "bam_lightning.train", "-m", *arguments]


def call(*arguments: str) -> subprocess.CompletedProcess:
    """Run a sweep."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


def trained(log: str) -> list[str]:
    """Return the ids of the Runs that a log says were trained."""
    return [line.split("(")[1].split(")")[0] for line in log.splitlines() if "examples/s" in line and "(" in line]


def test_a_failed_job_stops_no_other_and_the_same_command_finishes_it(tiny_job, tmp_path):
    bad = "suite.tasks.rte.path"
    wanted = ["+experiment=multi", *tiny_job, f"{bad}={tmp_path}/absent,nyu-mll/glue", "hydra.sweep.dir=sweep"]
    done = call(*wanted)
    assert done.returncode == 1
    assert "sweep: 2 jobs ended, 1 of them failed; " in done.stderr
    assert f"job 0 ({bad}={tmp_path}/absent): task 'rte'" in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1] == "  the same command does only what is missing"
    assert len(trained(done.stderr)) == 1
    for split in ("train", "validation"):
        source = tmp_path / "data" / "rte" / f"{split}.parquet"
        (tmp_path / "absent").mkdir(exist_ok=True)
        (tmp_path / "absent" / source.name).write_bytes(source.read_bytes())
    again = call(*wanted)
    assert again.returncode == 0, again.stderr
    assert trained(again.stderr) == []  # the same rows from another folder are the same Run
    assert "sweep: 2 jobs ended, 0 of them failed" in again.stderr


@pytest.mark.release
def test_failures_are_counted_whatever_the_folders_are_called(tiny_job):
    done = call(
        "+experiment=multi", *tiny_job, "optimization.learning_rate=-1,1e-3", "hydra.sweep.subdir=a/${hydra.job.num}"
    )
    assert done.returncode == 1
    assert "sweep: 2 jobs ended, 1 of them failed" in done.stderr


@pytest.mark.release
def test_a_job_that_fails_in_training_says_so_in_the_store(tiny_job, tmp_path):
    done = call("+experiment=multi", *tiny_job, "optimization.learning_rate=1e30", "seed=0,1")
    assert done.returncode == 1
    jobs = read_records(Store(tmp_path / "store"))
    assert [job.state for job in jobs] == ["failed", "failed"]
    assert all(job.reason.startswith("Non-finite gradient at step ") for job in jobs)


@pytest.mark.release
def test_students_of_a_sweep_share_their_teachers(tiny_job, tmp_path):
    done = call("+experiment=single,single_multi", *tiny_job, "seed=0,1")
    assert done.returncode == 0, done.stderr
    ids = trained(done.stderr)
    assert len(ids) == len(set(ids)) == 2 * 2 + 2  # two tasks alone from two seeds, and two students
    own = call("+experiment=single_multi", *tiny_job, "seed=0,1", "teacher_seed=${seed}")
    assert len(trained(own.stderr)) == 1  # teachers of seed 1 are there, a student of theirs is not
    jobs = [job for job in read_records(Store(tmp_path / "store")) if job.experiment == "single_multi"]
    assert sorted((job.seed, job.teacher_seed) for job in jobs) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.release
def test_a_killed_joblib_worker_costs_its_job_and_no_other(tiny_job, tmp_path):
    """Two jobs, two workers, one of them killed before it has trained; the next call trains that Run alone."""
    wanted = ["+experiment=multi", *tiny_job, "seed=0,1"]
    store, log = Store(tmp_path / "store"), tmp_path / "log"
    with log.open("w") as sink:
        words = command(*wanted, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        first = subprocess.Popen(words, stderr=sink)
    deadline = time.monotonic() + 100
    while not (records := list((store.root / "jobs").glob("*.json"))):
        assert time.monotonic() < deadline, log.read_text()
        assert first.poll() is None, log.read_text()
        time.sleep(0.01)
    os.kill(json.loads(records[0].read_text())["pid"], signal.SIGKILL)
    assert first.wait() == 1
    assert "sweep: 2 jobs ended, 1 of them failed" in log.read_text()
    assert f": {KILLED}" in log.read_text().splitlines()[-2]
    assert sorted(job.state for job in read_records(store)) == ["finished", "stopped"]
    (before,) = (store.root / "runs").iterdir()
    again = call(*wanted)
    assert again.returncode == 0, again.stderr
    assert len(trained(log.read_text())) == len(trained(again.stderr)) == 1
    assert len({before.name, *trained(log.read_text()), *trained(again.stderr)}) == 2
    assert [job.state for job in read_records(store)] == ["finished"] * 2


@pytest.mark.slow
def test_n_jobs_is_checked(tmp_path):
    done = call("hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "seed=0,1")
    assert done.returncode == 1
    assert done.stderr == "error: hydra.launcher.n_jobs must be -1 (as many as CPU cores) or at least 1, got 0\n"


@pytest.mark.slow
def test_processes_on_one_empty_store_build_each_run_once(tiny_job, tmp_path, pytestconfig):
    """The same sweep, started at once by several processes, which share nothing but the store."""
    count = pytestconfig.getoption("processes")
    wanted = command("+experiment=single_multi", *tiny_job, f"seed=range({count})", "teacher_seed=0,1")
    logs = [tmp_path / f"{number}.log" for number in range(count)]
    begun = time.monotonic()
    with contextlib.ExitStack() as opened:
        sinks = [opened.enter_context(log.open("w")) for log in logs]
        every = [
            subprocess.Popen([*wanted, f"hydra.sweep.dir={log.stem}"], stdout=sink, stderr=sink)
            for log, sink in zip(logs, sinks, strict=True)
        ]
        assert [one.wait(timeout=500) for one in every] == [0] * count, logs[0].read_text()[-3000:]
    together = time.monotonic() - begun
    built = [run_id for log in logs for run_id in trained(log.read_text())]
    assert len(built) == len(set(built)) == 2 * 2 + 2 * count
    assert {path.name for path in (tmp_path / "store" / "runs").iterdir()} == set(built)
    assert [job.state for job in read_records(Store(tmp_path / "store"))] == ["finished"] * 2 * count
    print(f"{count} processes: {together:.1f} s, each built {[len(trained(log.read_text())) for log in logs]}")


@pytest.mark.slow
@pytest.mark.release
def test_submitit_runs_the_same_jobs_in_processes_of_its_own(tiny_job, tmp_path):
    done = call("+experiment=single_multi", *tiny_job, "seed=0,1", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert "sweep: 2 jobs ended, 0 of them failed" in done.stderr
    assert [job.state for job in read_records(Store(tmp_path / "store"))] == ["finished"] * 2
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 2 + 2


def test_an_error_that_is_no_ours_leaves_its_traceback(monkeypatch, tmp_path, capsys):
    from bam_lightning.recipes import multirun

    settings = SimpleNamespace(
        mode=multirun.RunMode.MULTIRUN,
        overrides=SimpleNamespace(task=["seed=1"]),
        sweep=SimpleNamespace(dir=str(tmp_path)),
        job=SimpleNamespace(num=3),
        runtime=SimpleNamespace(output_dir=str(tmp_path / "job")),
    )
    monkeypatch.setattr(multirun.HydraConfig, "get", lambda: settings)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def broken(tree):
        raise KeyError("deep inside")

    multirun.guarded(broken, lambda error: False, str)(None)
    (path,) = (tmp_path / "outcomes").rglob("3.json")
    error = "KeyError: 'deep inside'"
    assert job_results.read(path) == JobResult(3, "seed=1", error, ended=True, folder=str(tmp_path / "job"))
    assert "in broken" in (tmp_path / "job" / "error.txt").read_text()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Traceback (most recent call last):"  # a job on a cluster has its log and nothing else
    assert said[-1] == f"job 3 (seed=1) failed: {error}"
