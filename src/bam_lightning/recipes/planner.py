"""Plan the Runs of a recipe from its config. Pure functions, without torch.

A recipe is an ordered mapping of stages; a stage has one Run per task, or one Run of all tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from bam_lightning.config.data_config import EncoderConfig
from bam_lightning.config.exceptions import ConfigError, TeacherError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.job_config import (
    Config,
    Hyperparameters,
    StageConfig,
    StageKind,
    all_stages,
    for_stage,
    shared_stages,
)
from bam_lightning.config.teacher_config import teacher_sources
from bam_lightning.data.sampling import Sampler, count_steps
from bam_lightning.store.run_spec import (
    ALGORITHM,
    COLUMN,
    DEV,
    TEST,
    TRAIN,
    DataSummary,
    PredictionRequest,
    Run,
    pooling_of,
    run_spec,
    to_json,
    training_flags,
)
from bam_lightning.training.schedules import Schedule

LARGEST = 2**31 - 1  # most examples of a Run; its stream takes 4 bytes for each
FEW_STEPS = 100  # a teacher with fewer has hardly been trained
OTHER_SEED = 1000  # added to the seed of a rejected teacher; larger than any ensemble, whose seeds are successive


def plan_runs(config: Config, facts: DataSummary) -> list[Run]:
    """Return the recipe's Runs, each after those it needs (section 3.2: teachers first, then the student)."""
    sampler: Sampler = instantiate("sampler", config.sampler, Sampler)
    if config.distillation.schedule:
        instantiate("distillation.schedule", config.distillation.schedule, Schedule)
    stages = all_stages(config)
    shared, taught_by = shared_stages(stages), {s.teacher for s in stages.values()}
    done: dict[str, list[Run]] = {}
    pretrained: list[tuple[EncoderConfig, str]] = []
    for name, stage in stages.items():
        own, summary = for_stage(config, name), facts.of(name)
        if stage.kind is StageKind.pretrain:
            done[name] = [_pretraining(name, own, summary)]
            pretrained.append((own.encoder, done[name][0].id))
            continue
        start = next((run_id for encoder, run_id in reversed(pretrained) if encoder == own.encoder), None)
        first = config.teacher_seed if name in shared else config.seed
        make = partial(
            _finetuning, name, stage, config=own, facts=summary, sampler=sampler, done=done, pretrained=start
        )
        runs = [
            _fit(partial(make, tasks, fold=fold), seed, config, facts)
            for seed in range(first, first + stage.seeds)
            for fold in _folds(stage)
            for tasks in task_groups(stage, config)
            if name == list(stages)[-1] or not _only_from_outside(tasks, config, facts)
        ]
        last = name == list(stages)[-1]
        done[name] = [replace(run, teaches=name in taught_by, tests=last and config.data.test) for run in runs]
    planned = _leave_out_unneeded([run for runs in done.values() for run in runs], config, list(stages)[-1])
    for run in planned:
        if run.examples > LARGEST:
            raise ConfigError(
                f"{run.label} would train on {run.examples:.3g} examples ({run.steps:.3g} optimizer steps of "
                f"{run.batch_size:.3g}), more than {LARGEST:.3g}; check epochs, batch_size and min_steps"
            )
    return planned


def external_teachers(config: Config, facts: DataSummary) -> dict[str, tuple[str, ...]]:
    """Return task -> the names of its teachers from outside: ids of Runs, and ``column:DIGEST``."""
    found = {}
    for task, value in config.teachers.items():
        sources = teacher_sources(f"teachers.{task}", value)
        digests = facts.columns.get(task, ("",) * len(sources))
        found[task] = tuple(
            source.path if source.is_run else f"{COLUMN}{digest}"
            for source, digest in zip(sources, digests, strict=True)
        )
    return found


def external_weights(config: Config) -> dict[str, tuple[float, ...]]:
    """Return task -> the weights of its teachers from outside, where they differ."""
    weights = {
        task: tuple(float(source.weight) for source in teacher_sources(f"teachers.{task}", value))
        for task, value in config.teachers.items()
    }
    return {task: values for task, values in weights.items() if len(set(values)) > 1}


def _only_from_outside(tasks: tuple[str, ...], config: Config, facts: DataSummary) -> bool:
    """Return whether a single task has no gold to train a teacher on, and a teacher from outside."""
    return len(tasks) == 1 and tasks[0] in config.teachers and facts.labelled.get(tasks[0]) == 0


def _leave_out_unneeded(runs: list[Run], config: Config, last: str) -> list[Run]:
    """Return the Runs without those that would have taught a task that has a teacher from outside, and nothing else."""
    free = {run.id for run in runs if run.teaches and set(run.tasks) <= set(config.teachers)}
    while True:
        needed = {need for run in runs for need in run.dependencies}
        unneeded = [run for run in runs if run.id in free - needed and run.stage != last]
        if not unneeded:
            return runs
        free |= {need for run in unneeded for need in run.dependencies}
        runs = [run for run in runs if run not in unneeded]


def required_predictions(run: Run, config: Config) -> list[PredictionRequest]:
    """Return the predictions that this recipe needs of a fine-tuned Run."""
    requests = [PredictionRequest(task, task, DEV) for task in run.tasks]
    if run.teaches:
        requests += [PredictionRequest(task, task, TRAIN, run.fold) for task in run.tasks]
    if run.tests:
        for name, task in config.suite.selected().items():
            head = task.head_of or name
            if head in run.tasks and task.test_split is not None and task.path != "generated":
                requests.append(PredictionRequest(name, head, TEST))
    return requests


def more_steps(run: Run, steps: int, config: Config) -> str:
    """Return the words of a command line that give a Run so many optimizer steps."""
    words = f"recipe.stages.{run.stage}.optimization.min_steps={steps}"
    most = config.trainer.max_steps
    return words if most is None or most >= steps else f"{words} trainer.max_steps={steps}"


def _fit(make: Callable[[int], Run], seed: int, config: Config, facts: DataSummary) -> Run:
    """Return the Run of ``seed``, or of the first other seed that was not rejected as a teacher.

    Raises:
        TeacherError: If the Runs of ``seed`` and of ``distillation.other_seeds`` other seeds were all rejected.
    """
    tried = [make(seed + number * OTHER_SEED) for number in range(config.distillation.other_seeds + 1)]
    for run in tried:
        if run.id not in facts.refused:
            return run
    first, also = tried[0], f" (nor are those of {len(tried) - 1} other seeds)" if len(tried) > 1 else ""
    raise TeacherError(
        f"{facts.refused[first.id]}{also}; try more steps with "
        f"{more_steps(first, max(FEW_STEPS, 2 * first.steps), config)}, another learning rate with "
        f"recipe.stages.{first.stage}.optimization.learning_rate=, other seeds with distillation.other_seeds="
        f"{len(tried) + 2}, or let it teach with "
        "distillation.teacher_margin=null"
    )


def _folds(stage: StageConfig) -> list[tuple[int, int] | None]:
    """Return number and count of each fold of a stage; None for Runs of all rows."""
    return [(number, stage.folds) for number in range(stage.folds)] if stage.folds else [None]


def task_groups(stage: StageConfig, config: Config) -> list[tuple[str, ...]]:
    """Return the tasks of each Run of a stage."""
    tasks = tuple(stage.tasks) or tuple(config.suite.trained())
    return [(task,) for task in tasks] if stage.per_task else [tasks]


def _finetuning(
    name: str,
    stage: StageConfig,
    tasks: tuple[str, ...],
    seed: int,
    *,
    config: Config,
    facts: DataSummary,
    sampler: Sampler,
    done: Mapping[str, list[Run]],
    pretrained: str | None,
    fold: tuple[int, int] | None = None,
) -> Run:
    hyper = resolve(config, stage, tasks, facts.decays)
    assert hyper.epochs is not None
    assert hyper.batch_size is not None
    assert hyper.min_steps is not None
    teachers: dict[str, tuple[str, ...]] = {}
    weights: dict[str, tuple[float, ...]] = {}
    folded: tuple[str, ...] = ()
    if name == list(config.recipe.stages)[-1]:
        teachers = {task: names for task, names in external_teachers(config, facts).items() if task in tasks}
        weights = {task: values for task, values in external_weights(config).items() if task in tasks}
    if stage.teacher:
        asked = [task for task in tasks if config.suite.tasks[task].teacher and task not in teachers]
        teachers |= {task: _of_task(done[stage.teacher], task, name) for task in asked}
        if config.recipe.stages[stage.teacher].folds:
            folded = tuple(asked)
    sizes = facts.stream_sizes(tasks, teachers)
    if bare := [task for task in tasks if task not in teachers and facts.labelled.get(task) == 0]:
        raise ConfigError(
            f"recipe.stages.{name}: no training row of {bare[0]!r} has a gold label, and this stage has no teacher of "
            f"it; give one with teachers.{bare[0]}=FILE, or leave the task out of the stage"
        )
    if fold:  # the planner knows no rows, so that a row more or less may be in the fold
        sizes = {task: max(1, size - size // fold[1]) for task, size in sizes.items()}
    if len(tasks) > 1:
        steps = sampler.steps(sizes, hyper.epochs, hyper.batch_size)
    else:
        steps = sampler.single_task_steps(sizes[tasks[0]], hyper.epochs, hyper.batch_size)
    steps = max(steps, hyper.min_steps)
    steps = min(steps, config.trainer.max_steps or steps)
    start = pretrained
    if stage.init_from and stage.init_from not in done:
        start = stage.init_from  # a finished Run
    elif stage.init_from:
        base = done[stage.init_from]  # one Run serves all (STILTs, Table 3); of several, the task's own
        start = base[0].id if len(base) == 1 else _of_task(base, tasks[0], name)[0]
    run = Run(name, StageKind.finetune, tasks, seed, steps, hyper, teachers, start)
    run = replace(run, teacher_weights=weights, fold=fold, folded=folded)
    return replace(run, spec=run_spec(run, config, facts))


def _of_task(runs: list[Run], task: str, asker: str) -> tuple[str, ...]:
    """Return the ids of the Runs that trained ``task``, one for each seed of the stage."""
    run_ids = tuple(run.id for run in runs if task in run.tasks)
    if not run_ids:
        raise ConfigError(
            f"recipe.stages.{asker} needs a Run of task {task!r} from stage {runs[0].stage!r}, "
            f"which trains {', '.join('+'.join(run.tasks) for run in runs)}"
        )
    return run_ids


def _pretraining(name: str, config: Config, facts: DataSummary) -> Run:
    settings = config.encoder.pretraining
    steps = count_steps({"text": facts.text_lines}, settings.epochs, settings.batch_size)
    hyper = Hyperparameters(settings.learning_rate, settings.batch_size, settings.epochs, 1.0, 0)
    steps = min(steps, config.trainer.max_steps or steps)
    spec: dict[str, Any] = {
        "algorithm": ALGORITHM,
        "kind": StageKind.pretrain,
        "pretraining": {k: v for k, v in asdict(settings).items() if k not in ("text", "epochs")},
        "text": facts.text_fingerprint,
        "encoder": facts.encoder,
        "max_length": config.data.max_length,
        "precision": facts.precision or config.trainer.precision,
        "pooling": pooling_of(config, facts),
        "steps": steps,
        **{key: flags for key, flags in training_flags(config).items() if key != "sources"},
    }
    if not config.run.kernels:
        spec["kernels"] = False
    return Run(name, StageKind.pretrain, (), settings.seed, steps, hyper, spec=to_json(spec))


def uses_tuned_decay(run: Run, config: Config, facts: DataSummary) -> bool:
    """Return whether a Run's layer-wise decay was chosen on its dev set and no option overrides it."""
    stage = config.recipe.stages.get(run.stage)
    if stage is None or len(run.tasks) != 1 or run.tasks[0] not in facts.of(run.stage).decays:
        return False
    given = (stage.optimization.layerwise_decay, config.optimization.layerwise_decay)
    return not any(decay is not None for decay in (*given, config.suite.tasks[run.tasks[0]].layerwise_decay))


def resolve(config: Config, stage: StageConfig, tasks: tuple[str, ...], decays: Mapping[str, float]) -> Hyperparameters:
    """Return the hyperparameters of a Run: from the stage, else the command line, the task, or the profile.

    For a single task, a layer-wise decay that was chosen on its dev set (``decays``) overrides the profile's.
    """
    optimization = config.optimization
    layers: list[Hyperparameters] = [stage.optimization, optimization]
    if len(tasks) == 1:
        layers += [Hyperparameters(layerwise_decay=config.suite.tasks[tasks[0]].layerwise_decay)]
        layers += [Hyperparameters(layerwise_decay=decays.get(tasks[0]))]
    layers += [optimization.single if len(tasks) == 1 else optimization.multi]
    values = {}
    for name in ("learning_rate", "batch_size", "epochs", "layerwise_decay", "min_steps"):
        values[name] = next(value for layer in layers if (value := getattr(layer, name)) is not None)
    return Hyperparameters(**values)
