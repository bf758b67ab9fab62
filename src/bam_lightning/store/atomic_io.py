"""Write files atomically, and explain in one sentence why a file could not be written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bam_lightning.config.exceptions import DISK_FULL, BamError, StoreAccessError, StoreError

TORCH = ("write", "Write", "iostream", "unexpected pos")  # words in torch's messages about a file it could not write
LITTLE = 1 << 20  # bytes; with less than this free, a writer that gives no reason met a full disk
TEMPORARY = ".part"  # suffix of files that are being written
ABANDONED_SECONDS = 3600.0  # a temporary file that was not written to for so long was left by a killed process


class WriteError(StoreError):
    """A file could not be written. The message says which, why, and what to do."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; at the end, sync it to disk and rename it to ``path``.

    If the writer fails, ``path`` is unchanged and the temporary file is deleted.

    Raises:
        StoreError: If ``path`` cannot be written, naming it, the reason and what to do.
    """
    temporary = _temporary_path(path)
    try:
        with translate_os_errors(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut may leave the new name and no bytes
            apply_umask(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def delete_abandoned(folder: Path, seconds: float = ABANDONED_SECONDS) -> int:
    """Delete the temporary files under ``folder`` that nobody has written to for ``seconds``; return how many."""
    deleted = 0
    for path in folder.rglob(f"*{TEMPORARY}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()
                deleted += 1
    return deleted


def apply_umask(*files: Path) -> None:
    """Give files that only their owner may read, as safetensors makes them, the permissions of any new file."""
    for path in files:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            continue
        probe = _temporary_path(path)  # a folder may have an ACL, which the umask does not know
        with suppress(OSError):
            probe.touch()
            path.chmod(probe.stat().st_mode & 0o777)
        with suppress(OSError):
            probe.unlink()


def _temporary_path(path: Path) -> Path:
    """Return an unused path in the same folder; process ids are not unique across containers."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}{TEMPORARY}")


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn errors in writing ``path`` into a ``WriteError`` that says what to do.

    torch and safetensors raise other exceptions, without an errno.
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


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Turn a refusal to read ``path`` into a ``StoreAccessError``; it is no damage, which could be deleted."""
    try:
        yield
    except PermissionError as error:
        raise StoreAccessError(
            f"cannot read {path} ({error.strerror}): it may be another user's; ask for the right to read it (chmod), "
            "or give another store"
        ) from error


def explain(path: Path, error: BaseException) -> str:
    """Return a message: which path could not be written, why, and what to do."""
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    if number in DISK_FULL or (number is None and _free(path) < LITTLE):
        reason = os.strerror(number or errno.ENOSPC)  # pyarrow's own is longer
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
    """Write a text file atomically.

    Raises:
        StoreError: See ``atomic_write``.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_zip(path: Path, remedy: str) -> None:
    """Verify the checksums of a zip file, such as a torch checkpoint; torch itself does not.

    Raises:
        StoreError: If the file is truncated or a byte has changed, naming ``path`` and ``remedy``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        damaged = str(error)
    if damaged:
        raise StoreError(f"{path} is damaged ({damaged}); {remedy}")


def _free(path: Path) -> int:
    """Return the free bytes of the disk that ``path`` is on; 0 if that cannot be determined."""
    for folder in path.parents:
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
