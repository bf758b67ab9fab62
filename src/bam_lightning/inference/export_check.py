"""What every export of a model has in common: rows to check it with, a folder that is whole or not there, a README.

N rows, K outputs of a head."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.exceptions import ConfigPathError, OutputExistsError, StoreError
from bam_lightning.inference.model_info import TaskInfo
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.heads import Head
from bam_lightning.store.atomic_io import apply_umask
from bam_lightning.training import hardware

RECORD = "export.json"
TOLERANCE = 1e-4  # of logits, in float32
BATCHES = (1, 2, 7, 32)  # sizes that an export is checked with

Logits = Callable[[Sequence[Sequence[str]]], Mapping[str, NDArray[np.float32]]]


def exact(model: Predictor) -> Predictor:
    """Return a copy of the model that computes in float32 on the CPU."""
    heads = {task: copy.deepcopy(model.head(task)) for task in model.tasks}
    return Predictor(model.saved, copy.deepcopy(model.encoder), heads, model.tokenizer, "cpu", "32-true")


def sample(model: Predictor, width: int, count: int = 128, seed: int = 0) -> list[tuple[str, ...]]:
    """Return rows of words of the model's vocabulary, from one word to more than ``max_length``."""
    rng = np.random.default_rng(seed)
    special = set(model.tokenizer.all_special_ids)
    words = [number for number in range(len(model.tokenizer)) if number not in special]
    longest = rng.integers(1, max(2, model.saved.max_length // width), (count, width))
    longest[0] = model.saved.max_length  # one that is cut
    return [tuple(model.tokenizer.decode(rng.choice(words, size)) or "a" for size in row) for row in longest]


def largest_difference(model: Predictor, names: Sequence[str], theirs: Logits, rows: Sequence[Sequence[str]]) -> float:
    """Return the largest distance between the model's logits of some tasks and an export's, over batches of all sizes.

    Raises:
        StoreError: if it is above ``TOLERANCE``.
    """
    found, start, turn = 0.0, 0, 0
    while start < len(rows):
        part = rows[start : start + BATCHES[turn % len(BATCHES)]]
        ours, other = model.logits(part, names), theirs(part)
        # np.max: Python's own max(0.0, nan) is 0.0
        found = float(np.max([found, *(np.abs(ours[name] - other[name]).max() for name in names)]))
        start, turn = start + len(part), turn + 1
    if not found <= TOLERANCE:
        raise StoreError(
            f"the export is not the model: its logits of {', '.join(names)} differ by {found:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return found


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a folder to write into, which takes the place of ``output`` when all went well, and else vanishes.

    Raises:
        OutputExistsError: if ``output`` holds anything that no export has written.
        ConfigPathError: if there is no folder to put it into.
        OSError: if it cannot be written.
    """
    _check_free(output)
    if not output.absolute().parent.is_dir():
        raise ConfigPathError(f"output: no folder {output.parent}")
    try:
        beside = Path(mkdtemp(dir=output.absolute().parent, prefix=f".{output.name}-"))
    except OSError as error:
        raise StoreError(f"output: cannot write to {output.absolute().parent} ({error.strerror})") from error
    try:
        yield beside
        beside.chmod(0o755)  # mkdtemp's is for its owner alone
        apply_umask(*(beside / name for name in files(beside)))
        _check_free(output)  # something may have come into it meanwhile
        if output.exists():
            shutil.rmtree(output)
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_free(output: Path) -> None:
    """Raise ``OutputExistsError`` unless there is nothing, or an earlier export and nothing beside it."""
    if output.resolve() == Path.cwd():
        raise OutputExistsError("output: this is the current folder, which cannot be replaced; give one inside it")
    there = files(output)
    if not output.exists() or (output.is_dir() and not there):
        return
    try:
        known = {RECORD, *json.loads((output / RECORD).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputExistsError(f"output: {output} is or holds something else; give a new folder") from None
    if foreign := sorted(there - known):
        raise OutputExistsError(
            f"output: no export has written {output / foreign[0]}; move it away, or give a new folder"
        )


def files(folder: Path) -> set[str]:
    """Return the files in a folder and in those below it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def write_record(folder: Path, model: Predictor, kind: str, names: Sequence[str], difference: float) -> None:
    """Write what the export holds: tasks, how their logits are read, what it was made from; the last file written."""
    record = {
        "format": kind,
        "run": model.saved.id,
        "max_length": model.saved.max_length,
        "tasks": {name: describe(model.tasks[name], model.head(name)) for name in names},
        "largest_difference": difference,
        "versions": hardware.versions(),
        "files": sorted(files(folder)),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def describe(task: TaskInfo, head: Head) -> dict[str, Any]:
    """Return what a stranger must know of a task to read its logits."""
    spec = head.export_spec(task.label_names)
    return {
        "columns": task.columns,
        "label_names": task.label_names,
        "label_range": task.label_range,
        "outputs": spec.outputs,
        "problem_type": spec.problem_type,
        "label": spec.how,
        "metric": task.metric,
        "dev_scores": task.scores,
    }


def example(task: TaskInfo) -> tuple[str, ...]:
    """Return a row to show how the task is asked."""
    return ("A first text.", "A second text.")[: len(task.columns)]
