"""docs/options.md is what docs/options.py writes, and says of every option what it means."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def options():
    spec = importlib.util.spec_from_file_location("options", TOP / "docs" / "options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(options):
    assert options.PAGE.read_text() == options.page(), "run: python docs/options.py"


def test_every_option_of_the_schema_is_there_with_its_meaning(options):
    found = {option.name: option for group in options.collect().values() for option in group}
    unsaid = [name for name, option in found.items() if not option.meaning]
    assert unsaid == []
    # named by their group or their _target_, or flags of others
    left_out = {"name", "extra", "_target_"}
    names = {option.name for option in options.schema_options() if option.name.rpartition(".")[2] not in left_out}
    missing = {name for name in names - found.keys() if not name.startswith("recipe.stages.NAME.encoder.")}
    assert missing == {"trainer"}


def test_every_choice_says_what_it_is(options):
    from bam_lightning.config.compose import conf_dir

    files = [path for group in options.GROUPS for path in (conf_dir() / group).glob("*.yaml")]
    several = [path for path in files if len(list(path.parent.glob("*.yaml"))) > 1]
    assert [path.name for path in several if not options.headline(path)] == []
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} == {*options.GROUPS, "hydra"}


def test_the_help_of_training_names_every_choice_and_command(options):
    from bam_lightning.cli import app
    from bam_lightning.config.compose import conf_dir

    words = set(re.findall(r"\w+", (conf_dir() / "hydra" / "help" / "bam.yaml").read_text()))
    groups = ("experiment", "scale", "suite", "encoder", "sampler", "distillation", "fidelity", "trainer", "logger")
    choices = {path.stem for group in groups for path in (conf_dir() / group).glob("*.yaml")}
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert (choices | commands) - words == set()
