"""A Run: one model to train, and everything that can change its weights.

Its id is a hash of all that, so that a Run that is wanted twice (a teacher shared by 20 students, say) is
trained once. Pure, and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bam_lightning.config.data_config import DataConfig, EncoderConfig, HeadConfig, TaskConfig
from bam_lightning.config.instantiate import source_fingerprint, targets
from bam_lightning.config.job_config import Config, Hyperparameters, OptimizationConfig, StageKind

ALGORITHM = 4  # raised when the same Run would come out with other weights; old Runs are then not found again
# Fields of a task that cannot change a Run's weights or scores: where rows come from is covered by their fingerprint.
PLACES = (
    "path",
    "subset",
    "train_split",
    "dev_split",
    "test_split",
    "unlabelled_split",
    "train_rows",
    "dev_rows",
    "text",
    "choices",
    "label",
    "labels",
    "label_separator",
    "id_column",
    "delimiter",
    "quoting",
    "split",
    "annotators",
    "weight_column",
    "in_average",
    "teacher",
    "layerwise_decay",
    "allow_empty_text",
    "allow_missing_labels",
    "symmetric",
    "row_group",
)


DEV, TRAIN, TEST = "dev", "train", "test"
COLUMN = "column:"  # begins the name of a teacher that is no Run, before the digest of its predictions


class PredictionRequest(NamedTuple):
    """Rows that a Run is to predict: the task they belong to, the task whose head does it, the split, and of it a fold.

    A fold is its number, from 0, and the number of folds.
    """

    task: str
    head: str
    split: str
    fold: tuple[int, int] | None = None


class EncoderSummary(NamedTuple):
    """What a plan must know of a stage's own encoder; see ``DataSummary``."""

    encoder: str
    text_lines: int
    text_fingerprint: str
    decays: Mapping[str, float]
    pooling: str = ""


@dataclass(frozen=True)
class DataSummary:
    """What a plan must know of the data: training rows per task, fingerprints, lines of pretraining text.

    ``labelled`` maps a task to the number of rows that have gold, where some have none: a Run without a teacher trains
    on those alone. ``precision`` is what ``trainer.precision=auto`` stands for on this machine, ``pooling`` what
    ``encoder.pooling=null`` does for this encoder. ``decays`` maps a task to the layer-wise decay that was chosen for
    it on its dev set, if any was; ``refused`` maps the id of a Run that is not fit to teach to the reason. ``columns``
    maps a task to the digests of its teachers from outside, in the order of ``teachers.TASK``; that of a Run is empty.
    ``stages`` maps a stage with an encoder of its own to what it changes. ``shared`` maps the name of a source that
    several tasks label to task -> ``[N, 2]``: which of its N rows the task has, and which of these have gold.
    """

    sizes: Mapping[str, int]
    fingerprints: Mapping[str, str]
    encoder: str
    text_lines: int = 0
    text_fingerprint: str = ""
    decays: Mapping[str, float] = field(default_factory=dict)
    precision: str = ""
    pooling: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    labelled: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stages: Mapping[str, EncoderSummary] = field(default_factory=dict)
    shared: Mapping[str, Mapping[str, NDArray[np.bool_]]] = field(default_factory=dict)

    def stream_sizes(self, tasks: Sequence[str], taught: Collection[str]) -> dict[str, int]:
        """Return what a Run draws from, and its rows: tasks, and sources that several of its tasks label.

        Args:
            tasks: Of the Run.
            taught: Those that have a teacher, and so learn from rows without gold.
        """
        sizes = {
            task: self.sizes[task] if task in taught else self.labelled.get(task, self.sizes[task]) for task in tasks
        }
        for source, rows in self.shared.items():
            if len(group := [task for task in tasks if task in rows]) > 1:
                drawn = np.any([rows[task][:, int(task not in taught)] for task in group], axis=0)
                sizes = {task: size for task, size in sizes.items() if task not in group}
                sizes[f"{source} ({'+'.join(group)})"] = int(drawn.sum())
        return sizes

    def of(self, stage: str) -> DataSummary:
        """Return the summary with what a stage's own encoder changes in it."""
        return replace(self, **self.stages[stage]._asdict()) if stage in self.stages else self


@dataclass(frozen=True)
class Run:
    """One model to train.

    ``steps`` are optimizer steps; ``teachers`` maps a task to the Runs that teach it, more than one of them for an
    ensemble, or ``column:DIGEST`` for predictions from outside; ``teacher_weights`` are those of an ensemble whose
    members do not count alike. ``fold`` is the part of the rows that a Run is not trained on and teaches, ``folded``
    the tasks whose teachers teach one fold each. ``teaches`` and ``tests`` say whether it is to predict its training
    rows, and the test splits.
    """

    stage: str
    kind: StageKind
    tasks: tuple[str, ...]
    seed: int
    steps: int
    hyper: Hyperparameters
    teachers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    init_from: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    teaches: bool = False
    tests: bool = False
    teacher_weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    fold: tuple[int, int] | None = None
    folded: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Hash of everything that can change the Run's weights, 12 hexadecimal digits."""
        text = json.dumps(identity(self.spec), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def batch_size(self) -> int:
        """Examples in an optimizer step."""
        assert self.hyper.batch_size is not None
        return self.hyper.batch_size

    @property
    def examples(self) -> int:
        """Training examples the Run sees, repeats counted."""
        return self.steps * self.batch_size

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Ids of the Runs that must be finished first."""
        teachers = {name for names in self.teachers.values() for name in names if not name.startswith(COLUMN)}
        return tuple(sorted(teachers | ({self.init_from} if self.init_from else set())))

    @property
    def teacher_ids(self) -> dict[str, str | list[str]]:
        """Task -> the id of its teacher, or the ids of an ensemble, as artifacts have it."""
        return {task: ids[0] if len(ids) == 1 else list(ids) for task, ids in self.teachers.items()}

    @property
    def label(self) -> str:
        """Short name for people: the stage, and the task where there is one."""
        fold = f", without fold {self.fold[0] + 1} of {self.fold[1]}" if self.fold else ""
        return f"{self.stage}/{self.tasks[0]}{fold}" if len(self.tasks) == 1 else self.stage


def run_from_json(value: Mapping[str, Any]) -> Run:
    """Return the Run whose fields, as JSON has them, are given."""
    found = {
        "kind": StageKind(value["kind"]),
        "tasks": tuple(value["tasks"]),
        "hyper": Hyperparameters(**value["hyper"]),
        "teachers": {task: tuple(ids) for task, ids in value["teachers"].items()},
        "teacher_weights": {task: tuple(weights) for task, weights in value["teacher_weights"].items()},
        "fold": value["fold"] and tuple(value["fold"]),
        "folded": tuple(value["folded"]),
    }
    return Run(**{**value, **found})


def run_spec(run: Run, config: Config, facts: DataSummary) -> dict[str, Any]:
    optimization = asdict(config.optimization)
    for name in ("single", "multi", "finetuning_rate", "use_tuned_decay", "decays", *asdict(run.hyper)):
        optimization.pop(name)
    tasks = {
        task: {k: v for k, v in asdict(config.suite.tasks[task]).items() if k not in PLACES}
        | {"data": facts.fingerprints[task]}
        | ({} if task in run.teachers else {"temperature": TaskConfig().temperature})  # it acts in distillation alone
        | _sources(config.suite.tasks[task])
        for task in run.tasks
    }
    spec: dict[str, Any] = {
        "algorithm": ALGORITHM,
        "kind": run.kind,
        "order": run.tasks,
        "tasks": tasks,
        "seed": run.seed,
        "steps": run.steps,
        "batch_size": run.batch_size,
        "learning_rate": run.hyper.learning_rate,
        "layerwise_decay": run.hyper.layerwise_decay,
        "optimization": optimization,
        "max_length": config.data.max_length,
        "pooling": pooling_of(config, facts),
        "precision": facts.precision or config.trainer.precision,
        "call_tokens": config.run.call_tokens,  # where an encoder pads, it decides which texts share a dropout draw
        **training_flags(config),
        "encoder": None if run.init_from else facts.encoder,
        "init_from": run.init_from,
        **encoder_options(config),
    }
    if not config.run.kernels:  # other draws of dropout
        spec["kernels"] = False
    if config.data.truncation != DataConfig().truncation:
        spec["truncation"] = config.data.truncation
    if len(run.tasks) > 1:
        spec["sampler"] = {name: value for name, value in config.sampler.items() if name != "match_length_of"}
    if run.teachers:
        spec |= {"teachers": run.teacher_ids, "distillation": dict(config.distillation.schedule)}
    groups = {task: config.suite.tasks[task].row_group for task in run.tasks}
    together = {group: [task for task in run.tasks if groups[task] == group] for group in groups.values() if group}
    if shared := sorted(tasks for tasks in together.values() if len(tasks) > 1):
        spec["shared_rows"] = shared
    if run.teacher_weights:
        spec["teacher_weights"] = run.teacher_weights
    if run.fold:
        spec["fold"] = run.fold
    if run.folded:
        spec["folded"] = run.folded
    return dict(to_json(spec))


def pooling_of(config: Config, facts: DataSummary) -> str:
    """Return the pooling of the encoder: as given, else as it was chosen."""
    return config.encoder.pooling or facts.pooling or "pooler"


def encoder_options(config: Config) -> dict[str, Any]:
    """Return the options that change what of an encoder is trained, and how, where they are not at their default."""
    default, names = EncoderConfig(), ("peft", "freeze", "gradient_checkpointing", "layers")
    values = {name: getattr(config.encoder, name) for name in names}
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    return {"encoder_options": changed} if changed else {}


# Flags of Lightning's Trainer and callbacks that show something or measure it, and leave weights as they are.
NEUTRAL_FLAGS = (
    "barebones",
    "check_val_every_n_epoch",
    "detect_anomaly",
    "enable_model_summary",
    "enable_progress_bar",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_val_batches",
    "num_sanity_val_steps",
    "profiler",
    "val_check_interval",
)
NEUTRAL_CALLBACKS = (
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "ThroughputMonitor",
    "TQDMProgressBar",
)


def training_flags(config: Config) -> dict[str, Any]:
    """Return what else of the Trainer can change a Run's weights: its other flags, and callbacks that nobody listed.

    An unlisted callback may read dev scores or logged values, so where there is one, what decides when these are
    computed counts too.
    """
    callbacks = {
        name: {**section, "_source_": source_fingerprint(str(section.get("_target_")))}
        for name, section in config.callbacks.items()
        if str(section.get("_target_")).rpartition(".")[2] not in NEUTRAL_CALLBACKS
    }
    extra = config.trainer.extra
    flags = {name: value for name, value in extra.items() if callbacks or name not in NEUTRAL_FLAGS}
    if callbacks:
        flags |= {"validations": config.run.validations, "log_every_n_steps": config.trainer.log_every_n_steps}
    sources = {
        target: fingerprint
        for target in targets(
            [config.optimization.optimizer, config.sampler, config.distillation.schedule, vars(config.encoder)]
        )
        if (fingerprint := source_fingerprint(str(target)))
    }
    found = {"trainer": flags, "callbacks": callbacks, "sources": sources}
    return {name: value for name, value in found.items() if value}


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the id of a Run is a hash of: its spec, without options that have their default.

    So a new option whose default changes nothing keeps all ids.
    """
    found = dict(spec)
    if "optimization" in spec:
        found["optimization"] = _beside(spec["optimization"], OptimizationConfig())
    if "tasks" in spec:
        found["tasks"] = {
            name: {**_beside(task, TaskConfig()), "head": _beside(task["head"], HeadConfig())}
            for name, task in spec["tasks"].items()
        }
    return found


def _beside(values: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    default = to_json(asdict(defaults))
    return {name: value for name, value in values.items() if name not in default or value != default[name]}


def _sources(task: TaskConfig) -> dict[str, Any]:
    """Return hashes of a user's own head, loss and metrics."""
    found = {} if not (head := source_fingerprint(task.head._target_)) else {"source": head}
    others = [source_fingerprint(str(target)) for target in targets([task.head.loss, task.metrics])]
    return {**found, "sources": others} if any(others) else found


def to_json(value: Any) -> Any:
    """Return ``value`` as JSON has it: enums by their value, tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value
