"""Who of the processes of a job has died, and why: a thread in each of them, for a process that waits sees nothing.

The first process looks at its children's exit, at the reasons that others have left, and where they are not its
children at their signs of life; the others look whether the first is still there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bam_lightning.training.place import FIRST, Place

LOOK_SECONDS = 0.2
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 30.0  # without a sign of life, after which a process counts as dead
GRACE_SECONDS = 15.0  # from a process's death to the end of a first process that cannot get out of waiting for it
REMEDY = "the same command goes on from the last checkpoint"


class Watch(threading.Thread):
    """Looks after the group from a thread of its own, with a connection of its own to the group's store.

    ``reason`` says what has become of another process, once it is known; ``waits`` is set while the main thread works
    with the others.
    """

    def __init__(self, place: Place, store: Any, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        super().__init__(daemon=True, name="watch")
        self.place, self.store, self.children = place, store, children
        self.reason = ""
        self.waits, self.over = threading.Event(), threading.Event()
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._beats = 0

    def run(self) -> None:
        """Look until the group is over; end the process if that is the only way out."""
        look: Callable[[], str] = self._others if self.place.rank == 0 else self._first
        while not self.reason and not self.over.wait(LOOK_SECONDS):
            try:
                self._beat()
                self.reason = look()
            except RuntimeError as error:  # of the store
                self.reason = "" if self.over.is_set() else f"the processes have lost each other ({_line(error)})"
        if self.over.is_set():
            return
        if self.place.rank == 0:
            self.over.wait(GRACE_SECONDS)
            if self.over.is_set() or not self.waits.is_set():
                return
            print(f"error: {self.reason}; {REMEDY}", file=sys.stderr, flush=True)
        elif self.place.external:
            name = f"process {self.place.rank} of {self.place.processes}"
            print(f"{name} ends: the first one has failed or is gone", file=sys.stderr, flush=True)
        os._exit(1)

    def _beat(self) -> None:
        """Give a sign of life, where the first process has no other means to see this one."""
        if self.place.external and time.monotonic() >= self._beats * BEAT_SECONDS:
            self._beats = int(time.monotonic() / BEAT_SECONDS) + 1
            self.store.set(f"beat/{self.place.rank}", str(self._beats))

    def _silent(self, rank: int) -> bool:
        key = f"beat/{rank}"
        value = self.store.get(key) if self.store.check([key]) else b""
        if rank not in self._heard or self._heard[rank][0] != value:
            self._heard[rank] = (value, time.monotonic())
        return time.monotonic() - self._heard[rank][1] > SILENCE_SECONDS

    def _others(self) -> str:
        for rank in range(1, self.place.processes):
            key, name = f"failed/{rank}", f"process {rank} of {self.place.processes}"
            if self.place.external:
                dead = f"has been silent for {SILENCE_SECONDS:.0f} s: killed, out of memory, or its node is gone"
                dead = dead if self._silent(rank) else ""
            else:
                dead = ending(self.children[rank - 1].poll())
            if self.store.check([key]):
                return f"{name}{self._who(rank)} failed: {self.store.get(key).decode()}"
            if dead:
                return f"{name}{self._who(rank)} {dead}"
        return ""

    def _who(self, rank: int) -> str:
        key = f"hello/{rank}"
        return f" ({self.store.get(key).decode()})" if self.store.check([key]) else ""

    def _first(self) -> str:
        if not self.place.external:
            return "" if os.getppid() == int(os.environ[FIRST]) else "gone"
        return "gone" if self.store.check(["failed/0"]) or self._silent(0) else ""

    def find(self, seconds: float) -> str:
        """Return what has become of another process, if that is known within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.reason and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS / 4)
        return self.reason


def ending(code: int | None) -> str:
    """Return in words how a process ended that left no reason, or nothing where it has not ended.

    >>> ending(-9)
    'was killed by SIGKILL: by hand, or because it was out of memory'
    """
    if code is None:
        return ""
    if code >= 0:
        return f"ended with status {code} before its work was done"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (": by hand, or because it was out of memory" if name == "SIGKILL" else "")


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
