"""Change every option of a job in turn and see what becomes of its Runs: ``make walk``.

Each option either changes the id of a Run, or is in one of four lists: its effect is in a fingerprint that the id
counts (rows, encoder, texts), it changes no bit of the weights, it changes them by rounding only, or YAML files alone
read it. The plan alone is walked in ``make test``. This command also trains a tiny job with each option that is to
change no bit, and in float64 with several threads and processes; weights are compared as the list says."""

from __future__ import annotations

import copy
import fnmatch
import io
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from bam_lightning.config.compose import compose
from bam_lightning.config.job_config import Config
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.store.run_spec import NEUTRAL_CALLBACKS, NEUTRAL_FLAGS, PLACES, DataSummary

FINGERPRINTS = (  # read into the fingerprints of rows, encoder and texts, which the id counts
    *(f"suite.tasks.*.{name}" for name in PLACES if name not in ("in_average", "teacher", "layerwise_decay")),
    "data.*",
    "encoder.path",
    "encoder.revision",
    "encoder.model_config",
    "encoder._target_",
    "encoder.pretraining.text",
    "optimization.use_tuned_decay",
    "optimization.decays",
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
    "optimization.decays": [1.0, 0.5],
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
NOT_TRAINED = {  # options that change no id, and are not tried in training
    "teachers": "the id counts what they predict",
    "distillation.*": "they decide which Runs there are",
    "paths.store": "is another one in each case",
    "logger.also": "loggers of one's own, as logger=csv is",
    "run.compile": "needs a GPU",
    "trainer.accelerator": "needs a GPU",
    "trainer.num_nodes": "needs a second machine",
    "trainer.strategy": "is tried with trainer.devices",
}
TINY = [  # two teachers, a student and a pretrained encoder, in seconds
    "+experiment=single_multi",
    "encoder.model_config.hidden_dropout_prob=0.1",
    "suite.include=[acceptability,sentiment]",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=2",
    "trainer.accelerator=cpu",
    "logger=none",
    "distillation.teacher_margin=null",
]
FLAGS: dict[str, Any] = {  # another value of each flag of the Trainer that counts as neutral
    "barebones": ...,  # Lightning refuses it with callbacks, which every Run has
    "check_val_every_n_epoch": 2,
    "limit_predict_batches": 1,
    "limit_test_batches": 1,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 2,
    "profiler": "simple",
    "val_check_interval": 2,
    **dict.fromkeys(("detect_anomaly", "enable_model_summary", "enable_progress_bar"), True),
}
CALLBACKS: dict[str, Any] = {  # what a callback that counts as neutral needs beside it
    **dict.fromkeys(("DeviceStatsMonitor", "LearningRateMonitor"), "logger=csv"),
    **dict.fromkeys(("RichProgressBar", "TQDMProgressBar"), "+trainer.enable_progress_bar=true"),
    "ModelCheckpoint": ...,  # Lightning refuses it without enable_checkpointing, which is the recipe's
    "ThroughputMonitor": ...,  # needs a function, which YAML cannot give
}
MORE_WORDS = ("data.workers=1", "logger=csv", "run.validations=0")
EXACT = [  # no dropout, whose draws depend on the rank
    "encoder.model_config.hidden_dropout_prob=0",
    *(f"suite.tasks.{task}.head.dropout=0" for task in ("acceptability", "sentiment")),
]
SEVERAL = {  # equal to one process with one thread up to rounding: precision, options
    "2 threads": ("64-true", []),
    "trainer.devices": ("64-true", ["trainer.devices=2"]),
    "trainer.strategy": ("32-true", ["trainer.devices=2", "trainer.strategy=fsdp"]),
}
ROUNDED = {"64-true": 1e-9, "32-true": 1e-4}  # largest difference of a weight


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


def train(config: Config, folder: Path) -> dict[str, dict[str, Any]]:
    """Train a job in an empty store; return Run -> its weights."""
    from safetensors.numpy import load_file

    from bam_lightning.recipes.runner import run_recipe

    config.paths.store, config.paths.cache = f"{folder}/store", f"{folder}/cache"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run_recipe(config, folder / "out")
    return {run.name: load_file(run / "model.safetensors") for run in (folder / "store" / "runs").iterdir()}


def difference(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> float:
    """Return the largest difference of a weight; infinite for other Runs. 0 is for weights of the same bits."""
    if one.keys() != other.keys():
        return math.inf
    pairs = [(weights[name], other[run][name]) for run, weights in one.items() for name in weights]
    if all(first.tobytes() == second.tobytes() for first, second in pairs):
        return 0.0
    return max(5e-324, *(float(abs(first - second).max()) for first, second in pairs))


def variants() -> Iterator[tuple[str, Config]]:
    """Yield a name and a job that is to end with the weights of ``TINY``, bit for bit, for each option that says so."""
    config = compose(TINY)
    for path, _, _ in list(leaves(config)):
        if listed(path) == "no bit" and not any(fnmatch.fnmatch(path, pattern) for pattern in NOT_TRAINED):
            changed = copy.deepcopy(config)
            owner, name = next((owner, name) for other_path, owner, name in leaves(changed) if other_path == path)
            value = owner[name] if isinstance(owner, dict) else getattr(owner, name)
            setattr(owner, name, other(path, value))
            yield path, changed
    more = [[word] for word in MORE_WORDS]
    more += [[f"+trainer.{name}={FLAGS[name]}"] for name in NEUTRAL_FLAGS if FLAGS[name] is not ...]
    for name in NEUTRAL_CALLBACKS:
        if (needed := CALLBACKS.get(name, "run.progress=false")) is not ...:
            more.append([f"+callbacks.x={{_target_: pytorch_lightning.callbacks.{name}}}", needed])
    for words in more:
        yield " ".join(words), compose([*TINY, *words])


def train_all(folder: Path) -> list[str]:
    """Train with each option that is to change nothing, or only the rounding; print the table, return the faults."""
    faults = []

    def tell(name: str, expected: float, plain: Any, config: Config) -> None:
        place = folder / str(len(list(folder.iterdir())))
        try:
            found = difference(plain, train(config, place))
            said = "equal bits" if found == 0 else f"{found:.1e}"
        except Exception as error:
            found, said = math.inf, f"{type(error).__name__}: {error}"[:200]
        if found > expected:
            faults.append(f"{name}: {said}")
        print(f"{said:12} {name}", flush=True)

    plain = train(compose(TINY), folder / "plain")
    for name, config in variants():
        tell(name, 0.0, plain, config)
    for pattern, reason in NOT_TRAINED.items():
        print(f"{'not trained':12} {pattern}: {reason}")
    plain_of = {}
    torch.set_num_threads(1)
    for precision in ROUNDED:
        plain_of[precision] = train(compose([*TINY, *EXACT, f"trainer.precision={precision}"]), folder / precision)
    torch.set_num_threads(2)
    for name, (precision, words) in SEVERAL.items():
        config = compose([*TINY, *EXACT, f"trainer.precision={precision}", *words])
        tell(name, ROUNDED[precision], plain_of[precision], config)
    return faults


def main() -> None:
    """Print the tables; exit with 1 if an option is in no list, or the weights differ by more than its list says."""
    found = walk(["+experiment=single_multi"])
    print("\n".join(f"{kind[:100]:12} {path}" for path, kind in found.items()))
    faults = wrong(found)
    with tempfile.TemporaryDirectory() as folder:
        faults += train_all(Path(folder))
    print(f"{len(found)} options, {len(faults)} faults", *faults, sep="\n  ")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
