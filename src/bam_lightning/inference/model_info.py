"""What a saved model says of itself: its tasks by name, and how texts are read. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bam_lightning.config.exceptions import DataError, StoreError, StorePathError
from bam_lightning.config.names import name_error
from bam_lightning.config.validation import check_choice, suggest
from bam_lightning.data.readers import hub_or_offline
from bam_lightning.store.run_dir import MANIFEST, RunFolder
from bam_lightning.store.run_store import Store

ANEW = "download or copy the model again"
PARTS = ("*.safetensors", "run.json", "encoder/*", "README.md", "history.json")


class TaskInfo(NamedTuple):
    """One task of a saved model.

    ``columns`` are its texts, one or two; labels are ``label_names``, in the order of class ids, or numbers in
    ``label_range``; ``scores`` are those on dev, in [-1, 1], the task's own metric first.
    """

    name: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    label_range: tuple[float, ...]
    metric: str
    scores: Mapping[str, float]
    allow_empty_text: bool
    head: Mapping[str, Any]

    def fault(self, row: Sequence[Any]) -> str | None:
        """Return why a row of texts cannot be scored, or ``None``."""
        if len(row) != len(self.columns):
            return f"{len(row)} texts; task {self.name!r} reads {len(self.columns)}: {', '.join(self.columns)}"
        for column, text in zip(self.columns, row, strict=True):
            if text is None:
                return f"{column} has no value"
            if not isinstance(text, str):
                return f"{column} is {type(text).__name__}, not text"
            if not (text.strip() or self.allow_empty_text):
                return f"{column} is empty"
            if not _whole(text):
                return f"{column} is not UTF-8 text"
        return None


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_rows(tasks: Iterable[TaskInfo], rows: Sequence[Sequence[Any]]) -> None:
    """Raise ``DataError``, naming the first row that a task cannot score."""
    for task in tasks:
        for number, row in enumerate(rows):
            if fault := task.fault(row):
                raise DataError(f"row {number}: {fault}")


@dataclass(frozen=True)
class ModelInfo:
    """A saved model before its weights are read: ``run`` is its folder, ``manifest`` all that is known of it."""

    run: RunFolder
    manifest: Mapping[str, Any]
    tasks: Mapping[str, TaskInfo]

    @property
    def id(self) -> str:
        """The Run that it is."""
        return str(self.manifest["id"])

    @property
    def max_length(self) -> int:
        """Tokens, special ones included, that a row is cut to."""
        return int(self.manifest["spec"]["max_length"])

    def task(self, name: str) -> TaskInfo:
        """Return a task.

        Raises:
            ConfigError: naming the tasks there are.
        """
        check_choice("task", name, self.tasks)
        return self.tasks[name]

    def named(self, names: str | Sequence[str], width: int | None = None) -> list[TaskInfo]:
        """Return the tasks of the given names; ``all`` are those that read ``width`` texts.

        Raises:
            BamError: for an unknown name, or if no task reads that many texts.
        """
        if names != "all":
            return [self.task(name) for name in ([names] if isinstance(names, str) else names)]
        found = [task for task in self.tasks.values() if width in (None, len(task.columns))]
        if not found:
            known = ", ".join(f"{task.name} ({len(task.columns)})" for task in self.tasks.values())
            raise DataError(f"no task reads {width} texts; tasks and their texts: {known}")
        return found


def find_model(name: str, store: str = "store", revision: str | None = None) -> RunFolder:
    """Return the folder of a saved model: itself, that of a Run in ``store``, or one downloaded from the hub.

    Raises:
        StoreError: if it is none of them.
    """
    path = Path(name).expanduser()
    if (path / MANIFEST).is_file():
        return RunFolder(path, ANEW)
    if path.is_dir():
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise StorePathError(f"no saved model in {path}: no {MANIFEST}; there: {there}")
    runs = Path(store).expanduser() / "runs"
    if "/" not in name:
        if not runs.is_dir():
            raise StorePathError(
                f"no Run {name!r}: there is no store at {runs.parent}; give the paths.store of the job that trained it "
                "as store=DIR, or a folder, or a hub id such as me/my-model"
            )
        if (runs / name).is_dir():
            return Store(store, create=False).run(name)
        known = sorted(entry.name for entry in runs.glob("*/"))
        raise StorePathError(
            f"no Run {name!r} in {runs.parent}{suggest(name, known)}; `bam runs` lists them; "
            "else give a folder, or a hub id such as me/my-model"
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise StorePathError(f"no folder {path}; give a Run, a folder, or a hub id such as me/my-model")
    return RunFolder(_download(name, revision), ANEW)


def _download(name: str, revision: str | None) -> Path:
    hub_or_offline()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PARTS)))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise StoreError(f"model {name!r} is no folder, and could not be read from the hub ({reason})") from error


def read_model_info(run: RunFolder) -> ModelInfo:
    """Return what the model in a folder says of itself.

    Raises:
        StoreError: if its manifest is missing, damaged, or that of a Run without tasks.
    """
    manifest = run.manifest()
    try:
        tasks = {name: _task(name, manifest) for name in map(str, manifest["tasks"])}
        for name in tasks:
            if reason := name_error(name):  # exports make folders of them
                raise StoreError(f"task {name!r} {reason}")
        if int(manifest["spec"]["max_length"]) < 1:
            raise ValueError(f"max_length is {manifest['spec']['max_length']}")
        str(manifest["spec"]["precision"]), str(manifest["spec"]["pooling"]), str(manifest["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{run.path / MANIFEST} is not that of a model this version reads ({type(error).__name__}: {error}); "
            f"{run.remedy}"
        ) from error
    if not tasks:
        raise StoreError(f"{run.path} holds a {manifest.get('kind')} Run, which has no task; give one that has")
    return ModelInfo(run, manifest, tasks)


def _task(name: str, manifest: Mapping[str, Any]) -> TaskInfo:
    spec = manifest["spec"]["tasks"][name]
    reads, head = manifest["reads"][name], spec["head"]
    if len(reads["text"]) not in (1, 2) or isinstance(reads["text"], str):
        raise StoreError(f"{name!r} reads {reads['text']!r}, not one or two columns")
    return TaskInfo(
        name,
        tuple(map(str, reads["text"])),
        tuple(map(str, head["label_names"])),
        tuple(map(float, head["label_range"])),
        str(spec["metric"]),
        {str(key): float(value) for key, value in manifest["metrics"].get(name, {}).items()},
        bool(reads["allow_empty_text"]),
        dict(head),
    )
