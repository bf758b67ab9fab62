"""Finished Runs and what they say of their rows: content-addressed, checked on reading, never half-written.

``runs/ID/`` holds a finished Run; it is built in ``building/ID/`` and renamed as a whole, so a folder under
``runs`` is complete. ``outputs/ID/`` holds the logits of a Run on the rows of a task, keyed by row content.
N rows, K outputs of a head."""

from __future__ import annotations

import hashlib
import json
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
    write_text,
)
from bam_lightning.store.lock import RunLock
from bam_lightning.store.run_dir import MANIFEST, RunFolder, file_hash

KEY_BYTES = 16


class Store:
    """A folder of Runs that any number of processes may use at the same time."""

    def __init__(self, root: str | Path, create: bool = True) -> None:
        self.root = Path(root).expanduser().resolve()
        if not create:  # what only reads must not leave an empty store where somebody mistyped a path
            if not (self.root / "runs").is_dir():
                raise StorePathError(f"no store at {self.root}; give the paths.store of the jobs as store=DIR")
            return
        try:
            for name in ("runs", "building", "outputs", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"paths.store: {explain(self.root, error)}") from error

    def folder(self, run_id: str) -> Path:
        """Return where the finished Run lies."""
        return self.root / "runs" / run_id

    def staging_dir(self, run_id: str) -> Path:
        """Return where the Run is built, with its checkpoints; made if it is not there."""
        path = self.root / "building" / run_id
        path.mkdir(exist_ok=True)
        return path

    def lock(self, run_id: str) -> RunLock:
        """Return the right to build a Run; it is free again when its holder dies."""
        return RunLock(self.root / "locks" / f"{run_id}.lock")

    def locked(self, run_id: str) -> bool:
        """Return whether a process is building a Run; ``False`` where that cannot be found out."""
        return (self.root / "locks" / f"{run_id}.lock").exists() and self.lock(run_id).held()

    def finished(self, run_id: str) -> bool:
        """Return whether the Run is there."""
        return (self.folder(run_id) / MANIFEST).is_file()

    def has_checkpoint(self, run_id: str) -> bool:
        """Return whether a Run that is not finished has left a checkpoint."""
        return (self.root / "building" / run_id / "last.ckpt").is_file()

    def run(self, run_id: str) -> RunFolder:
        """Return the folder of a finished Run.

        Raises:
            StoreError: if it is not there.
        """
        if not self.finished(run_id):
            raise StorePathError(f"no Run {run_id!r} in {self.root}; train it first, or check paths.store")
        return RunFolder(self.folder(run_id), f"delete {self.folder(run_id)}, and the Run is trained anew")

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Return what is known of a finished Run: stage, tasks, scores, times, versions, files."""
        manifest = self.run(run_id).manifest()
        if manifest.get("id", run_id) != run_id:
            raise StoreError(
                f"{self.folder(run_id)} has the files of another Run, {manifest.get('id')!r}; "
                "delete it, and the Run is trained anew"
            )
        return manifest

    def check_head(self, run_id: str, task: str, head: Any, key: str) -> None:
        """Raise ``StoreError``, naming ``key``, unless the Run's head of a task gives what ``head``, a config, asks."""
        theirs = self.manifest(run_id)["spec"]["tasks"][task]["head"]
        for name in ("_target_", "label_names", "label_range", "sigmoid"):
            ours = getattr(head, name)
            if theirs[name] != ours:
                raise StoreError(
                    f"{key}: Run {run_id} was trained with head.{name} {theirs[name]}, task {task!r} here has {ours}; "
                    "they must agree"
                )

    def commit(self, run_id: str, manifest: Mapping[str, Any]) -> None:
        """Turn what lies in ``building/ID`` into the finished Run."""
        building = self.staging_dir(run_id)
        with translate_os_errors(building):
            there = sorted(path for path in building.rglob("*") if path.is_file())
            apply_umask(*there)
            left = [*building.glob("*.ckpt"), *building.glob("*.part")]
            files = {
                str(path.relative_to(building)): file_hash(path)
                for path in there
                if path not in left and path.name != MANIFEST
            }
            write_text(
                building / MANIFEST, json.dumps({**manifest, "id": run_id, "files": files}, indent=1, sort_keys=True)
            )
            for path in left:  # only now: until here a killed process can go on from its checkpoint
                path.unlink()
            if self.folder(run_id).exists():
                shutil.rmtree(self.folder(run_id))
            building.rename(self.folder(run_id))

    def predictions_path(self, run_id: str, task: str, split: str) -> Path:
        """Return where the logits of a Run on a split lie."""
        return self.root / "outputs" / run_id / f"{task}.{split}.safetensors"

    def delete_predictions(self, run_id: str) -> None:
        """Delete a Run's predictions: it has been trained anew, perhaps on another machine, and may say otherwise."""
        with translate_os_errors(path := self.root / "outputs" / run_id):
            shutil.rmtree(path, ignore_errors=not path.exists())

    def has_predictions(self, run_id: str, task: str, split: str, keys: Sequence[bytes]) -> bool:
        """Return whether the logits of a Run on all rows with the given keys are there."""
        if not self.predictions_path(run_id, task, split).is_file():
            return False
        return set(keys) <= self.read_predictions(run_id, task, split).keys()

    def write_predictions(
        self, run_id: str, task: str, split: str, keys: Sequence[bytes], logits: NDArray[np.float32]
    ) -> None:
        """Keep the logits ``[N, K]`` of the rows with the given keys."""
        from safetensors.numpy import save_file

        path = self.predictions_path(run_id, task, split)
        tensors: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy(),
            "logits": np.ascontiguousarray(logits, dtype=np.float32),
        }
        with atomic_write(path) as beside:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, beside, metadata={"digest": digest(tensors), "run": run_id, "task": task})

    def read_predictions(self, run_id: str, task: str, split: str) -> dict[bytes, NDArray[np.float32]]:
        """Return row key -> logits ``[K]``.

        Raises:
            StoreError: if the Run has not written them.
            ValueError: if a byte of them has changed since, or they are another Run's.
        """
        from safetensors import SafetensorError, safe_open

        path = self.predictions_path(run_id, task, split)
        if not path.is_file():
            raise StorePathError(f"no predictions of Run {run_id} on {task!r} ({split}) at {path}; train it first")
        try:
            with safe_open(path, framework="numpy") as opened:
                kept, tensors = (opened.metadata(), {name: opened.get_tensor(name) for name in ("keys", "logits")})
        except SafetensorError as error:
            raise StoreError(f"{path} is damaged ({error}); delete it, and it is written anew") from error
        if kept != {"digest": digest(tensors), "run": run_id, "task": task}:
            raise StoreError(f"{path} is damaged or belongs to another Run; delete it, and it is written anew")
        keys = tensors["keys"].tobytes()
        return {keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]: row for i, row in enumerate(tensors["logits"])}


def load_logits(
    store: Store, run_id: str, task: str, split: str, keys: Sequence[bytes], texts: tuple[Sequence[str], ...]
) -> NDArray[np.float32]:
    """Return a Run's logits ``[N, K]`` for the rows with the given keys, in their order.

    Raises:
        StoreError: naming the task and the first row that the Run has not predicted.
    """
    known = store.read_predictions(run_id, task, split)
    for row, key in enumerate(keys):
        if key not in known:
            text = " / ".join(column[row] for column in texts)
            raise StoreError(
                f"Run {run_id} has no prediction of task {task!r}, {split} row {row} ({text[:80]!r}); "
                "it predicted other rows, texts or labels"
            )
    return np.stack([known[key] for key in keys])


def digest(tensors: Mapping[str, NDArray]) -> str:
    """Return a hash of named arrays: of their names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes())
    return whole.hexdigest()
