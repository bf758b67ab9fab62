"""One group of processes for a job: the first decides and writes, the others do the same work beside it.

The first gives orders; they are announced in the group's store and sent within the group. A process that fails
leaves its reason in the store, where the first finds it."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from bam_lightning.config.exceptions import TrainingError
from bam_lightning.recipes.watch import GRACE_SECONDS, REMEDY, SILENCE_SECONDS, Watch
from bam_lightning.training.distributed import of_first
from bam_lightning.training.place import FIRST, Place

START_SECONDS = 300.0  # for all processes to come up
END_SECONDS = 20.0  # for them to go
COLLECTIVE = timedelta(minutes=30)  # longest wait of one process for another within a Run
LOOK_SECONDS = 0.02
HOST = "127.0.0.1"


class Ended(Exception):
    """The first process has nothing more to do."""


class Group:
    """This process's part in the group.

    Args:
        place: which process this is.
        store: the group's, of torch: a connection to it.
        children: the other processes, where this one started them.
        attempt: how often torchrun has started the processes anew.
    """

    def __init__(
        self, place: Place, store: Any, children: Sequence[subprocess.Popen[bytes]] = (), attempt: str = "0"
    ) -> None:
        self.place, self.children, self.orders = place, children, 0
        self.whole = True  # nothing has gone wrong while all worked together
        self.store = distributed.PrefixStore(f"bam/{attempt}", store)
        self.store.set(f"hello/{place.rank}", f"{socket.gethostname()}, process id {os.getpid()}")
        own = distributed.TCPStore(place.address, store.port, is_master=False, wait_for_workers=False)
        self.watch = Watch(place, distributed.PrefixStore(f"bam/{attempt}", own), children)
        self.watch.start()

    def order(self, name: str, *what: Any) -> None:
        """Tell the others, from the first process, what to do; the group comes together at the first order."""
        if self.watch.over.is_set():
            raise TrainingError("the other processes have ended with an earlier job; call the command again")
        self.orders += 1
        self.store.set(f"order/{self.orders}", name)
        self._join()
        of_first((name, what))

    def next(self) -> tuple[str, tuple[Any, ...]]:
        """Wait for the next order, in the others.

        Raises:
            Ended: if there is none to come.
        """
        self.orders += 1
        while not self.store.check([f"order/{self.orders}"]):
            if self.store.check(["end"]):
                raise Ended
            time.sleep(LOOK_SECONDS)
        self._join()
        found: tuple[str, tuple[Any, ...]] = of_first(("", ()))
        return found

    def _join(self) -> None:
        if distributed.is_initialized():
            return
        place, deadline = self.place, time.monotonic() + START_SECONDS
        while missing := [r for r in range(place.processes) if not self.store.check([f"hello/{r}"])]:
            if self.watch.reason:
                raise TrainingError(f"{self.watch.reason}; {REMEDY}")
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"process {', '.join(map(str, missing))} of {place.processes} has not come up within "
                    f"{START_SECONDS:.0f} s; see trainer.devices and trainer.nodes, and what its node says"
                )
            time.sleep(LOOK_SECONDS)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _loopback(not place.external):
            distributed.init_process_group(
                backend,
                store=distributed.PrefixStore("group", self.store),
                rank=place.rank,
                world_size=place.processes,
                timeout=COLLECTIVE,
            )

    @contextmanager
    def together(self, name: str, *what: Any) -> Iterator[None]:
        """Give an order and do the same, within; an error that another process is to blame for is told as its.

        Raises:
            TrainingError: naming the process that failed, and its reason.
        """
        self.watch.waits.set()
        self.whole = False
        try:
            self.order(name, *what)
            yield
            self.whole = True
        except Exception as error:
            if not lost(error) and (not self.watch.reason or _ours(error)):
                raise
            reason = self.watch.find(SILENCE_SECONDS + 5 if self.place.external else GRACE_SECONDS)
            raise TrainingError(f"{reason or f'the processes have lost each other ({error})'}; {REMEDY}") from error
        finally:
            self.watch.waits.clear()

    def fail(self, error: BaseException, text: str) -> None:
        """Leave the reason why this process failed, unless it only saw that another did."""
        self.watch.over.set()
        if not lost(error):
            with suppress(RuntimeError):
                self.store.set(f"failed/{self.place.rank}", text)

    def leave(self) -> None:
        """Go home, when the first process has said so."""
        self.watch.over.set()
        with suppress(RuntimeError):
            self.store.set(f"bye/{self.place.rank}", "1")
            distributed.destroy_process_group()

    def end(self) -> None:
        """Send the others home, from the first process, and see that they are gone."""
        failed = bool(self.watch.reason) or self.watch.over.is_set()
        self.watch.over.set()
        deadline = time.monotonic() + (0 if failed else END_SECONDS)
        with suppress(RuntimeError):
            self.store.set("end", "1")
            byes = [f"bye/{rank}" for rank in range(1, self.place.processes)]
            while time.monotonic() < deadline and not self.store.check(byes) and not self._dead():
                time.sleep(LOOK_SECONDS)
        for child in self.children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if distributed.is_initialized():
            with suppress(RuntimeError):
                distributed.destroy_process_group()

    def _dead(self) -> bool:
        return any(child.poll() is not None for child in self.children)

    def abandon(self) -> None:
        """End the others at once: the first process has failed, and they may be waiting for it."""
        self.watch.over.set()
        with suppress(RuntimeError):
            self.store.set("failed/0", "1")
        for child in self.children:
            child.kill()
        self.end()


def lost(error: BaseException) -> bool:
    """Return whether an error says no more than that the other processes cannot be reached."""
    if isinstance(error, distributed.DistError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"torch{os.sep}distributed{os.sep}" in frames[-1].filename


def _ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).resolve().parent == Path(__file__).resolve().parent


@contextmanager
def _loopback(wanted: bool) -> Iterator[None]:
    """Keep the processes of one machine to themselves: gloo would listen on the machine's address."""
    name = "GLOO_SOCKET_IFNAME"
    if not wanted or name in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    os.environ[name] = "lo"
    try:
        yield
    finally:
        del os.environ[name]


def start(processes: int) -> Group:
    """Start the other processes on this machine, and return the first one's part."""
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // processes))
    torch.set_num_threads(int(threads))
    children = []
    for rank in range(1, processes):
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(store.port),
            "OMP_NUM_THREADS": threads,
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # the first one says what is wrong
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            FIRST: str(os.getpid()),
        }
        command = [sys.executable, "-m", "bam_lightning.recipes.follow"]
        children.append(subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL))
    return Group(Place(0, processes, 0, HOST, store.port, "the job"), store, children)


_KEPT: list[Group] = []  # of a process that srun or torchrun started: there is one group as long as it lives


def connect(place: Place) -> Group:
    """Return this process's part in a group whose processes are all there already."""
    if not _KEPT:
        of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = distributed.TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0 and not of_agent,
            timeout=timedelta(seconds=START_SECONDS),
            wait_for_workers=False,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its processes
        _KEPT.append(Group(place, store, attempt=attempt))
        if place.rank == 0:
            atexit.register(_KEPT[0].end)
    return _KEPT[0]
