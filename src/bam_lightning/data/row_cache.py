"""What was found in a task's large files, kept: a million rows are read, checked and hashed once, not at every start.

It is found again under a hash of the files' bytes and of all that was asked of them. N rows, C label names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.data_config import DataConfig, TaskConfig
from bam_lightning.config.exceptions import DataError
from bam_lightning.data.examples import TaskExamples, TaskSplit, load_examples, load_split, sort_by_key
from bam_lightning.data.items import ITEM_KINDS
from bam_lightning.data.lazy_texts import LateTexts
from bam_lightning.data.task import Task, task_from_config
from bam_lightning.store.atomic_io import atomic_write
from bam_lightning.store.run_dir import file_hash
from bam_lightning.store.run_spec import to_json
from bam_lightning.store.run_store import KEY_BYTES, digest

FORMAT = 2  # of what is kept and of how rows are checked: what is of another one is not found
WORTH = 1 << 22  # bytes of a training file; a smaller one is read in no time
Tensors = dict[str, NDArray[Any]]


class Split(NamedTuple):
    """A file of rows as it was when it was looked at."""

    name: str
    task: Task
    part: str
    path: Path
    digest: str


def load(name: str, task: TaskConfig, data: DataConfig, cache: Path) -> TaskExamples:
    """Return what ``load_examples`` does, from ``cache`` where the same files were looked at before.

    Raises:
        DataError: As ``load_examples`` does; nothing is kept of rows that cannot be learned from.
    """
    described = task_from_config(name, task, data)
    splits = _splits(name, described)
    if splits is None:
        return load_examples(name, described, data.seed)
    asked = [FORMAT, name, to_json(asdict(task)), *(split.digest for split in splits)]
    path = cache / f"rows-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]}.safetensors"
    kept = _read(path)
    if kept is not None:
        train, dev = (_rows(kept, split) for split in splits)
        return TaskExamples(train, dev, None, described, [])
    train, dev = (load_split(*split[:3]) for split in splits)
    order, train = sort_by_key(train)
    rows = TaskExamples(train, dev, None, described, [])
    if all(_unchanged(split) for split in splits):  # else what was read may be other rows than what was hashed
        with suppress(OSError):  # a job needs no cache: it may be somebody else's, or full
            _write(path, rows, {"train": order, "dev": np.arange(len(dev.keys))})
    return rows


def _splits(name: str, task: Task) -> tuple[Split, Split] | None:
    """Return a task's training and dev split, or ``None`` where nothing is to be kept of them."""
    names = task.split["train"], task.split["dev"]
    if (
        task.kind in ITEM_KINDS
        or task.row_group
        or task.soft
        or task.weight_column
        or task.symmetric
        or task.allow_missing_labels
        or task.split["unlabelled"] is not None
        or None in names
    ):
        return None
    paths = [path for split in names for path in task.source.paths(str(split))]
    try:
        if len(paths) != 2 or paths[0].stat().st_size < WORTH:
            return None
        hashes = [file_hash(path) for path in paths]
    except OSError:  # whoever reads the rows says it better
        return None
    train, dev = (
        Split(name, task, part, path, digest)
        for part, path, digest in zip(("train", "dev"), paths, hashes, strict=True)
    )
    return train, dev


def _rows(kept: Tensors, split: Split) -> TaskSplit:
    joined = kept[f"{split.part}_keys"].tobytes()
    keys = [joined[start : start + KEY_BYTES] for start in range(0, len(joined), KEY_BYTES)]
    reader = Reader(split)
    order = kept[f"{split.part}_order"]
    texts = tuple(LateTexts(partial(reader.column, number), order) for number in range(len(split.task.text)))
    ids = LateTexts(partial(reader.column, -1), order) if split.task.id_column else None
    return TaskSplit(texts, kept[f"{split.part}_labels"], keys, ids)


class Reader:
    """Reads the texts and ids of a file that was looked at before, once."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._texts: tuple[Sequence[str], ...] | None = None

    def column(self, number: int) -> Sequence[str]:
        """Return a column of texts; -1 stands for the ids.

        Raises:
            DataError: if the file has changed since.
        """
        if self._texts is None:
            with suppress(FileNotFoundError):
                rows = load_split(*self.split[:3])
                self._texts = (*rows.texts, *([rows.ids] if rows.ids is not None else []))
            if self._texts is None or not _unchanged(self.split):
                raise DataError(f"{self.split.path} has changed since this job began; start the job again")
        return self._texts[number]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the texts out, as ``LateTexts`` does."""
        return {"split": self.split, "_texts": None}


def _unchanged(split: Split) -> bool:
    try:
        return file_hash(split.path) == split.digest
    except OSError:
        return False


def _write(path: Path, rows: TaskExamples, orders: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save_file

    tensors: Tensors = {}
    for part, one in (("train", rows.train), ("dev", rows.dev)):
        tensors[f"{part}_keys"] = np.frombuffer(b"".join(one.keys), dtype=np.uint8).copy()
        tensors[f"{part}_labels"] = np.ascontiguousarray(one.labels)
        tensors[f"{part}_order"] = orders[part].astype(np.int32)
    with atomic_write(path) as beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={"digest": digest(tensors)})


def _read(path: Path) -> Tensors | None:
    """Return what is kept; what is damaged is not: it is looked at anew."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    with suppress(SafetensorError, OSError), safe_open(path, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
        if opened.metadata() == {"digest": digest(tensors)}:
            return tensors
    return None
