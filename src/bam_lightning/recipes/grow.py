"""Add a task to a finished student, which teaches what it knows to the student that goes on from its weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bam_lightning.config.compose import compose
from bam_lightning.config.data_config import TaskConfig
from bam_lightning.config.exceptions import ConfigError, DataError, DataPathError
from bam_lightning.config.job_config import Config, Hyperparameters, RecipeConfig, StageConfig, StageKind, for_stage
from bam_lightning.config.names import check_name
from bam_lightning.config.validation import check_choice, check_range
from bam_lightning.data import row_cache
from bam_lightning.inference.model_info import ModelInfo, find_model, read_model_info
from bam_lightning.recipes.evaluation import CompareOptions, compare, job_file_of
from bam_lightning.recipes.job_file import read_job
from bam_lightning.recipes.runner import run_recipe

TEACHER, STUDENT = "single", "student"
ADDED = "added_by_bam_grow"  # name of the new task's file where it is composed: the library's own files come first
WORDS = ("seed=", "teacher_seed=", "trainer.", "run.", "logger.", "optimization.", "distillation.")


@dataclass(kw_only=True)
class GrowOptions:
    """Options of ``bam grow``; see its ``--help``."""

    run: str
    task: str
    changed: Sequence[str] = field(default_factory=list)
    share: float = 0.25
    margin: float = 0.5
    store: str = "store"
    output: str = "grow"


def grow(options: GrowOptions, words: Sequence[str] = ()) -> int:
    """Train the new task's teacher and the student of all tasks; return 1 unless every old task is not worse.

    With ``teachers.TASK=...`` for the new task no teacher is trained, and its training rows need no gold label.

    Raises:
        ConfigError: If the student's job is not known, or the task or a word does not fit.
        DataError: If an old task has other rows than the student was trained on, and is not in ``changed``.
    """
    info = read_model_info(find_model(options.run, options.store))
    config = grown_config(info, options, words)
    _check_rows(info, config, options.changed)
    results = run_recipe(config, options.output)
    student = results["runs"][-1]
    name = config.recipe.stages[TEACHER].tasks[0]
    metric = config.suite.tasks[name].metric_name
    print(f"{name}: dev {metric} {100 * student['metrics'][name][metric]:.1f} of Run {student['id']}")
    folder = str(Path(options.output) / "compare")
    return compare(
        CompareOptions(old=info.id, new=student["id"], margin=options.margin, store=options.store, output=folder)
    )


def grown_config(info: ModelInfo, options: GrowOptions, words: Sequence[str] = ()) -> Config:
    """Return the config of a student's job, with another task and a recipe that goes on from the student."""
    check_range("share", options.share, 0, 1, open_low=True)
    name = Path(options.task).stem
    check_name("task", name)
    config = read_job(job_file_of(info))
    config = for_stage(config, str(info.manifest["stage"]))  # the student's own encoder and length
    old, teacher = list(info.tasks), f"teachers.{name}"
    taught = [word for word in words if word.startswith((f"{teacher}=", f"{teacher}."))]
    words = [word for word in words if word not in taught]
    for word in words:
        if word.startswith("teachers."):
            raise ConfigError(
                f"bam grow does not accept {word!r}: the old student teaches the old tasks; only the new task takes a "
                f"teacher, as {teacher}=FILE"
            )
        if not word.startswith(WORDS):
            raise ConfigError(
                f"bam grow keeps the student's data, encoder and recipe, so it does not accept {word!r}; it takes "
                f"seed, teacher_seed, {teacher} and options of trainer, run, logger, optimization and distillation"
            )
    for task in options.changed:
        check_choice("changed", task, old)
    if name in old:
        raise ConfigError(f"Run {info.id} has a task {name!r} already; rename the file of the new one")
    config = _with_words(config, words)
    config.suite.tasks[name] = read_task(options.task, name)
    config.suite.include = [*old, name]
    epochs = config.optimization.epochs or config.optimization.multi.epochs
    assert epochs is not None
    pretraining = {key: stage for key, stage in config.recipe.stages.items() if stage.kind is StageKind.pretrain}
    stages = {
        **pretraining,
        TEACHER: StageConfig(per_task=True, tasks=[name]),
        STUDENT: StageConfig(
            teacher=TEACHER, init_from=info.id, optimization=Hyperparameters(epochs=options.share * epochs)
        ),
    }
    config.recipe = RecipeConfig("grow", stages)
    config.experiment, config.teachers = None, {**dict.fromkeys(old, info.id), **_teachers(taught)}
    config.paths.store = options.store
    config.__post_init__()
    return config


def _with_words(config: Config, words: Sequence[str]) -> Config:
    """Return a config with options that were given on the command line."""
    from omegaconf import OmegaConf

    from bam_lightning.config.compose import to_config
    from bam_lightning.recipes.job_file import to_plain_tree

    tree = OmegaConf.merge(OmegaConf.structured(Config), to_plain_tree(config), OmegaConf.from_dotlist(list(words)))
    return to_config(tree)


def _teachers(words: Sequence[str]) -> dict[str, Any]:
    """Return task -> teacher from outside, as given by words ``teachers.TASK=...``."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))
    return dict(tree.get("teachers", {}))


def read_task(path: str, name: str) -> TaskConfig:
    """Return the task that a file of the group ``task`` describes."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataPathError(f"task: no file {file}; give a task's YAML file, as in --task my_conf/task/churn.yaml")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task").mkdir()
        shutil.copyfile(file, Path(folder) / "task" / f"{ADDED}.yaml")
        found = compose([f"hydra.searchpath=[file://{folder}]", f"+task@suite.tasks.{name}={ADDED}"])
    if name not in found.suite.tasks:
        raise ConfigError(f"task: {file} has labels of several tasks, and bam grow adds one; give a file for each")
    return found.suite.tasks[name]


def _check_rows(info: ModelInfo, config: Config, changed: Sequence[str]) -> None:
    cache = Path(config.paths.cache)
    for task in info.tasks:
        rows = row_cache.load(task, config.suite.tasks[task], config.data, cache)
        if rows.fingerprint != info.manifest["spec"]["tasks"][task]["data"] and task not in changed:
            raise DataError(
                f"the rows of task {task!r} are no longer those that Run {info.id} was trained on; restore them, or "
                f"let the student teach the new ones too with --changed {task}"
            )
