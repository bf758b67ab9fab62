"""What is read from outside: a split of a task (hub, Parquet, CSV, TSV, JSONL), plain text, encoder files."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pyarrow as pa

from bam_lightning.data_config import DataConfig, TaskConfig

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
HUB_SECONDS = 4.0
ENCODER_HINT = (
    "give encoder.path=DIR, a folder with config.json, model.safetensors and the tokenizer's files, "
    "or a hub id such as google-bert/bert-base-uncased"
)


def read_split(name: str, task: TaskConfig, data: DataConfig, split: str) -> tuple[pa.Table, str]:
    """Return the rows of ``split`` and, for error messages, where they came from.

    Local files are read when ``data.root`` is given or ``task.path`` is a file or folder; else the hub is asked.

    Raises:
        FileNotFoundError: if there is no such file, naming what lies there.
        OSError: if the hub cannot be reached within five seconds, saying how to use local files.
        ValueError: if the file cannot be parsed.
    """
    local = local_path(name, task, data)
    if local is None:
        return _from_hub(name, task, split), f"{task.path} ({task.subset or 'default'}, {split})"
    path = split_file(name, local, split)
    try:
        return read_file(path, [*task.text_columns, *[task.label_column] * task.multi_label]), str(path)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"task {name!r}: {path} cannot be read as {path.suffix[1:]}: {error}") from error


def local_path(name: str, task: TaskConfig, data: DataConfig) -> Path | None:
    """Return the folder or file that holds the task, or ``None`` if it comes from the hub."""
    own = Path(task.path).expanduser()
    if own.exists() or task.path.startswith((".", "/", "~")) or own.suffix in ENDINGS:
        return own
    return Path(data.root).expanduser() / (task.subset or name) if data.root else None


def split_file(name: str, folder: Path, split: str) -> Path:
    """Return the file of ``split``: that very name, or the name with one of the known endings."""
    if folder.is_file():
        folder = folder.parent
    for candidate in (folder / split, *(folder / f"{split}{ending}" for ending in ENDINGS)):
        if candidate.is_file() and candidate.suffix in ENDINGS:
            return candidate
    if not folder.is_dir():
        raise FileNotFoundError(f"task {name!r}: no folder {folder}; check data.root and suite.tasks.{name}.subset")
    there = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    raise FileNotFoundError(
        f"task {name!r}: no split {split!r} in {folder} (looked for {', '.join(ENDINGS)}); files there: "
        f"{', '.join(there) or 'none'}; name one with suite.tasks.{name}.train_split=, .dev_split= or .test_split="
    )


def read_file(path: Path, text_columns: list[str]) -> pa.Table:
    """Read one file; in CSV and TSV the columns named are text, whatever they look like.

    TSV is unquoted, as GLUE's files are.
    """
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path)
    if path.suffix == ".jsonl":
        from pyarrow import json

        return json.read_json(path)
    from pyarrow import csv

    tabs = path.suffix == ".tsv"
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(
            delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(text_columns, pa.string()),
            true_values=[],
            false_values=[],  # class names
        ),
    )


def _from_hub(name: str, task: TaskConfig, split: str) -> pa.Table:
    hub_or_offline()
    from datasets import load_dataset

    try:
        return load_dataset(task.path, task.subset, split=split).with_format(None).data.table
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        what = f"{task.path} ({task.subset or 'default'}, split {split})"
        raise OSError(
            f"task {name!r}: {what} could not be read from the hub ({reason}); "
            f"to use local files give data.root=DIR, holding {task.subset or name}/{split}.parquet "
            f"(or csv, tsv, jsonl), or suite.tasks.{name}.path=DIR"
        ) from error


@cache
def hub_or_offline() -> bool:
    """Return whether the hub answers; if not, tell its client so, which would else retry for 23 s per call.

    Works only before the client is first imported, which is why every caller comes here first.
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
    """Return what identifies a pretrained encoder: a hash of its local files, or its hub id and revision.

    Raises:
        OSError: if it is neither a folder, nor kept from an earlier download, nor on a hub that answers.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        digest = hashlib.sha256()
        for file in sorted(local.iterdir()):
            if file.suffix in (".json", ".safetensors", ".txt", ".model", ".bin"):
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:16]
    if path.startswith((".", "/", "~")):
        raise FileNotFoundError(f"encoder.path: no folder {path}; {ENCODER_HINT}")
    if not hub_or_offline():
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            raise OSError(f"encoder {path!r} is not on this machine and the hub cannot be reached; {ENCODER_HINT}")
    return f"{path}@{revision or 'main'}"


def read_texts(files: Iterable[str]) -> list[str]:
    """Return the non-empty lines of the files, one text each.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing, not UTF-8, or empty.
    """
    texts: list[str] = []
    for name in files:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"encoder.pretraining.text: no file {path}; give text files, one text a line")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f"encoder.pretraining.text: {path} is not UTF-8 text: {error}") from error
        if not any(lines):
            raise ValueError(f"encoder.pretraining.text: {path} has no text in it")
        texts += [line for line in lines if line]
    return texts
