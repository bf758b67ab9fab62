"""The calibration of a saved model: ``calibration.json`` in its folder, bound to the weights by their hash.

C label names of a task."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from bam_lightning.config.exceptions import ConfigError, StoreError
from bam_lightning.config.validation import check_range
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.json_schema import check_fields
from bam_lightning.store.run_dir import CALIBRATION, WEIGHTS, RunFolder

ABSTAIN = "abstain"  # the label of a row below the threshold of its label
LARGEST = 16 << 20  # bytes; an untrusted file must not fill the memory
FIELDS = {
    "temperature": float,
    "thresholds": dict[str, float | None],
    "target": str,
    "fitted_on": str,
    "rows": int,
    "before": dict[str, float],
    "after": dict[str, float],
    "note": str,
}
HELD_OUT_FOLDS = 5


@dataclass(frozen=True)
class TaskCalibration:
    """How a task's logits become probabilities and labels.

    Attributes:
        temperature: What logits are divided by.
        thresholds: Label name -> lowest probability at which the label is given; None: never. Empty: no thresholds.
        target: What the thresholds were asked for, such as ``precision 0.9``.
        fitted_on: Where the labelled rows came from.
        rows: Their number.
        before: ``loss`` and ``expected_calibration_error`` of these rows at temperature 1.
        after: The same at ``temperature``; the error at the temperatures of folds that leave the row out.
        note: Why the fitted temperature is not used, or that it is at the end of the search range; else empty.
    """

    temperature: float = 1.0
    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    target: str = ""
    fitted_on: str = ""
    rows: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def threshold(self, label: str) -> float:
        """Return the lowest probability at which a label is given."""
        found = self.thresholds.get(label, 0.0)
        return math.inf if found is None else found


class Decoded(NamedTuple):
    """Predictions of N rows.

    Attributes:
        values: In the shape and units of the labels: class ids or scores ``[N]``, indicators ``[N, C]``.
        probabilities: ``[N, C]``; ``[N, 0]`` for regression.
        answered: ``[N]`` False where the probability of the label is below its threshold.
    """

    values: NDArray[np.generic]
    probabilities: NDArray[np.float32]
    answered: NDArray[np.bool_]


def apply_thresholds(
    values: NDArray[np.generic], probabilities: NDArray[np.float32], calibration: TaskCalibration, names: Sequence[str]
) -> Decoded:
    """Return predictions with the thresholds of a task: they decide each label of a multi-label task, and else
    whether a row is answered."""
    answered = np.ones(len(values), dtype=bool)
    if calibration.thresholds:
        thresholds = np.array([calibration.threshold(name) for name in names])
        if values.ndim == 2:
            values = (probabilities >= thresholds).astype(values.dtype)
        else:
            ids = values.astype(int)
            answered = probabilities[np.arange(len(ids)), ids] >= thresholds[ids]
    return Decoded(values, probabilities, answered)


@dataclass(frozen=True)
class Target:
    """What thresholds are asked to reach on the labelled rows: at most one share in (0, 1].

    Attributes:
        precision: For each label: the share of right ones among the rows that are given it.
        recall: For each label: the share of its rows that are given it.
        agreement: The share of right rows among the answered ones, with one threshold for all labels.
    """

    precision: float | None = None
    recall: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` unless at most one share is given."""
        given = {name: share for name, share in vars(self).items() if share is not None}
        if len(given) > 1:
            raise ConfigError(f"give one of precision, recall and agreement, got {' and '.join(given)}")
        for name, share in given.items():
            if 2 <= share <= 100:
                raise ConfigError(f"{name} is a share in (0, 1]: for {share:g} % give {share / 100:g}")
            check_range(name, share, 0, 1, open_low=True)

    def __str__(self) -> str:
        """Return what is asked, such as ``precision 0.9``; empty if nothing is."""
        return "".join(f"{name} {share:g}" for name, share in vars(self).items() if share is not None)


def fit_calibration(
    names: Sequence[str],
    gold: NDArray[np.generic],
    decode: Callable[[TaskCalibration], Decoded],
    losses: Callable[[float], NDArray[np.float32]],
    target: Target,
    where: str,
    force: bool = False,
) -> TaskCalibration:
    """Fit a task's temperature, and thresholds if ``target`` asks for them.

    The temperature stays at 1 if a fitted one makes the expected calibration error of held-out rows larger.

    Args:
        names: C label names.
        gold: ``[N]`` class ids, or ``[N, C]`` indicators.
        decode: Function from a calibration to the predictions of the N rows.
        losses: Losses of the rows ``[N]`` at a temperature.
        target: What the thresholds are to reach.
        where: Where the rows came from.
        force: Use the temperature even if it makes the calibration error of held-out rows larger, and thresholds that
            no label reaches.

    Raises:
        ConfigError: If the task cannot be calibrated like this, or no label could ever be given.
    """
    from bam_lightning.metrics.calibration import LARGEST_TEMPERATURE, fit_temperature
    from bam_lightning.metrics.report import confidence_and_correct, expected_calibration_error

    if not names:
        raise ConfigError("a regression has no probabilities to calibrate; name other tasks")
    if str(target) and ABSTAIN in names:
        raise ConfigError(f"a label is named {ABSTAIN!r}, which thresholds give to rows below them; rename it")
    if target.agreement is not None and gold.ndim == 2:
        raise ConfigError("agreement is for tasks with one label per row; ask for precision or recall")

    def confidences(temperature: float) -> tuple[NDArray[Any], NDArray[Any]]:
        values, probabilities, _ = decode(TaskCalibration(temperature))
        return confidence_and_correct(values, probabilities, gold)

    def fitted(rows: NDArray[np.int64]) -> float:
        return fit_temperature(lambda temperature: float(losses(temperature)[rows].mean()))

    everything = np.arange(len(gold))
    temperature, before = fitted(everything), expected_calibration_error(*confidences(1.0))
    after = expected_calibration_error(*confidences(temperature))
    if len(gold) >= HELD_OUT_FOLDS:
        shares, right = (np.empty((len(gold), gold[0].size), dtype) for dtype in (np.float32, bool))
        for fold in np.array_split(np.random.default_rng(0).permutation(everything), HELD_OUT_FOLDS):
            confidence, correct = confidences(fitted(np.setdiff1d(everything, fold)))
            shares[fold] = confidence.reshape(shares.shape)[fold]
            right[fold] = correct.reshape(shares.shape)[fold]
        after = expected_calibration_error(shares.ravel(), right.ravel())
    note = ""
    if temperature > 0.99 * LARGEST_TEMPERATURE:
        note = (
            f"temperature at the end of the search range, {LARGEST_TEMPERATURE:g}: "
            "the confidences of this task say little"
        )
    elif temperature < 1.01 / LARGEST_TEMPERATURE:
        note = (
            f"temperature at the end of the search range, {1 / LARGEST_TEMPERATURE:g}: "
            "these rows do not bound the confidences; calibrate on more rows"
        )
    if after > before and not force:
        note = (
            f"temperature {temperature:.3f} is not used: on held-out rows the expected calibration error is "
            f"{after:.4f} with it and {before:.4f} without"
        )
        temperature, after = 1.0, before
    decoded = decode(TaskCalibration(temperature))
    thresholds = _thresholds(names, gold, decoded, target)
    if thresholds and set(thresholds.values()) == {None} and not force:
        raise ConfigError(_out_of_reach(target, gold, decoded))
    at_one, at_temperature = (
        {"loss": float(losses(value).mean()), "expected_calibration_error": error}
        for value, error in ((1.0, before), (temperature, after))
    )
    return TaskCalibration(temperature, thresholds, str(target), where, len(gold), at_one, at_temperature, note)


def _thresholds(
    names: Sequence[str], gold: NDArray[np.generic], decoded: Decoded, target: Target
) -> dict[str, float | None]:
    """Return label -> threshold; None where no threshold reaches the asked precision."""
    from bam_lightning.metrics.calibration import precision_threshold, recall_threshold

    values, probabilities, _ = decoded
    several = gold.ndim == 2
    thresholds: dict[str, float | None] = {}
    for label, name in enumerate(names):
        given = np.ones(len(gold), dtype=bool) if several else values == label
        right = gold[:, label] == 1 if several else gold == label
        confidence = probabilities[:, label]
        if target.precision is not None:
            thresholds[name] = precision_threshold(confidence[given], right[given], target.precision)
        elif target.recall is not None:
            found = recall_threshold(np.where(given, confidence, -1.0), right, target.recall)
            thresholds[name] = 0.0 if found is None else found  # not reached: give the label wherever it is predicted
    if target.agreement is not None:
        confidence = probabilities[np.arange(len(gold)), values.astype(int)]
        common = precision_threshold(confidence, values == gold, target.agreement)
        thresholds = dict.fromkeys(names, common)
    return thresholds


def _out_of_reach(target: Target, gold: NDArray[np.generic], decoded: Decoded) -> str:
    """Return that no threshold reaches the target, and how right the surest answers are."""
    values, probabilities, _ = decoded
    if gold.ndim == 2:
        confidence, right = probabilities.ravel(), gold.ravel() == 1
    else:
        confidence, right = probabilities[np.arange(len(gold)), values.astype(int)], values == gold
    surest = np.argsort(-confidence, kind="stable")[: max(1, len(right) // 10)]
    return (
        f"no threshold reaches {target} on these {len(gold):,} rows, so nothing would be answered: of the surest "
        f"{len(surest):,} answers {100 * right[surest].mean():.0f} % are right; ask for less, or calibrate on more "
        "rows (--force, or force=True, keeps such thresholds)"
    )


def write_calibration(weights: str, tasks: Mapping[str, TaskCalibration]) -> str:
    """Return the content of ``calibration.json``.

    Args:
        weights: Hash of the weights, as the manifest has it.
        tasks: Task -> its calibration.
    """
    content = {"weights": weights, "tasks": {name: asdict(task) for name, task in tasks.items()}}
    return json.dumps(content, indent=1) + "\n"


def update_calibration(
    run: RunFolder, labels: Mapping[str, Sequence[str]], fitted: Mapping[str, TaskCalibration]
) -> None:
    """Write what was fitted beside a model's weights, and keep the calibration of its other tasks.

    Processes of one user that calibrate tasks of one model at the same time wait for each other.

    Args:
        run: The model's folder.
        labels: Task -> its label names.
        fitted: Task -> its calibration.

    Raises:
        StoreError: If there is a damaged file, or one of other weights, or the folder cannot be written.
    """
    place = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:16]
    user = getattr(os, "getuid", int)()  # each has locks of their own
    with FileLock(Path(tempfile.gettempdir()) / f"bam-{user}-{place}.lock"):
        tasks = {**read_calibration(run, labels), **fitted}
        write_text(run.path / CALIBRATION, write_calibration(run.files()[WEIGHTS], tasks))


def read_calibration(run: RunFolder, labels: Mapping[str, Sequence[str]]) -> dict[str, TaskCalibration]:
    """Return task -> calibration of a saved model; empty if it has none.

    Args:
        run: The model's folder.
        labels: Task -> its label names.

    Raises:
        StoreError: If the file is damaged, or was made for other weights.
    """
    path = run.path / CALIBRATION
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        check_fields(content, {"weights": str, "tasks": dict[str, dict[str, Any]]})
        tasks = {name: _task(name, values, labels) for name, values in content["tasks"].items()}
    except (ValueError, RecursionError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); calibrate the model again, or delete the file") from error
    if content["weights"] != run.files().get(WEIGHTS):
        raise StoreError(f"{path} was made for other weights; calibrate the model again, or delete the file")
    return tasks


def _task(name: str, values: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> TaskCalibration:
    if name not in labels:
        raise ValueError(f"no task {name!r}")
    check_fields(values, FIELDS)
    if not 0 < values["temperature"] < math.inf:
        raise ValueError(f"temperature of {name!r} is {values['temperature']}")
    for label, threshold in values["thresholds"].items():
        if label not in labels[name]:
            raise ValueError(f"task {name!r} has no label {label!r}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold of {label!r} is {threshold}")
    return TaskCalibration(**{key: values[key] for key in FIELDS})
