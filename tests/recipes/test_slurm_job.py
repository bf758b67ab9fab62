"""A job that was told to stop: who has it started again, who does not; SLURM's commands are fakes."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

import fake_slurm
from bam_lightning.config.signals import Stopped
from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import JobResult
from bam_lightning.recipes.slurm import job, scheduler
from bam_lightning.recipes.slurm.job import Task, requeue

REQUEUE = "scontrol requeue 12_3\n"
STATE = "squeue -h -r -j 12_3 -o %T\n"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node of SLURM: the folder of its commands."""
    folder = fake_slurm.answers(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_slurm.path_with(folder))
    monkeypatch.setenv("BAM_LIGHTNING_SWEEP", "token")
    monkeypatch.setattr(scheduler, "PAUSE_SECONDS", 0.0)
    where = {"JOB_ID": "17", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "JOB_NODELIST": "n1", "PROCID": "0"}
    for name, value in where.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    (folder / "calls").touch()
    return folder


@pytest.fixture
def path(node, tmp_path):
    """Where the result of job 3 lies."""
    found = job_results.path(tmp_path, 3)
    job_results.begin(found, 3, "seed=3", "out/3")
    return found


@pytest.mark.parametrize(
    ("number", "state", "calls"),
    [
        ("SIGUSR2", "RUNNING", REQUEUE),  # a time limit or a pre-emption is near
        ("SIGTERM", "RUNNING", STATE + REQUEUE),  # a pre-emption that sends nothing else
        ("SIGTERM", "", STATE + REQUEUE),  # the queue does not answer: better once too often
        ("SIGTERM", "COMPLETING", STATE),  # scancel, or SLURM starts it again of itself
    ],
)
def test_a_stopped_job_is_started_again_unless_it_is_cancelled(number, state, calls, node, path, tmp_path):
    (node / "squeue.out").write_text(state)
    requeue(Stopped(signal.Signals[number], 5), str(tmp_path), 3, 20)
    assert (node / "calls").read_text() == calls
    result = job_results.read(path)
    assert (result.ended, result.slurm, result.nodes) == (False, "12_3", ["n1"])


def test_a_job_is_not_started_again_for_ever(node, path, tmp_path, monkeypatch):
    stop = Stopped(signal.SIGUSR2, 5)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    requeue(stop, str(tmp_path), 3, 2)
    assert not job_results.read(path).ended
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    requeue(stop, str(tmp_path), 3, 2)
    assert (node / "calls").read_text() == REQUEUE
    result = job_results.read(path)
    assert result.ended
    assert (
        result.error == "stopped by SIGUSR2, saved after step 5, after 2 new starts; hydra.launcher.max_requeues is 2"
    )


def test_a_job_that_slurm_does_not_start_again_says_so(node, path, tmp_path):
    (node / "scontrol.rc").write_text("1")
    (node / "scontrol.err").write_text("Job is no longer there\n")
    requeue(Stopped(signal.SIGUSR2), str(tmp_path), 3, 20)
    assert job_results.read(path) == JobResult(
        job=3,
        overrides="seed=3",
        error="SLURM does not start job 12_3 again: Job is no longer there; "
        "the same command goes on from its checkpoint",
        ended=True,
        folder="out/3",
        slurm="12_3",
        nodes=["n1"],
    )


def test_the_first_process_of_a_job_has_it_started_again(node, path, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "WAIT_FOR_RANK_0_SECONDS", 0)
    monkeypatch.setenv("SLURM_PROCID", "1")
    requeue(Stopped(signal.SIGUSR2), str(tmp_path), 3, 20)
    assert (node / "calls").read_text() == ""


def test_each_start_is_written_down(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n4")
    assert job_results.begin(path, 3, "seed=3", "out/3").nodes == ["n1", "n4"]


@pytest.mark.parametrize(("error", "status"), [("", None), ("no such file", 1)])
def test_slurm_hears_of_a_failed_job(error, status, node, path, tmp_path, monkeypatch):
    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path))))

    def run(self, *given):
        job_results.write(path, JobResult(3, "seed=3", error=error, ended=True))
        return SimpleNamespace(status=job.JobStatus.COMPLETED)

    monkeypatch.setattr(Task, "_run", run)
    task = Task(None, None, config, "token", 20)
    if status is None:
        task([], 3, {})
    else:
        with pytest.raises(SystemExit) as caught:
            task([], 3, {})
        assert caught.value.code == status


def test_a_signal_anywhere_in_a_job_has_it_started_again(node, path, tmp_path, monkeypatch):
    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path))))
    monkeypatch.setattr(Task, "_run", lambda *given: signal.raise_signal(signal.SIGUSR2))
    with pytest.raises(SystemExit) as caught:
        Task(None, None, config, "token", 20)([], 3, {})
    assert caught.value.code == 128 + signal.SIGUSR2
    assert (node / "calls").read_text() == REQUEUE
