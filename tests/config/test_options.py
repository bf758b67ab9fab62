"""No option is read by nobody: every field of the schema is used outside the config rooms. Options of commands."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import bam_lightning
from bam_lightning.config.compose import conf_dir
from bam_lightning.config.data_config import SuiteConfig
from bam_lightning.config.job_config import Config
from bam_lightning.config.options import StoreOptions, option, parse, split, usage

SOURCE = Path(bam_lightning.__file__).parent
SCHEMA = ("job_config.py", "data_config.py")
TEXT = "\n".join(path.read_text() for path in SOURCE.rglob("*.py") if path.name not in SCHEMA)
YAML = "\n".join(path.read_text() for group in ("recipe", "experiment") for path in (conf_dir() / group).glob("*.yaml"))
TEXT += inspect.getsource(SuiteConfig.selected)  # what everything else asks for the tasks


def leaves(kind: type, prefix: str = "") -> list[tuple[str, str]]:
    """Return (owner.field, field) of every value of the schema."""
    found = []
    for entry in fields(kind):
        hint = get_type_hints(kind)[entry.name]
        inner = next((arg for arg in (hint, *get_args(hint)) if is_dataclass(arg)), None)
        found += leaves(inner, f"{prefix}{entry.name}.") if inner else [(f"{prefix}{entry.name}", entry.name)]
    return found


@pytest.mark.parametrize(("path", "name"), leaves(Config), ids=lambda value: str(value))
def test_every_option_is_read(path, name):
    # a head's own options reach it by name, as keyword arguments of its class
    uses = rf"\b{name}\b" if ".head." in path else rf"\.{name}\b"
    interpolated = rf"\$\{{{re.escape(path)}\b"  # a recipe or an experiment reads it
    assert re.search(uses, TEXT) or re.search(interpolated, YAML), f"{path} is read nowhere"


@dataclass
class Some(StoreOptions):
    """Options of a command."""

    name: str = option("???", "a name")
    count: int | None = option(None, "a number")
    sure: bool = option(False, "yes or no")
    ids: list[str] = field(default_factory=list, metadata={"help": "several"})
    rates: list[float] = field(default_factory=list, metadata={"help": "several"})


def test_words_become_typed_options_and_texts_stay_as_they_are():
    words = ["1e5", "paths.store=x", "count=3", "sure=TRUE", "ids=[012345670123, 12e4]", "rates=1,0.5"]
    parsed = parse(Some, words, word="name")
    assert parsed == Some("x", "1e5", 3, True, ["012345670123", "12e4"], [1.0, 0.5])
    assert parse(Some, ["name=null", "count=null"]) == Some(name="null")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], r"^no value for name; give each one, as in name=VALUE$"),
        (["name=a", "b"], r"^options have the form name=value, got 'b'; known: store, name, count, sure, ids, rates$"),
        (["nmae=a"], r"^no option 'nmae'; did you mean 'name'\?; known: "),
        (["name=a", "count=1.5"], r"^count must be a whole number, got '1\.5'$"),
        (["name=a", "rates=[1,x]"], r"^rates must be a number, got 'x'$"),
        (["name=a", "sure=1"], r"^sure names '1'; choices: true, false$"),
    ],
)
def test_a_bad_word_is_named(words, expected):
    with pytest.raises(ValueError, match=expected):
        parse(Some, words)


def test_help_shows_every_option_with_its_default():
    text = usage(Some, "What it does.")
    assert text.splitlines()[0] == "What it does."
    assert re.search(r"count=null +a number", text)
    assert re.search(r"name= +a name", text)


def test_a_line_is_split_into_own_words_and_those_of_train():
    assert split(Some, ["name=a", "scale=small", "seed=3", "sure=true"]) == (
        Some(name="a", sure=True),
        ["scale=small", "seed=3"],
    )
