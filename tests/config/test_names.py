"""The rule for names of tasks, stages and experiments, where a config is read and where a model is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

import bam_lightning as bam
from bam_lightning.config.compose import compose, conf_dir
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.job_config import RecipeConfig, StageConfig
from bam_lightning.config.names import LONGEST, MODULE_ATTRIBUTES, TAKEN, name_error

BAD = {
    "my sentiment": "is no name: use letters, digits and _, with a letter first, as in 'my_sentiment'",
    "a/b": "is no name: use letters, digits and _, with a letter first, as in 'a_b'",
    "a.b": "is no name: use letters, digits and _, with a letter first, as in 'a_b'",
    "2nd": "is no name: use letters, digits and _, with a letter first, as in 'name_2nd'",
    "_x": "is no name: use letters, digits and _, with a letter first, as in 'x'",
    "été": "is no name: use letters, digits and _, with a letter first, as in 't'",
    "": "is no name: use letters, digits and _, with a letter first, as in 'name'",
    "rte\n": "is no name: use letters, digits and _, with a letter first, as in 'rte'",
    "type": "is reserved; use another name, as in 'my_type'",
    "all": "is reserved; use another name, as in 'my_all'",
    "average": "is reserved; use another name, as in 'my_average'",
    "a" * 101: "is longer than 100 characters; use a shorter name",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_with_a_remedy(name):
    assert name_error(name) == BAD[name]


def test_what_a_message_proposes_is_a_good_name():
    proposed = [reason.rpartition("'")[0].rpartition("'")[2] for reason in BAD.values() if "'" in reason]
    assert [name_error(name) for name in proposed] == [None] * len(proposed)


def test_reserved_names_are_the_attributes_of_torchs_module_dict():
    refused = {name for name in dir(nn.ModuleDict()) if not name.startswith("_")}
    assert refused <= MODULE_ATTRIBUTES | TAKEN


@pytest.mark.parametrize("name", ["rte", "small_entailment", "Sentiment2", "a" * LONGEST])
def test_a_good_name_is_a_key_of_a_module_dict_and_a_file(name, tmp_path):
    assert name_error(name) is None
    nn.ModuleDict({name: nn.Identity()})
    (tmp_path / f"{name}.safetensors").touch()


def test_all_names_of_conf_are_good():
    files = [path for group in ("task", "experiment") for path in (conf_dir() / group).glob("*.yaml")]
    assert len(files) > 20
    assert [path.stem for path in files if name_error(path.stem)] == []


def test_the_rule_holds_for_tasks_of_a_script():
    rows = {"train": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}
    with pytest.raises(ConfigError, match=r"^tasks: 'my sentiment' is no name"):
        bam.MultiTaskDataModule({"my sentiment": bam.Task.from_list(rows, text="text")}, "encoder")


def test_the_rule_is_checked_when_a_config_is_read():
    with pytest.raises(ConfigError, match=r"^suite\.tasks: 'type' is reserved"):
        compose(["scale=small", "+task@suite.tasks.type=rte"])
    config = compose()
    with pytest.raises(ConfigError, match=r"^experiment: 'my run' is no name"):
        replace(config, experiment="my run")
    with pytest.raises(ConfigError, match=r"^recipe\.stages: 'all' is reserved"):
        replace(config, recipe=RecipeConfig("mine", {"all": StageConfig()}))
