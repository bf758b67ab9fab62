"""Read the description of a saved model: its tasks, their label names and how texts are truncated. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bam_lightning.config.data_config import LABEL_OPTIONS, TRUNCATIONS, check_metric, kind_of, metric_name
from bam_lightning.config.exceptions import DataError, StoreError, StorePathError
from bam_lightning.config.hub import hub_or_offline
from bam_lightning.config.names import name_error
from bam_lightning.config.text_fields import is_template, render, text_columns_of
from bam_lightning.config.trainer_config import PRECISIONS
from bam_lightning.config.validation import check_choice, suggest
from bam_lightning.data.task import Layout
from bam_lightning.inference.calibration import TaskCalibration, read_calibration
from bam_lightning.store.run_dir import CALIBRATION, MANIFEST, RunFolder
from bam_lightning.store.run_store import Store

REMEDY = "download or copy the model again"
EXAMPLE_TEXTS = ("A man sleeps.", "A person rests.")
HUB_FILES = ("*.safetensors", "run.json", CALIBRATION, "encoder/*", "README.md", "history.json")


class TaskInfo(NamedTuple):
    """One task of a saved model.

    Attributes:
        name: The task's name.
        columns: Names of the columns that make up a row: those of its texts, then those of its choices.
        label_names: Label names in the order of the class ids; empty for regression.
        label_range: Lowest and highest score; empty unless the task is a regression.
        metric: Name of the task's headline metric.
        scores: Scores on the dev set in [-1, 1], the headline metric first.
        allow_empty_text: Whether an empty text is a valid input.
        head: The head's configuration.
        text: Its texts: columns, or templates of columns.
        kind: What it predicts; see ``Task``.
        choices: The columns of its choices, or one column of lists of them.
        own_metrics: The headline metric and those beside it, where one of them is not one of the library's names or
            stands beside it.
        label: The column of its labels.
        label_separator: Between the labels of a multi-label row where the column is text.
    """

    name: str
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    label_range: tuple[float, ...]
    metric: str
    scores: Mapping[str, float]
    allow_empty_text: bool
    head: Mapping[str, Any]
    text: tuple[str, ...]
    kind: str = "classification"
    choices: tuple[str, ...] = ()
    own_metrics: tuple[Any, ...] = ()
    label: str = LABEL_OPTIONS["label"]
    label_separator: str = LABEL_OPTIONS["label_separator"]

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The headline metric, by name or ``_target_``, and those that were asked for beside it."""
        return self.own_metrics or (self.metric,)

    @property
    def layout(self) -> Layout:
        """How the task's texts are encoded."""
        return Layout(self.kind, len(self.text))

    @property
    def reads_templates(self) -> bool:
        """Whether one of the task's texts is made of several columns, which may have no value."""
        return any(map(is_template, self.text))

    def render(self, row: Sequence[Any]) -> tuple[str, ...]:
        """Return the texts of a row of columns; a row of another task, with other columns, as it is."""
        if self.reads_templates and len(row) == len(self.columns):
            names = text_columns_of(self.text)
            row = (*render(self.text, dict(zip(names, row, strict=False))), *row[len(names) :])
        return self.texts_of(row)

    def texts_of(self, row: Sequence[Any]) -> tuple[str, ...]:
        """Return the texts of a row: lists of words joined, lists of choices one by one, '' for missing choices."""
        if self.kind == "tagging":
            return tuple(text if isinstance(text, str) else " ".join(text) for text in row)
        if self.kind != "choice":
            return tuple(row)
        first = len(self.text)
        choices = row[first] if len(row) == first + 1 else row[first:]
        return (*row[:first], *choices, *[""] * (len(self.label_names) - len(choices)))

    @property
    def reads_choice_list(self) -> bool:
        """Whether the choices of a row are one list, the value of its last column."""
        return self.kind == "choice" and len(self.choices) == 1

    def example_row(self) -> tuple[Any, ...]:
        """Return a row that the task can score: its texts, or the words of a text to tag, then its choices."""
        columns = text_columns_of(self.text)
        texts: list[Any] = [EXAMPLE_TEXTS[number % 2] for number in range(len(columns))]
        if self.kind == "tagging" and not self.reads_templates:
            texts = [text.split() for text in texts]
        if self.reads_choice_list:
            return (*texts, list(EXAMPLE_TEXTS))
        return (*texts, *(EXAMPLE_TEXTS[number % 2] for number in range(len(self.choices))))

    def reads_form_of(self, row: Sequence[Any]) -> bool:
        """Return whether a row has as many values as the task reads, and a list where it reads one."""
        if len(row) != len(self.columns):
            return False
        if self.reads_choice_list:
            return isinstance(row[-1], list)
        return self.kind == "tagging" or not any(isinstance(value, list) for value in row)

    def calibration_problem(self) -> str | None:
        """Return why the task has no probabilities to calibrate, or ``None`` if it has."""
        if self.kind in ("tagging", "span"):
            return "it predicts words, not a class for each row"
        return None if self.label_names else "a regression has no probabilities to calibrate"

    def _items(self, row: Sequence[Any]) -> list[tuple[str, Any, bool]]:
        """Return column, text and whether it is part of a template, for each text of a row, each word and choice."""
        names, found = text_columns_of(self.text), list[tuple[str, Any, bool]]()
        for place, (column, value) in enumerate(zip(self.columns, row, strict=True)):
            of_text = place < len(names)
            several = isinstance(value, list) and (self.kind == "tagging" or not of_text)
            part = of_text and names[place] not in self.text  # of a template, where no value is an empty text
            found += [(column, item, part) for item in value] if several else [(column, value, part)]
        return found

    def rejection_reason(self, row: Sequence[Any]) -> str | None:
        """Return why a row of texts cannot be scored, or ``None`` if it can."""
        if len(row) != len(self.columns):
            texts = f"{len(row)} text{'s'[: len(row) != 1]}"
            return f"{texts}; task {self.name!r} reads {len(self.columns)}: {', '.join(self.columns)}"
        if self.reads_choice_list and not isinstance(row[-1], list):
            return f"{self.columns[-1]} is {type(row[-1]).__name__}; task {self.name!r} reads a list of choices there"
        items = self._items(row)
        count = len(items) - len(self.columns) + len(self.choices)
        if self.kind == "choice" and not 2 <= count <= len(self.label_names):
            return f"{count} choices; task {self.name!r} has 2 to {len(self.label_names)}"
        for column, text, part in items:
            if text is None and part:
                continue
            if self.kind == "tagging" and isinstance(row[0], list) and isinstance(text, str) and len(text.split()) != 1:
                return f"{column} holds {text!r}, which is not one word"
            if text is None:
                return f"{column} has no value"
            if not isinstance(text, str):
                return f"{column} is {type(text).__name__}, not text"
            if not (text.strip() or self.allow_empty_text or part):
                return f"{column} is empty"
            if not _is_utf8(text):
                return f"{column} is not UTF-8 text"
        rendered = self.render(row)[: len(self.text)]  # without the '' of missing choices
        if not self.allow_empty_text and (empty := [text for text in rendered if not text.strip()]):
            return f"{len(empty)} of its texts are empty"
        return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_rows(tasks: Iterable[TaskInfo], rows: Sequence[Sequence[Any]]) -> None:
    """Raise ``DataError`` naming the first row that a task cannot score."""
    for task in tasks:
        for number, row in enumerate(rows):
            if reason := task.rejection_reason(row):
                raise DataError(f"row {number}: {reason}")


@dataclass(frozen=True)
class ModelInfo:
    """The description of a saved model, read before its weights.

    Attributes:
        run: The model's folder.
        manifest: The content of ``run.json``.
        tasks: Task name -> task.
        calibration: Task name -> its calibration, for tasks that have one.
    """

    run: RunFolder
    manifest: Mapping[str, Any]
    tasks: Mapping[str, TaskInfo]
    calibration: Mapping[str, TaskCalibration] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The id of the Run that trained the model."""
        return str(self.manifest["id"])

    @property
    def max_length(self) -> int:
        """Number of tokens, special tokens included, to which a row is truncated."""
        return int(self.manifest["spec"]["max_length"])

    @property
    def truncation(self) -> str:
        """How a row is truncated: one of ``TRUNCATIONS``."""
        return str(self.manifest["spec"].get("truncation", TRUNCATIONS[0]))

    def task(self, name: str) -> TaskInfo:
        """Return a task by name.

        Raises:
            ConfigError: If there is no such task; the message lists the tasks.
        """
        check_choice("task", name, self.tasks)
        return self.tasks[name]

    def select_tasks(self, names: str | Sequence[str], row: Sequence[Any] | None = None) -> list[TaskInfo]:
        """Return the tasks of the given names. ``all`` selects every task that reads rows of the form of ``row``.

        If ``row`` has the right number of values but no task reads its form, all tasks that read so many are returned:
        their ``rejection_reason`` names the value.

        Raises:
            BamError: If a name is unknown, or no task reads as many values as ``row`` has.
        """
        if names != "all":
            return [self.task(name) for name in ([names] if isinstance(names, str) else names)]
        if row is None:
            return list(self.tasks.values())
        selected = [task for task in self.tasks.values() if len(task.columns) == len(row)]
        if not selected:
            known = ", ".join(f"{task.name} ({len(task.columns)})" for task in self.tasks.values())
            raise DataError(f"no task reads {len(row)} texts; tasks and their number of texts: {known}")
        return [task for task in selected if task.reads_form_of(row)] or selected


def find_model(name: str, store: str = "store", revision: str | None = None) -> RunFolder:
    """Return the folder of a saved model: the folder itself, a Run of ``store``, or a download from the hub.

    Raises:
        StoreError: If ``name`` is none of these.
    """
    path = Path(name).expanduser()
    if (path / MANIFEST).is_file():
        return RunFolder(path, REMEDY)
    if path.is_dir():
        content = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise StorePathError(f"no saved model in {path}: expected {MANIFEST}, found {content}")
    runs = Path(store).expanduser() / "runs"
    if "/" not in name:
        if not runs.is_dir():
            raise StorePathError(
                f"no Run {name!r}: there is no store at {runs.parent}; give the paths.store of the job that trained it "
                "(--store DIR), or a folder, or a hub id such as me/my-model"
            )
        if (runs / name).is_dir():
            return Store(store, create=False).run(name)
        known = sorted(entry.name for entry in runs.glob("*/"))
        raise StorePathError(
            f"no Run {name!r} in {runs.parent}{suggest(name, known)}; `bam runs` lists them; "
            "or give a folder, or a hub id such as me/my-model"
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise StorePathError(f"no folder {path}; give a Run, a folder, or a hub id such as me/my-model")
    return RunFolder(_download(name, revision), REMEDY)


def _download(name: str, revision: str | None) -> Path:
    hub_or_offline()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise StoreError(f"model {name!r} is not a folder, and could not be read from the hub ({reason})") from error


def read_model_info(run: RunFolder) -> ModelInfo:
    """Return the description of the model in a folder.

    Raises:
        StoreError: If its manifest is missing, damaged, or describes a Run without tasks.
    """
    run.check_links()
    manifest = run.manifest()
    try:
        tasks = {name: _task_info(name, manifest) for name in map(str, manifest["tasks"])}
        for name in tasks:
            if reason := name_error(name):  # exports make folders of them
                raise StoreError(f"task {name!r} {reason}")
        if int(manifest["spec"]["max_length"]) < 1:
            raise ValueError(f"max_length is {manifest['spec']['max_length']}")
        if manifest["spec"]["precision"] not in PRECISIONS:
            raise ValueError(f"{manifest['spec']['precision']!r} is not a precision")
        check_choice("truncation", manifest["spec"].get("truncation", TRUNCATIONS[0]), TRUNCATIONS)
        str(manifest["spec"]["pooling"]), str(manifest["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        raise StoreError(
            f"{run.path / MANIFEST} does not describe a model that this version can read ({reason}); {run.remedy}"
        ) from error
    if not tasks:
        raise StoreError(f"{run.path} is a {manifest.get('kind')} Run, which has no task; give a Run that has tasks")
    labels = {name: task.label_names for name, task in tasks.items()}
    return ModelInfo(run, manifest, tasks, read_calibration(run, labels))


def _task_info(name: str, manifest: Mapping[str, Any]) -> TaskInfo:
    spec = manifest["spec"]["tasks"][name]
    reads, head = manifest["reads"][name], spec["head"]
    text, choices = reads["text"], reads.get("choices", [])
    if not isinstance(text, list) or not text or not all(isinstance(field, str) and field for field in text):
        raise StoreError(f"task {name!r} reads {text!r}; expected a list of columns or templates")
    if not isinstance(choices, list) or not all(isinstance(column, str) for column in choices):
        raise StoreError(f"task {name!r} has the choices {choices!r}; expected a list of columns")
    kind = reads.get("kind") or kind_of(str(head.get("_target_")), spec["metric"], bool(head["label_range"]))
    metrics = [spec["metric"], *spec.get("secondary_metrics", [])]
    for metric in metrics:
        check_metric("metric", metric, str(kind), len(head["label_names"]))
    return TaskInfo(
        name,
        (*text_columns_of(text), *choices),
        tuple(map(str, head["label_names"])),
        tuple(map(float, head["label_range"])),
        metric_name(spec["metric"]),
        {str(key): float(value) for key, value in manifest["metrics"].get(name, {}).items()},
        bool(reads["allow_empty_text"]),
        dict(head),
        tuple(text),
        str(kind),
        tuple(choices),
        tuple(metrics) if len(metrics) > 1 or not isinstance(metrics[0], str) else (),
        **{option: str(reads.get(option) or default) for option, default in LABEL_OPTIONS.items()},
    )
