"""A finished Run's folder, in a store or copied elsewhere: its manifest, and its files checked against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bam_lightning.config.exceptions import StoreAccessError, StoreError, StorePathError
from bam_lightning.store.atomic_io import translate_read_errors

MANIFEST = "run.json"
WEIGHTS = "model.safetensors"
CALIBRATION = "calibration.json"  # beside the weights; not part of the manifest
LARGEST_MANIFEST = 64 << 20  # bytes; an untrusted file must not fill the memory
DIGEST = "digest"  # field of a manifest: a hash of all its other fields


class RunFolder:
    """The folder of a finished Run.

    Args:
        path: Path of the folder.
        remedy: What to do about a damaged file; the end of every message about one.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self.remedy = path, remedy

    def manifest(self) -> dict[str, Any]:
        """Read the Run's manifest: stage, tasks, scores, times, versions, files.

        Raises:
            StorePathError: If there is no manifest.
            StoreError: If it cannot be read, or was edited.
        """
        path = self.path / MANIFEST
        if not path.is_file():
            raise StorePathError(f"no {MANIFEST} in {self.path}, so it is not a Run's folder")
        self._check_inside(path)
        try:
            if path.stat().st_size > LARGEST_MANIFEST:
                raise StoreError(f"more than {LARGEST_MANIFEST >> 20} MiB")
            with translate_read_errors(path):
                manifest = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(manifest, dict):
                raise StoreError("not a JSON object")
            files = manifest.get("files", {})
            if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
                raise StoreError("files is no mapping of names to hashes")
            if DIGEST in manifest and manifest[DIGEST] != manifest_digest(manifest):
                raise StoreError("it was edited after the Run had finished")
        except StoreAccessError:
            raise
        except (ValueError, RecursionError, OSError) as error:
            raise StoreError(f"{path} is damaged ({error}); {self.remedy}") from error
        return manifest

    def files(self) -> dict[str, str]:
        """Return name -> sha256 of the Run's files.

        Raises:
            StoreError: If a name leads out of the folder.
        """
        files: dict[str, str] = self.manifest().get("files", {})
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute():
                raise StoreError(f"{self.path / MANIFEST} names a file {name!r} outside its folder; {self.remedy}")
        return files

    def file(self, name: str) -> Path:
        """Return the path of a file, after checking its hash against the manifest.

        Raises:
            StorePathError: If the file is missing.
            StoreError: If its hash differs.
        """
        path, expected = self.path / name, self.files().get(name)
        if expected is None or not path.is_file():
            raise StorePathError(f"{self.path} has no file {name!r}; {self.remedy}")
        self._check_inside(path)
        with translate_read_errors(path):
            actual = file_hash(path)
        if actual != expected:
            raise StoreError(
                f"{path} is damaged: its hash is {actual[:12]}, the manifest says {expected[:12]}; {self.remedy}"
            )
        return path

    def check_links(self) -> None:
        """Raise ``StoreError`` for a link anywhere in the folder that leads out of it, also of a file not in use."""
        for path in self.path.rglob("*"):
            if path.is_symlink():
                self._check_inside(path)

    def _check_inside(self, path: Path) -> None:
        """Raise ``StoreError`` if a link leads out of the folder; the hub's cache may link to its ``blobs``."""
        folder, target = self.path.resolve(), path.resolve()
        allowed = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
        if not any(target.is_relative_to(root) for root in allowed):
            raise StoreError(f"{path} is a link out of its folder, to {target}; {self.remedy}")


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's fields, leaving out ``digest`` itself.

    >>> edited = {"seed": 1, "digest": manifest_digest({"seed": 0})}
    >>> manifest_digest(edited) == edited["digest"]
    False
    """
    fields = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while part := source.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
