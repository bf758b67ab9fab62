"""What a set of rows is: where it is read, which columns are text and label, what kind of label it has.

A ``Task`` is a plain description. Nothing is read until ``load_examples`` is called, except by ``from_pandas`` and
``from_list``, which keep the columns they need in memory. C label names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bam_lightning.config.data_config import ANSWERS, CLASSES, KINDS, SETS, TAGS, DataConfig, TaskConfig, check_metric
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.text_fields import text_columns_of
from bam_lightning.config.validation import check_choice, check_positive, check_range
from bam_lightning.data.readers import expand_columns
from bam_lightning.data.sources import DatasetSource, DemoSource, FileSource, HubSource, Source, TableSource, local_path

PARTS = ("train", "dev", "test", "unlabelled")
CUTS = frozenset({"group", "time"})  # what dev rows can be cut by
DEFAULT_SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}
DEFAULT_METRIC = {
    "classification": "accuracy",
    "regression": "spearman",
    "ordinal": "quadratic_kappa",
    "multi_label": "micro_f1",
    "choice": "accuracy",
    "tagging": "span_f1",
    "span": "squad_f1",
}
DEFAULT_HEAD = {
    "classification": "bam_lightning.ClassificationHead",
    "regression": "bam_lightning.RegressionHead",
    "ordinal": "bam_lightning.OrdinalHead",
    "multi_label": "bam_lightning.MultiLabelHead",
    "choice": "bam_lightning.ChoiceHead",
    "tagging": "bam_lightning.TaggingHead",
    "span": "bam_lightning.SpanHead",
}
METRICS: dict[str, tuple[str, ...]] = {
    "classification": tuple(metric.value for metric in CLASSES),
    "regression": ("spearman", "pearson"),
    "ordinal": ("quadratic_kappa", "accuracy", "spearman"),
    "multi_label": tuple(metric.value for metric in SETS),
    "choice": ("accuracy",),
    "tagging": tuple(metric.value for metric in TAGS),
    "span": tuple(metric.value for metric in ANSWERS),
}
_YAML_NAMES = {"labels": "head.label_names", "range": "head.label_range", "dropout": "head.dropout"}


class Layout(NamedTuple):
    """How the columns of texts of a row become texts to encode.

    Attributes:
        kind: Of the task. ``choice``: a text for each choice; ``span``: one for each window of the context.
        n_texts: Columns before those of the choices.
    """

    kind: str | None = None
    n_texts: int = 1


@dataclass(frozen=True, eq=False)
class Task:
    """A set of labelled texts, or of pairs of texts; made by one of the ``from_`` constructors.

    Args:
        source: Where the splits are read.
        text: Text columns, or templates of several columns such as ``"{subject}: {body}"``; no value in a template is
            an empty text. Several texts are joined by the special tokens of the encoder. A tagging task has one text,
            of lists of words or with white space between words; a span task two, the question and the context.
        label: The label column; ``p_*`` stands for a column for each class, with probabilities or counts.
        labels: Label names in the order of their class ids; for an ordinal task from lowest to highest. ``None``
            takes them from the training split. A constructor also takes a mapping of name to label column, or to
            options of a task: it then returns name -> task, over one source, and a drawn row brings all its labels.
        choices: Columns of the choices of a multiple-choice task, or one column of lists of choices.
        kind: ``classification``, ``regression``, ``ordinal``, ``multi_label``, ``choice``, ``tagging`` or ``span``.
            ``None`` infers it from the labels.
        range: Lowest and highest label of a regression task. ``None`` takes them from the training split.
        metric: Headline metric: a name, or any ``torchmetrics.Metric`` by its ``_target_`` form, see
            ``metrics.own_metric``. Default: by kind, see ``DEFAULT_METRIC``.
        secondary_metrics: More metrics, logged beside it.
        id_column: Column of unique row ids, checked for duplicates; not used otherwise.
        split: ``train``, ``dev`` and ``test`` -> name of the split, or ``None`` if there is none. ``unlabelled`` names
            a split of more training rows, whose labels are not looked at: a teacher alone teaches them.
            ``group`` or ``time`` names a column by which dev rows are cut from the training rows: whole groups, or the
            latest rows.
        annotators: Columns with the label of each of several annotators, in place of ``label``; empty cells are none.
        weight_column: Column of factors on the losses of training rows.
        label_separator: Separates the labels of a multi-label row if the column is text.
        head: Mapping with ``_target_``, or a function that builds a ``Head``. Default: by kind.
        dropout: Dropout of the head.
        allow_empty_text: Accept rows whose text is empty.
        allow_missing_labels: Accept training rows without a label. A teacher alone teaches them, whatever lam is.
        in_average: Count the task in the average score.
        weight: Factor on the losses of its examples.
        temperature: Of the teacher's and the student's logits in distillation (Hinton et al. 2015).
        symmetric: Also train on each pair in the other order.
        train_rows: Use only the first rows of the training split.
        dev_rows: Use only the first rows of the dev split.
        config_key: Prefix of the options that error messages name, such as ``suite.tasks.rte``; empty for a task
            made in Python.
        row_group: Name of the source that several tasks label, made by ``labels={...}`` of a constructor; empty for a
            task with rows of its own.
        range_inferred: Whether ``range`` was taken from the training split.
        spelled: Keyword -> what error messages call it, where the user sets options in another way.
    """

    source: Source
    text: tuple[str, ...]
    label: str = "label"
    labels: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()
    kind: str | None = None
    range: tuple[float, float] | None = None
    metric: Any = None
    secondary_metrics: tuple[Any, ...] = ()
    id_column: str | None = None
    split: Mapping[str, str | None] = field(default_factory=dict)
    annotators: tuple[str, ...] = ()
    weight_column: str | None = None
    label_separator: str = "|"
    head: Any = None
    dropout: float = 0.1
    allow_empty_text: bool = False
    allow_missing_labels: bool = False
    in_average: bool = True
    weight: float = 1.0
    temperature: float = 1.0
    symmetric: bool = False
    train_rows: int | None = None
    dev_rows: int | None = None
    config_key: str = ""
    row_group: str = ""
    range_inferred: bool = False
    spelled: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` unless the options fit together."""
        if not self.text or not all(isinstance(column, str) and column for column in self.text):
            raise ConfigError(f"{self.option('text')} must name columns, got {list(self.text)}")
        text_columns_of(self.text)
        if self.kind is not None:
            check_choice(self.option("kind"), self.kind, KINDS)
        for part in self.split:
            check_choice(self.option("split"), part, (*PARTS, *CUTS))
        if sum(part in self.split for part in CUTS) and (self.split.get("dev") or len(CUTS & self.split.keys()) > 1):
            raise ConfigError(
                f"{self.option('split')} names {dict(self.split)}; dev rows are a split of their own, or cut by group, "
                "or cut by time"
            )
        if self.soft and self.kind not in (None, "classification", "ordinal"):
            raise ConfigError(f"a distribution over labels is for classification and ordinal tasks, not {self.kind!r}")
        if self.label.count("*") > 1:
            raise ConfigError(f"{self.option('label')} may hold one *, got {self.label!r}")
        if not self.label_separator:
            raise ConfigError(f"{self.option('label_separator')} must be at least one character, got ''")
        if self.kind in ("tagging", "span") and len(self.text) != 1 + (self.kind == "span"):
            wanted = "question and context" if self.kind == "span" else "1 column"
            raise ConfigError(f"{self.option('text')} of a {self.kind} task must name {wanted}, got {list(self.text)}")
        if bool(self.choices) != (self.kind == "choice") and self.kind is not None:
            raise ConfigError(f"{self.option('choices')} go with kind 'choice', and only with it; got {self.kind!r}")
        if self.symmetric and self.kind in ("choice", "span"):
            raise ConfigError(f"{self.option('symmetric')} is for pairs of texts, not for a {self.kind} task")
        if self.symmetric and len(self.text) != 2:
            raise ConfigError(f"{self.option('symmetric')} needs two text columns, got {list(self.text)}")
        check_range(self.option("dropout"), self.dropout, 0, 1, open_high=True)
        for name in ("weight", "temperature"):
            check_positive(self.option(name), getattr(self, name))
        self._check_labels()

    def _check_labels(self) -> None:
        names, span = self.labels, self.range
        if names is not None and span is not None:
            raise ConfigError(f"give either {self.option('labels')} or {self.option('range')}, not both")
        if names is not None and (len(names) < 2 or len(set(names)) < len(names) or not all(names)):
            raise ConfigError(f"{self.option('labels')} must be at least 2 different names, got {list(names)}")
        if span is not None and not (len(span) == 2 and float("-inf") < span[0] < span[1] < float("inf")):
            raise ConfigError(f"{self.option('range')} must be [lowest, highest], got {list(span)}")
        if self.kind == "regression" and names is not None:
            raise ConfigError(f"a regression task has no label names; leave out {self.option('labels')}")
        if self.kind == "span" and names is not None:
            raise ConfigError(f"a span task has no label names; leave out {self.option('labels')}")
        if self.kind not in (None, "regression") and span is not None:
            raise ConfigError(f"only a regression task has a {self.option('range')}; this one is {self.kind!r}")
        if self.kind is not None and not self.config_key:
            for metric in self.metrics:
                if isinstance(metric, str):
                    check_choice("metric", metric, METRICS[self.kind])
                else:
                    check_metric("metric", metric, self.kind, len(self.labels or ()))

    @classmethod
    def from_hub(
        cls,
        path: str,
        subset: str | None = None,
        *,
        text: str | Sequence[str],
        revision: str | None = None,
        **options: Any,
    ) -> Task:
        """Describe a data set of the Hugging Face hub.

        Args:
            path: Id of the data set, such as ``nyu-mll/glue``.
            subset: Name of its configuration, such as ``rte``.
            text: Text columns or templates; see the class.
            revision: Commit, branch or tag.
            options: See the class: ``label``, ``labels``, ``kind``, ``range``, ``metric``, ``split`` and so on.
        """
        return cls._make(HubSource(path, subset, revision), text, options)

    @classmethod
    def from_file(
        cls,
        path: str | Path | Mapping[str, str | Path],
        *,
        text: str | Sequence[str],
        delimiter: str | None = None,
        quoting: bool | None = None,
        **options: Any,
    ) -> Task:
        """Describe rows in CSV, TSV, JSON, JSON lines or Parquet files, which may be compressed.

        Args:
            path: The file of training rows, a folder with one file or set of shards per split, or a mapping of split
                name to file.
            text: Text columns or templates; see the class.
            delimiter: Separator of CSV and TSV. ``None`` finds it in the first rows.
            quoting: Whether ``"`` quotes fields of TSV, as it does in CSV. ``None``: if the first rows can be read that
                way. GLUE's TSV files need ``False``.
            options: See the class.
        """
        files = {str(split): Path(file) for split, file in path.items()} if isinstance(path, Mapping) else Path(path)
        return cls._make(FileSource(files, delimiter=delimiter, quoting=quoting), text, options)

    @classmethod
    def from_pandas(cls, frame: Any, *, text: str | Sequence[str], **options: Any) -> Task:
        """Describe the rows of a pandas data frame, or of a mapping of split name to data frame.

        Args:
            frame: The training rows, or a mapping. The index is ignored.
            text: Text columns or templates; see the class.
            options: See the class.
        """
        frames = dict(frame) if isinstance(frame, Mapping) else {"train": frame}
        wanted = _wanted(text, options)
        tables = {}
        for split, one in frames.items():
            kept = one[[column for column in expand_columns(wanted, list(one.columns)) if column in one.columns]]
            try:
                tables[str(split)] = pa.Table.from_pandas(kept, preserve_index=False)
            except (pa.ArrowException, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"the data frame of split {split!r} has a column of mixed types ({reason}); "
                    "convert the column to one type first"
                ) from error
        names = {str(split): list(map(str, one.columns)) for split, one in frames.items()}
        return cls._make(TableSource(tables, "the data frame", names), text, options)

    @classmethod
    def from_list(
        cls,
        rows: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]],
        *,
        text: str | Sequence[str],
        **options: Any,
    ) -> Task:
        """Describe rows that are dictionaries, or a mapping of split name to such rows.

        Args:
            rows: The training rows, or a mapping.
            text: Text columns or templates; see the class.
            options: See the class.
        """
        splits = {
            str(split): list(part) for split, part in (rows if isinstance(rows, Mapping) else {"train": rows}).items()
        }
        names = {split: _column_names(split, part) for split, part in splits.items()}
        wanted = _wanted(text, options)
        tables = {split: _table_of_rows(split, part, names[split], wanted) for split, part in splits.items()}
        shown = {split: list(map(str, columns)) for split, columns in names.items()}
        return cls._make(TableSource(tables, "the list", shown), text, options)

    @classmethod
    def from_dataset(cls, dataset: Any, *, text: str | Sequence[str], **options: Any) -> Task:
        """Describe a ``datasets.Dataset`` (its rows are training rows) or a ``datasets.DatasetDict``.

        Args:
            dataset: The data set. Streamed ones (``IterableDataset``) are not supported: training needs every row.
            text: Text columns or templates; see the class.
            options: See the class.
        """
        splits = {str(split): one for split, one in dataset.items()} if isinstance(dataset, Mapping) else {
            "train": dataset
        }  # fmt: skip
        for split, one in splits.items():
            if not hasattr(one, "flatten_indices"):
                kind = type(one).__name__
                raise ConfigError(
                    f"split {split!r} must be a datasets.Dataset, got {kind}; load it with streaming=False"
                )
        return cls._make(DatasetSource(splits), text, options)

    @classmethod
    def _make(cls, source: Source, text: str | Sequence[str], options: Mapping[str, Any]) -> Any:
        if isinstance(options.get("labels"), Mapping):
            return {name: cls._make(source, text, own) for name, own in _label_options(options).items()}
        known = [
            name
            for name in cls.__dataclass_fields__
            if name not in ("source", "text", "config_key", "range_inferred", "spelled")
        ]
        for name in options:
            check_choice("the options of Task", name, known)
        options = dict(options)
        if options.get("labels") is not None:
            options["labels"] = tuple(str(label) for label in options["labels"])
        options["annotators"] = tuple(options.get("annotators") or ())
        if options.get("choices"):
            options["kind"] = options.get("kind", "choice")
            choices = options["choices"]
            options["choices"] = (choices,) if isinstance(choices, str) else tuple(choices)
        if options.get("range") is not None:
            options["range"] = tuple(float(end) for end in options["range"])
        return cls(source, (text,) if isinstance(text, str) else tuple(text), **options)

    def option(self, keyword: str) -> str:
        """Return how the user spells an option: a keyword of ``Task``, or the YAML key of a configured task."""
        if keyword in self.spelled:
            return self.spelled[keyword]
        return f"{self.config_key}.{_YAML_NAMES.get(keyword, keyword)}" if self.config_key else keyword

    def setting(self, keyword: str, value: bool | None) -> str:
        """Return how the user sets an option to a value.

        >>> Task.from_list([], text="a").setting("id_column", None)
        'id_column=None'
        """
        spelled = {True: "true", False: "false", None: "null"}[value] if self.config_key else str(value)
        return f"{self.option(keyword)}={spelled}"

    @property
    def metrics(self) -> list[Any]:
        """The headline metric, if it is known, and those beside it."""
        return [metric for metric in (self.metric, *self.secondary_metrics) if metric is not None]

    @property
    def columns(self) -> list[str]:
        """The columns that the task reads: texts, choices, labels, id and so on."""
        more = [self.id_column, self.weight_column, *(self.split.get(part) for part in CUTS)]
        columns = [*self.text_columns, *self.choices, *self.label_columns, *(column for column in more if column)]
        return list(dict.fromkeys(columns))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold labels."""
        return self.annotators or (self.label,)

    @property
    def soft(self) -> bool:
        """Whether a row's gold label is a distribution over label names."""
        return bool(self.annotators) or "*" in self.label

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the texts are made of."""
        return text_columns_of(self.text)

    @property
    def layout(self) -> Layout:
        """How the task's texts are encoded."""
        return Layout(self.kind, len(self.text))

    @property
    def multi_label(self) -> bool:
        """Whether a row may have any number of labels."""
        return self.kind == "multi_label"

    @property
    def regression(self) -> bool:
        """Whether labels are numbers in a range."""
        return self.kind == "regression"

    @property
    def head_config(self) -> Any:
        """The head's mapping with ``_target_``, label names, range and dropout, or the user's own function.

        Only for a task whose kind and labels are known: the one of ``TaskExamples``.
        """
        assert self.kind is not None
        if callable(self.head):
            return self.head
        default = {
            "_target_": DEFAULT_HEAD[self.kind],
            "label_names": list(self.labels or ()),
            "label_range": list(self.range or ()),
            "dropout": self.dropout,
        }
        return {**default, **(self.head or {})}

    def resolve(self, kind: str, labels: Sequence[str] | None, span: tuple[float, float] | None) -> Task:
        """Return the task with its kind, labels, range and metric filled in."""
        return replace(
            self,
            kind=kind,
            labels=None if labels is None else tuple(labels),
            range=span,
            range_inferred=self.range is None and span is not None,
            metric=DEFAULT_METRIC[kind] if self.metric is None else self.metric,
        )

    def split_name(self, part: str, existing: Sequence[str]) -> str | None:
        """Return the name of the ``train``, ``dev``, ``test`` or ``unlabelled`` split.

        A split that was not named is the first of its usual names that exists; ``None`` if there is none.
        """
        if part in self.split:
            return self.split[part]
        return next((name for name in DEFAULT_SPLITS.get(part, ()) if name in existing), None)


HeadFactory = Callable[..., Any]


def _label_options(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each task that labels one source."""
    shared = {name: value for name, value in options.items() if name != "labels"}
    found = {}
    for name, own in options["labels"].items():
        more = dict(own) if isinstance(own, Mapping) else {"label": own}
        found[str(name)] = {"label": str(name), **shared, **more, "row_group": "+".join(map(str, options["labels"]))}
    return found


def _wanted(text: str | Sequence[str], options: Mapping[str, Any]) -> list[str]:
    if isinstance(options.get("labels"), Mapping):
        return [column for own in _label_options(options).values() for column in _wanted(text, own)]
    texts = [text] if isinstance(text, str) else list(text)
    labels = options.get("annotators") or [options.get("label", "label")]
    cuts = [(options.get("split") or {}).get(part) for part in CUTS]
    choices = options.get("choices") or ()
    columns = [*text_columns_of(texts), *([choices] if isinstance(choices, str) else choices), *labels]
    columns += [options.get("id_column"), options.get("weight_column"), *cuts]
    return [column for column in columns if column]


def _column_names(split: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"split {split!r}, row {number} must be a dictionary, got {type(row).__name__}")
    return list(dict.fromkeys(name for row in rows for name in row))


def _table_of_rows(
    split: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str], wanted: Sequence[str]
) -> pa.Table:
    existing = [column for column in expand_columns(wanted, names) if column in names]
    arrays = {}
    for column in existing:
        values = [row.get(column) for row in rows]
        try:
            arrays[column] = pa.array([list(value) if isinstance(value, (set, frozenset)) else value
                                       for value in values])  # fmt: skip
        except (pa.ArrowException, ValueError, TypeError) as error:
            kinds = sorted({type(value).__name__ for value in values})
            raise DataError(
                f"split {split!r}: column {column!r} holds values of several types ({', '.join(kinds)}); "
                "convert them to one type first"
            ) from error
    return pa.table(arrays)


def task_from_config(name: str, task: TaskConfig, data: DataConfig) -> Task:
    """Return the task that a configuration describes.

    Rows come from local files if ``data.root`` is given or ``path`` is a file or folder, from the generator of the
    demo suite if ``path`` is ``generated``, else from the hub.
    """
    key = f"suite.tasks.{name}"
    folder = None if task.path == "generated" else local_path(name, task.path, task.subset, data.root)
    source: Source
    if task.path == "generated":
        source = DemoSource(task.subset or "", task.train_rows, task.dev_rows, data.seed, key)
    elif folder is not None:
        alone = (  # the file is all there is
            folder.is_file() and (task.dev_split is None or bool(task.split)) and task.train_split is not None
        )
        files = {str(task.train_split): folder} if alone else folder
        remedy = f"set {key}.path"
        if folder != Path(task.path).expanduser():  # in data.root
            remedy = f"check data.root{f' and {key}.subset' if task.subset else ''}"
        source = FileSource(files, True, task.subset, task.delimiter, task.quoting, f"{key}.delimiter", remedy)
    else:
        source = HubSource(task.path, task.subset, local_option=f"{key}.path")
    names = tuple(task.head.label_names)
    return Task(
        source,
        tuple(task.text),
        task.label,
        labels=names or None,
        choices=tuple(task.choices),
        kind=task.kind_of_labels,
        range=(float(task.head.label_range[0]), float(task.head.label_range[1])) if task.head.label_range else None,
        metric=task.metric,
        secondary_metrics=tuple(task.secondary_metrics),
        id_column=task.id_column,
        split={
            "train": task.train_split,
            "dev": task.dev_split,
            "test": task.test_split,
            "unlabelled": task.unlabelled_split,
        }
        | ({"dev": None, **task.split} if task.split else {}),
        annotators=tuple(task.annotators),
        weight_column=task.weight_column,
        label_separator=task.label_separator,
        head={key: value for key, value in task.head.arguments().items() if value != ""},
        dropout=task.head.dropout,
        allow_empty_text=task.allow_empty_text,
        allow_missing_labels=task.allow_missing_labels,
        in_average=task.in_average,
        weight=task.weight,
        temperature=task.temperature,
        symmetric=task.symmetric and data.double_symmetric,
        train_rows=task.train_rows,
        dev_rows=task.dev_rows,
        config_key=key,
        row_group=task.row_group,
    )
