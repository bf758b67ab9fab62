"""Shared by all exports: random rows to check them with, a folder written all at once, a manifest.

N rows, K outputs of a head."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.data_config import SETS
from bam_lightning.config.exceptions import ConfigError, ConfigPathError, OutputExistsError, StoreError
from bam_lightning.data.items import tokenize_rows
from bam_lightning.data.tokenization import LONGEST_FIRST
from bam_lightning.inference.calibration import ABSTAIN, TaskCalibration
from bam_lightning.inference.model_info import TaskInfo
from bam_lightning.inference.predictor import Predictor
from bam_lightning.models.adapters import merge_adapters
from bam_lightning.models.heads import Head
from bam_lightning.store.atomic_io import apply_umask, translate_os_errors
from bam_lightning.store.provenance import versions
from bam_lightning.store.ragged import Ragged

EXPORT_MANIFEST = "export.json"
TOLERANCE = 1e-4  # largest absolute difference of float32 logits
BATCH_SIZES = (1, 2, 7, 32)  # batch sizes that an export is checked with

LogitsFunction = Callable[[Sequence[Sequence[str]]], Mapping[str, NDArray[np.float32]]]


def float32_copy(model: Predictor) -> Predictor:
    """Return a copy of the model that computes in float32 on the CPU, its adapters merged."""
    heads = {task: copy.deepcopy(model.head(task)) for task in model.tasks}
    encoder = copy.deepcopy(model.encoder)
    merge_adapters(encoder)
    copied = Predictor(model.info, encoder, heads, model.tokenizer, "cpu", "32-true")
    copied.calibration = dict(model.calibration)
    return copied


def check_expressible(model: Predictor, kind: str) -> None:
    """Raise ``ConfigError`` for a model whose texts or encoder a format cannot express."""
    if model.info.truncation != LONGEST_FIRST:
        raise ConfigError(
            f"format {kind}: the model was trained with data.truncation={model.info.truncation}, which its tokenizer "
            "does not do there; use format bam"
        )
    if model.encoder.source is not None:
        raise ConfigError(f"format {kind} exports encoders of transformers; use format bam for {model.encoder.source}")


def right_padding(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that pads on the right, as positions of most encoders ask for."""
    copied = copy.deepcopy(tokenizer)
    copied.padding_side = "right"
    return copied


def random_rows(model: Predictor, n_texts: int, count: int = 128, seed: int = 0) -> list[tuple[str, ...]]:
    """Return rows of random vocabulary words, from one word to more than ``max_length`` tokens."""
    rng = np.random.default_rng(seed)
    special = set(model.tokenizer.all_special_ids)
    token_ids = [token_id for token_id in range(len(model.tokenizer)) if token_id not in special]
    lengths = rng.integers(1, max(2, model.info.max_length // n_texts), (count, n_texts))
    lengths[0] = model.info.max_length  # this row is truncated
    return [tuple(model.tokenizer.decode(rng.choice(token_ids, size)) or "a" for size in row) for row in lengths]


def max_logit_difference(
    model: Predictor, names: Sequence[str], exported: LogitsFunction, rows: Sequence[Sequence[str]]
) -> float:
    """Return the largest absolute difference of calibrated logits between a model and its export.

    Several batch sizes are tried.

    Raises:
        StoreError: If it is above ``TOLERANCE``, or not a number.
    """
    largest, start, turn = 0.0, 0, 0
    while start < len(rows):
        batch = rows[start : start + BATCH_SIZES[turn % len(BATCH_SIZES)]]
        expected, actual = model.calibrated_logits(batch, names), exported(batch)
        # np.max and not max: Python's max(0.0, nan) is 0.0
        differences = [np.abs(flat_logits(expected[name]) - flat_logits(actual[name])).max() for name in names]
        largest = float(np.max([largest, *differences]))
        start, turn = start + len(batch), turn + 1
    if not largest <= TOLERANCE:
        raise StoreError(
            f"the export differs from the model: logits of {', '.join(names)} differ by {largest:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return largest


def item_rows(model: Predictor, task: TaskInfo, count: int = 64) -> list[tuple[str, ...]]:
    """Return random rows of a task of choices, words or answers; of choices some rows have fewer."""
    if task.kind != "choice":
        return random_rows(model, len(task.text), count)
    columns = len(task.text) + len(task.label_names)
    rows = random_rows(model, columns, count)
    return [(*row[:-1], "") if number % 3 == 0 and columns > 3 else row for number, row in enumerate(rows)]


def item_logits(
    task: TaskInfo, rows: Sequence[Sequence[str]], tokenizer: Any, max_length: int, absent: float, run: Any
) -> Any:
    """Return the logits of rows of choices, words or answers, as an exported network gives them.

    Args:
        task: The task.
        rows: N rows of texts.
        tokenizer: The exported one.
        max_length: Of a text, in tokens.
        absent: Logit of a choice or word that is not there.
        run: A function from padded inputs ``[S, T]`` to scores of texts ``[S, 1]``, or of their tokens ``[S, T, K]``.
    """
    tokens = tokenize_rows(task.layout, tuple(zip(*map(task.texts_of, rows), strict=True)), tokenizer, max_length)
    assert tokens.rows is not None
    bounds = list(pairwise(tokens.offsets.tolist()))
    inputs = {"input_ids": [tokens.ids[start:end].tolist() for start, end in bounds]}
    if tokens.types is not None:
        inputs["token_type_ids"] = [tokens.types[start:end].tolist() for start, end in bounds]
    padded = tokenizer.pad(inputs, return_tensors="np")
    scores = run({name: padded[name].astype(np.int64) for name in padded})
    if task.kind == "choice":
        counts = np.diff(tokens.rows)
        there = np.arange(len(task.label_names)) < counts[:, None]  # [N, C]
        logits = np.full(there.shape, absent, np.float32)
        logits[there] = scores[:, 0]
        return logits
    assert tokens.words is not None
    flat = scores[padded["attention_mask"].astype(bool)]  # [tokens, K]
    places = tokens.words.values + np.repeat(tokens.offsets[tokens.rows[:-1]], tokens.words.counts)
    return Ragged(
        np.where(tokens.words.values[:, None] < 0, np.float32(absent), flat[places]).astype(np.float32),
        tokens.words.offsets,
    )


def flat_logits(logits: Any) -> NDArray[np.float32]:
    """Return logits as one array, those of words one after the other."""
    return np.asarray(logits.values if isinstance(logits, Ragged) else logits)


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``output`` on success and is deleted on failure.

    Raises:
        OutputExistsError: If ``output`` holds a file that no export has written.
        ConfigPathError: If the parent folder does not exist.
        StoreError: If the folder cannot be written.
    """
    _check_replaceable(output)
    parent = output.absolute().parent
    if not parent.is_dir():
        raise ConfigPathError(f"output: no folder {output.parent}")
    try:
        staging = Path(mkdtemp(dir=parent, prefix=f".{output.name}-"))
    except OSError as error:
        raise StoreError(f"output: cannot write to {parent} ({error.strerror})") from error
    try:
        with translate_os_errors(output):
            yield staging
            staging.chmod(0o755)  # mkdtemp creates a folder that only its owner may read
            apply_umask(*(staging / name for name in list_files(staging)))
        _check_replaceable(output)  # another process may have written into it meanwhile
        if output.exists():
            shutil.rmtree(output)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(output: Path) -> None:
    """Raise ``OutputExistsError`` unless ``output`` is missing, empty, or holds nothing but an earlier export."""
    if output.resolve() == Path.cwd():
        raise OutputExistsError("output: this is the current folder, which cannot be replaced; give a folder inside it")
    present = list_files(output)
    if not output.exists() or (output.is_dir() and not present):
        return
    try:
        manifest = json.loads((output / EXPORT_MANIFEST).read_text(encoding="utf-8"))
        exported = {EXPORT_MANIFEST, *manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputExistsError(f"output: {output} exists and is not an export; give a new folder") from None
    if foreign := sorted(present - exported):
        raise OutputExistsError(
            f"output: {output / foreign[0]} was not written by an export; move it away, or give a new folder"
        )


def list_files(folder: Path) -> set[str]:
    """Return the relative paths of all files in a folder and its subfolders."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def write_manifest(
    folder: Path, model: Predictor, kind: str, names: Sequence[str], difference: float, **more: Any
) -> None:
    """Write ``export.json``: the tasks, how to read their logits, and the source model. Write it last."""
    manifest = {
        "format": kind,
        "run": model.info.id,
        "max_length": model.info.max_length,
        "tasks": {
            name: describe_task(model.tasks[name], model.head(name), model.calibration.get(name)) for name in names
        },
        "largest_difference": difference,
        **more,
        "versions": versions(),
        "files": sorted(list_files(folder)),
    }
    (folder / EXPORT_MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def describe_task(task: TaskInfo, head: Head, calibration: TaskCalibration | None = None) -> dict[str, Any]:
    """Return what is needed to read a task's logits without this library."""
    spec = head.export_spec(task.label_names)
    thresholds = {} if calibration is None else dict(calibration.thresholds)
    return {
        "kind": task.kind,
        "columns": task.columns,
        "text": task.text,
        "label_names": task.label_names,
        "label_range": task.label_range,
        "outputs": spec.outputs,
        "problem_type": spec.problem_type,
        "label": spec.how + how_thresholds(thresholds, task.metric),
        "thresholds": thresholds,
        "metric": task.metric,
        "dev_scores": task.scores,
    }


def how_thresholds(thresholds: Mapping[str, float | None], metric: str) -> str:
    """Return how thresholds change the way from scores to a label; empty without thresholds."""
    if not thresholds:
        return ""
    shown = ", ".join(f"{name} {'never' if least is None else f'{least:.4f}'}" for name, least in thresholds.items())
    if metric in [each.value for each in SETS]:
        return f"; but each at its own threshold ({shown})"
    return f"; {ABSTAIN} if that score is below the label's threshold ({shown})"


def check_text_counts(model: Predictor, names: Sequence[str], kind: str) -> None:
    """Raise ``ConfigError`` for a task of more than two texts, which transformers' tokenizers cannot join."""
    for name in names:
        if len(model.tasks[name].text) > 2 and model.tasks[name].kind != "choice":
            raise ConfigError(
                f"format {kind}: task {name!r} joins {len(model.tasks[name].text)} texts, a tokenizer of transformers "
                "takes one or two; choose format bam, or train with one template"
            )


def example_row(task: TaskInfo) -> tuple[str, ...]:
    """Return an example input of the task."""
    return ("A first text.", "A second text.")[: 2 if task.kind == "choice" else len(task.text)]
