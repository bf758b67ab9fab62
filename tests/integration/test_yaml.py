"""Every YAML of ``conf/`` by glob: it composes, passes the checks, and its targets can be built."""

from __future__ import annotations

import pytest

from bam_lightning.config.compose import compose, conf_dir
from bam_lightning.config.data_config import HEADS
from bam_lightning.config.instantiate import instantiate

FILES = sorted(
    path.relative_to(conf_dir())
    for path in conf_dir().rglob("*.yaml")
    if path.parent.name not in (conf_dir().name, "help", "table")
)  # the text of --help is shown by test_train; tables are no part of a job: test_tables
PAPER_TASKS = "cola sst2 mrpc stsb qqp mnli qnli rte".split()
NEEDS = {
    "pretrain": [],
    "glue_with_wnli": ["scale=small"],
    "minilm": ["scale=small"],
    "bert_base": ["scale=base"],
    "bert_large": ["scale=paper"],
    "ax": ["scale=small"],
    "mnli_mm": ["scale=small"],
}


def overrides(group: str, name: str) -> list[str]:
    """Return the command line on which the file ``conf/group/name.yaml`` is used."""
    if group == "head":  # a head is chosen in a task's file
        return []
    if group == "task":
        return [f"+task@suite.tasks.mine={name}", *NEEDS.get(name, [])]
    plus = "+" if group in ("experiment", "debug") else ""
    return [*NEEDS.get(name, []), f"{plus}{group}={name}"]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes_and_its_targets_build(path):
    group, name = str(path.parent), path.stem
    config = compose(overrides(group, name))
    instantiate("sampler", config.sampler)
    instantiate("distillation.schedule", config.distillation.schedule)
    for task_name, task in config.suite.chosen().items():
        if task.scored_by is None:
            instantiate(f"suite.tasks.{task_name}.head", {"width": 8, **vars(task.head)})


HEAD_FILES = {
    "classification": ("label_names: [low, middle, high]", 3),
    "multi_label": ("label_names: [low, middle, high]", 3),
    "ordinal": ("label_names: [low, middle, high]", 2),
    "regression": ("label_range: [1, 7]", 1),
}


@pytest.mark.parametrize("head", sorted(path.stem for path in (conf_dir() / "head").glob("*.yaml")))
def test_every_head_serves_a_task_of_ones_own_by_its_first_metric(head, tmp_path):
    labels, outputs = HEAD_FILES[head]
    (metric,) = [
        own[0].value for target, own in HEADS.items() if target.endswith(f".{head.title().replace('_', '')}Head")
    ]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "my_task.yaml").write_text(
        f"defaults: [schema, /head: {head}, _self_]\npath: x\ntext_columns: [a]\nhead: {{{labels}}}\nmetric: {metric}\n"
    )
    config = compose([f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=my_task"])
    built = instantiate("suite.tasks.mine.head", {"width": 8, **vars(config.suite.tasks["mine"].head)})
    assert built.linear.out_features == outputs


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
    assert config.data.double_symmetric
    assert not config.optimization.bias_correction
    assert config.optimization.shape.value == "bert"
    assert not config.suite.tasks["stsb"].head.sigmoid


def test_wnli_is_not_in_the_average():
    config = compose(["scale=small", "suite=glue_with_wnli"])
    assert [name for name, task in config.suite.tasks.items() if not task.in_average] == ["wnli"]
