"""No option is read by nobody: every field of the schema is used outside the config rooms."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import bam_lightning
from bam_lightning.config.compose import conf_dir
from bam_lightning.config.data_config import SuiteConfig
from bam_lightning.config.job_config import Config

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
