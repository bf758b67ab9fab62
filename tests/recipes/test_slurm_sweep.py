"""A sweep on SLURM: who counts as dead and who does not, and that nothing is submitted twice; SLURM is a fake."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

import fake_slurm
from bam_lightning.recipes import job_results
from bam_lightning.recipes.job_results import JobResult
from bam_lightning.recipes.slurm import scheduler
from bam_lightning.recipes.slurm.options import Options, python_command
from bam_lightning.recipes.slurm.sweep import JobRequest, SubmittedJob, wait
from bam_lightning.store.job_records import read_records
from bam_lightning.store.run_store import Store
from forked_python import python as warm


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = fake_slurm.answers(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_slurm.path_with(folder))
    monkeypatch.setenv("BAM_LIGHTNING_SWEEP", "token")
    return folder


def ask(number: int, tmp_path: Path, **ended) -> JobRequest:
    """Return a job that an earlier sweep submitted; ``ended`` is what its outcome says."""
    theirs = tmp_path / "earlier" / f"{number}.json"
    if ended:
        job_results.write(theirs, JobResult(40 + number, f"seed={number}", **ended))
    ticket = SubmittedJob("bam-1", number, str(theirs), str(tmp_path / "logs"), [f"seed={number}"], f"12_{number}")
    where = job_results.path(tmp_path / "sweep", number)
    return JobRequest(number, [f"seed={number}"], None, Store(tmp_path / "store"), where, ticket)


def said(one: JobRequest) -> str:
    """Return the error in this sweep's outcome of a job."""
    found = job_results.read(one.result)
    assert (found.job, found.ended) == (one.number, True)
    return found.error


def test_one_dead_job_leaves_no_other_unread(commands, tmp_path, capsys):
    """Its reason is what SLURM says, and the last line of its log."""
    log = tmp_path / "logs" / "12_1" / "12_1_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("many words\nslurmstepd: error: Detected 1 oom-kill event\nsrun: Force Terminated StepId=4.0\n\n")
    (commands / "sacct.out").write_text("OUT_OF_MEMORY|n3|0:125\n")
    asked = [
        ask(0, tmp_path, error="", ended=True),
        ask(1, tmp_path, error=job_results.GONE, nodes=["n3"]),
        ask(2, tmp_path, error="no such file", ended=True),
        ask(3, tmp_path),
    ]
    wait(asked, Options(poll_s=0.01, patience_s=0.02))
    reason = "SLURM job 12_{} ended without a result: OUT_OF_MEMORY on n3, exit code 0:125; {}"
    assert [said(one) for one in asked] == [
        "",
        reason.format(1, f"{log}: slurmstepd: error: Detected 1 oom-kill event"),
        "no such file",
        reason.format(3, "no log"),
    ]
    assert job_results.read(asked[1].result).nodes == ["n3"]
    assert "job 0 is finished\n" in capsys.readouterr().err


def at_look(number: int, action, monkeypatch) -> None:
    """Do ``action`` when the queue is looked at for that time."""
    looks, look = [], scheduler.queued

    def queued(names):
        looks.append(names)
        if len(looks) == number:
            action()
        return look(names)

    monkeypatch.setattr(scheduler, "queued", queued)


def finish(one: JobRequest, *nodes: str) -> None:
    """Write the outcome of a job that went well."""
    job_results.write(Path(one.submitted.result), JobResult(0, "", error="", ended=True, nodes=list(nodes)))


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "TIMEOUT"])
def test_what_accounting_calls_dead_lives_while_it_is_in_the_queue(state, commands, tmp_path, monkeypatch):
    """While SLURM holds a job to start it again, sacct shows the end of its last start."""
    (commands / "sacct.out").write_text(f"{state}|n3|0:0\n")
    (commands / "squeue.out").write_text("bam-1|12|0|12_0|PENDING|BeginTime\n")
    one = ask(0, tmp_path, error=job_results.GONE, nodes=["n3"])
    at_look(10, lambda: finish(one, "n3", "n1"), monkeypatch)
    wait([one], Options(poll_s=0.01, patience_s=0.02))
    assert said(one) == ""
    assert job_results.read(one.result).nodes == ["n3", "n1"]


def test_a_queue_that_does_not_answer_is_no_end(commands, tmp_path, monkeypatch):
    (commands / "squeue.rc").write_text("1")
    one = ask(0, tmp_path)
    at_look(10, lambda: finish(one), monkeypatch)
    wait([one], Options(poll_s=0.01, patience_s=0.02))
    assert said(one) == ""


def test_a_job_that_slurm_holds_is_said_once(commands, tmp_path, monkeypatch, capsys):
    (commands / "squeue.out").write_text("bam-1|12|0|12_0|PENDING|launch failed requeued held\n")
    one = ask(0, tmp_path)
    at_look(3, lambda: finish(one), monkeypatch)
    wait([one], Options(poll_s=0.01))
    assert capsys.readouterr().err.splitlines() == [
        "SLURM holds job 12_0 (launch failed requeued held); it goes on after: scontrol release 12_0",
        "job 0 is finished",
    ]


def command(*more: str) -> list[str]:
    words = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.2", "hydra.launcher.patience_s=3"]
    return [warm(), "-m", "bam_lightning.train", "-m", "+experiment=multi", *words, *more]


@pytest.mark.slow
@pytest.mark.release
def test_a_submitting_process_may_die_and_be_started_again(tiny_job, tmp_path, monkeypatch):
    """The second call finds the jobs of the first, the third finds them finished; a failed one is submitted again."""
    pytest.importorskip("submitit")
    folder = fake_slurm.machine(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_slurm.path_with(folder))
    words = command(*tiny_job, "optimization.multi.epochs=20", "optimization.learning_rate=1e-3,1e30")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if line == "submitted to SLURM: 2 of 2 jobs, as 70\n":
                break
        first.send_signal(signal.SIGKILL)
    second = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert second.returncode == 1, second.stderr
    assert [f"job {n} is in SLURM already: 70_{n}, RUNNING" in second.stderr for n in (0, 1)] == [True, True]
    assert "submitted" not in second.stderr
    lines = [line for line in second.stderr.splitlines() if "SLURM job" in line]
    for number, (line, rate) in enumerate(zip(lines, ("0.001", "1e+30"), strict=True)):
        head = f"  job {number} (optimization.learning_rate={rate}): SLURM job 70_{number} on here{number}; "
        assert line.startswith(f"{head}{tmp_path}/multirun/")
    assert "sweep: 2 jobs ended, 1 of them failed" in second.stderr
    assert "job 1 (optimization.learning_rate=1e+30): Non-finite gradient at step " in second.stderr
    while "RUNNING" in subprocess.run(["squeue"], capture_output=True, text=True, timeout=60, check=True).stdout:
        time.sleep(0.1)  # a job whose results are there may still be ending
    third = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert third.stderr.splitlines()[0] == "job 0 is finished"
    assert "submitted to SLURM: 1 of 2 jobs, as 71" in third.stderr
    assert len(list(folder.glob("*.sbatch"))) == 2
    assert f" {python_command()} -u -m submitit.core._submit " in (folder / "70.sbatch").read_text()
    assert sorted(job.state for job in read_records(Store(tmp_path / "store"))) == ["failed", "finished"]


@pytest.mark.slow
def test_what_sbatch_refuses_is_one_message_and_leaves_no_record(tiny_job, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    folder = fake_slurm.answers(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_slurm.path_with(folder))
    (folder / "sbatch.rc").write_text("1")
    (folder / "sbatch.err").write_text("sbatch: error: invalid partition specified: gpuu\n")
    done = subprocess.run(command(*tiny_job, "seed=0,1"), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: sbatch refused the jobs: ")
    assert line.endswith("invalid partition specified: gpuu; see hydra.launcher")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "store" / "slurm").iterdir()) == []


def test_without_slurm_the_launcher_says_what_is_missing(tiny_job, monkeypatch):
    monkeypatch.setenv("PATH", "/absent")
    done = subprocess.run(command(*tiny_job, "seed=0,1"), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: hydra/launcher=slurm needs sbatch, srun, squeue, scontrol on the PATH; call it where you call "
        "sbatch, or use hydra/launcher=joblib on this machine"
    )
