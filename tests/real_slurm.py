"""A real SLURM on this machine for tests: slurmctld and a slurmd for each virtual node, all on 127.0.0.1.

Nothing is installed and no root is needed: Debian's packages are downloaded and unpacked. Without accounting, which the
launcher does not need. Times are short where SLURM lets one; time limits it looks at each 30 s, whatever one says."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15 liblua5.1-0".split()
REQUEUE_SECONDS = 5  # SLURM starts a job again so long, and a second, after its end: by default two minutes
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire={requeue}
PluginDir={plugins}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,bf_interval=1,batch_sched_delay=0
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout=10
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""


class Absent(Exception):
    """SLURM cannot be had here; the text says why."""


def unpack(folder: Path) -> Path:
    """Download and unpack SLURM into ``folder`` unless it is there; return the root of its files."""
    root = folder / "root"
    if (folder / "done").exists():
        return root
    for name in ("apt-get", "dpkg"):
        if shutil.which(name) is None:
            raise Absent(f"{name} is not installed")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise Absent("Debian's packages cannot be had: no answer within two minutes") from None
    if done.returncode:
        raise Absent(f"Debian's packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    for name in ("slurmctld", "slurmd", "slurmstepd"):  # they look at the name they are called by
        if not (root / "usr/sbin" / name).exists():
            (root / "usr/sbin" / name).symlink_to(f"{name}-wlm")
    (folder / "done").touch()
    return root


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Cluster:
    """Nodes ``n1``, ``n2``, ... of one CPU each; partition ``main``, and ``high``, which pre-empts it by SIGTERM."""

    def __init__(self, root: Path, home: Path, nodes: int = 4) -> None:
        self.home, self.nodes = home, [f"n{number + 1}" for number in range(nodes)]
        (plugins,) = (root / "usr/lib").glob("*/slurm-wlm")
        self.conf = home / "slurm.conf"
        self.env = {
            "SLURM_CONF": str(self.conf),
            "PATH": f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}",
        }
        self.stepd = root / "usr/sbin/slurmstepd"
        port, *ports = free_ports(1 + nodes)
        host, user = socket.gethostname().split(".")[0], subprocess.getoutput("id -un")
        text = CONF.format(host=host, user=user, home=home, plugins=plugins, port=port, requeue=REQUEUE_SECONDS)
        for name, own in zip(self.nodes, ports, strict=True):
            text += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} CPUs=1 RealMemory=2000\n"
        names = ",".join(self.nodes)
        text += f"PartitionName=main Nodes={names} Default=YES PriorityTier=1 GraceTime=30\n"
        text += f"PartitionName=high Nodes={names} PriorityTier=10 PreemptMode=OFF\n"
        for folder in ("state", "spool", "munge"):
            (home / folder).mkdir(mode=0o700)
        self.conf.write_text(text)

    def call(self, *words: str | Path) -> str:
        """Return what a command of SLURM prints."""
        env = os.environ | self.env
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60, check=False)
        assert not done.returncode, f"{words}: {done.stderr}{done.stdout}"
        return done.stdout

    def start(self) -> None:
        """Start all daemons, and wait until all nodes are idle."""
        key = self.home / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        files["seed-file"] = "munge/seed"
        self.call("munged", *[f"--{name}={self.home / path}" for name, path in files.items()])
        self.call("slurmctld", "-c")
        for name in self.nodes:
            self.start_node(name)
        until(
            lambda: self.call("sinfo", "-h", "-N", "-p", "main", "-t", "idle").count("\n") == len(self.nodes), 30, "up"
        )

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self.call("slurmd", "-N", name, "-d", self.stepd)

    def kill_node(self, name: str) -> None:
        """Let a node die as by a cut of its power: all its processes at once, so that none reports another's end."""
        mine = [pid for pid in _processes() if self._of_node(pid, name)]
        steps = {parent for pid in mine if _comm(parent := _parent(pid)).startswith("slurmstepd")}
        for pid in (int((self.home / f"{name}.pid").read_text()), *steps, *mine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, job: str) -> list[int]:
        """Return the Python processes of a job ``ARRAY_INDEX``."""
        array, index = job.split("_")
        wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={index}", f"SLURM_CONF={self.conf}"}
        return [pid for pid in _processes() if wanted <= _environ(pid) and _comm(pid).startswith("python")]

    def stop(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(Exception):
            self.call("scancel", "-u", subprocess.getoutput("id -un"))
            until(lambda: not self.call("squeue", "-h"), 20, "no job left")
        for name in (*self.nodes, "slurmctld", "munged"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int((self.home / f"{name}.pid").read_text()), signal.SIGTERM)

    def _of_node(self, pid: int, name: str) -> bool:
        return {f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.conf}"} <= _environ(pid)


@contextlib.contextmanager
def running(cache: Path, nodes: int = 4) -> Iterator[Cluster]:
    """Run a cluster; its files are unpacked into ``cache``, its state lies in a folder of its own."""
    root = unpack(cache)
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)  # munge wants its socket to be reached by all
        cluster = Cluster(root, Path(home), nodes)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environ(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
    except OSError:
        return set()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
