"""Exceptions for what a user can cause. The command line prints them as one line; all others keep their traceback."""

from __future__ import annotations

import errno
from collections.abc import Sequence

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an ``OSError``


class BamError(Exception):
    """Base class of the errors that this library raises on purpose."""

    status = 1  # exit status of a command that ends with it


class ConfigError(BamError, ValueError):
    """An option, a command line or a YAML file is wrong; the message names the option and what was expected."""


class DataError(BamError, ValueError):
    """A data file, a row or a label cannot be used; the message names the file and the row."""


class TasksError(DataError):
    """Data of several tasks cannot be used; ``errors`` has one error for each of them."""

    def __init__(self, errors: Sequence[DataError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[type[TasksError], tuple[Sequence[DataError]]]:
        return type(self), (self.errors,)


class StoreError(BamError, OSError, ValueError):
    """A stored file is missing, damaged or cannot be read or written: a manifest, weights, predictions, a checkpoint.

    It is an ``OSError`` and a ``ValueError``, since the cause can lie in the file system or in the file's content.
    """


class TrainingError(BamError, RuntimeError):
    """Training cannot start or go on: devices, processes, a loss that is not finite, a job scheduler."""


class TeacherError(TrainingError):
    """A teacher of the recipe learned nothing, so that its students were not trained; everything else was."""

    status = 3


class ServingError(BamError, RuntimeError):
    """The process that holds the served model has ended."""


class ConfigPathError(ConfigError, FileNotFoundError):
    """An option names a file or folder that does not exist."""


class DataPathError(DataError, FileNotFoundError):
    """A data file, a split or a data folder does not exist."""


class StorePathError(StoreError, FileNotFoundError):
    """A Run, a saved model or one of its files does not exist."""


class StoreAccessError(StoreError):
    """A store that belongs to another user, who lets nobody else read it."""


class OutputExistsError(ConfigError, FileExistsError):
    """A file or folder to be written exists already."""
