"""Whoever uses a former name is told the new one, and the new one exists."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

import bam_lightning as bam
from bam_lightning import cli
from bam_lightning.config.compose import compose, conf_dir
from bam_lightning.config.instantiate import instantiate
from bam_lightning.config.job_config import Config
from bam_lightning.config.renamed import RENAMED, renamed
from bam_lightning.config.trainer_config import TrainerConfig
from bam_lightning.data.sampling import ReplicationSampler

OPTIONS = [old for old in RENAMED if "=" not in old and not old.startswith("bam")]
CHOICES = [old for old in RENAMED if "=" in old]
CLASSES = [old for old in RENAMED if RENAMED[old].startswith("bam_lightning.")]
COMMANDS = [old for old in RENAMED if RENAMED[old].startswith("bam ")]
NAMES = {"suite.tasks.*": "suite.tasks.sentiment", "recipe.stages.*": "recipe.stages.student"}


def of_demo(key: str) -> str:
    """Return an option's key with a task or a stage of the demo in place of the star."""
    for pattern, name in NAMES.items():
        key = key.replace(pattern, name)
    return key


def test_each_entry_is_of_one_kind():
    assert sorted([*OPTIONS, *CHOICES, *CLASSES, *COMMANDS]) == sorted(RENAMED)


@pytest.mark.parametrize("prefix", ["", "+", "++"])
@pytest.mark.parametrize("old", OPTIONS)
def test_a_former_option_is_answered_by_the_new_one(old, prefix):
    def read() -> None:
        instantiate("sampler", compose(["sampler=replication", f"{prefix}{of_demo(old)}=1"]).sampler, object)

    with pytest.raises(bam.ConfigError) as caught:
        read()
    assert str(caught.value) == f"`{of_demo(old)}` is now `{of_demo(RENAMED[old])}`"


@pytest.mark.parametrize("old", OPTIONS)
def test_the_new_option_exists(old):
    kind, known = Config, {"sampler": ReplicationSampler, "trainer": TrainerConfig}
    for part in RENAMED[old].split("."):
        if part == "*":
            continue
        hint = known.get(part, get_type_hints(kind).get(part))
        assert part in {entry.name for entry in fields(kind)}
        kind = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), kind)


@pytest.mark.parametrize("old", CHOICES)
def test_a_former_choice_is_answered_by_the_new_one(old):
    with pytest.raises(bam.ConfigError) as caught:
        compose([old])
    assert str(caught.value) == f"`{old}` is now `{RENAMED[old]}`"
    assert (conf_dir() / f"{RENAMED[old].replace('=', '/')}.yaml").is_file()


@pytest.mark.parametrize("old", CLASSES)
def test_a_former_class_is_answered_by_the_new_one(old):
    with pytest.raises(bam.ConfigError) as caught:
        instantiate("sampler", {"_target_": old}, object)
    assert str(caught.value) == f"sampler._target_: `{old}` is now `{RENAMED[old]}`"
    assert RENAMED[old].removeprefix("bam_lightning.") in bam.__all__


@pytest.mark.parametrize("old", COMMANDS)
def test_a_former_command_is_answered_by_the_new_one(old, monkeypatch, capsys):
    if old.startswith("bam "):
        monkeypatch.setattr(sys, "argv", old.split())
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code, capsys.readouterr().err) == (2, f"error: `{old}` is now `{RENAMED[old]}`\n")
    else:
        with pytest.raises(AttributeError, match=rf"; `{old}` is now `{RENAMED[old]}`$"):
            getattr(bam, old.removeprefix("bam_lightning."))
        with pytest.raises(ModuleNotFoundError):
            import_module(old)
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert RENAMED[old].removeprefix("bam ") in names


def test_a_former_option_in_a_file_names_the_file(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("defaults: [schema]\npath: x\ntext_columns: [a]\n")
    with pytest.raises(bam.ConfigError) as caught:
        compose([f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=mine"])
    assert str(caught.value) == "`suite.tasks.mine.text_columns` is now `suite.tasks.mine.text` (in task/mine.yaml)"


@pytest.mark.parametrize("name", ["suite.include", "suite.tasks.rte.head", "suite.onlyy", "scale=small"])
def test_other_names_have_no_sentence(name):
    assert renamed(name) is None
