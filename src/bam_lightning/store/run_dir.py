"""A finished Run's folder: its manifest, and its files compared with it; in a store, or carried elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from bam_lightning.config.exceptions import StoreError, StorePathError

MANIFEST = "run.json"
LARGEST_MANIFEST = 64 << 20  # bytes; a stranger's file must not fill the memory


class RunFolder:
    """One folder.

    Args:
        path: where it lies.
        remedy: end of every message about a damaged file: what to do.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self.remedy = path, remedy

    def manifest(self) -> dict[str, Any]:
        """Return what is known of the Run: stage, tasks, scores, times, versions, files.

        Raises:
            StoreError: if it is not there or cannot be read.
        """
        path = self.path / MANIFEST
        if not path.is_file():
            raise StorePathError(f"no {MANIFEST} in {self.path}, so it is not a Run's folder")
        self._check_inside(path)
        try:
            if path.stat().st_size > LARGEST_MANIFEST:
                raise StoreError(f"more than {LARGEST_MANIFEST >> 20} MiB")
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(manifest, dict):
                raise StoreError("not a JSON object")
            files = manifest.get("files", {})
            if not isinstance(files, dict) or not all(isinstance(one, str) for one in files.values()):
                raise StoreError("files is no mapping of names to hashes")
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is damaged ({error}); {self.remedy}") from error
        return manifest

    def files(self) -> dict[str, str]:
        """Return name -> sha256 of the Run's files; no name leads out of the folder."""
        files: dict[str, str] = self.manifest().get("files", {})
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute():
                raise StoreError(f"{self.path / MANIFEST} names a file {name!r} outside its folder; {self.remedy}")
        return files

    def file(self, name: str) -> Path:
        """Return the path of a file, after comparing it with the manifest.

        Raises:
            StoreError: if it is not there.
            ValueError: if it is not the one that was written.
        """
        path, expected = self.path / name, self.files().get(name)
        if expected is None or not path.is_file():
            raise StorePathError(f"{self.path} has no file {name!r}; {self.remedy}")
        self._check_inside(path)
        found = file_hash(path)
        if found != expected:
            raise StoreError(
                f"{path} is damaged: its hash is {found[:12]}, the manifest says {expected[:12]}; {self.remedy}"
            )
        return path

    def _check_inside(self, path: Path) -> None:
        """Raise ``StoreError`` for a link out of the folder; those of the hub's cache lead to its ``blobs``."""
        folder, found = self.path.resolve(), path.resolve()
        around = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
        if not any(found.is_relative_to(one) for one in around):
            raise StoreError(f"{path} is a link out of its folder, to {found}; {self.remedy}")


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while part := source.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
