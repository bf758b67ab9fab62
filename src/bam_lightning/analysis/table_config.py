"""What a table is: its rows, what they are compared with, and how; ``conf/table/`` or a YAML file of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.validation import check_choice, suggest
from bam_lightning.metrics.significance import TESTS

PAPER_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")  # of the paper's average


@dataclass
class TableConfig:
    """One table.

    ``rows`` maps an experiment to its label. ``against`` maps an experiment to those it is tested against:
    ``jointly``, one p value for an improvement over all of them (the largest), or each by itself; in the columns
    ``tested`` (empty: all). ``marks`` stand at rows that are ``better``, or at all that are ``different``.
    ``columns`` are tasks (empty: all that every row has); ``without`` lists tasks for an average without them.
    ``paper`` maps an experiment to the paper's numbers, column by column; they are shown where ``scale`` is paper.
    """

    title: str = ""
    rows: dict[str, str] = field(default_factory=dict)
    against: dict[str, list[str]] = field(default_factory=dict)
    jointly: bool = False
    test: str = "bootstrap"
    tested: list[str] = field(default_factory=list)
    marks: str = "better"
    columns: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""

    def check(self, name: str) -> None:
        """Raise ``ConfigError`` for a table without rows, an unknown test, or a comparison with no row."""
        if not self.rows:
            raise ConfigError(f"table {name}: rows is empty; give at least one, as in rows: {{single: Single}}")
        check_choice(f"table {name}: test", self.test, TESTS)
        check_choice(f"table {name}: marks", self.marks, ("better", "different"))
        for row, others in self.against.items():
            if not others:
                raise ConfigError(f"table {name}: against.{row} is empty; name the rows to test against, or remove it")
            for one in (row, *others):
                check_choice(f"table {name}: against", one, self.rows)
            if row in others:
                raise ConfigError(f"table {name}: against compares row {row!r} with itself")
        for row in self.paper:
            check_choice(f"table {name}: paper", row, self.rows)


def load_table(name: str, folder: Path) -> TableConfig:
    """Return a table by its name in ``folder``, or from a YAML file.

    Raises:
        ConfigError: if there is no such table, or a value in it is wrong, naming the key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(one.stem for one in folder.glob("*.yaml"))
        raise ConfigError(f"no table {name!r}; tables: {', '.join(known)}, or a YAML file{suggest(name, known)}")
    try:
        tree: Any = OmegaConf.merge(OmegaConf.structured(TableConfig), OmegaConf.load(path))
        table = OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(
            f"{path}{line}: {str(error).splitlines()[0]}; for the form see {folder}/table1.yaml"
        ) from error
    assert isinstance(table, TableConfig)
    table.check(path.stem)
    return table
