"""The right to build a Run: held by one process at a time, and free again when that process dies.

On one machine, and between machines whose file system shares its locks (local disks, NFS 4, Lustre with ``flock``), the
system's file lock decides. Where a file system keeps locks to each machine (``nolock``, ``localflock``), which nobody
is told, a second sign does: the holder names its machine in a file beside the lock and touches it every few seconds;
on another machine the lock alone is then not enough until that file has rested for a minute. No clocks are compared:
what counts is whether the file has changed while one watched."""

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
_seen: dict[Path, tuple[int, float]] = {}  # holder's file -> when it was last changed, and since when we know that


def machine() -> str:
    """Return what tells machines apart; containers on one machine are one, for they share its locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


class RunLock:
    """One Run's lock and its holder's file. ``with Lease(path).acquire(): ...``

    Args:
        path: of the lock; the holder's file lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.holder = path, path.with_suffix(".holder")
        self._lock = FileLock(path)
        self._end = threading.Event()

    def acquire(self) -> RunLock:
        """Take it, at once or not at all.

        Raises:
            Timeout: if another process has it.
            OSError: if the file system has no locks.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are no locks is ours to say
                self._lock.acquire(timeout=0)
            if isinstance(self._lock, SoftFileLock):  # a file of that name, which outlives its holder
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
        if self.elsewhere():
            self._lock.release()
            raise Timeout(str(self.path))
        self.holder.write_text(json.dumps({"machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}))
        self._end.clear()
        threading.Thread(target=self._beat, daemon=True, name=f"lease-{self.path.stem}").start()
        return self

    def release(self) -> None:
        """Give it back."""
        self._end.set()
        self.holder.unlink(missing_ok=True)
        self._lock.release()

    def held(self) -> bool:
        """Return whether a process has it, without taking it; ``False`` where that cannot be found out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._lock.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # a store that may only be read
            return False
        try:
            return self.elsewhere() and abs(time.time() - self.holder.stat().st_mtime) < 10 * DEAD_SECONDS
        except OSError:
            return False
        finally:
            self._lock.release()

    def elsewhere(self) -> bool:
        """Return whether a holder on another machine may be alive: its file has changed in the last minute, or we
        have not watched it for so long."""
        try:
            if json.loads(self.holder.read_text())["machine"] == machine():
                return False
            changed = self.holder.stat().st_mtime_ns
        except (OSError, ValueError, TypeError, KeyError):  # nobody, or one that died while it wrote its name
            return False
        before, since = _seen.get(self.holder, (None, 0.0))
        if changed != before:
            since = time.monotonic()
            _seen[self.holder] = (changed, since)
        return time.monotonic() - since < DEAD_SECONDS

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with suppress(OSError):  # the store has gone: the next file written to it will say so
                os.utime(self.holder)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()
