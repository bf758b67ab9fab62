"""A lock per Run: one process holds it at a time, and it is free again when that process dies.

On one machine, and between machines whose file system shares locks (local disks, NFS 4, Lustre with ``flock``), the
system's file lock decides. Some mounts (``nolock``, ``localflock``) keep locks to each machine without an error. So
the holder also writes its machine into a file next to the lock and touches that file every few seconds. A process on
another machine takes the lock only after the file has not changed for a minute. Clocks are not compared: a waiting
process measures with its own clock whether the file has changed."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from bam_lightning.config.exceptions import StoreError
from bam_lightning.store.atomic_io import WriteError, explain

BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
_seen: dict[Path, tuple[int, float]] = {}  # holder file -> its modification time, and when this process first saw it


def machine() -> str:
    """Return an id of this machine; containers on one machine have the same id, since they share its locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


class RunLock:
    """The lock of one Run, and a file that names its holder: ``with RunLock(path).acquire(): ...``

    Args:
        path: Path of the lock file; the holder file is next to it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.holder = path, path.with_suffix(".holder")
        self._lock = FileLock(path)
        self._end = threading.Event()

    def acquire(self) -> RunLock:
        """Acquire the lock without waiting.

        Raises:
            Timeout: If another process holds it.
            OSError: If the file system has no locks.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a file system without locks raises below
                self._lock.acquire(timeout=0)
            if isinstance(self._lock, SoftFileLock):  # filelock's fallback, which a dead process would hold forever
                self._lock.release()
                raise NotImplementedError
        except NotImplementedError as error:
            raise StoreError(
                f"paths.store: the file system of {self.path} has no file locks, so two processes could train the same "
                "Run; give a folder on one that has (a local disk, NFS 4, Lustre mounted with flock)"
            ) from error
        except OSError as error:
            if isinstance(error, Timeout):
                raise
            raise WriteError(f"paths.store: {explain(self.path, error)}") from error
        if self.held_elsewhere():
            self._lock.release()
            raise Timeout(str(self.path))
        about = {"machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}
        try:
            self.holder.write_text(json.dumps(about))
        except OSError as error:
            self.release()
            raise WriteError(f"paths.store: {explain(self.holder, error)}") from error
        self._end.clear()
        threading.Thread(target=self._beat, daemon=True, name=f"lock-{self.path.stem}").start()
        return self

    def release(self) -> None:
        """Release the lock."""
        self._end.set()
        self.holder.unlink(missing_ok=True)
        self._lock.release()

    def held(self) -> bool:
        """Return whether a process holds the lock; in a store that cannot be written, whether one did lately."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._lock.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # a read-only store: the file that the holder touches must do
            return self._fresh()
        try:
            return self.held_elsewhere() and self._fresh()
        finally:
            self._lock.release()

    def _fresh(self) -> bool:
        """Return whether the holder's file was touched of late, by clocks that may differ by minutes."""
        try:
            return abs(time.time() - self.holder.stat().st_mtime) < 10 * DEAD_SECONDS
        except OSError:
            return False

    def held_elsewhere(self) -> bool:
        """Return whether a holder on another machine may be alive.

        It may be if its file changed in the last minute, or if this process has watched the file for less than that.
        """
        try:
            if json.loads(self.holder.read_text())["machine"] == machine():
                return False
            changed = self.holder.stat().st_mtime_ns
        except (OSError, ValueError, TypeError, KeyError):  # no holder, or one that died while writing the file
            return False
        before, since = _seen.get(self.holder, (None, 0.0))
        if changed != before:
            since = time.monotonic()
            _seen[self.holder] = (changed, since)
        return time.monotonic() - since < DEAD_SECONDS

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with suppress(OSError):  # if the store was deleted, the next write to it raises
                os.utime(self.holder)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()
