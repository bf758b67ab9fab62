"""One process builds a Run; its death frees it, on this machine at once, on another when it has rested for a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from filelock import Timeout

from bam_lightning.store import lock as room
from bam_lightning.store.lock import RunLock, machine

HOLD = """
import sys, time
from pathlib import Path
from bam_lightning.store.lock import RunLock
with RunLock(Path(sys.argv[1])).acquire():
    print("held", flush=True)
    time.sleep(60)
"""


class Clock:
    """A clock that one sets, and which may go backwards."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    monkeypatch.setattr(room, "_seen", {})
    return clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "abc.lock"


def foreign(path, changed: float = 5.0) -> None:
    """Leave the file of a holder on another machine."""
    holder = path.with_suffix(".holder")
    holder.write_text(json.dumps({"machine": "another", "host": "n2", "pid": 7}))
    os.utime(holder, (changed, changed))


def taken(path) -> bool:
    try:
        with RunLock(path).acquire():
            return False
    except Timeout:
        return True


def test_a_lease_is_held_once_and_leaves_no_holder(path):
    with RunLock(path).acquire() as lease:
        assert json.loads(lease.holder.read_text())["machine"] == machine()
        assert taken(path)
        assert RunLock(path).held()
    assert not lease.holder.exists()
    assert not taken(path)
    assert not RunLock(path).held()


@pytest.mark.slow
def test_the_lease_of_a_killed_process_on_this_machine_is_free_at_once(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert taken(path)
        holder.kill()
    assert path.with_suffix(".holder").exists()  # it could not tidy up
    assert not taken(path)


@pytest.mark.parametrize("changed", [5.0, 999.0, 5e9])  # whatever the other machine's clock says
def test_a_holder_elsewhere_is_dead_when_its_file_has_rested_for_a_minute(path, clock, changed):
    foreign(path, changed)
    assert taken(path)
    clock.now += 59
    assert taken(path)
    clock.now += 2
    assert not taken(path)


def test_a_holder_elsewhere_that_is_heard_is_alive(path, clock):
    for beat in range(20):
        foreign(path, 100.0 - beat)  # its clock goes backwards
        assert taken(path)
        clock.now += 50


def test_a_holder_beats_while_it_holds(path, monkeypatch):
    monkeypatch.setattr(room, "BEAT_SECONDS", 0.01)
    with RunLock(path).acquire() as lease:
        os.utime(lease.holder, (5, 5))
        for _ in range(500):
            if lease.holder.stat().st_mtime > 5:
                break
            lease._end.wait(0.01)
        assert lease.holder.stat().st_mtime > 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_holders_file_that_says_nothing_holds_nothing(path, content):
    path.with_suffix(".holder").write_text(content)
    assert not taken(path)


def test_a_file_system_without_locks_is_refused(path, monkeypatch):
    import fcntl

    def none(descriptor, flags):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OSError, match="has no file locks") as caught:
        RunLock(path).acquire()
    assert str(caught.value) == (
        f"paths.store: the file system of {path} has no file locks, so two processes could train the same Run; "
        "give a folder on one that has (a local disk, NFS 4, Lustre mounted with flock)"
    )
    assert not RunLock(path).held()


def test_a_lock_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a file lies where a folder should") as caught:
        RunLock(tmp_path / "file" / "abc.lock").acquire()
    assert str(caught.value).startswith(f"paths.store: cannot write {tmp_path}/file/abc.lock (")
