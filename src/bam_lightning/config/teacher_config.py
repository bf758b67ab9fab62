"""Teachers from outside a recipe: what names one, and how a file of predictions is read.

Imports neither torch nor Hydra. C classes of a task."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice

FORMS = ("logits", "probabilities", "values", "labels", "votes", "top_logprobs")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
COMPRESSED = (".gz", ".bz2", ".xz")
_RUN = re.compile(r"[0-9a-f]{12}\Z")


def is_run_id(name: str) -> bool:
    """Return whether a name is the id of a Run: 12 hexadecimal digits."""
    return bool(_RUN.match(name))


@dataclass(frozen=True)
class TeacherSource:
    """A teacher from outside: a file of predictions, a Run, a saved model or a model of the hub.

    The form of a file's predictions is said by one of six options, each of which names columns: ``p_*`` is a column for
    each class, whose name stands for ``*``; a single column holds numbers, lists, or mappings of class to number.

    Args:
        path: A ``.parquet``, ``.csv``, ``.tsv``, ``.json`` or ``.jsonl`` file, which may be compressed; 12 hexadecimal
            digits for a Run; a folder or ``.ckpt`` for a model; else an id of the Hugging Face hub.
        logits: Columns of outputs before softmax or sigmoid.
        probabilities: Columns of probabilities; of a multi-label task that of each label by itself.
        values: Column of numbers in label units, of a regression task.
        labels: Column of label names, or of lists of them for a multi-label task.
        confidence: Beside ``labels``, of a classification or ordinal task: column of the label's probability, from 0 to
            1. What is left of it is spread evenly over the other classes.
        votes: Columns of counts, as of annotators.
        top_logprobs: Column of the log-probabilities of the likeliest classes, as language models return them: a
            mapping of token to log-probability, or a list of objects with ``token`` and ``logprob``. What is left of
            the probability is spread over the other classes.
        classes: The classes of the numbers in a list, or of several columns whose names are no classes, in their order.
        temperature: Above 0; logits are divided by it, probabilities are raised to its inverse.
        missing: ``error``, or ``gold``: rows without a prediction learn from gold labels alone.
        duplicates: ``error``, or ``mean``: rows of equal texts with different predictions are averaged.
        check_agreement: Refuse predictions that agree with gold on no more rows than the commonest label does.
        weight: Weight in an ensemble.
    """

    path: str
    logits: str | None = None
    probabilities: str | None = None
    values: str | None = None
    labels: str | None = None
    confidence: str | None = None
    votes: str | None = None
    top_logprobs: str | None = None
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    missing: str = "error"
    duplicates: str = "error"
    check_agreement: bool = True
    weight: float = 1.0

    @property
    def forms(self) -> dict[str, str]:
        """The forms that are given, and their columns."""
        return {form: columns for form in FORMS if (columns := getattr(self, form)) is not None}

    @property
    def is_file(self) -> bool:
        """Whether the predictions stand in a table."""
        name = self.path.lower()
        for ending in COMPRESSED:
            name = name.removesuffix(ending)
        return name.endswith(TABLES) and not Path(self.path).expanduser().is_dir()

    @property
    def is_run(self) -> bool:
        """Whether the source is the id of a Run."""
        return is_run_id(self.path) and not Path(self.path).exists()

    def check(self, key: str) -> None:
        """Raise ``ConfigError`` for options that do not fit together."""
        if len(self.forms) > 1:
            raise ConfigError(f"{key} gives {' and '.join(self.forms)}; a file's predictions have one form, give one")
        for form, columns in self.forms.items():
            if not isinstance(columns, str) or not columns or columns.count("*") > 1:
                raise ConfigError(f"{key}.{form} must name a column, or several with one *, got {columns!r}")
        if not self.is_file:
            for field in fields(self):
                if field.name not in ("path", "weight") and getattr(self, field.name) != field.default:
                    raise ConfigError(
                        f"{key}.{field.name} is for a file of predictions, {self.path!r} is none; leave it out, or "
                        f"give a file that ends in {', '.join(TABLES)}"
                    )
        check_choice(f"{key}.missing", self.missing, ("error", "gold"))
        check_choice(f"{key}.duplicates", self.duplicates, ("error", "mean"))
        for name in ("temperature", "weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(f"{key}.{name} must be a number above 0, got {value!r}")
        if self.confidence is not None and list(self.forms) != ["labels"]:
            raise ConfigError(
                f"{key}.confidence is the column of a label's probability; name that of labels with labels="
            )
        if self.temperature != 1 and ("values" in self.forms or ("labels" in self.forms and not self.confidence)):
            raise ConfigError(f"{key}.temperature is for logits and probabilities; leave it out")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{key}.classes names a class twice: {', '.join(self.classes)}")


def teacher_sources(
    key: str, value: Any, weights: Sequence[float] | None = None, **options: Any
) -> list[TeacherSource]:
    """Return the sources that a value of a configuration names: a path, a mapping of options, or a list of these.

    Args:
        key: What error messages begin with, such as ``teachers.topic``.
        value: The value.
        options: Of ``TeacherSource``, for every member.

    >>> [source.path for source in teacher_sources("teachers.topic", ["a.csv", {"path": "b.csv", "votes": "n_*"}])]
    ['a.csv', 'b.csv']
    """
    members = list(value) if isinstance(value, (list, tuple)) else [value]
    if not members:
        raise ConfigError(f"{key} is an empty list; name a teacher")
    found = [_source(key if len(members) == 1 else f"{key}[{n}]", one, options) for n, one in enumerate(members)]
    for source in found:
        source.check(key)
    return found


def _source(key: str, value: Any, options: Mapping[str, Any]) -> TeacherSource:
    if isinstance(value, TeacherSource):
        return value
    given = dict(value) if isinstance(value, Mapping) else {"path": value}
    known = [field.name for field in fields(TeacherSource)]
    given = {**options, **given}
    for name in given:
        check_choice(key, str(name), known)
    path = given.get("path")
    if isinstance(path, int) and not isinstance(path, bool):  # YAML reads a Run of 12 decimal digits as a number
        path = f"{path:012d}"
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError(f"{key} must name a file, a Run, a folder or a hub id, got {value!r}")
    classes = given.get("classes") or ()
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise ConfigError(f"{key}.classes must be a list of class names, got {classes!r}")
    return TeacherSource(**{**given, "path": str(path), "classes": tuple(str(name) for name in classes)})
