"""Sweeps on a real SLURM of four virtual nodes: nodes die, jobs are pre-empted, and nothing is lost."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bam_lightning.store.job_records import read_records
from bam_lightning.store.run_store import Store
from real_slurm import Absent, running, until

pytestmark = pytest.mark.slurm
TOP = Path(__file__).resolve().parents[2]
LONG = 240  # seconds that anything may take, on a machine with other work


@pytest.fixture(scope="module")
def cluster():
    try:
        with running(TOP / "build" / "slurm") as found:
            yield found
    except Absent as why:
        pytest.skip(f"no SLURM: {why}")


class Sweep:
    """A sweep over seeds on the cluster: its command, its gates, its first submitting process."""

    def __init__(self, cluster, tiny_job, folder: Path, seeds: int) -> None:
        self.cluster, self.folder, self.gates = cluster, folder, folder / "gates"
        self.gates.mkdir()
        self.words = [sys.executable, "-m", "bam_lightning.train", "-m", "+experiment=multi", *tiny_job]
        self.words += [f"seed=range({seeds})", "distillation.schedule._target_=gated.Linear"]
        self.slurm = ["hydra/launcher=slurm", "hydra.launcher.timeout_min=60", "hydra.launcher.signal_delay_s=55"]
        self.slurm += ["hydra.launcher.poll_s=0.5", "hydra.launcher.patience_s=5", "hydra.launcher.mem_gb=0.5"]
        self.env = {**os.environ, "PYTHONPATH": f"{TOP}/src:{TOP}/tests", "BAM_TEST_GATES": str(self.gates)}

    def gate(self, *names: str) -> None:
        for name in names:
            (self.gates / name).touch()

    def open(self, name: str) -> None:
        (self.gates / name).unlink()

    def begin(self, log: str) -> subprocess.Popen:
        """Call the command; what it says goes into a file."""
        with (self.folder / log).open("w") as said:
            env = self.env | self.cluster.env
            return subprocess.Popen([*self.words, *self.slurm], stdout=said, stderr=said, env=env, cwd=self.folder)

    def array(self, log: str) -> str:
        """Return the number of the array, once it has been submitted."""
        until(lambda: "submitted to SLURM: " in self.said(log), LONG, "submitted")
        return re.search(r"submitted to SLURM: .* as (\d+)\n", self.said(log))[1]

    def said(self, log: str) -> str:
        return (self.folder / log).read_text()

    def at(self, index: int) -> None:
        """Wait until a job is in the middle of its training."""
        until((self.gates / f"at-{index}").exists, LONG, f"job {index} trains")

    def node(self, job: str) -> str:
        return self.cluster.call("squeue", "-h", "-r", "-j", job, "-o", "%N").strip()

    def job_log(self, job: str) -> str:
        """Return what a job has said, in all its starts."""
        return "".join(path.read_text() for path in self.folder.glob(f"multirun/*/.submitit/{job}/*_log.err"))

    def ends(self, process: subprocess.Popen, log: str, status: int) -> str:
        """Wait for the command's end; return what it said."""
        try:
            assert process.wait(timeout=2 * LONG) == status, self.said(log)
        finally:
            process.kill()
        return self.said(log)


def known(store: Path) -> dict[str, tuple]:
    """Return for each finished Run its scores and the hash of its weights."""
    found = {}
    for path in (store / "runs").iterdir():
        manifest = json.loads((path / "run.json").read_text())
        found[path.name] = (manifest["metrics"], manifest["files"]["model.safetensors"])
    return found


def each_run_was_trained_once_and_as_locally(sweep: Sweep, array: str) -> None:
    """Count the Runs in the logs of twelve jobs; compare weights and scores with those of a local sweep."""
    folder = sweep.folder
    logs = "".join(sweep.job_log(f"{array}_{index}") for index in range(12))
    trained = collections.Counter(re.findall(r"\((\w+)\): .* examples/s", logs))
    runs = known(folder / "store")
    assert trained == dict.fromkeys(runs, 1)
    assert len(runs) == len(list(folder.glob("multirun/*/*/results.json"))) == 12
    assert [job.state for job in read_records(Store(folder / "store"))] == ["finished"] * 12

    local = [word.replace(str(folder / "store"), str(folder / "local")) for word in sweep.words]
    subprocess.run(local, env=sweep.env, cwd=folder, capture_output=True, check=True, timeout=2 * LONG)
    assert runs == known(folder / "local")


def test_a_sweep_survives_a_dead_node_a_time_limit_and_its_submitter(cluster, tiny_job, tmp_path):
    """Twelve jobs on four nodes: twelve results, no Run trained twice, weights and scores those of a local sweep."""
    sweep = Sweep(cluster, tiny_job, tmp_path, seeds=12)
    sweep.gate("hold-1", "hold-2")
    first = sweep.begin("first")
    array = sweep.array("first")
    sweep.at(1)
    sweep.at(2)
    first.kill()
    first.wait()
    cluster.call("scontrol", "update", f"JobId={array}_2", "TimeLimit=1")
    second = sweep.begin("second")
    dead = sweep.node(f"{array}_1")
    cluster.kill_node(dead)
    sweep.open("hold-1")
    until(lambda: "SLURM starts job" in sweep.job_log(f"{array}_2"), LONG, "told of its time limit, and to start again")
    sweep.open("hold-2")
    cluster.call("scontrol", "update", f"JobId={array}_2", "TimeLimit=60")
    said = sweep.ends(second, "second", 0)
    cluster.start_node(dead)

    assert "submitted" not in said
    assert f"job 1 is in SLURM already: {array}_1, " in said
    assert "sweep: 12 jobs ended, 0 of them failed; " in said
    places = re.findall(
        rf"^  job (\d+) \(seed=\1\): SLURM job {array}_\1 on (.*); {tmp_path}/multirun/.*/\1$", said, re.M
    )
    assert [int(number) for number, _ in places] == list(range(12))
    assert re.fullmatch(rf"{dead}, then (?!{dead})n\d, 2 starts", places[1][1])
    assert re.fullmatch(r"n\d, then n\d, 2 starts", places[2][1])
    assert all(re.fullmatch(r"n\d", where) for number, where in places if number not in "12")
    assert {place for _, where in places for place in re.findall(r"n\d", where)} == set(cluster.nodes)
    assert "stopped by SIGUSR2, saved after step " in sweep.job_log(f"{array}_2")

    each_run_was_trained_once_and_as_locally(sweep, array)


def test_a_preempted_job_goes_on_and_a_dead_one_leaves_no_other_unread(cluster, tiny_job, tmp_path):
    """One is pre-empted by nothing but SIGTERM, one raises, one is killed, one is cancelled."""
    sweep = Sweep(cluster, tiny_job, tmp_path, seeds=4)
    sweep.gate("hold-0", "fail-1", "hold-2", "hold-3")
    process = sweep.begin("log")
    array = sweep.array("log")
    for index in (0, 2, 3):
        sweep.at(index)
    for pid in cluster.processes(f"{array}_2"):
        os.kill(pid, signal.SIGKILL)
    cluster.call("scancel", f"{array}_3")
    node = sweep.node(f"{array}_0")
    cluster.call("sbatch", "-p", "high", "-w", node, "-o", "/dev/null", "--wrap", "sleep 1")
    until(lambda: "SLURM starts job" in sweep.job_log(f"{array}_0"), LONG, "pre-empted, and to start again")
    sweep.open("hold-0")
    said = sweep.ends(process, "log", 1)

    assert "stopped by SIGTERM, saved after step " in sweep.job_log(f"{array}_0")
    assert re.search(rf"^  job 0 \(seed=0\): SLURM job {array}_0 on {node}, then n\d, 2 starts$", said, re.M)
    assert "sweep: 4 jobs ended, 3 of them failed; " in said
    assert "\n  job 1 (seed=1): KeyError: 'nobody foresaw this'\n" in said
    assert re.search(
        rf"^  job 2 \(seed=2\): SLURM job {array}_2 ended without a result: FAILED on n\d; .*: Killed$", said, re.M
    )
    assert re.search(
        rf"^  job 3 \(seed=3\): SLURM job {array}_3 ended without a result: CANCELLED on n\d; ", said, re.M
    )
    log = sweep.job_log(f"{array}_1")
    assert "Traceback (most recent call last):" in log
    assert 'raise KeyError("nobody foresaw this")' in log
    wanted = {"0 COMPLETED", "1 FAILED", "2 FAILED", "3 CANCELLED"}
    states = ["squeue", "-h", "-r", "-t", "all", "-j", array, "-o", "%K %T"]
    until(lambda: wanted == set(cluster.call(*states).splitlines()), 30, f"SLURM says {wanted}")
    (ended,) = (job for job in read_records(Store(tmp_path / "store")) if job.state == "finished")
    assert ended.seed == 0
