"""Typed configuration of a job: the schema of ``conf/`` and every check that needs nothing but the values.

Values live in YAML, types and checks here. Imports neither torch nor Hydra, so that bad input is refused
before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from bam_lightning.config.data_config import LARGEST, MISSING, MOST_EPOCHS, DataConfig, EncoderConfig, SuiteConfig
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.names import check_name
from bam_lightning.config.teacher_config import is_run_id, teacher_sources
from bam_lightning.config.trainer_config import LoggerConfig, PathsConfig, RunConfig, TrainerConfig
from bam_lightning.config.validation import check_at_least, check_choice, check_positive, check_range

PRETRAIN = "pretrain"  # name of the stage that is added before the others


class StageKind(Enum):
    """What a stage does: train on labels (``finetune``) or on masked text (``pretrain``)."""

    finetune = "finetune"
    pretrain = "pretrain"


class LRSchedule(Enum):
    """Learning rate over progress; see ``bam_lightning.training.schedules``."""

    linear = "linear"
    bert = "bert"
    constant = "constant"


@dataclass
class Hyperparameters:
    """What differs between single-task and multi-task training (section 4); ``null`` leaves it to the profile."""

    learning_rate: float | None = None  # of the heads, at its peak
    batch_size: int | None = None  # examples in an optimizer step
    epochs: float | None = None  # passes over the rows, over all tasks together
    layerwise_decay: float | None = None  # factor on the rate from each layer to the one below
    min_steps: int | None = None  # least number of optimizer steps

    def check(self, key: str) -> None:
        """Raise ``ConfigError`` for a value out of range, naming it by ``key``."""
        if self.learning_rate is not None:
            check_positive(f"{key}.learning_rate", self.learning_rate)
        if self.batch_size is not None:
            check_at_least(f"{key}.batch_size", self.batch_size, 1)
        if self.epochs is not None:
            check_positive(f"{key}.epochs", self.epochs, MOST_EPOCHS)
        if self.layerwise_decay is not None:
            check_range(f"{key}.layerwise_decay", self.layerwise_decay, 0, 1, open_low=True)
        if self.min_steps is not None:
            check_at_least(f"{key}.min_steps", self.min_steps, 0)


@dataclass
class OptimizationConfig(Hyperparameters):
    """Optimizer and rates. The five values at the top, where set, win over both profiles.

    ``optimizer`` is any torch optimizer by ``_target_``; by default AdamW, or BERT's Adam without ``bias_correction``.
    ``finetuning_rate`` is for stages that go on from a multi-task Run (Table 3), by interpolation in their recipe.
    ``use_tuned_decay`` has single tasks take the layer-wise decay that was chosen on their dev set, by ``bam tune`` or
    from ``decays``: a job first trains each single task with each of these values, once per store, with
    ``teacher_seed``.
    """

    warmup: float = 0.1
    weight_decay: float = 0.01
    optimizer: dict[str, Any] = field(default_factory=dict)  # a torch optimizer by _target_; empty: AdamW
    clip_norm: float = 1.0
    epsilon: float = 1e-6
    bias_correction: bool = True
    lr_schedule: LRSchedule = LRSchedule.linear
    finetuning_rate: float = 1e-5
    use_tuned_decay: bool = True
    decays: list[float] = field(default_factory=list)  # to choose from on dev; empty: the profile's
    single: Hyperparameters = field(default_factory=Hyperparameters)
    multi: Hyperparameters = field(default_factory=Hyperparameters)

    def check(self, key: str = "optimization") -> None:
        """Raise ``ConfigError`` for a value out of range or a profile left incomplete."""
        super().check(key)
        check_range(f"{key}.warmup", self.warmup, 0, 1, open_high=True)
        check_range(f"{key}.weight_decay", self.weight_decay, 0, 1)
        check_positive(f"{key}.clip_norm", self.clip_norm)
        check_positive(f"{key}.epsilon", self.epsilon)
        check_positive(f"{key}.finetuning_rate", self.finetuning_rate)
        for decay in self.decays:
            check_range(f"{key}.decays", decay, 0, 1, open_low=True)
        if self.decays and len(set(self.decays)) < 2:
            raise ConfigError(f"{key}.decays must be at least two different numbers to choose from, got {self.decays}")
        for name, profile in (("single", self.single), ("multi", self.multi)):
            profile.check(f"{key}.{name}")
            for value in ("learning_rate", "batch_size", "epochs", "layerwise_decay", "min_steps"):
                if getattr(profile, value) is None:
                    raise ConfigError(f"{key}.{name}.{value} is missing; give a number")


@dataclass
class StageConfig:
    """One step of a recipe: one Run per task, or one Run of all tasks; who teaches it; where it starts.

    ``seeds`` above 1 trains each Run that often, from successive seeds: an ensemble, to teach a later stage. ``folds``
    above 0 trains that many Runs for each task, each without one part of its rows, which that Run then teaches.
    ``encoder`` and ``max_length``, where set, are this stage's own.
    """

    kind: StageKind = StageKind.finetune  # finetune or pretrain
    per_task: bool = False  # true: one Run per task; false: one Run of all tasks
    teacher: str | None = None  # the stage that teaches it; null: gold alone
    init_from: str | None = None  # the stage, or the finished Run, whose weights it starts from; null: the encoder
    seeds: int = 1  # Runs of successive seeds: an ensemble, to teach a later stage
    folds: int = 0  # Runs of each task, each of which teaches the rows it was not trained on; 0: one Run of all rows
    tasks: list[str] = field(default_factory=list)  # the tasks of this stage; empty: all
    optimization: Hyperparameters = field(default_factory=Hyperparameters)
    encoder: EncoderConfig | None = None  # of this stage, as in the group encoder; null: the job's
    max_length: int | None = None  # of this stage; null: data.max_length


@dataclass
class RecipeConfig:
    """Stages in the order they are trained."""

    name: str = MISSING
    stages: dict[str, StageConfig] = field(default_factory=dict)

    def check(self, suite: SuiteConfig) -> None:
        """Raise ``ConfigError`` for a stage that names a later or unknown stage, or an unknown task."""
        if not self.stages:
            raise ConfigError(f"recipe {self.name!r} has no stages; give at least one under recipe.stages")
        done: list[str] = []
        for name, stage in self.stages.items():
            check_name("recipe.stages", name)
            key = f"recipe.stages.{name}"
            for field_name in ("teacher", "init_from"):
                other = getattr(stage, field_name)
                if other is None or other in done or (field_name == "init_from" and is_run_id(other)):
                    continue
                raise ConfigError(
                    f"{key}.{field_name} names stage {other!r}; stages before it: {', '.join(done) or 'none'}"
                )
            if stage.kind is StageKind.pretrain and (stage.teacher or stage.init_from or stage.per_task):
                raise ConfigError(f"{key} is of kind pretrain, so it takes no teacher, init_from or per_task")
            for task in stage.tasks:
                check_choice(f"{key}.tasks", task, suite.trained())
            check_at_least(f"{key}.seeds", stage.seeds, 1, 1000)
            if stage.init_from in self.stages and self.stages[stage.init_from].seeds > 1:
                raise ConfigError(
                    f"{key}.init_from names stage {stage.init_from!r} of {self.stages[stage.init_from].seeds} seeds, "
                    "but weights start from one Run; set its seeds to 1"
                )
            if stage.folds:
                self._check_folds(name, stage, suite)
            stage.optimization.check(f"{key}.optimization")
            if stage.encoder is not None:
                stage.encoder.check(f"{key}.encoder")
            if stage.max_length is not None:
                check_at_least(f"{key}.max_length", stage.max_length, 8, LARGEST)
            done.append(name)

    def _check_folds(self, name: str, stage: StageConfig, suite: SuiteConfig) -> None:
        key = f"recipe.stages.{name}.folds"
        check_at_least(key, stage.folds, 2, 100)
        others = self.stages.values()
        if not stage.per_task or stage.seeds > 1 or not any(other.teacher == name for other in others):
            raise ConfigError(
                f"{key} is {stage.folds}, so the stage must have per_task: true and seeds: 1, and teach a later stage"
            )
        if any(other.init_from == name for other in others):
            raise ConfigError(
                f"{key} is {stage.folds}, but a stage starts from its weights, which needs one Run a task"
            )
        for task in stage.tasks or suite.trained():
            if (kind := suite.tasks[task].kind_of_labels) in ("tagging", "span"):
                raise ConfigError(f"{key}: task {task!r} predicts words ({kind}), whose rows cannot be put together")


def shared_stages(stages: Mapping[str, StageConfig]) -> set[str]:
    """Return the stages that students of all seeds share: those that teach, and what those start from.

    A stage that is only started from has the student's own seed, as in Table 3: each multi-task model is
    fine-tuned, not one of them 20 times.
    """
    found: set[str] = set()
    for name, stage in reversed(list(stages.items())):
        found |= {stage.teacher} if stage.teacher else set()
        found |= {stage.init_from} if stage.init_from and name in found else set()
    return found


@dataclass
class DistillationConfig:
    """How gold and teacher are mixed: ``schedule`` gives lam, the weight of gold, over progress.

    A Run whose dev score is not above the commonest answer's by more than ``teacher_margin`` does not teach.
    """

    schedule: dict[str, Any] = field(default_factory=dict)  # progress -> lam; +distillation.schedule.start=0.5
    teacher_margin: float | None = 0.0
    other_seeds: int = 0

    def check(self) -> None:
        """Raise ``ConfigError`` for a margin or a count out of range."""
        if self.teacher_margin is not None and not -1 <= self.teacher_margin <= 1:
            raise ConfigError(
                f"distillation.teacher_margin is {self.teacher_margin}, but scores lie between -1 and 1; "
                "give the least distance from the commonest answer's score, or null for none"
            )
        check_at_least("distillation.other_seeds", self.other_seeds, 0)


@dataclass
class Config:
    """A whole job. ``seed`` is the student's, ``teacher_seed`` that of the stages in ``shared_stages``.

    ``teachers`` names, for tasks of the last stage, teachers that the recipe does not train: see ``TeacherSource``.
    """

    experiment: str | None = None  # the name under which tables find the job
    scale: str = MISSING  # set by the group
    fidelity: str = MISSING  # set by the group
    seed: int = 0
    teacher_seed: int = 0
    teachers: dict[str, Any] = field(default_factory=dict)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    sampler: dict[str, Any] = field(default_factory=dict)  # how tasks are mixed
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    trainer: Any = field(default_factory=dict)  # any flags of Lightning's Trainer; read as a TrainerConfig
    run: RunConfig = field(default_factory=RunConfig)
    check: bool = False
    callbacks: dict[str, Any] = field(default_factory=dict)  # name -> one of Lightning's callbacks by _target_
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        """Check everything once; see the parts' ``check``."""
        if not isinstance(self.trainer, TrainerConfig):
            self.trainer = TrainerConfig.from_mapping(self.trainer)
        if self.experiment is not None:
            check_name("experiment", self.experiment)
        for name in ("seed", "teacher_seed"):
            check_at_least(name, getattr(self, name), 0)
        for part in (self.suite, self.data, self.encoder, self.optimization, self.distillation, self.trainer, self.run):
            part.check()
        if self.run.compile and self.trainer.strategy == "fsdp":
            raise ConfigError("run.compile=true and trainer.strategy=fsdp do not go together; leave one of them out")
        self.recipe.check(self.suite)
        for task, value in self.teachers.items():
            check_choice("teachers", task, self.suite.trained())
            teacher_sources(f"teachers.{task}", value)
        if self.data.root is not None and all(task.path == "generated" for task in self.suite.trained().values()):
            raise ConfigError(
                f"data.root is {self.data.root}, but every task of suite {self.suite.name!r} is generated and reads no "
                "file; add scale=small (or base, paper), or leave data.root out"
            )
        self._check_stages()

    def _check_stages(self) -> None:
        for name, stage in self.recipe.stages.items():
            encoder = stage.encoder or self.encoder
            if stage.kind is StageKind.pretrain and not encoder.pretraining.wanted:
                key = "encoder" if stage.encoder is None else f"recipe.stages.{name}.encoder"
                raise ConfigError(
                    f"recipe.stages.{name} is of kind pretrain, so it needs text to read; "
                    f"give {key}.pretraining.text=[FILE, ...]"
                )
            before = self.recipe.stages.get(stage.init_from or "")
            base = None if before is None else before.encoder or self.encoder
            if base is not None and base != encoder:
                raise ConfigError(
                    f"recipe.stages.{name}.init_from names stage {stage.init_from!r}, which has another encoder "
                    f"({base.name}, here {encoder.name}), so its weights do not fit; give both stages the same "
                    "encoder, or let that stage teach this one"
                )


def all_stages(config: Config) -> dict[str, StageConfig]:
    """Return the stages of a recipe, after a stage that pretrains each encoder that is to be pretrained."""
    stages = config.recipe.stages
    pretrained = [stage.encoder or config.encoder for stage in stages.values() if stage.kind is StageKind.pretrain]
    added: dict[str, StageConfig] = {}
    for name, stage in stages.items():
        encoder = stage.encoder or config.encoder
        if stage.kind is StageKind.finetune and encoder.pretraining.wanted and encoder not in pretrained:
            own = None if encoder == config.encoder else encoder
            title = PRETRAIN if own is None else f"{PRETRAIN}_{name}"
            added[title] = StageConfig(kind=StageKind.pretrain, encoder=own, max_length=stage.max_length)
            pretrained.append(encoder)
    return {**added, **stages}


def for_stage(config: Config, name: str) -> Config:
    """Return the config that a stage's Runs are trained with: its own encoder and length, where it has some."""
    stage = all_stages(config).get(name)
    if stage is None or (stage.encoder is None and stage.max_length is None):
        return config
    found = copy(config)
    found.encoder = stage.encoder or config.encoder
    found.data = replace(config.data, max_length=stage.max_length or config.data.max_length)
    return found
