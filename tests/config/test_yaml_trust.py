"""Somebody else's YAML: what it names is not called unless it belongs in its place, and no secret is read for it."""

from __future__ import annotations

import subprocess

import pytest

from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError

TASK = """# @package {package}
defaults: [schema, /head: classification, {more}_self_]
path: their/data
text: [sentence]
head: {{label_names: ['no', 'yes']}}
metric: accuracy
"""
EVIL = "{_target_: subprocess.Popen, args: [touch, pwned]}"


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A folder of somebody else's, beside the working directory."""
    (tmp_path / "theirs" / "task").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("called"))
    return tmp_path / "theirs"


def words(folder):
    return [f"hydra.searchpath=[file://{folder}]", "+task@suite.tasks.other=other", "suite.include=[other]"]


def write(folder, text, name="task/other.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


SECTIONS = [
    "callbacks: {x: EVIL}",
    "launcher: {_target_: subprocess.Popen}",
    "sweeper: {_target_: subprocess.Popen}",
    "sweeper: {_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper, params: {x: EVIL}}",
    "job_logging: {handlers: {x: {(): subprocess.Popen, args: [touch, pwned]}}}",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_task_files_defaults_cannot_have_hydra_call_anything(theirs, section):
    write(theirs, TASK.format(package="_group_", more="/evil@_global_: any, ").replace("# @package _group_\n", ""))
    write(theirs, f"hydra: {{{section.replace('EVIL', EVIL)}}}", "evil/any.yaml")
    with pytest.raises(ConfigError) as caught:
        compose(words(theirs))
    key = section.partition(":")[0]
    assert str(caught.value).startswith(f"hydra.{key}")
    assert "'subprocess.Popen', which " in str(caught.value)


@pytest.mark.parametrize("value", ["${oc.env:WANDB_API_KEY}", "${oc.${seed_word}:WANDB_API_KEY}", "a ${now:%Y}"])
def test_a_file_of_somebody_elses_reads_no_environment(theirs, value, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    path = write(theirs, TASK.format(package="_group_", more="").replace("their/data", f"'https://x/{value}'")[19:])
    with pytest.raises(ConfigError) as caught:
        compose(words(theirs))
    assert str(caught.value) == (
        f"{path} has 'https://x/{value}'; a file outside the working directory may be somebody else's and must not "
        "read the environment or call another resolver; give the value on the command line, or copy the file here"
    )


def test_a_file_of_ones_own_may_read_the_environment(theirs, monkeypatch):
    monkeypatch.setenv("DATA", "mine/data")
    mine = theirs.parent / "mine" / "conf"
    write(mine, TASK.format(package="_group_", more="").replace("their/data", "${oc.env:DATA}")[19:])
    assert compose(words(mine)).suite.tasks["other"].path == "mine/data"


@pytest.mark.parametrize(("names", "read"), [("[no, yes]", "[False, True]"), ("[off, other]", "[False, 'other']"),
                                              ("[null, some]", "[None, 'some']")])  # fmt: skip
def test_label_names_that_yaml_does_not_read_as_text_are_explained(tmp_path, names, read):
    (tmp_path / "task").mkdir()
    file = tmp_path / "task" / "mine.yaml"
    text = "defaults: [schema, /head: classification, _self_]\npath: x\ntext: [text]\nhead: {label_names: NAMES}\n"
    words = [f"hydra.searchpath=[file://{tmp_path}]", "+task@suite.tasks.mine=mine"]
    file.write_text(text.replace("NAMES", names))
    with pytest.raises(ConfigError) as error:
        compose(words)
    assert str(error.value) == (
        f"{file}: label_names is {read}: YAML reads no, off, yes, on, true, false and null as values, not as text; put "
        "such names in quotes, as in label_names: ['no', 'yes']"
    )
    file.write_text(text.replace("NAMES", "['no', 'yes']"))
    assert compose(words).suite.tasks["mine"].head.label_names == ["no", "yes"]
