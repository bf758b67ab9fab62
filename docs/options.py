"""Write docs/options.md: every option of every group, from the comments in conf/ and beside the fields of the schema.

Run ``python docs/options.py`` after changing either; a test compares the page with what this writes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import yaml

from bam_lightning.config.compose import conf_dir
from bam_lightning.config.escaping import markdown
from bam_lightning.config.job_config import Config

PAGE = Path(__file__).with_name("options.md")
HEADER = """# All options

<!-- Written by docs/options.py from the comments in conf/ and the schema. Change those, and run it again. -->

`NAME=VALUE` on the command line sets an option, with dots for its levels: `optimization.multi.batch_size=64`.
`GROUP=CHOICE` takes a whole file of `conf/GROUP/`; a `+` in front adds a group that is off by default.
`python -m bam_lightning.train --cfg job` shows the result.
"""
# group -> prefix of its options; None: its files set options of other groups
GROUPS = {
    "experiment": None,
    "scale": None,
    "fidelity": None,
    "recipe": "recipe.",
    "suite": "suite.",
    "task": "suite.tasks.NAME.",
    "head": "suite.tasks.NAME.head.",
    "data": "data.",
    "encoder": "encoder.",
    "optimization": "optimization.",
    "sampler": "sampler.",
    "distillation": "distillation.",
    "trainer": "trainer.",
    "run": "run.",
    "logger": "logger.",
    "paths": "paths.",
    "table": None,
    "debug": None,
    "tune": None,
}
FIRST = {  # the choices whose values are the defaults
    "optimization": "paper",
    "encoder": "demo",
    "sampler": "size_proportional",
    "distillation": "annealed",
    "trainer": "auto",
}
LONGEST = 60  # characters of a value


class Option(NamedTuple):
    """An option: its name with dots, its default as text, what it means."""

    name: str
    value: str
    meaning: str


def yaml_options(path: Path) -> Iterator[Option]:
    """Yield the options of a file, each with the comment on its line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()

    def walk(node: Any, prefix: str) -> Iterator[Option]:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if key.value in ("defaults", "hydra") or key.value == "name":
                continue
            if (
                isinstance(value, yaml.MappingNode)
                and value.value
                and "_target_" not in [k.value for k, _ in value.value]
            ):
                yield from walk(value, f"{name}.")
                continue
            _, _, comment = lines[value.end_mark.line - bool(value.end_mark.column == 0)].partition("  # ")
            if not comment:
                _, _, comment = lines[key.start_mark.line].partition("  # ")
            if key.value == "_target_":
                comment = comment or "the class"
            shown = text[value.start_mark.index : value.end_mark.index].strip()
            yield Option(name, " ".join(shown.split()), comment.strip())

    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from walk(root, "")


def headline(path: Path) -> str:
    """Return the comment at the top of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def schema_options(kind: type = Config, prefix: str = "") -> Iterator[Option]:
    """Yield every option of the schema, with the comment beside its field; a dictionary's keys are NAME."""
    comments = field_comments(kind)
    hints = get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        hint = hints[entry.name]
        inner = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
        if inner is not None and get_args(hint)[:1] != (str,):
            yield from schema_options(inner, f"{prefix}{entry.name}.")
        elif inner is not None:
            yield from schema_options(inner, f"{prefix}{entry.name}.NAME.")
        else:
            yield Option(f"{prefix}{entry.name}", _default(entry), comments.get(entry.name, ""))


def field_comments(kind: type) -> dict[str, str]:
    """Return field -> the comment on its line, of a dataclass and those it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        for line in textwrap.dedent(inspect.getsource(base)).splitlines():
            match = re.fullmatch(r"    (\w+): [^#]*?  # (.*)", line)
            if match:
                found[match[1]] = match[2]
    return found


def _default(entry: dataclasses.Field) -> str:
    if entry.default_factory is not dataclasses.MISSING:
        value = entry.default_factory()
        return {"[]": "[]", "{}": "{}"}.get(str(value), "")
    value = getattr(entry.default, "value", entry.default)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "" if value == "???" else str(value)


def collect() -> dict[str, list[Option]]:
    """Return group -> its options, those of the schema that no file sets included."""
    found: dict[str, dict[str, Option]] = {group: {} for group in ("", *GROUPS)}
    for option in yaml_options(conf_dir() / "train.yaml"):
        found[""][option.name] = option
    for group, prefix in GROUPS.items():
        if prefix is None:
            continue
        files = sorted((conf_dir() / group).glob("*.yaml"), key=lambda path: (path.stem != FIRST.get(group), path.stem))
        for path in files:
            for option in yaml_options(path):
                name = prefix + re.sub(r"^stages\.\w+\.", "stages.NAME.", option.name)
                if name.startswith("recipe.stages.") and "NAME" not in name:
                    continue
                if group in ("suite", "task") and ".task_groups." in name:
                    name = f"{prefix}task_groups"
                if group == "encoder" and ".model_config." in name:
                    name = f"{prefix}model_config"
                    option = option._replace(value="{}")
                if group == "task" and ".head." in name:
                    continue
                if name.endswith(".head._target_"):
                    option = option._replace(value="", meaning="the class, which each of these choices sets")
                before = found[group].get(name)
                if before is None and path.stem != FIRST.get(group, path.stem) and option.value != "null":
                    option = option._replace(meaning=f"{option.meaning} (the value of {path.stem})")
                if before is None or (not before.meaning and option.meaning):
                    value = before.value if before else option.value
                    found[group][name] = Option(name, value, option.meaning)
    for option in schema_options():
        group = _group_of(option.name)
        if option.name.rpartition(".")[2] in ("name", "extra", "_target_") or option.name == "trainer":
            continue
        if option.name.startswith("recipe.stages.NAME.encoder."):
            continue  # those of the group encoder
        before = found[group].get(option.name)
        if before is None or not before.meaning:
            known = before.value if before and group not in ("task", "head", "recipe") else option.value
            found[group][option.name] = Option(option.name, known, option.meaning)
        elif group in ("task", "head", "recipe"):  # a task's own values are no defaults, and its comments are its own
            found[group][option.name] = Option(option.name, option.value, option.meaning or before.meaning)
    return {group: list(options.values()) for group, options in found.items()}


def _group_of(name: str) -> str:
    groups = [group for group, prefix in GROUPS.items() if prefix and name.startswith(prefix)]
    return max(groups, key=lambda group: len(GROUPS[group] or ""), default="")


def page() -> str:
    """Return the text of docs/options.md."""
    options = collect()
    parts = [HEADER, "## Single values\n\n" + _table(options[""])]
    for group in GROUPS:
        parts.append(f"## `{group}`\n")
        files = sorted((conf_dir() / group).glob("*.yaml"))
        if len(files) > 1 or GROUPS[group] is None:
            rows = [f"| `{path.stem}` | {markdown(headline(path))} |" for path in files]
            parts.append("\n".join(["| choice | |", "|---|---|", *rows, ""]))
        if options[group]:
            parts.append(_table(options[group]))
    return "\n".join(parts).rstrip() + "\n"


def _table(options: list[Option]) -> str:
    rows = [f"| `{option.name}` | {_code(option.value)} | {markdown(option.meaning)} |" for option in options]
    return "\n".join(["| option | default | |", "|---|---|---|", *rows, ""])


def _code(value: str) -> str:
    return f"`{value}`" if 0 < len(value) <= LONGEST and "|" not in value else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
