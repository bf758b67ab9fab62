"""From a config to the Runs to train: pure, and without torch.

A Run is one trained model. Its id is a hash of everything that can change its weights, so that a Run that is
wanted twice (a teacher shared by 20 students, say) is trained once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from bam_lightning.config import Config, Hyperparameters, StageConfig, StageKind
from bam_lightning.data_config import TaskConfig
from bam_lightning.stream import Sampler, epoch_steps
from bam_lightning.targets import build

ALGORITHM = 1  # raised when the same Run would come out with other weights; old Runs are then not found again
PRETRAIN = "pretrain"
# Fields of a task that cannot change a Run's weights or scores: where rows come from is covered by their fingerprint.
PLACES = ("path", "subset", "train_split", "dev_split", "test_split", "train_rows", "dev_rows", "text_columns",
          "label_column", "id_column", "in_average", "teacher", "layerwise_decay", "allow_empty_text", "symmetric")


@dataclass(frozen=True)
class Facts:
    """What a plan must know of the data: training rows per task, fingerprints, lines of pretraining text."""

    sizes: Mapping[str, int]
    fingerprints: Mapping[str, str]
    encoder: str
    text_lines: int = 0
    text_fingerprint: str = ""


@dataclass(frozen=True)
class Run:
    """One model to train. ``steps`` are optimizer steps; ``teachers`` maps a task to the Run that teaches it."""

    stage: str
    kind: StageKind
    tasks: tuple[str, ...]
    seed: int
    steps: int
    hyper: Hyperparameters
    teachers: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    teaches: bool = False

    @property
    def id(self) -> str:
        """Hash of everything that can change the Run's weights, 12 hexadecimal digits."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
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
    def needs(self) -> tuple[str, ...]:
        """Ids of the Runs that must be finished first."""
        return tuple(sorted({*self.teachers.values(), *([self.start] if self.start else [])}))

    @property
    def label(self) -> str:
        """Short name for people: the stage, and the task where there is one."""
        return f"{self.stage}/{self.tasks[0]}" if len(self.tasks) == 1 else self.stage


def plan(config: Config, facts: Facts) -> list[Run]:
    """Return the recipe's Runs, each after those it needs (section 3.2: teachers first, then the student)."""
    sampler: Sampler = build("sampler", config.sampler)
    if config.distillation.schedule:
        build("distillation.schedule", config.distillation.schedule)
    stages = dict(config.recipe.stages)
    if config.encoder.pretraining is not None and not any(s.kind is StageKind.pretrain for s in stages.values()):
        stages = {PRETRAIN: StageConfig(kind=StageKind.pretrain), **stages}
    built_on = {name for s in stages.values() for name in (s.teacher, s.start) if name}
    taught_by = {s.teacher for s in stages.values()}
    done: dict[str, list[Run]] = {}
    pretrained: str | None = None
    for name, stage in stages.items():
        if stage.kind is StageKind.pretrain:
            done[name] = [_pretraining(name, config, facts)]
            pretrained = done[name][0].id
            continue
        seed = config.teacher_seed if name in built_on else config.seed
        runs = [
            _finetuning(name, stage, tasks, seed, config, facts, sampler, done, pretrained)
            for tasks in _groups(stage, config)
        ]
        done[name] = [replace(run, teaches=name in taught_by) for run in runs]
    return [run for runs in done.values() for run in runs]


def trainable(config: Config) -> dict[str, TaskConfig]:
    """Return the chosen tasks that have a head of their own (AX, scored by MNLI's head, has none)."""
    return {name: task for name, task in config.suite.chosen().items() if task.scored_by is None}


def _groups(stage: StageConfig, config: Config) -> list[tuple[str, ...]]:
    tasks = tuple(stage.tasks) or tuple(trainable(config))
    return [(task,) for task in tasks] if stage.per_task else [tasks]


def _finetuning(name: str, stage: StageConfig, tasks: tuple[str, ...], seed: int, config: Config, facts: Facts,
                sampler: Sampler, done: Mapping[str, list[Run]], pretrained: str | None) -> Run:
    hyper = resolve(config, stage, tasks)
    assert hyper.epochs is not None and hyper.batch_size is not None and hyper.min_steps is not None
    sizes = {task: facts.sizes[task] for task in tasks}
    count = sampler.steps if len(tasks) > 1 else epoch_steps
    steps = max(count(sizes, hyper.epochs, hyper.batch_size), hyper.min_steps)
    steps = min(steps, config.trainer.max_steps or steps)
    teachers = {}
    if stage.teacher:
        teachers = {t: _of_task(done[stage.teacher], t, name).id for t in tasks if config.suite.tasks[t].teacher}
    start = pretrained
    if stage.start:
        start = _of_task(done[stage.start], tasks[0] if stage.per_task else None, name).id
    run = Run(name, StageKind.finetune, tasks, seed, steps, hyper, teachers, start)
    return replace(run, spec=_spec(run, config, facts))


def _of_task(runs: list[Run], task: str | None, asker: str) -> Run:
    for run in runs:
        if len(runs) == 1 and (task is None or task in run.tasks or run.kind is StageKind.pretrain):
            return run
        if task is not None and run.tasks == (task,):
            return run
    raise ValueError(f"recipe.stages.{asker} needs a Run of task {task!r} from stage {runs[0].stage!r}, "
                     f"which trains {', '.join('+'.join(run.tasks) for run in runs)}")


def resolve(config: Config, stage: StageConfig, tasks: tuple[str, ...]) -> Hyperparameters:
    """Return the hyperparameters of a Run: the stage's, else the command line's, the task's, the profile's."""
    optimization = config.optimization
    layers: list[Hyperparameters] = [stage.optimization, optimization]
    if len(tasks) == 1:
        layers += [Hyperparameters(layerwise_decay=config.suite.tasks[tasks[0]].layerwise_decay)]
    layers += [optimization.single if len(tasks) == 1 else optimization.multi]
    values = {}
    for name in ("learning_rate", "batch_size", "epochs", "layerwise_decay", "min_steps"):
        values[name] = next(value for layer in layers if (value := getattr(layer, name)) is not None)
    return Hyperparameters(**values)


def _spec(run: Run, config: Config, facts: Facts) -> dict[str, Any]:
    optimization = asdict(config.optimization)
    for name in ("single", "multi", *asdict(run.hyper)):
        optimization.pop(name)
    tasks = {
        task: {k: v for k, v in asdict(config.suite.tasks[task]).items() if k not in PLACES}
        | {"data": facts.fingerprints[task]}
        for task in run.tasks
    }
    spec: dict[str, Any] = {
        "algorithm": ALGORITHM, "kind": run.kind, "order": run.tasks, "tasks": tasks, "seed": run.seed,
        "steps": run.steps,
        "batch_size": run.batch_size, "learning_rate": run.hyper.learning_rate,
        "layerwise_decay": run.hyper.layerwise_decay, "optimization": optimization,
        "max_length": config.data.max_length, "pooler": config.encoder.pooler,
        "precision": config.trainer.precision,
        "encoder": None if run.start else facts.encoder, "start": run.start,
    }
    if len(run.tasks) > 1:
        spec["sampler"] = dict(config.sampler)
    if run.teachers:
        spec |= {"teachers": dict(run.teachers), "distillation": asdict(config.distillation)}
    return dict(plain(spec))


def _pretraining(name: str, config: Config, facts: Facts) -> Run:
    settings = config.encoder.pretraining
    assert settings is not None
    steps = epoch_steps({"text": facts.text_lines}, settings.epochs, settings.batch_size)
    hyper = Hyperparameters(settings.learning_rate, settings.batch_size, settings.epochs, 1.0, 0)
    spec = {
        "algorithm": ALGORITHM, "kind": StageKind.pretrain, "pretraining": asdict(settings),
        "text": facts.text_fingerprint, "encoder": facts.encoder, "max_length": config.data.max_length,
        "precision": config.trainer.precision, "steps": min(steps, config.trainer.max_steps or steps),
    }
    spec["pretraining"] = {k: v for k, v in asdict(settings).items() if k not in ("text", "epochs")}
    return Run(name, StageKind.pretrain, (), settings.seed, int(spec["steps"]), hyper, spec=plain(spec))


def plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: enums by their value, tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
