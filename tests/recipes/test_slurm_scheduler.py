"""What SLURM's commands say, and what is made of it; the commands are fakes that print what they do."""

from __future__ import annotations

import pytest

import fake_slurm
from bam_lightning.recipes.slurm import scheduler
from bam_lightning.recipes.slurm.scheduler import Place, Queued


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = fake_slurm.answers(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_slurm.path_with(folder))
    monkeypatch.setattr(scheduler, "PAUSE_SECONDS", 0.0)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_the_queue_is_read_by_name_and_index(commands):
    (commands / "squeue.out").write_text(
        "bam-1|12|0|12_0|RUNNING|None\nbam-1|12|7|12_7|PENDING|JobArrayTaskLimit\nbam-2|15|N/A|15|PENDING|(a|b)\n"
    )
    assert scheduler.queued({"bam-2", "bam-1"}) == {
        ("bam-1", 0): Queued("12_0", "RUNNING", "None"),
        ("bam-1", 7): Queued("12_7", "PENDING", "JobArrayTaskLimit"),
        ("bam-2", 0): Queued("15", "PENDING", "(a|b)"),
    }
    assert (commands / "calls").read_text() == "squeue -h -r -n bam-1,bam-2 -o %j|%F|%K|%i|%T|%r\n"


def test_a_queue_that_does_not_answer_is_not_an_empty_one(commands, monkeypatch):
    assert scheduler.queued([]) == {}
    assert scheduler.queued(["bam"]) == {}
    (commands / "squeue.rc").write_text("1")
    assert scheduler.queued(["bam"]) is None
    monkeypatch.setenv("PATH", "")
    assert scheduler.queued(["bam"]) is None
    assert scheduler.state("12") == ""


def test_how_a_job_ended_is_said_with_and_without_accounts(commands):
    (commands / "sacct.out").write_text("OUT_OF_MEMORY|n3|0:125\n")
    assert scheduler.end("12_3") == "OUT_OF_MEMORY on n3, exit code 0:125"
    (commands / "sacct.out").write_text("FAILED|n1|1:0\nCANCELLED by 1000|n3|0:0\n")  # a start each; the last counts
    assert scheduler.end("12_3") == "CANCELLED by 1000 on n3, exit code 0:0"
    (commands / "sacct.rc").write_text("1")
    (commands / "squeue.out").write_text("TIMEOUT on n2\n")
    assert scheduler.end("12_3") == "TIMEOUT on n2"
    (commands / "squeue.out").write_text("")
    assert scheduler.end("12_3") == "it is in no queue, and this cluster keeps no accounts"


def test_a_refused_requeue_is_tried_again_and_then_said(commands):
    scheduler.requeue("12_3")
    (commands / "scontrol.rc").write_text("1")
    (commands / "scontrol.err").write_text("Requested operation is presently disabled\n")
    with pytest.raises(RuntimeError) as caught:
        scheduler.requeue("12_3")
    assert str(caught.value) == (
        "SLURM does not start job 12_3 again: Requested operation is presently disabled; "
        "the same command goes on from its checkpoint"
    )
    assert (commands / "calls").read_text() == "scontrol requeue 12_3\n" * (1 + scheduler.TRIES)


def test_missing_commands_are_named(commands, monkeypatch):
    scheduler.check_commands()
    (commands / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(commands))
    with pytest.raises(RuntimeError) as caught:
        scheduler.check_commands()
    assert str(caught.value) == (
        "hydra/launcher=slurm needs sbatch on the PATH; call it where you call sbatch, or use "
        "hydra/launcher=joblib on this machine"
    )


def test_a_job_knows_its_place(commands, monkeypatch):
    assert scheduler.here() is None
    assert scheduler.rank() == 0
    for name, value in {"JOB_ID": "17", "JOB_NODELIST": "n[1-2]", "PROCID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert scheduler.here() == Place("17", "n[1-2]", 0)
    assert scheduler.rank() == 1
    for name, value in {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "4", "RESTART_COUNT": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert scheduler.here() == Place("12_4", "n[1-2]", 3)
