"""Store finished Runs and their predictions: content-addressed, checked on reading, never half-written.

``runs/ID/`` holds a finished Run. It is built in ``building/ID/`` and then renamed, so a folder under ``runs`` is
complete. ``outputs/ID/`` holds the logits of a Run on the rows of a task, keyed by row content. N rows, K outputs of a
head."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.exceptions import StoreError, StorePathError
from bam_lightning.store.atomic_io import (
    WriteError,
    apply_umask,
    atomic_write,
    explain,
    translate_os_errors,
    translate_read_errors,
    write_text,
)
from bam_lightning.store.json_schema import check_fields
from bam_lightning.store.lock import RunLock
from bam_lightning.store.ragged import Ragged
from bam_lightning.store.run_dir import DIGEST, MANIFEST, RunFolder, file_hash, manifest_digest

KEY_BYTES = 16
FORMAT, FORMAT_FILE = 2, "format"  # raised when older stores can no longer be read; version 0.1 wrote no such file
MANIFEST_FIELDS = {
    "id": str,
    "stage": str,
    "tasks": list[str],
    "seed": int,
    "metrics": dict[str, dict[str, float]],
    "teachers": dict[str, str | list[str]],
    "spec": dict[str, Any],
    "finished": str,
    "device": str,
    "versions": dict[str, str],
    "files": dict[str, str],
    DIGEST: str,
}


class Store:
    """A folder of Runs that any number of processes may use at the same time.

    Args:
        root: Path of the folder.
        create: Make the folder if it is missing. Commands that only read pass False, so that a mistyped path leaves no
            empty store behind.

    Raises:
        StorePathError: If there is no store and ``create`` is False.
        StoreError: If another version of this package wrote the store.
        StoreError: If the folder cannot be written.
    """

    def __init__(self, root: str | Path, create: bool = True) -> None:
        self.root = Path(root).expanduser().resolve()
        with translate_read_errors(self.root):
            if not create and not (self.root / "runs").is_dir():
                raise StorePathError(f"no store at {self.root}; give the paths.store of the jobs as --store DIR")
            for folder in (self.root, self.root / "runs"):
                if folder.is_dir():
                    os.scandir(folder).close()  # glob would find nothing, without an error
            self._check_format()
        if not create:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not (self.root / FORMAT_FILE).exists():
                write_text(self.root / FORMAT_FILE, f"{FORMAT}\n")
            for name in ("runs", "building", "outputs", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"paths.store: {explain(self.root, error)}") from error

    def _check_format(self) -> None:
        """Raise ``StoreError`` for a store of version 0.1, or of a later format."""
        path = self.root / FORMAT_FILE
        version = ""
        if path.is_file():
            written = path.read_text(encoding="utf-8", errors="replace").strip()
            version = f"format {written}" if written != str(FORMAT) else ""
        elif any(self._of_version_01(manifest) for manifest in (self.root / "runs").glob(f"*/{MANIFEST}")):
            version = "bam_lightning 0.1"
        if version:
            raise StoreError(
                f"the store at {self.root} was written by another version ({version}), whose Runs this version cannot "
                "use; give another paths.store, or delete it"
            )

    @staticmethod
    def _of_version_01(path: Path) -> bool:
        """Return whether a manifest is of version 0.1: it had no digest."""
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError):  # damaged, which says nothing about the version
            return False
        return isinstance(manifest, dict) and "spec" in manifest and DIGEST not in manifest

    def folder(self, run_id: str) -> Path:
        """Return the folder of a finished Run."""
        return self.root / "runs" / run_id

    def staging_dir(self, run_id: str) -> Path:
        """Return the folder in which a Run and its checkpoints are built; make it if it is missing."""
        path = self.root / "building" / run_id
        path.mkdir(exist_ok=True)
        return path

    def lock(self, run_id: str) -> RunLock:
        """Return the lock of a Run, which its builder holds; it is free again when the holder's process dies."""
        return RunLock(self.root / "locks" / f"{run_id}.lock")

    def locked(self, run_id: str) -> bool:
        """Return whether a process is building a Run; False if that cannot be determined."""
        return (self.root / "locks" / f"{run_id}.lock").exists() and self.lock(run_id).held()

    def finished(self, run_id: str) -> bool:
        """Return whether the store has the finished Run."""
        with translate_read_errors(self.folder(run_id)):
            return (self.folder(run_id) / MANIFEST).is_file()

    def has_checkpoint(self, run_id: str) -> bool:
        """Return whether an unfinished Run has a checkpoint."""
        return (self.root / "building" / run_id / "last.ckpt").is_file()

    def run(self, run_id: str) -> RunFolder:
        """Return the folder of a finished Run.

        Raises:
            StorePathError: If the store does not have it.
        """
        if not self.finished(run_id):
            raise StorePathError(f"no Run {run_id!r} in {self.root}; train it first, or check paths.store")
        return RunFolder(self.folder(run_id), f"delete {self.folder(run_id)}, and the Run is trained anew")

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Read the manifest of a finished Run: stage, tasks, scores, times, versions, files.

        Raises:
            StorePathError: If the store does not have the Run.
            StoreError: If the manifest is another Run's, has been edited, or lacks a field.
        """
        run = self.run(run_id)
        manifest = run.manifest()
        if manifest.get("id", run_id) != run_id:
            raise StoreError(f"{run.path} has the files of another Run, {manifest.get('id')!r}; {run.remedy}")
        try:
            check_fields(manifest, MANIFEST_FIELDS)
        except ValueError as error:
            raise StoreError(f"{run.path / MANIFEST} is damaged ({error}); {run.remedy}") from error
        return manifest

    def check_head(self, run_id: str, task: str, head: Any, key: str) -> None:
        """Check that the Run's head of a task has the same outputs as the configured ``head``.

        Raises:
            StoreError: If they differ, naming ``key``.
        """
        trained = self.manifest(run_id)["spec"]["tasks"][task]["head"]
        for name in ("_target_", "label_names", "label_range", "sigmoid", "options"):
            configured = getattr(head, name)
            if trained.get(name, {}) != configured:
                raise StoreError(
                    f"{key}: Run {run_id} was trained with head.{name} {trained.get(name)}, task {task!r} here has "
                    f"{configured}; they must agree"
                )

    def commit(self, run_id: str, manifest: Mapping[str, Any]) -> None:
        """Turn the files in ``building/ID`` into the finished Run."""
        building = self.staging_dir(run_id)
        with translate_os_errors(building):
            paths = sorted(path for path in building.rglob("*") if path.is_file())
            apply_umask(*paths)
            temporary = [*building.glob("*.ckpt"), *building.glob("*.part")]
            files = {
                str(path.relative_to(building)): file_hash(path)
                for path in paths
                if path not in temporary and path.name != MANIFEST
            }
            complete = {**manifest, "id": run_id, "files": files}
            complete[DIGEST] = manifest_digest(json.loads(json.dumps(complete)))
            write_text(building / MANIFEST, json.dumps(complete, indent=1, sort_keys=True))
            for path in temporary:  # only now: until here a killed process can resume from its checkpoint
                path.unlink()
            if self.folder(run_id).exists():
                shutil.rmtree(self.folder(run_id))
            building.rename(self.folder(run_id))

    def predictions_path(self, run_id: str, task: str, split: str) -> Path:
        """Return the path of a Run's logits on a split."""
        return self.root / "outputs" / run_id / f"{task}.{split}.safetensors"

    def delete_predictions(self, run_id: str) -> None:
        """Delete a Run's predictions; a Run that is trained again, perhaps on another machine, may predict others."""
        with translate_os_errors(path := self.root / "outputs" / run_id):
            shutil.rmtree(path, ignore_errors=not path.exists())

    def has_predictions(self, run_id: str, task: str, split: str, keys: Sequence[bytes]) -> bool:
        """Return whether the store has the Run's logits for all rows with the given keys."""
        if not self.predictions_path(run_id, task, split).is_file():
            return False
        return set(keys) <= self.read_predictions(run_id, task, split).keys()

    def write_predictions(
        self, run_id: str, task: str, split: str, keys: Sequence[bytes], logits: NDArray[np.float32] | Ragged
    ) -> None:
        """Write the logits ``[N, K]`` of the rows with the given keys, or those of the words of N rows."""
        from safetensors.numpy import save_file

        path = self.predictions_path(run_id, task, split)
        tensors: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy(),
            "logits": np.ascontiguousarray(logits.values if isinstance(logits, Ragged) else logits, dtype=np.float32),
        }
        if isinstance(logits, Ragged):
            tensors["offsets"] = logits.offsets
        with atomic_write(path) as temporary:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, temporary, metadata={"digest": digest(tensors), "run": run_id, "task": task})

    def read_predictions(self, run_id: str, task: str, split: str) -> dict[bytes, NDArray[np.float32]]:
        """Return row key -> logits ``[K]``, or ``[w, K]`` of the words of a row.

        Raises:
            StorePathError: If the Run has not written them.
            StoreError: If a byte has changed since, or they are another Run's.
        """
        from safetensors import SafetensorError, safe_open

        path = self.predictions_path(run_id, task, split)
        with translate_read_errors(path):
            if not path.is_file():
                raise StorePathError(f"no predictions of Run {run_id} on {task!r} ({split}) at {path}; train it first")
            path.open("rb").close()
        try:
            with safe_open(path, framework="numpy") as file:
                names = {"keys", "logits", *file.keys()}  # one that is missing raises
                metadata, tensors = (file.metadata(), {name: file.get_tensor(name) for name in names})
        except SafetensorError as error:
            raise StoreError(f"{path} is damaged ({error}); delete it, and it is written anew") from error
        if metadata != {"digest": digest(tensors), "run": run_id, "task": task}:
            raise StoreError(f"{path} is damaged or belongs to another Run; delete it, and it is written anew")
        keys, logits = tensors["keys"].tobytes(), tensors["logits"]
        parts = np.split(logits, tensors["offsets"][1:-1]) if "offsets" in tensors else logits
        return {keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]: row for i, row in enumerate(parts)}


def load_logits(
    store: Store, run_id: str, task: str, split: str, keys: Sequence[bytes], texts: tuple[Sequence[str], ...]
) -> Any:
    """Return a Run's logits ``[N, K]`` for the rows with the given keys, in their order; ``Ragged`` ones of words.

    Raises:
        StoreError: If the Run has not predicted a row, naming the task and the row.
    """
    known = store.read_predictions(run_id, task, split)
    for row, key in enumerate(keys):
        if key not in known:
            text = " / ".join(column[row] for column in texts)
            raise StoreError(
                f"Run {run_id} has no prediction of task {task!r}, {split} row {row} ({text[:80]!r}); "
                "it predicted other rows, texts or labels"
            )
    found = [known[key] for key in keys]
    return np.stack(found) if found[0].ndim == 1 else Ragged.from_rows(found, np.float32, found[0].shape[1:])


def digest(tensors: Mapping[str, NDArray]) -> str:
    """Return a hash of named arrays: of their names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes())
    return total.hexdigest()
