"""Change every option of a job in turn and see what becomes of its Runs: ``make walk``.

Each option either changes the id of a Run, or is in one of four lists: its effect is in a fingerprint that the id
counts (rows, encoder, texts), it changes no bit of the weights, it changes them by rounding only, or YAML files alone
read it. The plan alone is
walked in ``make test``; this command also trains a tiny job with options that are to change no bit."""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bam_lightning.config.compose import compose
from bam_lightning.config.job_config import Config
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.store.run_spec import PLACES, DataSummary

FINGERPRINTS = (  # read into the fingerprints of rows, encoder and texts, which the id counts
    *(f"suite.tasks.*.{name}" for name in PLACES if name not in ("in_average", "teacher", "layerwise_decay")),
    "data.*",
    "encoder.path",
    "encoder.revision",
    "encoder.model_config",
    "encoder._target_",
    "encoder.pretraining.text",
    "optimization.use_tuned_decay",
    "encoder.pretraining.sentences",
)
NO_BIT = (
    "experiment",
    "scale",
    "check",
    "recipe.name",
    "suite.name",
    "encoder.name",
    "teachers",
    "paths.*",
    "logger.*",
    "run.checkpoint_minutes",
    "run.checkpoint_steps",
    "run.progress",
    "run.validations",
    "trainer.log_every_n_steps",
    "suite.tasks.*.in_average",
    "distillation.teacher_margin",
    "distillation.other_seeds",
)
ROUNDING = ("run.compile", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
COMPOSED = (
    "fidelity",
    "suite.task_groups",
    "suite.sigmoid",
    "suite.pair_head",
    "optimization.finetuning_rate",
)  # YAML alone reads them
UNTRIED = (  # no other value fits the recipe that is walked
    "recipe.stages.single.kind",
    "recipe.stages.single.teacher",
    "recipe.stages.single.tasks",
    "recipe.stages.*.init_from",
    "recipe.stages.*.encoder",
    "suite.tasks.*.head_of",
)
OTHER: dict[str, Any] = {  # pattern -> another value, where the rule of ``other`` makes none that is valid
    **dict.fromkeys(UNTRIED, ...),
    "recipe.stages.student.teacher": None,
    "recipe.stages.student.tasks": ["acceptability", "sentiment"],
    "recipe.stages.*.max_length": 16,
    "*optimization*.learning_rate": 1e-2,
    "*optimization*.batch_size": 7,
    "*optimization*.epochs": 500.0,
    "*optimization*.layerwise_decay": 0.5,
    "*optimization*.min_steps": 100_000,
    "suite.include": ["acceptability"],
    "suite.pair_head": "bam_lightning.SANHead",
    "suite.tasks.*.delimiter": ";",
    "suite.tasks.*.quoting": True,
    "suite.tasks.*_split": "other",
    "suite.tasks.*.weight_column": "weight",
    "suite.tasks.*.kind": "classification",
    "suite.tasks.*.head.class_weights": "balanced",
    "suite.tasks.*.layerwise_decay": 0.5,
    "data.root": "elsewhere",
    "encoder.path": "elsewhere",
    "encoder.revision": "other",
    "encoder._target_": "elsewhere.Encoder",
    "encoder.layers": "layer",
    "encoder.peft": {"_target_": "peft.LoraConfig"},
    "encoder.freeze": 1,
    "sampler": {"_target_": "bam_lightning.SizeProportionalSampler", "exponent": 0.25},
    "distillation.schedule": {"_target_": "bam_lightning.ConstantAnnealing", "lam": 0.5},
    "callbacks": {"x": {"_target_": "elsewhere.Callback"}},
    "trainer.max_steps": 3,
    "run.checkpoint_steps": 3,
    "logger.entity": "other",
    "logger.group": "other",
}
TRAINED = (  # of the options that change no bit: trained with and without
    "run.checkpoint_steps=3",
    "run.validations=0",
    "run.progress=false",
    "logger=csv",
    "trainer.log_every_n_steps=7",
    "data.workers=1",
)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, owner, value) of each option of a job, of its first two tasks and of all stages."""
    if is_dataclass(value):
        for entry in fields(value):
            yield from _leaf(value, entry.name, getattr(value, entry.name), f"{path}.{entry.name}".lstrip("."))
    else:
        for name in list(value)[:2]:
            yield from _leaf(value, name, value[name], f"{path}.{name}")


def _leaf(owner: Any, name: str, value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    nested = is_dataclass(value) or (isinstance(value, dict) and any(map(is_dataclass, value.values())))
    if nested:
        yield from leaves(value, path)
    else:
        yield path, owner, name


def other(path: str, value: Any) -> Any:
    """Return another value of an option; ``...`` where there is none to try."""
    for pattern, given in OTHER.items():
        if fnmatch.fnmatch(path, pattern):
            return given
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if value else 0.5
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return [*value, "x"]
    if isinstance(value, dict):
        return {**value, "x": 1}
    return ...


def facts_of(config: Config) -> DataSummary:
    """Return what a plan needs to know of data, made up."""
    tasks = config.suite.trained()
    sizes = {name: 100 + number for number, name in enumerate(tasks)}
    return DataSummary(sizes, {name: f"rows of {name}" for name in tasks}, "encoder", 100, "texts", {}, "", "cls")


def walk(words: list[str]) -> dict[str, str]:
    """Return option -> ``id``, ``fingerprint``, ``no bit``, ``rounding``; ``untried`` where no other value is known."""
    config = compose(words)
    facts = facts_of(config)
    before = [run.id for run in plan_runs(config, facts)]
    found = {}
    for path, _, _ in list(leaves(config)):
        changed = copy.deepcopy(config)
        owner, name = next((owner, name) for other_path, owner, name in leaves(changed) if other_path == path)
        value = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        new = other(path, value)
        if new is ...:
            found[path] = "untried"
            continue
        if isinstance(owner, dict):
            owner[name] = new
        else:
            setattr(owner, name, new)
        try:
            same = [run.id for run in plan_runs(changed, facts)] == before
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            found[path] = f"refused: {error}"
            continue
        found[path] = listed(path) if same else "id"
    return found


def listed(path: str) -> str:
    """Return in which list an option is that changes no id."""
    lists = {"fingerprint": FINGERPRINTS, "no bit": NO_BIT, "rounding": ROUNDING, "composed": COMPOSED}
    return next((name for name, own in lists.items() if any(fnmatch.fnmatch(path, p) for p in own)), "NOT LISTED")


def wrong(found: dict[str, str]) -> list[str]:
    """Return the options that are in no list, or that the walk could not try."""
    kinds = ("id", "fingerprint", "no bit", "rounding", "composed")
    untried = {path for path, kind in found.items() if kind == "untried"}
    return [
        f"{path}: {kind}"
        for path, kind in found.items()
        if kind not in kinds and not (path in untried and any(fnmatch.fnmatch(path, pattern) for pattern in UNTRIED))
    ]


def train(folder: Path, *words: str) -> dict[str, str]:
    """Train a tiny job in an empty store; return Run -> hash of its weights."""
    from bam_lightning.recipes.runner import run_recipe

    short = "suite.include=[sentiment,similarity] trainer.max_steps=6 trainer.accelerator=cpu logger=none"
    places = [f"paths.store={folder}/store", f"paths.cache={folder}/cache", "distillation.teacher_margin=null"]
    run_recipe(compose(["recipe=single_multi", *short.split(), *places, *words]), folder / "out")
    runs = sorted((folder / "store" / "runs").iterdir())
    return {run.name: hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest() for run in runs}


def main() -> None:
    """Print the table; exit with 1 if an option is in no list, or one that is to change no bit changes the weights."""
    found = walk(["+experiment=single_multi"])
    print("\n".join(f"{kind[:100]:12} {path}" for path, kind in found.items()))
    faults = wrong(found)
    with tempfile.TemporaryDirectory() as folder:
        plain = train(Path(folder) / "plain")
        for number, word in enumerate(TRAINED):
            same = train(Path(folder) / str(number), word) == plain
            print(f"{'equal weights' if same else 'OTHER WEIGHTS':14} {word}")
            faults += [] if same else [f"{word}: other weights"]
    print(f"{len(found)} options, {len(faults)} faults", *faults, sep="\n  ")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
