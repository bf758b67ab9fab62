"""Every YAML of ``conf/`` by glob: it composes, passes the checks, and its targets can be built."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import bam_lightning as bam
from bam_lightning.config.compose import compose, conf_dir
from bam_lightning.config.data_config import HEADS
from bam_lightning.config.instantiate import instantiate

FILES = sorted(
    path.relative_to(conf_dir())
    for path in conf_dir().rglob("*.yaml")
    if path.parent.name not in (conf_dir().name, "help", "table")
)  # the text of --help is shown by test_train; tables are no part of a job: test_tables
PAPER_TASKS = "cola sst2 mrpc stsb qqp mnli qnli rte".split()
SCALE = {  # of files that need one
    "glue_with_wnli": "small",
    "minilm": "small",
    "bert_base": "base",
    "bert_large": "paper",
    "ax": "small",
    "mnli_mm": "small",
}


def together() -> list[list[Path] | ParameterSet]:
    """Return the files in groups that one command line can choose at once, as composing takes most of a second."""
    groups: dict[str, list[Path]] = {}
    for path in FILES:
        groups.setdefault(str(path.parent), []).append(path)
    groups.pop("head")  # chosen in the files of tasks
    tasks = groups.pop("task")
    experiments = [pytest.param([path], marks=pytest.mark.release) for path in groups.pop("experiment")]  # test_planner
    alone = [[path] for group in ("debug", "tune") for path in groups.pop(group)]
    sizes = [path for group in ("suite", "scale", "encoder") for path in groups.pop(group)]
    recipes = zip_longest(groups.pop("recipe"), sizes)
    rounds = [*zip_longest(*groups.values()), *recipes]
    scaled = [path for path in tasks if path.stem in SCALE]
    others = [path for path in tasks if path.stem not in SCALE]
    return [others, scaled, *([path for path in one if path is not None] for one in rounds), *alone, *experiments]


def overrides(paths: list[Path]) -> list[str]:
    """Return the command line on which the files are used."""
    scales = {path.stem: "paper" for path in paths if path.parent.name == "experiment"}  # as test_planner composes them
    words = sorted({f"scale={size}" for path in paths if (size := {**scales, **SCALE}.get(path.stem))})
    for path in paths:
        group, name = str(path.parent), path.stem
        words += ["encoder.pretraining.text=[texts.txt]"] * (name == "pretrain")
        plus = "+" if group in ("experiment", "debug", "tune") else ""
        words.append(f"+task@suite.tasks.my_{name}={name}" if group == "task" else f"{plus}{group}={name}")
    return words


@pytest.mark.parametrize("paths", together(), ids=lambda paths: "+".join(map(str, paths[:3])))
def test_every_file_composes_and_its_targets_build(paths):
    config = compose(overrides(paths))
    instantiate("sampler", config.sampler, bam.Sampler)
    instantiate("distillation.schedule", config.distillation.schedule, bam.Schedule)
    chosen = config.suite.selected()
    assert {f"my_{path.stem}" for path in paths if path.parent.name == "task"} <= set(chosen)
    for task_name, task in chosen.items():
        if task.head_of is None:
            instantiate(f"suite.tasks.{task_name}.head", {"width": 8, **task.head.arguments()}, bam.Head)


HEAD_FILES = {
    "classification": ("label_names: [low, middle, high]", 3),
    "multi_label": ("label_names: [low, middle, high]", 3),
    "ordinal": ("label_names: [low, middle, high]", 2),
    "regression": ("label_range: [1, 7]", 1),
    "hl_gauss": ("label_range: [1, 7]", 51),
    "choice": ("label_names: [first, second, third]", 3),
    "tagging": ("label_names: [O, B-A, I-A]", 3),
    "span": ("", 2),
    "san": ("label_names: [low, middle, high]", 3),
}


COLUMNS = {"choice": "[a]\nchoices: [b, c, d]", "span": "[a, b]", "san": "[a, b]"}


@pytest.mark.parametrize("head", sorted(path.stem for path in (conf_dir() / "head").glob("*.yaml")))
def test_every_head_serves_a_task_of_ones_own_by_its_first_metric(head, tmp_path):
    labels, outputs = HEAD_FILES[head]
    (metric,) = [
        own[0].value for target, own in HEADS.items() if target.lower().endswith(f".{head.replace('_', '')}head")
    ]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "my_task.yaml").write_text(
        f"defaults: [schema, /head: {head}, _self_]\npath: x\ntext: {COLUMNS.get(head, '[a]')}\n"
        f"head: {{{labels}}}\nmetric: {metric}\n"
    )
    config = compose([f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=my_task"])
    built = instantiate("suite.tasks.mine.head", {"width": 8, **config.suite.tasks["mine"].head.arguments()}, bam.Head)
    assert getattr(built, "outputs", built.linear.out_features) == outputs


def test_scale_paper_holds_the_papers_numbers():
    config = compose(["scale=paper"])
    assert config.encoder.path == "google-bert/bert-large-uncased"
    multi, single = config.optimization.multi, config.optimization.single
    assert (multi.batch_size, multi.epochs, multi.learning_rate, multi.layerwise_decay) == (128, 6, 1e-4, 0.9)
    assert (single.batch_size, single.epochs, single.learning_rate) == (32, 3, 5e-5)
    assert config.sampler["exponent"] == 0.75
    assert set(config.suite.tasks) == {*PAPER_TASKS, "mnli_mm", "ax"}


def test_reference_code_is_a_choice_of_its_own():
    config = compose(["scale=paper", "fidelity=reference_code"])
    assert config.sampler["_target_"].endswith(".ReplicationSampler")
    assert config.sampler["reference_size"] == 392702
    assert config.optimization.single.layerwise_decay == 0.9
    assert not config.optimization.use_tuned_decay
    assert config.data.double_symmetric
    assert not config.optimization.bias_correction
    assert config.optimization.lr_schedule.value == "bert"
    assert not config.suite.tasks["stsb"].head.sigmoid


def test_wnli_is_not_in_the_average():
    config = compose(["scale=small", "suite=glue_with_wnli"])
    assert [name for name, task in config.suite.tasks.items() if not task.in_average] == ["wnli"]
