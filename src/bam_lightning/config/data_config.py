"""Typed configuration of what is trained on: tasks, suites, data and encoders.

Imports neither torch nor Hydra. Each check names the key, the value that came and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.names import check_name
from bam_lightning.config.text_fields import parse_field
from bam_lightning.config.validation import check_at_least, check_choice, check_delimiter, check_positive, check_range

MISSING: Any = "???"
POOLINGS = ("cls", "pooler", "mean", "last")
TRUNCATIONS = ("longest_first", "head_tail", "windows_mean", "windows_max")
LARGEST = 100_000_000  # rows, sentences or tokens: nobody means more, and a mistyped number must not fill the memory
MOST_EPOCHS = 1_000_000


class Metric(str, Enum):
    """Names of metrics (section 4: Matthews for CoLA, Spearman for STS-B, accuracy otherwise)."""

    accuracy = "accuracy"
    matthews = "matthews"
    spearman = "spearman"
    pearson = "pearson"
    f1 = "f1"
    micro_f1 = "micro_f1"
    macro_f1 = "macro_f1"
    exact_match = "exact_match"
    quadratic_kappa = "quadratic_kappa"
    span_f1 = "span_f1"
    tag_accuracy = "tag_accuracy"
    squad_f1 = "squad_f1"
    squad_exact_match = "squad_exact_match"


CLASSES = (Metric.accuracy, Metric.matthews, Metric.f1, Metric.macro_f1)
SETS = (Metric.micro_f1, Metric.macro_f1, Metric.exact_match)
TAGS = (Metric.span_f1, Metric.tag_accuracy)
ANSWERS = (Metric.squad_f1, Metric.squad_exact_match)
# What the package's heads are scored by. A head from elsewhere takes what fits its labels: spearman for a label_range,
# anything for label_names.
HEADS = {
    "bam_lightning.ClassificationHead": CLASSES,
    "bam_lightning.RegressionHead": (Metric.spearman, Metric.pearson),
    "bam_lightning.HLGaussHead": (Metric.spearman, Metric.pearson),
    "bam_lightning.MultiLabelHead": SETS,
    "bam_lightning.OrdinalHead": (Metric.quadratic_kappa, Metric.accuracy, Metric.spearman),
    "bam_lightning.ChoiceHead": (Metric.accuracy,),
    "bam_lightning.TaggingHead": TAGS,
    "bam_lightning.SpanHead": ANSWERS,
    "bam_lightning.SANHead": CLASSES,
}


KINDS_OF_HEADS = {  # of two heads for a kind, the last is its default
    "bam_lightning.SANHead": "classification",
    "bam_lightning.ClassificationHead": "classification",
    "bam_lightning.HLGaussHead": "regression",
    "bam_lightning.RegressionHead": "regression",
    "bam_lightning.MultiLabelHead": "multi_label",
    "bam_lightning.OrdinalHead": "ordinal",
    "bam_lightning.ChoiceHead": "choice",
    "bam_lightning.TaggingHead": "tagging",
    "bam_lightning.SpanHead": "span",
}
HEADS_OF_KINDS = {kind: head for head, kind in KINDS_OF_HEADS.items()}
LABEL_OPTIONS = {"label": "label", "label_separator": "|"}  # and their defaults
KINDS = ("classification", "regression", "ordinal", "multi_label", "choice", "tagging", "span")


OWN_METRIC_INPUTS = ("labels", "probabilities", "positive")  # predicted labels or values; [n, C]; of the second class


def metric_name(metric: Any) -> str:
    """Return the name under which a metric's score is kept: its own, or of a ``_target_`` form ``name`` or the class.

    >>> metric_name("accuracy"), metric_name({"_target_": "torchmetrics.F1Score"})
    ('accuracy', 'F1Score')
    """
    if isinstance(metric, str):
        return str(getattr(metric, "value", metric))
    return str(metric.get("name") or str(metric["_target_"]).rpartition(".")[2])


def metric_input(metric: Any) -> str:
    """Return what a metric compares with gold; the library's own compare predicted labels."""
    return "labels" if isinstance(metric, str) else str(metric.get("input", "labels"))


def check_metric(key: str, metric: Any, kind: str, n_names: int) -> None:
    """Raise ``ConfigError`` unless a metric is the name of one, or the ``_target_`` form of one that fits the kind."""
    if not isinstance(metric, Mapping):
        return check_choice(key, metric, [known.value for known in Metric])
    if not isinstance(metric.get("_target_"), str):
        raise ConfigError(
            f"{key} must be a name, or a mapping such as {{_target_: torchmetrics.F1Score, ...}}; got {metric}"
        )
    check_name(key, metric_name(metric))
    if kind in ("tagging", "span"):
        raise ConfigError(
            f"{key}: a metric by _target_ compares a class, a value or a label set of each row, which a {kind} task "
            f"does not have; use {', '.join(name.value for name in (TAGS if kind == 'tagging' else ANSWERS))}"
        )
    if metric_name(metric) in [known.value for known in Metric]:
        raise ConfigError(f"{key} is named {metric_name(metric)!r}, as one of the library's own; give it another name")
    given = metric.get("input", "labels")
    check_choice(f"{key}.input", given, OWN_METRIC_INPUTS)
    if given != "labels" and not n_names:
        raise ConfigError(f"{key}.input={given}: a regression task has no probabilities; leave it out")
    if given == "positive" and (n_names != 2 or kind == "multi_label"):
        raise ConfigError(f"{key}.input=positive is for two classes, but the task has {n_names}; use probabilities")


def label_columns(label: str, annotators: Sequence[str], separator: str) -> dict[str, str]:
    """Return where new rows have their labels, as far as one column holds them and nothing is at its default."""
    given = {"label": "" if annotators or "*" in label else label, "label_separator": separator}
    return {name: value for name, value in given.items() if value and value != LABEL_OPTIONS[name]}


def kind_of(head: str, metric: Any, in_range: bool) -> str:
    """Return what the labels of a task are, by its head's class, its metric and whether it has a range."""
    by_metric: dict[str, str] = {
        **dict.fromkeys(SETS, "multi_label"),
        **dict.fromkeys(TAGS, "tagging"),
        **dict.fromkeys(ANSWERS, "span"),
    }
    return (
        KINDS_OF_HEADS.get(head)
        or by_metric.get(metric if isinstance(metric, str) else "")
        or ("regression" if in_range else "classification")
    )


@dataclass
class HeadConfig:
    """A task's classifier: ``label_names`` in the order of the class ids, or a ``label_range`` to regress in."""

    _target_: str = ""  # class of the head
    label_names: list[str] = field(default_factory=list)  # in the order of the class ids
    label_range: list[float] = field(default_factory=list)  # lowest and highest score of a regression task
    dropout: float = 0.1  # in front of the linear layer
    sigmoid: bool = True  # of a regression head; false: a linear output
    class_weights: Any = None  # factors on the classes' losses, in the order of label_names, or balanced
    label_smoothing: float = 0.0  # share of a gold label that is spread over all classes
    loss: dict[str, Any] = field(default_factory=dict)  # a loss of your own by _target_; empty: the head's
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of the head, as bins of HLGaussHead

    def arguments(self) -> dict[str, Any]:
        """Return ``_target_`` and its arguments."""
        return head_arguments(vars(self))


def head_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``_target_`` and arguments of a head; options that only some heads have are left out at their defaults."""
    named = ("class_weights", "label_smoothing", "loss", "options")
    given = {name: value for name, value in settings.items() if name not in named or value not in (None, 0.0, {})}
    options = given.pop("options", {})
    return {**given, **options}


@dataclass
class TaskConfig:
    """One task: where its rows come from, how it is trained and how it is scored.

    ``text`` names columns of texts, or templates such as ``"{subject}: {body}"``; ``choices`` the columns of the
    choices of a multiple-choice task, or one column of lists of them; ``label`` the column of labels.
    ``label_separator`` separates the labels of a multi-label row where the column holds text and not lists.
    ``labels`` makes a task for each label of the same rows, with the options of ``OWN_OPTIONS``; the other options hold
    for all of them. ``unlabelled_split`` names more training rows, whose labels are not looked at;
    ``allow_missing_labels`` accepts training rows without a label; a teacher alone teaches both. ``kind`` says what the
    labels are where head and metric leave it open. ``head_of`` names the task whose head scores this one; such a task
    is not trained. ``delimiter`` is that of CSV and TSV files, ``quoting`` whether ``"`` quotes fields of TSV; null
    finds out.
    """

    path: str = MISSING  # hub id, folder or file; generated: the demo suite
    subset: str | None = None  # configuration of a hub data set, or subfolder
    text: Any = field(default_factory=list)  # columns of texts, or templates such as "{subject}: {body}"
    choices: list[str] = field(default_factory=list)  # columns of the choices, or one column of lists of them
    label: str = "label"  # column of labels; p_*: a column of probabilities or counts for each class
    labels: dict[str, Any] = field(default_factory=dict)  # several tasks: name -> label column, or options
    label_separator: str = "|"  # between the labels of a multi-label row, where the column is text
    id_column: str | None = None  # column of unique ids; null: none
    delimiter: str | None = None  # of CSV and TSV files; null: found out
    quoting: bool | None = None  # whether " quotes fields of TSV; null: found out
    train_split: str | None = "train"  # name of the training split
    dev_split: str | None = "validation"  # name of the dev split; null: cut from train, by content and data.seed
    test_split: str | None = "test"  # name of the test split
    unlabelled_split: str | None = None  # more training rows, which a teacher alone teaches
    split: dict[str, str] = field(default_factory=dict)  # {group: COLUMN} or {time: COLUMN}: how dev is cut from train
    annotators: list[str] = field(default_factory=list)  # columns of several annotators' labels, in place of label
    weight_column: str | None = None  # column of factors on the losses of training rows
    train_rows: int | None = None  # use the first so many training rows
    dev_rows: int | None = None  # use the first so many dev rows
    kind: str | None = None  # of the labels; null: the head and the metric say it
    head: HeadConfig = field(default_factory=HeadConfig)
    metric: Any = "accuracy"  # headline metric: a name that fits the head, or a torchmetrics.Metric by _target_
    secondary_metrics: list[Any] = field(default_factory=list)  # more of them, shown beside it
    head_of: str | None = None  # score with the head of this task, and train none
    in_average: bool = True  # count in the average, and reject a teacher that learned nothing
    teacher: bool = True  # false: learn from gold alone
    symmetric: bool = False  # pairs mean the same in both orders (data.double_symmetric)
    allow_empty_text: bool = False  # accept rows without text
    allow_missing_labels: bool = False  # accept training rows without a label, which a teacher alone teaches
    weight: float = 1.0  # factor on the losses of the task's examples
    temperature: float = 1.0  # of the teacher's and the student's logits in distillation
    layerwise_decay: float | None = None  # of a Run of this task alone; null: the profile decides
    row_group: str = ""  # name of the file whose rows it labels with other tasks; set by labels

    def __post_init__(self) -> None:
        """Make a list of a single text, and a name of a member of ``Metric``."""
        if isinstance(self.text, str):
            self.text = [self.text]
        self.metric = getattr(self.metric, "value", self.metric)

    @property
    def metrics(self) -> list[Any]:
        """The headline metric and those beside it."""
        return [self.metric, *self.secondary_metrics]

    @property
    def metric_name(self) -> str:
        """Name of the headline metric in results."""
        return metric_name(self.metric)

    @property
    def averaged(self) -> bool:
        """Whether its score counts in the average: those of another task's head never do."""
        return self.in_average and self.head_of is None

    @property
    def regression(self) -> bool:
        """Whether the task's labels are numbers in a range."""
        return bool(self.head.label_range)

    @property
    def multi_label(self) -> bool:
        """Whether a row may have any number of labels: the head or the metric says so."""
        return self.kind_of_labels == "multi_label"

    @property
    def kind_of_labels(self) -> str:
        """What the labels are: ``kind``, or what the head, the metric or the ``label_range`` says."""
        return self.kind or kind_of(self.head._target_, self.metric, self.regression)

    def check(self, key: str) -> None:
        """Raise ``ConfigError`` unless the task is complete and its parts fit together."""
        if self.labels:
            raise ConfigError(f"{key}.labels are read from a YAML file or the command line; here give a task for each")
        if self.kind is not None:
            check_choice(f"{key}.kind", self.kind, KINDS)
        if bool(self.choices) != (self.kind_of_labels == "choice"):
            raise ConfigError(
                f"{key}.choices go with the head of multiple choice (/head: choice), and only with it; got "
                f"{self.choices or 'none'} and {self.head._target_ or 'no head'}"
            )
        if not isinstance(self.text, list) or not self.text or not all(isinstance(t, str) and t for t in self.text):
            raise ConfigError(f"{key}.text must name columns, got {self.text}")
        for text in self.text:
            try:
                parse_field(text)
            except ConfigError as error:
                raise ConfigError(f"{key}.text: {error}") from error
        if self.head_of is None:
            self._check_head(f"{key}.head")
            for part in self.split:
                check_choice(f"{key}.split", part, ("group", "time"))
            if self.train_split is None:
                raise ConfigError(f"{key}.train_split is null; a task needs one, unless head_of names another task")
        for name in ("train_rows", "dev_rows"):
            rows = getattr(self, name)
            if rows is not None:
                check_at_least(f"{key}.{name}", rows, 1, LARGEST)
        if not self.label_separator:
            raise ConfigError(f"{key}.label_separator must be at least one character, got ''")
        check_delimiter(f"{key}.delimiter", self.delimiter)
        if self.symmetric and len(self.text) != 2:
            raise ConfigError(f"{key}.symmetric needs two text columns, got {self.text}")
        for name in ("weight", "temperature"):
            check_positive(f"{key}.{name}", getattr(self, name))
        if self.layerwise_decay is not None:
            check_range(f"{key}.layerwise_decay", self.layerwise_decay, 0, 1, open_low=True)

    def _check_head(self, key: str) -> None:
        names, span = self.head.label_names, self.head.label_range
        if not self.head._target_:
            raise ConfigError(
                f"{key} is missing; start the task's file with: defaults: [schema, /head: classification]"
            )
        if self.kind_of_labels == "span":
            if names or span:
                raise ConfigError(f"{key} of a span task takes neither label_names nor label_range")
        elif bool(names) == bool(span):
            found = "both" if names else "neither"
            raise ConfigError(
                f"{key} needs either label_names, as in label_names: [a, b] in the order of their class ids, or "
                f"label_range, as in label_range: [0, 5] for regression; got {found}"
            )
        if span and (len(span) != 2 or not -math.inf < span[0] < span[1] < math.inf):
            raise ConfigError(f"{key}.label_range must be [lowest, highest], got {span}")
        if names and (len(names) < 2 or len(set(names)) != len(names) or not all(names)):
            raise ConfigError(f"{key}.label_names must be at least 2 different names, got {names}")
        fitting = HEADS.get(self.head._target_, (Metric.spearman,) if span else tuple(Metric))
        for place, metric in enumerate(self.metrics):
            own = f"{key[:-5]}.{f'secondary_metrics.{place - 1}' if place else 'metric'}"
            check_metric(own, metric, self.kind_of_labels, len(names))
            if isinstance(metric, str) and metric not in fitting:
                *others, last = [known.value for known in fitting]
                raise ConfigError(
                    f"{own} {metric_name(metric)!r} does not fit {self.head._target_}: "
                    f"use {', '.join(others)}{' or ' if others else ''}{last}"
                )
            if metric == "f1" and len(names) != 2:
                raise ConfigError(f"{own} 'f1' needs 2 label_names, got {len(names)}")
        if len(set(known := list(map(metric_name, self.metrics)))) < len(known):
            raise ConfigError(
                f"{key[:-5]}.secondary_metrics: two metrics are named alike ({', '.join(known)}); use name:"
            )
        check_range(f"{key}.dropout", self.head.dropout, 0, 1, open_high=True)
        check_range(f"{key}.label_smoothing", self.head.label_smoothing, 0, 1, open_high=True)
        weights = self.head.class_weights
        if weights not in (None, "balanced") and not (
            isinstance(weights, list)
            and len(weights) == len(names)
            and all(isinstance(weight, (int, float)) and 0 <= weight < math.inf for weight in weights)
        ):
            raise ConfigError(
                f"{key}.class_weights must be balanced or {len(names)} numbers, one for each label name; got {weights}"
            )


# What each of several tasks on the same rows may set for itself.
OWN_OPTIONS = (
    "label",
    "label_separator",
    "annotators",
    "kind",
    "head",
    "metric",
    "secondary_metrics",
    "in_average",
    "teacher",
    "allow_missing_labels",
    "weight",
    "temperature",
    "layerwise_decay",
)


@dataclass
class SuiteConfig:
    """The tasks trained together. ``include`` selects some of them (empty: all); ``sigmoid`` is for regression heads.

    ``task_groups`` names groups of tasks, for experiments: ``suite.include=${suite.task_groups.related}``.
    """

    name: str = MISSING
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    include: list[str] = field(default_factory=list)
    task_groups: dict[str, list[str]] = field(default_factory=dict)
    sigmoid: bool = True  # of regression heads; false: a linear output (reference code)
    pair_head: str | None = None  # class of head in place of the ClassificationHead of tasks of two texts

    def check(self) -> None:
        """Raise ``ConfigError`` for an unknown name in ``include``, no task left, or a bad task."""
        for name in self.include:
            check_choice("suite.include", name, self.tasks)
        selected = self.selected()
        if not any(task.head_of is None for task in selected.values()):
            raise ConfigError(f"suite {self.name!r} has no task to train; add one with +task@suite.tasks.NAME=FILE")
        for name in self.tasks:
            check_name("suite.tasks", name)
        for name, task in selected.items():
            task.check(f"suite.tasks.{name}")
            if task.head_of is not None:
                check_choice(f"suite.tasks.{name}.head_of", task.head_of, selected)

    def trained(self) -> dict[str, TaskConfig]:
        """Return the selected tasks that have a head of their own (AX, scored by MNLI's head, has none)."""
        return {name: task for name, task in self.selected().items() if task.head_of is None}

    def scored_as(self, name: str) -> TaskConfig:
        """Return the task whose head and metric score ``name``: itself, or the one that ``head_of`` names."""
        return self.tasks[self.tasks[name].head_of or name]

    def selected(self) -> dict[str, TaskConfig]:
        """Return the tasks that ``include`` leaves, in the order of the suite."""
        if self.include:
            return {name: task for name, task in self.tasks.items() if name in self.include}
        return dict(self.tasks)


@dataclass
class DataConfig:
    """Where rows are read and how texts become tokens."""

    root: str | None = None
    seed: int = 0
    max_length: int = 128
    truncation: str = "longest_first"
    double_symmetric: bool = False
    workers: int = 0
    test: bool = False

    def check(self) -> None:
        """Raise ``ConfigError`` for lengths and counts out of range."""
        check_at_least("data.seed", self.seed, 0)
        check_at_least("data.max_length", self.max_length, 8, LARGEST)
        check_choice("data.truncation", self.truncation, TRUNCATIONS)
        check_at_least("data.workers", self.workers, 0, 1024)


@dataclass
class PretrainingConfig:
    """Masked-language-model training of the encoder, before any task (Devlin et al. 2019, section 3.1).

    There is none unless ``text`` names files, or ``sentences`` of the generated language are asked for.
    """

    text: list[str] = field(default_factory=list)
    sentences: int = 0
    vocab_size: int = 30000
    mlm_probability: float = 0.15  # share of the tokens to predict
    batch_size: int = 64  # texts in an optimizer step
    epochs: float = 1.0  # passes over the texts
    learning_rate: float = 1e-4  # at its peak
    seed: int = 0  # of masks and new weights

    @property
    def source(self) -> tuple[tuple[str, ...], int]:
        """Where texts come from: files, and the number of generated sentences."""
        return tuple(self.text), self.sentences

    @property
    def wanted(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.text or self.sentences)

    def check(self) -> None:
        """Raise ``ConfigError`` for two kinds of text at once, or a number out of range."""
        if self.text and self.sentences:
            raise ConfigError(
                "encoder.pretraining takes either text=[FILE, ...] or sentences=N of the generated language, "
                f"got text={self.text} and sentences={self.sentences}"
            )
        check_at_least("encoder.pretraining.sentences", self.sentences, 0, LARGEST)
        check_at_least("encoder.pretraining.vocab_size", self.vocab_size, 1)
        check_at_least("encoder.pretraining.seed", self.seed, 0)
        check_range("encoder.pretraining.mlm_probability", self.mlm_probability, 0, 1, open_low=True, open_high=True)
        check_at_least("encoder.pretraining.batch_size", self.batch_size, 1)
        check_positive("encoder.pretraining.epochs", self.epochs, MOST_EPOCHS)
        check_positive("encoder.pretraining.learning_rate", self.learning_rate)


@dataclass
class EncoderConfig:
    """A pretrained encoder (``path``: hub id or local folder) or the ``model_config`` of one to train from scratch.

    ``_target_`` names a module of your own that returns token states; ``model_config`` are then its arguments, and
    ``path`` brings the tokenizer. ``pooling`` of ``null`` is chosen by checkpoint and family. ``layers`` names the list
    of layers where it is not found. ``peft`` adds adapters, ``freeze`` is ``all`` or the number of lowest layers that
    are not trained.
    """

    name: str = MISSING
    path: str | None = None  # hub id or folder of a pretrained encoder
    revision: str | None = None  # git revision of a hub id
    model_config: dict[str, Any] = field(default_factory=dict)  # of transformers: an encoder to train from scratch
    pooling: str | None = None  # pooler, cls, mean or last; null: as the checkpoint was trained, else by family
    _target_: str | None = None  # your own module that returns token states; model_config are its arguments
    layers: str | None = None  # dotted name of the list of layers, where it is not found
    peft: Any = None  # adapters: {_target_: peft.LoraConfig, r: 8}
    freeze: Any = None  # all, or the number of lowest layers that are not trained
    gradient_checkpointing: bool = False  # compute layers again in the backward pass: less memory, more time
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)

    def check(self, key: str = "encoder") -> None:
        """Raise ``ConfigError`` unless the encoder comes from exactly one place."""
        if self._target_ and not self.path:
            raise ConfigError(f"encoder._target_={self._target_} needs encoder.path, which brings its tokenizer")
        if bool(self.path) == bool(self.model_config) and not self._target_:
            if self.path:
                raise ConfigError(
                    f"encoder {self.name!r} has a model_config of its own, so {key}.path={self.path} does not fit; "
                    f"choose one that is read from a path, as in {key}=minilm {key}.path={self.path}"
                )
            raise ConfigError(
                f"encoder {self.name!r} needs either path=HUB_ID_OR_DIR or model_config, "
                f"got path={self.path} and model_config={self.model_config or None}"
            )
        if self.pooling is not None:
            check_choice(f"{key}.pooling", self.pooling, POOLINGS)
        if self.freeze is not None and self.freeze != "all":
            if isinstance(self.freeze, bool) or not isinstance(self.freeze, int):
                raise ConfigError(f"{key}.freeze must be all or a number of layers, got {self.freeze!r}")
            check_at_least(f"{key}.freeze", self.freeze, 0, 10_000)
        if self.peft is not None and not (isinstance(self.peft, dict) and self.peft.get("_target_")):
            raise ConfigError(
                f"{key}.peft must be a mapping such as {{_target_: peft.LoraConfig, r: 8}}, got {self.peft!r}"
            )
        if self.peft and self.freeze is not None:
            raise ConfigError(f"{key}.peft trains the adapters alone, so freeze has no effect; leave one out")
        if self.peft and self._target_ is None and not self.path:
            raise ConfigError(f"{key}.peft adapts a pretrained encoder; give {key}.path=HUB_ID_OR_DIR")
        self.pretraining.check()
        if self.model_config and not self._target_ and not self.pretraining.wanted:
            raise ConfigError(
                f"encoder {self.name!r} is built from model_config, so it must be pretrained first; "
                f"give {key}.pretraining.text=[FILE, ...] or {key}.pretraining.sentences=N"
            )
