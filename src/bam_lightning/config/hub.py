"""The Hugging Face hub: its ids, whether it answers, and what identifies an encoder there or in a folder."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from bam_lightning.config.exceptions import ConfigError, ConfigPathError
from bam_lightning.config.validation import expand_path

HUB_SECONDS = 4.0
ENCODER_HINT = (
    "give encoder.path=DIR, a folder with config.json, model.safetensors and the tokenizer's files, "
    "or a hub id such as google-bert/bert-base-uncased"
)


@cache
def hub_or_offline() -> bool:
    """Return whether the hub answers; if not, tell its clients so, which would else retry for 23 s per call.

    They read the environment when they are imported, so those that are imported already are told as well.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    answers: list[bool] = []
    probe = threading.Thread(target=lambda: answers.append(_hub_answers()), daemon=True)
    probe.start()
    probe.join(HUB_SECONDS)  # a name look-up can hang for longer than any socket time-out
    if answers == [True]:
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    for client in ("huggingface_hub.constants", "datasets.config"):
        if client in sys.modules:
            vars(sys.modules[client])["HF_HUB_OFFLINE"] = True
    return False


def _hub_answers() -> bool:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS - 1).close()
    except urllib.error.HTTPError:
        return True  # it answered, if only to refuse
    except (OSError, ValueError):
        return False
    return True


def encoder_fingerprint(path: str, revision: str | None) -> str:
    """Return what identifies a pretrained encoder: a hash of its local files, or its hub id and commit.

    Raises:
        ConfigError: if it is neither a folder, nor kept from an earlier download, nor on a hub that answers.
    """
    local = expand_path("encoder.path", path)
    if _there(local) and local.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            if not any(part.startswith(".") for part in file.relative_to(local).parts):
                digest.update(file.relative_to(local).as_posix().encode() + file.read_bytes())
        return digest.hexdigest()[:16]
    if is_local_path(path):
        raise ConfigPathError(f"encoder.path: no folder {path}; {ENCODER_HINT}")
    if not hub_or_offline():
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            raise ConfigError(
                f"encoder {path!r} is no folder here, was not downloaded before, and the hub cannot be reached; "
                f"{ENCODER_HINT}"
            )
    return f"{path}@{_commit(path, revision)}"


def _commit(path: str, revision: str | None) -> str:
    """Return the commit that a revision of the hub stands for now, or in the cache where the hub does not answer."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if hub_or_offline():
        try:
            return str(HfApi().model_info(path, revision=revision).sha)
        except OSError:
            pass  # no such repository, or no right to read it: whoever loads it says so
    cached = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision or "main"


def is_local_path(path: str) -> bool:
    """Return whether an encoder's path can only be a folder's: ids of the hub are ``NAME`` or ``OWNER/NAME``."""
    return not re.fullmatch(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", path)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file's, say
        return False
