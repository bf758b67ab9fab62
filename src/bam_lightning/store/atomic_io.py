"""Files that are whole or not there, and one sentence where one could not be written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bam_lightning.config.exceptions import BamError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TORCH = ("write", "Write", "iostream", "unexpected pos")  # in what it says of a file that it could not write
LITTLE = 1 << 20  # bytes; with less than this free, a writer that gives no reason has found the disk full


class WriteError(StoreError):
    """A file could not be written; the message says which, why, and what to do."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write; what lies there at the end takes its place at once, and on disk.

    If the writer fails, ``path`` stays what it was and nothing is left beside it.

    Raises:
        StoreError: naming ``path``, the reason and what to do, if it cannot be written.
    """
    beside = _beside(path)
    try:
        with translate_os_errors(path):
            yield beside
            with beside.open("rb") as whole:
                os.fsync(whole.fileno())  # else a power cut may leave the new name and no bytes
            apply_umask(beside)
            beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink()


def apply_umask(*files: Path) -> None:
    """Give files that are for their owner alone, as safetensors makes them, the rights of any new file beside them."""
    for path in files:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            continue
        probe = _beside(path)  # umask does not tell: a folder may have an ACL
        with suppress(OSError):
            probe.touch()
            path.chmod(probe.stat().st_mode & 0o777)
        with suppress(OSError):
            probe.unlink()


def _beside(path: Path) -> Path:
    """Return a name beside ``path`` that nobody else has: in containers all processes have one number."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing ``path`` into an ``OSError`` that says what to do.

    torch and safetensors raise errors of their own there, without the system's number.
    """
    from safetensors import SafetensorError

    try:
        yield
    except BamError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH):
            raise
        raise WriteError(f"{explain(path, error)}. What was finished is kept, and the same command goes on") from error


def explain(path: Path, error: BaseException) -> str:
    """Return which path could not be written, why, and what to do."""
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    if number in FULL or (number is None and _free(path) < LITTLE):
        reason = reason if number in FULL else os.strerror(errno.ENOSPC)
        advice = f"{_free(path) >> 20} MiB are free there; make room"
    elif number == errno.EROFS:
        advice = "the file system may only be read; give another folder"
    elif number in (errno.EACCES, errno.EPERM):
        advice = "this user may not write there; give another folder, or the right to"
    elif number in (errno.ENOTDIR, errno.EEXIST):
        advice = "a file lies where a folder should; give another folder"
    elif number == errno.ENOENT or not path.parent.is_dir():
        advice = "its folder has gone; put it back, or give another"
    else:
        advice = "give another folder"
    return f"cannot write {path} ({reason}): {advice}"


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is whole or not there.

    Raises:
        StoreError: see ``replacing``.
    """
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")


def check_zip(path: Path, remedy: str) -> None:
    """Compare a zip file, as torch writes its checkpoints, with the check sums in it; torch itself does not.

    Raises:
        StoreError: naming ``path`` and ``remedy``, if it was cut off or a byte of it has changed.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            damaged = opened.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        damaged = str(error)
    if damaged:
        raise StoreError(f"{path} is damaged ({damaged}); {remedy}")


def _free(path: Path) -> int:
    """Return the bytes that are free where ``path`` is to lie; 0 where that cannot be found out."""
    for folder in path.parents:
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
